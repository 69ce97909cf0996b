"""torch's process-wide settings, kept as they were: what one kernel changes must not slow another down."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ["TorchSettings"]

_Setting = tuple[Callable[[], Any], Callable[[Any], Any]]

#: What cuBLAS may do to be faster: where it may round in between, and how far.
_OF_MATMUL = (
    "fp32_precision",
    "allow_fp16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction",
    "allow_fp16_accumulation",
)


def _settings() -> list[_Setting]:
    """How each setting is read and written."""
    import torch
    from torch.backends import cuda

    def deterministic() -> tuple[bool, bool]:
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )

    def set_default_device(was: Any) -> None:
        # The CPU, named as the default, would slow every creation of a tensor down.
        torch.set_default_device(None if was == torch.device("cpu") else was)

    switches = [
        (getattr(cuda, f"{name}_sdp_enabled"), getattr(cuda, f"enable_{name}_sdp"))
        for name in ("flash", "mem_efficient", "math", "cudnn")
        if hasattr(cuda, f"enable_{name}_sdp")
    ]
    # The precision by backend, of torch 2.9 and later: the general one sets the others, so it comes first.
    attributes = [
        (torch.backends, "fp32_precision"),
        *((cuda.matmul, name) for name in _OF_MATMUL),
        (getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision"),
    ]
    return [
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_default_device, set_default_device),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        (deterministic, lambda was: torch.use_deterministic_algorithms(was[0], warn_only=was[1])),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        *(
            (partial(getattr, holder, name), partial(setattr, holder, name))
            for holder, name in attributes
            if hasattr(holder, name)
        ),
        *switches,
        *_place(),
    ]


def _place() -> list[_Setting]:
    """Which GPU, and which of its streams, work goes to, in a process that uses any."""
    from torch import cuda

    if not cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch left it so
        return []
    return [(cuda.current_device, cuda.set_device), (cuda.current_stream, cuda.set_stream)]


class TorchSettings:
    """The settings at the time of construction.

    Threads, default dtype and device, precision, determinism, anomaly detection, backends; of a process that
    uses a GPU also the device and the stream that work goes to.
    """

    def __init__(self) -> None:
        self._kept = [(read, write, read()) for read, write in _settings()]

    def restore(self) -> None:
        """Set back whatever has changed since; microseconds when nothing has."""
        for read, write, value in self._kept:
            if _read(read) != value:
                write(value)


def _read(read: Callable[[], Any]) -> Any:
    """A setting; None, which none is, where torch will not tell.

    It refuses to where the precision was set by backend and so disagrees with the general one.
    """
    try:
        return read()
    except RuntimeError:
        return None
