"""Recording from a loop of one's own: what is on disk, what the loop notices, what is left of a killed process."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import netopsy.training.recorder as module
from netopsy._checks import NetopsyError
from netopsy._storage import write_json, write_state
from netopsy.network.trajectory import Trajectory
from netopsy.training.periodic import PeriodicRecorder
from netopsy.training.recorder import Recorder


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def linear(value: float = 0.0) -> nn.Module:
    model = nn.Linear(2, 3)
    return fill(model, value)


def fill(model: nn.Module, value: float) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def train(model: nn.Module, after: Callable[[int], object]) -> dict[str, Tensor]:
    """Five steps with dropout and batch norm; `after` is called after each."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for step in range(1, 6):
            loss = cross_entropy(model(torch.randn(8, 4)), torch.randint(3, (8,)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after(step)
    return copied(model)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: Any, other: Any) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def on_disk(folder: Path) -> dict[int, dict[str, Tensor]]:
    files = {int(file.stem): file for file in (folder / "checkpoints").glob("*.safetensors")}
    return {key: load_file(files[key]) for key in sorted(files)}


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content


def record(folder: Path, *keys: int) -> None:
    """A finished run whose weights equal their key."""
    model = linear()
    with Recorder(model, folder) as recorder:
        for key in keys:
            fill(model, key)
            recorder.record(key)


def values(folder: Path) -> dict[int, float]:
    return {key: state["weight"][0, 0].item() for key, state in on_disk(folder).items()}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*args: Any, **kwargs: Any) -> None:
        time.sleep(0.03)
        write_state(*args, **kwargs)

    monkeypatch.setattr(module, "write_state", write)


@pytest.mark.usefixtures("slow")
def test_states_on_disk_are_those_of_the_moment_and_training_does_not_notice(tmp_path: Path) -> None:
    alone = train(network(), lambda step: None)
    model, moments = network(), {0: copied(network())}
    with Recorder(model, tmp_path / "run") as recorder:

        def after(step: int) -> None:
            recorder.record(step)
            moments[step] = copied(model)

        recorded = train(model, after)
    assert same(alone, recorded)
    found = on_disk(tmp_path / "run")
    assert list(found) == list(range(6))
    assert all(same(found[key], moments[key]) for key in moments)
    assert not same(moments[4], moments[5])


def test_it_is_a_trajectory_with_its_checkpoint_0(tmp_path: Path) -> None:
    model = network(3)
    with Recorder(model, tmp_path) as recorder:
        train(model, recorder.record)
    trajectory = Trajectory.from_folder(network, tmp_path)
    assert trajectory.keys == (0, 1, 2, 3, 4, 5)
    assert trajectory.initial == 0
    assert same(trajectory.state(0), network(3).state_dict())
    assert same(trajectory.model().state_dict(), model.state_dict())


def test_the_manifest_names_the_model_the_keys_and_the_end(tmp_path: Path) -> None:
    record(tmp_path, 2, 7)
    found = manifest(tmp_path)
    assert found.pop("versions").keys() == {"netopsy", "torch", "python"}
    assert found == {
        "schema": 1,
        "kind": "recorder",
        "model": "torch.nn.modules.linear.Linear",
        "keys": [0, 2, 7],
        "finished": True,
    }


def test_the_manifest_never_lists_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[list[int]] = []

    def write(path: Path, content: dict[str, Any]) -> None:
        there = {int(file.stem) for file in path.parent.glob("checkpoints/*.safetensors")}
        assert set(content["keys"]) <= there
        listed.append(content["keys"])
        write_json(path, content)

    monkeypatch.setattr(module, "write_json", write)
    record(tmp_path, 1, 2)
    assert listed == [[], [0], [0, 1], [0, 1, 2], [0, 1, 2]]


def test_the_first_checkpoint_is_there_before_training_starts(tmp_path: Path) -> None:
    recorder = Recorder(linear(4), tmp_path, key=10)
    assert values(tmp_path) == {10: 4}
    assert manifest(tmp_path)["keys"] == [10]
    recorder.close()


@pytest.mark.usefixtures("unchecked")  # the type checker draws from `random`
def test_the_model_and_the_generators_are_as_they_were(tmp_path: Path) -> None:
    model = network()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones(3, 8)
    places = {name: value.data_ptr() for name, value in model.state_dict().items()}
    before = copied(model), torch.get_rng_state(), random.getstate()
    with Recorder(model, tmp_path) as recorder:
        recorder.record(1)
    assert same(before[0], model.state_dict())
    assert torch.equal(before[1], torch.get_rng_state())
    assert before[2] == random.getstate()
    assert places == {name: value.data_ptr() for name, value in model.state_dict().items()}
    assert [part.training for part in model] == [True, False, True, True]
    assert [value.requires_grad for value in model.parameters()] == [False, True, True, True, True, True]
    assert torch.equal(model[3].weight.grad, torch.ones(3, 8))


def test_it_works_without_with_and_closing_again_does_nothing(tmp_path: Path) -> None:
    model = linear()
    recorder = Recorder(model, tmp_path)
    fill(model, 1)
    recorder.record(1)
    recorder.close()
    assert manifest(tmp_path)["finished"]
    recorder.close(finished=False)
    assert manifest(tmp_path)["finished"]
    with pytest.raises(NetopsyError, match=r"it was closed; make one with resume=True"):
        recorder.record(2)
    assert values(tmp_path) == {0: 0, 1: 1}


@pytest.mark.usefixtures("slow")
def test_after_an_error_in_the_block_everything_recorded_is_there(tmp_path: Path) -> None:
    def block() -> None:
        with Recorder(linear(), tmp_path) as recorder:
            recorder.record(1)
            recorder.record(2)
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        block()
    assert manifest(tmp_path)["keys"] == [0, 1, 2]
    assert not manifest(tmp_path)["finished"]
    assert list(on_disk(tmp_path)) == [0, 1, 2]


class Tied(nn.Module):
    """One weight under two names; a buffer that is saved and one that is not; extra state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.two.weight = self.one.weight
        self.register_buffer("saved", torch.tensor([1, 2]))
        self.register_buffer("unsaved", torch.ones(2), persistent=False)
        self.register_buffer("empty", torch.empty(0))
        self.register_buffer("nothing", torch.empty(0))

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


def test_tied_parameters_are_stored_once_and_saved_buffers_too(tmp_path: Path) -> None:
    model = Tied()
    with Recorder(model, tmp_path) as recorder:
        fill(model, 7)
        recorder.record(1)
    for state in on_disk(tmp_path).values():
        assert set(state) == {"one.weight", "saved", "empty", "nothing"}
    trajectory = Trajectory.from_folder(Tied, tmp_path)
    assert torch.equal(trajectory.state(1)["two.weight"], torch.full((3, 3), 7.0))


def test_weights_that_are_untied_on_the_way_are_stored_apart(tmp_path: Path) -> None:
    model = Tied()
    with Recorder(model, tmp_path) as recorder:
        recorder.record(1)
        recorder.record(2)
        model.two.weight = nn.Parameter(torch.full((3, 3), 9.0))
        fill(model.one, 5)
        for key in (3, 4):
            recorder.record(key)
    for key in (3, 4):
        state = on_disk(tmp_path)[key]
        assert state["one.weight"].unique().tolist() == [5]
        assert state["two.weight"].unique().tolist() == [9]


def test_half_precision_and_strided_tensors_are_recorded_as_they_are(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 4, 2).to(torch.bfloat16).to(memory_format=torch.channels_last)
    with Recorder(model, tmp_path) as recorder:
        recorder.record(1)
    found = on_disk(tmp_path)
    assert found[1]["weight"].dtype is torch.bfloat16
    assert same(found[0], model.state_dict())
    assert same(found[1], model.state_dict())


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], Any], tmp_path: Path) -> None:
    model = linear(2)
    with Recorder(wrap(model), tmp_path) as recorder:
        recorder.record(1)
    assert set(on_disk(tmp_path)[1]) == {"weight", "bias"}
    assert manifest(tmp_path)["model"].endswith("Linear")


def test_it_records_inside_and_after_inference_mode(tmp_path: Path) -> None:
    model = linear()
    with Recorder(model, tmp_path) as recorder:
        with torch.inference_mode():
            recorder.record(1)
            recorder.record(2)
        fill(model, 3)
        recorder.record(3)
        recorder.record(4)
    assert values(tmp_path) == {0: 0, 1: 0, 2: 0, 3: 3, 4: 3}


def test_only_rank_0_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for rank in (1, 0):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        with Recorder(linear(), tmp_path / str(rank)) as recorder:
            recorder.record(1)
            with pytest.raises(NetopsyError, match="above 1"):
                recorder.record(1)
    assert not (tmp_path / "1").exists()
    assert list(on_disk(tmp_path / "0")) == [0, 1]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("key", [0, 3, 2, 4.0, True, "best"])
def test_a_key_must_ascend(key: Any, tmp_path: Path) -> None:
    with Recorder(linear(), tmp_path) as recorder:
        recorder.record(3)
        with pytest.raises(NetopsyError, match=r"expected an integer key above 3, the last one; got .*count epochs"):
            recorder.record(key)
        recorder.record(4)


def test_the_first_key_is_not_negative(tmp_path: Path) -> None:
    with pytest.raises(NetopsyError, match=r"key: expected an integer >= 0; got -1"):
        Recorder(linear(), tmp_path, key=-1)


def test_a_full_disk_comes_out_at_the_next_record_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.name == "2.safetensors":
            raise OSError(28, "No space left on device")
        write_state(path, *args, **kwargs)

    monkeypatch.setattr(module, "write_state", write)
    message = r"checkpoint 2 could not be written \(.*No space left.*\); the checkpoints 0, 1 are on disk; make room"
    recorder = Recorder(linear(), tmp_path)
    recorder.record(1)
    with pytest.raises(NetopsyError, match=message):  # noqa: PT012 (which call raises depends on the thread)
        for key in (2, 3, 4, 5):
            recorder.record(key)
    with pytest.raises(NetopsyError, match=message):
        recorder.close()
    assert list(on_disk(tmp_path)) == manifest(tmp_path)["keys"] == [0, 1]
    assert not manifest(tmp_path)["finished"]
    monkeypatch.undo()
    with Recorder(linear(), tmp_path, resume=True) as again:  # as the message says
        again.record(2)
    assert list(on_disk(tmp_path)) == [0, 1, 2]


@pytest.mark.parametrize("fails", ["write_state", "write_json"])
def test_a_write_that_fails_last_comes_out_at_close(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    recorder = Recorder(linear(), tmp_path)
    monkeypatch.setattr(module, fails, write)
    if fails == "write_state":
        recorder.record(1)
    with pytest.raises(NetopsyError, match=r"No space left.*the checkpoints 0 are on disk"):
        recorder.close()


def test_a_write_error_is_noted_on_the_blocks_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    def block() -> None:
        with Recorder(linear(), tmp_path) as recorder:
            monkeypatch.setattr(module, "write_state", write)
            recorder.record(1)
            raise KeyError("mine")

    with pytest.raises(KeyError) as caught:
        block()
    assert "checkpoint 1 could not be written" in caught.value.__notes__[0]


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NetopsyError, match=r"expected a folder that can be written; .*choose another"):
        Recorder(linear(), tmp_path / "file" / "run")


def test_a_model_whose_state_changes_on_the_way_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    with Recorder(model, tmp_path) as recorder:
        model.append(nn.Linear(3, 1))
        with pytest.raises(NetopsyError, match=r"first checkpoint; 1\.weight, 1\.bias came, went or changed; make"):
            recorder.record(1)
        model.pop(1)
        model.double()
        with pytest.raises(NetopsyError, match=r"0\.weight, 0\.bias came, went or changed"):
            recorder.record(1)
        model.float()
        recorder.record(1)


class FullyShardedDataParallel(nn.Linear):
    """By its name."""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.ReLU(), r"expected a model with parameters; ReLU has none"),
        (lambda: nn.LazyLinear(3), r"plain tensors in the state of LazyLinear; weight is a UninitializedParameter"),
        (lambda: nn.Linear(2, 3, device="meta"), r"weight is a meta tensor; record when"),
        (lambda: nn.Sequential(FullyShardedDataParallel(2, 3)), r"got one that FSDP shards; record with DDP"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_model_without_a_plain_state_is_refused(
    model: Callable[[], nn.Module], message: str, tmp_path: Path
) -> None:
    with pytest.raises(NetopsyError, match=message):
        Recorder(model(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused_unless_it_is_a_recorders_to_overwrite(tmp_path: Path) -> None:
    record(tmp_path / "run", 1, 5)
    with pytest.raises(NetopsyError, match=r"exists and is not empty"):
        Recorder(linear(), tmp_path / "run")
    with Recorder(linear(8), tmp_path / "run", overwrite=True) as recorder:
        recorder.record(2)
    assert values(tmp_path / "run") == {0: 8, 2: 8}
    assert manifest(tmp_path / "run")["keys"] == [0, 2]

    strange = tmp_path / "strange" / "checkpoints"
    strange.mkdir(parents=True)
    (strange / "3.safetensors").write_bytes(b"precious")
    with pytest.raises(NetopsyError, match=r"no checkpoints but a Recorder's; it has 3\.safetensors of another"):
        Recorder(linear(), tmp_path / "strange", overwrite=True)
    (tmp_path / "run" / "checkpoints" / "best.pt").write_bytes(b"precious")
    with pytest.raises(NetopsyError, match=r"it has best\.pt of another origin"):
        Recorder(linear(), tmp_path / "run", overwrite=True)
    assert (strange / "3.safetensors").read_bytes() == b"precious"
    assert values(tmp_path / "run") == {0: 8, 2: 8}


def test_resuming_keeps_checkpoint_0_and_replaces_the_abandoned_attempt(tmp_path: Path) -> None:
    record(tmp_path, 100, 200, 300, 400, 500)
    model = linear(-1)
    with Recorder(model, tmp_path, resume=True) as recorder:  # the loop goes on from step 300
        assert values(tmp_path) == {0: 0, 100: 100, 200: 200, 300: 300, 400: 400, 500: 500}
        assert not manifest(tmp_path)["finished"]
        with pytest.raises(NetopsyError, match="above 0"):
            recorder.record(0)
        recorder.record(400)
        recorder.record(450)
    assert values(tmp_path) == {0: 0, 100: 100, 200: 200, 300: 300, 400: -1, 450: -1}
    assert manifest(tmp_path)["keys"] == [0, 100, 200, 300, 400, 450]
    assert manifest(tmp_path)["finished"]


def test_resuming_believes_the_files_and_sweeps_what_a_killed_process_left(tmp_path: Path) -> None:
    record(tmp_path, 1, 2)
    content = manifest(tmp_path)
    write_json(tmp_path / "manifest.json", {**content, "keys": [0, 1]})  # killed between the file and the manifest
    rests = [tmp_path / "checkpoints" / name for name in (".3.safetensors.0123456789abcdef", ".tmpnGmS1q")]
    for rest in rests:  # ours, and the one that safetensors makes
        rest.write_bytes(b"half a fi")
    Recorder(linear(), tmp_path, resume=True).close()
    assert manifest(tmp_path)["keys"] == [0, 1, 2]
    assert not any(rest.exists() for rest in rests)


def test_resuming_a_run_killed_before_its_checkpoint_0_starts_it(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"kind": "recorder", "keys": []})
    Recorder(linear(3), tmp_path, resume=True).close()
    assert values(tmp_path) == {0: 3}


def test_resuming_wants_the_same_model_and_a_recording(tmp_path: Path) -> None:
    record(tmp_path / "run", 1)
    before = manifest(tmp_path / "run")
    with pytest.raises(NetopsyError, match=r"bias has shape \(3,\) where the model has \(4,\)"):
        Recorder(nn.Linear(2, 4), tmp_path / "run", resume=True)
    with pytest.raises(NetopsyError, match=r"missing 0\.weight.*unknown"):
        Recorder(nn.Sequential(nn.Linear(2, 3)), tmp_path / "run", resume=True)
    assert manifest(tmp_path / "run") == before
    with pytest.raises(NetopsyError, match=r"expected a folder that a Recorder wrote, to resume it; there is none"):
        Recorder(linear(), tmp_path / "other", resume=True)
    with pytest.raises(NetopsyError, match=r"resume=True or overwrite=True; got both"):
        Recorder(linear(), tmp_path / "run", resume=True, overwrite=True)


KILLED = """
import sys, torch
from netopsy.training.recorder import Recorder

model = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.Linear(300, 300))
with Recorder(model, sys.argv[1]) as recorder:
    for key in range(1, 1_000_000):
        with torch.no_grad():
            for value in model.parameters():
                value.fill_(key)
        recorder.record(key)
        if key == 3:
            print("recording", flush=True)
"""


def test_a_killed_process_leaves_a_trajectory_of_whole_checkpoints(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"recording\n"
    time.sleep(random.random() / 4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300))
    trajectory = Trajectory.from_folder(model, tmp_path)
    listed = manifest(tmp_path)["keys"]
    assert trajectory.keys == tuple(range(len(trajectory.keys)))
    assert tuple(listed) in (trajectory.keys, trajectory.keys[:-1])
    assert not manifest(tmp_path)["finished"]
    for key in trajectory.keys[1:]:
        assert all(bool((value == key).all()) for value in trajectory.state(key).values()), key
    with Recorder(model, tmp_path, resume=True) as recorder:
        recorder.record(trajectory.keys[-1] + 1)
    assert not [file for file in (tmp_path / "checkpoints").iterdir() if file.name.startswith(".")]


def test_no_thread_is_left(tmp_path: Path) -> None:
    record(tmp_path, 1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("netopsy-writer")]


def periodic(folder: Path, epochs: int | None = None, steps: int | None = None) -> PeriodicRecorder:
    return PeriodicRecorder(folder, every_n_epochs=epochs, every_n_steps=steps, overwrite=False)


@pytest.mark.parametrize(
    ("every", "reached", "keys"),
    [
        (1, [1, 2, 3], [0, 1, 2, 3]),
        (3, [1, 2, 3, 3, 4, 5, 6, 7], [0, 3, 6, 7]),
        (4, [2, 4, 6, 8], [0, 4, 8]),
        (5, [3, 6, 9, 12], [0, 6, 12]),  # a counter that jumps over multiples
        (100, [1, 2], [0, 2]),
    ],
)
def test_every_nth_key_and_the_last_are_recorded(
    every: int, reached: list[int], keys: list[int], tmp_path: Path
) -> None:
    records = periodic(tmp_path, steps=every)
    records.start(linear(), 0, resumed=False)
    for key in reached:
        records.reach(key)
    records.reach(reached[-1], last=True)
    records.finish()
    assert list(on_disk(tmp_path)) == keys
    assert manifest(tmp_path)["finished"]


def test_a_resumed_training_goes_on_in_its_folder_or_starts_at_its_own_key(tmp_path: Path) -> None:
    record(tmp_path / "run", 1, 2, 3)
    for name in ("run", "new"):
        records = periodic(tmp_path / name)
        records.start(linear(-1), 2, resumed=True)
        records.reach(2, last=True)  # nothing was trained
        records.reach(3)
        records.stop()
        assert not manifest(tmp_path / name)["finished"]
    assert values(tmp_path / "run") == {0: 0, 1: 1, 2: 2, 3: -1}
    assert values(tmp_path / "new") == {2: -1, 3: -1}
    with pytest.raises(NetopsyError, match=r"resumed inside its first epoch, whose checkpoint 0 is gone"):
        periodic(tmp_path / "inside").start(linear(), 0, resumed=True)


def test_how_often_is_checked(tmp_path: Path) -> None:
    with pytest.raises(NetopsyError, match=r"every_n_epochs or every_n_steps; got both \(1 and 2\); leave one out"):
        periodic(tmp_path, 1, 2)
    with pytest.raises(NetopsyError, match=r"every_n_epochs: expected an integer >= 1; got 0"):
        periodic(tmp_path, 0)
    with pytest.raises(NetopsyError, match=r"every_n_steps: expected an integer >= 1; got -2"):
        periodic(tmp_path, steps=-2)
