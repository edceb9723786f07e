import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import LineCollection, PolyCollection
from torch import nn

from netopsy._checks import NetopsyError
from netopsy.plots.profiles import profile
from netopsy.plots.slices import slice_map
from netopsy.plots.style import new_axes
from netopsy.probes.plane import plane_through
from netopsy.probes.region_slice import region_slice

SEGMENTS = pd.DataFrame(
    {"layer": ["a", "a", "b"], "unit": [0, 1, 0], "u0": [-1.0, 0, 0], "v0": [0.0, -1, 0], "u1": 1.0, "v1": 1.0}
)
HALVES = [np.array([[-1, -1], [0, -1], [0, 1], [-1, 1.0]]), np.array([[0, -1], [1, -1], [1, 1], [0, 1.0]])]


def drawn(ax: object, kind: type) -> list:
    return [one for one in ax.collections if isinstance(one, kind)]  # type: ignore[attr-defined]


def test_lines_of_several_layers_have_colors_and_a_legend() -> None:
    ax = slice_map(SEGMENTS, anchors=np.array([[0.5, 0.5]]), title="a $ b")
    assert [len(one.get_segments()) for one in drawn(ax, LineCollection)] == [2, 1]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.get_legend().get_title().get_text() == "layer"
    assert ax.get_aspect() == 1
    assert ax.lines[0].get_xydata().tolist() == [[0.5, 0.5]]
    assert slice_map(SEGMENTS[:2]).get_legend() is None


def test_filled_polygons_are_named_when_they_are_classes() -> None:
    ax = slice_map(SEGMENTS[:1], HALVES, np.array([3, 7]), named=True)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["class 3", "class 7"]
    (filled,) = drawn(ax, PolyCollection)
    one, other = filled.get_facecolors()
    assert not np.allclose(one, other)
    (alone,) = drawn(slice_map(SEGMENTS[:1], HALVES[1:], np.array([7]), named=True), PolyCollection)
    assert np.allclose(alone.get_facecolors(), other)  # a class has its color, whichever others there are
    assert slice_map(SEGMENTS[:1], HALVES, np.array([0, 1])).get_legend() is None


def test_a_slice_draws_itself() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    result = region_slice(model, plane_through(*torch.randn(3, 4)), classes=True)
    ax = new_axes(4, 4)
    assert result.plot(ax) is ax
    (lines,) = drawn(ax, LineCollection)
    assert len(lines.get_segments()) == len(result.segments)
    for color in ("region", "class"):
        (filled,) = drawn(result.plot(color=color), PolyCollection)
        assert len(filled.get_paths()) == len(result.polygons)


def test_slices_refuse_what_they_cannot_draw() -> None:
    with pytest.raises(NetopsyError, match="segments: expected columns layer, u0, v0, u1, v1; u0 missing"):
        slice_map(SEGMENTS.drop(columns="u0"))
    with pytest.raises(NetopsyError, match="fills: expected a number for each polygon"):
        slice_map(SEGMENTS, HALVES)
    with pytest.raises(NetopsyError, match="fills: expected a number for each polygon"):
        slice_map(SEGMENTS, HALVES, np.array([1]))


def ring(kinds: tuple[str, ...], nets: int) -> pd.DataFrame:
    rows = [
        {"kind": kind, "net": net, "angle": angle, "norm": 1.0 + net + place}
        for place, kind in enumerate(kinds)
        for net in range(nets)
        for angle in np.linspace(0, 6, 7)
    ]
    return pd.DataFrame(rows)


def test_profiles_are_means_over_nets_with_a_band() -> None:
    ax = profile(ring(("random", "same class"), 3), "norm")
    random, same = (line for line in ax.lines if len(line.get_xdata()) == 8)
    assert random.get_ydata() == pytest.approx([2.0] * 8)
    assert same.get_ydata() == pytest.approx([3.0] * 8)
    assert random.get_xdata()[-1] == pytest.approx(2 * np.pi)  # a closed curve ends where it starts
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (pytest.approx(2.0), pytest.approx(2 + 1 / 3**0.5))  # cut off below, on a log
    wide = profile(ring(("random",), 3), "norm", scale="linear").collections[0].get_paths()[0].vertices[:, 1]
    assert wide.min() == pytest.approx(2 - 1 / 3**0.5)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "π/3", "π", "5π/3", "2π"]
    assert "mean of 3 nets" in ax.get_xlabel()
    assert not profile(ring(("random",), 1), "norm", title="x").collections


def test_a_profile_is_averaged_over_close_angles_around_the_circle() -> None:
    frame = pd.DataFrame({"kind": "random", "net": 0, "angle": np.arange(8) * np.pi / 4, "norm": np.arange(8.0) ** 2})
    ax = profile(frame, "norm", window=np.pi / 4)
    (line,) = (line for line in ax.lines if len(line.get_xdata()) == 9)
    values = np.arange(8.0) ** 2
    expected = (np.roll(values, 1) + values + np.roll(values, -1)) / 3
    assert line.get_ydata() == pytest.approx([*expected, expected[0]])
    assert "each ±45°" in ax.get_xlabel()
    alone = profile(frame, "norm", window=0.7).lines
    assert next(one for one in alone if len(one.get_xdata()) == 9).get_ydata() == pytest.approx([*values, 0])


def test_a_narrow_logarithmic_axis_has_plain_numbers() -> None:
    ax = profile(ring(("random",), 1).assign(norm=lambda frame: 2 + frame.angle), "norm")
    ax.figure.canvas.draw()
    assert "5" in [tick.get_text() for tick in ax.get_yticklabels()]
    assert not ax.yaxis.get_minorticklocs().size


def test_profiles_refuse_what_they_cannot_draw() -> None:
    with pytest.raises(NetopsyError, match="angle"):
        profile(ring(("random",), 1).drop(columns="angle"), "norm")
    with pytest.raises(NetopsyError, match="at most 4 kinds of paths; got 5"):
        profile(ring(tuple("abcde"), 1), "norm")
    with pytest.raises(NetopsyError, match="scale: expected one of"):
        profile(ring(("a",), 1), "norm", scale="symlog")
    with pytest.raises(NetopsyError, match="window: expected a number"):
        profile(ring(("a",), 1), "norm", window=-0.1)
