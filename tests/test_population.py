"""Populations against `fit` of each member alone: its numbers, its folder, what becomes of it and of the others."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from netopsy._checks import Diverged, NetopsyError
from netopsy._random import derive
from netopsy.data.dataset import corrupt_labels
from netopsy.models.fcn import fcn
from netopsy.models.normalized_fcn import normalized_fcn
from netopsy.network.trajectory import Trajectory
from netopsy.training import population_ways
from netopsy.training import resume as resuming
from netopsy.training.config import FitConfig
from netopsy.training.fit import fit
from netopsy.training.population import fit_population
from netopsy.training.population_folder import PopulationFolder
from netopsy.training.population_result import MemberResult, PopulationResult
from tests.test_fit_resume import Stop as Event
from tests.test_fit_resume import disturbed, fail, happens

CLASSES = 3


def data(n: int = 22, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 4, 4, generator=source, dtype=torch.float64).to(dtype), torch.arange(n) % CLASSES


def mlp(scale: float = 1.0) -> nn.Module:
    model = fcn(inputs=(1, 4, 4), classes=CLASSES, depth=2, width=6).double()
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(scale)
    return model


def normalized() -> nn.Module:
    return normalized_fcn(inputs=(1, 4, 4), classes=CLASSES, hidden=(6, 5)).double()


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, CLASSES)
    ).double()


def dropping() -> nn.Module:
    return fcn(inputs=(1, 4, 4), classes=CLASSES, depth=1, width=6, dropout=0.5).double()


BASE = FitConfig(epochs=3, batch_size=8, lr=0.1)
CONFIGS = (
    BASE,
    replace(BASE, seed=1, lr=0.03, momentum=0.0, weight_decay=0.1, lr_drops=(1, 2), lr_factor=0.5, keep=(1,)),
    replace(BASE, seed=2, lr=0.2, momentum=0.5, label_noise=0.4, keep=()),
)


def loaded(state: Any) -> dict[str, Tensor]:
    return load_file(state) if isinstance(state, Path) else dict(state)


def check_equal(member: MemberResult, alone: Any, *, tolerance: float = 1e-10) -> None:
    """The same checkpoints and history as `fit` gives, up to rounding; exactly for tolerance 0."""
    assert list(member.states) == list(alone.states)
    for key, state in member.states.items():
        ours, theirs = loaded(state), loaded(alone.states[key])
        assert list(ours) == list(theirs) or isinstance(state, Path)
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=tolerance, atol=tolerance)
    frames = [run.history.drop(columns="seconds") for run in (member, alone)]
    pd.testing.assert_frame_equal(*frames, check_exact=tolerance == 0, rtol=tolerance or 1e-5, atol=tolerance or 1e-8)
    assert list(member.history) == list(alone.history)


@pytest.mark.parametrize(
    ("factory", "way"),
    [(mlp, "matmul"), (mlp, "vmap"), (normalized, "matmul"), (normalized, "vmap"), (conv, "vmap")],
)
def test_every_member_is_the_network_that_fit_trains_alone(factory: Callable[[], nn.Module], way: Any) -> None:
    given, validation = data(), data(9, seed=1)
    result = fit_population(factory, given, CONFIGS, way=way, validation=validation)
    assert (result.way, result.reason) == (way, "asked for")
    for member, config in zip(result.members, CONFIGS, strict=True):
        check_equal(member, fit(factory, given, config, validation=validation))
        assert (member.config, member.seed, member.status) == (config, config.seed, "epochs")


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_other_optimizers_agree_too(optimizer: Any) -> None:
    configs = [replace(config, optimizer=optimizer, lr=config.lr / 10) for config in CONFIGS]
    for member, config in zip(fit_population(mlp, data(), configs).members, configs, strict=True):
        check_equal(member, fit(mlp, data(), config))


@pytest.mark.parametrize(("factory", "way"), [(mlp, "matmul"), (conv, "vmap"), (normalized, "one-by-one")])
def test_the_squared_error_to_the_label_agrees_too(factory: Callable[[], nn.Module], way: Any) -> None:
    """Also of plain SGD, whose step the backward pass takes; and as what decides when a member is done."""
    plain = [replace(BASE, lr=lr, momentum=0.0, seed=seed) for seed, lr in enumerate((0.02, 0.05, 0.03))]
    for chosen in (CONFIGS, plain):
        configs = [replace(config, loss="l2", lr=config.lr / 4, target_loss=0.7) for config in chosen]
        result = fit_population(factory, data(), configs, way=way, validation=data(9, seed=1))
        for member, config in zip(result.members, configs, strict=True):
            check_equal(member, fit(factory, data(), config, validation=data(9, seed=1)))
            assert set(member.history["loss"]) == {"l2"}
    assert "l2" in str(result)


def test_float32_agrees_to_1e_4_after_a_few_epochs() -> None:
    def single() -> nn.Module:
        return normalized().float()

    given = data(64, torch.float32)
    for member, config in zip(fit_population(single, given, CONFIGS).members, CONFIGS, strict=True):
        check_equal(member, fit(single, given, config), tolerance=1e-4)


def test_initial_scales_of_their_own() -> None:
    factories = [functools.partial(mlp, scale) for scale in (0.5, 1.0, 2.0)]
    result = fit_population(factories, data(), [BASE] * 3, way="matmul")
    for member, factory in zip(result.members, factories, strict=True):
        check_equal(member, fit(factory, data(), BASE))
        assert member.factory is factory


OPTIONS = {
    "augment": {"augment": "pad-crop-flip", "pad": 1},
    "wrap": {"augment": "wrap-flip", "pad": 1},
    "turn": {"augment": "wrap-flip-turn", "pad": 1},
    "frozen": {"frozen": ("hidden.0",)},
    "removed": {"removed": ("hidden.1",)},
    "validation share": {"validation_share": 0.3},
    "patience": {"validation_share": 0.3, "patience": 1, "epochs": 6, "lr": 0.3, "lr_drops": ()},
    "target": {"target_error": 0.5, "epochs": 6, "lr_drops": (), "keep": ()},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_all_that_a_config_says_is_done(name: str) -> None:
    configs = [replace(config, **OPTIONS[name]) for config in CONFIGS]
    result = fit_population(mlp, data(), configs, way="matmul")
    for member, config in zip(result.members, configs, strict=True):
        alone = fit(mlp, data(), config)
        check_equal(member, alone)
        assert member.status == alone.stopped
        with torch.no_grad():
            assert member.factory()(data()[0]).shape == (22, CLASSES)
    ends = [len(member.history) for member in result.members]
    if name in ("patience", "target"):
        assert len(set(ends)) > 1  # some left the stack before others


# Ways ------------------------------------------------------------------------------------------------------------


def test_one_by_one_has_the_bits_of_fit() -> None:
    result = fit_population(dropping, data(), CONFIGS, way="one-by-one")
    for member, config in zip(result.members, CONFIGS, strict=True):
        check_equal(member, fit(dropping, data(), config), tolerance=0)


def test_full_batches_are_stepped_on_one_by_one() -> None:
    configs = [replace(BASE, optimizer="lbfgs", batch_size=99, lr=1.0, seed=seed) for seed in (0, 1)]
    result = fit_population(mlp, data(), configs)
    assert (result.way, result.reason[:6]) == ("one-by-one", "L-BFGS")
    for member, config in zip(result.members, configs, strict=True):
        check_equal(member, fit(mlp, data(), config), tolerance=0)


def test_auto_stacks_small_networks_and_says_why() -> None:
    result = fit_population(mlp, data(), CONFIGS)
    assert (result.way, "operations a batch, at most the" in result.reason) == ("matmul", True)
    assert fit_population(conv, data(), [BASE] * 4).way == "vmap"


def test_auto_trains_one_by_one_what_cannot_be_stacked_or_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    result = fit_population(dropping, data(), CONFIGS)
    assert result.way == "one-by-one"
    assert "FCN cannot run stacked" in result.reason
    assert fit_population(mlp, data(), [BASE]).reason == "a single network"
    result = fit_population(conv, data(), CONFIGS)
    assert (result.way, result.reason) == ("one-by-one", "fewer than the 4 networks for which vmap pays")
    monkeypatch.setitem(population_ways.MOST, "matmul", 100.0)
    result = fit_population(mlp, data(), CONFIGS)
    assert (result.way, "more than the 1e+02 up to which it pays" in result.reason) == ("one-by-one", True)


def test_operations_are_those_of_matrix_products() -> None:
    assert population_ways.operations(mlp(), data(5)[0]) == 2 * 5 * (16 * 6 + 6 * 6 + 6 * 3)


@pytest.mark.parametrize("way", ["matmul", "vmap", "one-by-one"])
@pytest.mark.parametrize("options", [{}, {"augment": "pad-crop-flip", "pad": 1}])
def test_a_shared_order_is_that_of_the_first_members_seed(way: Any, options: dict[str, Any]) -> None:
    configs = [replace(config, **options) for config in CONFIGS]
    result = fit_population(mlp, data(), configs, way=way, shared_order=True)
    check_equal(result.members[0], fit(mlp, data(), configs[0]))
    # With the order's seed, and the initial weights and labels of its own:
    first, noisy = configs[0], result.members[2].states[0]

    def start() -> nn.Module:
        model = mlp()
        model.load_state_dict(noisy)
        return model

    (images, labels), own = data(), configs[2]
    corrupted = corrupt_labels(labels, own.label_noise, CLASSES, derive(own.seed, "labels"))
    alone = fit(start, (images, corrupted), replace(own, seed=first.seed, label_noise=0.0))
    check_equal(result.members[2], alone)


def test_large_data_are_measured_in_several_batches() -> None:
    given = data(1003)
    configs = [replace(BASE, epochs=1, batch_size=500, target_loss=0.0, seed=seed) for seed in (0, 1)]
    result = fit_population(mlp, given, configs, way="matmul", validation=data(1001, seed=1))
    for member, config in zip(result.members, configs, strict=True):
        check_equal(member, fit(mlp, given, config, validation=data(1001, seed=1)))


# Ends ------------------------------------------------------------------------------------------------------------


def exploding() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, CLASSES)).double()


@pytest.mark.parametrize("way", ["matmul", "vmap", "one-by-one"])
def test_a_member_that_diverges_is_reported_and_disturbs_nobody(tmp_path: Path, way: Any) -> None:
    configs = [BASE, replace(BASE, seed=1, lr=1e200), replace(BASE, seed=2, epochs=5), replace(BASE, epochs=1)]
    for folder in (None, tmp_path / "population"):
        result = fit_population(exploding, data(), configs, way=way, folder=folder)
        assert [member.status for member in result.members] == ["epochs", "diverged", "epochs", "epochs"]
        for number in (0, 2, 3):
            check_equal(result.members[number], fit(exploding, data(), configs[number]))
        lost = result.members[1]
        assert (list(lost.states), len(lost.history)) == ([0], 1)
        assert lost.trajectory.final == 0
        assert result.to_frame().status.tolist() == [member.status for member in result.members]
    manifest = json.loads((tmp_path / "population" / "1" / "manifest.json").read_text())
    assert (manifest["finished"], manifest["keys"]) == (False, [0])
    again = fit_population(exploding, data(), configs, folder=tmp_path / "population", resume=True)
    assert [member.status for member in again.members] == ["epochs", "diverged", "epochs", "epochs"]
    with pytest.raises(Diverged, match="epoch 1: expected a finite loss"):
        fit(exploding, data(), configs[1], folder=tmp_path / "population" / "1", resume=True)


def test_a_population_that_diverges_as_a_whole_ends() -> None:
    result = fit_population(exploding, data(), [replace(BASE, lr=1e200, seed=seed) for seed in (0, 1)])
    assert [member.status for member in result.members] == ["diverged", "diverged"]


# Results ---------------------------------------------------------------------------------------------------------


def test_the_result_is_a_table() -> None:
    configs = [CONFIGS[0], replace(CONFIGS[1], target_loss=0.0)]
    result = fit_population(mlp, data(), configs)
    history = result.history
    assert list(history)[:3] == ["member", "epoch", "lr"]
    assert history.member.tolist() == [0] * 3 + [1] * 3
    assert history.fitted_loss.isna().tolist() == [True] * 3 + [False] * 3
    frame = result.to_frame()
    assert list(frame)[:7] == ["member", "seed", "lr", "momentum", "weight_decay", "status", "epoch"]
    assert frame.lr.tolist() == [0.1, 0.03]
    assert frame.train_loss.tolist() == [member.history.train_loss.iloc[-1] for member in result.members]
    assert str(result).startswith("2 networks, trained by matmul (")
    assert "weight_decay" in str(result)


def test_progress_hears_of_every_epoch_of_every_member() -> None:
    heard: list[tuple[Any, ...]] = []
    configs = [replace(BASE, epochs=epochs) for epochs in (1, 3)]
    result = fit_population(mlp, data(), configs, progress=lambda *news: heard.append(news))
    assert [news[:3] for news in heard] == [(0, 1, 1), (1, 1, 3), (1, 2, 3), (1, 3, 3)]
    assert [row["train_loss"] for *_, row in heard[1:]] == result.members[1].history.train_loss.tolist()


# Folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Bits depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("way", ["matmul", "one-by-one"])
def test_a_members_folder_is_that_of_a_run(tmp_path: Path, way: Any) -> None:
    memory = fit_population(mlp, data(), CONFIGS, way=way)
    disk = fit_population(mlp, data(), CONFIGS, way=way, folder=tmp_path / "population")
    for number, (member, config) in enumerate(zip(disk.members, CONFIGS, strict=True)):
        folder = tmp_path / "population" / str(number)
        check_equal(member, memory.members[number], tolerance=0)
        trajectory = Trajectory.from_folder(mlp, folder)
        assert list(trajectory.states) == list(memory.members[number].states)
        fit(mlp, data(), config, folder=tmp_path / "alone" / str(number))
        ours, theirs = (
            json.loads((place / "manifest.json").read_text()) for place in (folder, tmp_path / "alone" / str(number))
        )
        about = ours.pop("about")
        assert about == {"population": {"members": 3, "shared_order": False, "way": way}, "member": number}
        assert ours == {name: value for name, value in theirs.items() if name != "about"}
        assert sorted(file.name for file in folder.iterdir()) == ["checkpoints", "history.parquet", "manifest.json"]
        # `fit` finds it finished.
        again = fit(mlp, data(), config, folder=folder, resume=True, progress=lambda *_: pytest.fail("trained"))
        assert again.states == member.states
    assert sorted(file.name for file in (tmp_path / "population").iterdir()) == ["0", "1", "2", "population.json"]


RESUMED = (
    replace(BASE, epochs=4),
    replace(BASE, seed=1, epochs=2, momentum=0.5, keep=()),
    replace(BASE, seed=2, epochs=4, lr=1e200),
    replace(BASE, seed=3, epochs=6, target_error=0.3, keep=(1,)),
    replace(BASE, seed=4, epochs=4, label_noise=0.3),
)
"""Members of which each ends in another way."""

PATIENT = tuple(replace(config, validation_share=0.3, patience=2, target_error=None) for config in RESUMED[:3])


def train(folder: Path, configs: Sequence[FitConfig], **options: Any) -> PopulationResult:
    return fit_population(normalized, data(), configs, folder=folder, progress=lambda *_: happens(), **options)


def contents(folder: Path) -> dict[str, Any]:
    """All that a finished population's folder says, but for times."""
    states = {str(file.relative_to(folder)): load_file(file) for file in folder.rglob("*.safetensors")}
    histories = {
        str(file.relative_to(folder)): pd.read_parquet(file).drop(columns="seconds").to_dict("list")
        for file in folder.rglob("history.parquet")
    }
    return {
        "files": sorted(str(file.relative_to(folder)) for file in folder.rglob("*")),
        "states": {
            name: {key: value.numpy().tobytes() for key, value in state.items()} for name, state in states.items()
        },
        "histories": {name: repr(history) for name, history in histories.items()},
        "manifests": {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*.json")},
    }


@pytest.mark.parametrize(
    ("configs", "way"),
    [(RESUMED, "matmul"), (PATIENT, "one-by-one"), (PATIENT, "vmap")],
    ids=["matmul", "one-by-one", "vmap"],
)
def test_a_failure_at_any_event_loses_nothing(tmp_path: Path, configs: Sequence[FitConfig], way: Any) -> None:
    train(tmp_path / "whole", configs, way=way)
    whole = contents(tmp_path / "whole")
    assert not [name for name in whole["files"] if name.startswith("resume")]
    source, event, failures = random.Random(way), 1, 0
    while True:
        folder = tmp_path / str(event)
        with disturbed(event, fail):
            try:
                train(folder, configs, way=way, resume=True)
            except Event:
                failures += 1
            else:
                break  # the population has fewer events
        with disturbed(0, fail):
            result = train(folder, configs, way=way, resume=True)
        assert contents(folder) == whole, f"failed at event {event}"
        assert result.way == way
        event += source.randint(10, 20) if len(configs) < 5 else source.randint(15, 60)
    assert failures >= 5


def stop_after(last: int) -> Callable[..., None]:
    def progress(member: int, epoch: int, epochs: int, row: Any) -> None:
        if (member, epoch) == (0, last):
            raise Event

    return progress


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A population that stopped after two epochs."""
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    with pytest.raises(Event):
        fit_population(mlp, data(), CONFIGS, folder=tmp_path / "population", progress=stop_after(2))
    assert (tmp_path / "population" / "resume.safetensors").is_file()
    return tmp_path / "population"


def test_only_the_epochs_that_are_left_are_trained(begun: Path) -> None:
    heard: list[tuple[int, int]] = []
    result = fit_population(
        mlp, data(), CONFIGS, folder=begun, resume=True, progress=lambda *news: heard.append(news[:2])
    )
    assert heard == [(0, 3), (1, 3), (2, 3)]
    assert (result.way, result.reason) == ("matmul", "as it was begun")
    before = {file: file.stat().st_mtime_ns for file in begun.rglob("*")}
    again = fit_population(mlp, data(), CONFIGS, folder=begun, resume=True, progress=stop_after(3))
    assert {file: file.stat().st_mtime_ns for file in begun.rglob("*")} == before
    for ours, theirs in zip(again.members, result.members, strict=True):
        check_equal(ours, theirs, tolerance=0)


def test_a_population_goes_on_in_the_way_it_was_begun_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    with pytest.raises(Event):
        fit_population(mlp, data(), CONFIGS, way="one-by-one", folder=tmp_path / "p", progress=stop_after(2))
    result = fit_population(mlp, data(), CONFIGS, folder=tmp_path / "p", resume=True)
    assert result.way == "one-by-one"
    for member, config in zip(result.members, CONFIGS, strict=True):
        check_equal(member, fit(mlp, data(), config), tolerance=0)


def test_a_finished_population_whose_end_was_cut_short_is_tidied(begun: Path) -> None:
    snapshot = (begun / "resume.safetensors").read_bytes()
    fit_population(mlp, data(), CONFIGS, folder=begun, resume=True)
    (begun / "resume.safetensors").write_bytes(snapshot)
    fit_population(mlp, data(), CONFIGS, folder=begun, resume=True, progress=lambda *_: pytest.fail("trained"))
    assert not (begun / "resume.safetensors").exists()


def test_without_a_snapshot_a_population_is_begun_anew(begun: Path) -> None:
    (begun / "resume.safetensors").unlink()
    heard: list[int] = []
    result = fit_population(
        mlp, data(), CONFIGS, folder=begun, resume=True, progress=lambda *news: heard.append(news[1])
    )
    assert heard == [1] * 3 + [2] * 3 + [3] * 3
    check_equal(result.members[0], fit(mlp, data(), CONFIGS[0]))


def test_snapshots_are_read_as_they_were_written(tmp_path: Path) -> None:
    place = PopulationFolder(path=tmp_path, origin={})
    rows: list[dict[str, int | float]] = [{"epoch": 1, "train_loss": 0.1 + 0.2}]
    written = {
        number: resuming.Snapshot(tensors={f"value.{number}.weight": torch.rand(2)}, rows=rows * number)
        for number in (1, 12)
    }
    place.write_snapshots(written)
    read = place.read_snapshots()
    assert list(read) == [1, 12]
    for number, snapshot in read.items():
        assert list(snapshot.rows) == list(written[number].rows)
        assert list(snapshot.tensors) == list(written[number].tensors)
        name = f"value.{number}.weight"
        assert torch.equal(snapshot.tensors[name], written[number].tensors[name])


@pytest.mark.parametrize(
    ("factory", "given", "options", "message"),
    [
        (
            mlp,
            data(),
            {"shared_order": True},
            "population of these arguments .*: shared_order was False, is True; pass",
        ),
        (mlp, data(), {"way": "vmap"}, "way was 'matmul', is 'vmap'; pass what it was begun with"),
        (mlp, data(), {"configs": CONFIGS[:2]}, "members was 3, is 2"),
        (mlp, data(), {"configs": (CONFIGS[0], *CONFIGS[:2])}, "1: expected the run of these .* seed was 1, is 0"),
        (mlp, data(seed=1), {}, r"another one: data was \w{32}, is \w{32}; pass"),
        (functools.partial(mlp, 2.0), data(), {}, "0: expected the run of these arguments .*: factory was"),
        (lambda: mlp(2.0), data(), {}, "0.safetensors: expected the initial weights that the factory makes"),
    ],
)
def test_another_population_is_refused_and_left_alone(
    begun: Path, factory: Any, given: Any, options: dict[str, Any], message: str
) -> None:
    before = {file: file.read_bytes() for file in begun.rglob("*") if file.is_file()}
    chosen = {"configs": CONFIGS, "folder": begun, "resume": True, **options}
    with pytest.raises(NetopsyError, match=message):
        fit_population(factory, given, **chosen)
    assert {file: file.read_bytes() for file in begun.rglob("*") if file.is_file()} == before


def test_folders_with_files_need_overwrite_and_are_not_mixed(tmp_path: Path) -> None:
    fit_population(mlp, data(), CONFIGS, folder=tmp_path)
    with pytest.raises(NetopsyError, match="it exists and is not empty; choose another path or pass overwrite=True"):
        fit_population(mlp, data(), CONFIGS, folder=tmp_path)
    with pytest.raises(
        NetopsyError, match="expected no members but the 2 of this population; it has 2 of another one"
    ):
        fit_population(mlp, data(), CONFIGS[:2], folder=tmp_path, overwrite=True)
    other = [replace(config, seed=config.seed + 9) for config in CONFIGS]
    result = fit_population(mlp, data(), other, folder=tmp_path, overwrite=True)
    check_equal(result.members[1], fit(mlp, data(), other[1]))


def test_what_is_no_population_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(NetopsyError, match="it exists and is not empty"):
        fit_population(mlp, data(), CONFIGS, folder=tmp_path, resume=True)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


# Refused ---------------------------------------------------------------------------------------------------------


def other_width() -> nn.Module:
    return fcn(inputs=(1, 4, 4), classes=CLASSES, depth=2, width=7).double()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("factory", "given", "configs", "options", "message"),
    [
        (mlp, data(), [], {}, "configs: expected an integer >= 1; got 0"),
        (mlp, data(), [BASE, replace(BASE, batch_size=4)], {}, "one batch_size for all .* member 1 has 4; train the"),
        (
            mlp,
            data(),
            [BASE, replace(BASE, optimizer="adam")],
            {},
            "one optimizer for all members; member 0 has 'sgd'",
        ),
        (mlp, data(), [BASE, replace(BASE, loss="l2")], {}, "one loss for all members; .* member 1 has 'l2'; train"),
        ([mlp], data(), [BASE] * 2, {}, "factory: expected one, or one for each of 2 configs; got 1; pass as many"),
        ([mlp, other_width], data(), [BASE] * 2, {}, "one architecture; member 1 .* differs .* in hidden.0.weight"),
        (
            mlp,
            data(),
            [BASE] * 2,
            {"way": "fast"},
            "way: expected one of 'auto', 'matmul', 'vmap', 'one-by-one'; got",
        ),
        (conv, data(), [BASE] * 2, {"way": "matmul"}, "way='matmul': expected a network that calls Flatten"),
        (
            dropping,
            data(),
            [BASE] * 2,
            {"way": "vmap"},
            "way='vmap': expected networks that compute the same stacked",
        ),
        (
            mlp,
            data(),
            [replace(BASE, optimizer="lbfgs", weight_decay=0.0)] * 2,
            {},
            "batch_size: expected all examples",
        ),
        (
            mlp,
            data(),
            [replace(BASE, optimizer="lbfgs", batch_size=99)] * 2,
            {"way": "matmul"},
            "way='matmul': expected 'one-by-one' or 'auto' with optimizer='lbfgs'",
        ),
        (mlp, data(), [BASE, replace(BASE, patience=1)], {}, "patience=1: expected validation data to watch"),
        (mlp, (data()[0], data()[1] - 1), [BASE], {}, "data: expected labels counted from 0"),
        (
            mlp,
            data(),
            [BASE],
            {"resume": True},
            r"resume=True: expected a folder, .* got folder=None, overwrite=False",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, factory: Any, given: Any, configs: Any, options: dict[str, Any], message: str
) -> None:
    folder = None if "resume" in options else tmp_path / "population"
    with pytest.raises(NetopsyError, match=message):
        fit_population(factory, given, configs, folder=folder, **options)
    assert not (tmp_path / "population").exists()
