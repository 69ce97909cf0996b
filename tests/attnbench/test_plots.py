from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET

import matplotlib
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench import plots
from attnbench.plots.lines import path
from attnbench.plots.panels import busiest, split
from attnbench.plots.rows import clean, rows_of, shorten, usual, workload_label
from attnbench.plots.style import PALETTE, looks
from attnbench.plots.sweeps import sweeps
from attnbench.plots.ticks import (
    bytes_scale,
    error_scale,
    fitting,
    limits,
    ratio_scale,
    seconds_scale,
    thinned,
)
from attnbench.plots.tradeoff import pareto
from frames import frame, realistic, row

NAMESPACE = "{http://www.w3.org/2000/svg}"


def ids(table: pd.DataFrame) -> list[str]:
    return [plot.id for plot in plots.figures(table)]


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{NAMESPACE}text")]


def the(table: pd.DataFrame, name: str) -> plots.Plot:
    return next(plot for plot in plots.figures(table) if plot.id == name)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return realistic()


def test_a_sweep_gives_every_kind_of_figure(table: pd.DataFrame) -> None:
    assert ids(table) == ["latency", "speedup", "memory", "error", "tradeoff", "singles"]


def test_figures_carry_words_and_numbers(table: pd.DataFrame) -> None:
    for plot in plots.figures(table):
        assert plot.title
        assert plot.caption.endswith(".")
        assert len(plot.alt) > 40
        assert len(plot.data) > 0
    latency = the(table, "latency")
    assert "no mask, at length 2048: from sdpa_flash 5.03 ms to numpy" in latency.alt
    assert "All here: cpu, attention, B1, H8, D64, float32, forward, normal inputs." in latency.caption
    assert list(latency.data.columns[:3]) == ["implementation", "shape", "mask"]


def test_axes_are_labelled_with_lengths_and_units(table: pd.DataFrame) -> None:
    found = texts(plots.svg(the(table, "latency")))
    assert {"128", "256", "512", "1024", "2048", "1 ms", "100 µs", "no mask", "causal"} <= set(found)
    assert "2048" in found
    assert not [text for text in found if text.startswith("2^") or "mathdefault" in text]
    assert "1 MiB" in texts(plots.svg(the(table, "memory")))
    assert "1×" in texts(plots.svg(the(table, "speedup")))
    assert "1e-7" in texts(plots.svg(the(table, "error")))


def test_the_same_table_gives_the_same_bytes(table: pd.DataFrame) -> None:
    plot, again = the(table, "singles"), the(realistic(), "singles")
    assert plots.svg(plot) == plots.svg(again)
    assert plots.png(plot) == plots.png(again)


def test_the_users_matplotlib_settings_change_nothing_and_are_left_alone(table: pd.DataFrame) -> None:
    plot = the(table, "latency")
    plain = plots.svg(plot)
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "text.usetex": False}):
        assert plots.svg(plot) == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_nothing_measured_gives_no_figure() -> None:
    assert plots.figures(frame()) == []
    assert plots.figures(frame(row(status="oom", reason="out of memory"))) == []


def test_one_row_is_a_single_shape() -> None:
    assert ids(frame(row())) == ["singles"]
    assert ids(frame(row(), row("sdpa", latency=5e-4))) == ["tradeoff", "singles"]


def test_two_lengths_of_one_implementation_are_a_line() -> None:
    assert ids(frame(row(length=128), row(length=256))) == ["latency", "memory", "error"]


def test_decoding_is_swept_along_its_keys() -> None:
    rows = [row(length=length, q_len=1) for length in (128, 512)]
    latency = the(frame(*rows, row(length=128), row(length=256)), "latency")
    assert "2 panels" in latency.alt
    assert "1 query" in texts(plots.svg(latency))


def test_panels_are_split_over_figures_and_never_empty() -> None:
    rows = [row(length=length, device=f"cuda:{index}") for length in (128, 256) for index in range(8)]
    found = [plot for plot in plots.figures(frame(*rows)) if plot.id.startswith("latency")]
    assert [plot.id for plot in found] == ["latency", "latency-2"]
    assert [len(plot.draw().axes) for plot in found] == [4, 4]  # evenly: no lone panel


def test_a_panel_without_the_quantity_is_left_out() -> None:
    rows = [row(length=n, mask=mask) for n in (128, 256) for mask in ("none", "causal")]
    for each in rows:
        if each["mask"] == "causal":
            each["peak_alloc_bytes"] = each["peak_rss_bytes"] = None
    found = {plot.id: plot for plot in plots.figures(frame(*rows))}
    assert len(found["latency"].draw().axes) == 2
    assert len(found["memory"].draw().axes) == 1


def test_devices_runs_and_scenarios_have_panels_of_their_own() -> None:
    for column in ("device", "run_id", "scenario"):
        rows = [row(length=n, **{column: value}) for n in (128, 256) for value in ("one", "two")]
        plot = the(frame(*rows), "latency")
        assert {"one", "two"} <= set(texts(plots.svg(plot)))


def test_a_line_has_a_gap_where_a_length_failed() -> None:
    tried = [row(length=128), row(length=256, status="oom"), row(length=512)]
    (panel,), _ = split(rows_of(frame(*tried, row("b", 1024))))
    x, y = path(panel, "naive", "latency_median_s")
    assert x == [128, 256, 512]
    assert y[0] == y[2] == 1e-3
    assert math.isnan(y[1])


def test_wrong_and_flagged_points_are_told_in_the_legend() -> None:
    right = frame(row(length=128), row(length=256))
    assert "fails the accuracy check" not in texts(plots.svg(the(right, "latency")))
    wrong = frame(row(length=128), row(length=256, accuracy="fail"), row("sdpa", 128, flagged=True))
    assert {"fails the accuracy check", "flagged"} <= set(texts(plots.svg(the(wrong, "latency"))))


def test_the_front_holds_what_nobody_beats_and_only_what_is_verified() -> None:
    rows = rows_of(
        frame(
            row("a", latency=1e-3, peak_alloc_bytes=100),
            row("b", latency=2e-3, peak_alloc_bytes=50),
            row("c", latency=3e-3, peak_alloc_bytes=60),
            row("wrong", latency=1e-4, peak_alloc_bytes=1, accuracy="fail"),
            row("partial", latency=1e-4, peak_alloc_bytes=1, peak_rss_bytes=1 << 30),
            row("flagged", latency=1e-4, peak_alloc_bytes=1, flagged=True),
            row("unchecked", latency=1e-4, peak_alloc_bytes=1, accuracy="unchecked"),
        )
    )
    assert [each["label"] for each in pareto(rows)] == ["a", "b"]


def test_the_tradeoff_takes_the_longest_length_with_the_most_implementations() -> None:
    rows = rows_of(frame(row("a", 128), row("b", 128), row("a", 256), row("b", 256), row("a", 512)))
    (panel,), _ = split(rows)
    chosen = busiest(panel, rows)
    assert chosen.title.startswith("L256")
    assert len(chosen.rows) == 2


def test_an_implementation_looks_the_same_everywhere_and_unlike_the_others() -> None:
    names = [f"kernel_{index}" for index in range(40)]
    found = looks(names)
    assert len({(look.color, look.marker) for look in found.values()}) == len(names)
    assert found == looks(names)
    assert len({look.color for look in list(found.values())[: len(PALETTE)]}) == len(PALETTE)


def test_hostile_names_stay_text() -> None:
    name = 'a<b>&"$x_$\x1b[31m\u202e' + "w" * 80
    svg = plots.svg(the(frame(row(name, 128), row(name, 256)), "latency"))
    shown = [text for text in texts(svg) if text.startswith("a<b>")]
    assert shown
    assert all("\x1b" not in text and "\u202e" not in text and len(text) < 40 for text in shown)
    assert "$x_$" in shown[0]


def test_zero_errors_and_missing_intervals_are_drawn() -> None:
    rows = [row(length=n, error_rel_l2=0.0, error_floor=0.0, error_yardstick=0.0) for n in (128, 256)]
    assert "error" not in ids(frame(*rows))
    rows += [row("b", length=n, latency_ci_low_s=None, latency_ci_high_s=None) for n in (128, 256)]
    plot = the(frame(*rows), "error")
    assert "exactly zero" in plot.caption
    for each in plots.figures(frame(*rows)):
        plots.svg(each)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.text(max_size=60))
def test_cleaned_text_is_one_line_of_printable_characters(text: str) -> None:
    cleaned = clean(text)
    assert cleaned == clean(cleaned)
    assert cleaned.splitlines() in ([], [cleaned])
    ET.fromstring(f"<a>{cleaned.translate({38: None, 60: None, 62: None})}</a>")
    assert len(shorten(cleaned, 20)) <= 20


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.floats(1e-9, 1e3), st.floats(1.0, 1e6), st.integers(4, 8))
def test_scales_have_few_ticks_within_their_range(low: float, factor: float, most: int) -> None:
    low, high = limits([low, low * factor])
    for scale in (seconds_scale, error_scale):
        ticks = scale(low, high, most)
        assert 1 <= len(ticks) <= most
        assert all(low <= value <= high for value, _ in ticks)
        assert len({text for _, text in ticks}) == len(ticks)


def test_ticks_read_as_people_write() -> None:
    assert [text for _, text in seconds_scale(9e-5, 1.1e-2)] == ["100 µs", "300 µs", "1 ms", "3 ms", "10 ms"]
    assert [text for _, text in bytes_scale(2**18, 2**21)] == ["256 KiB", "512 KiB", "1 MiB", "2 MiB"]
    assert [text for _, text in error_scale(9e-8, 1.1e-6)] == ["1e-7", "2e-7", "5e-7", "1e-6"]
    assert [text for _, text in ratio_scale(0.4, 9)] == ["0.5×", "1×", "2×", "4×", "8×"]
    assert "1×" in [text for _, text in ratio_scale(0.97, 1.04)]
    assert [text for _, text in ratio_scale(0.18, 1.1)] == ["0.2×", "0.3×", "0.5×", "0.7×", "1×"]
    assert [text for _, text in ratio_scale(0.02, 3.5)] == ["0.03×", "0.1×", "0.3×", "1×", "3×"]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.floats(1e-9, 1e3), st.floats(1.0, 1e6), st.floats(12, 60))
def test_fitting_ticks_do_not_collide(low: float, factor: float, characters: float) -> None:
    low, high = limits([low, low * factor])
    ticks = fitting(seconds_scale, low, high, characters)
    assert ticks
    places = [math.log(value / low) / math.log(high / low) * characters for value, _ in ticks]
    for (a, left), (b, right) in itertools.pairwise(zip(places, [text for _, text in ticks], strict=True)):
        assert b - len(right) / 2 > a + len(left) / 2


def test_as_many_ticks_as_fit() -> None:
    assert [text for _, text in fitting(seconds_scale, 0.03, 0.13, 24)] == ["50 ms", "100 ms"]
    assert len(fitting(seconds_scale, 0.03, 0.13, 60)) == 5
    assert [text for _, text in fitting(seconds_scale, 125e-6, 460e-6, 23)] == ["150 µs", "300 µs"]


def test_the_usual_is_told_once_and_the_unusual_in_titles() -> None:
    rows = [row(length=length, head_dim=dim) for length, dim in ((128, 64), (256, 64), (512, 64), (1024, 64))]
    odd = row(length=512, dtype="bfloat16", accuracy="pass")
    known = usual(rows_of(frame(*rows, odd)))
    assert known["dtype"] == "float32"
    assert workload_label(rows_of(frame(odd))[0], known) == "L512, bfloat16"
    assert workload_label(rows_of(frame(rows[0]))[0], known) == "L128"
    assert "mask" not in usual(rows_of(frame(row(mask="none"), row(mask="causal"))))
    decoding = row(q_len=1, heads=32, kv_heads=8)
    assert workload_label(rows_of(frame(decoding))[0], known) == "Lq1-Lk512, H32kv8"


def test_every_panel_of_single_shapes_is_headed() -> None:
    (plot,) = [each for each in plots.figures(frame(row(), row(mask="causal"))) if each.id == "singles"]
    found = texts(plots.svg(plot))
    for heading in ("latency, median", "peak memory above the inputs", "relative L2 error"):
        assert found.count(heading) == 2


def test_legends_fit_their_figures() -> None:
    for count in (1, 3, 7, 20):
        table = frame(
            *(row("implementation_of_length" + str(i), n) for i in range(count) for n in (128, 256))
        )
        figure = the(table, "error").draw()
        figure.draw_without_rendering()
        (box,) = [each.get_window_extent() for each in figure.legends]
        assert box.x1 <= figure.bbox.x1


def test_ticks_that_would_overlap_are_thinned() -> None:
    def kept(*lengths: int, characters: float = 24) -> list[str]:
        return [text for _, text in thinned([(n, str(n)) for n in lengths], characters)]

    assert kept(128, 256, 512) == ["128", "256", "512"]
    assert kept(128, 1000, 1024) == ["128", "1024"]
    assert kept(128, 256, 512, characters=6) == ["128", "512"]
    assert [text for _, text in thinned([(1, "1\nD512"), (3.5, "2\nD256"), (4, "4\nD64")], 20)] == [
        "1\nD512",
        "4\nD64",
    ]


def test_rows_group_by_everything_but_implementation_and_length() -> None:
    rows = rows_of(frame(row(length=128), row("b", 256), row(mask="causal"), row(q_len=1)))
    swept, single = sweeps(rows)
    assert [len(sweep.rows) for sweep in swept] == [2]
    assert [len(group) for group in single] == [1, 1]
