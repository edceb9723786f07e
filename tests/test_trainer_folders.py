"""Folders that the Hugging Face Trainer really leaves behind: what is read of them, and under which keys."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.network.trajectory import Trajectory
from tests.test_checkpoint_folders import Run, States, assert_read, copied, kept
from tests.test_shards import shard
from tests.test_states import net, save, state_of
from tests.test_trajectory import assert_same


@pytest.fixture(scope="module")
def trainer_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Steps 2, 4 ... 10 of a tiny BERT, and the model in the root; `sharded/` has the last in several files."""
    root = tmp_path_factory.mktemp("trainer")
    states: States = {}
    with warnings.catch_warnings(), forked(0):
        warnings.simplefilter("ignore")
        import transformers

        config = transformers.BertConfig(
            vocab_size=20,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=8,
        )

        class Keep(transformers.TrainerCallback):
            def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                states[state.global_step] = kept(given["model"].state_dict())

        model = transformers.BertForSequenceClassification(config)
        data = [{"input_ids": torch.arange(4) + i % 16, "labels": torch.tensor(i % 2)} for i in range(16)]
        arguments = transformers.TrainingArguments(
            str(root / "out"),
            max_steps=10,
            save_steps=2,
            per_device_train_batch_size=4,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[Keep()])
        trainer.train()
        trainer.save_model()
        model.save_pretrained(root / "sharded", max_shard_size="2KB")

    def build() -> nn.Module:
        return transformers.BertForSequenceClassification(config)

    return Run(root / "out", build, states)


def test_a_trainers_run_is_read_by_step_and_the_model_in_its_root_is_final(trainer_run: Run) -> None:
    assert list(trainer_run.states) == [2, 4, 6, 8, 10]  # not the order of names
    assert {"training_args.bin", "model.safetensors"} < {file.name for file in trainer_run.folder.iterdir()}
    assert_read(Trajectory.from_folder(trainer_run.model, trainer_run.folder), trainer_run, final=10)


def test_a_trainers_run_without_a_final_model_is_read(trainer_run: Run, tmp_path: Path) -> None:
    for name in ("checkpoint-10", "checkpoint-2"):
        copied(trainer_run.folder / name, tmp_path / name)
    (tmp_path / "checkpoint-best").mkdir()
    trajectory = Trajectory.from_folder(trainer_run.model, tmp_path, initial=trainer_run.folder / "checkpoint-4")
    assert trajectory.keys == (0, 2, 10)
    for key, step in {0: 4, 2: 2, 10: 10}.items():
        assert_same(trajectory.model(key), trainer_run.states[step])


def test_one_folder_of_a_model_is_one_state(trainer_run: Run) -> None:
    folder, final = trainer_run.folder, trainer_run.states[10]
    sharded = folder.parent / "sharded"
    assert len(list(sharded.glob("model-*"))) > 1
    trajectory = Trajectory.from_files(trainer_run.model, initial=folder / "checkpoint-2", final=sharded)
    assert_same(trajectory.model(0), trainer_run.states[2])
    assert_same(trajectory.model(), final)
    for one in (sharded, folder / "checkpoint-10"):
        alone = Trajectory.from_folder(trainer_run.model, one)
        assert alone.keys == ("final",)
        assert_same(alone.model(), final)


def test_the_encoder_of_a_model_with_a_head_is_found(trainer_run: Run) -> None:
    trajectory = Trajectory.from_folder(lambda: trainer_run.model().bert, trainer_run.folder)  # type: ignore[arg-type, return-value]
    expected = {
        name.removeprefix("bert."): value for name, value in trainer_run.states[4].items() if name.startswith("bert.")
    }
    assert_same(trajectory.model(4), expected)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_checkpoints_in_several_files_are_read(tmp_path: Path, suffix: str) -> None:
    for step in (1000, 500):
        folder = shard(tmp_path / f"checkpoint-{step}", state_of(step), suffix)
        for other in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin"):
            (folder / other).write_bytes(b"not for us")
    shard(tmp_path, state_of(3), suffix)
    trajectory = Trajectory.from_folder(net, tmp_path)
    assert trajectory.keys == (500, 1000, "final")
    for key, seed in {500: 500, 1000: 1000, "final": 3}.items():
        assert_same(trajectory.model(key), state_of(seed))


def test_an_older_trainers_files_are_read(tmp_path: Path) -> None:
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        save(tmp_path / f"checkpoint-{step}" / "pytorch_model.bin", state_of(step))
    assert_same(Trajectory.from_folder(net, tmp_path).model(10), state_of(10))


def test_a_plain_file_called_model_keeps_its_name(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", state_of(1))
    assert Trajectory.from_folder(net, tmp_path).keys == ("model",)
    save(tmp_path / "init.safetensors", state_of(0))
    (tmp_path / "config.json").write_text("{}")
    assert Trajectory.from_folder(net, tmp_path).keys == (0, "model")


def test_a_checkpoint_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "adapter_model.safetensors").touch()
    with pytest.raises(
        NetopsyError, match=r"checkpoint-5: expected a folder with one model .* it holds adapter_model\.safetensors"
    ):
        Trajectory.from_folder(net, tmp_path)


def test_two_checkpoints_of_one_step_are_refused(tmp_path: Path) -> None:
    for name in ("checkpoint-5", "checkpoint-05"):
        shard(tmp_path / name, state_of(0))
    with pytest.raises(NetopsyError, match=r"checkpoint-05 and checkpoint-5 in .* both have the key 5; name the"):
        Trajectory.from_folder(net, tmp_path)


# Beside other checkpoints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "other", "named"),
    [
        ("checkpoint-5", "epoch=0-step=4.ckpt", r"epoch=0-step=4\.ckpt"),
        ("checkpoint-5", "0.safetensors", r"0\.safetensors"),
        ("checkpoint-5", "checkpoints/0.safetensors", "checkpoints"),
        ("checkpoint-5", "lightning_logs/version_0/checkpoints/last.ckpt", "lightning_logs/version_0/checkpoints"),
        (".", "last.ckpt", r"last\.ckpt"),
        (".", "lightning_logs/version_0/checkpoints/last.ckpt", "lightning_logs/version_0/checkpoints"),
    ],
)
def test_models_of_a_trainer_beside_other_checkpoints_are_refused(
    tmp_path: Path, model: str, other: str, named: str
) -> None:
    (tmp_path / model).mkdir(exist_ok=True)
    save(tmp_path / model / "model.safetensors", state_of(5))
    (tmp_path / model / "config.json").write_text("{}")
    (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
    save(tmp_path / other, state_of(4))
    with pytest.raises(
        NetopsyError,
        match=r"expected the checkpoints of one run in .*; it holds both models of Hugging Face "
        rf"\(.*model\.safetensors\) and other checkpoints \({named}\); move one of them elsewhere, or use",
    ):
        Trajectory.from_folder(net, tmp_path)
