"""What plan says against what robustness then does; its arithmetic under a clock of ours."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine import trial as trial_module
from netopsy.engine.eager import Eager
from netopsy.engine.edits import Variant
from netopsy.engine.evaluate import evaluate
from netopsy.engine.trial import _peak, try_out
from netopsy.network.initialization import Redrawer
from netopsy.network.states import StateFile
from netopsy.network.trajectory import Trajectory
from netopsy.probes import plan as plan_module
from netopsy.probes.plan import MARGIN, plan
from netopsy.probes.robustness import robustness
from tests.test_engine_evaluate import LEVELS, linear, separable
from tests.test_engine_traces import snapshot, stir_modes
from tests.test_robustness import EAGER, conv, ordered, trained

ASKED: dict[str, Any] = {"checkpoints": "all", "draws": 2, "full_model": True}


@pytest.mark.parametrize("name", ["fcn", "conv"])
def test_rows_and_forwards_are_those_that_robustness_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trajectory, train, test = trained(name)
    data = {"train": train, "test": test}
    said = plan(trajectory, data, **ASKED, **EAGER)
    forward, sizes = Eager.forward, []

    def counted(self: Eager, state: Any, inputs: Any, row: int = -1) -> Tensor:
        sizes.append(len(inputs[0][0]))
        return forward(self, state, inputs, row)

    monkeypatch.setattr(Eager, "forward", counted)
    frame = robustness(trajectory, data, **ASKED, **EAGER).frame
    rows = frame[frame.operation != "baseline"]
    sites = 3 if name == "fcn" else 5
    assert said.rows == {"re-initialize": 3 * (sites + 1), "re-randomize": 2 * sites, "no-op": sites + 1}
    assert (rows.operation.value_counts() / 2).to_dict() == {k: n for k, n in said.rows.items() if k != "no-op"}
    assert (rows.status == "no-op").sum() == 2 * said.rows["no-op"]
    assert said.sites == sites + 1
    assert said.examples == {"train": 100, "test": 40}
    assert said.batches == {"train": 4, "test": 2}
    assert said.forwards == (len(rows) // 2 + 1) * 6
    ran = sum(size > 4 for size in sizes)
    assert said.share == pytest.approx((len(rows) // 2 + 1 - said.rows["no-op"]) / (len(rows) // 2 + 1))
    # the last batches of 4 and 8 examples: those of 4 cannot be told from the probes of 4
    assert ran == (len(rows) // 2 + 1 - said.rows["no-op"]) * 5
    assert said.engine == {"train": "eager", "test": "eager"}


def test_the_share_of_a_chain_in_closed_form() -> None:
    """Three equal layers: an edit of the k-th runs 3 - k of them again; the baseline runs all."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))

    with forked(0):
        model, x = build(), torch.randn(64, 6)
    y = torch.zeros(64, dtype=torch.int64)
    said = plan(model, (x, y), checkpoints=(), draws=2, engine="exported")
    assert said.share == pytest.approx((3 + 2 * (3 + 2 + 1)) / (3 * 7))
    assert said.engine == {"data": "exported"}
    assert said.engine_reasons == ()


def test_why_it_is_eager_is_said() -> None:
    with forked(0):
        model, x = nn.Sequential(nn.Linear(6, 6)), torch.randn(64, 6)
    model.register_forward_hook(lambda *_: None)
    said = plan(model, (x, torch.zeros(64, dtype=torch.int64)), checkpoints=())
    assert said.engine == {"data": "eager"}
    assert said.engine_reasons == ("the model has forward hooks",)
    assert "eager (the model has forward hooks)" in str(said)


class Clock:
    """Every look at it takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_seconds_under_a_clock_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(trial_module, "clock", clock)
    monkeypatch.setattr(plan_module, "clock", clock)
    monkeypatch.setattr(trial_module, "SECONDS", 100.0)
    trajectory, train, test = trained("fcn")
    said = plan(trajectory, {"a": train, "b": test}, **EAGER)
    # prepare and the distances of one checkpoint of two: 1 + 2; each split: 1 to set up; a batch is as long as its
    # baseline, 1, for the rows take no longer: 1 for 32 examples, and 1 for the 8 of the second batch of "b"
    assert said.seconds == pytest.approx(3 + (1 + 4 * 1) + (1 + 2 * (1 + 4) / 2))
    assert said.seconds_low == pytest.approx(3 + (1 + 4 / MARGIN) + (1 + 2 / MARGIN))
    assert said.seconds_high == pytest.approx(3 + (1 + 4 * MARGIN) + (1 + 2 * 4 * MARGIN))


def test_a_slow_batch_is_cut_and_extrapolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose every row takes a millisecond an example."""
    now = [0.0]
    forward = Eager.forward

    def slow(self: Eager, state: Any, inputs: Any, row: int = -1) -> Tensor:
        now[0] += 0.001 * len(inputs[0][0])
        return forward(self, state, inputs, row)

    monkeypatch.setattr(Eager, "forward", slow)
    monkeypatch.setattr(trial_module, "clock", lambda: now[0])
    ones = [Variant(str(i), LEVELS[1].edits) for i in range(30)]
    for limit in (1.0, 10.0, 1000.0):
        monkeypatch.setattr(trial_module, "SECONDS", limit)
        before = now[0]
        found = try_out(linear(), separable(600), ones, batch_size=300, engine="eager")
        assert found.batch == (pytest.approx(0.3 * 31), pytest.approx(0.3 * 31))
        assert found.share == pytest.approx(1)
        assert now[0] - before < 20 * limit


@pytest.mark.parametrize("stop", ["precision", "verdict"])
def test_no_pass_ends_before_the_fewest_batches(stop: Any) -> None:
    data = separable(3000)
    found = try_out(linear(), data, LEVELS, stop=stop, batch_size=50, engine="eager")
    ran = evaluate(linear(), data, LEVELS, stop=stop, batch_size=50, engine="eager")
    assert 1 <= found.fewest <= min(ran.n[[0, 1, 3]]) / 50
    if stop == "precision":  # LEVELS has a row that never changes an answer
        assert found.fewest == ran.n[0] / 50
    assert found.silent == {2}
    assert try_out(linear(), data, LEVELS, batch_size=50, engine="eager").fewest == 60


@pytest.mark.usefixtures("unchecked")  # to check a mapping's type is to read one of its values
def test_bytes_read_and_of_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from netopsy._storage import write_state

    trajectory, train, test = trained("conv")
    for key in trajectory.keys:
        write_state(tmp_path / f"epoch_{key}.safetensors", trajectory.state(key))
    stored = Trajectory.from_folder(conv, tmp_path)
    data = {"train": train, "test": test}
    said = plan(stored, data, checkpoints="all", draws=3, **EAGER)
    read, get = [0], StateFile.__getitem__

    def counted(self: StateFile, name: str) -> Tensor:
        value = get(self, name)
        if self.path.parent == tmp_path and value.is_floating_point():
            read[0] += value.nbytes
        return value

    drawn: list[Redrawer] = []
    of = Redrawer.of
    monkeypatch.setattr(StateFile, "__getitem__", counted)
    monkeypatch.setattr(Redrawer, "of", lambda source: drawn.append(of(source)) or drawn[-1])
    robustness(stored, data, checkpoints="all", draws=3, **EAGER)
    assert said.read_bytes == pytest.approx(read[0], rel=0.02)  # integer counters are not edited
    files = sum(file.stat().st_size for file in drawn[0]._scratch.path.iterdir())
    assert 0 < said.temporary_bytes <= files < said.temporary_bytes + 3 * 2000  # their headers
    assert plan(trajectory, test, draws=0, **EAGER).read_bytes == 0


def test_the_peak_counts_storages_once_until_they_are_freed() -> None:
    x = torch.zeros(1000)

    def work() -> None:
        a = x * 2
        b = a.view(10, 100).t()
        c = b + 1
        del a, b
        d = torch.zeros(500)
        d.add_(1)
        del c, d
        x.add_(1)

    assert _peak(work) == 8000
    with forked(0):
        model, data = nn.Sequential(nn.Linear(10, 1000), nn.ReLU(), nn.Linear(1000, 3)), torch.randn(64, 10)
    said = plan(model, (data, torch.zeros(64, dtype=torch.int64)), checkpoints=(), draws=1, engine="eager")
    weights = sum(p.nbytes for p in model.parameters())
    layer = 64 * 1000 * 4
    assert 2 * weights + 2 * layer <= said.peak_bytes <= 2 * weights + 2.2 * layer  # a draw of it all is kept


def test_batch_norm_that_is_recomputed_is_tried_on_a_few_examples() -> None:
    trajectory, train, test = trained("conv")
    asked: dict[str, Any] = {"draws": 0, "batch_norm": "recompute", **EAGER}
    said = plan(trajectory, test, calibration=ordered([train]), **asked)
    statistics = sum(b.nbytes for b in trajectory.model().buffers())
    assert said.temporary_bytes == said.rows["re-initialize"] * statistics
    with pytest.raises(NetopsyError, match="needs calibration="):
        plan(trajectory, test, **asked)


def test_no_trace_is_left_on_a_module() -> None:
    with forked(0):
        model = conv()
    stir_modes(model)
    before = snapshot(model)
    _, _, test = trained("conv")
    for engine in ("eager", "exported"):
        plan(model, test, checkpoints=(), engine=engine)  # type: ignore[arg-type]
        assert snapshot(model) == before


def test_the_arguments_are_those_of_robustness() -> None:
    mine, other = (dict(inspect.signature(f).parameters) for f in (plan, robustness))
    for gone in ("progress", "resume"):
        del other[gone]
    assert mine == other
    trajectory, _, test = trained("fcn")
    with pytest.raises(NetopsyError, match="no checkpoint 7"):
        plan(trajectory, test, checkpoints=(7,))


def test_the_table_and_the_record() -> None:
    trajectory, _, test = trained("fcn")
    said = plan(trajectory, test, **EAGER)
    text = str(said)
    assert "3 re-initialize, 3 re-randomize, 0 no-op of 3 sites" in text
    assert "data: 40 examples, 2 batches" in text
    assert "14 by the naive loop; 100% of their arithmetic" in text
    assert [line.split("  ")[0] for line in text.splitlines()] == [
        "rows", "data", "forwards", "engine", "time", "memory", "read from files", "temporary files",
    ]  # fmt: skip
    record = json.loads(json.dumps(said.to_dict()))
    assert record["forwards"] == 14
    assert record["engine"] == {"data": "eager"}
    assert record["seconds_low"] <= record["seconds"] <= record["seconds_high"]
