"""Matching units: against definitions on stored activations, closed forms, units without a number, its results."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine.alignment import best, block, diagonal_ratio, mean_rank, one_to_one, rho, rho_bar
from netopsy.network.addresses import Address
from netopsy.network.trajectory import Trajectory
from netopsy.network.units import UnitLayer
from netopsy.probes.matching import match_units
from netopsy.probes.matching_result import UnitMatch
from netopsy.probes.winner_ranks import WinnerRanks, winner_ranks
from tests.oracles import matching as oracle

X = torch.randn(1024, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(40, 2, 6, 5, generator=torch.Generator().manual_seed(1))


def labels(x: Tensor) -> Tensor:
    return torch.zeros(len(x), dtype=torch.long)


def mlp(seed: int, *widths: int) -> nn.Sequential:
    with forked(seed):
        sizes = [6, *widths]
        hidden = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(sizes[-1], 3)).eval()


def conv(seed: int, width: int) -> nn.Sequential:
    with forked(seed):
        return nn.Sequential(
            nn.Conv2d(2, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, 3, 2), nn.Tanh(), nn.Flatten(),
            nn.Linear(60, 3),
        ).eval()  # fmt: skip


def stored(model: nn.Sequential, x: Tensor, ends: tuple[int, ...]) -> list[np.ndarray[Any, Any]]:
    with torch.no_grad():
        return [model[:end](x).double().numpy() for end in ends]


@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
def test_it_is_that_of_the_definition_on_stored_activations(double: bool) -> None:
    one, two, x = mlp(1, 5, 4), mlp(2, 9, 11), X
    if double:
        one, two, x = one.double(), two.double(), X.double()
    result = match_units(one, two, (x, labels(x)), batch_size=100)
    pairs = zip(stored(one, x, (2, 4)), stored(two, x, (2, 4)), strict=True)
    for (name, matrix), (a, b) in zip(result.matrix.items(), pairs, strict=True):
        expected = oracle.rho(a, b)
        np.testing.assert_allclose(matrix, expected, atol=1e-12 if double else 1e-6)
        row = result.layers.set_index("layer_a").loc[name]
        assert row.rho_bar == pytest.approx(oracle.rho_bar(expected), abs=1e-6)
        assert row.mean_rho == pytest.approx(row.rho_bar, abs=1e-12)
        assert row.samples == 1024
    assert list(result.matrix) == ["1", "3"]
    assert result.frame.match[:5].tolist() == result.matrix["1"].argmax(1).tolist()


def test_positions_of_a_convolution_are_pooled() -> None:
    """Also where the activation is in place, and another module writes to what was read."""
    one, two = conv(1, 4), conv(2, 7)
    result = match_units(one, two, (IMAGES, labels(IMAGES)), batch_size=7)
    pairs = zip(stored(one, IMAGES, (2, 4)), stored(two, IMAGES, (2, 4)), strict=True)
    for matrix, (a, b) in zip(result.matrix.values(), pairs, strict=True):
        np.testing.assert_allclose(matrix, oracle.rho(a, b), atol=1e-6)
    assert result.layers.samples.tolist() == [40 * 30, 40 * 20]


def test_a_permuted_copy_is_found_again_with_its_signs() -> None:
    """Scales and shifts change nothing; a unit's negative is not its match."""
    one = mlp(3, 8).double()
    order = torch.tensor([3, 0, 7, 1, 2, 6, 5, 4])
    two = copy.deepcopy(one)
    with torch.no_grad():
        two[0].weight.copy_(2 * one[0].weight[order])
        two[0].bias.copy_(2 * one[0].bias[order])
    for way in ("best", "one-to-one"):
        result = match_units(one, two, (X.double(), labels(X)), assignment=way)
        assert result.frame.match.tolist() == order.argsort().tolist()
        assert result.frame.rho.tolist() == pytest.approx([1] * 8, abs=1e-12)
    flipped = copy.deepcopy(one)
    with torch.no_grad():
        flipped[0].weight.neg_()
        flipped[0].bias.neg_()
    plain = match_units(one, flipped, (X.double(), labels(X)), sites="0")
    np.testing.assert_allclose(plain.matrix["0"].diagonal(), -1, atol=1e-12)


def test_a_network_and_itself_and_shared_modules() -> None:
    one = mlp(4, 7)
    for other in (one, nn.Sequential(one[0], nn.ReLU(), mlp(5, 7)[2])):
        result = match_units(one, other, (X, labels(X)), sites="1", batch_size=64)
        np.testing.assert_allclose(result.matrix["1"].diagonal(), 1, atol=1e-12)
        np.testing.assert_allclose(result.matrix["1"], result.matrix["1"].T, atol=1e-12)
        assert result.layers.samples.tolist() == [1024]


def test_a_large_mean_costs_no_precision() -> None:
    one, two = mlp(1, 5), mlp(2, 5)
    with torch.no_grad():
        one[0].bias.fill_(1000)
    expected = oracle.rho(stored(one, X, (2,))[0], stored(two, X, (2,))[0])
    np.testing.assert_allclose(match_units(one, two, (X, labels(X))).matrix["1"], expected, atol=1e-6)


def test_units_without_a_number_are_told_apart() -> None:
    one, two = mlp(1, 4), mlp(2, 3)
    with torch.no_grad():
        one[0].bias[2], two[0].bias[0] = -1000, -1000  # never active
        one[0].weight[3] = torch.nan
    result = match_units(one, two, (X, labels(X)))
    assert result.frame.status.tolist() == ["ok", "ok", "constant", "non-finite"]
    assert result.frame.match.isna().tolist() == [False, False, True, True]
    assert np.isnan(result.matrix["1"]).tolist() == [[True, False, False]] * 2 + [[True] * 3] * 2
    assert set(result.frame.match.dropna()) <= {1, 2}
    row = result.layers.iloc[0]
    assert (row.matched, row.units_a, row.units_b) == (2, 4, 3)
    assert row.rho_bar == pytest.approx(np.nanmax(result.matrix["1"][:2], 1).mean())
    single = match_units(one, two, (X, labels(X)), assignment="one-to-one")
    assert sorted(single.frame.match.dropna()) == [1, 2]
    with torch.no_grad():
        two[0].bias.fill_(-1000)
    nobody = match_units(one, two, (X, labels(X)))
    assert nobody.frame.status.tolist()[:2] == ["unmatched"] * 2
    assert np.isnan(nobody.layers.rho_bar[0])
    assert "1 units are constant." in str(nobody)


def test_rho_bar_and_rank_of_a_matrix() -> None:
    """By hand: best are .9 and .4; the winners of the end were second (of four) and first before."""
    final = torch.tensor([[0.1, 0.9, 0.2, 0.0], [0.4, -0.8, 0.1, 0.3]])
    early = torch.tensor([[0.5, 0.3, 0.2, 0.1], [0.9, 0.2, 0.1, 0.0]])
    assert float(rho_bar(final)) == pytest.approx(0.65)
    assert best(final).tolist() == [1, 0]
    assert float(mean_rank(early, final)) == pytest.approx((1 / 4 + 0) / 2)
    assert float(mean_rank(final, final)) == 0
    lost = early.clone()
    lost[0, 1] = torch.nan  # a winner without a number is behind the three others
    assert float(mean_rank(lost, final)) == pytest.approx((3 / 4 + 0) / 2)
    nothing = torch.full((2, 3), torch.nan)
    assert torch.isnan(rho_bar(nothing))
    assert torch.isnan(mean_rank(nothing, nothing))
    assert best(nothing).tolist() == one_to_one(nothing).tolist() == [-1, -1]


def test_plain_functions_are_those_of_the_definition_over_a_population() -> None:
    torch.manual_seed(0)
    teacher, students, later = torch.randn(60, 4), torch.randn(3, 60, 6), torch.randn(3, 60, 6)
    students[1, :, 2] = 5.0
    for shared in (teacher, teacher[None], teacher.expand(3, 60, 4)):
        early, final = rho(students, shared), rho(later, shared)
        assert early.shape == (3, 4, 6)
        ranks, bars = mean_rank(early, final), rho_bar(early)
        for k in range(3):
            a, b, t = (x.double().numpy() for x in (students[k], later[k], teacher))
            np.testing.assert_allclose(early[k], oracle.rho(t, a), atol=1e-12)
            assert float(bars[k]) == pytest.approx(oracle.rho_bar(oracle.rho(t, a)), abs=1e-12)
            assert float(ranks[k]) == pytest.approx(oracle.mean_rank(oracle.rho(t, a), oracle.rho(t, b)), abs=1e-12)
    assert torch.isnan(rho(students, teacher)[1, :, 2]).all()


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_one_to_one_is_the_best_of_all_pairings(shape: tuple[int, int]) -> None:
    matrix = torch.rand(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2 - 1
    found = one_to_one(matrix)
    kept = found >= 0
    assert len(set(found[kept].tolist())) == int(kept.sum()) == min(shape)
    assert float(matrix[kept, found[kept]].sum()) == pytest.approx(oracle.one_to_one(matrix.numpy()))


def test_a_block_of_matches_is_an_identity() -> None:
    matrix = torch.tensor([[0.0, 0.1, 1.0], [1.0, 0.1, 0.0], [torch.nan] * 3])
    square = block(matrix, best(matrix))
    assert square.tolist() == [[1, 0], [0, 1]]
    assert diagonal_ratio(square) == float("inf")
    assert diagonal_ratio(torch.tensor([[2.0, 1.0], [1.0, 4.0]])) == 3
    assert np.isnan(diagonal_ratio(square[:1, :1]))


def trained() -> Trajectory:
    """A student whose later states approach the teacher `mlp(1, 4, 5)` in their first units."""
    goal, student = mlp(1, 4, 5).state_dict(), mlp(2, 8, 9)
    states: dict[int | str, dict[str, Tensor]] = {}
    for step in (0, 1, 2):
        state = {name: value.clone() for name, value in student.state_dict().items()}
        for name in ("0.weight", "0.bias"):
            state[name][:4] += step / 2 * (goal[name] - state[name][:4])
        states[step] = state
    return Trajectory.from_states(lambda: mlp(0, 8, 9), states)


def test_winners_ranks_are_those_of_the_definition() -> None:
    trajectory, teacher = trained(), mlp(1, 4, 5)
    result = winner_ranks(trajectory, teacher, (X, labels(X)), batch_size=300)
    goals = stored(teacher, X, (2, 4))
    models: dict[Any, nn.Sequential] = {key: trajectory.model(key) for key in trajectory.keys}  # type: ignore[misc]
    final = [oracle.rho(a, b) for a, b in zip(goals, stored(models[2], X, (2, 4)), strict=True)]
    for key, model in models.items():
        part = result.frame[result.frame.checkpoint == key]
        early = [oracle.rho(a, b) for a, b in zip(goals, stored(model, X, (2, 4)), strict=True)]
        assert part.layer.tolist() == part.teacher_layer.tolist() == ["1", "3"]
        np.testing.assert_allclose(part.rho_bar, [oracle.rho_bar(m) for m in early], atol=1e-6)
        np.testing.assert_allclose(part["rank"], [oracle.mean_rank(a, b) for a, b in zip(early, final, strict=True)])
    first = result.frame[result.frame.layer == "1"].rho_bar.tolist()
    assert first[0] < first[1] < first[2] == pytest.approx(1, abs=1e-6)
    assert result.frame["rank"].tolist()[-2:] == [0, 0]


def test_results_are_saved_drawn_and_printed(tmp_path: Path) -> None:
    result = match_units(mlp(1, 5, 4), mlp(2, 9, 11), (X, labels(X)), assignment="one-to-one")
    again = UnitMatch.load(result.save(tmp_path / "match"))
    pd.testing.assert_frame_equal(again.to_frame(), result.to_frame())
    pd.testing.assert_frame_equal(again.layers, result.layers)
    assert again.provenance == result.provenance
    for name, matrix in result.matrix.items():
        np.testing.assert_array_equal(again.matrix[name], matrix)
    assert isinstance(result.plot(), Axes)
    assert isinstance(again.plot(layer="3"), Axes)
    assert "no unit twice" in str(result)
    ranks = winner_ranks(trained(), mlp(1, 4, 5), (X, labels(X)))
    read = WinnerRanks.load(ranks.save(tmp_path / "ranks"))
    pd.testing.assert_frame_equal(read.to_frame(), ranks.to_frame())
    assert isinstance(read.plot(column="rank"), Axes)
    assert "rho_bar" in str(read)
    with pytest.raises(NetopsyError, match=r"expected one of '1', '3'; got '9'"):
        result.plot(layer="9")
    with pytest.raises(NetopsyError, match="expected a saved UnitMatch"):
        UnitMatch.load(tmp_path / "ranks")
    table = pd.read_parquet(tmp_path / "match" / "matrix.parquet")
    table[:-1].to_parquet(tmp_path / "match" / "matrix.parquet")
    with pytest.raises(NetopsyError, match=r"expected 4 x 11 correlations of '3'; it has 43; the file is damaged"):
        UnitMatch.load(tmp_path / "match")


def test_networks_are_left_as_they_were() -> None:
    one, two = mlp(1, 5).train(), mlp(2, 5)
    before = copy.deepcopy(one.state_dict())
    match_units(one, two, (X, labels(X)))
    with pytest.raises(NetopsyError, match="different"):
        match_units(
            one, two, (X, labels(X)), progress=lambda done, total: (_ for _ in ()).throw(NetopsyError("different"))
        )
    assert one.training
    assert not two.training
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in (*one.modules(), *two.modules()))


@pytest.mark.usefixtures("unchecked")
def test_refusals() -> None:
    one, two, data = mlp(1, 5), mlp(2, 5, 4), (X, labels(X))
    with pytest.raises(NetopsyError, match=r"got 1 \(1\) and 2 \(1, 3\); pass sites= and other_sites="):
        match_units(one, two, data)
    with pytest.raises(NetopsyError, match="assignment: expected one of 'best', 'one-to-one'; got 'all'"):
        match_units(one, one, data, assignment="all")  # type: ignore[arg-type]
    with pytest.raises(NetopsyError, match=r"net_b: expected a torch module or a netopsy.Trajectory; got int"):
        match_units(one, 3, data)  # type: ignore[arg-type]
    images = IMAGES, labels(IMAGES)
    with pytest.raises(NetopsyError, match="got 210 and 140 samples of a batch; pass layers of one size"):
        match_units(conv(1, 3), conv(1, 3), images, sites="1", other_sites="3", batch_size=7)
    heads = UnitLayer("1", Address("output", "1"), 1, 2, size=2, shape=(4,))
    with pytest.raises(NetopsyError, match="hold 2; pass a UnitLayer with units=4 and size=1"):
        match_units(mlp(1, 4), mlp(1, 4), data, sites=[heads])
    with pytest.raises(
        NetopsyError, match=r"expected activations of the same samples, .* got 7 of the student and 8"
    ):
        rho(torch.zeros(7, 2), torch.zeros(8, 2))
    with pytest.raises(NetopsyError, match=r"expected a netopsy.Trajectory, .* got Sequential; for two networks use"):
        winner_ranks(one, one, data)  # type: ignore[arg-type]
    with pytest.raises(NetopsyError, match="expected the student's layers beside teacher_sites; got None; pass both"):
        winner_ranks(trained(), one, data, teacher_sites="1")
