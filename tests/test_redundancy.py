"""Redundancy of units: closed forms, oracles, units without variance, its result."""

from __future__ import annotations

import json
from functools import cache
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
from netopsy.network.addresses import Address
from netopsy.network.units import UnitLayer
from netopsy.plots.redundancy import pair_histograms
from netopsy.probes.redundancy import components, explained, histogram, redundancy
from netopsy.probes.redundancy_result import RedundancyResult
from tests import zoo
from tests.oracles import moments as oracle


class Given(nn.Module):
    """Its units are linear functions of the input: of the covariance that a test wants."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.units = nn.Linear(weight.shape[1], weight.shape[0]).to(weight.dtype)
        self.act = nn.Identity()
        self.head = nn.Linear(weight.shape[0], 2).to(weight.dtype)
        with torch.no_grad():
            self.units.weight.copy_(weight)
            self.units.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.units(x)))


def whitened(samples: int, width: int) -> Tensor:
    """Uncorrelated columns with mean 0 and variance 1, exactly but for rounding."""
    with forked(0):
        x = torch.randn(samples, width, dtype=torch.float64)
    return torch.linalg.qr(x - x.mean(0))[0] * samples**0.5


def of(weight: Any, bias: Any = None, samples: int = 50, **options: Any) -> RedundancyResult:
    table = torch.as_tensor(weight, dtype=torch.float64)
    x = whitened(samples, table.shape[1])
    model = Given(table, None if bias is None else torch.as_tensor(bias))
    return redundancy(model, (x, torch.zeros(samples, dtype=torch.long)), sites="act", **options)


def one(result: RedundancyResult) -> pd.Series[Any]:
    (row,) = [row for _, row in result.to_frame().iterrows()]
    return row


def test_independent_units_are_not_redundant() -> None:
    result = of(torch.eye(4))
    row = one(result)
    assert (row.units, row.components, row.compressibility, row.similar_per_unit) == (4, 4, 0, 0)
    assert (row.silent, row.constant, row.status, row.samples) == (0, 0, "ok", 50)
    assert result.units.r2.max() < 1e-5
    assert result.pairs.pairs.tolist() == [6] + [0] * 49
    np.testing.assert_allclose(result.units.variance, 1)


def test_duplicates_are_similar_and_need_no_component() -> None:
    """Construction (a) of §2: every unit twice, one of the copies with the other sign."""
    result = of([[1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 0, 0], [0, -1, 0], [0, 0, 0.5]], level=1.0)
    row = one(result)
    assert (row.components, row.compressibility, row.similar_per_unit) == (3, 0.5, 1)
    assert row.similar_share == pytest.approx(1 / 5)
    assert result.units.similar.tolist() == [1] * 6
    assert result.units.r2.min() > 1 - 1e-5
    assert result.pairs.pairs.tolist() == [12] + [0] * 48 + [3]


def test_compressibility_is_the_share_that_is_not_needed() -> None:
    """Variances 90, 6, 3, 1: one component keeps 90 %, two 96 %."""
    scale = torch.tensor([90.0, 6, 3, 1], dtype=torch.float64).sqrt().diag()
    assert one(of(scale)).components == 2
    assert one(of(scale)).compressibility == 0.5
    assert one(of(scale, level=0.9)).compressibility == 0.75
    assert one(of(scale, level=0.961)).components == 3
    assert one(of(scale, level=1.0)).compressibility == 0


def test_noise_is_not_called_redundant() -> None:
    """Independent units, three samples for two of them: without the adjustment R² would be 2/3 on average."""
    samples, units = 300, 200
    with forked(5):
        data = torch.randn(samples, units, dtype=torch.float64), torch.zeros(samples, dtype=torch.long)
    model = nn.Sequential(nn.Identity(), nn.Linear(units, 2)).double()
    assert redundancy(model, data, sites="0").units.r2.mean() < 0.15


def test_r2_is_known_for_a_sum() -> None:
    """c = a + b: each is determined by the two others; of a and a + b, r² is 1/2, adjusted for the samples."""
    assert of([[1, 0], [0, 1], [1, 1]]).units.r2.min() > 1 - 1e-5
    result = of([[1, 0], [1, 1]])
    n = one(result).samples
    np.testing.assert_allclose(result.units.r2, 1 - 0.5 * (n - 1) / (n - 2), atol=1e-5)
    assert one(result).similar_per_unit == 1
    assert one(of([[1, 0], [1, 1]], similar=0.72)).similar_per_unit == 0


def test_silent_and_constant_units_are_counted_apart() -> None:
    """Three of six vary, two of them alike; the others are in no mean, and need no component."""
    weight = [[1, 0], [1, 0], [0, 1], [0, 0], [0, 0], [0, 0]]
    result = of(weight, [0, 0, 0, 0, 0, 3])
    row = one(result)
    assert (row.units, row.silent, row.constant, row.status) == (6, 2, 1, "ok")
    assert row.similar_per_unit == pytest.approx(2 / 3)
    assert row.similar_share == pytest.approx(1 / 3)
    assert row.components == 2
    assert row.compressibility == pytest.approx(2 / 3)
    assert result.units.kind.tolist() == ["varying"] * 3 + ["silent"] * 2 + ["constant"]
    assert result.units.r2.isna().tolist() == result.units.similar.isna().tolist() == [False] * 3 + [True] * 3
    assert result.units.activity.tolist()[3:] == [0, 0, 1]
    assert result.pairs.pairs.sum() == 3
    assert "nan" not in str(result)


def test_a_unit_that_only_rounds_is_constant() -> None:
    row = one(of([[1, 0], [1e-9, 0], [0, 1]], [0, 5.0, 0]))
    assert (row.constant, row.similar_per_unit, row.status) == (1, 0, "ok")


@pytest.mark.parametrize(
    ("weight", "bias", "status", "components_", "compressibility"),
    [
        ([[1.0]], [0.0], "one unit", None, None),
        ([[0.0]], [0.0], "constant", None, None),
        ([[0.0], [0.0]], [0.0, 2.0], "constant", None, None),
        ([[1.0], [0.0]], [0.0, 2.0], "one unit", 1, 0.5),
        ([[torch.inf], [1.0]], [0.0, 0.0], "non-finite", None, None),
    ],
    ids=["one unit", "one silent unit", "none varies", "one varies", "non-finite"],
)
def test_what_has_no_meaning_is_null_with_a_status(
    weight: Any, bias: Any, status: str, components_: int | None, compressibility: float | None
) -> None:
    result = of(weight, bias)
    row = one(result)
    assert row.status == status
    assert pd.isna(row.components) if components_ is None else row.components == components_
    assert pd.isna(row.compressibility) if compressibility is None else row.compressibility == compressibility
    assert pd.isna(row.similar_per_unit)
    assert result.units.r2.isna().all()
    assert result.pairs.empty
    with pytest.raises(NetopsyError, match="in no layer do two units vary"):
        result.plot(kind="pairs")
    assert isinstance(result.plot(), Axes)


def test_fewer_samples_than_units_have_no_r2() -> None:
    result = of(torch.eye(6), samples=6)
    assert one(result).status == "few samples"
    assert result.units.r2.isna().all()
    assert "few samples: not more than units in act" in str(result)


@cache
def trained(dtype: torch.dtype) -> tuple[nn.Sequential, Tensor, Tensor]:
    with forked(11):
        model = nn.Sequential(
            nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(112, 9),
            nn.Tanh(), nn.Linear(9, 3),
        )  # fmt: skip
        x, y = torch.randn(60, 1, 6, 6), torch.randint(0, 3, (60,))
    return model.to(dtype).eval(), x.to(dtype), y


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-5)], ids=str)
@pytest.mark.parametrize("convention", ["channels", "positions"])
def test_all_numbers_are_those_of_the_stored_activations(
    dtype: torch.dtype, tolerance: float, convention: Any
) -> None:
    model, x, y = trained(dtype)
    result = redundancy(model, (x, y), convention=convention, level=0.8, similar=0.3, ridge=1e-12, batch_size=16)
    frame = result.to_frame().set_index("site")
    assert frame.index.tolist() == ["1", "3", "6"]
    for name, row in frame.iterrows():
        with torch.no_grad():
            value = model[: int(str(name)) + 1](x).double()
        channels = value.movedim(1, -1).reshape(-1, value.shape[1])
        samples = (channels if convention == "channels" else value.flatten(1)).numpy()
        units = result.units[result.units.site == name]
        assert (row.units, row.samples) == samples.shape[::-1]
        np.testing.assert_allclose(units["mean"], samples.mean(0), atol=tolerance)
        np.testing.assert_allclose(units.variance, samples.var(0), atol=tolerance)
        np.testing.assert_allclose(units.activity, (samples > 0).mean(0), atol=1e-12)
        kept = samples[:, units.kind == "varying"]
        assert row.silent == (samples == 0).all(0).sum()
        assert row.components == oracle.components(kept.tolist(), 0.8)
        assert row.compressibility == 1 - row.components / samples.shape[1]
        similar = oracle.similar(kept.tolist(), 0.3)
        assert units.similar.dropna().tolist() == similar
        assert row.similar_per_unit == pytest.approx(np.mean(similar))
        r = np.abs(np.corrcoef(kept.T)[np.triu_indices(kept.shape[1], 1)])
        pairs = result.pairs[result.pairs.site == name]
        assert pairs.pairs.sum() == len(r)
        assert np.abs(pairs.pairs - np.histogram(r, np.append(pairs.low, 1.0))[0]).sum() <= 2  # at an edge
        if row.status == "ok":
            np.testing.assert_allclose(units.r2.dropna(), oracle.explained(kept.tolist()), atol=100 * tolerance)


def test_parts_against_numpy() -> None:
    samples = whitened(40, 6).numpy() @ np.random.default_rng(0).normal(size=(6, 6))
    covariance = torch.from_numpy(np.cov(samples.T, bias=True))
    for level in (0.3, 0.6, 0.9, 0.99):
        assert components(covariance, level) == oracle.components(samples.tolist(), level)
    r = torch.from_numpy(np.corrcoef(samples.T))
    np.testing.assert_allclose(explained(r, 1e-12, len(samples))[0], oracle.explained(samples.tolist()), atol=1e-8)
    assert histogram(torch.eye(3)).tolist() == [3] + [0] * 49


def test_float64_decides_where_float32_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal variances: three of six keep one half, and not a part in 10⁹ more; far from a step float32 is enough."""
    used: list[torch.dtype] = []
    spectrum = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda matrix: (used.append(matrix.dtype), spectrum(matrix))[1])
    covariance = 7 * torch.eye(6, dtype=torch.float64)
    for level, expected, kinds in [(0.5, 3, 2), (0.5 + 1e-9, 4, 2), (0.5 - 1e-9, 3, 2), (0.6, 4, 1), (1.0, 6, 2)]:
        used.clear()
        assert components(covariance, level) == expected
        assert len(used) == kinds
        assert used[0] == torch.float32
    assert components(torch.diag(torch.tensor([0.0, 3, 0, 1], dtype=torch.float64)), 1.0) == 2
    assert components(1e-60 * covariance, 0.6) == 4  # would be zero in float32


def test_the_ridge_is_raised_until_the_inverse_exists() -> None:
    r = torch.tensor([[1.0, 1 + 1e-5], [1 + 1e-5, 1]], dtype=torch.float64)  # as float32 products may leave it
    values, ridge = explained(r, 1e-8, 1000)
    assert ridge == pytest.approx(1e-4)
    assert values.min() > 0.999


def test_drawn_positions_have_a_spread() -> None:
    model, x, y = trained(torch.float32)
    result = redundancy(model, (x, y), convention="positions", most=40, samplings=3, seed=1)
    frame = result.to_frame().set_index("site")
    assert frame.units.tolist() == [40, 40, 9]
    assert frame.samplings.tolist() == [3, 3, 1]
    assert frame.similar_per_unit_sd.isna().tolist() == [False, False, True]
    first = result.samplings[result.samplings.site == "1"]
    assert frame.loc["1", "similar_per_unit"] == pytest.approx(first.similar_per_unit.mean())
    assert frame.loc["1", "similar_per_unit_sd"] == pytest.approx(first.similar_per_unit.std())
    drawn = result.units[result.units.site == "1"].groupby("sampling").unit.agg(tuple)
    assert len(set(drawn)) == 3
    assert "±" in str(result)
    assert "± is the standard deviation over 3 samplings of at most 40 units" in str(result)
    again = redundancy(model, (x, y), convention="positions", most=40, samplings=3, seed=1)
    pd.testing.assert_frame_equal(again.frame, result.frame, check_exact=True)
    assert isinstance(result.plot(), Axes)
    assert isinstance(result.plot(kind="pairs"), Axes)


def test_a_transformer_s_units_are_read_over_positions() -> None:
    with forked(2):
        model = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 12, activation=nn.GELU(), batch_first=True),
            1,
            enable_nested_tensor=False,
        )
        x = torch.randn(10, 5, 8)
    model = nn.Sequential(model, nn.Flatten(), nn.Linear(40, 3))
    row = one(redundancy(model, (x, torch.zeros(10, dtype=torch.long)), sites="0.layers.0.linear1"))
    assert (row.units, row.samples) == (12, 50)


def test_saved_and_read_it_is_the_same(tmp_path: Path) -> None:
    model, x, y = trained(torch.float32)
    result = redundancy(model, (x, y))
    assert result.save(tmp_path / "result") == tmp_path / "result"
    again = RedundancyResult.load(tmp_path / "result")
    for name in ("frame", "units", "pairs", "samplings"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(result, name), check_exact=True)
    assert again.provenance == result.provenance
    assert str(again) == str(result)
    with pytest.raises(NetopsyError, match="exists and is not empty"):
        result.save(tmp_path / "result")
    (tmp_path / "result" / "units.parquet").unlink()
    with pytest.raises(NetopsyError, match=r"a saved RedundancyResult; it has no units.parquet$"):
        RedundancyResult.load(tmp_path / "result")
    result.save(tmp_path / "result", overwrite=True)
    (tmp_path / "result" / "manifest.json").write_text(json.dumps({"schema": 1, "provenance": {"probe": "x"}}))
    with pytest.raises(NetopsyError, match="its manifest is of something else"):
        RedundancyResult.load(tmp_path / "result")


def test_it_prints_a_table_and_draws_the_numbers() -> None:
    result = of([[1, 0], [1, 0], [0, 1], [0, 0]])
    lines = str(result).splitlines()
    assert lines[0].split()[:4] == ["units", "components", "compressibility", "similar_per_unit"]
    assert lines[1].split() == ["act", "4", "2", "0.500", "0.667", "1", "0", "ok"]
    assert "keep 95% of the variance; compressibility is the share of components not needed" in lines[2]
    heights = [patch.get_height() for patch in result.plot().patches]
    assert heights == pytest.approx([0.5, 1 / 3])
    ax = pair_histograms(result.pairs, similar=0.5)
    assert isinstance(ax, Axes)
    density = ax.patches[0].get_data().values
    assert density.sum() / 50 == pytest.approx(1)
    assert density[-1] / 50 == pytest.approx(1 / 3)


def test_the_model_keeps_its_mode_and_values() -> None:
    model = zoo.Inplace().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    redundancy(model, (torch.randn(9, 1, 6, 6), torch.zeros(9, dtype=torch.long)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 0}, r"level: expected a number in \(0, 1\]; got 0"),
        ({"similar": 1.5}, r"similar: expected a number in \(0, 1\]"),
        ({"ridge": 0}, r"ridge: expected a number in \(0, 1\]"),
        ({"convention": "pixels"}, "convention: expected one of 'channels', 'positions'; got 'pixels'"),
        ({"samplings": 0}, "samplings: expected an integer >= 1"),
        ({"most": 1}, "most: expected an integer >= 2"),
        ({"most": 60_000}, "most: expected at most 50000 units a layer; got 60000; choose fewer"),
        ({"sites": "nowhere"}, "'nowhere': matches no module"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    model, x, y = trained(torch.float32)
    with pytest.raises(NetopsyError, match=message):
        redundancy(model, (x, y), **options)


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_measured_is_refused() -> None:
    x, y = torch.randn(9, 6), torch.zeros(9, dtype=torch.long)
    with pytest.raises(NetopsyError, match="expected a torch module; got dict; of a trajectory pass"):
        redundancy({}, (x, y))  # type: ignore[arg-type]
    with pytest.raises(NetopsyError, match="half precision"):
        redundancy(zoo.mlp().half(), (x, y))
    heads = UnitLayer("heads", Address("output", "1"), 1, 4, size=2, shape=(8,))
    for convention in ("channels", "positions"):
        with pytest.raises(NetopsyError, match="between which there is no one correlation"):
            redundancy(zoo.mlp(), (x, y), sites=[heads], convention=convention)  # type: ignore[arg-type]
    shapeless = UnitLayer("act", Address("output", "1"), 1, 8)
    with pytest.raises(NetopsyError, match="expected a UnitLayer with the shape of one example's value"):
        redundancy(zoo.mlp(), (x, y), sites=[shapeless], convention="positions")
    with pytest.raises(NetopsyError, match="kind: expected one of 'bars', 'pairs'"):
        redundancy(zoo.mlp(), (x, y)).plot(kind="pie")  # type: ignore[arg-type]
