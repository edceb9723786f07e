"""The probe of layer robustness works on models of any kind: as by hand, by both engines, and it leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import derive
from netopsy.engine.edits import AddNoise, FromCheckpoint, edit_site
from netopsy.engine.evaluate import evaluate
from netopsy.network.addresses import named_state, unwrap
from netopsy.network.initialization import Redrawer
from netopsy.network.placement import placed
from netopsy.network.sites import find_sites
from netopsy.network.task import Task, model_loss
from netopsy.network.trajectory import Trajectory
from netopsy.probes.robustness import robustness
from netopsy.probes.robustness_result import RobustnessResult
from tests import zoo
from tests.test_engine_traces import process, snapshot


@cache
def trajectory(name: str) -> Trajectory:
    """A run of two checkpoints of a model that a factory builds."""
    final = zoo.any_case(name).model.state_dict()
    first = zoo.fresh_state(zoo.built(zoo.ANY[name]), 5)
    return Trajectory.from_states(zoo.ANY[name], {0: first, 1: final})


@dataclass(frozen=True)
class Probed:
    """What the probe found, and what it left on the model and the process that was not there before."""

    result: RobustnessResult
    left: list[str]


@cache
def probed(name: str, engine: Any) -> Probed:
    """Reset and redraw of every site; the model that the probe asks the trajectory for is watched."""
    case, model = zoo.any_case(name), trained(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trajectory, "model", lambda self, key=None: model)
        before, around = snapshot(model), process()
        result = robustness(trajectory(name), case.data, task=case.task, engine=engine, batch_size=12)
        after, now = snapshot(model), process()
    left = [place for place in {**before, **after} if before.get(place) != after.get(place)]
    return Probed(result, left + ["the process"] * (around != now))


@cache
def trained(name: str) -> nn.Module:
    """One model of both engines' probes."""
    return trajectory(name).model()


@cache
def twin(name: str) -> nn.Module:
    return unwrap(copy.deepcopy(zoo.any_case(name).model)).eval()


def logits_by_hand(name: str, values: dict[str, Tensor], cast: Callable[[Any], Any] | None = None) -> Tensor:
    """A copy of the trained model with some values written into its state, cast if asked for, run on all examples."""
    case, model = zoo.any_case(name), twin(name)
    model.load_state_dict(unwrap(case.model).state_dict())
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    args, kwargs = case.inputs
    with torch.no_grad():
        for key, value in values.items():
            own[key].copy_(value)
        if cast is not None:
            model, args = cast(copy.deepcopy(model)), tuple(map(cast, args))
            kwargs = {key: cast(value) for key, value in kwargs.items()}
        return case.read(model(*args, **kwargs)).clone()


def numbers(name: str, logits: Tensor) -> tuple[float, float]:
    """0-1 error and mean cross-entropy over the positions that count."""
    case = zoo.any_case(name)
    labels = case.labels.reshape(len(case.labels), -1)
    scores = logits.reshape(len(labels), -1, logits.shape[-1]).float()
    if case.shift:
        scores, labels = scores[:, :-1], labels[:, 1:]
    scores, labels = scores[labels != -100], labels[labels != -100]
    loss = nn.functional.cross_entropy(scores.double(), labels)
    return (scores.argmax(-1) != labels).double().mean().item(), loss.item()


def edits_by_hand(run: Trajectory, seed: int = 0) -> dict[tuple[str, str], dict[str, Tensor]]:
    """(site, operation) -> the values it writes: those of checkpoint 0, and a draw of the whole network."""
    redrawer, model = Redrawer.of(run), run.model()
    floats = {name for name, value in named_state(model).items() if value.is_floating_point()}
    found = {}
    for site in find_sites(model):
        names = [address.name for address in site.addresses if address.name in floats]
        found[site.name, "re-initialize"] = {name: run.tensor(0, name) for name in names}
        drawn = derive(seed, "draw", 0)
        found[site.name, "re-randomize"] = {name: redrawer.tensor(drawn, name) for name in names}
    return found


def key_of(row: Any) -> tuple[str | None, str]:
    return None if pd.isna(row.site) else row.site, row.operation


def same_table(mine: pd.DataFrame, other: pd.DataFrame, close: float = 1e-5) -> None:
    exact = [column for column in mine.columns if column not in ("loss",)]
    pd.testing.assert_frame_equal(mine[exact], other[exact])
    np.testing.assert_allclose(mine.loss, other.loss, rtol=close, atol=close)


@pytest.mark.parametrize("name", zoo.ANY)
def test_the_probe_does_what_one_would_do_by_hand(name: str) -> None:
    engine = "exported" if zoo.any_case(name).exports else "auto"
    found = probed(name, engine).result.frame
    rows = {(None, "baseline"): {}} | edits_by_hand(trajectory(name))
    assert list(map(key_of, found.itertuples())) == list(rows)
    baseline = numbers(name, logits_by_hand(name, {}))
    for row in found.itertuples():
        error, loss = numbers(name, logits_by_hand(name, rows[key_of(row)]))
        assert row.error == pytest.approx(error, abs=1e-9), row
        assert row.loss == pytest.approx(loss, rel=1e-5, abs=1e-5), row
        assert row.delta_error == pytest.approx(error - baseline[0], abs=1e-9), row
    changed = found[found.status == "ok"]
    assert (abs(changed.loss - baseline[1]) > 1e-4).sum() > len(changed) / 2  # the models can tell edits from none


@pytest.mark.parametrize("name", [name for name in zoo.ANY if name not in zoo.EAGER])
def test_both_engines_give_the_same_table(name: str) -> None:
    exported, eager = (probed(name, engine).result for engine in ("exported", "eager"))
    same_table(exported.frame, eager.frame)
    for result, engine in ((exported, "exported"), (eager, "eager")):
        assert result.provenance["engine"] == engine
        assert result.provenance["splits"]["data"]["engine_reasons"] == []


@pytest.mark.parametrize("name", [name for name in zoo.ANY if name in zoo.EAGER])
def test_what_cannot_be_exported_runs_eagerly_and_says_so_once(name: str) -> None:
    found = probed(name, "auto").result
    same_table(found.frame, probed(name, "eager").result.frame)
    assert found.provenance["engine"] == "eager"
    assert len(found.provenance["splits"]["data"]["engine_reasons"]) == 1
    assert probed(name, "eager").result.provenance["splits"]["data"]["engine_reasons"] == []  # as was asked for
    with pytest.raises(NetopsyError, match=r"cannot be run so: .*; use engine='auto', which falls back to eager"):
        probed(name, "exported")


@pytest.mark.parametrize("name", zoo.ANY)
@pytest.mark.parametrize("engine", ["exported", "eager"])
def test_the_model_is_bit_identical_afterwards(name: str, engine: str) -> None:
    assert probed(name, engine if zoo.any_case(name).exports or engine == "eager" else "auto").left == []


# On another device, in another type


def halved(value: Any) -> Any:
    """A module or tensor cast by hand."""
    floats = not isinstance(value, Tensor) or value.is_floating_point()
    return value.to(torch.bfloat16) if floats else value


def doubled(value: Any) -> Any:
    floats = not isinstance(value, Tensor) or value.is_floating_point()
    return value.to(torch.float64) if floats else value


CASTS: dict[str, tuple[torch.dtype, Callable[[Any], Any]]] = {
    "bfloat16": (torch.bfloat16, halved),
    "float64": (torch.float64, doubled),
}


@pytest.mark.parametrize(
    ("name", "kind"), [("resnet", "bfloat16"), ("bert", "bfloat16"), ("lstm", "bfloat16"), ("normed", "float64")]
)
def test_another_type_is_that_of_a_model_cast_by_hand(name: str, kind: str) -> None:
    """Resets and draws are made in float32 and then cast, as of a model edited first and cast then."""
    dtype, cast = CASTS[kind]
    case, run = zoo.any_case(name), trajectory(name)
    found = robustness(placed(run, dtype=dtype), case.data, task=case.task, engine="eager", batch_size=24).frame
    rows = {(None, "baseline"): {}} | edits_by_hand(run)
    differs = 0
    for row in found.itertuples():
        logits = logits_by_hand(name, rows[key_of(row)], cast)
        assert logits.dtype == dtype
        error, loss = numbers(name, logits)
        assert row.error == pytest.approx(error, abs=1e-9), row
        assert row.loss == pytest.approx(loss, rel=1e-5, abs=1e-5), row
        differs += row.loss != pytest.approx(numbers(name, logits_by_hand(name, rows[key_of(row)]))[1], abs=1e-4)
    assert differs == 0 if kind == "float64" else differs > len(found) / 2


def test_a_placed_network_can_be_exported() -> None:
    case, run = zoo.any_case("twice"), placed(trajectory("twice"), dtype=torch.bfloat16)
    exported, eager = (robustness(run, case.data, engine=engine, batch_size=12) for engine in ("auto", "eager"))
    assert exported.provenance["engine"] == "exported"
    same_table(exported.frame, eager.frame)


def test_a_placed_module_keeps_names_values_and_kinds() -> None:
    model = zoo.built(zoo.ANY["resnet"])
    before = snapshot(model)
    twin = placed(model, dtype=torch.bfloat16, device="cpu")
    assert snapshot(model) == before
    assert isinstance(twin, nn.Sequential)
    assert type(twin).__name__ == "Sequential"
    assert [str(site) for site in find_sites(twin)] == [str(site) for site in find_sites(model)]
    for name, value in named_state(twin).items():
        assert value.dtype == named_state(model)[name].dtype
        assert torch.equal(value, named_state(model)[name])
    x = zoo.any_case("resnet").inputs[0][0]
    assert twin(x).dtype == torch.bfloat16
    assert torch.equal(twin(x), copy.deepcopy(model).bfloat16()(x.bfloat16()))
    assert torch.equal(copy.deepcopy(twin)(x), twin(x))


def test_integers_are_not_cast() -> None:
    """bfloat16 has no 997 and no 1,002."""
    table = nn.Embedding(1000, 2)
    assert torch.equal(placed(table, dtype=torch.bfloat16)(torch.tensor([997, 3])), table.weight[[997, 3]].bfloat16())
    counting = nn.BatchNorm1d(6).train()
    counting.num_batches_tracked.fill_(1001)
    twin = placed(counting, dtype=torch.bfloat16)
    assert twin(torch.randn(4, 6)).dtype == torch.bfloat16
    assert (twin.num_batches_tracked.dtype, int(twin.num_batches_tracked)) == (torch.int64, 1002)


def test_statistics_written_in_training_mode_arrive() -> None:
    twin, hand = placed(nn.BatchNorm1d(6).train(), dtype=torch.bfloat16), nn.BatchNorm1d(6).train().bfloat16()
    x = torch.randn(8, 6)
    twin(x)
    hand(x.bfloat16())
    assert twin.running_mean.dtype == torch.float32
    assert torch.equal(twin.running_mean, hand.running_mean.float())
    assert torch.equal(twin.running_var, hand.running_var.float())


def test_gradients_pass_through_a_placed_network() -> None:
    model = zoo.mlp()
    x = zoo.any_case("twice").inputs[0][0]
    twin, cast = copy.deepcopy(model), placed(model, dtype=torch.float64)
    cast(x).square().sum().backward()
    twin(x).square().sum().backward()
    for mine, other in zip(cast.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "nowhere"}, r"device='nowhere': expected one such as 'cpu', 'cuda:0' or 'mps'"),
        ({"device": "meta"}, r"device='meta': expected a device that computes"),
        ({"dtype": torch.int64}, r"dtype: expected one of torch.float16, torch.bfloat16, .*; got torch.int64"),
    ],
)
def test_another_place_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        placed(zoo.mlp(), **options)


@pytest.mark.parametrize("device", ["cuda", "cuda:77", "mps"])
def test_a_device_that_is_not_there_is_refused_before_any_work(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if (device == "cuda" and torch.cuda.is_available()) or (device == "mps" and torch.backends.mps.is_available()):
        pytest.skip("it is there")
    run = trajectory("twice")
    monkeypatch.setattr(copy, "deepcopy", pytest.fail)
    with pytest.raises(NetopsyError, match=f"device='{device}': expected a device of this machine; torch cannot"):
        placed(run, device=device)


def test_what_cannot_be_placed_is_refused(unchecked: None) -> None:
    once = placed(zoo.mlp(), dtype=torch.float64)
    with pytest.raises(NetopsyError, match="expected a module in plain Python; Sequential is placed already"):
        placed(once, dtype=torch.bfloat16)
    with pytest.raises(NetopsyError, match=r"expected a module in plain Python; \w+ is a ScriptModule"):
        placed(zoo.scripted(), dtype=torch.bfloat16)
    with pytest.raises(NetopsyError, match=r"placed: expected a netopsy.Trajectory or a module; got dict"):
        placed({}, dtype=torch.bfloat16)


# The model's own loss, ignored positions, a metric of one's own


class Fixed(nn.Module):
    """The input is the logits; `bias` is added. Its loss, of the batch, is the mean over the labels that count."""

    def __init__(self, classes: int = 3, *, scale: float = 1.0) -> None:
        super().__init__()
        self.bias, self.scale = nn.Parameter(torch.zeros(classes)), scale

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        logits, loss = x + self.bias, None
        if labels is not None:
            loss = self.scale * nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())
        return {"loss": loss, "logits": logits}


def shifted(model: nn.Module) -> Any:
    """A variant that adds noise to the bias."""
    return edit_site("noise", find_sites(model)[0], AddNoise(2.0, 1))


@pytest.mark.parametrize(("engine", "batch_size"), [("exported", 5), ("eager", 5), ("eager", 24)])
def test_the_models_own_loss(engine: Any, batch_size: int) -> None:
    """Twice the cross-entropy: its mean over the positions that count, however the batches are cut."""
    model, x = Fixed(scale=2.0), torch.randn(24, 4, 3, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(96).reshape(24, 4) % 3
    labels[::2, 1:] = -100  # half of the examples have one position, half have four
    data, variant = {"x": x, "labels": labels}, shifted(model)
    found = evaluate(
        model, data, [variant], task=Task(loss=model_loss), engine=engine, batch_size=batch_size, examples=("error",)
    )
    plain = evaluate(model, data, [variant], engine=engine, batch_size=batch_size, examples=("error",))
    assert found.provenance["engine"] == engine
    bias = variant.edits[0].rule(model.bias.detach(), variant.edits[0].address)  # type: ignore[union-attr]
    for logits, loss in ((x, found.baseline["loss"]), (x + bias, found.metrics["loss"][0])):
        assert loss == pytest.approx(2 * nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).item())
    np.testing.assert_array_equal(found.examples["error"], plain.examples["error"])
    for name in ("delta_error", "delta_error_low", "delta_error_high"):  # of the errors, whatever the loss is
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))


def test_the_loss_of_a_language_model_is_its_own() -> None:
    """A causal model shifts the labels itself, and averages as `positions="next"` counts."""
    case, run = zoo.any_case("gpt2"), trajectory("gpt2")
    model = run.model()
    variants = [edit_site(str(site), site, FromCheckpoint(run, 0)) for site in find_sites(model)[::5]]
    own, ours = (
        evaluate(model, case.data, variants, task=task, engine="eager", batch_size=12)
        for task in (Task(positions="next", loss=model_loss), case.task)
    )
    np.testing.assert_allclose(own.metrics["loss"], ours.metrics["loss"], rtol=1e-5)
    assert own.baseline["loss"] == pytest.approx(ours.baseline["loss"], rel=1e-5)
    assert own.metrics["error"].tolist() == ours.metrics["error"].tolist()


def test_the_loss_of_a_classifier_leaves_its_configuration_as_it_was() -> None:
    case = zoo.any_case("bert")
    before = snapshot(case.model), case.model.config.to_dict()
    found, plain = (evaluate(case.model, case.data, task=task) for task in (Task(loss=model_loss), None))
    assert (snapshot(case.model), case.model.config.to_dict()) == before
    assert found.baseline["loss"] == pytest.approx(plain.baseline["loss"], rel=1e-5)


def test_what_a_loss_of_the_model_cannot_tell_is_refused() -> None:
    task, x, labels = Task(loss=model_loss), torch.randn(8, 3), torch.arange(8) % 3
    model, data, own = (
        Fixed(),
        {"x": x, "labels": labels},
        Task(loss=model_loss, inputs=lambda batch: ((batch[0],), {})),
    )
    with pytest.raises(NetopsyError, match="examples: expected no 'loss' with loss=model_loss, one number a batch"):
        evaluate(model, data, task=task, examples=("loss",))
    with pytest.raises(NetopsyError, match=r"loss=model_loss: expected dict batches .*; got tuple; pass task="):
        evaluate(model, (x, labels), task=task)
    with pytest.raises(NetopsyError, match=r"output to have a \.loss of one number; got NoneType"):
        evaluate(zoo.Wrapped(), (torch.randn(8, 6), labels), task=own)
    with pytest.raises(NetopsyError, match="loss=model_loss: expected a loss of each position here"):
        model_loss(x, labels)

    class Each(Fixed):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
            loss = nn.functional.cross_entropy(x + self.bias, labels, reduction="none")
            return {"loss": loss, "logits": x + self.bias}

    with pytest.raises(NetopsyError, match=r"a .loss of one number; got shape \(4,\); see that the labels"):
        evaluate(Each(), data, task=task)


def rank(logits: Tensor, targets: Tensor) -> Tensor:
    """How many classes are before the right one."""
    return (logits > logits.gather(1, targets[:, None])).sum(1)


def test_positions_that_are_ignored_count_in_no_number() -> None:
    """Logits are 2, 1, 0: class 0 is right, class 2 has rank 2; of ten positions four are ignored, all of one row."""
    x = torch.tensor([2.0, 1.0, 0.0]).expand(5, 2, 3).contiguous()
    labels = torch.tensor([[0, 0], [0, 2], [1, -100], [-100, -100], [-100, 2]])
    found = evaluate(Fixed(), {"x": x, "labels": labels}, metrics=("error", "loss", rank), batch_size=2)
    z = float(np.log(np.exp([2.0, 1.0, 0.0]).sum()))
    assert found.baseline["error"] == pytest.approx(3 / 6)  # two of class 2 and one of class 1
    assert found.baseline["loss"] == pytest.approx((3 * (z - 2) + (z - 1) + 2 * z) / 6)
    assert found.baseline["rank"] == pytest.approx((0 * 3 + 1 + 2 * 2) / 6)
