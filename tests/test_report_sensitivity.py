"""What the report says of Jacobian norms and of transitions along paths: every number against the result's."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from netopsy._checks import NetopsyError
from netopsy._random import derive
from netopsy.models.fcn import fcn
from netopsy.network.trajectory import Trajectory
from netopsy.probes.jacobian_norm import jacobian_norm
from netopsy.probes.jacobian_norm_result import JacobianNorms
from netopsy.probes.path_transitions import (
    ALL,
    PathTransitions,
    counted_units,
    path_transitions,
    perimeter,
    read_pool,
    turned,
)
from netopsy.probes.paths import polygon
from netopsy.probes.transitions import transitions
from netopsy.report.blocks import Code, Facts, Fold, Picture, Section, Table, Text
from netopsy.report.found import find
from netopsy.report.run import chapter, write_report
from netopsy.report.sections import section_of
from netopsy.report.sensitivity import jacobian_section, jacobian_sentences, shares
from netopsy.report.sensitivity_transitions import layer_dots, transitions_section, transitions_sentences

RUN = {
    "probe": "jacobian_norm", "netopsy": "0.1.0", "torch": "2.13.0", "data": "0123456789abcdef", "seconds": 1.5,
    "output": "probabilities", "norm": "frobenius", "classes": 10, "projections": None, "seed": 0, "embedding": None,
}  # fmt: skip


def norms(values: Any, wrong: Any = None, **known: Any) -> JacobianNorms:
    """Of given norms; `wrong` holds places, or None where there are no labels."""
    norm = np.asarray(values, np.float64)
    frame = pd.DataFrame({"index": range(len(norm)), "norm": norm}).astype({"index": "Int64"})
    if wrong is not None:
        correct = ~np.isin(np.arange(len(norm)), list(wrong))
        frame = frame.assign(label=pd.array([0] * len(norm), "Int64"), correct=pd.array(correct, "boolean"))
    return JacobianNorms(frame=frame, provenance={**RUN, **known})


def made(counts: dict[str, tuple[list[int], list[int]]], units: int = 10) -> PathTransitions:
    """Layer -> transitions on the data and turned, a path each."""
    rows = [
        (path, kind, layer, units, number)
        for layer, both in counts.items()
        for kind, numbers in zip(("data", "turned"), both, strict=True)
        for path, number in enumerate(numbers)
    ]
    many = len(next(iter(counts.values()))[0])
    frame = pd.DataFrame(rows, columns=["path", "kind", "layer", "units", "transitions"])
    return PathTransitions(
        frame=frame.astype({"kind": "string", "layer": "string"}),
        paths=pd.DataFrame({"label": [3] * many, "length": [4.0] * many, "examples": ["1 5 9"] * many}),
        provenance={
            "probe": "path_transitions", "netopsy": "0.1.0", "torch": "2.13.0", "data": "0123456789abcdef",
            "examples": 40, "paths": many, "seed": 7, "seconds": 1.5,
        },
    )  # fmt: skip


def table(section: Section) -> Table:
    return next(block for block in section.blocks if isinstance(block, Table))


def texts(found: Table) -> list[list[str]]:
    return [[entry.text for entry in row] for row in found.rows]


def said(section: Section) -> str:
    return " ".join(word for block in section.blocks if isinstance(block, Text) for word in block.paragraphs)


def inside(section: Section, kind: type) -> list[Any]:
    folds = [block for block in section.blocks if isinstance(block, Fold)]
    return [block for fold in folds for block in fold.blocks if isinstance(block, kind)]


# norms


def test_errors_among_the_largest_norms() -> None:
    """Clopper and Pearson's limits of all and of none, at 97.5 % each, have closed forms."""
    result = norms(np.arange(100) + 1.0, range(90, 100), split="test")
    low, high = 0.0125 ** (1 / 10), 1 - 0.0125 ** (1 / 90)
    found = shares(result)
    assert (found["largest"].wrong, found["largest"].points, found["others"].points) == (10, 10, 90)
    assert (found["largest"].low, found["largest"].high) == pytest.approx((low, 1.0))
    assert (found["others"].low, found["others"].high) == pytest.approx((0.0, high))
    assert jacobian_sentences(result) == (
        "Mean Jacobian norm ‖∂f_σ/∂x‖_F over 100 test points: 50.5 ± 2.9 (standard error).",
        "Of the 10 points (10 %) with the largest norm 100 % are wrong (64.5 % to 100 %), of the others 0 % (0 % to "
        "4.8 %): where the norm is largest, errors are more frequent, and most of these points are wrong.",
    )
    assert result.sem == pytest.approx(2.9, abs=0.05)


@pytest.mark.parametrize(
    ("wrong", "verdict"),
    [
        ([95, 99], "whether errors are more frequent where the norm is largest, so few points do not tell."),
        ([93, 95, 96, 99], "where the norm is largest, errors are more frequent."),
        (range(90), "where the norm is largest, errors are less frequent."),
        ([], "whether errors are more frequent where the norm is largest, so few points do not tell."),
    ],
)
def test_only_intervals_that_are_apart_make_a_verdict(wrong: Any, verdict: str) -> None:
    found = shares(result := norms(np.arange(100) + 1.0, wrong))
    apart = found["largest"].low > found["others"].high or found["largest"].high < found["others"].low
    assert apart == ("do not tell" not in verdict)
    assert jacobian_sentences(result)[1].endswith(f": {verdict}")


def test_of_a_thousand_points_one_percent_are_the_largest() -> None:
    assert [one.points for one in shares(norms(range(999), [1])).values()] == [999, 100, 899]
    assert [one.points for one in shares(norms(range(1000), [1])).values()] == [1000, 10, 990]


def test_ties_are_with_the_largest_and_equal_norms_have_none() -> None:
    assert shares(norms([1.0] * 80 + [2.0] * 20, [99]))["largest"].points == 20
    assert list(shares(norms([2.0] * 100, [99]))) == ["all points"]
    assert len(jacobian_sentences(norms([2.0] * 100, [99]))) == 1


def test_points_without_a_label_count_in_the_mean_alone() -> None:
    result = norms(np.arange(101) + 1.0, [98])
    frame = result.frame.copy()
    frame.loc[100, "correct"] = pd.NA
    found = shares(replace(result, frame=frame))
    assert [(one.points, one.wrong) for one in found.values()] == [(100, 1), (10, 1), (90, 0)]
    section = jacobian_section(replace(result, frame=frame))
    assert [row[:2] for row in texts(table(section))] == [
        ["all points", "101"], ["correct", "99"], ["wrong", "1"], ["largest norms (10 %)", "10"], ["others", "90"],
    ]  # fmt: skip


def test_inputs_alone_one_point_and_norms_that_are_not_finite() -> None:
    assert jacobian_sentences(norms([1.0, 3.0])) == (
        "Mean Jacobian norm ‖∂f_σ/∂x‖_F over 2 points: 2 ± 1 (standard error).",
    )
    assert jacobian_sentences(norms([0.25], [])) == ("Mean Jacobian norm ‖∂f_σ/∂x‖_F over 1 point: 0.25.",)
    assert [column.name for column in table(jacobian_section(norms([1.0, 3.0]))).columns] == [
        "points", "number", "mean norm", "median", "largest",
    ]  # fmt: skip
    bad = norms([1.0, np.inf, np.nan, 3.0], [1], split="test")
    assert jacobian_sentences(bad) == ("The Jacobian norm is not finite at 2 of 4 test points, so there is no mean.",)
    assert texts(table(jacobian_section(bad)))[0][:3] == ["all points", "2", "2 ± 1"]
    assert texts(table(jacobian_section(norms([np.inf])))) == []
    still = jacobian_section(norms([0.0, 0.0], [0]))
    assert not [block for block in still.blocks if isinstance(block, Picture)]


def test_the_table_of_norms_has_the_results_numbers() -> None:
    source = np.random.default_rng(0)
    result = norms(source.lognormal(size=200), source.choice(200, 30, replace=False))
    frame, ends = result.frame, shares(result)
    rows = {str(row[0].text): row for row in table(jacobian_section(result)).rows}
    largest = frame.nlargest(20, "norm")
    parts = {
        "all points": frame,
        "correct": frame[frame.correct],
        "wrong": frame[~frame.correct],
        "largest norms (10 %)": largest,
        "others": frame.drop(largest.index),
    }
    assert list(rows) == list(parts)
    for name, part in parts.items():
        _, number, mean, median, most, wrong = rows[name]
        assert number.sort == len(part)
        assert [mean.sort, median.sort, most.sort] == pytest.approx(
            [part.norm.mean(), part.norm.median(), part.norm.max()]
        )
        assert mean.text == f"{part.norm.mean():.3g} ± {part.norm.sem():.2g}"
        if name in ("correct", "wrong"):
            assert wrong.text == ""
        else:
            assert wrong.sort == pytest.approx(float((~part.correct).mean()))
    assert rows["others"][5].bar == (ends["others"].low, ends["others"].value, ends["others"].high)
    low, value, high = rows["all points"][5].bar or (0, 0, 0)
    assert value == 0.15
    assert stats.binom.sf(29, 200, low) == pytest.approx(0.0125)
    assert stats.binom.cdf(30, 200, high) == pytest.approx(0.0125)


def test_what_was_sampled_or_estimated_is_said_and_the_call_can_be_read() -> None:
    known = {"split": "test", "drawn": True, "of": 10_000, "examples": 2, "seed": 5}
    section = jacobian_section(norms([1.0, 3.0], **{**known, "projections": 32}))
    assert said(section) == (
        "2 of 10,000 test examples, drawn at random with seed 5; `index` in the result's to_frame() says which. "
        "Norms are estimated from 32 random directions a point."
    )
    [call] = inside(section, Code)
    compile(call.text, "call", "exec")
    assert "netopsy.jacobian_norm(" in call.text
    assert "projections=32" in call.text
    first = jacobian_section(norms([1.0, 3.0], **{**known, "drawn": False, "of": None}))
    assert said(first) == "The first 2 test examples; `index` in the result's to_frame() says which."
    assert said(jacobian_section(norms([1.0], **{**known, "of": 1, "examples": 1}))) == ""


def test_other_kinds_of_norms_are_named() -> None:
    section = jacobian_section(norms([1.0, 3.0], output="logits", norm="spectral"))
    assert section.question.startswith("How much do the logits change")
    assert section.verdict[0].startswith("Mean Jacobian norm ‖∂f/∂x‖₂ over")
    facts = dict(row for block in inside(section, Facts) for row in block.rows)
    assert facts["norm"].startswith("the largest change of the outputs by a unit step")


def test_a_real_result_has_a_section() -> None:
    torch.manual_seed(0)
    model, x = fcn(inputs=6, classes=3, depth=2, width=5), torch.randn(30, 6)
    result = jacobian_norm(model, (x, torch.arange(30) % 3))
    section = section_of(result)
    error = float((model(x).argmax(1) != torch.arange(30) % 3).float().mean())
    assert table(section).rows[0][5].sort == pytest.approx(error)
    assert f"{result.mean:.3g} ± {result.sem:.2g}" in section.verdict[0]


# ratios


def test_the_interval_of_a_median_lies_between_two_ratios() -> None:
    """Of 20: the sixth and the fifteenth, the innermost between which the median lies with 95 % or more."""
    order = np.random.default_rng(0).permutation(20)
    result = made({"a": ([int(100 + n) for n in order], [100] * 20)})
    ratio = result.ratio()
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((1.05, 1.095, 1.14))
    tails = [sum(math.comb(20, k) for k in range(r)) / 2**20 for r in (6, 7)]
    assert 2 * tails[0] <= 0.05 < 2 * tails[1]


def test_too_few_paths_have_no_interval_and_zeros_have_a_ratio() -> None:
    few = made({"a": ([1, 2, 3, 4, 5], [1, 1, 1, 1, 1])})
    assert (few.ratio().low, few.ratio().median, few.ratio().high) == (0.0, 3.0, math.inf)
    assert "(median; too few paths for an interval): these paths do not tell" in transitions_sentences(few)[0]
    none = made({"a": ([0] * 6, [0] * 6)})
    assert (none.ratio().low, none.ratio().median, none.ratio().high) == (1.0, 1.0, 1.0)
    assert "these paths do not tell" in transitions_sentences(none)[0]
    more = made({"a": ([2] * 6, [0] * 6)})
    assert (more.ratio().low, more.ratio().high) == (math.inf, math.inf)
    assert "∞ times as often" in transitions_sentences(more)[0]
    assert texts(table(transitions_section(more)))[0][4] == "∞"


def test_sentences_of_paths() -> None:
    counts = {"a": ([4, 5, 6, 5, 4, 6], [10] * 6), "b": ([1] * 6, [2] * 6)}
    assert transitions_sentences(made(counts)) == (
        "Along 6 triangles through 3 examples of one class, units pass a kink 0.50 times as often as along the same "
        "triangles turned in random directions (median; 95 % interval 0.42 to 0.58): the network bends less often "
        "between examples of a class.",
        "On average its 20 units make 6.0 transitions a triangle, and 12.0 on a turned one: 1.5 and 3 per unit of "
        "length.",
    )
    swapped = made({name: (other, own) for name, (own, other) in counts.items()})
    assert "bends more often between examples of a class" in transitions_sentences(swapped)[0]
    mixed = made({"a": ([4, 5, 6, 15, 14, 16], [10] * 6)})
    assert "these paths do not tell in which directions" in transitions_sentences(mixed)[0]


def test_the_table_of_paths_has_a_row_a_layer_and_one_of_all() -> None:
    result = made({"a": ([4, 5, 6, 5, 4, 6], [10] * 6), "b": ([1] * 6, [2] * 6)})
    section = transitions_section(result)
    found = table(section)
    assert texts(found) == [
        ["a", "10", "5.0", "10.0", "0.50"],
        ["b", "10", "1.0", "2.0", "0.50"],
        [ALL, "20", "6.0", "12.0", "0.50"],
    ]
    ratio = result.ratio("a")
    assert found.rows[0][4].bar == (ratio.low, ratio.median, ratio.high) == (0.4, 0.5, 0.6)
    assert found.columns[4].line == 1.0
    for block in inside(section, Code):
        compile(block.text, "call", "exec")
    assert [block.text.splitlines()[-1] for block in inside(section, Code)] == [
        "path_transitions(model, data, paths=6, seed=7)",
        "netopsy.transitions(model, netopsy.paths.polygon(images[[1, 5, 9]]))",
    ]


def test_the_dots_are_transitions_per_unit() -> None:
    result = made({"a": ([4, 5, 6], [10, 10, 10]), "b": ([1, 2, 3], [0, 0, 3])}, units=5)
    lines = layer_dots(result).get_lines()
    dots = [sorted(line.get_ydata()) for line in lines if line.get_marker() == "."]
    means = [line.get_ydata()[0] for line in lines if line.get_marker() != "."]
    assert dots == [[0.8, 1.0, 1.2], [0.2, 0.4, 0.6], [2.0, 2.0, 2.0], [0.0, 0.0, 0.6]]
    assert means == pytest.approx([1.0, 0.4, 2.0, 0.2])
    many = made({f"layer{n}": ([1], [2]) for n in range(30)})
    assert len([line for line in layer_dots(many).get_lines() if line.get_marker() == "."]) == 48
    captions = [block.caption for block in transitions_section(many).blocks if isinstance(block, Picture)]
    assert captions[0].endswith("The first 24 of 30 layers.")


# the measurement


@pytest.mark.parametrize("shape", [(3, 50), (3, 2, 4), (3, 2), (3, 1)])
def test_a_turned_polygon_keeps_its_center_lengths_and_angles(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    corners = torch.randn(shape)
    moved = turned(corners, 3)
    assert moved.shape == corners.shape
    flat, other = corners.double().flatten(1), moved.flatten(1)
    assert torch.allclose(other.mean(0), flat.mean(0), atol=1e-12)
    assert torch.allclose(torch.cdist(other, other), torch.cdist(flat, flat), atol=1e-12)
    assert perimeter(moved) == pytest.approx(perimeter(corners))
    assert torch.equal(moved, turned(corners, 3))
    assert shape[1:] == (1,) or not torch.allclose(moved, turned(corners, 4), atol=1e-3)


def test_directions_have_no_preference() -> None:
    """QR alone would give each axis the sign of a Householder reflection."""
    corners = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [0, 0, 0]])
    ends = torch.stack([turned(corners, seed)[0] for seed in range(600)])
    assert torch.allclose(ends.norm(dim=1), torch.ones(600, dtype=torch.float64))
    assert float(ends.mean(0).abs().max()) < 4 / (3 * 600) ** 0.5
    assert torch.allclose(ends.square().mean(0), torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.06)


def test_perimeter_of_a_known_triangle() -> None:
    assert perimeter(torch.tensor([[0.0, 0], [3, 0], [0, 4]])) == pytest.approx(12.0)


def data(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    return torch.randn(count, 6), torch.arange(count) % 4


def test_triangles_have_three_examples_of_one_class_and_all_classes_come() -> None:
    x, y = data()
    y = torch.where(y == 3, torch.tensor(-100), y)
    y[:3] = 7  # of class 7 there are three
    pool = read_pool([(x[:25], y[:25]), (x[25:], y[25:])])
    assert torch.equal(pool.inputs, x)
    assert torch.equal(pool.labels, y)
    assert pool.classes == (0, 1, 2, 7)
    drawn = [pool.triangle(seed) for seed in range(60)]
    assert {label for label, _ in drawn} == {0, 1, 2, 7}
    for label, chosen in drawn:
        assert len(chosen.unique()) == 3
        assert (y[chosen] == label).all()
    assert {tuple(sorted(chosen.tolist())) for label, chosen in drawn if label == 7} == {(0, 1, 2)}


def test_counts_of_one_layer_are_those_of_the_corners_signs() -> None:
    """A unit of the first layer is affine on the whole triangle: it switches twice, or never."""
    torch.manual_seed(0)
    model, (x, y) = fcn(inputs=6, classes=4, depth=1, width=9), data()
    result = path_transitions(model, (x, y), paths=8, seed=3)
    [layer] = result.layers
    linear = next(module for module in model.modules() if isinstance(module, nn.Linear)).double()
    for path, row in result.paths.iterrows():
        corners = x[[int(place) for place in row.examples.split()]].double()
        chosen = read_pool((x, y)).triangle(derive(3, "path", path))[1]
        both = {"data": corners, "turned": turned(x[chosen], derive(3, "turned", path))}
        assert set(map(tuple, x[chosen].tolist())) == set(map(tuple, corners.float().tolist()))
        assert (y[chosen] == row.label).all()
        assert row.length == pytest.approx(perimeter(corners))
        for kind, points in both.items():
            above = linear(points) > 0
            switches = 2 * int((above.any(0) & ~above.all(0)).sum())
            assert result.counts(layer).loc[path, kind] == switches
    assert (result.frame.units == 9).all()


def test_deeper_counts_are_those_of_transitions_and_all_layers_add_up() -> None:
    torch.manual_seed(0)
    model, (x, y) = fcn(inputs=6, classes=4, depth=3, width=7), data()
    heard: list[tuple[int, int | None]] = []
    result = path_transitions(model, (x, y), paths=2, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]
    corners = x[[int(place) for place in result.paths.examples[1].split()]]
    expected = transitions(model, polygon(corners)).per_layer
    own = result.frame[(result.frame.path == 1) & (result.frame.kind == "data")]
    assert dict(zip(own.layer, own.transitions, strict=True)) == expected
    assert result.counts().data[1] == sum(expected.values())
    again = path_transitions(model, [(x[:20], y[:20]), (x[20:], y[20:])], paths=2)
    pd.testing.assert_frame_equal(again.frame, result.frame)
    assert not path_transitions(model, (x, y), paths=2, seed=1).frame.equals(result.frame)
    state = {0: model.state_dict()}
    other = path_transitions(Trajectory.from_states(model, {**state, 1: model.state_dict()}), (x, y), paths=2)
    pd.testing.assert_frame_equal(other.frame, result.frame)


def test_units_with_a_kink_are_counted() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 5), nn.Hardtanh(), nn.Linear(5, 2)
    )
    assert list(counted_units(model, torch.randn(3, 1, 6, 6)).values()) == [48, 5]
    assert list(counted_units(model, torch.randn(1, 1, 6, 6)).values()) == [48, 5]


class Two(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


def test_what_paths_cannot_lead_through() -> None:
    x, y = data()
    model = fcn(inputs=6, classes=4, depth=1, width=9)
    with pytest.raises(NetopsyError, match=r"one floating tensor of inputs, which paths.*; got torch.int64"):
        path_transitions(model, (x.long(), y))
    with pytest.raises(NetopsyError, match=r"got torch.float32, torch.float32"):
        path_transitions(Two(), (x, x, y))
    with pytest.raises(NetopsyError, match=r"one floating tensor of inputs.*; got torch.float32"):
        path_transitions(model, {"x": x, "labels": y})
    with pytest.raises(NetopsyError, match="one label an example; got 2"):
        path_transitions(model, (x, torch.stack([y, y], 1)))
    with pytest.raises(NetopsyError, match="a class with 3 examples or more; 8 examples have 4 labels"):
        path_transitions(model, (x[:8], y[:8]))
    with pytest.raises(NetopsyError, match="expected units whose activation has a kink, such as ReLU; it has none"):
        path_transitions(nn.Linear(6, 4), (x, y))
    with pytest.raises(NetopsyError, match="tanh"):
        path_transitions(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)), (x, y))
    with pytest.raises(NetopsyError, match="paths: expected an integer >= 1; got 0"):
        path_transitions(model, (x, y), paths=0)


# files and page


def test_results_are_read_again_and_found(tmp_path: Path) -> None:
    norm, path = norms(np.arange(100) + 1.0, [99], split="test"), made({"a": ([4, 5], [10, 9])})
    norm.save(tmp_path / "results" / "one")
    path.save(tmp_path / "results" / "two")
    loaded = PathTransitions.load(tmp_path / "results" / "two")
    pd.testing.assert_frame_equal(loaded.frame, path.frame, check_dtype=False)
    assert loaded.counts().equals(path.counts())
    assert transitions_sentences(loaded) == transitions_sentences(path)
    assert loaded.provenance == path.provenance
    with pytest.raises(NetopsyError, match="expected a saved PathTransitions"):
        PathTransitions.load(tmp_path / "results" / "one")
    sections = chapter("run", find(tmp_path)).sections
    assert [section.title for section in sections] == ["Sensitivity to the input", "Linear regions along paths"]
    assert sections[0].verdict == jacobian_sentences(norm)
    text = write_report([norm, path], tmp_path / "report.html").read_text()
    assert text.count("<svg") > 2


def test_a_result_prints_its_layers_and_ratios() -> None:
    shown = str(made({"a": ([4, 5, 6, 5, 4, 6], [10] * 6)}))
    assert shown.splitlines()[1].split() == ["a", "5", "10", "0.5", "0.4", "0.6"]
    assert shown.splitlines()[-1].startswith(
        "Transitions a path, mean over 6 triangles through 3 examples of one class"
    )
