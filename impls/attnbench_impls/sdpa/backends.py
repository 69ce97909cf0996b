"""SDPA's backends: what they are called, pinning one of them, and which machines have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["BACKENDS", "Pinned", "cudnn_available", "needs_cuda"]

#: The backends that can be switched, as `torch.backends.cuda` calls them (the switches rule the CPU too), and
#: what torch calls them where it says which one it chose.
BACKENDS: Mapping[str, str] = {
    "flash": "flash_attention",
    "mem_efficient": "efficient_attention",
    "math": "math",
    "cudnn": "cudnn_attention",
}


class Pinned:
    """A context in which torch may use one backend only, and raises rather than falling back to another.

    `torch.nn.attention.sdpa_kernel` does the same in about 10 µs, twice what a small call takes; with the
    public switches it is below 1 µs, which is what the pinned implementations' times include.
    """

    def __init__(self, backend: str) -> None:
        from torch.backends import cuda

        others = [name for name in BACKENDS if name != backend]
        self._enable = getattr(cuda, f"enable_{backend}_sdp")
        self._is_enabled = getattr(cuda, f"{backend}_sdp_enabled")
        self._others = [
            (getattr(cuda, f"enable_{name}_sdp"), getattr(cuda, f"{name}_sdp_enabled")) for name in others
        ]
        self._before: list[tuple[Callable[[bool], None], bool]] = []

    def __enter__(self) -> None:
        self._before = [(enable, is_enabled()) for enable, is_enabled in self._others]
        self._before.append((self._enable, self._is_enabled()))
        for enable, _ in self._others:
            enable(False)
        self._enable(True)

    def __exit__(self, *exception: object) -> None:
        for enable, was in self._before:
            enable(was)


def needs_cuda(backend: str) -> Callable[[str], str | None]:
    """The `available` of a backend that is nothing but CUDA kernels."""

    def available(device: str) -> str | None:
        if device.split(":")[0] == "cuda":
            return None
        return (
            f"torch's {BACKENDS[backend]} backend is made of CUDA kernels: "
            "run it on an NVIDIA GPU, with a CUDA build of torch (--device cuda)"
        )

    return available


def cudnn_available(device: str) -> str | None:
    """The `available` of cuDNN's backend, which needs the library beside CUDA."""
    from torch.backends import cudnn

    missing = needs_cuda("cudnn")(device)
    if missing is None and not cudnn.is_available():  # type: ignore[no-untyped-call]  # torch left it untyped
        return "torch finds no cuDNN: install a build of torch that brings it"
    return missing
