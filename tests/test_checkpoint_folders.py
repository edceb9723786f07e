"""Folders that Lightning really leaves behind: what is read of them, and under which keys."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.network.checkpoint_folders import find_checkpoints
from netopsy.network.states import StateFile
from netopsy.network.trajectory import Trajectory
from tests.test_states import net, save, state_of
from tests.test_trajectory import assert_same

States = dict[int, dict[str, Tensor]]


class Run(NamedTuple):
    """A folder, a factory of the model that was trained, and its weights at the steps that were saved."""

    folder: Path
    model: Callable[[], nn.Module]
    states: States


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def kept(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


@pytest.fixture(scope="module")
def lightning_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three epochs of four steps; `named/` has files whose names say no step, `hyper/` one that is not plain."""
    root = tmp_path_factory.mktemp("lightning")
    states: States = {}
    with warnings.catch_warnings(), forked(0):
        warnings.simplefilter("ignore")
        import lightning
        from lightning.pytorch.callbacks import ModelCheckpoint
        from lightning.pytorch.loggers import CSVLogger

        class Module(lightning.LightningModule):
            def __init__(self, width: int = 4, rates: tuple[float, ...] = (0.1, 0.2), what: Any = None) -> None:
                super().__init__()
                self.save_hyperparameters()
                self.model = network()
                self.loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))

            def training_step(self, batch: Any, _: int) -> Tensor:
                loss: Tensor = self.loss(self.model(batch[0]), batch[1])
                self.log("score", loss)
                return loss

            def configure_optimizers(self) -> Any:
                optimizer = torch.optim.Adam(self.parameters())
                return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

            def on_train_epoch_end(self) -> None:
                states[self.global_step] = kept(self.model.state_dict())

        trainer = lightning.Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=CSVLogger(root),
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[
                ModelCheckpoint(save_top_k=-1, save_last=True),
                ModelCheckpoint(root / "named", "{epoch}-{score:.2f}", monitor="score", save_top_k=-1),
            ],
        )
        data = torch.utils.data.TensorDataset(torch.randn(32, 3), torch.arange(32) % 2)
        trainer.fit(Module(), torch.utils.data.DataLoader(data, 8))
        trainer.lightning_module.hparams["what"] = PurePosixPath("a")
        trainer.save_checkpoint(root / "hyper" / "epoch=2-step=12.ckpt")
    return Run(root, network, states)


def logged(run: Run) -> Path:
    return run.folder / "lightning_logs" / "version_0" / "checkpoints"


def copied(source: Path, to: Path) -> Path:
    shutil.copytree(source, to)
    return to


def assert_read(trajectory: Trajectory, run: Run, **names: int) -> None:
    """Every state of the run is there, and under these names the ones of these steps."""
    assert trajectory.keys == (*run.states, *names)
    for key, step in {**{step: step for step in run.states}, **names}.items():
        assert_same(trajectory.model(key), run.states[step])


# Lightning ------------------------------------------------------------------------------------------------------


def test_a_lightning_run_is_read_by_step_from_any_of_its_folders(lightning_run: Run) -> None:
    assert list(lightning_run.states) == [4, 8, 12]
    names = {file.name for file in logged(lightning_run).iterdir()}
    assert names == {"epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt", "epoch=2-step=12.ckpt", "last.ckpt"}
    inner = logged(lightning_run)
    for folder in (inner, inner.parent, inner.parent.parent):
        assert_read(Trajectory.from_folder(network, folder), lightning_run)


def test_the_root_of_a_lightning_run_is_read(lightning_run: Run, tmp_path: Path) -> None:
    copied(lightning_run.folder / "lightning_logs", tmp_path / "lightning_logs")
    assert_read(Trajectory.from_folder(network, tmp_path), lightning_run)


def test_files_whose_names_say_no_step_are_read_by_their_own(lightning_run: Run) -> None:
    names = [file.name for file in (lightning_run.folder / "named").iterdir()]
    assert len(names) == 3
    assert not any("step" in name for name in names)
    assert_read(Trajectory.from_folder(network, lightning_run.folder / "named"), lightning_run)


def test_the_last_checkpoint_of_a_step_that_is_not_there_is_last(lightning_run: Run, tmp_path: Path) -> None:
    folder = copied(logged(lightning_run), tmp_path / "checkpoints")
    (folder / "epoch=2-step=12.ckpt").unlink()
    assert find_checkpoints(folder) == {
        4: folder / "epoch=0-step=4.ckpt",
        8: folder / "epoch=1-step=8.ckpt",
        "last": folder / "last.ckpt",
    }
    assert_same(Trajectory.from_folder(network, tmp_path).model("last"), lightning_run.states[12])


def test_the_last_checkpoint_of_another_run_is_last_though_its_step_is_there(
    lightning_run: Run, tmp_path: Path
) -> None:
    folder = copied(logged(lightning_run), tmp_path / "a")
    content = torch.load(folder / "last.ckpt", weights_only=True)
    content["state_dict"]["model.0.bias"] += 1
    torch.save(content, folder / "last-v1.ckpt")
    trajectory = Trajectory.from_folder(network, folder)
    assert trajectory.keys == (4, 8, 12, "last-v1")
    assert torch.equal(trajectory.tensor("last-v1", "0.bias"), trajectory.tensor(12, "0.bias") + 1)
    content["state_dict"]["model.0.bias"][:] = torch.nan
    for name in ("last.ckpt", "epoch=2-step=12.ckpt"):
        torch.save(content, folder / name)
    assert tuple(find_checkpoints(folder)) == (4, 8, 12, "last-v1")  # a diverged network, too, equals itself


def test_a_last_checkpoint_that_is_a_link_is_left_out(lightning_run: Run, tmp_path: Path) -> None:
    folder = copied(logged(lightning_run), tmp_path / "a")
    (folder / "last.ckpt").unlink()
    (folder / "last.ckpt").symlink_to("epoch=2-step=12.ckpt")
    assert tuple(find_checkpoints(folder)) == (4, 8, 12)


def test_a_versioned_file_has_its_step_and_is_left_out_where_it_says_nothing_new(
    lightning_run: Run, tmp_path: Path
) -> None:
    folder = copied(logged(lightning_run), tmp_path / "a")
    (folder / "epoch=1-step=8.ckpt").rename(folder / "epoch=1-step=8-v1.ckpt")
    assert_read(Trajectory.from_folder(network, folder), lightning_run)
    shutil.copy(folder / "epoch=1-step=8-v1.ckpt", folder / "epoch=1-step=8.ckpt")
    assert_read(Trajectory.from_folder(network, folder), lightning_run)
    shutil.copy(folder / "epoch=2-step=12.ckpt", folder / "epoch=1-step=8.ckpt")
    with pytest.raises(
        NetopsyError,
        match=r"epoch=1-step=8-v1\.ckpt and epoch=1-step=8\.ckpt in .* both have the key 8; name the files apart, or",
    ):
        find_checkpoints(folder)


def test_the_weights_before_training_can_be_added(lightning_run: Run, tmp_path: Path) -> None:
    start = network().state_dict()
    folder = logged(lightning_run)
    for given in (start, save(tmp_path / "start.pt", start), str(save(tmp_path / "start.safetensors", start))):
        trajectory = Trajectory.from_folder(network, folder, initial=given)
        assert trajectory.keys == (0, 4, 8, 12)
        assert (trajectory.initial, trajectory.final) == (0, 12)
        assert_same(trajectory.model(0), start)
    save(copied(folder, tmp_path / "a") / "initial.pt", start)
    with pytest.raises(
        NetopsyError,
        match=r"trajectory: initial: expected no checkpoint 0 in .*; it has .*initial\.pt; leave",
    ):
        Trajectory.from_folder(network, tmp_path / "a", initial=start)


def test_several_runs_are_refused_and_listed(lightning_run: Run, tmp_path: Path) -> None:
    copied(lightning_run.folder / "lightning_logs", tmp_path / "lightning_logs")
    copied(logged(lightning_run), tmp_path / "lightning_logs" / "version_1" / "checkpoints")
    (tmp_path / "lightning_logs" / "version_2" / "checkpoints").mkdir(parents=True)  # of a run that was interrupted
    with pytest.raises(
        NetopsyError, match=r"the checkpoints of one run in .*; there are several: \S*version_0/checkpoints, "
        r"\S*version_1/checkpoints; pass one of these",
    ):  # fmt: skip
        Trajectory.from_folder(network, tmp_path)
    assert_read(Trajectory.from_folder(network, tmp_path / "lightning_logs" / "version_1"), lightning_run)


def test_a_checkpoint_with_objects_in_it_is_refused_with_what_to_do(lightning_run: Run, unchecked: None) -> None:
    with pytest.raises(
        NetopsyError,
        match=r"step=12\.ckpt: not a plain state: it pickles more than tensors \(pathlib\.PurePosixPath\), and "
        r"netopsy runs no code of a file; .*save_hyperparameters\(ignore=\[\.\.\.\]\)\. If you trust this file",
    ):
        Trajectory.from_folder(network, lightning_run.folder / "hyper")


def test_what_that_message_says_works(lightning_run: Run, tmp_path: Path) -> None:
    path = lightning_run.folder / "hyper" / "epoch=2-step=12.ckpt"
    torch.save(torch.load(path, weights_only=False)["state_dict"], tmp_path / "12.pt")
    assert_same(Trajectory.from_folder(network, tmp_path).model(12), lightning_run.states[12])


def test_a_damaged_lightning_file_is_refused(lightning_run: Run, tmp_path: Path, unchecked: None) -> None:
    for number, name in enumerate(("epoch=1-step=8.ckpt", "last.ckpt")):
        path = copied(logged(lightning_run), tmp_path / str(number)) / name
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(NetopsyError, match=rf"checkpoint .*{name}: corrupt or truncated \(.+\); write or copy"):
            Trajectory.from_folder(network, path.parent)


# Other folders ---------------------------------------------------------------------------------------------------


def test_an_empty_folder_is_refused_with_what_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(
        NetopsyError,
        match=r"holds no checkpoint file \(.*\), nor checkpoint-<step>/ of a Trainer, nor checkpoints/ of a run",
    ):
        Trajectory.from_folder(net, tmp_path)


def test_a_checkpoint_of_another_program_has_the_key_that_its_name_says(tmp_path: Path) -> None:
    torch.save({"state_dict": state_of(1), "global_step": 77}, tmp_path / "last.ckpt")
    torch.save({"state_dict": state_of(2), "global_step": 88}, tmp_path / "v2-epoch3.ckpt")
    assert tuple(find_checkpoints(tmp_path)) == (3, "last")
    assert StateFile(tmp_path / "last.ckpt").keys() == state_of(1).keys()
