"""The recorder as a callback: real trainings by Lightning and by the Hugging Face Trainer."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from netopsy._checks import NetopsyError
from netopsy.network.trajectory import Trajectory
from netopsy.training.lightning_recorder import LightningRecorder
from netopsy.training.transformers_recorder import TransformersRecorder

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(one: Any, other: Any) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def on_disk(folder: Path) -> dict[int, dict[str, Tensor]]:
    files = {int(file.stem): file for file in (folder / "checkpoints").glob("*.safetensors")}
    return {key: load_file(files[key]) for key in sorted(files)}


def finished(folder: Path) -> bool:
    content = json.loads((folder / "manifest.json").read_text())
    assert content["keys"] == list(on_disk(folder))
    return bool(content["finished"])


class Module(pl.LightningModule):
    """Four steps an epoch; `moments` are the states after each step, copied synchronously."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.net = network()
        self.fail_at = fail_at
        self.moments = {0: copied(self.net)}

    def training_step(self, batch: Any, index: int) -> Tensor:
        if self.global_step == self.fail_at:
            raise ZeroDivisionError("mine")
        loss: Tensor = cross_entropy(self.net(batch[0]), batch[1])
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.net(batch[0])

    def on_train_batch_end(self, *args: Any) -> None:
        self.moments[self.global_step] = copied(self.net)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), 0.1)


def lightning(folder: Path, *callbacks: pl.Callback, sanity: int = 0, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        num_sanity_val_steps=sanity,
        **options,
    )


def batches() -> DataLoader[Any]:
    return DataLoader(list(zip(X, Y, strict=True)), batch_size=3)


def test_lightning_epochs_steps_and_the_inner_network(tmp_path: Path) -> None:
    recorders = [
        LightningRecorder(tmp_path / "epochs", every_n_epochs=2, module="net"),
        LightningRecorder(tmp_path / "steps", every_n_steps=3, module="net"),
        LightningRecorder(tmp_path / "whole"),
    ]
    alone = Module()
    lightning(tmp_path, max_epochs=3).fit(alone, batches(), batches())
    module = Module()
    trainer = lightning(tmp_path, *recorders, max_epochs=3, sanity=1, accumulate_grad_batches=1)
    trainer.fit(module, batches(), batches())
    assert same(alone.state_dict(), module.state_dict())
    epochs, steps, whole = (on_disk(tmp_path / name) for name in ("epochs", "steps", "whole"))
    assert list(epochs) == [0, 2, 3]
    assert list(steps) == [0, 3, 6, 9, 12]
    assert list(whole) == [0, 1, 2, 3]
    assert all(same(state, module.moments[4 * key]) for key, state in epochs.items())
    assert all(same(state, module.moments[key]) for key, state in steps.items())
    assert same({f"net.{name}": value for name, value in epochs[2].items()}, whole[2])
    assert all(finished(tmp_path / name) for name in ("epochs", "steps", "whole"))
    assert Trajectory.from_folder(network, tmp_path / "steps").initial == 0


def test_lightning_stops_inside_an_epoch_and_goes_on(tmp_path: Path) -> None:
    recorders = [
        LightningRecorder(tmp_path / "steps", every_n_steps=4, module="net"),
        LightningRecorder(tmp_path / "epochs", module="net"),
    ]
    first = Module()
    trainer = lightning(tmp_path, *recorders, max_steps=6)
    trainer.fit(first, batches())
    trainer.save_checkpoint(tmp_path / "at6.ckpt")
    assert list(on_disk(tmp_path / "steps")) == [0, 4, 6]
    assert list(on_disk(tmp_path / "epochs")) == [0, 1, 2]

    recorders += [LightningRecorder(tmp_path / "late", every_n_steps=4, module="net")]
    second = Module()
    with torch.no_grad():
        second.net[0].weight.zero_()  # what it was built with does not matter
    trainer = lightning(tmp_path, *recorders, max_steps=9)
    trainer.fit(second, batches(), ckpt_path=tmp_path / "at6.ckpt")
    steps, epochs, late = (on_disk(tmp_path / name) for name in ("steps", "epochs", "late"))
    assert list(steps) == [0, 4, 6, 8, 9]
    assert list(late) == [6, 8, 9]
    assert list(epochs) == [0, 1, 2, 3, 4]  # as Lightning counts: the two halves of the second one are two
    assert all(same(steps[key], first.moments[key]) for key in (0, 4, 6))
    assert all(same(steps[key], second.moments[key]) for key in (8, 9))
    assert same(late[6], first.moments[6])
    assert same(epochs[3], second.moments[8])
    assert same(epochs[4], second.moments[9])


def test_lightning_keeps_what_was_recorded_when_training_fails(tmp_path: Path) -> None:
    recorder = LightningRecorder(tmp_path / "run", every_n_steps=1, module="net")
    module = Module(fail_at=3)
    with pytest.raises(ZeroDivisionError, match="mine"):
        lightning(tmp_path, recorder, max_epochs=1).fit(module, batches())
    found = on_disk(tmp_path / "run")
    assert list(found) == [0, 1, 2, 3]
    assert all(same(found[key], module.moments[key]) for key in found)
    assert not finished(tmp_path / "run")
    with pytest.raises(NetopsyError, match="is not empty"):
        lightning(tmp_path, recorder, max_epochs=1).fit(Module(), batches())
    lightning(tmp_path, recorder, fast_dev_run=True).fit(Module(), batches())
    assert not finished(tmp_path / "run")
    again = LightningRecorder(tmp_path / "run", overwrite=True)
    lightning(tmp_path, again, max_epochs=1).fit(Module(), batches())
    assert list(on_disk(tmp_path / "run")) == [0, 1]
    assert finished(tmp_path / "run")


def test_lightning_names_a_missing_submodule(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="body"):
        lightning(tmp_path, LightningRecorder(tmp_path / "run", module="body"), max_epochs=1).fit(Module(), batches())


class Classifier(nn.Module):
    """As the Trainer wants it: keyword arguments, a dict with the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


class Moments(TrainerCallback):
    """The states after each step, copied synchronously; may raise, or end training in an evaluation."""

    def __init__(self, fail_at: int | None = None, stop_at: int | None = None) -> None:
        self.states: dict[int, dict[str, Tensor]] = {}
        self.fail_at, self.stop_at = fail_at, stop_at

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.states[state.global_step] = copied(kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.states[state.global_step] = copied(kwargs["model"])
        if state.global_step == self.fail_at:
            raise ZeroDivisionError("mine")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.stop_at:
            control.should_training_stop = True


def hugging(folder: Path, *callbacks: TrainerCallback, model: nn.Module | None = None, **options: Any) -> Trainer:
    rows = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    settings = {"save_strategy": "no", "num_train_epochs": 3, "learning_rate": 0.1, **options}
    args = TrainingArguments(
        output_dir=str(folder / "hf"),
        per_device_train_batch_size=3,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    return Trainer(model or Classifier(), args, train_dataset=rows, eval_dataset=rows, callbacks=list(callbacks))


def test_transformers_epochs_and_steps(tmp_path: Path) -> None:
    moments, model, alone = Moments(), Classifier(), Classifier()
    recorders = [
        TransformersRecorder(tmp_path / "epochs", every_n_epochs=2),
        TransformersRecorder(tmp_path / "steps", every_n_steps=5),
        TransformersRecorder(tmp_path / "all"),
    ]
    hugging(tmp_path, model=alone).train()
    hugging(tmp_path, *recorders, moments, model=model).train()
    assert same(alone.state_dict(), model.state_dict())
    epochs, steps = on_disk(tmp_path / "epochs"), on_disk(tmp_path / "steps")
    assert list(epochs) == [0, 2, 3]
    assert list(steps) == [0, 5, 10, 12]
    assert list(on_disk(tmp_path / "all")) == [0, 1, 2, 3]
    assert all(same(state, moments.states[4 * key]) for key, state in epochs.items())
    assert all(same(state, moments.states[key]) for key, state in steps.items())
    assert all(finished(tmp_path / name) for name in ("epochs", "steps", "all"))
    assert Trajectory.from_folder(Classifier, tmp_path / "epochs").initial == 0


def test_transformers_records_the_last_state_and_not_the_best_one(tmp_path: Path) -> None:
    moments = Moments(stop_at=8)  # at the end of epoch 2, after the recorder has seen its end
    recorders = [
        TransformersRecorder(tmp_path / "epochs", every_n_epochs=5),
        TransformersRecorder(tmp_path / "steps", every_n_steps=5),
    ]
    best = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    model = Classifier()
    hugging(tmp_path, *recorders, moments, model=model, **best).train()
    assert same(model.state_dict(), moments.states[4])  # with lr 0.1 the second epoch makes it worse
    for name, key in (("epochs", 2), ("steps", 8)):
        found = on_disk(tmp_path / name)
        assert list(found)[-1] == key
        assert same(found[key], moments.states[8])


def test_transformers_goes_on_after_a_failure(tmp_path: Path) -> None:
    recorder = TransformersRecorder(tmp_path / "run", every_n_steps=2)
    failing, saving = Moments(fail_at=7), {"save_strategy": "steps", "save_steps": 3}
    with pytest.raises(ZeroDivisionError, match="mine"):
        hugging(tmp_path, recorder, failing, **saving).train()
    moments = Moments()
    late = TransformersRecorder(tmp_path / "late")
    checkpoint = str(tmp_path / "hf" / "checkpoint-3")
    hugging(tmp_path, recorder, late, moments, **saving).train(resume_from_checkpoint=checkpoint)
    found = on_disk(tmp_path / "run")
    assert list(found) == [0, 2, 4, 6, 8, 10, 12]
    assert all(same(found[key], failing.states[key]) for key in (0, 2))
    assert all(same(found[key], moments.states[key]) for key in (4, 6, 8, 10, 12))
    assert finished(tmp_path / "run")
    assert list(on_disk(tmp_path / "late")) == [1, 2, 3]  # from inside epoch 1, which counts


@pytest.mark.parametrize(
    ("library", "name", "message"),
    [
        ("lightning.pytorch", "lightning_recorder", r'LightningRecorder needs .*pip install "netopsy\[lightning\]"'),
        ("transformers", "transformers_recorder", r'TransformersRecorder .*pip install "netopsy\[transformers\]"'),
    ],
)
def test_a_missing_library_names_the_extra(
    library: str, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"netopsy.training.{name}")
    with pytest.raises(ImportError, match=message):
        importlib.import_module(f"netopsy.training.{name}")
