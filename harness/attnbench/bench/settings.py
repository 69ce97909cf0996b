"""torch's process-wide settings, kept as they were: what one kernel changes must not slow another down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["TorchSettings"]

_Setting = tuple[Callable[[], Any], Callable[[Any], Any]]


def _settings() -> list[_Setting]:
    """How each setting is read and written."""
    import torch
    from torch.backends import cuda

    def deterministic() -> tuple[bool, bool]:
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )

    switches = [
        (getattr(cuda, f"{name}_sdp_enabled"), getattr(cuda, f"enable_{name}_sdp"))
        for name in ("flash", "mem_efficient", "math", "cudnn")
        if hasattr(cuda, f"enable_{name}_sdp")
    ]
    return [
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (deterministic, lambda was: torch.use_deterministic_algorithms(was[0], warn_only=was[1])),
        *switches,
    ]


class TorchSettings:
    """The settings at the time of construction: threads, default dtype, precision, determinism, backends."""

    def __init__(self) -> None:
        self._kept = [(read, write, read()) for read, write in _settings()]

    def restore(self) -> None:
        """Set back whatever has changed since; microseconds when nothing has."""
        for read, write, value in self._kept:
            if read() != value:
                write(value)
