from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attnbench.ceilings import Bandwidth, Ceilings, MatrixRate, cache_key, load, of_header, save
from attnbench.errors import RunError

ENVIRONMENT: dict[str, Any] = {
    "cpu": "Some CPU",
    "cores_usable": 4,
    "cgroup_cpus": None,
    "smt": False,
    "boost": True,
    "governor": "performance",
    "libraries": {"torch": "2.13.0", "numpy": "2.4.6", "triton": "3.0"},
    "devices": {
        "cpu": [{"device": "cpu", "name": "Some CPU"}],
        "cuda": [
            {"device": "cuda:0", "name": "Some GPU", "uuid": "GPU-1", "driver": "580"},
            {"device": "cuda:1", "name": "Some GPU", "uuid": "GPU-2", "driver": "580"},
        ],
    },
    "load_average": 0.5,
}


def make(device: str = "cpu", name: str = "Some CPU", **changes: Any) -> Ceilings:
    made = Ceilings(
        device=device,
        device_name=name,
        cache_bytes=32 << 20,
        measured_at="2026-01-02T03:04:05Z",
        matrix=(
            MatrixRate("float32", 1, 1e11, "torch matmul"),
            MatrixRate("float32", 2, 2e11, "numpy matmul"),
            MatrixRate("float32", 4, 1.9e11, "oneDNN"),
            MatrixRate("bfloat16", 1, 4e11, "oneDNN"),
        ),
        bandwidth=(Bandwidth("read", 1, 3e10), Bandwidth("copy", 1, 2e10), Bandwidth("copy", 4, 5e10)),
    )
    return replace(made, **changes)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "attnbench" / "ceilings"


def changed(**changes: Any) -> dict[str, Any]:
    return {**ENVIRONMENT, **changes}


@pytest.mark.parametrize(
    ("dtype", "threads", "expected"),
    [
        ("float32", 1, 1e11),
        ("float32", 2, 2e11),
        ("float32", 3, 2e11),  # four threads can do what two can, though they were seen to do less
        ("float32", 5, None),
        ("float32", None, None),
        ("bfloat16", 1, 4e11),
        ("bfloat16", 2, None),
        ("float64", 1, None),
    ],
)
def test_the_matrix_rate_is_that_of_no_fewer_threads(
    dtype: str, threads: int | None, expected: float | None
) -> None:
    assert make().flops_per_s(dtype, threads) == expected


@pytest.mark.parametrize(("threads", "expected"), [(1, 3e10), (2, 5e10), (4, 5e10), (8, None)])
def test_the_bandwidth_is_that_of_the_faster_of_reading_and_copying(
    threads: int, expected: float | None
) -> None:
    assert make().bytes_per_s(threads) == expected


@pytest.mark.parametrize("threads", [None, 1, 64])
def test_a_gpus_rates_do_not_depend_on_the_hosts_threads(threads: int | None) -> None:
    gpu = make("cuda:0", "Some GPU", matrix=(MatrixRate("float16", None, 9e14, "torch matmul"),))
    assert gpu.flops_per_s("float16", threads) == 9e14


def test_ceilings_survive_json() -> None:
    assert Ceilings.from_json(json.loads(json.dumps(make().to_json()))) == make()


def broken(*path: Any, value: Any) -> dict[str, Any]:
    data = json.loads(json.dumps(make().to_json()))
    *way, last = path
    inner = data
    for each in way:
        inner = inner[each]
    inner[last] = value
    return dict(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"ceilings: expected an object, got \[\]"),
        (broken("schema", value=9), "schema: expected 1, got 9"),
        (broken("device", value=3), "device: expected text, got 3"),
        (broken("matrix", value={}), "matrix: expected a list"),
        (broken("cache_bytes", value=True), "cache_bytes: expected a whole number or null, got True"),
        (broken("matrix", 1, "dtype", value="int8"), r"matrix\[1\].dtype: expected one of float64"),
        (broken("matrix", 0, "flops_per_s", value=0), r"matrix\[0\].flops_per_s: expected a finite number"),
        (broken("matrix", 0, "flops_per_s", value="1"), r"matrix\[0\].flops_per_s: expected a number"),
        (broken("matrix", 0, "threads", value=0), r"matrix\[0\].threads: expected at least 1"),
        (broken("matrix", 0, value=7), r"matrix\[0\]: expected an object, got 7"),
        (broken("bandwidth", 0, "kind", value="write"), r"bandwidth\[0\].kind: expected one of read, copy"),
        (broken("bandwidth", 0, "bytes_per_s", value=float("inf")), r"bandwidth\[0\].bytes_per_s: expected"),
        (broken("bandwidth", 0, "way", value=""), r"bandwidth\[0\].way: is no field"),
        ({"schema": 1, "device": "cpu"}, "device_name: is missing"),
    ],
)
def test_what_is_wrong_is_named(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ceilings.from_json(data)


def test_what_was_saved_is_found_again(cache: Path) -> None:
    assert load(ENVIRONMENT, "cpu") is None
    file = save(ENVIRONMENT, make())
    assert file.parent == cache
    assert load(ENVIRONMENT, "cpu") == make()
    save(ENVIRONMENT, make(measured_at="2027-01-01T00:00:00Z"))
    assert [file] == list(cache.iterdir())
    assert load(ENVIRONMENT, "cpu") == make(measured_at="2027-01-01T00:00:00Z")


def test_each_gpu_has_its_own_and_cuda_is_the_first() -> None:
    save(ENVIRONMENT, make("cuda:1", "Some GPU"))
    assert load(ENVIRONMENT, "cuda") is None
    save(ENVIRONMENT, make("cuda:0", "Some GPU"))
    assert load(ENVIRONMENT, "cuda") == load(ENVIRONMENT, "cuda:0") == make("cuda:0", "Some GPU")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", json.dumps(make("cuda:0").to_json()), json.dumps(make(name="Other").to_json())]
)
def test_a_corrupted_or_foreign_file_counts_as_none(content: str) -> None:
    save(ENVIRONMENT, make()).write_text(content)
    assert load(ENVIRONMENT, "cpu") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu": "Other CPU"},
        {"cores_usable": 2},
        {"cgroup_cpus": 1.5},
        {"smt": True},
        {"boost": False},
        {"governor": "powersave"},
        {"libraries": {"torch": "2.14.0", "numpy": "2.4.6"}},
        {"libraries": {"torch": "2.13.0"}},
    ],
)
def test_what_decides_the_rates_is_in_the_key(changes: dict[str, Any]) -> None:
    assert cache_key(changed(**changes), "cpu") != cache_key(ENVIRONMENT, "cpu")


def test_a_variable_that_changes_kernels_is_in_the_key() -> None:
    other = changed(inherited_variables={"OPENBLAS_CORETYPE": "Haswell"})
    assert cache_key(other, "cpu") != cache_key(ENVIRONMENT, "cpu")


def test_what_decides_nothing_is_not_in_the_key() -> None:
    other = changed(
        load_average=3.0, libraries={**ENVIRONMENT["libraries"], "triton": "4.0"}, git_commit="abc"
    )
    assert cache_key(other, "cpu") == cache_key(ENVIRONMENT, "cpu")
    assert cache_key(changed(cpu="Other CPU"), "cuda") == cache_key(ENVIRONMENT, "cuda:0")


def test_a_driver_decides_what_its_gpu_reaches() -> None:
    (first, second) = ENVIRONMENT["devices"]["cuda"]
    other = changed(devices={**ENVIRONMENT["devices"], "cuda": [{**first, "driver": "590"}, second]})
    assert cache_key(other, "cuda:0") != cache_key(ENVIRONMENT, "cuda:0")
    assert cache_key(other, "cuda:1") == cache_key(ENVIRONMENT, "cuda:1")
    assert cache_key(other, "cpu") == cache_key(ENVIRONMENT, "cpu")


def test_where_nothing_can_be_kept_the_error_says_what_to_do(cache: Path) -> None:
    cache.parent.write_text("a file in the way")
    with pytest.raises(RunError, match="XDG_CACHE_HOME"):
        save(ENVIRONMENT, make())


def test_a_header_holds_the_ceilings_by_device() -> None:
    assert of_header({}) == {}
    known = of_header({"ceilings": {"cpu": make().to_json()}})
    assert known == {("cpu", "Some CPU"): make()}


def test_the_last_ceilings_of_a_device_hold_for_all_of_a_run() -> None:
    newer, elsewhere = make(measured_at="2027-01-01T00:00:00Z"), make(name="Other CPU")
    header = {
        "ceilings": {"cpu": make().to_json()},
        "resumed": [
            {"at": "2027-01-01T00:00:00Z"},
            {"ceilings": {"cpu": newer.to_json()}},
            {"ceilings": {"cpu": elsewhere.to_json()}},
        ],
    }
    assert of_header(header) == {("cpu", "Some CPU"): newer, ("cpu", "Other CPU"): elsewhere}


@pytest.mark.parametrize("wrong", [[1], {"cpu": 3}, {"cpu": {"schema": 1}}])
def test_a_headers_mistake_is_named(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^ceilings"):
        of_header({"ceilings": wrong})
