from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.record import CACHES, SCHEMA_VERSION, STATUSES, ProcessSamples, Record
from attnbench.workload import DISTRIBUTIONS, DTYPES, PASSES, AttentionShape, Workload
from builders import make_accuracy, make_memory, make_record, make_records

finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=20)
options = st.dictionaries(texts, st.booleans() | st.integers() | finite | texts, max_size=3)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    size = st.integers(1, 2**31 - 1)
    kv_heads = draw(st.integers(1, 64))
    shape = AttentionShape(
        batch=draw(size),
        heads=kv_heads * draw(st.integers(1, 8)),
        kv_heads=kv_heads,
        q_len=draw(size),
        kv_len=draw(size),
        head_dim=draw(size),
        v_head_dim=draw(size),
    )
    dtype, pass_, inputs = (draw(st.sampled_from(list(names))) for names in (DTYPES, PASSES, DISTRIBUTIONS))
    mask = draw(st.sampled_from(["none", "causal", "sliding_window(7)+padding(0.25)"]))
    return Workload("attention", shape, mask, dtype, pass_, inputs)


@st.composite
def processes(draw: st.DrawFn) -> ProcessSamples:
    count = draw(st.integers(0, 4))

    def series(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
        return st.lists(values, min_size=count, max_size=count).map(tuple)

    times = series(finite)
    return ProcessSamples(
        start=draw(texts),
        calls=draw(st.integers(1, 10**6)),
        rounds=draw(series(st.integers(0, 10**6))),
        elapsed_s=draw(times),
        cpu_s=draw(times),
        launch_s=draw(st.none() | times),
        launch_bound=draw(st.none() | series(st.booleans())),
        sm_clock_hz=draw(st.none() | series(st.none() | finite)),
        temperature_c=draw(st.none() | series(st.none() | finite)),
        power_w=draw(st.none() | series(st.none() | finite)),
        clock_reasons=draw(st.none() | series(st.none() | texts)),
    )


records = st.builds(
    Record,
    scenario=texts,
    case_id=texts,
    block_id=texts,
    implementation=texts,
    workload=workloads(),
    device=texts,
    seed=st.integers(),
    status=st.sampled_from(STATUSES),
    started_at=texts,
    options=options,
    attempt=st.integers(1, 99),
    reason=st.none() | texts,
    anchor=st.none() | texts,
    device_name=st.none() | texts,
    framework=st.none() | texts,
    resolved_backend=st.none() | texts,
    duration_s=st.none() | finite,
    first_call_s=st.none() | finite,
    output_bytes=st.none() | st.integers(),
    processes=st.lists(processes(), max_size=3).map(tuple),
    converged=st.none() | st.booleans(),
    cache=st.sampled_from(CACHES),
    memory=st.none() | st.integers(0, 2**62).map(make_memory),
    accuracy=st.none() | finite.map(lambda ratio: make_accuracy("fail", ratio)),
    discarded_rounds=st.integers(0, 99),
    energy_j=st.none() | finite,
    cuda_graph=st.booleans(),
)


@given(records)
def test_a_record_survives_json_bit_by_bit(record: Record) -> None:
    text = json.dumps(record.to_json(), allow_nan=False)
    again = Record.from_json(json.loads(text))
    assert again == record
    assert json.dumps(again.to_json()) == text  # 1 and 1.0 and True are equal, their texts are not


def test_a_sweep_of_every_kind_of_row_survives_json() -> None:
    for record in make_records():
        assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_what_a_gpu_alone_has_is_written_where_there_is_one() -> None:
    of_a_cpu = make_record().to_json()["processes"][0]
    assert set(of_a_cpu) == {"start", "calls", "rounds", "elapsed_s", "cpu_s", "launch_s"}
    samples = ProcessSamples("forked", 1, (0, 1), (1.0, 1.0), (1.0, 1.0), power_w=(None, 400.0))
    assert samples.to_json()["power_w"] == [None, 400.0]
    with pytest.raises(ValueError, match="power_w: expected 1 samples, as many as rounds, got 2"):
        ProcessSamples("forked", 1, (0,), (1.0,), (1.0,), power_w=(None, 400.0))


def test_the_schema_version_is_in_every_record() -> None:
    assert make_record().to_json()["schema"] == SCHEMA_VERSION


def test_what_a_failed_case_lacks_may_be_left_out() -> None:
    data = make_record(status="oom").to_json()
    needed = {"schema", "scenario", "case_id", "block_id", "implementation"}
    needed |= {"workload", "device", "seed", "status", "started_at"}
    short = {name: value for name, value in data.items() if name in needed}
    record = Record.from_json(short)
    assert (record.attempt, record.processes, record.memory, record.cache) == (1, (), None, "warm")


def changed(**changes: Any) -> dict[str, Any]:
    return {**make_record().to_json(), **changes}


def without(name: str) -> dict[str, Any]:
    data = make_record().to_json()
    del data[name]
    return data


def process_with(**changes: Any) -> dict[str, Any]:
    process = {"start": "forked", "calls": 1, "rounds": [0], "elapsed_s": [1.0], "cpu_s": [1.0]}
    return changed(processes=[{**process, **changes}])


def workload_with(**changes: Any) -> dict[str, Any]:
    return changed(workload={**make_record().workload.to_json(), **changes})


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ([], "record: expected an object"),
        (without("case_id"), "case_id: is missing"),
        (without("workload"), "workload: is missing"),
        (without("schema"), "schema: expected a version"),
        (changed(schema=True), "schema: expected a version"),
        (changed(schema=SCHEMA_VERSION + 1), "a newer attnbench"),
        (changed(surprise=1), "surprise: is no field"),
        (changed(seed=True), "seed: expected a whole number, got True"),
        (changed(seed=1.0), "seed: expected a whole number, got 1.0"),
        (changed(attempt=0), "attempt counts from 1, got 0"),
        (changed(status="fine"), "status: expected one of ok"),
        (changed(cache="hot"), "cache: expected one of warm, cold"),
        (changed(duration_s=float("nan")), "duration_s: expected a finite number or null, got nan"),
        (changed(duration_s=10**400), "duration_s: expected a finite number"),
        (changed(converged=1), "converged: expected true or false or null, got 1"),
        (changed(options={"block": [1]}), "options: expected an object"),
        (changed(options=None), "options: expected an object"),
        (changed(processes={}), "processes: expected a list"),
        (changed(processes=[3]), "processes[0]: expected an object, got 3"),
        (
            process_with(sm_clock_hz=["high"]),
            "processes[0].sm_clock_hz: expected a list (each item a finite number or null) or null",
        ),
        (changed(processes=[{"start": "forked"}]), "processes[0].calls: is missing"),
        (changed(memory={}), "memory.peak_alloc_bytes: is missing"),
        (changed(memory={**make_memory(), "peak_alloc_bytes": "1"}), "memory.peak_alloc_bytes: expected"),
        (changed(accuracy=3), "accuracy: expected an object, got 3"),
        (changed(accuracy=make_accuracy(error_rmse=float("inf"))), "accuracy.error_rmse: expected a finite"),
        (changed(workload=None), "workload: expected an object, got None"),
        (workload_with(operation="mha2"), "workload.operation: expected one of attention"),
        (workload_with(dtype=4), "workload.dtype: expected text, got 4"),
        (workload_with(dtype="int8"), "workload.dtype: expected one of float64"),
        (workload_with(shape=None), "workload.shape: expected an object"),
        (workload_with(shape={"heads": 8}), "workload.shape: "),
    ],
)
def test_what_is_wrong_is_named(data: Any, names: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the text is checked below, literally
        Record.from_json(data)
    assert names in str(error.value)


def test_samples_must_be_as_many_as_rounds() -> None:
    with pytest.raises(ValueError, match="cpu_s: expected 2 samples, as many as rounds, got 1"):
        ProcessSamples("forked", 1, (0, 1), (1.0, 1.0), (1.0,))
    broken = make_record(processes=1, rounds=2).to_json()
    broken["processes"][0]["launch_s"] = []
    with pytest.raises(ValueError, match=r"processes\[0\]: launch_s: expected 2 samples"):
        Record.from_json(broken)


def test_samples_need_calls() -> None:
    with pytest.raises(ValueError, match="calls must be at least 1"):
        ProcessSamples("forked", 0, (0,), (1.0,), (1.0,))
    assert ProcessSamples("forked", 0, (), (), ()).per_call_s == ()


def test_times_are_per_call() -> None:
    samples = ProcessSamples("forked", 4, (0, 1), (2.0, 4.0), (4.0, 8.0), (1.0, 2.0))
    assert samples.per_call_s == (0.5, 1.0)
    assert samples.cpu_per_call_s == (1.0, 2.0)
    assert samples.launch_per_call_s == (0.25, 0.5)
    assert ProcessSamples("forked", 4, (0,), (2.0,), (4.0,)).launch_per_call_s is None


def test_samples_are_counted_over_processes() -> None:
    assert make_record(processes=3, rounds=7).samples == 21
    assert make_record(status="oom").samples == 0
