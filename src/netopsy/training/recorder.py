"""Record the checkpoints of any training loop, from inside it."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from types import TracebackType

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from netopsy._checks import NetopsyError, at_least, shorten
from netopsy._storage import new_folder, read_json, sweep_temporaries, write_json, write_state
from netopsy._typing import State
from netopsy.network.addresses import canonical_names, unwrap
from netopsy.network.states import StateFile, check_state
from netopsy.training.run_folder import versions
from netopsy.training.writer import AHEAD, Writer

KIND = "recorder"
"""What a manifest says of the folder's origin."""


class Recorder:
    """Records the states of a model while somebody else's loop trains it.

    In a loop of your own::

        with netopsy.Recorder(model, "runs/mine") as recorder:  # checkpoint 0: the weights that training starts from
            for epoch in range(1, 11):
                train(...)
                recorder.record(epoch)
        trajectory = netopsy.Trajectory.from_folder(factory, "runs/mine")

    `record` copies the parameters and buffers to the CPU, in their own precision and tied ones once, and returns; a
    thread writes `checkpoints/<key>.safetensors` and then `manifest.json`, which lists only checkpoints that are on
    disk. A process killed at any instant leaves whole checkpoints. The model, its mode and all random generators
    stay untouched. Memory: two copies of the state. In a distributed run only rank 0 writes; every rank may call.

    Without `with`, call `close`. After an error in the block what was recorded stays, and the error goes on.
    """

    def __init__(
        self, model: nn.Module, folder: Path | str, *, key: int = 0, resume: bool = False, overwrite: bool = False
    ) -> None:
        """Record the first checkpoint; it is on disk when this returns.

        Args:
            model: what is trained; `torch.compile` and data-parallel wrappers are taken off.
            folder: where to write.
            key: of the first checkpoint: the epochs or steps trained so far.
            resume: go on in a folder that a Recorder wrote. Its first checkpoint stays the first; from the first key
                recorded now, the checkpoints of the abandoned attempt are replaced.
            overwrite: replace what a Recorder wrote in this folder.

        Raises:
            NetopsyError: the model has no plain state to record, or is not the one that is resumed; the folder has
                files in it (or, to resume, no recording), or cannot be written.
        """
        at_least("key", key, 0)
        if resume and overwrite:
            raise NetopsyError(
                "recorder: expected resume=True or overwrite=True; got both; choose whether what is there stays"
            )
        self._model = unwrap(model)
        self._path = Path(folder)
        self._copies: deque[dict[str, Tensor]] = deque()
        self._closed = False
        self._writer: Writer | None = None  # on the other ranks there is none
        self._written: list[int] = []  # changed on the writer's thread
        self._last = key
        state = _state(self._model)
        self._outline = _outline(state)
        if _rank() != 0:
            return
        try:
            self._written = _prepare(self._path, resume=resume, overwrite=overwrite)
            if self._written:
                self._last = self._written[0]
                check_state(StateFile(self._file(self._written[-1])), self._model, f"resume {self._path}")
            self._log(finished=False)  # before any checkpoint: it marks the folder as a recorder's
            if not resume:
                for file in self._path.glob("checkpoints/*.safetensors"):
                    file.unlink()
        except OSError as error:
            raise NetopsyError(
                f"recorder {self._path}: expected a folder that can be written; {error}; choose another"
            ) from error
        if not self._written:
            self._write(key, state)
        self._writer = Writer()

    def record(self, key: int) -> None:
        """Record the model as it is now.

        Args:
            key: epochs or steps trained so far, above the last key recorded.

        Raises:
            NetopsyError: the key does not ascend, the model's state is not what it was, the recorder is closed; or an
                earlier checkpoint could not be written.
        """
        if self._closed:
            raise NetopsyError(
                f"recorder {self._path}: expected an open recorder; it was closed; make one with resume=True to go on"
            )
        if isinstance(key, bool) or not isinstance(key, int) or key <= self._last:
            raise NetopsyError(
                f"recorder {self._path}: expected an integer key above {self._last}, the last one; got {key!r}; "
                "count epochs or steps through the whole training"
            )
        if self._writer is not None:
            self._writer.ready()
            state = _state(self._model)
            self._check_outline(state)
            # At most AHEAD - 1 writes are in hand, so that the oldest of AHEAD copies is free. It is used again
            # because filling new memory takes several times as long.
            copies = self._copies.popleft() if len(self._copies) == AHEAD else {}
            self._copies.append(copies)
            copy = _copied(state, copies)
            self._writer.submit(lambda: self._write(key, copy))
        self._last = key

    def close(self, *, finished: bool = True) -> None:
        """Wait until everything is on disk; the manifest then says whether training finished. Again: does nothing.

        Raises:
            NetopsyError: a checkpoint could not be written.
        """
        if self._closed:
            return
        self._closed = True
        self._copies.clear()
        if self._writer is not None:
            self._writer.close()
            try:
                self._log(finished=finished)
            except OSError as error:
                raise self._failure("the manifest", error) from error

    def _write(self, key: int, state: State) -> None:
        """Write a checkpoint, then the manifest that lists it."""
        try:
            abandoned = [old for old in self._written if old >= key]
            if abandoned:  # by a training that went on from before them
                self._written = [old for old in self._written if old < key]
                self._log(finished=False)
                for old in reversed(abandoned):  # at every instant the rest is a beginning
                    self._file(old).unlink(missing_ok=True)
            write_state(self._file(key), state, key=key)
            self._written = [*self._written, key]
            self._log(finished=False)
        except (OSError, SafetensorError) as error:
            raise self._failure(f"checkpoint {key}", error) from error

    def _failure(self, what: str, error: Exception) -> NetopsyError:
        kept = f"the checkpoints {shorten(self._written, 12)} are on disk" if self._written else "nothing is on disk"
        return NetopsyError(
            f"recorder {self._path}: {what} could not be written ({error}); {kept}; make room or mend the folder, "
            "then go on with resume=True"
        )

    def _file(self, key: int) -> Path:
        return self._path / "checkpoints" / f"{key}.safetensors"

    def _log(self, *, finished: bool) -> None:
        kind = type(self._model)
        write_json(
            self._path / "manifest.json",
            {
                "kind": KIND,
                "model": f"{kind.__module__}.{kind.__qualname__}",
                "versions": versions(),
                "keys": self._written,
                "finished": finished,
            },
        )

    def _check_outline(self, state: State) -> None:
        outline = _outline(state)
        if outline != self._outline:
            names = [name for name in {**self._outline, **outline} if outline.get(name) != self._outline.get(name)]
            raise NetopsyError(
                f"recorder {self._path}: expected the names, shapes and types of the first checkpoint; "
                f"{shorten(names)} came, went or changed; make the recorder when the model has its final form"
            )

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; an error of a write does not hide one of the block, but is noted on it."""
        try:
            self.close(finished=error is None)
        except BaseException as failure:
            if error is None:
                raise
            if failure is not error:
                error.add_note(str(failure))


def holds_recording(folder: Path) -> bool:
    """Whether a Recorder wrote this folder."""
    manifest = folder / "manifest.json"
    return manifest.is_file() and read_json(manifest).get("kind") == KIND


def _prepare(path: Path, *, resume: bool, overwrite: bool) -> list[int]:
    """Make the folder, or hold what is in it against `resume` and `overwrite`; the keys to go on from, ascending."""
    mine = holds_recording(path)
    if resume and not mine:
        raise NetopsyError(
            f"recorder {path}: expected a folder that a Recorder wrote, to resume it; there is none; check the path, "
            "or leave out resume=True to start one"
        )
    if not resume:
        new_folder(path, overwrite=overwrite)
    found = sorted(file for file in path.glob("checkpoints/*") if not file.name.startswith("."))
    strange = [file.name for file in found if not (mine and file.stem.isdecimal() and file.suffix == ".safetensors")]
    if strange:
        raise NetopsyError(
            f"recorder {path}: expected no checkpoints but a Recorder's; it has {shorten(strange)} of another "
            "origin; delete them or choose another path"
        )
    sweep_temporaries(path / "checkpoints")
    return sorted(int(file.stem) for file in found) if resume else []


def _rank() -> int:
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if there else 0


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers that the model saves; not copied."""
    sharded = [name for name, part in model.named_modules() if type(part).__name__ == "FullyShardedDataParallel"]
    if sharded:  # asking one rank for its state would wait for the others forever
        raise NetopsyError(
            "recorder: expected a whole model on every rank; got one that FSDP shards; record with DDP"
        )
    known = canonical_names(model)
    state = {name: value for name, value in model.state_dict().items() if name in known}
    strange = {name: value for name, value in state.items() if type(value) is not Tensor or value.is_meta}
    if strange:
        name, value = next(iter(strange.items()))
        raise NetopsyError(
            f"recorder: expected plain tensors in the state of {type(model).__name__}; {name} is a "
            f"{'meta tensor' if value.is_meta else type(value).__name__}; record when a lazy model has seen a batch, "
            "and not a sharded one"
        )
    if not any(value.numel() for value in state.values()):
        raise NetopsyError(f"recorder: expected a model with parameters; {type(model).__name__} has none to record")
    return state


def _outline(state: State) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (value.dtype, value.shape) for name, value in state.items()}


def _copied(state: State, onto: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state on the CPU, in the memory of `onto`; names of one tensor are names of one copy."""
    first: dict[tuple[object, ...], str] = {}
    copy: dict[str, Tensor] = {}
    with torch.inference_mode(False), torch.no_grad():  # else a copy made in inference mode could not be filled again
        for name, value in state.items():
            place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
            owner = first.setdefault(place, name) if value.numel() else name
            if name not in onto and owner == name:
                onto[name] = torch.empty(value.shape, dtype=value.dtype)
            copy[name] = onto[owner].copy_(value) if owner == name else onto[owner]
    return copy
