"""Pictures of criticality, valleys and paths show the frame's numbers, and what has no number as what it is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from mpl_toolkits.mplot3d.axes3d import Axes3D

from netopsy._checks import NetopsyError
from netopsy.plots._grids import read_grids, sigma_scale
from netopsy.plots._landscape import FINE
from netopsy.plots.cka import cka_heatmap, counted
from netopsy.plots.criticality import criticality_bars, criticality_curves
from netopsy.plots.paths import path_panels, wilson
from netopsy.plots.spectra import spectrum_lines
from netopsy.plots.style import BLUE
from netopsy.plots.valley import panel_columns, valley_map, valley_panels, valley_surface
from netopsy.probes.criticality_result import CriticalityResult
from netopsy.probes.valley_result import ValleyResult

ALPHAS, SIGMAS = (0.0, 0.5, 1.0), (0.0, 0.01, 0.1, 1.0)
PROVENANCE = {"noise_samples": 4, "confidence": 0.9, "epsilon": [0.1]}


def value(alpha: float, sigma: float) -> float:
    return 0.4 * (1 - alpha) + 0.3 * sigma


def grid(*sites: str, split: str = "train") -> pd.DataFrame:
    rows = [
        {"site": site, "split": split, "alpha": a, "sigma": s, "error": value(a, s), "loss": 3 * value(a, s)}
        for site in sites
        for a in ALPHAS
        for s in SIGMAS
    ]
    return pd.DataFrame(rows).assign(examples=1200)


def line(*sites: str) -> pd.DataFrame:
    frame = pd.concat([grid(*sites), grid(*sites, split="test").assign(examples=300)])
    return frame[frame.sigma == 0].reset_index(drop=True)


def table(epsilons: tuple[float, ...] = (0.1,)) -> pd.DataFrame:
    """Five modules, one of each status."""
    kinds = ("feasible", "alpha-zero", "no-op", "infeasible", "non-finite")
    mu = (100.0, 0.0, 0.0, np.nan, np.nan)
    rows = [
        {"site": f"m{i}", "epsilon": e, "mu": m * (1 + k), "mu_low": m / 2, "mu_high": m * 4, "status": kind}
        for k, e in enumerate(epsilons)
        for i, (kind, m) in enumerate(zip(kinds, mu, strict=True))
    ]
    return pd.DataFrame(rows).assign(alpha=0.5, sigma=0.1)


def plain() -> Axes:
    """Axes on a figure without a layout engine, which is what takes time."""
    return Figure(figsize=(7, 4)).add_subplot()


def legend(owner: Axes) -> list[str]:
    found = owner.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def title(owner: Axes) -> str:
    found = owner.get_legend()
    assert found is not None
    return str(found.get_title().get_text())


def marks(ax: Axes, kind: str) -> list[float]:
    return [float(x) for item in ax.lines if item.get_gid() == kind for x in np.asarray(item.get_xdata())]


def test_a_bar_for_mu_its_interval_and_a_mark_for_what_has_none() -> None:
    ax = criticality_bars(table(), confidence=0.9, draws=4, ax=plain())
    (bar,) = ax.patches
    assert bar.get_y() + bar.get_height() == pytest.approx(100)  # type: ignore[attr-defined]
    (segments,) = [item.get_segments() for item in ax.collections if isinstance(item, LineCollection)]
    np.testing.assert_allclose(segments[0], [[0, 50], [0, 400]])
    assert ax.get_yscale() == "log"
    assert [marks(ax, kind) for kind in ("alpha-zero", "no-op", "infeasible", "non-finite")] == [[1], [2], [3], [4]]
    heights = {item.get_gid(): float(np.asarray(item.get_ydata())[0]) for item in ax.lines if item.get_gid()}
    assert heights["alpha-zero"] == heights["no-op"] < 0.1 < 0.9 < heights["infeasible"] == heights["non-finite"]
    assert legend(ax) == ["μ = 0 (alpha-zero)", "μ = 0 (no-op)", "no μ (infeasible)", "no μ (non-finite)"]
    assert title(ax) == "ε = 0.1\nline: 90 % interval over\nn = 4 draws of noise"
    low, high = ax.get_ylim()
    assert low < 50 < 400 < high


def test_several_epsilons_are_dots_side_by_side() -> None:
    ax = criticality_bars(table((0.1, 0.05)), ax=plain())
    assert not ax.patches
    dots = {
        str(item.get_label()): np.asarray(item.get_xydata())[0] for item in ax.lines if "ε" in str(item.get_label())
    }
    assert [*dots] == ["ε = 0.05", "ε = 0.1"]
    assert dots["ε = 0.05"][1] == 200
    assert dots["ε = 0.1"][1] == 100
    assert dots["ε = 0.05"][0] < 0 < dots["ε = 0.1"][0]
    assert len(marks(ax, "infeasible")) == 2
    assert title(ax) == "line: interval over\nthe draws of noise"


def test_bars_without_any_mu_have_no_numbers_on_the_axis() -> None:
    frame = table()
    ax = criticality_bars(frame[frame.status != "feasible"], members=["m1"], ax=plain())
    assert list(ax.get_yticks()) == []
    assert title(ax) == "ε = 0.1"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["*m1", "m2", "m3", "m4"]


def test_frames_of_criticality_that_say_nothing_are_refused() -> None:
    with pytest.raises(NetopsyError, match="expected one row for a site and epsilon"):
        criticality_bars(pd.concat([table(), table()]))
    with pytest.raises(NetopsyError, match=r"status: expected feasible.*got better"):
        criticality_bars(table().replace({"status": {"feasible": "better"}}))
    with pytest.raises(NetopsyError, match="missing mu"):
        criticality_bars(table().drop(columns="mu"))
    with pytest.raises(NetopsyError, match="members: expected names of sites"):
        criticality_bars(table(), members=["nobody"])


def nets() -> pd.DataFrame:
    rows = [("a", 0.05, 100.0, 3), ("a", 0.1, 10.0, 3), ("b", 0.05, np.nan, 2), ("b", 0.1, 0.0, 3)]
    frame = pd.DataFrame(rows, columns=["net", "epsilon", "mean", "n"])
    return frame.assign(low=frame["mean"] / 2, high=frame["mean"] * 2)


def test_a_line_a_network_over_epsilon() -> None:
    ax = criticality_curves(nets(), spread="line: ± sd", ax=plain())
    lines = {str(item.get_label()): item for item in ax.lines}
    np.testing.assert_allclose(lines["a (n = 3)"].get_ydata(), [100, 10])
    assert np.isnan(np.asarray(lines["b (n = 2 to 3)"].get_ydata(), float)).all()
    assert legend(ax) == ["a (n = 3)", "b (n = 2 to 3)", "0", "no value: a module has none"]
    assert title(ax) == "line: ± sd"
    np.testing.assert_allclose(marks(ax, "alpha-zero"), 0.1, atol=0.01)
    np.testing.assert_allclose(marks(ax, "infeasible"), 0.05, atol=0.01)
    straight = criticality_curves(nets(), log=False, ax=plain())
    assert marks(straight, "alpha-zero") == []
    np.testing.assert_allclose(straight.lines[1].get_ydata(), [np.nan, 0])
    assert straight.get_ylim()[0] == 0
    with pytest.raises(NetopsyError, match="expected one row for a net and epsilon"):
        criticality_curves(pd.concat([nets(), nets()]))


def test_zero_lies_a_step_below_the_least_sigma() -> None:
    scale = sigma_scale(read_grids(grid("a"), "error", None))
    np.testing.assert_allclose(scale.at(np.array([0, 0.01, 1.0])), [-3, -2, 0])
    places, names = scale.ticks()
    assert names == ["0", "0.01", "0.1", "1"]
    np.testing.assert_allclose(places, [-3, -2, -1, 0])
    wider = sigma_scale(read_grids(grid("a"), "error", None), [10.0])
    assert wider.top == 1


def test_a_map_has_lines_at_the_levels_and_says_what_it_shows() -> None:
    frame = grid("a.b").sample(frac=1, random_state=0)  # in any order
    ax = valley_map(frame, draws=4, levels=(0.05, 0.2, 0.9))
    filled, lines = ax.collections
    assert len(lines.get_paths()) == 2  # 0.9 is nowhere
    crossing = lines.get_paths()[1].vertices
    assert crossing[np.argmin(crossing[:, 1])] == pytest.approx((0.5, -3))  # error 0.2 at sigma 0: alpha 0.5
    assert filled.get_clim() == pytest.approx((0, 0.7))
    assert ax.get_title() == "a.b"
    assert ax.get_xlabel() == "α (0: initial, 1: trained)\nn = 1,200 examples, mean of 4 draws of noise"
    assert ax.figure.axes[1].get_ylabel() == "train error (%)"
    assert {text.get_text() for text in ax.texts} == {"5", "20"}


def test_points_without_a_value_stay_gray() -> None:
    frame = grid("a")
    frame.loc[frame.sigma == 1, "loss"] = np.inf
    ax = valley_map(frame, metric="loss", vmax=0.9)
    assert "gray: not measured" in ax.get_xlabel()
    assert ax.figure.axes[1].get_ylabel() == "train loss"
    assert max(path[1].max() for path in (p.vertices.T for p in ax.collections[0].get_paths()) if path.size) <= -1


def test_panels_share_their_scales_and_stars_mark_the_optima() -> None:
    frame = pd.concat([grid("a"), grid("b").assign(sigma=grid("b").sigma / 10)])
    optima = pd.DataFrame({"site": ["a", "a", "other"], "alpha": [0.5, np.nan, 0.1], "sigma": [0.1, 0.1, 0.1]})
    figure = valley_panels(frame, optima=optima, levels=(0.1,))
    left, right = figure.axes[:2]
    assert left.get_ylim() == right.get_ylim()
    assert left.collections[0].get_clim() == right.collections[0].get_clim() == pytest.approx((0, 0.7))
    (star,) = left.lines
    np.testing.assert_allclose(star.get_xydata(), [[0.5, -1]])
    assert not right.lines
    texts = [text.get_text() for text in figure.texts]
    assert any("lines: 10 %   ★ found optimum   gray: not measured" in text for text in texts)
    assert [panel_columns(count) for count in (1, 4, 5, 6, 8, 21)] == [1, 4, 5, 3, 4, 5]


def test_a_landscape_is_the_same_on_both_sides_of_the_path() -> None:
    ax = valley_surface(grid("a"), draws=4)
    assert isinstance(ax, Axes3D)
    assert ax.get_zlim() == pytest.approx((0, 0.7))
    (surface,) = [item for item in ax.collections if isinstance(item, Poly3DCollection)]
    assert len(surface.get_facecolor()) == 6 * FINE * 2 * FINE
    path = next(item for item in ax.lines if item.get_label() == "path")
    x, alpha, height = path.get_data_3d()
    np.testing.assert_allclose(x, 0)
    np.testing.assert_allclose(height, [value(a, 0) for a in alpha])
    assert to_hex(path.get_color()) == BLUE.lower()
    assert [text.get_text() for text in ax.texts] == ["θ⁰", "θᶠ  ", "n = 1,200 examples, mean of 4 draws of noise"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "0.1", "0.01", "0", "0.01", "0.1", "1"]
    with pytest.raises(NetopsyError, match="ax: expected three-dimensional axes; got Axes"):
        valley_surface(grid("a"), ax=plain())
    pair = valley_panels(grid("a", "b"), kind="surface")
    assert [panel.get_title() for panel in pair.axes] == ["a", "b"]


def test_frames_that_make_no_map_are_refused() -> None:
    with pytest.raises(NetopsyError, match=r"expected one module; got 2 \(a, b\); draw several with"):
        valley_map(grid("a", "b"))
    with pytest.raises(NetopsyError, match="at least two alphas and two sigmas for 'a'; got 3 and 1"):
        valley_map(line("a"))
    with pytest.raises(NetopsyError, match="expected one row for a site, alpha and sigma"):
        valley_map(pd.concat([grid("a"), grid("a")]))
    with pytest.raises(NetopsyError, match="expected finite values of loss; 'a' has none"):
        valley_map(grid("a").assign(loss=np.nan), metric="loss")
    with pytest.raises(NetopsyError, match="metric: expected one of 'error', 'loss'"):
        valley_map(grid("a"), metric="alpha")
    with pytest.raises(NetopsyError, match="split: expected one of 'train'; got 'test'"):
        valley_map(grid("a"), split="test")


def test_paths_have_a_panel_for_each_split_and_metric() -> None:
    figure = path_panels(line("full network", "a", "b"), members=["b"], vmax={"loss": 1.0})
    names = [ax.get_ylabel() for ax in figure.axes]
    assert names == ["train error (%)", "test error (%)", "train loss", "test loss"]
    for ax, factor in zip(figure.axes, (1, 1, 3, 3), strict=True):
        assert len(ax.lines) == 3
        for item in ax.lines:
            np.testing.assert_allclose(item.get_ydata(), [factor * value(a, 0) for a in ALPHAS])
    assert [len(ax.collections) for ax in figure.axes] == [3, 3, 0, 0]  # bands of the error
    band = figure.axes[1].collections[0].get_paths()[0].vertices
    low, high = wilson(np.array([0.4]), np.array([300.0]))
    at_zero = band[band[:, 0] == 0][:, 1]
    assert (at_zero.min(), at_zero.max()) == pytest.approx((low[0], high[0]))
    assert figure.axes[2].get_ylim() == (0, 1)
    assert [ax.get_xlabel().split("n = ")[1] for ax in figure.axes[2:]] == ["1,200 examples", "300 examples"]
    (key,) = figure.legends
    assert [text.get_text() for text in key.get_texts()] == ["a", "*b", "full network"]
    assert key.get_title().get_text() == "band: 95 % interval"
    many = path_panels(line(*(f"m{i}" for i in range(5))), metrics=["error"])
    assert not any(ax.collections for ax in many.axes)


def test_wilsons_interval() -> None:
    low, high = wilson(np.array([0.0, 0.5, 1.0]), np.array([10.0, 10.0, 10.0]))
    np.testing.assert_allclose(low, [0, 0.2366, 0.7225], atol=1e-4)  # of 0, 5 and 10 out of 10
    np.testing.assert_allclose(high, [0.2775, 0.7634, 1], atol=1e-4)


def test_frames_that_make_no_paths_are_refused() -> None:
    with pytest.raises(NetopsyError, match="values along one sigma; got 4"):
        path_panels(grid("a"))
    with pytest.raises(NetopsyError, match="expected one row for a site, split and alpha"):
        path_panels(pd.concat([line("a"), line("a")]))
    with pytest.raises(NetopsyError, match="metrics: expected one of 'error', 'loss'; got 'size'"):
        path_panels(line("a"), metrics=["size"])
    with pytest.raises(NetopsyError, match="metrics: expected 'error', 'loss' or both; got none"):
        path_panels(line("a"), metrics=[])
    with pytest.raises(NetopsyError, match="members: expected names of sites"):
        path_panels(line("a"), members=["nobody"])


def test_results_draw_themselves() -> None:
    valley, path = ValleyResult(grid("a"), PROVENANCE), ValleyResult(line("a", "b"), PROVENANCE)
    drawn = valley.plot()
    assert isinstance(drawn, Axes)
    assert "mean of 4 draws" in drawn.get_xlabel()
    assert isinstance(valley.plot(kind="surface"), Axes3D)
    assert isinstance(path.plot(), Figure)
    with pytest.raises(NetopsyError, match="two alphas and two sigmas"):
        path.plot(kind="map")
    with pytest.raises(NetopsyError, match="ax: expected None for kind='paths'"):
        path.plot(plain())
    found = CriticalityResult(table(), grid("m0", "m1").drop(columns="split"), PROVENANCE)
    bars = found.plot(plain())
    assert isinstance(bars, Axes)
    assert "90 % interval" in title(bars)
    panels = found.plot(kind="surface")
    assert isinstance(panels, Figure)
    assert [ax.get_title() for ax in panels.axes[:2]] == ["m0", "m1"]
    assert len(panels.axes[0].lines) == 1  # the optimum
    assert panels.axes[2].get_ylabel() == "training error (%)"
    with pytest.raises(NetopsyError, match="ax: expected None for kind='surface'"):
        found.plot(plain(), kind="surface")
    with pytest.raises(NetopsyError, match="kind='surface': expected a result with one; got none"):
        CriticalityResult(table(), None, PROVENANCE).plot(kind="surface")


def test_other_kinds_are_refused(unchecked: None) -> None:
    with pytest.raises(NetopsyError, match="kind: expected one of 'map', 'surface', 'paths'; got 'pie'"):
        ValleyResult(grid("a"), PROVENANCE).plot(kind="pie")  # type: ignore[arg-type]
    with pytest.raises(NetopsyError, match="kind: expected one of 'bars', 'surface'; got 'pie'"):
        CriticalityResult(table(), None, PROVENANCE).plot(kind="pie")  # type: ignore[arg-type]
    with pytest.raises(NetopsyError, match="kind: expected one of 'map', 'surface'; got 'pie'"):
        valley_panels(grid("a"), kind="pie")  # type: ignore[arg-type]


def test_the_number_of_examples_of_a_similarity_is_named() -> None:
    frame = pd.DataFrame({"layer_a": ["a", "b"], "layer_b": ["c", "c"], "cka": [0.5, np.nan], "n": [1200, 0]})
    assert cka_heatmap(frame).figure.axes[1].get_ylabel() == "linear CKA, n = 1,200 examples"
    assert counted(frame.assign(cka=0.5, n=[7, 9])) == ", n = 7 to 9 examples"
    assert counted(frame.drop(columns="n")) == counted(frame.assign(cka=np.nan)) == ""


def test_a_narrow_spectrum_has_round_numbers_on_its_axis() -> None:
    frame = pd.DataFrame({"site": "a", "checkpoint": 0, "index": range(3), "value": [3.0, 1.0, 0.4]})
    ax = spectrum_lines(frame, site="a", ax=plain())
    ax.figure.draw_without_rendering()
    low, high = ax.get_ylim()
    shown = [
        text.get_text() for text, at in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True) if low < at < high
    ]
    assert shown == ["0.5", "1", "2"]
