"""The robustness probe against a slow oracle, its invariants, its statistics, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import derive, forked
from netopsy.engine.evaluation import Evaluation
from netopsy.network.initialization import Redrawer
from netopsy.network.sites import find_sites
from netopsy.network.trajectory import Trajectory
from netopsy.probes.robustness import _verdict, robustness
from netopsy.probes.robustness_result import RobustnessResult
from tests.oracles import robustness as oracle
from tests.test_engine_traces import snapshot, stir_modes

State = Mapping[str, Tensor]
SAME = 1e-5
EAGER: dict[str, Any] = {"engine": "eager", "batch_size": 32}
"""Exporting takes a second: it is done where the engine is the question."""


def fcn() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 4, 3),
    )


FACTORIES: dict[str, Callable[[], nn.Module]] = {"fcn": fcn, "conv": conv}
SHAPES = {"fcn": (5,), "conv": (1, 4, 4)}


@cache
def trained(name: str) -> tuple[Trajectory, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A trajectory 0, 3, 12 of a tiny net that learns something; train and test data (with noisy labels)."""
    with forked(7):
        model = FACTORIES[name]()
        x = torch.randn(140, *SHAPES[name])
        y = (x.flatten(1)[:, :3] + 0.5 * torch.randn(140, 3)).argmax(1)
        states: dict[int, State] = {0: {k: v.clone() for k, v in model.state_dict().items()}}
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for epoch in range(1, 13):
            for part in torch.split(torch.randperm(100), 20):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[part]), y[part]).backward()
                optimizer.step()
            if epoch in (3, 12):
                states[epoch] = {k: v.detach().clone() for k, v in model.state_dict().items()}
    return Trajectory.from_states(FACTORIES[name], states), (x[:100], y[:100]), (x[100:], y[100:])


def floats_of(trajectory: Trajectory, site: str) -> list[str]:
    """Names of a site's floating tensors."""
    state = trajectory.state()
    if site == "full model":
        return [k for k, v in state.items() if v.is_floating_point()]
    group = {"ends": ("0", str(len(trajectory.model()) - 1))}.get(site, (site,))  # type: ignore[arg-type]
    return [k for k, v in state.items() if k.rpartition(".")[0] in group and v.is_floating_point()]


@cache
def measured(name: str, engine: Any = "exported") -> RobustnessResult:
    trajectory, train, test = trained(name)
    last = str(len(trajectory.model()) - 1)  # type: ignore[arg-type]
    return robustness(
        trajectory,
        {"train": train, "test": test},
        checkpoints="all",
        draws=2,
        groups={"ends": ["0", last]},
        full_model=True,
        engine=engine,
        batch_size=32,
    )


def key_of(row: Any) -> tuple[Any, ...]:
    return tuple(None if pd.isna(v) else v for v in (row.site, row.operation, row.checkpoint, row.draw, row.split))


def cells(result: RobustnessResult) -> dict[tuple[Any, ...], Any]:
    return {key_of(row): row for row in result.to_frame().itertuples()}


@pytest.mark.parametrize("name", FACTORIES)
def test_every_row_agrees_with_the_oracle(name: str) -> None:
    trajectory, train, test = trained(name)
    found = cells(measured(name))
    model = trajectory.model()
    redrawer = Redrawer.of(trajectory)
    sites = [site.name for site in find_sites(model)] + ["ends"]
    rows: list[tuple[str | None, str, int | None, int | None]] = [(None, "baseline", None, None)]
    rows += [(site, "re-initialize", tau, None) for site in [*sites, "full model"] for tau in (0, 3, 12)]
    rows += [(site, "re-randomize", None, draw) for site in sites for draw in (0, 1)]
    assert len(found) == 2 * len(rows)
    for split, (x, y) in {"train": train, "test": test}.items():
        before = oracle.measured(oracle.edited(model, {}, ()), x, y)
        assert before[0] < 0.5
        for site, operation, tau, draw in rows:
            names = floats_of(trajectory, site) if site else []
            if operation == "re-randomize":
                state: State = {n: redrawer.tensor(derive(0, "draw", draw), n) for n in names}
            else:
                state = trajectory.state(tau) if site else {}
            error, loss = oracle.measured(oracle.edited(model, state, names), x, y)
            row = found[site, operation, tau, draw, split]
            assert row.error == pytest.approx(error, abs=1e-9), row
            assert row.loss == pytest.approx(loss, rel=1e-4), row
            assert row.delta_error == pytest.approx(error - before[0], abs=1e-9), row
            assert row.n == len(y)


@pytest.mark.parametrize("name", FACTORIES)
def test_columns_types_and_order(name: str) -> None:
    frame = measured(name).to_frame()
    head, tail = (
        "site operation checkpoint draw split",
        "delta_error delta_error_low delta_error_high n status verdict",
    )
    assert list(frame.columns) == [*head.split(), "error", "loss", *tail.split()]
    types = {column: str(kind) for column, kind in frame.dtypes.items()}
    assert types["checkpoint"] == types["draw"] == "Int64"
    assert types["n"] == "int64"
    assert {types[column] for column in ("site", "operation", "split", "status", "verdict")} == {"string"}
    assert frame.split.unique().tolist() == ["train", "test"]
    assert set(frame.operation) == {"baseline", "re-initialize", "re-randomize"}
    last = str(len(trained(name)[0].model()) - 1)  # type: ignore[arg-type]
    assert measured(name).groups == {"ends": ("0", last)}


def test_distances_have_their_closed_form() -> None:
    result = measured("conv")
    trajectory, _, _ = trained("conv")
    assert set(result.distances.site) == {"0", "1", "3", "4", "7", "ends"}
    for row in result.distances.itertuples():
        names = [n for n in floats_of(trajectory, str(row.site)) if "running" not in n]
        l2, linf = oracle.distance(trajectory.state(int(row.checkpoint)), trajectory.state(0), names)
        assert row.l2 == pytest.approx(l2, rel=1e-6)
        assert row.linf == pytest.approx(linf, rel=1e-6)
    one = Trajectory.from_states(lambda: nn.Linear(1, 2), {0: linear(0.0, 0.0), 1: linear(3.0, -4.0)})
    result = robustness(one, (torch.ones(4, 1), torch.tensor([0, 1, 0, 1])), draws=0, **EAGER)
    last = result.distances.iloc[-1]
    assert (last.checkpoint, last.linf) == (1, 4.0)
    assert last.l2 == pytest.approx((25 / 4) ** 0.5)


def linear(first: float, second: float) -> dict[str, Tensor]:
    return {"weight": torch.tensor([[first], [second]]), "bias": torch.zeros(2)}


def test_a_reset_to_the_trained_weights_is_a_no_op() -> None:
    for name in FACTORIES:
        frame = measured(name).to_frame()
        final = frame[(frame.checkpoint == 12).fillna(False)]
        assert len(final) == 2 * (len(find_sites(trained(name)[0].model())) + 2)
        base = frame[frame.operation == "baseline"].set_index("split")
        assert (final.status == "no-op").all()
        assert final.verdict.isna().all()
        assert (final.error == base.error[final.split].to_numpy()).all()
        assert (final.loss == base.loss[final.split].to_numpy()).all()
        assert not final[["delta_error", "delta_error_low", "delta_error_high"]].any(axis=None)
        assert base.verdict.isna().all()


def test_two_runs_agree_exactly() -> None:
    for engine in ("eager", "exported"):
        again = measured.__wrapped__("fcn", engine)
        pd.testing.assert_frame_equal(again.frame, measured("fcn", engine).frame, check_exact=True)


def test_another_site_or_draw_changes_no_other_draw() -> None:
    trajectory, _, test = trained("fcn")
    few = robustness(trajectory, test, sites=["0"], checkpoints=(), draws=1, **EAGER)
    more = robustness(trajectory, test, checkpoints=(), draws=3, **EAGER)
    kept = cells(more)
    for key, row in cells(few).items():
        assert (kept[key].error, kept[key].delta_error) == (row.error, row.delta_error)
        assert kept[key].loss == pytest.approx(row.loss, rel=SAME)
    redrawn = more.frame[more.frame.operation == "re-randomize"]
    assert redrawn.groupby("site").loss.nunique().eq(3).all()
    other = robustness(trajectory, test, sites=["0"], checkpoints=(), draws=1, **EAGER, seed=1)
    assert other.frame.loss[1] != few.frame.loss[1]


def test_permuting_hidden_units_changes_nothing() -> None:
    trajectory, _, test = trained("fcn")
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])

    def permuted(state: State) -> State:
        return {
            **state,
            "0.weight": state["0.weight"][order],
            "0.bias": state["0.bias"][order],
            "2.weight": state["2.weight"][:, order],
        }

    twin = Trajectory.from_states(fcn, {key: permuted(trajectory.state(key)) for key in trajectory.keys})
    a, b = (robustness(t, test, checkpoints="all", draws=0, **EAGER).to_frame() for t in (trajectory, twin))
    pd.testing.assert_frame_equal(a.drop(columns="loss"), b.drop(columns="loss"))
    np.testing.assert_allclose(a.loss, b.loss, rtol=SAME)


@pytest.mark.parametrize("name", FACTORIES)
def test_exported_equals_eager(name: str) -> None:
    eager, exported = measured(name, "eager"), measured(name)
    assert (eager.provenance["engine"], exported.provenance["engine"]) == ("eager", "exported")
    pd.testing.assert_frame_equal(eager.frame.drop(columns="loss"), exported.frame.drop(columns="loss"))
    np.testing.assert_allclose(eager.frame.loss, exported.frame.loss, rtol=SAME)


@pytest.mark.parametrize("estimand", ["population", "dataset"])
@pytest.mark.parametrize("stop", ["exact", "precision", "verdict"])
def test_intervals_hold_what_they_promise(stop: Any, estimand: Any) -> None:
    trajectory, train, _ = trained("fcn")
    data = tuple(part.repeat(20, *[1] * (part.ndim - 1)) for part in train)
    frame = robustness(
        trajectory, data, draws=2, stop=stop, precision=0.1, estimand=estimand, batch_size=100, engine="eager"
    ).to_frame()
    rows = frame[frame.operation != "baseline"]
    assert ((rows.delta_error_low <= rows.delta_error) & (rows.delta_error <= rows.delta_error_high)).all()
    width, whole = rows.delta_error_high - rows.delta_error_low, rows.n == len(data[0])
    if stop == "precision":
        assert ((width <= 0.2 + 1e-12) | whole).all()
    if stop == "verdict":
        assert (rows.verdict.isin(["robust", "critical", "between"]) | whole).all()
    if stop == "exact":
        assert whole.all()
        assert (width == 0).all() == (estimand == "dataset")
    else:
        assert not whole.all()


def test_confidence_is_shared_out_over_the_splits() -> None:
    trajectory, train, test = trained("fcn")
    two = robustness(trajectory, {"a": train, "b": test}, confidence=0.9, engine="eager")
    one = robustness(trajectory, train, confidence=0.95, engine="eager")
    assert [two.provenance["splits"][s]["confidence"] for s in "ab"] == [pytest.approx(0.95)] * 2
    assert two.provenance["confidence"] == 0.9
    columns = ["delta_error_low", "delta_error_high"]
    np.testing.assert_allclose(two.frame.loc[two.frame.split == "a", columns], one.frame[columns], atol=1e-9)


@pytest.mark.parametrize(
    ("low", "delta", "high", "expected"),
    [
        (-0.01, 0.02, 0.05, "robust"),  # at the tolerance: robust
        (-0.01, 0.02, 0.0501, "undecided"),
        (0.05, 0.5, 0.6, "undecided"),
        (0.0501, 0.3999, 0.9, "between"),
        (0.0501, 0.4, 0.9, "critical"),  # half of the way from 0.1 to 0.9
        (-1.0, -0.5, -0.2, "robust"),
    ],
)
def test_verdicts_by_hand(low: float, delta: float, high: float, expected: str) -> None:
    array = np.zeros(0)
    evaluation = Evaluation(
        labels=(),
        baseline={},
        metrics={},
        baseline_error=0.1,
        delta_error=array,
        delta_error_low=array,
        delta_error_high=array,
        n=array.astype(np.int64),
        baseline_n=10,
        status=(),
        bad=array.astype(np.int64),
        examples={},
        classes=10,
        chance=0.9,
        provenance={},
    )
    row = {
        "operation": "re-initialize",
        "status": "ok",
        "delta_error": delta,
        "delta_error_low": low,
        "delta_error_high": high,
    }
    assert _verdict(row, evaluation, 0.05, 0.5) == expected
    assert _verdict({**row, "status": "no-op"}, evaluation, 0.05, 0.5) is None
    assert _verdict({**row, "operation": "baseline"}, evaluation, 0.05, 0.5) is None


def test_outputs_that_are_not_finite_count_as_errors() -> None:
    states = {0: linear(3e38, 3e38), 1: linear(1.0, -1.0)}
    one = Trajectory.from_states(lambda: nn.Linear(1, 2), states)
    x, y = torch.tensor([[2.0], [2.0], [0.5], [0.5]]), torch.zeros(4, dtype=torch.int64)  # 2 * 3e38 is infinite
    result = robustness(one, (x, y), sites=["weight"], draws=0, estimand="dataset", **EAGER)
    row = result.frame.iloc[1]
    assert (row.status, row.error, row.delta_error, row.verdict) == ("non-finite", 0.5, 0.5, "critical")
    assert "1 rows have non-finite outputs" in str(result)


def test_batch_norm_statistics_keep_reset_recompute() -> None:
    trajectory, train, test = trained("conv")
    model, start = trajectory.model(), trajectory.state(0)
    scales, statistics = ["1.weight", "1.bias"], ["1.running_mean", "1.running_var"]
    kept = oracle.edited(model, start, scales)
    reset = oracle.edited(model, start, scales + statistics)
    again = oracle.edited(model, start, scales)
    for norm in (again[1], again[4]):  # type: ignore[index]
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for part in torch.split(train[0].double(), 50):
            again(part)
    batches = [(train[0][i : i + 50], train[1][i : i + 50]) for i in (0, 50)]
    seen = []
    for mode, twin in {"keep": kept, "reset": reset, "recompute": again.eval()}.items():
        result = robustness(
            trajectory,
            test,
            sites=["1"],
            checkpoints="all",
            draws=0,
            batch_norm=mode,  # type: ignore[arg-type]
            calibration=ordered(batches) if mode == "recompute" else None,
            full_model=True,
            engine="eager",
        )
        row = cells(result)["1", "re-initialize", 0, None, "data"]
        error, loss = oracle.measured(twin, *test)
        assert row.error == pytest.approx(error)
        assert row.loss == pytest.approx(loss, rel=1e-4)
        seen.append(round(loss, 6))
        whole = oracle.measured(oracle.edited(model, start, floats_of(trajectory, "full model")), *test)
        assert cells(result)["full model", "re-initialize", 0, None, "data"].loss == pytest.approx(whole[1], rel=1e-4)
        for site in ("1", "full model"):  # nothing changes: nothing is recomputed
            assert cells(result)[site, "re-initialize", 12, None, "data"].status == "no-op"
    assert len(set(seen)) == 3


class ordered:
    """Batches that are read as they come."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


def test_checkpoints_go_by_the_users_own_keys() -> None:
    trajectory, _, test = trained("fcn")
    a, b = trajectory.state(0), trajectory.state(12)
    names = Trajectory.from_states(fcn, {"before": a, "after": b}, initial="before")
    both = Trajectory.from_states(fcn, {0: a, "final": b})
    for one, keys, kind in [(names, ["before", "after"], "string"), (both, [0, "final"], "object")]:
        result = robustness(one, test, sites=["0"], checkpoints="all", draws=1, **EAGER)
        assert result.frame.checkpoint.dtype == kind
        assert result.frame.checkpoint.dropna().tolist() == result.distances.checkpoint.tolist() == keys


@pytest.mark.usefixtures("unchecked")
def test_keys_are_the_users_own_whatever_equals_them() -> None:
    trajectory, _, test = trained("fcn")
    numbers = Trajectory.from_states(fcn, {10: trajectory.state(0), 20: trajectory.state()}, initial=10)
    result = robustness(numbers, test, sites=["0"], checkpoints=np.array([20, 10, 20]), draws=0, **EAGER)  # type: ignore[arg-type]
    assert result.frame.checkpoint.dtype == "Int64"
    assert result.frame.checkpoint.tolist()[1:] == [20, 10]
    twin = cells(measured("fcn"))["0", "re-initialize", 0, None, "test"]
    assert result.frame.loss[2] == pytest.approx(twin.loss, rel=SAME)


def test_a_module_alone_is_re_randomized_and_untouched() -> None:
    _, _, test = trained("conv")
    with forked(0):
        model = conv()
    stir_modes(model)
    before = snapshot(model)
    result = robustness(model, test, checkpoints=(), draws=2, groups=lambda names: {"all": names}, **EAGER)
    assert snapshot(model) == before
    assert result.groups == {"all": ("0", "1", "3", "4", "7")}
    assert result.distances.empty
    assert result.provenance["final"] is None

    def interrupt(done: int, total: int | None) -> None:
        if done > 10:
            raise KeyboardInterrupt

    for engine in ("exported", "eager"):
        with pytest.raises(KeyboardInterrupt):
            robustness(model, test, checkpoints=(), batch_size=8, progress=interrupt, engine=engine)  # type: ignore[arg-type]
        assert snapshot(model) == before


class Breaks:
    """A progress that interrupts at its n-th call."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, done: int, total: int | None) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("call", [1, 2, 4, 5, 6])  # the train split has four batches, the test split two
@pytest.mark.parametrize("stop", ["exact", "verdict"])
def test_a_probe_that_is_broken_off_goes_on(call: int, stop: Any, tmp_path: Path) -> None:
    trajectory, train, test = trained("conv")
    options: dict[str, Any] = {"checkpoints": "all", "draws": 1, "stop": stop, **EAGER}
    data = {"train": train, "test": test}
    folder = tmp_path / "going"
    whole = robustness(trajectory, data, **options)
    with pytest.raises(KeyboardInterrupt):
        robustness(trajectory, data, progress=Breaks(call), resume=folder, **options)
    assert len(list(folder.iterdir())) == 1 + (call > 4)
    (folder / "notes.txt").touch()
    told: list[int] = []
    again = robustness(trajectory, data, progress=lambda done, _: told.append(done), resume=str(folder), **options)
    pd.testing.assert_frame_equal(again.frame, whole.frame, check_exact=True)
    pd.testing.assert_frame_equal(again.distances, whole.distances, check_exact=True)
    assert timeless(again.provenance) == timeless(whole.provenance)
    assert told[0] == (min(32 * call, 100) if call <= 4 else 100)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def timeless(provenance: Mapping[str, Any]) -> dict[str, Any]:
    splits = {name: {**part, "seconds": 0} for name, part in provenance["splits"].items()}
    return {**provenance, "seconds": 0, "splits": splits}


def test_a_folder_to_resume_from_is_removed_when_empty_and_is_of_this_probe(tmp_path: Path) -> None:
    trajectory, train, test = trained("fcn")
    folder = tmp_path / "going"
    with pytest.raises(KeyboardInterrupt):
        robustness(trajectory, train, progress=Breaks(2), resume=folder, **EAGER)
    with pytest.raises(NetopsyError, match=r"other work has come: data, total differ.*delete .*robustness-0\.npz"):
        robustness(trajectory, test, resume=folder, **EAGER)
    with pytest.raises(NetopsyError, match="labels differ"):
        robustness(trajectory, train, resume=folder, draws=2, **EAGER)
    robustness(trajectory, train, resume=folder, **EAGER)
    assert not folder.exists()
    (tmp_path / "file").touch()
    with pytest.raises(NetopsyError, match="expected a folder; it is a file; choose another path"):
        robustness(trajectory, train, resume=tmp_path / "file", **EAGER)


def split(logits: Tensor, targets: Tensor) -> Tensor:
    return targets.float()


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "unknown checkpoint": (r"no checkpoint 7; recorded are 0, 3, 12", {"checkpoints": (7,)}),
    "checkpoint alone": (r"expected 'all' or a tuple of keys, such as \('final',\)", {"checkpoints": "final"}),
    "checkpoint number": (r"expected 'all' or a tuple of keys, such as \(0,\)", {"checkpoints": 0}),
    "unknown site": (r"site 'hidden\*': matches no module", {"sites": "hidden*"}),
    "group of unknown": (r"matches no module", {"groups": {"all": ["9"]}}),
    "group name is a site": (r"groups: 0 is the name of a site already", {"groups": {"0": ["2", "4"]}}),
    "group name is the model": (
        r"groups: full model is the name of a site already",
        {"groups": {"full model": ["2", "4"]}, "full_model": True},
    ),
    "metric": (
        r"metrics: expected error, loss, unchanged or a function .* got 'accuracy'",
        {"metrics": ("accuracy",)},
    ),
    "metric twice": (r"metrics: expected each once", {"metrics": ("error", "error")}),
    "metric's name": (r"metrics: split is a column of the result already", {"metrics": ("error", split)}),
    "draws": (r"draws: expected an integer >= 0; got -1", {"draws": -1}),
    "nothing": (r"nothing to measure", {"draws": 0, "checkpoints": ()}),
    "confidence": (r"confidence: expected a number in \(0, 1\); got 1", {"confidence": 1}),
    "tolerance": (r"tolerance: expected a number in \[0, 1\]; got -0.1", {"tolerance": -0.1}),
    "precision": (r"precision: expected a number in \(0, 1\]; got 0", {"precision": 0}),
    "critical": (r"critical: expected a number in \[0, 1\]; got 2", {"critical": 2}),
    "stop": (r"stop: expected one of 'exact', 'precision', 'verdict'; got 'soon'", {"stop": "soon"}),
    "estimand": (r"estimand: expected one of", {"estimand": "world"}),
    "engine": (r"engine: expected one of", {"engine": "fast"}),
    "batch norm": (r"batch_norm: expected one of", {"batch_norm": "drop"}),
    "no calibration": (r"batch_norm='recompute': needs calibration=", {"batch_norm": "recompute"}),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("what", BAD)
def test_bad_options_are_refused(what: str) -> None:
    trajectory, _, test = trained("fcn")
    message, options = BAD[what]
    with pytest.raises(NetopsyError, match=message):
        robustness(trajectory, test, **options)


@pytest.mark.usefixtures("unchecked")
def test_bad_sources_and_data_are_refused() -> None:
    trajectory, _, test = trained("fcn")
    for checkpoints in [(0,), "all"]:
        with pytest.raises(NetopsyError, match=r"a module alone has no checkpoint 0 .* pass a netopsy.Trajectory"):
            robustness(trajectory.model(), test, checkpoints=checkpoints)  # type: ignore[arg-type]
    with pytest.raises(NetopsyError, match=r"expected a netopsy.Trajectory or a torch module; got dict"):
        robustness({}, test)  # type: ignore[arg-type]
    with pytest.raises(NetopsyError, match=r"data: expected names of splits as keys; got 0"):
        robustness(trajectory, {0: test})
    with pytest.raises(NetopsyError, match="data: expected"):
        robustness(trajectory, {})
