"""Records as a sweep would leave them, built without measuring anything; deterministic.

`make_record()` is one case, `make_block()` one block sampled side by side, `make_records()` a small sweep
with every kind of row in it, `make_header()` what a run.json carries. Fields can be overridden by name.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

from attnbench.case import Case, Option, Variant
from attnbench.masks import Mask
from attnbench.protocol import AccuracyReply, ImplementationInfo, MemoryReply
from attnbench.record import ProcessSamples, Record
from attnbench.workload import SHAPES, AttentionShape, Workload

__all__ = [
    "make_accuracy",
    "make_block",
    "make_header",
    "make_info",
    "make_memory",
    "make_record",
    "make_records",
]

WORKLOAD_FIELDS = ("mask", "dtype", "pass_", "inputs")

#: The axes that an operation's shape has unless others are given.
USUAL_AXES: Mapping[str, Mapping[str, Any]] = {
    "attention": {"seq_len": 512, "heads": 8, "head_dim": 64},
    "positional_encoding": {"seq_len": 512, "embed_dim": 512},
}
USUAL_OF_MODULES = {"seq_len": 512, "embed_dim": 512, "heads": 8}


def make_info(name: str, options: Mapping[str, Option] | None = None, **overrides: Any) -> ImplementationInfo:
    info: ImplementationInfo = {
        "name": name,
        "operation": "attention",
        "framework": "torch",
        "summary": f"{name}, made up",
        "memory": "O(1)",
        "flops": "O(1)",
        "source": "",
        "compiles": False,
        "precision": "",
        "options": dict(options or {}),
        "origin": "here",
        "file": None,
    }
    return info | overrides  # type: ignore[return-value]


def make_memory(peak_alloc_bytes: int = 4 << 20) -> MemoryReply:
    return {
        "peak_alloc_bytes": peak_alloc_bytes,
        "peak_alloc_partial": None,
        "peak_rss_bytes": peak_alloc_bytes + (1 << 16),
        "peak_rss_is_lower_bound": False,
    }


def make_accuracy(accuracy: str = "pass", error_ratio: float = 0.4, **overrides: Any) -> AccuracyReply:
    reply: AccuracyReply = {
        "accuracy": accuracy,
        "reason": None if accuracy == "pass" else "o: the largest error is 12 times its bound",
        "error_max_abs": 4e-7 * error_ratio,
        "error_rel_l2": 2e-7 * error_ratio,
        "error_rmse": 3e-8 * error_ratio,
        "error_floor": 3e-8,
        "error_yardstick": 2.5e-7,
        "error_ratio": error_ratio,
        "bitwise_repeatable": True,
        "error_dq_max_abs": None,
        "error_dk_max_abs": None,
        "error_dv_max_abs": None,
    }
    return {**reply, **overrides}  # type: ignore[typeddict-item]  # overrides are given by field name


def make_record(
    implementation: str = "naive",
    *,
    latency_s: float = 1e-3,
    processes: int = 5,
    rounds: int = 12,
    options: Mapping[str, Option] | None = None,
    device: str = "cpu",
    status: str = "ok",
    anchor: str | None = "naive",
    seed: int = 0,
    operation: str = "attention",
    **overrides: Any,
) -> Record:
    """One case's record.

    `latency_s` is the true time of one call, of which every process sees its own (spread 3%) and every
    sample is a noisy draw (spread 5%); equal rounds of one block share their drift. `anchor` is an
    implementation (without options) or None. Axes of the operation's shape and fields of the workload can be
    given by name, and so can every other field of `Record`; a status other than ok leaves out what was not
    measured.
    """
    axes = dict(USUAL_AXES.get(operation, USUAL_OF_MODULES))
    given = {axis: overrides.pop(axis) for axis in SHAPES[operation].AXES if axis in overrides}
    if "q_len" in given or "kv_len" in given:
        del axes["seq_len"]
    of_workload = {name: overrides.pop(name) for name in WORKLOAD_FIELDS if name in overrides}
    workload = Workload(operation, SHAPES[operation].from_axes({**axes, **given}), **of_workload)
    workload = overrides.pop("workload", workload)
    case = Case(Variant.of(implementation, options), workload, device)
    anchor_case = None if anchor is None else Case(Variant.of(anchor), workload, device)
    fields: dict[str, Any] = {
        "scenario": "example",
        "case_id": case.case_id,
        "block_id": case.block_id,
        "implementation": implementation,
        "options": dict(options or {}),
        "workload": workload,
        "device": device,
        "seed": seed,
        "status": status,
        "started_at": "2026-01-02T03:04:05Z",
        "duration_s": 1.5,
        "framework": "numpy" if implementation.startswith("numpy") else "torch",
        "anchor": anchor_case.case_id if anchor_case else None,
    }
    if status == "ok":
        calls = max(1, math.ceil(1e-3 / latency_s))
        fields |= {
            "device_name": "AMD EPYC" if device == "cpu" else "NVIDIA H100",
            "first_call_s": 5 * latency_s,
            "output_bytes": sum(map(math.prod, workload.results().values())) * workload.itemsize,
            "processes": tuple(
                _samples(case, latency_s, calls, process, rounds, seed) for process in range(processes)
            ),
            "converged": True,
            "memory": make_memory(),
            "accuracy": make_accuracy(),
        }
    else:
        fields |= {"reason": f"made to be {status}"}
    return Record(**{**fields, **overrides})


def _samples(
    case: Case, latency_s: float, calls: int, process: int, rounds: int, seed: int
) -> ProcessSamples:
    """One process' samples: an offset of the process, a drift by round that all cases share, and noise."""
    shared = random.Random(f"{case.block_id} {process} {seed}")
    drift = [shared.gauss(0, 0.04) for _ in range(rounds)]
    own = random.Random(f"{case.case_id} {process} {seed}")
    offset = own.gauss(0, 0.03)
    elapsed = tuple(
        calls * latency_s * math.exp(offset + drift[i] + own.gauss(0, 0.02)) for i in range(rounds)
    )
    return ProcessSamples(
        start="forked",
        calls=calls,
        rounds=tuple(range(rounds)),
        elapsed_s=elapsed,
        cpu_s=tuple(1.9 * value for value in elapsed),
        launch_s=None if case.device == "cpu" else tuple(0.1 * value for value in elapsed),
    )


def make_block(latencies_s: Mapping[str, float] | None = None, **overrides: Any) -> list[Record]:
    """One block: a record per implementation and its true time, sampled side by side."""
    latencies_s = latencies_s or {"naive": 2e-3, "chunked": 1.6e-3, "sdpa": 8e-4}
    return [
        make_record(implementation, latency_s=latency_s, **overrides)
        for implementation, latency_s in latencies_s.items()
    ]


def make_records() -> list[Record]:
    """A small sweep: four lengths × two masks × five implementations, with every status and verdict in it."""
    records: list[Record] = []
    for mask in ("none", "causal"):
        for seq_len in (128, 512, 1024, 2048):
            shape = AttentionShape(1, 8, 8, seq_len, seq_len, 64)
            pairs = Mask(mask, 1, seq_len, seq_len, 0).pairs()
            common: dict[str, Any] = {"mask": mask, "seq_len": seq_len}
            matrix_bytes = 2 * shape.heads * seq_len * seq_len * 4
            textbook = 4e-9 * seq_len * seq_len + 1e-4
            records += [
                make_record("naive", latency_s=textbook, memory=make_memory(matrix_bytes), **common)
                if seq_len < 2048
                else make_record("naive", status="oom", **common),
                make_record("sdpa", latency_s=1.6e-9 * pairs + 6e-5, memory=make_memory(1 << 20), **common),
                make_record("chunked", options={"block": 256}, latency_s=textbook * 0.8, **common),
                make_record(
                    "numpy", latency_s=textbook * 1.7, memory=make_memory(2 * matrix_bytes), **common
                ),
                make_record("flex", status="unsupported", **common),
            ]
    extra: dict[str, Any] = {"seq_len": 512}
    records += [
        make_record("sloppy", latency_s=3e-4, accuracy=make_accuracy("fail", 12.0), **extra),
        make_record("unverified", latency_s=9e-4, accuracy=None, **extra),
        make_record("slow", status="timeout", reason="sample: no answer within 60 s", **extra),
        make_record("crasher", status="crashed", reason="memory: SIGSEGV", **extra),
        make_record("broken", status="error", reason="prepare: ValueError: boom", **extra),
        make_record("sdpa", status="unavailable", reason="no CUDA device", device="cuda", **extra),
    ]
    return records


def make_header(**overrides: Any) -> dict[str, Any]:
    """What a sweep writes into run.json."""
    header: dict[str, Any] = {
        "command": ["attnbench", "sweep", "example"],
        "attnbench": "0.1.0",
        "started_at": "2026-01-02T03:04:05Z",
        "scenarios": [{"name": "example", "path": "scenarios/example.yaml", "text": "name: example\n"}],
        "environment": {"cpu": "AMD EPYC", "cores_logical": 2, "malloc": "pinned", "threads": 2},
    }
    return {**header, **overrides}
