"""What is drawn and said of modules: labels, axes, and where the arithmetic is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench import plots
from attnbench.costs import costs
from attnbench.plots.choices import CHOICES
from attnbench.plots.panels import split
from attnbench.plots.rows import SHAPE, Row, describe, rows_of, shape_label, usual, workload_label
from attnbench.plots.sweeps import sweeps
from attnbench.plots.work import work
from attnbench.record import Record
from attnbench.report.findings import findings
from attnbench.table import from_records
from attnbench.workload import SHAPES
from builders import make_record

#: Some values of each axis, the usual one among them.
VALUES: dict[str, Sequence[Any]] = {
    "batch": (1, 3),
    "embed_dim": (24, 48),
    "heads": (4, 2),
    "kv_heads": (4, 2, 1),
    "kdim": (24, 10),
    "vdim": (24, 12),
    "ff_dim": (96, 7),
    "layers": (1, 3),
    "seq_len": (16,),
    "q_len": (16, 1),
    "kv_len": (16, 30),
    "attention": ("self", "cross"),
    "need_weights": ("none", "averaged", "per_head"),
    "dropout": (0.0, 0.1),
    "memory_mask": ("none", "causal+padding(0.5)"),
    "src_mask": ("none", "document(2)"),
}
MODULES = sorted(set(SHAPES) - {"attention"})


@st.composite
def shapes(draw: st.DrawFn, operation: str) -> Any:
    """A legal shape of the operation, as it may be."""
    axes = SHAPES[operation].AXES
    lengths = {"q_len", "kv_len"} if "q_len" in axes and draw(st.booleans()) else {"seq_len"}
    given_axes: dict[str, Any] = {}
    for axis, what in axes.items():
        if axis not in ("seq_len", "q_len", "kv_len") or axis in lengths:
            values = VALUES.get(axis, (False, True) if what.kind == "switch" else ())
            given_axes[axis] = draw(st.sampled_from(values))
    heads = given_axes.get("heads", 1)
    given_axes |= {"kv_heads": min(heads, given_axes["kv_heads"])} if "kv_heads" in given_axes else {}
    if operation == "mha":
        if given_axes["attention"] == "self":
            given_axes |= dict.fromkeys(("kdim", "vdim"), given_axes["embed_dim"])
        else:
            given_axes["rotary"] = False
    return SHAPES[operation].from_axes(given_axes)


@given(st.sampled_from(MODULES).flatmap(lambda operation: st.tuples(st.just(operation), shapes(operation))))
def test_a_rows_shape_is_told_as_in_its_case_id(drawn: tuple[str, Any]) -> None:
    operation, shape = drawn
    row = {"operation": operation, **shape.columns()}
    assert shape_label(row) == shape.label


def test_every_axis_has_words_and_the_usual_value_of_its_shape() -> None:
    known = {"seq_len", *SHAPE, *CHOICES}
    for operation in MODULES:
        for axis, what in SHAPES[operation].AXES.items():
            assert axis in known, f"{axis} of {operation} is neither a size nor a choice"
            if axis in CHOICES:
                assert CHOICES[axis].usual == what.default, axis
                values = what.choices or ((False, True) if what.kind == "switch" else ())
                for tell in (CHOICES[axis].words, CHOICES[axis].label):
                    assert len({tell(value) for value in values}) == len(values)


def records(operation: str, axes: Sequence[dict[str, Any]], **common: Any) -> list[Record]:
    """Two implementations at each workload."""
    times = {"ours": 2e-3, "theirs": 1e-3}
    return [
        make_record(name, operation=operation, anchor="ours", latency_s=time, **{**common, **each})
        for each in axes
        for name, time in times.items()
    ]


def table(*several: list[Record]) -> pd.DataFrame:
    return from_records([record for some in several for record in some], "run")


def rows(*several: list[Record]) -> list[Row]:
    return rows_of(table(*several))


def test_modules_are_told_readably() -> None:
    (row, _) = rows(records("encoder_layer", [{"norm_first": True, "mask": "causal"}]))
    assert describe(row, ("embed_dim", "heads", "head_dim", "ff_dim", "lengths", "norm_first", "mask")) == (
        "E512, H8, F2048, L512, pre-norm, causal"
    )
    (row, _) = rows(records("mha", [{"attention": "cross", "q_len": 4, "kv_len": 9, "kdim": 64}]))
    told = describe(row, ("lengths", "attention", "kdim", "vdim"))
    assert told == "Lq4-Lk9, cross, kdim 64"


def test_what_goes_without_saying_is_said_where_others_have_something_else() -> None:
    both = rows(records("encoder_layer", [{"norm_first": False}, {"norm_first": True}]))
    assert [workload_label(row, usual(both)) for row in both[::2]] == ["post-norm", "pre-norm"]
    assert shape_label(both[0], ["norm_first"]) == "postnorm"
    alone = rows(records("encoder_layer", [{}]))
    assert "post-norm" not in plots.figures(table(records("encoder_layer", [{}])))[0].caption
    assert workload_label(alone[0], usual(alone)) == "L512"
    named = {"scenario": "mha", "operation": "mha", "kv_len": 8, "lengths": "L8"}
    assert describe(named, ("scenario", "operation", "lengths")) == "mha, L8"
    mixed = rows(records("mha", [{}]), records("positional_encoding", [{}]), records("attention", [{}]))
    assert all("bias" not in workload_label(row, usual(mixed)) for row in mixed)


SIZES = (64, 128, 256)
#: What is swept, along what, and what the panels are told apart by.
LOOKS: dict[str, tuple[str, list[dict[str, Any]], str, list[str]]] = {
    "heads": ("mha", [{"heads": n} for n in (1, 2, 4, 8, 16, 32)], "heads", [""]),
    "context": (
        "mha",
        [{"q_len": q, "kv_len": n} for q in (1, 4) for n in SIZES],
        "context",
        ["1 query", "4 queries"],
    ),
    "cross": ("mha", [{"q_len": 1, "kv_len": n, "attention": "cross"} for n in SIZES], "kv_len", [""]),
    "embed": ("encoder_layer", [{"embed_dim": n} for n in SIZES], "embed_dim", [""]),
    "wider": ("encoder_layer", [{"embed_dim": n, "heads": n // 32} for n in SIZES], "embed_dim", [""]),
    "narrow": ("encoder_layer", [{"embed_dim": n, "ff_dim": 100} for n in SIZES], "embed_dim", [""]),
    "inputs": ("mha", [{"kdim": n, "vdim": n, "attention": "cross"} for n in SIZES], "kdim", [""]),
    "inner": ("decoder_layer", [{"ff_dim": n} for n in SIZES], "ff_dim", [""]),
    "layers": ("transformer", [{"layers": n} for n in (1, 2, 6)], "layers", [""]),
    "encodings": ("positional_encoding", [{"embed_dim": n} for n in SIZES], "embed_dim", [""]),
    "norms": (
        "encoder_layer",
        [{"norm_first": n, "seq_len": length} for n in (False, True) for length in SIZES],
        "kv_len",
        ["post-norm", "pre-norm"],
    ),
    "weights": (
        "mha",
        [{"need_weights": n} for n in ("none", "averaged", "per_head")],
        "need_weights",
        [""],
    ),
    "switch": ("encoder_layer", [{"norm_first": n} for n in (False, True)], "norm_first", [""]),
    "masks": (
        "decoder_layer",
        [{"memory_mask": mask} for mask in ("none", "padding(0.5)")],
        "memory_mask",
        [""],
    ),
}


@pytest.mark.parametrize("name", LOOKS)
def test_the_axis_is_what_the_scenario_sweeps(name: str) -> None:
    operation, axes, key, titles = LOOKS[name]
    swept, single = split(rows(records(operation, axes)))
    assert not single
    assert {panel.along.key for panel in swept} == {key}
    assert [panel.title for panel in swept] == titles


def test_heads_at_constant_model_size_tell_theirs() -> None:
    operation, axes, _, _ = LOOKS["heads"]
    ((sweep,), _) = sweeps(rows(records(operation, axes)))
    assert sweep.axis.tick(sweep.rows[0]) == "1\nD512"
    assert sweep.axis.terms(sweep.rows[0]) == "at constant embed_dim"
    assert sweep.facts["embed_dim"] == "E512"
    assert "head_dim" not in sweep.facts


def test_a_growing_model_tells_what_grows_with_it() -> None:
    operation, axes, _, _ = LOOKS["wider"]
    ((sweep,), _) = sweeps(rows(records(operation, axes)))
    assert sweep.axis.tick(sweep.rows[0]) == "64\nH2"
    assert sweep.facts["ff_dim"] == "ff_dim = 4·embed_dim"
    assert sweep.facts["head_dim"] == "D32"


def test_decoding_is_drawn_against_the_context_as_time_per_token() -> None:
    axes = [{"q_len": 1, "kv_len": n} for n in SIZES]
    latency = next(
        plot for plot in plots.figures(table(records("mha", axes))) if plot.id == "latency-context"
    )
    assert latency.title == "Latency against context length"
    assert "time per token" in latency.caption


def test_categories_are_told_in_words() -> None:
    operation, axes, _, _ = LOOKS["weights"]
    figures = {plot.id: plot for plot in plots.figures(table(records(operation, axes)))}
    drawing = plots.svg(figures["by-need-weights"])
    for text in ("no weights", "averaged weights", "weights per head"):
        assert f">{text}<" in drawing
    assert figures["by-need-weights"].title == "By returned weights"


def test_shares_are_those_of_the_costs() -> None:
    found = records("decoder_layer", [{"q_len": 64, "mask": "causal", "kv_len": 512, "pass_": "backward"}])
    (each,) = work(rows(found), {})
    of = costs(found[0].workload, found[0].seed)
    assert each.flops == of.flops
    assert each.shares == {part: flops / of.flops for part, flops in of.parts.items()}
    assert each.cached is None
    assert [row["label"] for row in each.rows] == ["ours", "theirs"]
    assert each.fastest is not None
    assert each.fastest["label"] == "theirs"


@pytest.mark.parametrize("kv_heads", [8, 2])
def test_a_past_has_a_second_bar_for_what_a_cache_leaves(kv_heads: int) -> None:
    found = records(
        "mha", [{"q_len": 2, "kv_len": 500, "kv_heads": kv_heads, "batch": 3, "add_bias_kv": True}]
    )
    (each,) = work(rows(found), {})
    of = costs(found[0].workload, found[0].seed)
    assert each.cached is not None
    assert each.cached.flops == of.with_cache == of.useful_flops < of.flops
    assert each.cached.shares["attention"] * each.cached.flops == pytest.approx(of.parts["attention"])
    (both,) = work(rows(records("mha", [{"q_len": 2, "kv_len": 500, "pass_": "forward_backward"}])), {})
    assert both.cached is None, "the past has gradients"


def test_operations_of_one_part_and_failures_have_no_bar() -> None:
    one = rows(records("attention", [{}]), records("positional_encoding", [{}]))
    assert work(one, {}) == []
    assert work(rows(records("mha", [{}], status="oom")), {}) == []


def test_the_figure_of_work_shows_every_workload_and_nothing_unknown() -> None:
    swept = [{"seq_len": length, "norm_first": n} for n in (False, True) for length in SIZES]
    frame = table(records("encoder_layer", swept), records("mha", [{"q_len": 1, "kv_len": 99}]))
    plot = next(plot for plot in plots.figures(frame) if plot.id == "work")
    drawing = plots.svg(plot)
    assert drawing.count("FLOP<") == len(swept) + 2
    for text in ("projections", "attention", "feed-forward", "99, mha, with a cache"):
        assert text in drawing, text
    assert ">None" not in drawing
    assert ">nan" not in drawing
    assert list(plot.data["implementation"]) == ["ours", "theirs"] * (len(swept) + 1)
    assert "projected at every call" in plot.caption


def test_many_workloads_are_spread_over_figures() -> None:
    frame = table(records("encoder_layer", [{"seq_len": 8 * n} for n in range(1, 40)]))
    found = [plot for plot in plots.figures(frame) if plot.id.startswith("work")]
    assert [plot.id for plot in found] == ["work", "work-2"]
    shapes_shown = list(itertools.chain.from_iterable(plot.data["shape"] for plot in found))
    assert len(set(shapes_shown)) == 39


#: Where feed-forward, and where attention takes the most; heads and order of normalisation change nothing.
LENGTHS_OF_LAYERS = [{"seq_len": 64}, {"seq_len": 2048}]


def test_a_finding_says_where_the_arithmetic_is() -> None:
    found = {
        each.kind: each.text
        for each in findings(
            table(records("encoder_layer", [{"seq_len": 64, "norm_first": True}, *LENGTHS_OF_LAYERS]))
        )
    }
    assert found["work"] == (
        "Shares in the floating-point operations of 3 workloads: projections 20% to 33% (at L64); "
        "attention 2% to 40% (at L2048, post-norm); feed-forward 40% to 65% (at L64)."
    )
    assert "work" not in {each.kind for each in findings(table(records("attention", [{}])))}
