"""Tables made by hand, for tests of what is drawn and said of them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from attnbench.columns import COLUMNS, telling

HEADER: dict[str, Any] = {
    "run_id": "made-by-hand",
    "started_at": "2026-01-02T03:04:05Z",
    "seed": 0,
    "command": ["attnbench", "sweep", "made"],
    "scenarios": [
        {"name": "made", "path": "scenarios/made.yaml", "text": "name: made\noperation: attention\n"}
    ],
    "environment": {
        "cpu": "Imaginary 9000",
        "cores_physical": 2,
        "cores_usable": 4,
        "memory_bytes": 8 << 30,
        "python": "3.12.1",
        "threads": 2,
        "devices": {
            "cpu": [{"device": "cpu", "name": "Imaginary 9000"}],
            "cuda": [{"device": "cuda", "name": "G1"}] * 2,
        },
        "libraries": {"torch": "2.13.0", "numpy": "2.4.0"},
        "malloc": "pinned",
    },
}

NAMES = tuple(column.name for column in COLUMNS)

_FAILED = {
    name: None
    for name in NAMES
    if name.startswith(("latency", "speedup", "peak", "error", "tflops", "gb_per"))
    or name
    in ("cpu_median_s", "samples", "processes", "calls_per_sample", "converged", "first_call_s", "accuracy")
}


def row(
    implementation: str = "naive", length: int = 512, latency: float = 1e-3, **changes: Any
) -> dict[str, Any]:
    """One row of the table; `spread` is the half-width of its interval as a share of the latency.

    Key heads are 8, or as many as the heads where those are given; `v_head_dim` is that of the other features
    unless it is given.
    """
    spread = changes.pop("spread", 0.01)
    values: dict[str, Any] = dict.fromkeys(NAMES)
    values |= {
        "run_id": "made-by-hand",
        "scenario": "made",
        "operation": "attention",
        "implementation": implementation,
        "options": "",
        "framework": "torch",
        "device": "cpu",
        "device_name": "Imaginary 9000",
        "dtype": "float32",
        "pass": "forward",
        "mask": "none",
        "batch": 1,
        "heads": 8,
        "kv_heads": 8,
        "q_len": length,
        "kv_len": length,
        "head_dim": 64,
        "inputs": "normal",
        "seed": 0,
        "status": "ok",
        "latency_median_s": latency,
        "latency_ci_low_s": latency * (1 - spread),
        "latency_ci_high_s": latency * (1 + spread),
        "latency_mean_s": latency,
        "latency_p05_s": latency * 0.97,
        "latency_p95_s": latency * 1.05,
        "latency_min_s": latency * 0.96,
        "latency_mad_s": latency * 0.01,
        "cpu_median_s": latency * 1.9,
        "samples": 40,
        "processes": 5,
        "calls_per_sample": 4,
        "converged": True,
        "first_call_s": latency * 3,
        "flops": 4 * length * length * 512,
        "bytes": 4 * length * 512 * 4,
        "tflops_per_s": 4 * length * length * 512 / latency / 1e12,
        "gb_per_s": 4 * length * 512 * 4 / latency / 1e9,
        "peak_alloc_bytes": length * 2048,
        "peak_rss_bytes": length * 2048 + 100_000,
        "output_bytes": length * 2048,
        "error_max_abs": 4e-7,
        "error_rel_l2": 3e-7,
        "error_rmse": 1e-7,
        "error_floor": 3e-8,
        "error_yardstick": 4e-7,
        "error_ratio": 0.21,
        "accuracy": "pass",
        "bitwise_repeatable": True,
        "discarded_rounds": 0,
        "attempt": 1,
        "started_at": "2026-01-02T03:04:06Z",
        "duration_s": 2.5,
    }
    if changes.get("status", "ok") != "ok":
        values |= _FAILED
    values |= {"kv_heads": changes.get("heads", 8), "v_head_dim": changes.get("head_dim", 64)} | changes
    lengths = (
        f"L{values['q_len']}"
        if values["q_len"] == values["kv_len"]
        else f"Lq{values['q_len']}-Lk{values['kv_len']}"
    )
    values["block_id"] = changes.get("block_id") or (
        f"attention/B{values['batch']}-H{values['heads']}kv{values['kv_heads']}-{lengths}-D{values['head_dim']}"
        f"v{values['v_head_dim']}/"
        f"{values['dtype']}/{values['mask']}/{values['pass']}/{values['inputs']}/{values['device']}"
    )
    options = f"({values['options']})" if values["options"] else ""
    values["case_id"] = changes.get("case_id") or f"{values['block_id']}/{values['implementation']}{options}"
    return values


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    """A table of rows; speed-ups over `naive` are filled in where a block has it and rows do not say."""
    anchors = {
        (each["run_id"], each["scenario"], each["block_id"]): each["latency_median_s"]
        for each in rows
        if each["implementation"] == "naive" and each["status"] == "ok"
    }
    for each in rows:
        anchor = anchors.get((each["run_id"], each["scenario"], each["block_id"]))
        if anchor and each["latency_median_s"] and each["speedup"] is None:
            ratio = anchor / each["latency_median_s"]
            itself = each["implementation"] == "naive"
            wide = 0.0 if itself else 0.01
            each |= {
                "speedup": ratio,
                "speedup_ci_low": ratio * (1 - wide),
                "speedup_ci_high": ratio * (1 + wide),
            }
    columns = (*COLUMNS, *telling(rows))
    return pd.DataFrame(
        {c.name: pd.Series([each.get(c.name) for each in rows], dtype=c.dtype) for c in columns}
    )


#: Seconds per call at length 1, by how time and memory grow in a plausible machine.
_KINDS: dict[str, tuple[str, float, float, float, float]] = {
    # name: options, latency factor, quadratic memory bytes, linear memory bytes, error
    "naive": ("", 1.0, 64.0, 2048.0, 3.1e-7),
    "chunked": ("block=256", 1.15, 0.0, 10_000.0, 3.6e-7),
    "sdpa": ("", 0.35, 0.0, 2600.0, 2.4e-7),
    "sdpa_math": ("", 0.9, 66.0, 4096.0, 3.0e-7),
    "sdpa_flash": ("", 0.352, 0.0, 2600.0, 2.4e-7),
    "numpy": ("", 1.9, 96.0, 2048.0, 4.4e-7),
}


def realistic() -> pd.DataFrame:
    """Six implementations over lengths and masks, single shapes of other kinds, and rows of every failure."""
    rows = []

    def add(length: int, salt: int, **changes: Any) -> None:
        for index, (name, (options, factor, square, linear, error)) in enumerate(_KINDS.items()):
            queries = changes.get("q_len", length)
            wobble = 1 + ((length * 7 + index * 13 + salt * 5) % 11 - 5) / 200
            time = (2e-5 + 3.2e-9 * queries * length * factor + 2e-7 * queries) * wobble
            bf16 = changes.get("dtype") == "bfloat16"
            scale = 2e4 if bf16 else 1.0
            case = row(
                name,
                length,
                time,
                options=options,
                spread=0.008 + 0.002 * ((index + salt) % 4),
                peak_alloc_bytes=int(square * queries * length / 8 + linear * queries),
                peak_rss_bytes=int(square * queries * length / 8 + linear * queries * 1.2 + 300_000),
                error_rel_l2=error * wobble * (length / 128) ** 0.08 * scale,
                error_floor=3e-8 * scale,
                error_yardstick=4.4e-7 * (length / 128) ** 0.1 * scale,
                error_ratio=0.2 + 0.03 * index,
                converged=(index + length // 128) % 5 != 0,
                **{"framework": "numpy" if name == "numpy" else "torch", **changes},
            )
            if name == "numpy" and (bf16 or changes.get("pass")):
                case = row(
                    name,
                    length,
                    status="unsupported",
                    reason=f"numpy does not declare {changes.get('dtype', 'the pass backward')}",
                    **changes,
                )
            if name == "naive" and length == 2048 and changes.get("mask") == "causal":
                case = row(
                    name,
                    length,
                    status="oom",
                    reason="DefaultCPUAllocator: can't allocate 512 MiB; the ceiling is 400 MiB",
                    **changes,
                )
            if name == "sdpa_math" and changes.get("heads"):
                case |= {
                    "accuracy": "fail",
                    "error_rel_l2": 0.12,
                    "error_ratio": 840.0,
                    "reason": "o: max|err| 0.31 exceeds 4.1e-06",
                }
            if name == "sdpa_flash" and bf16:
                case |= {"flagged": True}
            if name == "chunked" and changes.get("q_len") == 1:
                case = row(
                    name,
                    length,
                    status="crashed",
                    reason="killed by signal 11 (SIGSEGV) in sample",
                    options=options,
                    **changes,
                )
            rows.append(case)

    for salt, mask in enumerate(("none", "causal")):
        for length in (128, 256, 512, 1024, 2048):
            add(length, salt, mask=mask)
    add(2048, 3, q_len=1)
    add(512, 4, heads=32, kv_heads=8, head_dim=128, mask="causal")
    add(1024, 5, dtype="bfloat16", mask="causal")
    add(256, 6, **{"pass": "backward"})
    return frame(*rows)
