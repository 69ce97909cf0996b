from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import attnbench
from attnbench import stats, store, table
from attnbench.ceilings import Bandwidth, Ceilings, MatrixRate
from attnbench.columns import COLUMNS, document
from attnbench.costs import Costs, costs
from attnbench.errors import RunError
from attnbench.record import ProcessSamples, Record
from attnbench.table import from_records, write_parquet
from attnbench.workload import Workload
from builders import make_accuracy, make_block, make_header, make_memory, make_record, make_records

NAMES = [
    name
    for line in (
        "run_id scenario case_id block_id operation implementation options framework resolved_backend device",
        "device_name dtype pass mask batch heads kv_heads q_len kv_len head_dim inputs seed status reason",
        "latency_median_s latency_ci_low_s latency_ci_high_s latency_mean_s latency_p05_s latency_p95_s",
        "latency_min_s latency_mad_s cpu_median_s launch_median_s samples processes calls_per_sample",
        "converged first_call_s speedup speedup_ci_low speedup_ci_high flops bytes tflops_per_s gb_per_s",
        "roofline_fraction flagged peak_alloc_bytes peak_rss_bytes output_bytes error_max_abs error_rel_l2",
        "error_rmse error_floor error_yardstick error_ratio accuracy bitwise_repeatable error_dq_max_abs",
        "error_dk_max_abs error_dv_max_abs energy_j sm_clock_hz discarded_rounds attempt started_at",
        "duration_s",
    )
    for name in line.split()
]

LATENCIES = [column.name for column in COLUMNS if column.name.startswith("latency_")]
DOCUMENT = Path(__file__).parents[2] / "docs" / "columns.md"


def row(record: Record, *others: Record) -> Any:
    return from_records([record, *others], "run").iloc[0]


def make_run(root: Path, name: str, records: list[Record]) -> Path:
    with store.create(root, name, make_header()) as writer:
        for record in records:
            writer.append(record)
    return root / name


def samples(*per_call_s: float, calls: int = 1, rounds: tuple[int, ...] | None = None) -> ProcessSamples:
    elapsed_s = tuple(value * calls for value in per_call_s)
    numbers = rounds if rounds is not None else tuple(range(len(per_call_s)))
    return ProcessSamples("forked", calls, numbers, elapsed_s, tuple(2 * x for x in elapsed_s))


def test_the_columns_are_those_of_the_design_in_their_order() -> None:
    assert [column.name for column in COLUMNS] == NAMES
    assert list(from_records(make_records(), "run").columns) == NAMES


def test_the_values_features_are_a_column_where_they_are_their_own() -> None:
    same, other = make_record(), make_record()
    other = replace(
        other, workload=replace(other.workload, shape=replace(other.workload.shape, v_head_dim=3))
    )
    assert list(from_records([same], "run").columns) == NAMES
    frame = from_records([same, other], "run")
    assert list(frame.columns) == [*NAMES, "v_head_dim"]
    assert frame["v_head_dim"].tolist() == [same.workload.shape.head_dim, 3]


def test_the_page_of_columns_is_current() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), (
        "docs/columns.md is out of date; write it anew:\n"
        "python -c 'from pathlib import Path; import attnbench.columns; "
        'Path("docs/columns.md").write_text(attnbench.columns.document(), encoding="utf-8")\''
    )


@pytest.mark.parametrize(
    "records", [[], [make_record(status="oom")], make_records()], ids=["none", "oom", "many"]
)
def test_the_types_do_not_depend_on_the_rows(records: list[Record]) -> None:
    frame = from_records(records, "run")
    assert len(frame) == len(records)
    for column in COLUMNS:
        assert frame[column.name].dtype == pd.api.types.pandas_dtype(column.dtype), column.name


def test_every_row_is_its_records() -> None:
    records = make_records()
    frame = from_records(records, "run")
    assert list(frame["case_id"]) == [record.case_id for record in records]
    assert list(frame["status"]) == [record.status for record in records]
    assert set(frame["run_id"]) == {"run"}


def test_what_a_case_is_is_spelled_out() -> None:
    record = make_record(
        "chunked",
        options={"fast": True, "block": 256},
        heads=8,
        kv_heads=2,
        q_len=1,
        kv_len=512,
        batch=3,
        dtype="bfloat16",
        pass_="forward_backward",
        mask="causal",
        inputs="outliers",
        seed=7,
        attempt=2,
        resolved_backend="flash",
    )
    expected = {
        "operation": "attention",
        "implementation": "chunked",
        "options": "block=256, fast=true",
        "framework": "torch",
        "resolved_backend": "flash",
        "device": "cpu",
        "device_name": "AMD EPYC",
        "dtype": "bfloat16",
        "pass": "forward_backward",
        "mask": "causal",
        "batch": 3,
        "heads": 8,
        "kv_heads": 2,
        "q_len": 1,
        "kv_len": 512,
        "head_dim": 64,
        "inputs": "outliers",
        "seed": 7,
        "attempt": 2,
        "started_at": "2026-01-02T03:04:05Z",
        "duration_s": 1.5,
        "discarded_rounds": 0,
    }
    found = row(record)
    assert {name: found[name] for name in expected} == expected


def test_latencies_are_per_call_and_of_all_processes() -> None:
    processes = (samples(1.0, 2.0, 3.0, calls=4), samples(), samples(10.0, 20.0, 30.0, 40.0, calls=2))
    record = replace(make_record(), processes=processes)
    pooled = [1.0, 2.0, 3.0, 10.0, 20.0, 30.0, 40.0]
    found = row(record)
    assert found["latency_median_s"] == 13.5  # of 2 and 25, and not 10, the pooled median
    estimate = stats.hierarchical_interval([pooled[:3], pooled[3:]])
    assert estimate is not None
    assert estimate.interval is not None
    assert found["latency_ci_low_s"] == estimate.interval.low
    assert found["latency_ci_high_s"] == estimate.interval.high
    assert found["latency_mean_s"] == pytest.approx(np.mean(pooled))
    assert found["latency_p05_s"] == pytest.approx(np.percentile(pooled, 5))
    assert found["latency_p95_s"] == pytest.approx(np.percentile(pooled, 95))
    assert found["latency_min_s"] == 1.0
    assert found["latency_mad_s"] == 9.0
    assert found["cpu_median_s"] == 20.0
    assert (found["samples"], found["processes"], found["calls_per_sample"]) == (7, 2, 3)
    assert pd.isna(found["launch_median_s"])


def test_the_launch_time_is_that_of_devices() -> None:
    record = make_record("sdpa", device="cuda", latency_s=2e-3)
    launch_s = [x for process in record.processes for x in process.launch_per_call_s or ()]
    assert row(record)["launch_median_s"] == np.median(launch_s)


def test_too_few_samples_give_a_time_without_interval() -> None:
    found = row(make_record(processes=1, rounds=5))
    assert found["latency_median_s"] > 0
    assert pd.isna(found["latency_ci_low_s"])
    assert pd.isna(found["latency_ci_high_s"])
    assert found["speedup"] == 1.0


def test_a_failed_case_has_no_time_whatever_it_got_to() -> None:
    survivor = make_record("sdpa", processes=2)
    crashed = replace(survivor, status="crashed", reason="sample: SIGSEGV")
    found = row(crashed, make_record(processes=2))
    assert found["samples"] == survivor.samples
    for name in (*LATENCIES, "cpu_median_s", "speedup", "tflops_per_s", "gb_per_s", "converged"):
        assert pd.isna(found[name]), name
    assert found["reason"] == "sample: SIGSEGV"
    assert found["flops"] > 0


def test_the_anchor_is_as_fast_as_itself() -> None:
    frame = from_records(make_block(), "run").set_index("implementation")
    assert list(frame.loc["naive", ["speedup", "speedup_ci_low", "speedup_ci_high"]]) == [1.0, 1.0, 1.0]


def test_speedups_are_formed_by_round_and_process() -> None:
    anchor = replace(make_record(), processes=(samples(1.0, 10.0, 100.0), samples(1.0, 10.0, 100.0)))
    case = replace(make_record("sdpa"), processes=(samples(0.5, 5.0, 50.0), samples(0.25, 2.5, 25.0)))
    found = row(case, anchor)
    assert found["speedup"] == pytest.approx(np.sqrt(2 * 4))
    assert found["speedup_ci_low"] < found["speedup"] < found["speedup_ci_high"]
    shifted = replace(case, processes=(samples(0.5, 5.0, rounds=(1, 2)), samples(9.0, rounds=(7,))))
    assert row(shifted, anchor)["speedup"] == pytest.approx(20.0)
    assert pd.isna(row(shifted, anchor)["speedup_ci_low"])


def test_a_known_ratio_is_found() -> None:
    naive, sdpa = make_block({"naive": 2e-3, "sdpa": 8e-4})
    found = row(sdpa, naive)
    assert found["speedup_ci_low"] < 2.5 < found["speedup_ci_high"]


@pytest.mark.parametrize(
    "others",
    [
        [],
        [make_record(status="oom")],
        [make_record(processes=0)],
        [make_record(attempt=2)],
        [make_record(scenario="other")],
        [make_record(mask="causal")],
    ],
    ids=["absent", "failed", "unsampled", "another attempt", "another scenario", "another block"],
)
def test_without_an_anchor_sampled_beside_it_there_is_no_speedup(others: list[Record]) -> None:
    found = row(make_record("sdpa"), *others)
    assert pd.isna(found["speedup"])
    assert found["latency_median_s"] > 0


def test_an_unsampled_anchor_is_not_as_fast_as_itself() -> None:
    assert pd.isna(row(make_record(processes=0))["speedup"])
    assert pd.isna(row(make_record(anchor=None))["speedup"])


def test_rates_are_the_least_work_at_the_median() -> None:
    record = make_record(mask="causal", pass_="backward", seq_len=256)
    found = row(record)
    least = costs(record.workload, record.seed)
    assert (found["flops"], found["bytes"]) == (least.flops, least.bytes)
    assert found["tflops_per_s"] == pytest.approx(least.flops / found["latency_median_s"] / 1e12)
    assert found["gb_per_s"] == pytest.approx(least.bytes / found["latency_median_s"] / 1e9)


def test_costs_beyond_64_bits_are_not_known() -> None:
    axes: dict[str, Any] = {"q_len": 1, "kv_len": 2**31 - 1, "heads": 2**20, "kv_heads": 1, "head_dim": 2**16}
    found = row(make_record(status="oom", **axes))
    assert pd.isna(found["flops"])
    assert found["bytes"] == 4 * 2 * 2**16 * (2**20 + 2**31 - 1)


def test_the_work_is_counted_once_a_workload_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[Workload, int]] = []

    def counting(workload: Workload, seed: int) -> Costs:
        counted.append((workload, seed))
        return Costs(1000 + seed, 8, 1000, 8)

    monkeypatch.setattr(table, "costs", counting)
    frame = from_records([*make_block(seed=0), *make_block(seed=3)], "run")
    assert counted == [(make_record().workload, 0), (make_record().workload, 3)]
    assert list(frame["flops"]) == [1000] * 3 + [1003] * 3


def test_memory_and_accuracy_are_taken_over() -> None:
    accuracy = make_accuracy(error_dq_max_abs=1e-6, error_dk_max_abs=None)
    found = row(make_record(accuracy=accuracy, memory={**make_memory(5), "peak_rss_bytes": None}))
    assert found["peak_alloc_bytes"] == 5
    assert pd.isna(found["peak_rss_bytes"])
    for name, value in accuracy.items():
        assert found[name] == value or (value is None and pd.isna(found[name])), name
    assert pd.isna(found["reason"])


def test_a_partial_figure_of_memory_is_said_where_nothing_weighs_more() -> None:
    memory = {**make_memory(5), "peak_alloc_partial": "not seen"}
    assert row(make_record(memory=memory))["reason"] == "peak_alloc_bytes is partial: not seen"
    assert row(make_record(memory=memory, accuracy=None))["reason"] == "peak_alloc_bytes is partial: not seen"
    wrong = row(make_record(memory=memory, accuracy=make_accuracy("fail", 12.0)))
    assert wrong["reason"] == "o: the largest error is 12 times its bound"
    failed = row(make_record(memory=memory, status="timeout", reason=None))
    assert pd.isna(failed["reason"])


def test_a_kernel_that_is_wrong_keeps_its_time_and_says_why() -> None:
    found = row(make_record(accuracy=make_accuracy("fail", 12.0)))
    assert found["accuracy"] == "fail"
    assert found["reason"] == "o: the largest error is 12 times its bound"
    assert found["latency_median_s"] > 0


@pytest.mark.parametrize("record", [make_record(accuracy=None), make_record(status="timeout")])
def test_without_a_verdict_accuracy_is_unchecked(record: Record) -> None:
    found = row(record)
    assert found["accuracy"] == "unchecked"
    assert pd.isna(found["error_ratio"])
    assert pd.isna(found["bitwise_repeatable"])


def test_half_a_character_in_a_reason_does_no_harm(tmp_path: Path) -> None:
    path = make_run(tmp_path, "run", [make_record(status="error", reason="bad \udcff byte")])
    assert attnbench.load(path)["reason"].iloc[0] == "bad ? byte"
    write_parquet(path)


def test_what_is_not_measured_yet_is_null() -> None:
    frame = from_records(make_records(), "run")
    for name in ("roofline_fraction", "flagged", "energy_j", "sm_clock_hz"):
        assert frame[name].isna().all()


#: `make_record` of 512 queries and keys, 8 heads × 64: 0.54 GFLOP in a millisecond.
RATE = 4 * 512 * 512 * 8 * 64 / 1e-3


def limits(flops_per_s: float, threads: int = 2, name: str = "AMD EPYC") -> Ceilings:
    rate = MatrixRate("float32", threads, flops_per_s, "torch matmul")
    return Ceilings("cpu", name, 1 << 25, "2026-01-02T03:04:05Z", (rate,), (Bandwidth("read", 2, 1e10),))


def known(ceilings: Ceilings) -> dict[tuple[str, str], Ceilings]:
    return {(ceilings.device, ceilings.device_name): ceilings}


def steady(**fields: Any) -> Record:
    record = make_record(threads=2, **fields)
    return replace(record, processes=(samples(*[1e-3] * 8),))


def test_the_roofline_is_that_of_the_records_device_threads_and_dtype() -> None:
    frame = from_records([steady()], "run", known(limits(2 * RATE)))
    assert frame["roofline_fraction"].tolist() == [pytest.approx(0.5)]
    assert frame["flagged"].tolist() == [False]
    assert frame["reason"].isna().all()


@pytest.mark.parametrize(
    ("record", "ceilings"),
    [
        (steady(), limits(2 * RATE, name="Another CPU")),  # the run went on elsewhere
        (steady(), limits(2 * RATE, threads=1)),
        (replace(steady(), threads=None), limits(2 * RATE)),  # of an earlier version
        (steady(dtype="bfloat16"), limits(2 * RATE)),
        (steady(device="cuda"), limits(2 * RATE)),
        (make_record(status="oom", threads=2), limits(2 * RATE)),
    ],
    ids=["machine", "threads", "no threads", "dtype", "device", "status"],
)
def test_where_the_limit_was_not_measured_there_is_no_roofline(record: Record, ceilings: Ceilings) -> None:
    frame = from_records([record], "run", known(ceilings))
    assert frame["roofline_fraction"].isna().all()
    assert frame["flagged"].isna().all()


def test_a_time_that_cannot_be_is_flagged_and_says_why() -> None:
    wrong = steady(accuracy=make_accuracy("fail", 12.0))
    frame = from_records([steady(), wrong], "run", known(limits(RATE / 1.06)))
    assert frame["flagged"].tolist() == [True, True]
    first, second = frame["reason"]
    assert first.startswith("faster than this machine can be: at least 537 GFLOP/s in float32")
    assert second == f"{first}; o: the largest error is 12 times its bound"
    assert not from_records([steady()], "run", known(limits(RATE / 1.04)))["flagged"].any()


def test_cold_traffic_is_held_against_the_bandwidth() -> None:
    decoding: dict[str, Any] = {"q_len": 1, "kv_len": 1 << 16}  # 256 MiB of keys and values
    cold, warm = steady(cache="cold", **decoding), steady(**decoding)
    frame = from_records([cold, warm], "run", known(limits(1e15)))
    assert frame["roofline_fraction"].tolist() == [pytest.approx(26.8, rel=0.01)] * 2
    assert frame["flagged"].tolist() == [True, False]


def test_the_ceilings_of_a_run_are_in_its_header(tmp_path: Path) -> None:
    header = {**make_header(), "ceilings": {"cpu": limits(2 * RATE).to_json()}}
    with store.create(tmp_path, "run", header) as writer:
        writer.append(steady())
    assert attnbench.load(tmp_path / "run")["roofline_fraction"].tolist() == [pytest.approx(0.5)]


def test_corrupted_ceilings_are_an_error_that_names_them(tmp_path: Path) -> None:
    with store.create(tmp_path, "run", {**make_header(), "ceilings": {"cpu": {"schema": 1}}}):
        pass
    with pytest.raises(RunError, match=r"run\.json: is corrupted: ceilings\.cpu: device: is missing"):
        attnbench.load(tmp_path / "run")


def test_a_run_is_loaded_as_its_records(tmp_path: Path) -> None:
    records = make_records()
    path = make_run(tmp_path, "first", records)
    pd.testing.assert_frame_equal(attnbench.load(path), from_records(records, "first"))
    pd.testing.assert_frame_equal(attnbench.load(str(path)), from_records(records, "first"))


def test_several_runs_are_loaded_below_one_another(tmp_path: Path) -> None:
    first = make_run(tmp_path, "first", make_block())
    second = make_run(
        tmp_path, "second", [make_record(status="oom"), *make_block({"sdpa": 1e-3, "numpy": 3e-3})]
    )
    frame = attnbench.load(first, second)
    assert list(frame["run_id"]) == ["first"] * 3 + ["second"] * 3
    assert list(frame.index) == list(range(6))
    # An anchor counts for its own run alone.
    assert frame["speedup"].notna().tolist() == [True] * 3 + [False] * 3


def test_several_runs_are_loaded_from_a_list_too(tmp_path: Path) -> None:
    one, two = (make_run(tmp_path, name, make_block()) for name in ("one", "two"))
    pd.testing.assert_frame_equal(attnbench.load([one, str(two)]), attnbench.load(one, two))
    pd.testing.assert_frame_equal(attnbench.load((one,)), attnbench.load(one))


@pytest.mark.parametrize(("wrong", "got"), [([], "none"), (None, "NoneType"), ([Path("a"), 3], "int")])
def test_what_is_no_folder_is_refused_with_the_right_call(wrong: Any, got: str) -> None:
    with pytest.raises(TypeError, match=rf"got {got}; call attnbench\.load\(run\)"):
        attnbench.load(wrong)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    here = make_run(tmp_path / "here", "run", [make_record()])
    there = make_run(tmp_path / "there", "run", [make_record()])
    assert list(attnbench.load(here, there)["run_id"]) == [f"run ({here})", f"run ({there})"]


def test_a_run_given_twice_is_refused(tmp_path: Path) -> None:
    path = make_run(tmp_path, "run", [])
    with pytest.raises(RunError, match="is given twice"):
        attnbench.load(path, tmp_path / "." / "run")


def test_parquet_holds_the_table_and_its_types(tmp_path: Path) -> None:
    path = make_run(tmp_path, "run", make_records())
    file = write_parquet(path)
    assert file == path / table.TABLE_FILE
    frame = attnbench.load(path)
    pd.testing.assert_frame_equal(pd.read_parquet(file), frame)
    first = file.read_bytes()
    assert write_parquet(path).read_bytes() == first  # rebuilt at will
    assert sorted(each.name for each in path.iterdir()) == ["records-main.jsonl", "run.json", "table.parquet"]


def gpu_samples(**figures: Any) -> ProcessSamples:
    return ProcessSamples("forked", 10, (0, 1), (1e-3, 1e-3), (1e-3, 1e-3), (4e-4, 4e-4), **figures)


def test_what_a_gpu_says_of_itself_is_told() -> None:
    process = gpu_samples(sm_clock_hz=(1.5e9, 1.7e9), launch_bound=(False, False))
    other = gpu_samples(sm_clock_hz=(None, 1.6e9), launch_bound=(False, False))
    told = replace(make_record(device="cuda"), processes=(process, other), energy_j=0.5, discarded_rounds=3)
    silent = replace(make_record(device="cuda"), processes=(gpu_samples(),))
    frame = from_records([told, silent], "r")
    assert frame["sm_clock_hz"].iloc[0] == 1.6e9, "of the samples that have one"
    assert frame["energy_j"].iloc[0] == 0.5
    assert list(frame["discarded_rounds"]) == [3, 0]
    assert frame[["sm_clock_hz", "energy_j", "reason"]].iloc[1].isna().all()
    assert frame["launch_median_s"].iloc[0] == pytest.approx(4e-5)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_launch_bound_row_says_so_and_what_else_there_is_to_say(cuda_graph: bool) -> None:
    process = gpu_samples(launch_bound=(True, False))
    memory: Any = {**make_memory(), "peak_alloc_partial": "other threads"}
    record = make_record(device="cuda", memory=memory, cuda_graph=cuda_graph)
    record = replace(record, processes=(process,))
    (reason,) = from_records([record], "r")["reason"]
    assert reason.startswith("launch-bound: in 1 of 2 samples the host could not run ahead of the GPU")
    assert "launching (40.0 µs a call)" in reason
    assert ("measure.cuda_graph=true" in reason) is not cuda_graph
    assert reason.endswith("; peak_alloc_bytes is partial: other threads")


def test_a_failed_case_is_not_called_launch_bound() -> None:
    failed = make_record(device="cuda", status="error")
    record = replace(failed, processes=(gpu_samples(launch_bound=(True, True)),))
    assert list(from_records([record], "r")["reason"]) == ["made to be error"]


OF_MODULES = {
    "mha": (
        "embed_dim kdim vdim bias add_bias_kv add_zero_attn batch_first rotary qk_norm training dropout "
        "need_weights attention flops_projections flops_attention"
    ),
    "encoder_layer": (
        "embed_dim ff_dim bias norm_first batch_first training dropout flops_projections flops_attention "
        "flops_feed_forward"
    ),
    "decoder_layer": (
        "embed_dim ff_dim bias norm_first batch_first training dropout memory_mask flops_projections "
        "flops_attention flops_feed_forward"
    ),
    "transformer": (
        "embed_dim ff_dim layers bias norm_first batch_first training dropout src_mask memory_mask "
        "flops_projections flops_attention flops_feed_forward"
    ),
    "positional_encoding": "embed_dim batch_first",
}


@pytest.mark.parametrize("operation", OF_MODULES)
def test_other_operations_add_their_shapes_columns_at_the_end(operation: str) -> None:
    record = make_record("ours", operation=operation, embed_dim=96)
    found = row(record)
    assert list(found.index) == [*NAMES, *OF_MODULES[operation].split()]
    assert (found["operation"], found["embed_dim"], found["q_len"]) == (operation, 96, 512)
    for name, value in record.workload.shape.columns().items():
        assert found[name] == value, name
    of = costs(record.workload, record.seed)
    assert found["flops"] == of.flops
    assert {name: found[f"flops_{name}"] for name in of.parts} == of.parts
    if operation == "positional_encoding":
        assert found[["heads", "kv_heads", "head_dim", "tflops_per_s"]].isna().all()
    else:
        assert found["head_dim"] == 12


def test_a_rate_leaves_out_what_a_cache_saves() -> None:
    """By definition a past is projected at every call: a cache's rate would be beyond any machine."""
    record = make_record(operation="mha", q_len=1, kv_len=4096)
    found, of = row(record), costs(record.workload)
    assert of.with_cache is not None
    assert of.with_cache < found["flops"] / 100
    assert found["tflops_per_s"] == of.with_cache / found["latency_median_s"] / 1e12


def test_operations_share_a_table() -> None:
    frame = from_records([make_record(operation="mha", rotary=True), make_record()], "run")
    assert [column for column in frame.columns if column not in NAMES] == OF_MODULES["mha"].split()
    assert frame["rotary"].tolist() == [True, pd.NA]
    assert frame["attention"].isna().tolist() == [False, True]
    assert frame["flops_projections"].dtype == "Int64"
    assert frame["dropout"].dtype == "float64"
    assert frame["head_dim"].tolist() == [64, 64]
