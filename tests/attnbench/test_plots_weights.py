"""Heat maps of attention weights: what is shown, what is told apart, what is said."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from attnbench.plots.pooling import WRONG, pooled
from attnbench.plots.render import png_of, svg_of
from attnbench.plots.style import DANGER
from attnbench.plots.weights import attention_weights

Array = npt.NDArray[np.float64]


def causal(heads: int, queries: int, keys: int) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Softmax weights under a causal mask that ends with the last key; 0 for queries that see none."""
    scores = 2 * np.random.default_rng(0).normal(size=(heads, queries, keys))
    allowed = np.arange(keys) <= np.arange(queries)[:, None] + keys - queries
    powers = np.where(allowed, np.exp(scores), 0.0)
    return powers / np.maximum(powers.sum(-1, keepdims=True), 1e-300), allowed


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.images]


def image(axes: Axes) -> AxesImage:
    (found,) = axes.images
    return found


def colours(axes: Axes) -> Any:
    """What each cell is painted with, `[rows, columns, RGBA]`; alpha 0 shows the hatching behind."""
    found = image(axes)
    return found.cmap(found.norm(found.get_array()))


def texts(figure: Figure) -> list[str]:
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [text.get_text() for text in figure.texts] + legends


def test_each_head_has_a_labelled_panel_on_one_scale() -> None:
    weights, _ = causal(6, 5, 7)
    figure = attention_weights(weights, title="a case")
    drawn = panels(figure)
    assert [axes.get_title("left") for axes in drawn] == [f"head {number}" for number in range(6)]
    assert {image(axes).get_clim() for axes in drawn} == {(0.0, weights.max())}
    assert {axes.get_xlabel() for axes in drawn} == {"", "key position"}
    assert {axes.get_ylabel() for axes in drawn} == {"", "query position"}
    (bar,) = [axes for axes in figure.axes if axes not in drawn]
    assert bar.get_ylabel() == "attention weight"
    assert bar.get_ylim() == (0.0, weights.max())
    assert "a case" in texts(figure)
    for axes, expected in zip(drawn, weights, strict=True):
        assert np.array_equal(image(axes).get_array(), expected)


def test_what_is_masked_is_hatched_and_no_zero() -> None:
    weights = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    figure = attention_weights(weights, np.array([[True, False], [True, True]]))
    (axes,) = panels(figure)
    painted = colours(axes)
    assert painted[0, 1, 3] == 0, "the hatching shows"
    assert painted[1, 0, 3] == 1, "a zero is on the scale"
    assert axes.patch.get_hatch()
    assert not np.allclose(painted[1, 0], axes.patch.get_facecolor(), atol=0.05)
    assert texts(figure) == ["masked"]


def test_without_a_mask_nothing_is_said_of_one() -> None:
    assert texts(attention_weights(np.eye(3))) == []


def test_masks_may_differ_by_head() -> None:
    allowed = np.array([[[True, False]], [[True, True]]])
    first, second = panels(attention_weights([[[1.0, 0.0]], [[0.5, 0.5]]], allowed))
    assert colours(first)[0, 1, 3] == 0
    assert colours(second)[0, 1, 3] == 1


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.25, "a weight where attention is not allowed"),
        (float("nan"), "not finite"),
        (float("inf"), "not finite"),
        (-0.01, "negative"),
    ],
)
def test_what_is_no_weight_is_red_and_named(value: float, told: str) -> None:
    weights, allowed = causal(1, 4, 4)
    weights[0, 1, 3] = value
    figure = attention_weights(weights, allowed)
    (axes,) = panels(figure)
    assert tuple(colours(axes)[1, 3]) == pytest.approx(to_rgba(DANGER))
    assert sum("wrong" in text and told in text for text in texts(figure)) == 1
    assert image(axes).get_clim() == (0.0, 1.0), "it does not stretch the scale"


def test_what_rounding_leaves_of_a_masked_weight_is_masked() -> None:
    weights, allowed = causal(1, 4, 4)
    weights[0, 1, 3] = 1e-9
    assert texts(attention_weights(weights, allowed)) == ["masked"]


def test_more_positions_than_room_are_pooled_and_that_is_said() -> None:
    weights = np.zeros((32, 512, 512))
    weights[3, 100, 7] = 0.5
    allowed = np.tri(512, dtype=bool)
    figure = attention_weights(weights, allowed)
    values = image(panels(figure)[3]).get_array()
    assert values.shape[0] < 512
    assert values.max() == 0.5, "no weight is lost"
    assert [text for text in texts(figure) if text.startswith("There are more positions than room")]
    # The axes still count positions, not cells.
    assert panels(figure)[3].get_xlim() == (-0.5, 511.5)


def test_a_head_of_512_positions_has_room_for_all() -> None:
    figure = attention_weights(np.eye(512))
    assert image(panels(figure)[0]).get_array().shape == (512, 512)
    assert texts(figure) == []
    axes = panels(figure)[0]
    figure.draw_without_rendering()
    dots = axes.get_window_extent().transformed(figure.dpi_scale_trans.inverted()).width * 144
    assert dots >= 512


@given(
    weights=arrays.arrays(np.float64, (2, 7, 11), elements=st.floats(0, 1)),
    allowed=arrays.arrays(np.bool_, (2, 7, 11)),
    most=st.tuples(st.integers(1, 9), st.integers(1, 13)),
)
def test_a_cell_is_the_largest_of_what_it_stands_for(
    weights: Array, allowed: npt.NDArray[np.bool_], most: tuple[int, int]
) -> None:
    weights = np.where(allowed, weights, 0.0)
    cells = pooled(weights, allowed, most)
    down, across = cells.step
    assert cells.values.shape[1] <= most[0]
    assert cells.values.shape[2] <= most[1]
    assert cells.faults == ()
    for head, row, column in np.ndindex(cells.values.shape):
        place = np.s_[head, row * down : (row + 1) * down, column * across : (column + 1) * across]
        inside = weights[place][allowed[place]]
        if inside.size:
            assert cells.values[head, row, column] == inside.max()
        else:
            assert np.isnan(cells.values[head, row, column])


def test_a_wrong_weight_is_not_lost_among_others() -> None:
    weights = np.full((1, 4, 4), 0.25)
    weights[0, 3, 3] = np.nan
    cells = pooled(weights, np.ones((1, 4, 4), dtype=bool), (2, 2))
    assert cells.values[0].tolist() == [[0.25, 0.25], [0.25, WRONG]]


@pytest.mark.parametrize(
    ("heads", "queries", "keys", "named"),
    [
        (1, 2, 2, False),
        (1, 300, 300, True),
        (8, 64, 64, False),
        (4, 1, 512, False),
        (3, 60, 6, True),
        (5, 7, 7, True),
        (32, 96, 96, False),
    ],
)
def test_nothing_overlaps(heads: int, queries: int, keys: int, named: bool) -> None:
    weights, allowed = causal(heads, queries, keys)
    weights[0, 0, 0] = -1
    names = {
        "queries": [f"longer token {index}" for index in range(queries)],
        "keys": [f"longer token {index}" for index in range(keys)],
    }
    figure = attention_weights(
        weights,
        allowed,
        title="attention/B1-H8-Lq1-Lk512-D64/bfloat16/causal+sliding_window(128)/forward/cpu/chunked(block=256)",
        notes=["Batch element 0 of 0 to 3."],
        **(names if named else {}),  # type: ignore[arg-type]  # each name's own type
    )
    figure.draw_without_rendering()
    inside = figure.bbox.padded(1)
    around = [*figure.texts, *figure.legends]
    for axes in panels(figure):
        for axis in (axes.xaxis, axes.yaxis):
            shown = [label for label in axis.get_ticklabels() if label.get_visible() and label.get_text()]
            labels = [label.get_window_extent() for label in shown]
            assert not any(a.overlaps(b) for a, b in itertools.pairwise(labels))
    assert panels(figure)[0].get_yticklabels()
    assert panels(figure)[-1].get_xticklabels()
    boxes = [each.get_window_extent() for each in around] + [axes.get_tightbbox() for axes in panels(figure)]
    for one, other in itertools.combinations([box for box in boxes if box is not None], 2):
        assert not one.shrunk(0.98, 0.98).overlaps(other.shrunk(0.98, 0.98))
    for box in boxes:
        assert box is not None
        assert inside.x0 <= box.x0 <= box.x1 <= inside.x1
        assert inside.y0 <= box.y0 <= box.y1 <= inside.y1


def test_positions_bear_the_names_of_tokens() -> None:
    tokens = ["the", "$x$", "a\x1bvery\nlong token that goes on"]
    (axes,) = panels(attention_weights(np.eye(3), queries=tokens, keys=tokens))
    for axis in (axes.xaxis, axes.yaxis):
        shown = [label.get_text() for label in axis.get_ticklabels()]
        assert shown[:2] == tokens[:2]
        assert len(shown[2]) <= 14
        assert "\x1b" not in shown[2]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("key", "query")


def test_an_average_has_no_heads_name() -> None:
    (axes,) = panels(attention_weights(np.eye(3)))
    assert axes.get_title("left") == ""
    (axes,) = panels(attention_weights(np.eye(3)[None], heads=[5]))
    assert axes.get_title("left") == "head 5"


def test_weights_of_nothing_but_zeros_have_a_scale() -> None:
    (axes,) = panels(attention_weights(np.zeros((2, 2)), np.zeros((2, 2), dtype=bool)))
    assert image(axes).get_clim() == (0.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"weights": np.zeros(3)}, r"\[H, Lq, Lk\] or \[Lq, Lk\].*got \(3,\)"),
        ({"weights": np.zeros((1, 0, 3))}, r"got \(1, 0, 3\)"),
        ({"allowed": np.ones((3, 2), dtype=bool)}, r"shape \(2, 3\) or \(1, 2, 3\).*got bool .*\(3, 2\)"),
        ({"allowed": np.ones((2, 3))}, "boolean.*got float64"),
        ({"keys": ["a", "b"]}, "keys must name each of the 3.*got 2 names"),
        ({"queries": ["a"]}, "queries must name each of the 2"),
        ({"heads": [0, 1]}, "heads must name each of the 1"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_shape(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        attention_weights(**{"weights": np.zeros((2, 3)), **arguments})


def test_the_same_weights_give_the_same_bytes() -> None:
    one, other = (attention_weights(*causal(2, 8, 8), title="a & b") for _ in range(2))
    assert svg_of(one) == svg_of(other)
    assert png_of(one) == png_of(other)
    assert "a &amp; b" in svg_of(one)
