"""Pictures of students and teachers: what is where, and what is refused."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection, QuadMesh

from netopsy._checks import NetopsyError
from netopsy.plots.matching import bias_histograms, match_heatmap, match_lines, norm_bands, seed_bands

MATRIX = np.array([[0.1, 0.9, 0.3, 0.0], [0.8, -1.2, np.nan, 0.2]])
RUNS = pd.DataFrame(
    {
        "epoch": [0, 0, 5, 5] * 2,
        "layer": ["low"] * 4 + ["high"] * 4,
        "seed": [0, 1] * 4,
        "rho_bar": [0.2, 0.4, 0.6, 0.9, 0.1, 0.1, 0.3, np.nan],
        "rank": [0.3] * 8,
    }
)


def test_columns_are_in_the_order_of_the_matches() -> None:
    def drawn(match: list[int] | None) -> list[list[float | None]]:
        ax = match_heatmap(MATRIX, None if match is None else np.array(match))
        mesh = next(part for part in ax.collections if isinstance(part, QuadMesh))
        assert (mesh.norm.vmin, mesh.norm.vmax) == (-1.2, 1.2)
        assert ax.get_ylim() == (2, 0)
        ax.figure.canvas.draw()
        values: list[list[float | None]] = np.ma.asarray(mesh.get_array()).tolist()
        return values

    assert drawn(None) == [[0.1, 0.9, 0.3, 0.0], [0.8, -1.2, None, 0.2]]
    assert drawn([1, 0]) == [[0.9, 0.1, 0.3, 0.0], [-1.2, 0.8, None, 0.2]]
    assert drawn([3, 3]) == [[0.0, 0.1, 0.9, 0.3], [0.2, 0.8, -1.2, None]]
    assert drawn([-1, 2]) == [[0.3, 0.1, 0.9, 0.0], [None, 0.8, -1.2, 0.2]]


def test_lines_are_means_and_bands_from_least_to_largest() -> None:
    ax = match_lines(RUNS)
    low, high = ax.lines
    assert (low.get_label(), high.get_label()) == ("low", "high")
    assert np.asarray(low.get_xdata()).tolist() == [0, 5]
    np.testing.assert_allclose(np.asarray(low.get_ydata(), dtype=float), [0.3, 0.75])
    np.testing.assert_allclose(np.asarray(high.get_ydata(), dtype=float), [0.1, 0.3])
    band = next(part for part in ax.collections if isinstance(part, PolyCollection))
    heights = band.get_paths()[0].vertices[:, 1]  # type: ignore[index]
    assert (heights.min(), heights.max()) == (0.2, 0.9)
    assert ax.get_xlabel() == "epoch"
    named = RUNS[RUNS.seed == 0].assign(epoch=["start", "end"] * 2)
    ax = match_lines(named, column="rank")
    assert ax.get_xlabel() == "checkpoint"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["start", "end"]
    assert ax.get_ylim()[0] == 0
    ax.figure.canvas.draw()


@pytest.mark.parametrize(("band", "ends"), [("range", (0.1, 0.5)), ("sd", (0.3 - 0.2, 0.3 + 0.2))])
def test_bands_of_seeds(band: Literal["range", "sd"], ends: tuple[float, float]) -> None:
    """Two seeds: the deviation from their mean is half of their difference; kinds without a look are not drawn."""
    frame = pd.DataFrame(
        {"kind": ["a"] * 4 + ["b"] * 2, "seed": [0, 1, 0, 1, 0, 0], "x": [0, 0, 2, 2, 0, 2],
         "y": [0.1, 0.5, 0.4, np.nan, 1.0, 1.0]}
    )  # fmt: skip
    ax = seed_bands(frame, "x", "y", by="kind", looks={"a": ("one", "#000000", "--"), "c": ("", "k", "-")}, band=band)
    (line,) = ax.lines
    assert (line.get_label(), line.get_linestyle()) == ("one", "--")
    np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=float), [0.3, 0.4])
    vertices = ax.collections[0].get_paths()[0].vertices
    assert isinstance(vertices, np.ndarray)
    heights = vertices[vertices[:, 0] == 0][:, 1]
    assert (heights.min(), heights.max()) == pytest.approx(ends)


def test_bands_of_norms() -> None:
    nodes = pd.DataFrame(
        {"time": [0, 0, 0, 1, 1, 1], "set": ["u", "r", "r"] * 2, "fan_out_norm": [1.0, 1.0, 1.0, 1.2, 0.2, 0.6]}
    )
    ax = norm_bands(nodes)
    assert [np.asarray(line.get_ydata()).tolist() for line in ax.lines] == [[1, 1.2], [1, 0.4]]
    heights = ax.collections[1].get_paths()[0].vertices[:, 1]  # type: ignore[index]
    assert heights.min() == pytest.approx(0.2)  # .4 less the deviation of .2 and .6
    assert len(norm_bands(nodes[nodes.set == "u"]).lines) == 1
    ax.figure.canvas.draw()


def test_a_panel_a_layer_with_the_share_of_positive_biases() -> None:
    frame = pd.DataFrame({"layer": ["a"] * 4 + ["b"] * 2, "bias": [-1.0, -0.5, -0.1, 0.3, -0.2, 0.0]})
    figure = bias_histograms(frame, columns=3, bins=4)
    shown = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_title() for panel in shown] == ["a\n25% positive", "b\n0% positive"]
    heights = [sum(patch.get_height() for patch in panel.patches) for panel in shown]  # type: ignore[attr-defined]
    assert heights == [4, 2]
    assert all(patch.get_x() < 0 for patch in shown[1].patches if patch.get_height())  # type: ignore[attr-defined]
    figure.canvas.draw()
    bias_histograms(frame.assign(bias=0.0)).canvas.draw()
    assert [panel.get_visible() for panel in bias_histograms(frame.assign(layer=list("abcdef"))).axes] == [
        True
    ] * 6 + [False] * 2


@pytest.mark.usefixtures("unchecked")
def test_refusals() -> None:
    with pytest.raises(
        NetopsyError, match=r"matrix: expected rows and columns with finite numbers; got shape \(2, 2\)"
    ):
        match_heatmap(np.full((2, 2), np.nan))
    for match in ([0], [0, 4]):
        with pytest.raises(NetopsyError, match="match: expected a column below 4 for each of 2 rows"):
            match_heatmap(MATRIX, np.array(match))
    with pytest.raises(NetopsyError, match="expected one row for epoch, layer; got several; add a column seed"):
        match_lines(RUNS.drop(columns="seed"))
    with pytest.raises(NetopsyError, match="column: expected one of 'rho_bar', 'rank', 'loss'; got 'angle'"):
        match_lines(RUNS, column="angle")  # type: ignore[arg-type]
    with pytest.raises(NetopsyError, match="missing loss"):
        match_lines(RUNS, column="loss")
    twice = pd.concat([RUNS, RUNS])
    with pytest.raises(NetopsyError, match="expected one row for layer, seed and epoch; got several"):
        seed_bands(twice, "epoch", "rank", by="layer", looks={})
    with pytest.raises(NetopsyError, match="band: expected one of 'range', 'sd'; got 'se'"):
        seed_bands(RUNS, "epoch", "rank", by="layer", looks={}, band="se")  # type: ignore[arg-type]
    with pytest.raises(NetopsyError, match="missing fan_out_norm"):
        norm_bands(pd.DataFrame({"time": [0], "set": ["u"]}))
    with pytest.raises(NetopsyError, match="expected finite biases; got NaN or infinite ones"):
        bias_histograms(pd.DataFrame({"layer": ["a"], "bias": [np.nan]}))
    with pytest.raises(NetopsyError, match="got an empty frame"):
        bias_histograms(pd.DataFrame({"layer": [], "bias": []}))
