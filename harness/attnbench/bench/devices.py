"""Which devices torch can use here. Asking may touch a GPU, so a zygote asks in a child of its own.

`python -m attnbench.bench.devices` prints `probe()` as JSON.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["HOW_TO_GET", "cpu_name", "cuda_uuid", "probe", "use", "waiting_for", "why_unavailable"]

#: How to come by a device of each kind that was looked for and not found.
HOW_TO_GET = {
    "cuda": "needs an NVIDIA GPU with its driver, and a PyTorch built for CUDA",
    "mps": "needs a Mac with Apple silicon, and a PyTorch built with MPS",
    "xpu": "needs an Intel GPU with its driver, and a PyTorch built for XPU",
}


def probe() -> dict[str, list[dict[str, Any]]]:
    """The devices of each kind: `{"cpu": [{"device": "cpu", "name": "…"}], "cuda": [], …}`."""
    import torch

    found: dict[str, list[dict[str, Any]]] = {"cpu": [{"device": "cpu", "name": cpu_name()}]}
    found["cuda"] = [_cuda_device(index) for index in range(torch.cuda.device_count())]
    mps = torch.backends.mps.is_available()
    found["mps"] = [{"device": "mps", "name": cpu_name()}] if mps else []
    found["xpu"] = [
        {"device": f"xpu:{index}", "name": torch.xpu.get_device_name(index)}
        for index in range(torch.xpu.device_count())
    ]
    return found


def why_unavailable(device: str) -> str | None:
    """Why `device` (`cpu`, `cuda`, `cuda:1`, …) cannot be used in this process, or None."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return None
    devices = probe().get(kind, [])
    index = int(number) if number.isdigit() else 0
    if index < len(devices):
        return None
    how = "" if devices else f"; it {HOW_TO_GET.get(kind, 'is no kind of device that is known')}"
    return f"there is no device {device} here: torch finds {len(devices) or 'no'} {kind} device(s){how}"


def use(device: str) -> None:
    """Make the GPU `device` the one that kernels are launched on; nothing for a CPU.

    torch's own operations go to where their tensors are, those of other compilers (Triton, CUDA) to the
    current device, whatever their tensors say.
    """
    kind, _, number = device.partition(":")
    if kind == "cuda":
        from torch import cuda

        cuda.set_device(int(number or 0))


def waiting_for(device: str) -> Callable[[], object] | None:
    """What waits until `device` has done all that was launched; None for a CPU, which needs no waiting."""
    kind = device.split(":")[0]
    if kind == "cpu":
        return None
    import torch

    if kind == "mps":
        return torch.mps.synchronize
    return partial({"cuda": torch.cuda, "xpu": torch.xpu}[kind].synchronize, device)


def cuda_uuid(device: str) -> str | None:
    """The GPU's UUID as nvidia-smi has it, `GPU-…`; None where this torch does not tell."""
    import torch

    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if uuid is None else f"GPU-{uuid}"


def cpu_name() -> str:
    """The CPU's model, as the system calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cuda_device(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "device": f"cuda:{index}",
        "name": properties.name,
        "uuid": cuda_uuid(f"cuda:{index}"),
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe()))
