"""The sinusoidal positional encoding as pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.plots.positions import sinusoidal_encoding, sinusoidal_positions, wavelength


@given(st.integers(1, 40), st.integers(1, 33))
def test_the_encoding_is_the_papers(length: int, embed_dim: int) -> None:
    found = sinusoidal_encoding(length, embed_dim)
    assert (found.dtype, found.shape) == (np.float64, (length, embed_dim))
    for position, dimension in (
        (0, 0),
        (length - 1, 0),
        (length - 1, embed_dim - 1),
        (length // 2, embed_dim // 2),
    ):
        pair = dimension // 2
        angle = position / 10000 ** (2 * pair / embed_dim)
        expected = math.cos(angle) if dimension % 2 else math.sin(angle)
        assert found[position, dimension] == pytest.approx(expected, abs=1e-12)


def test_wavelengths_go_from_2_pi_towards_10000_times_that() -> None:
    assert wavelength(0, 512) == wavelength(1, 512) == 2 * math.pi
    lengths = [wavelength(dimension, 512) for dimension in range(0, 512, 2)]
    ratios = np.diff(np.log(lengths))
    assert np.allclose(ratios, ratios[0]), "a geometric progression (§3.5)"
    assert 9600 * 2 * math.pi < lengths[-1] < 10000 * 2 * math.pi
    with pytest.raises(ValueError, match=r"from 0 to 511 .*got 512"):
        wavelength(512, 512)


def test_the_map_and_the_waves_show_the_encoding() -> None:
    figure = sinusoidal_positions(20, 16)
    (shown,) = [axes for axes in figure.axes if axes.images]
    assert np.array_equal(shown.images[0].get_array(), sinusoidal_encoding(20, 16))
    assert (shown.get_xlabel(), shown.get_ylabel()) == ("dimension", "position")
    assert shown.images[0].get_clim() == (-1, 1)
    waves = [axes for axes in figure.axes if axes.lines and not axes.images]
    titles = [axes.get_title("left") for axes in waves]
    assert titles[0] == "dimensions 0, 1: wavelength 2π = 6.28"
    assert titles[-1].startswith("dimensions 14, 15: wavelength 3162·2π = ")
    sine, sine_dots, cosine, cosine_dots = waves[-1].lines
    assert np.allclose(sine_dots.get_ydata(), sinusoidal_encoding(20, 16)[:, 14])
    assert np.allclose(cosine_dots.get_ydata(), sinusoidal_encoding(20, 16)[:, 15])
    assert (sine.get_label(), cosine.get_label()) == ("sine, 2i", "cosine, 2i + 1")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["sine, 2i", "cosine, 2i + 1"]


def test_dimensions_can_be_chosen_by_either_of_a_pair() -> None:
    figure = sinusoidal_positions(8, 16, dimensions=[5, 4, 10])
    titles = [axes.get_title("left").split(":")[0] for axes in figure.axes if axes.lines and not axes.images]
    assert titles == ["dimensions 4, 5", "dimensions 10, 11"]


def test_one_position_and_an_odd_dimension() -> None:
    figure = sinusoidal_positions(1, 3)
    titles = [axes.get_title("left").split(":")[0] for axes in figure.axes if axes.lines and not axes.images]
    assert titles == ["dimensions 0, 1", "dimension 2"]
    (shown,) = [axes for axes in figure.axes if axes.images]
    assert all(tick == round(tick) for tick in shown.get_yticks()), "there are no halves of positions"


def test_beyond_the_maps_room_its_cells_are_told() -> None:
    figure = sinusoidal_positions(2000, 1300)
    (shown,) = [axes for axes in figure.axes if axes.images]
    values = shown.images[0].get_array()
    assert values is not None
    assert shown.get_ylabel() == "position (each row the mean of 4)"
    assert shown.get_xlabel() == "dimension (one pair in 3 is shown)"
    whole = sinusoidal_encoding(2000, 1300)
    assert np.allclose(values[1], whole[4:8].mean(0)[np.arange(1300) // 2 % 3 == 0])
    assert shown.get_ylim() == (1999.5, -0.5)


def test_no_title_leaves_the_figure() -> None:
    figure = sinusoidal_positions(300, 65536)
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert axes.get_tightbbox().x1 <= figure.bbox.x1  # type: ignore[union-attr]  # all are visible


def test_no_wave_is_drawn_with_too_few_points() -> None:
    figure = sinusoidal_positions(10_000, 2)
    (wave,) = [axes for axes in figure.axes if axes.lines and not axes.images]
    steps = np.diff(np.asarray(wave.lines[0].get_xdata(), dtype=float))
    assert steps.max() < 2 * math.pi / 8


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"length": 10_001}, "at most 10000 in a picture, got 10001"),
        ({"embed_dim": 0}, "embed_dim must be at least 1, got 0"),
        ({"dimensions": [128]}, "from 0 to 127"),
        ({"dimensions": []}, "at least one dimension"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        sinusoidal_positions(**arguments)  # type: ignore[arg-type]  # what is wrong is the point
