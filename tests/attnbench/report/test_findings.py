from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from attnbench.pairs import Pairs
from attnbench.plots.rows import rows_of
from attnbench.record import Record
from attnbench.report.findings import faster, findings, growth
from attnbench.store import Run
from attnbench.table import from_runs
from builders import make_block, make_record
from frames import frame, realistic, row


def beside_an_anchor(*rows: dict[str, Any]) -> pd.DataFrame:
    """The table of `rows`; where no row is the anchor, speed-ups are over one that is not among them."""
    table = frame(*rows)
    unknown = table["speedup"].isna() & table["latency_ci_low_s"].notna()
    for column, of in (("", "median"), ("_ci_low", "ci_high"), ("_ci_high", "ci_low")):
        table.loc[unknown, f"speedup{column}"] = 10.0 / table.loc[unknown, f"latency_{of}_s"]
    return table


def said(*rows: dict[str, Any]) -> dict[str, str]:
    return {finding.kind: finding.text for finding in findings(beside_an_anchor(*rows))}


def told(records: list[Record], tmp_path: Path) -> dict[str, str]:
    """The findings on a run of these records."""
    runs = [Run(tmp_path, "run", {}, tuple(records))]
    return {finding.kind: finding.text for finding in findings(from_runs(runs), None, Pairs.of(runs))}


def test_the_fastest_is_named_with_its_interval_and_lead() -> None:
    found = said(row("naive", latency=2e-3), row("sdpa", latency=1e-3))
    assert found["fastest"] == (
        "sdpa is the fastest at L512: 1.00 ms [0.990, 1.01], 2.00× [1.98, 2.02] over naive."
    )


def test_a_fastest_anchor_has_no_lead_over_itself() -> None:
    found = said(row("naive", latency=1e-3), row("sdpa", latency=2e-3))
    assert found["fastest"] == "naive is the fastest at L512: 1.00 ms [0.990, 1.01]."


def test_overlapping_intervals_are_no_victory() -> None:
    found = said(row("a", latency=1.00e-3), row("b", latency=1.01e-3), row("c", latency=2e-3))
    assert found["tied"] == "The fastest cannot be told apart: a and b at L512."
    assert "fastest" not in found


def test_ties_are_grouped_and_short() -> None:
    names = [f"implementation_{number}" for number in range(4)]
    rows = [
        row(name, length, mask=mask, latency=1e-3 if index in (number % 3, 3) else 9e-3)
        for number, (length, mask) in enumerate(
            (n, m) for n in range(100, 900, 50) for m in ("none", "causal")
        )
        for index, name in enumerate(names)
    ]
    text = said(*rows)["tied"]
    assert text.startswith(
        "The fastest cannot be told apart: implementation_0 and implementation_3 at L100, no"
    )
    assert "L100, no mask and 10 more" in text
    assert len(text) <= 300
    assert (
        "told apart: a and b at L128 and at L256."
        in said(*(row(name, length) for length in (128, 256) for name in ("a", "b")))["tied"]
    )


def test_one_kernel_under_two_names_is_one_competitor() -> None:
    flash = {"resolved_backend": "flash_attention"}
    rows = [
        row("naive", latency=2e-3),
        row("sdpa", latency=1.01e-3, **flash),
        row("sdpa_flash", latency=1e-3, **flash),
    ]
    found = said(*rows)
    assert found["fastest"].startswith("sdpa is the fastest at L512: 1.01 ms")
    assert "tied" not in found
    assert found["kernels"] == (
        "One kernel under two names, counted as one: "
        "sdpa and sdpa_flash both ran flash_attention in 1 workload."
    )
    assert "tied" in said(*rows[:2], {**rows[2], "resolved_backend": "math"})
    assert "tied" in said(*rows[:2], {**rows[2], "options": "block=64"})
    assert "fastest" not in said(*rows[1:])  # alone, whatever its names


def test_workloads_are_told_by_what_is_unusual() -> None:
    times = (("naive", 2e-3), ("sdpa", 1e-3))
    rows = [row(name, n, t) for n in (128, 256, 512) for name, t in times]
    odd = [row("naive", 512, 2e-3, dtype="float64"), row("sdpa", 512, 5e-4, dtype="float64")]
    assert "sdpa at L512, float64, " in said(*rows, *odd)["fastest"]
    assert "at L512:" in said(*rows)["fastest"]


def test_a_table_alone_tells_apart_by_speedups_and_never_by_latencies() -> None:
    ratio = {"speedup": 2.0, "speedup_ci_low": 1.99, "speedup_ci_high": 2.01}
    a = row("a", latency=1e-3, spread=0.1, **ratio)
    b = row("b", latency=1.01e-3, spread=0.1, **{**ratio, "speedup_ci_low": 1.9, "speedup_ci_high": 1.98})
    first, second = rows_of(frame(a, b))
    assert faster(first, second)
    assert not faster(second, first)
    for low, high in ((None, None), (1.0, 4.0)):
        blurred = {"speedup_ci_low": low, "speedup_ci_high": high}
        first, second = rows_of(frame({**a, **blurred}, {**row("b", latency=9e-3), **blurred}))
        assert not faster(first, second)
        assert not faster(second, first)


def test_a_noisy_anchor_does_not_blur_what_pairs_tell_apart(tmp_path: Path) -> None:
    noisy = make_record("naive", latency_s=1e-3, processes=3, accuracy=None)
    noise = (0.3, 1.0, 9.0)
    slowed = [
        replace(each, elapsed_s=tuple(x * times for x in each.elapsed_s))
        for each, times in zip(noisy.processes, noise, strict=True)
    ]
    block = make_block({"a": 1e-3, "b": 1.3e-3}, processes=3)
    text = told([replace(noisy, processes=tuple(slowed)), *block], tmp_path)["fastest"]
    assert text.startswith("a is the fastest at L512: ")
    assert "over naive" not in text  # the interval of that lead includes 1


def test_the_least_latency_does_not_win_over_who_was_faster_side_by_side(tmp_path: Path) -> None:
    """`early` leaves after the rounds that were fast for all."""
    early, late = make_block({"early": 1.2e-3, "late": 1e-3})
    drifting = [
        replace(each, elapsed_s=tuple(x * (1 if at < 6 else 2) for at, x in enumerate(each.elapsed_s)))
        for each in late.processes
    ]
    left = [
        replace(each, rounds=each.rounds[:5], elapsed_s=each.elapsed_s[:5], cpu_s=each.cpu_s[:5])
        for each in early.processes
    ]
    found = told([replace(early, processes=tuple(left)), replace(late, processes=tuple(drifting))], tmp_path)
    assert found["fastest"].startswith("late is the fastest")


def test_one_process_tells_nothing_apart_and_says_so(tmp_path: Path) -> None:
    found = told(make_block({"a": 1e-3, "b": 2e-3}, processes=1), tmp_path)
    assert found["tied"] == (
        "The fastest cannot be told apart: a and b at L512. "
        "One process alone tells nothing apart: a larger measure.processes does."
    )
    assert "process" not in told(make_block({"a": 1e-3, "b": 1e-3}), tmp_path)["tied"]


@pytest.mark.parametrize("low", [0.96, 1.0])
def test_a_lead_is_told_only_where_its_interval_excludes_1(low: float) -> None:
    wrong = row("naive", latency=2e-3, accuracy="fail")
    a = row("a", latency=1e-3, speedup=1.89, speedup_ci_low=low, speedup_ci_high=3.73)
    b = row("b", latency=9e-3, speedup=0.2, speedup_ci_low=0.19, speedup_ci_high=0.21)
    text = said(wrong, a, b)["fastest"]
    assert text == "a is the fastest at L512: 1.00 ms [0.990, 1.01]."
    assert "over naive" in said(wrong, {**a, "speedup_ci_low": 1.01}, b)["fastest"]


def test_without_intervals_nothing_is_told_apart() -> None:
    none = {"latency_ci_low_s": None, "latency_ci_high_s": None}
    found = said(row("a", latency=1e-3, **none), row("b", latency=9e-3, **none))
    assert "tied" in found
    assert "2 cases of 2 had too few samples for an interval." in found["caution"]


@pytest.mark.parametrize("doubt", [{"accuracy": "fail"}, {"accuracy": "unchecked"}, {"flagged": True}])
def test_what_is_wrong_unchecked_or_flagged_never_wins(doubt: dict[str, Any]) -> None:
    found = said(
        row("cheat", latency=1e-5, peak_alloc_bytes=1, **doubt),
        row("a", latency=1e-3, peak_alloc_bytes=1000),
        row("b", latency=2e-3, peak_alloc_bytes=4000),
    )
    assert found["fastest"].startswith("a is the fastest")
    assert "a needs 1000 B, b 3.91 KiB (4.00×)" in found["memory"]


def test_many_workloads_are_counted() -> None:
    rows = [row(name, n, n * us) for n in (64, 128, 256, 512) for name, us in (("naive", 4e-6), ("b", 2e-6))]
    found = said(*rows)
    assert found["fastest"].startswith(
        "Of 4 workloads, b is clearly the fastest in 4. The widest lead: b at L"
    )


def test_a_crossover_is_told_with_its_lengths() -> None:
    times = {128: (1e-4, 2e-4), 256: (4e-4, 4.01e-4), 512: (1.6e-3, 8e-4)}
    rows = [row(name, n, each) for n, pair in times.items() for name, each in zip("ab", pair, strict=True)]
    text = said(*rows)["crossover"]
    assert text == "The fastest changes with the length: a up to 128, b from 512 on."
    assert "crossover" not in said(*[each for each in rows if each["kv_len"] != 512])


def test_accuracy_passes_with_the_largest_share() -> None:
    found = said(row("a", error_ratio=0.2), row("b", error_ratio=1.5))
    assert found["accuracy"] == (
        "All 2 cases checked for accuracy passed; "
        "the largest error ratio is 1.5 of the 2 allowed (b at L512)."
    )


def test_wrong_results_are_named_with_their_reason() -> None:
    wrong = row("b", accuracy="fail", error_ratio=12.0, reason="o: too large")
    (found,) = [finding for finding in findings(frame(row(), wrong)) if finding.kind == "accuracy"]
    assert found.serious
    assert "b in 1 of 1 checked case (worst at L512, error ratio 12.0, allowed 2: o: too large)" in found.text
    not_finite = row("b", accuracy="fail", error_ratio=None, reason="o: not finite")
    assert "not finite" in said(row(), not_finite)["accuracy"]


def test_failures_are_counted_by_status() -> None:
    found = said(
        row(),
        row("b", status="oom", reason="x"),
        row("c", status="oom", reason="x"),
        row("d", status="crashed", reason="x"),
    )
    assert found["failures"] == "3 of 4 cases gave no figures: 2 oom (b and c), 1 crashed (d)."


def test_what_was_never_claimed_is_no_alarm() -> None:
    (found,) = [f for f in findings(frame(row(), row("b", status="unsupported"))) if f.kind == "failures"]
    assert not found.serious


def test_memory_seen_in_part_is_neither_least_nor_fitted() -> None:
    unseen = {"peak_alloc_bytes": 1, "peak_rss_bytes": 1 << 30}
    found = said(
        row("blind", **unseen), row("a", peak_alloc_bytes=1000), row("b", latency=2e-3, peak_alloc_bytes=4000)
    )
    assert found["memory"] == "At L512 a needs 1000 B, b 3.91 KiB (4.00×)."
    assert "growth" not in said(
        *(row("blind", n, **{**unseen, "peak_alloc_bytes": n}) for n in (64, 128, 256))
    )


def test_growth_of_memory_is_fitted() -> None:
    rows = [row("square", n, peak_alloc_bytes=8 * n * n) for n in (128, 256, 512)]
    rows += [row("linear", n, peak_alloc_bytes=100 * n) for n in (128, 256, 512)]
    assert said(*rows)["growth"] == (
        "Over lengths from 128 to 512, peak memory grows: square like L^2.0; linear like L^1.0."
    )
    assert "growth" not in said(*[each for each in rows if each["kv_len"] != 512])


def test_no_power_is_claimed_where_none_fits() -> None:
    assert growth([(1, 1), (2, 2), (4, 4)]) == pytest.approx(1.0)
    assert growth([(1, 5), (2, 5), (4, 5)]) == pytest.approx(0.0)
    assert growth([(1, 1), (2, 100), (4, 1)]) is None
    assert growth([(1, 1), (2, 2), (2, 2)]) is None


def test_intervals_wider_than_asked_are_admitted() -> None:
    found = said(row("a", converged=False), row("b", latency=3e-3), row("c", latency=4e-3))
    assert found["caution"] == (
        "The 95% interval of 1 of 3 cases is wider than the precision asked (median width 2.0%): "
        "a larger measure.processes narrows it; raise measure.max_seconds alike, which they share."
    )
    alone = row(converged=False, processes=1, spread=0.1)
    (caution,) = [f for f in findings(frame(alone), {"made": 0.02}) if f.kind == "caution"]
    assert "(median width 20% against 2% asked): a larger measure.max_seconds narrows it." in caution.text


def test_flagged_rows_are_a_caution() -> None:
    why = "faster than this machine can be: at least 9.00 TFLOP/s in float32"
    (found,) = [f for f in findings(frame(row(flagged=True, reason=why), row("b"))) if f.kind == "caution"]
    assert found.serious
    assert "1 measurement flagged" in found.text
    assert why in found.text
    assert "attnbench doctor --refresh" in found.text


def test_what_is_flagged_and_wrong_casts_no_doubt_on_the_limits() -> None:
    wrong = row(flagged=True, accuracy="fail", reason="far too fast")
    (found,) = [f for f in findings(frame(wrong, row("b"))) if f.kind == "caution"]
    assert "1 measurement flagged" in found.text
    assert "attnbench doctor" not in found.text


@pytest.mark.parametrize(
    ("rows", "start"),
    [
        ([], "There is nothing to report"),
        ([row(status="oom", reason="x")], "No case was measured"),
        ([row(accuracy="fail")], "No case is both verified and trustworthy"),
    ],
)
def test_nothing_to_praise_is_said_first(rows: list[dict[str, Any]], start: str) -> None:
    assert findings(frame(*rows))[0].text.startswith(start)


def test_a_full_sweep_is_told_in_eight_findings_at_most() -> None:
    found = findings(realistic())
    assert [finding.kind for finding in found][:3] == ["fastest", "tied", "crossover"]
    assert len(found) <= 8
    assert len({finding.kind for finding in found}) == len(found)


def test_runs_are_kept_apart() -> None:
    one = [row(name, latency=t, run_id="one") for name, t in (("a", 1e-3), ("b", 2e-3))]
    two = [row(name, latency=t, run_id="two") for name, t in (("a", 2e-3), ("b", 1e-3))]
    text = said(*one, *two)["fastest"]
    assert "a is the fastest at L512, one" in text
    assert "b is the fastest at L512, two" in text
