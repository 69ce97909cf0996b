"""Kernels whose figures are known beforehand: a plug-in file, loaded by its path like anybody's.

What a kernel here lasts, allocates or gets wrong is fixed by its options and by the constants of this module,
not by anything that the harness measures. Those of durations and memory are meant for a single key: attention
returns v then, so that their answers are right and cost nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any

from attnbench import AttentionInputs, Implementation, Workload, attention

__all__ = [
    "BACKWARD_GROWTH",
    "KEPT_SHARE",
    "KNOWN_MAX_ABS",
    "KNOWN_REL_L2",
    "SCHEDULE",
    "peak_bytes",
]

MIB = 1024 * 1024

Kernel = Callable[[AttentionInputs], Any]
Allocate = Callable[[int], Any]
Options = Mapping[str, Any]

# Durations -----------------------------------------------------------------------------------------------

#: How long the kernel spins while its overhead is found, how many calls make a batch, and how many batches
#: there are, of which the fastest counts.
TRIAL_NS = 10_000
TRIAL_CALLS = 50
TRIAL_BATCHES = 12


def _raw_ns() -> int:
    """The hardware's counter as it runs; the harness reads one that is slewed to keep the time of day."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def _needs_raw_clock(device: str) -> str | None:
    del device
    if hasattr(time, "CLOCK_MONOTONIC_RAW"):
        return None
    return "there is no CLOCK_MONOTONIC_RAW on this system: no clock to be held against the harness's"


def _spinning(lasting_ns: int, copied: Callable[[Any], Any]) -> Kernel:
    """A kernel that copies v by its framework's `copied`, then spins until `lasting_ns` after it began."""

    def kernel(inputs: AttentionInputs) -> Any:
        until = _raw_ns() + lasting_ns
        output = copied(inputs.v)
        while _raw_ns() < until:
            pass
        return output

    return kernel


def _overhead_ns(v: Any, copied: Callable[[Any], Any]) -> int:
    """By how much a call of a spinning kernel lasts longer than it spins, in a bare loop, at the least."""
    inputs = AttentionInputs(q=v, k=v, v=v, mask=None, scale=1.0)  # type: ignore[arg-type]  # nobody looks at it
    kernel = _spinning(TRIAL_NS, copied)
    batches = []
    for _ in range(TRIAL_BATCHES):
        calls = repeat(None, TRIAL_CALLS)
        began = _raw_ns()
        for _ in calls:
            kernel(inputs)
        batches.append(_raw_ns() - began)
    return min(batches) // TRIAL_CALLS - TRIAL_NS


def _lasting(options: Options, v: Any, copied: Callable[[Any], Any]) -> Kernel:
    return _spinning(round(options["microseconds"] * 1000) - _overhead_ns(v, copied), copied)


def _load_numpy_duration(workload: Workload, options: Options) -> Kernel:
    import numpy as np

    v = np.zeros((1, 1, 1, workload.shape.v_head_dim), dtype=workload.dtype)
    return _lasting(options, v, np.ndarray.copy)


def _load_torch_duration(workload: Workload, options: Options) -> Kernel:
    import torch

    v = torch.zeros((1, 1, 1, workload.shape.v_head_dim), dtype=getattr(torch, workload.dtype))
    return _lasting(options, v, torch.Tensor.clone)


DURATION, TORCH_DURATION = (
    Implementation(
        name=name,
        operation="attention",
        framework=framework,
        summary="lasts `microseconds` of CLOCK_MONOTONIC_RAW a call, in a bare loop of calls",
        options={"microseconds": 100},
        available=_needs_raw_clock,
        load=load,
    )
    for name, framework, load in (
        ("truth_duration", "numpy", _load_numpy_duration),
        ("truth_torch_duration", "torch", _load_torch_duration),
    )
)


@attention("truth_cuda_duration", devices={"cuda"}, options={"cycles": 4_000_000})
def cuda_duration(q: Any, k: Any, v: Any, *, mask: Any, scale: float, cycles: int) -> Any:
    """Spins for `cycles` cycles of the multiprocessors' clock, then copies v."""
    from torch import cuda

    cuda._sleep(cycles)  # type: ignore[no-untyped-call]  # torch's own tests time by it; it has no public name
    return v.clone()


# Memory --------------------------------------------------------------------------------------------------

#: What is held from when on, as shares of `mib` MiB; 0 frees the block of that name. The peak (b and c) is
#: neither the largest block, nor the sum of all, nor what is held in the end.
SCHEDULE = (("a", 1.0), ("b", 0.5), ("a", 0.0), ("c", 1.25), ("b", 0.0), ("d", 0.25))

#: A backward follows the schedule with blocks so many times as large: the peak of both passes lies in it.
BACKWARD_GROWTH = 1.5

#: What torch's forward keeps for the backward, beside: it is held all the while.
KEPT_SHARE = 0.5


def peak_bytes(mib: float) -> int:
    """The most that `SCHEDULE` holds at a time."""
    held: dict[str, float] = {}
    peak = 0.0
    for name, share in SCHEDULE:
        held[name] = share
        peak = max(peak, sum(held.values()))
    return int(peak * mib * MIB)


def _follow_schedule(allocate: Allocate, mib: float) -> None:
    """Hold and free what `SCHEDULE` says; `allocate(size)` returns `size` bytes, every page written."""
    held: dict[str, Any] = {}
    for name, share in SCHEDULE:
        held.pop(name, None)
        if share:
            held[name] = allocate(int(share * mib * MIB))


def _torch_ones(device: Any) -> Allocate:
    import torch

    return lambda size: torch.ones(size, dtype=torch.uint8, device=device)


def _numpy_ones(size: int) -> Any:
    import numpy as np

    return np.ones(size, dtype=np.uint8)


def _load_torch_memory(workload: Workload, options: Options) -> Kernel:
    import torch

    mib = options["mib"]

    class Known(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Any, k: Any, v: Any) -> Any:
            allocate = _torch_ones(v.device)
            ctx.kept = allocate(int(KEPT_SHARE * mib * MIB))
            _follow_schedule(allocate, mib)
            return v.clone()

        @staticmethod
        def backward(ctx: Any, grad_out: Any) -> Any:
            _follow_schedule(_torch_ones(grad_out.device), BACKWARD_GROWTH * mib)
            return torch.zeros_like(grad_out), torch.zeros_like(grad_out), grad_out.clone()

    def with_gradients(inputs: AttentionInputs) -> Any:
        return Known.apply(inputs.q, inputs.k, inputs.v)  # type: ignore[no-untyped-call]  # torch left it untyped

    def forward_alone(inputs: AttentionInputs) -> Any:
        _follow_schedule(_torch_ones(inputs.v.device), mib)
        return inputs.v.clone()

    return forward_alone if workload.pass_ == "forward" else with_gradients


def _load_numpy_memory(workload: Workload, options: Options) -> Kernel:
    del workload

    def kernel(inputs: AttentionInputs) -> Any:
        _follow_schedule(_numpy_ones, options["mib"])
        return inputs.v.copy()

    return kernel


def _load_numpy_backward(workload: Workload, options: Options) -> Callable[[Any, Any, Any], tuple[Any, ...]]:
    del workload

    def backward(inputs: AttentionInputs, output: Any, grad_out: Any) -> tuple[Any, ...]:
        del output
        _follow_schedule(_numpy_ones, BACKWARD_GROWTH * options["mib"])
        return 0 * inputs.q, 0 * inputs.k, grad_out.copy()

    return backward


TORCH_MEMORY = Implementation(
    name="truth_torch_memory",
    operation="attention",
    framework="torch",
    summary="holds known blocks of torch's memory, in a forward and, larger ones, in its backward",
    options={"mib": 32},
    load=_load_torch_memory,
)

NUMPY_MEMORY = Implementation(
    name="truth_numpy_memory",
    operation="attention",
    framework="numpy",
    summary="holds known blocks of NumPy's memory, in a forward and, larger ones, in its backward",
    options={"mib": 32},
    load=_load_numpy_memory,
    load_backward=_load_numpy_backward,
)


@attention("truth_foreign_memory", devices={"cpu"}, options={"mib": 48})
def foreign_memory(q: Any, k: Any, v: Any, *, mask: Any, scale: float, mib: int) -> Any:
    """Holds `mib` MiB of memory that is not torch's, in a thread that is not torch's."""
    thread = threading.Thread(target=_numpy_ones, args=(mib * MIB,))
    thread.start()
    thread.join()
    return v.clone()


#: What the kernel below holds from its first call on.
_workspace: list[Any] = []


@attention("truth_kept_memory", devices={"cpu"}, options={"mib": 16})
def kept_memory(q: Any, k: Any, v: Any, *, mask: Any, scale: float, mib: int) -> Any:
    """Allocates `mib` MiB in its first call and keeps them: no later call allocates more than its output."""
    if not _workspace:
        _workspace.append(_torch_ones(v.device)(mib * MIB))
    return v.clone()


# Numerical error -----------------------------------------------------------------------------------------

#: The errors of `truth_wrong`: ‖o − reference‖ / ‖reference‖, and the largest of |o − reference|.
KNOWN_REL_L2 = 0.01
KNOWN_MAX_ABS = 0.03


def _in_float64(q: Any, k: Any, v: Any, scale: float) -> Any:
    """softmax(q·kᵀ·scale)·v in float64 `[B, H, Lq, Dv]`."""
    scores = q.double() @ k.double().transpose(-2, -1) * scale
    return scores.softmax(dim=-1) @ v.double()


@attention("truth_exact")
def exact(q: Any, k: Any, v: Any, *, mask: Any, scale: float) -> Any:
    """The textbook algorithm in float64, rounded once."""
    return _in_float64(q, k, v, scale).to(q.dtype)


@attention("truth_wrong")
def wrong(q: Any, k: Any, v: Any, *, mask: Any, scale: float) -> Any:
    """The same, with errors added whose L2 norm and maximum are known."""
    output = _in_float64(q, k, v, scale)
    squares = (KNOWN_REL_L2 * output.norm()) ** 2
    # One number has the largest error, all others share what is left of the squares.
    others = ((squares - KNOWN_MAX_ABS**2) / (output.numel() - 1)).sqrt()
    errors = others.expand(output.numel()).clone()
    errors[0] = KNOWN_MAX_ABS
    errors[1::2].neg_()
    return (output + errors.view_as(output)).to(q.dtype)


# A pair of equals ----------------------------------------------------------------------------------------


def _load_textbook(workload: Workload, options: Options) -> Kernel:
    del workload, options
    import torch

    def kernel(inputs: AttentionInputs) -> Any:
        scores = inputs.q @ inputs.k.transpose(-2, -1) * inputs.scale
        return torch.softmax(scores, dim=-1) @ inputs.v

    return kernel


ONE, OTHER = (
    Implementation(
        name=name,
        operation="attention",
        framework="torch",
        summary="softmax(QKᵀ/√d)·V, the very kernel that the other one is",
        load=_load_textbook,
    )
    for name in ("truth_one", "truth_other")
)
