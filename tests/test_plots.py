"""The look that all pictures share: labels, contrast, files; and that drawing leaves no trace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from netopsy._checks import NetopsyError
from netopsy.plots import style
from netopsy.plots.curves import curves
from netopsy.plots.depth import depth_profile
from netopsy.plots.distances import distances
from netopsy.plots.heatmap import heatmap
from netopsy.plots.style import PNG_LIMIT, contrast_ink, elide, new_axes, save, shades

BASE = 0.1
FCN = ["layer1", "layer2", "layer3", "classifier"]


def value(site: int, checkpoint: int) -> float:
    """The made-up error of a re-initialized site: later sites and later checkpoints cost less."""
    return BASE + 0.8 / (1 + site) / 2**checkpoint


def redrawn(site: int, draw: int) -> float:
    return 0.5 + 0.05 * site + 0.02 * draw


def measured(
    sites: Sequence[str] = tuple(FCN),
    checkpoints: Sequence[int | str] = (0, 1, 2),
    *,
    draws: int = 1,
    full: bool = True,
    splits: Sequence[str] = ("test",),
) -> pd.DataFrame:
    """A frame as the robustness probe writes it, with its nullable types."""
    rows = []
    for number, split in enumerate(splits):
        base = BASE + 0.01 * number
        rows.append({"operation": "baseline", "split": split, "error": base})
        for index, site in enumerate([*sites, "full model"] if full else sites):
            common = {"site": site, "split": split}
            for column, key in enumerate(checkpoints):
                error = value(index, column) + 0.01 * number
                rows.append({**common, "operation": "re-initialize", "checkpoint": key, "error": error})
            for draw in range(draws * (site != "full model")):
                rows.append({**common, "operation": "re-randomize", "draw": draw, "error": redrawn(index, draw)})
    columns = ["site", "operation", "checkpoint", "draw", "split", "error", "loss", "delta_error"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["delta_error"] = frame.error - BASE
    frame["loss"] = 3 * frame.error
    frame["delta_error_low"], frame["delta_error_high"] = frame.delta_error - 0.01, frame.delta_error + 0.02
    frame["n"] = 1000
    frame["status"] = "ok"
    frame["verdict"] = np.where(
        frame.delta_error > 0.4, "critical", np.where(frame.delta_error < 0.1, "robust", "between")
    )
    for name in ("site", "operation", "split", "status", "verdict"):
        frame[name] = frame[name].astype("string")
    frame["draw"] = frame["draw"].astype("Int64")
    whole = all(isinstance(key, int) for key in checkpoints)
    frame["checkpoint"] = frame["checkpoint"].astype("Int64" if whole else "string")
    return frame


def moved(sites: Sequence[str] = tuple(FCN), checkpoints: Sequence[int] = (0, 1, 2)) -> pd.DataFrame:
    """A frame of distances: l2 is 0.1 (site + 1) checkpoint, linf ten times that."""
    rows = [(site, key, 0.1 * (i + 1) * key, (i + 1.0) * key) for i, site in enumerate(sites) for key in checkpoints]
    return pd.DataFrame(rows, columns=["site", "checkpoint", "l2", "linf"])


Draw = Callable[..., Axes]
ROBUSTNESS: list[Draw] = [heatmap, curves, depth_profile]
ALL = [(draw, measured) for draw in ROBUSTNESS] + [(distances, moved)]
every_picture = pytest.mark.parametrize(("draw", "make"), ALL, ids=[draw.__name__ for draw, _ in ALL])
every_robustness = pytest.mark.parametrize("draw", ROBUSTNESS, ids=[draw.__name__ for draw in ROBUSTNESS])


@pytest.fixture(autouse=True)
def no_trace() -> object:
    """No picture changes matplotlib's settings or opens a pyplot figure."""
    mpl.use("Agg")
    before, figures = dict(mpl.rcParams), pyplot.get_fignums()
    yield
    assert dict(mpl.rcParams) == before
    assert pyplot.get_fignums() == figures


@every_picture
def test_without_axes_a_figure_of_its_own_unknown_to_pyplot(draw: Draw, make: Callable[[], pd.DataFrame]) -> None:
    ax = draw(make())
    assert isinstance(ax.figure, Figure)
    assert ax.figure.canvas.manager is None


@every_picture
def test_with_axes_it_draws_there_and_nowhere_else(draw: Draw, make: Callable[[], pd.DataFrame]) -> None:
    left, right = Figure(figsize=(9, 3)).subplots(1, 2)
    assert draw(make(), ax=left) is left
    assert not right.has_data()


@every_picture
def test_the_frame_is_left_alone(draw: Draw, make: Callable[[], pd.DataFrame]) -> None:
    frame = make()
    draw(frame)
    pd.testing.assert_frame_equal(frame, make())


@every_picture
@pytest.mark.parametrize("count", [1, 21, 60])
def test_no_label_is_cut_off_or_touches_another(draw: Draw, make: Callable[..., pd.DataFrame], count: int) -> None:
    sites = [f"stage{i}.block{12 * i}.conv_projection.{'ab'[i % 2]}" for i in range(count)]
    ax = draw(make(sites))
    figure = ax.figure
    figure.draw_without_rendering()
    inside = figure.bbox.padded(1)
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        shown = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        texts = [text for place, text in shown if low <= place <= high]
        boxes = [text.get_window_extent() for text in texts]
        assert all(inside.contains(*corner) for box in boxes for corner in (box.min, box.max))
        slanted = any(text.get_rotation() == 45 for text in texts)  # their boxes overlap, they don't
        assert slanted or not any(one.overlaps(two) for one, two in pairwise(boxes))


@every_picture
def test_labels_shrink_on_axes_too_small_for_them(draw: Draw, make: Callable[..., pd.DataFrame]) -> None:
    ax = Figure(figsize=(4, 4)).add_subplot()
    draw(make([f"layer{i}" for i in range(60)]), ax=ax)
    boxes = [text.get_window_extent() for text in ax.get_xticklabels()]
    assert len(boxes) >= 60
    assert not any(one.overlaps(two) for one, two in pairwise(boxes))


@every_picture
def test_members_are_marked_and_colored(draw: Draw, make: Callable[[], pd.DataFrame]) -> None:
    ax = draw(make(), members=("layer2", "classifier"))
    axis = ax.xaxis if draw in (curves, depth_profile) else ax.yaxis
    labels = {text.get_text(): text.get_color() for text in axis.get_ticklabels()}
    assert [name for name in labels if name != "full model"] == ["layer1", "*layer2", "layer3", "*classifier"]
    assert labels["*layer2"] == labels["*classifier"] != labels["layer1"] == labels["layer3"]


@every_picture
def test_unknown_members_are_refused(draw: Draw, make: Callable[[], pd.DataFrame]) -> None:
    ax = Figure().add_subplot()
    with pytest.raises(NetopsyError, match=r"members: expected names of sites.*'layer7'; did you mean layer"):
        draw(make(), members=("layer7",), ax=ax)
    assert not ax.has_data()


@every_picture
def test_missing_columns_are_named(draw: Draw, make: Callable[[], pd.DataFrame]) -> None:
    with pytest.raises(NetopsyError, match=r"frame: expected the columns of .*; missing site, checkpoint; got"):
        draw(make().drop(columns=["site", "checkpoint"]))


@every_picture
def test_an_empty_frame_is_refused(draw: Draw, make: Callable[[], pd.DataFrame]) -> None:
    with pytest.raises(NetopsyError, match=r"frame: expected at least one row .* got an empty frame"):
        draw(make().iloc[:0])


@every_robustness
def test_an_unknown_split_is_refused(draw: Draw) -> None:
    with pytest.raises(NetopsyError, match="split: expected one of 'test', 'train'; got 'dev'"):
        draw(measured(splits=("test", "train")), split="dev")


@every_robustness
def test_a_baseline_alone_is_refused(draw: Draw) -> None:
    with pytest.raises(NetopsyError, match="expected rows with an edited site; got only the baseline"):
        draw(measured().iloc[:1])


@every_robustness
def test_an_unknown_operation_is_refused(draw: Draw) -> None:
    frame = measured()
    frame.loc[3, "operation"] = "prune"
    with pytest.raises(NetopsyError, match=r"frame: operation: expected one of .*; got 'prune'"):
        draw(frame)


@every_robustness
def test_a_row_without_site_or_checkpoint_is_refused(draw: Draw) -> None:
    frame = measured()
    frame.loc[1, "checkpoint"] = pd.NA
    frame.loc[2, "site"] = pd.NA
    with pytest.raises(NetopsyError, match=r"expected a site in every edited row .* 2 rows lack one"):
        draw(frame)


@pytest.mark.parametrize("draw", [heatmap, curves])
def test_unknown_metrics_are_refused(draw: Draw) -> None:
    with pytest.raises(NetopsyError, match="metric: expected one of 'error', 'loss', 'delta_error'; got 'accuracy'"):
        draw(measured(), metric="accuracy")


@every_robustness
def test_two_runs_in_one_frame_are_refused(draw: Draw) -> None:
    frame = measured()
    twice = pd.concat([frame, frame[frame.operation != "baseline"]], ignore_index=True)
    with pytest.raises(
        NetopsyError, match="expected one row for a site, checkpoint, draw and split; got several for 'layer1'"
    ):
        draw(twice)


@pytest.mark.parametrize("draw", [heatmap, curves])
@pytest.mark.parametrize("count", [0, 2])
def test_not_exactly_one_baseline_is_refused(draw: Draw, count: int) -> None:
    frame = measured()
    with pytest.raises(NetopsyError, match=f"one row with operation 'baseline' for split 'test'; got {count}"):
        draw(pd.concat([*[frame.iloc[:1]] * count, frame.iloc[1:]]))


def test_the_plots_need_no_torch() -> None:
    code = (
        "import sys, netopsy.plots.heatmap, netopsy.plots.curves, netopsy.plots.depth, netopsy.plots.distances\n"
        "sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    )
    environment = {name: text for name, text in os.environ.items() if name != "COVERAGE_PROCESS_START"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_short_names_stay_whole() -> None:
    assert elide(["stage3.block12.conv2", "x" * 28]) == ["stage3.block12.conv2", "x" * 28]


def test_long_names_lose_their_middle() -> None:
    (label,) = elide(["a" * 30 + "b" * 30])
    assert len(label) == 28
    assert label.startswith("aaaa")
    assert label.endswith("bbbb")
    assert "…" in label


def test_different_names_keep_different_labels() -> None:
    parts = ("attention.query", "attention.output.dense", "attention.output.norm", "output.dense", "output.norm")
    names = [f"bert.encoder.layer.{block}.{part}" for block in range(12) for part in parts]
    labels = elide(names)
    assert len(set(labels)) == len(names)
    assert max(map(len, labels)) < max(map(len, names))


def test_names_that_differ_in_the_middle_only_are_told_apart() -> None:
    labels = elide([f"{'a' * 40}{letter}{'b' * 40}" for letter in "xyz"])
    assert len(set(labels)) == 3


def test_ink_always_reads_on_its_cell() -> None:
    def luminance(color: Sequence[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    for under in shades()(np.linspace(0, 1, 101))[:, :3].tolist():
        one, two = sorted((luminance(under), luminance(to_rgb(contrast_ink(under)))))
        assert (two + 0.05) / (one + 0.05) > 3.9


def test_shades_grow_evenly_darker() -> None:
    rgb = shades()(np.linspace(0, 1, 256))[:, :3]
    luma = rgb @ (0.299, 0.587, 0.114)
    assert (np.diff(luma) <= 1e-9).all()


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_same_picture_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    ax = heatmap(measured())
    one = save(ax, tmp_path / "new" / f"one.{kind}")
    two = save(ax.figure, tmp_path / f"two.{kind}")
    three = save(heatmap(measured()), str(tmp_path / f"three.{kind}"))
    assert one.read_bytes() == two.read_bytes() == three.read_bytes()


def test_files_carry_no_date_and_no_version(tmp_path: Path) -> None:
    ax = new_axes(2, 2)
    text = save(ax, tmp_path / "a.svg").read_text()
    assert "dc:date" not in text
    assert "Matplotlib v" not in text
    with Image.open(save(ax, tmp_path / "a.png")) as image:
        assert "Software" not in image.info


def test_a_large_png_stays_within_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ax = new_axes(2, 2)
    ax.imshow(np.random.default_rng(0).random((300, 300)), interpolation="nearest")
    path = save(ax, tmp_path / "whole.png")
    assert path.stat().st_size <= PNG_LIMIT
    monkeypatch.setattr("netopsy.plots.style.PNG_LIMIT", path.stat().st_size // 4)
    path = save(ax, tmp_path / "less.png")
    assert path.stat().st_size <= style.PNG_LIMIT
    with Image.open(path) as image:
        assert image.mode == "P"


def test_a_png_too_large_at_any_resolution_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netopsy.plots.style.PNG_LIMIT", 1000)
    monkeypatch.setattr("netopsy.plots.style.DOTS", (30,))
    with pytest.raises(
        NetopsyError, match=r"a.png: expected a picture of at most 1 kB; it has \d+ kB at 30 dots.*SVG or PDF"
    ):
        save(new_axes(9, 9), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_other_kinds_of_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NetopsyError, match="path: kind of file: expected one of 'png', 'svg', 'pdf'; got 'jpg'"):
        save(new_axes(2, 2), tmp_path / "a.jpg")


def test_axes_without_a_figure_are_refused(tmp_path: Path) -> None:
    ax = new_axes(2, 2)
    ax.remove()
    with pytest.raises(NetopsyError, match="axes: expected axes on a figure"):
        save(ax, tmp_path / "a.png")


def test_colors_and_sizes_do_not_depend_on_the_users_style() -> None:
    with mpl.rc_context(
        {"font.size": 30, "axes.labelsize": 40, "xtick.labelsize": 50, "image.cmap": "jet", "axes.grid": True}
    ):
        wild = heatmap(measured())
    plain = heatmap(measured())
    assert not any(line.get_visible() for line in wild.get_xgridlines() + wild.get_ygridlines())
    for one, two in zip(wild.get_xticklabels() + wild.texts, plain.get_xticklabels() + plain.texts, strict=True):
        assert one.get_text() == two.get_text()
        assert one.get_fontsize() == two.get_fontsize()
