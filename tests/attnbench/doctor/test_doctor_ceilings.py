from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from attnbench.ceilings import BANDWIDTHS, Bandwidth, MatrixRate
from attnbench.doctor import ceilings
from attnbench.doctor.ceilings import measure, thread_counts
from attnbench.errors import MeasuringError
from attnbench.protocol import BenchFailed, BenchLost
from scripted import ScriptedSource

Answer = Callable[[Mapping[str, Any], int], float]

RATES = {"float64": 5e10, "float32": 2e11, "bfloat16": 4e11, "float16": 3e10}


def ordinary(asked: Mapping[str, Any], bench: int) -> float:
    threads = asked["threads"] or 100
    return threads * RATES[asked["dtype"]] if asked["kind"] == "matrix" else threads * 1e10


class Source(ScriptedSource):
    """Benches that answer `ceiling` by a function of what they are asked and their number."""

    def __init__(self, answer: Answer = ordinary) -> None:
        super().__init__({})
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        self.open = 0
        self.made = 0
        self.hello["devices"]["cuda"] = [{"device": "cuda:0", "name": "Scripted GPU"}]

    def bench(self) -> Any:
        source, number = self, self.made
        self.made += 1
        self.open += 1

        class Bench:
            closed = False

            def request(self, verb: str, parameters: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
                assert verb == "ceiling"
                assert not self.closed
                assert deadline_s > parameters["seconds"]
                source.asked.append(dict(parameters))
                per_s = source.answer(parameters, number)
                moved = parameters["kind"] != "matrix"
                return {"per_s": per_s, "way": f"way {number}", "cache_bytes": 1 << 25 if moved else None}

            def close(self) -> None:
                source.open -= not self.closed
                self.closed = True

        return Bench()


def of(source: Source, device: str = "cpu", **options: Any) -> Any:
    found = measure(
        source, device, utc_now=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), **{"threads": 2, **options}
    )
    assert source.open == 0, "a bench was left running"
    return found


@pytest.mark.parametrize(
    ("threads", "expected"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (4, (1, 2, 4)),
        (6, (1, 2, 4, 6)),
        (64, (1, 2, 4, 8, 16, 32, 64)),
    ],
)
def test_thread_counts_are_powers_of_two_and_all(threads: int, expected: tuple[int, ...]) -> None:
    assert thread_counts(threads) == expected


def test_every_point_is_measured_for_each_thread_count() -> None:
    source = Source()
    found = of(source)
    assert (found.device, found.device_name) == ("cpu", "Scripted CPU")
    assert found.measured_at == "2026-01-02T03:04:05Z"
    assert found.cache_bytes == 1 << 25
    assert MatrixRate("bfloat16", 2, 8e11, "way 1") in found.matrix
    assert {(each.dtype, each.threads) for each in found.matrix} == {(d, t) for d in RATES for t in (1, 2)}
    assert set(found.bandwidth) == {
        Bandwidth(kind, threads, threads * 1e10) for kind in ("read", "copy") for threads in (1, 2)
    }
    assert source.made == 4  # a fresh bench for each thread count, in two rounds


def test_the_best_of_both_rounds_counts() -> None:
    source = Source(lambda asked, bench: 1e11 if bench == 0 else 3e11 if bench == 2 else 2e11)
    found = of(source)  # of one thread in the benches 0 and 2
    assert found.flops_per_s("bfloat16", 1) == 3e11
    assert found.flops_per_s("bfloat16", 2) == 3e11  # 2e11 was seen, but one thread alone reached more


def test_halves_are_as_fast_as_float32_and_float64_half_as_fast_on_a_cpu() -> None:
    rates = {(each.dtype, each.threads): each for each in of(Source()).matrix}
    assert rates["float16", 1] == MatrixRate("float16", 1, 2e11, "way 0 in float32")
    assert rates["float64", 1] == MatrixRate("float64", 1, 1e11, "half of way 0 in float32")
    assert rates["bfloat16", 1].way == "way 0"


def test_a_gpus_float64_is_what_it_is() -> None:
    found = of(Source(), "cuda")
    assert found.device_name == "Scripted GPU"
    assert {(each.dtype, each.flops_per_s) for each in found.matrix} == {
        ("float64", 5e12),
        ("float32", 2e13),
        ("bfloat16", 4e13),
        ("float16", 2e13),
    }
    assert {each.threads for each in (*found.matrix, *found.bandwidth)} == {None}


def test_what_cannot_be_measured_is_left_out() -> None:
    def answer(asked: Mapping[str, Any], bench: int) -> float:
        if asked["kind"] == "read" or asked["dtype"] == "float16":
            raise BenchFailed("unavailable", "not here")
        return ordinary(asked, bench)

    found = of(Source(answer))
    assert {each.dtype for each in found.matrix} == {"float64", "float32", "bfloat16"}
    assert {each.kind for each in found.bandwidth} == {"copy"}


def test_a_bench_that_is_lost_is_replaced() -> None:
    def answer(asked: Mapping[str, Any], bench: int) -> float:
        if bench == 0 and asked["dtype"] == "float32":
            raise BenchLost("crashed", "killed by signal 4")
        return ordinary(asked, bench)

    source = Source(answer)
    assert of(source).flops_per_s("float32", 1) == 2e11
    assert source.made == 5


def test_nothing_measured_is_an_error_that_says_why() -> None:
    def answer(asked: Mapping[str, Any], bench: int) -> float:
        raise BenchFailed("unavailable", "there is no device cuda:7 here")

    with pytest.raises(MeasuringError, match=r"ceilings of cuda:7 could not be measured: .*no device cuda:7"):
        of(Source(answer), "cuda:7")


@pytest.mark.parametrize("threads", [2, 4, 64, 256])
def test_all_points_together_take_no_longer_than_is_promised(threads: int) -> None:
    source = Source()
    of(source, threads=threads)
    assert sum(asked["seconds"] for asked in source.asked) <= (10 if threads == 2 else ceilings.ALL_S) + 1e-9
    assert min(asked["seconds"] for asked in source.asked) > 0.1


def test_where_more_threads_are_hardly_faster_they_are_asked_again() -> None:
    """As with a neighbour who has one of two cores for the first three seconds."""

    def answer(asked: Mapping[str, Any], bench: int) -> float:
        alone = asked["threads"] == 2 and asked["dtype"] == "bfloat16" and bench < 4
        return ordinary({**asked, "threads": 1} if alone else asked, bench)

    source = Source(answer)
    assert of(source).flops_per_s("bfloat16", 2) == 8e11
    assert source.made == 5
    assert [(each["dtype"], each["threads"]) for each in source.asked[24:]] == [("bfloat16", 2)]


def test_threads_that_are_never_faster_are_asked_so_often_and_no_more() -> None:
    source = Source(lambda asked, bench: ordinary({**asked, "threads": 1}, bench))
    of(source)
    assert len(source.asked) == 24 + 2 * (len(RATES) + len(BANDWIDTHS))


def test_progress_is_told() -> None:
    shares: list[float] = []
    of(Source(), progressed=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0]
