"""Which axis rows are swept along, and what is drawn and said of it."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench import plots
from attnbench.plots.panels import busiest, split
from attnbench.plots.rows import Row, rows_of
from attnbench.plots.style import drawing
from attnbench.plots.sweeps import sweeps
from attnbench.report.findings import findings
from frames import frame, row

LENGTHS = (128, 256, 512)
MASKS = ("none", "causal", "sliding_window(128)", "causal+sliding_window(128)", "padding(0.5)+document(4)")

#: Each scenario's look: the settings of its workloads.
LOOKS: dict[str, list[dict[str, Any]]] = {
    "heads": [{"heads": heads, "head_dim": 512 // heads} for heads in (1, 2, 4, 8, 16, 32)],
    "gqa": [{"kv_heads": heads, "length": n} for n in (256, 1024) for heads in (1, 2, 4, 8)],
    "decode": [{"q_len": 1, "length": 2**power} for power in range(7, 16)],
    "cross": [{"q_len": queries, "length": n} for queries in (64, 256) for n in (100, 1000, 2000)],
    "quarter": [{"q_len": n // 4, "length": n} for n in LENGTHS],
    "queries": [{"q_len": queries, "length": 1000} for queries in (1, 10, 100)],
    "dtypes": [{"dtype": d, "length": n} for n in (64, 128) for d in ("float64", "float32", "bfloat16")],
    "masks": [{"mask": mask, "length": n} for n in (256, 1024) for mask in MASKS],
    "backward": [
        {"pass": kind, "length": n} for kind in ("forward", "backward", "forward_backward") for n in LENGTHS
    ],
    "tokens": [{"batch": 4096 // n, "length": n} for n in LENGTHS],
    "values": [{"head_dim": 192, "v_head_dim": size} for size in (64, 128, 192)],
    "models": [
        {"heads": heads, "kv_heads": key_heads, "head_dim": size, "v_head_dim": value_size}
        for heads, key_heads, size, value_size in (
            (12, 12, 64, 64),
            (32, 32, 128, 128),
            (32, 8, 128, 128),
            (64, 8, 128, 128),
            (28, 4, 128, 128),
            (128, 128, 192, 128),
        )
    ],
}

#: What each is swept along, and the titles of its panels.
EXPECTED = {
    "heads": ("heads", [""]),
    "gqa": ("kv_heads", ["L256", "L1024"]),
    "decode": ("kv_len", [""]),
    "cross": ("kv_len", ["64 queries", "256 queries"]),
    "quarter": ("kv_len", [""]),
    "queries": ("q_len", [""]),
    "dtypes": ("dtype", ["L64", "L128"]),
    "masks": ("mask", ["L256", "L1024"]),
    "backward": ("kv_len", ["forward", "backward", "forward_backward"]),
    "tokens": ("kv_len", [""]),
    "values": ("v_head_dim", [""]),
}


def table(workloads: list[dict[str, Any]], **changes: Any) -> pd.DataFrame:
    """Two implementations at each workload."""
    times = {"naive": 2e-3, "sdpa": 1e-3}
    return frame(
        *(row(name, latency=t, **{**each, **changes}) for each in workloads for name, t in times.items())
    )


def look(name: str) -> pd.DataFrame:
    return table(LOOKS[name])


def texts(plot: plots.Plot) -> list[str]:
    space = "{http://www.w3.org/2000/svg}"
    return ["".join(each.itertext()) for each in ET.fromstring(plots.svg(plot)).iter(f"{space}text")]


def said(rows: pd.DataFrame) -> dict[str, str]:
    return {finding.kind: finding.text for finding in findings(rows)}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_axis_is_what_the_scenario_sweeps(name: str) -> None:
    panels, single = split(rows_of(look(name)))
    column, titles = EXPECTED[name]
    assert single == []
    assert {panel.along.column for panel in panels} == {column}
    assert [panel.title for panel in panels] == titles


def test_shapes_that_agree_in_part_by_chance_are_no_sweep() -> None:
    panels, single = split(rows_of(look("models")))
    assert panels == []
    assert [panel.title for panel in single] == [
        "H12, D64",
        "H32, D128",
        "H32kv8, D128",
        "H64kv8, D128",
        "H28kv4, D128",
        "H128, D192v128",
    ]
    (first, *_) = (plot for plot in plots.figures(look("models")) if plot.id == "singles")
    assert "All here: cpu, attention, L512, B1," in first.caption


def test_models_at_several_lengths_are_swept_along_the_length() -> None:
    twice = [{**model, "length": n} for model in LOOKS["models"] for n in (128, 512)]
    panels, single = split(rows_of(table(twice)))
    assert {panel.along.column for panel in panels} == {"kv_len"}
    assert (len(panels), single) == (6, [])


def test_two_places_are_a_line_along_the_length_alone() -> None:
    for workloads in ([{"heads": 4}, {"heads": 8}], [{"mask": "none"}, {"mask": "causal"}]):
        panels, single = split(rows_of(table(workloads)))
        assert (panels, len(single)) == ([], 2)


def test_a_workload_may_lie_on_two_lines() -> None:
    lengths = [{"length": n} for n in LENGTHS]
    heads = [{"heads": heads} for heads in (1, 2, 4)]
    panels, single = split(rows_of(table([*lengths, *heads])))
    places = {panel.along.column: panel.along.places(panel.rows) for panel in panels}
    assert places == {"kv_len": [128, 256, 512], "heads": [1, 2, 4, 8]}
    assert single == []
    assert [plot.id for plot in plots.figures(table([*lengths, *heads]))][:2] == ["latency", "latency-heads"]


def test_a_scenario_has_one_axis_where_one_is_enough() -> None:
    """Without masks along the heads, with masks along the length, would be no figure to compare in."""
    both = [{"heads": heads, "length": n} for heads in (2, 4, 8) for n in (128, 256)]
    few = [{"heads": heads, "length": n, "mask": "causal"} for heads in (2, 4, 8) for n in (128, 256)]
    panels, _ = split(rows_of(table([*both, *few])))
    assert [panel.along.column for panel in panels] == ["heads"] * 4
    assert [panel.title for panel in panels] == [
        "L128, no mask",
        "L256, no mask",
        "L128, causal",
        "L256, causal",
    ]


def test_scenarios_choose_each_for_themselves() -> None:
    rows = pd.concat([look("gqa").assign(scenario="gqa"), look("heads").assign(scenario="heads")])
    panels, _ = split(rows_of(rows))
    assert {(panel.rows[0]["scenario"], panel.along.column) for panel in panels} == {
        ("gqa", "kv_heads"),
        ("heads", "heads"),
    }


def test_a_place_without_figures_is_a_gap_along_any_axis() -> None:
    rows = [row(heads=heads) for heads in (1, 2, 8)] + [row(heads=4, status="oom")]
    (panel,), _ = split(rows_of(frame(*rows)))
    assert panel.failed == {("naive", 4)}


def test_linked_sizes_stand_below_the_ticks_and_what_they_keep_in_the_caption() -> None:
    (latency, *_) = plots.figures(look("heads"))
    assert latency.id == "latency-heads"
    assert latency.title == "Latency against number of heads"
    assert {"1", "D512", "32", "D16", "heads"} <= set(texts(latency))
    assert "L512, B1, H·D = 512, no mask" in latency.caption
    assert "At 32 heads: from sdpa 1.00 ms to naive 2.00 ms." in latency.alt
    assert "B16" in texts(plots.figures(look("tokens"))[0])
    assert "Lq64" in texts(plots.figures(look("quarter"))[0])
    assert "q_len = kv_len/4" in plots.figures(look("quarter"))[0].caption


def test_categories_stand_below_one_another_on_common_axes() -> None:
    by_mask, tradeoff = plots.figures(look("masks"))
    assert (by_mask.id, by_mask.title) == ("by-mask", "By mask")
    assert tradeoff.id == "tradeoff"
    assert "no mask" in tradeoff.alt
    found = texts(by_mask)
    assert {"no mask", "causal", "sliding_window(128)", "document(4)", "padding(0.5)+"} <= set(found)
    assert {"naive", "sdpa", "yardstick", "floor"} <= set(found)
    assert len(by_mask.draw().axes) == 6
    assert "L256: none from sdpa 1.00 ms, causal from sdpa 1.00 ms" in by_mask.alt


def test_tall_categories_are_split_over_figures_by_panel() -> None:
    many = [row(f"kernel_{i}", n, mask=mask) for n in (64, 128) for mask in MASKS for i in range(9)]
    found = [plot for plot in plots.figures(frame(*many)) if plot.id.startswith("by-mask")]
    assert [plot.id for plot in found] == ["by-mask", "by-mask-2"]


def test_of_a_sweep_the_largest_and_of_categories_the_first_is_traded() -> None:
    for name, title in (("heads", "H32, D16"), ("dtypes", "L64, float64")):
        rows = rows_of(look(name))
        assert busiest(split(rows)[0][0], rows).title == title


@pytest.mark.parametrize("name", LOOKS)
def test_no_label_is_written_over_another(name: str) -> None:
    for plot in plots.figures(look(name)):
        with drawing():
            figure = plot.draw()
            figure.draw_without_rendering()
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                shown = [text for text in axis.get_ticklabels() if text.get_text() and text.get_visible()]
                boxes = [text.get_window_extent() for text in shown]
                for one, other in itertools.combinations(boxes, 2):
                    assert not one.overlaps(other), (plot.id, shown)


def test_wide_intervals_do_not_press_the_values_together() -> None:
    rows = [row(heads=heads, spread=0.999999999) for heads in (1, 2, 4)]
    for plot in (plots.figures(frame(*rows))[0], plots.figures(frame(rows[0]))[0]):
        (axes, *_) = plot.draw().axes
        low, high = axes.get_ylim() if plot.id.startswith("latency") else axes.get_xlim()
        assert high / low < 100


def test_a_crossover_is_told_along_the_axis_that_is_swept() -> None:
    def crossing(workloads: list[dict[str, Any]]) -> str:
        rows = [
            row(name, latency=t, speedup=s, speedup_ci_low=s * 0.99, speedup_ci_high=s * 1.01, **each)
            for index, each in enumerate(workloads)
            for name, t, s in (
                ("a", 1e-3, 2.0),
                ("b", 2e-3 if index < 2 else 5e-4, 1.0 if index < 2 else 4.0),
            )
        ]
        return said(frame(*rows))["crossover"]

    assert crossing(LOOKS["heads"]) == "The fastest changes with the number of heads: a up to 2, b from 4 on."
    assert crossing(LOOKS["decode"]) == (
        "The fastest changes with the length: a up to 256, b from 512 on (1 query)."
    )
    mixed = [{**each, "scenario": name} for name in ("heads", "decode") for each in LOOKS[name][:3]]
    assert "crossover" not in said(look("masks"))
    assert crossing(mixed).startswith("The fastest changes with the number of heads: a up to 2, b from 4 on")


def test_growth_is_told_along_the_axis_that_is_swept() -> None:
    rows = [row("square", peak_alloc_bytes=8 * h * h, heads=h) for h in (1, 2, 4)]
    rows += [row("same", peak_alloc_bytes=1000, heads=h) for h in (1, 2, 4)]
    assert said(frame(*rows))["growth"] == (
        "Over heads from 1 to 4, peak memory grows: square like H^2.0; same not at all."
    )
    assert said(look("heads"))["growth"].startswith("Over heads from 1 to 32 at constant heads × head_dim, ")
    assert said(look("decode"))["growth"].startswith("Over lengths from 128 to 32768 at constant q_len, ")
    assert "growth" not in said(look("masks"))


@pytest.fixture(scope="module")
def pool() -> list[Row]:
    axes = itertools.product(
        (64, 128, 256), (2, 4, 8), (32, 64), (1, 2), ("none", "causal", "document(4)"), ("one", "two")
    )
    names = ("length", "heads", "head_dim", "batch", "mask", "scenario")
    workloads: list[dict[str, Any]] = [dict(zip(names, each, strict=True)) for each in axes]
    return rows_of(frame(*(row(**each) for each in workloads)))


@given(chosen=st.sets(st.integers(0, 215), min_size=1, max_size=40))
def test_every_workload_is_on_a_line_or_alone(pool: list[Row], chosen: set[int]) -> None:
    rows = [pool[index] for index in sorted(chosen)]
    swept, single = sweeps(rows)
    for sweep in swept:
        places = [sweep.axis.at(each) for each in sweep.rows]
        assert len(places) == len(set(places)) >= sweep.axis.fewest
        assert len({sweep.axis.line(each) for each in sweep.rows}) == 1
    alone = [(each["scenario"], each["case_id"]) for group in single for each in group]
    lined = {(each["scenario"], each["case_id"]) for sweep in swept for each in sweep.rows}
    assert sorted([*alone, *lined]) == sorted((each["scenario"], each["case_id"]) for each in rows)
