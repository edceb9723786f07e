"""Train a population of students on their teachers' outputs, and measure them after every epoch."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from netopsy._checks import NetopsyError, shorten
from netopsy._identity import canonical, digest
from netopsy._storage import new_folder, read_json, sweep_temporaries, write_json, write_state
from netopsy._typing import State
from netopsy.engine.alignment import rho
from netopsy.engine.batches import open_data
from netopsy.engine.pairs import pair_moments
from netopsy.models.teachers import unit_sites
from netopsy.network.task import Task
from netopsy.network.tensor_files import TensorFile
from netopsy.network.units import find_units
from netopsy.probes.layer_dynamics import layer_dynamics
from netopsy.probes.teacher_student_config import TeacherStudentConfig
from netopsy.probes.teacher_student_nets import Sources
from netopsy.training.population_step import Steps, per_member
from netopsy.training.together import Together
from netopsy.training.writer import Writer

EVALUATION_BATCH = 256
"""Examples that are measured at once."""

Watch: TypeAlias = Callable[[int, Together], object]
"""Called before the first step and after every epoch, with the epoch and the students."""

Progress: TypeAlias = Callable[[int, int], object]
"""Called with the epochs done and their total."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What training left.

    Attributes:
        records: what `measure` returned, of each epoch from 0, stacked: (epochs + 1, seeds, …); H* of those of its
            epochs.
        final: the students' values at the end, (seeds, …).
    """

    records: Mapping[str, Tensor] = field(repr=False)
    final: Mapping[str, Tensor] = field(repr=False)


def train(
    config: TeacherStudentConfig,
    sources: Sources,
    teachers: Sequence[nn.Sequential],
    students: Sequence[nn.Sequential],
    *,
    origin: str,
    folder: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Run:
    """Train and measure; the given networks are not changed.

    Args:
        origin: what decides where the students start, beside the config: a run of another origin is not gone on with.
        folder: where each epoch's records, and the students' state, are written as it ends.
        resume: go on with the run in the folder; one that has not begun is begun.

    Raises:
        NetopsyError: a folder that has files in it without `resume`; with it, no folder or one of another run.
    """
    stack = Together.of(students, sources.evaluation(config.seeds[0]))
    steps = Steps.of(stack, momentum=config.momentum)
    lr = per_member("lr", config.lr, stack)
    label = _labeler(teachers, sources)
    done = _open(folder, config, origin, resume=resume)
    epochs: list[dict[str, Tensor]] = [] if folder is None else [_read(_record(folder, each)) for each in range(done)]
    if folder is not None and done:
        _restore(_read(folder / f"state-{done - 1}.safetensors"), stack, steps)
    with Writer() as writer:
        for epoch in range(done, config.epochs + 1):
            if epoch:
                _epoch(stack, steps, lr, label, sources, epoch)
            epochs.append(measure(config, sources, teachers, stack, epoch))
            if watch is not None:
                watch(epoch, stack)
            if folder is not None:
                state = {name: value.clone() for name, value in _state(stack, steps).items()}
                writer.submit(partial(_write, folder, epoch, epochs[-1], state))
            if progress is not None and epoch:
                progress(epoch, config.epochs)
    names = dict.fromkeys(name for each in epochs for name in each)
    records = {name: torch.stack([each[name] for each in epochs if name in each]) for name in names}
    return Run(records=records, final={name: value.detach().clone() for name, value in stack.values.items()})


def _epoch(
    stack: Together,
    steps: Steps,
    lr: Float[Tensor, " m"],
    label: Callable[[Tensor], Tensor],
    sources: Sources,
    epoch: int,
) -> None:
    for inputs in sources.epoch(epoch):
        wanted = label(inputs)
        outputs = stack.forward(inputs, train=True, descend=steps.within(lr))
        loss = (outputs - wanted).square().flatten(1).mean(1)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        steps.step(stack, lr)


def _labeler(teachers: Sequence[nn.Sequential], sources: Sources) -> Callable[[Tensor], Tensor]:
    """What gives the teachers' outputs on (seeds, b, …), without gradients."""
    if all(teacher is teachers[0] for teacher in teachers):

        def shared(inputs: Tensor) -> Tensor:
            with torch.no_grad():
                outputs: Tensor = teachers[0](inputs.flatten(0, 1))
            return outputs.view(*inputs.shape[:2], -1)

        return shared
    stack = Together.of(teachers, sources.evaluation(sources.config.seeds[0]))

    def own(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return stack.forward(inputs)

    return own


@torch.no_grad()
def measure(
    config: TeacherStudentConfig,
    sources: Sources,
    teachers: Sequence[nn.Sequential],
    stack: Together,
    epoch: int,
) -> dict[str, Tensor]:
    """One epoch's records, each (seeds, …).

    Returns:
        `loss` (mean squared error, float64) and for each hidden layer l: `rho.l` (teacher's units x student's,
        float32), `in.l` and `out.l` (lengths of the units' incoming weights, without bias, and of their outgoing
        ones). With `start`, `distance`: the root mean square over the first units of ||w_u - w*_u||. With real data,
        `error` and `teacher_error`, shares of the evaluation examples. At epochs of `h_star`, `h_star.l`.
    """
    student = copy.deepcopy(stack.template)
    if not isinstance(student, nn.Sequential):
        raise TypeError(f"expected students that are chains; got {type(student).__name__}")
    rows = []
    for place, (seed, teacher) in enumerate(zip(config.seeds, teachers, strict=True)):
        student.load_state_dict(stack.member(place))
        inputs = sources.evaluation(seed)
        row = {**_correlations(teacher, student.eval(), inputs), **_norms(student)}
        row |= _losses(teacher, student, inputs, None if sources.test is None else sources.test[1])
        if config.start is not None:
            row["distance"] = _distance(student, teacher)
        if epoch in config.h_star:
            found = layer_dynamics(student, teacher, (inputs, torch.zeros(len(inputs))))
            row |= {f"h_star.{layer}": found.h_star(layer).float() for layer in range(len(config.hidden))}
        rows.append(row)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _correlations(teacher: nn.Sequential, student: nn.Sequential, inputs: Tensor) -> dict[str, Tensor]:
    if all(not isinstance(module, nn.Conv2d) for module in student.children()):
        pairs = zip(_units(teacher, inputs), _units(student, inputs), strict=True)
        return {f"rho.{layer}": rho(mine, theirs).float() for layer, (theirs, mine) in enumerate(pairs)}
    task = Task()  # all positions of all examples at once would be gigabytes
    first = task.inputs((inputs[:2], torch.zeros(2)))
    source = open_data((inputs, torch.zeros(len(inputs))), batch_size=EVALUATION_BATCH)
    mine = find_units(teacher, first, unit_sites(teacher), task=task)
    theirs = find_units(student, first, unit_sites(student), task=task)
    found = pair_moments(teacher, student, list(zip(mine, theirs, strict=True)), source, task=task)
    return {f"rho.{layer}": moments.correlation().float() for layer, moments in enumerate(found)}


def _units(net: nn.Sequential, inputs: Tensor) -> Iterator[Tensor]:
    """The values of each hidden layer's units, (examples, units)."""
    sites, value = unit_sites(net), inputs
    for name, module in net.named_children():
        value = module(value)
        if name in sites:
            yield value


def _norms(student: nn.Sequential) -> dict[str, Tensor]:
    weights = [module.weight.detach() for module in student.children() if isinstance(module, nn.Linear | nn.Conv2d)]
    found = {}
    for layer, (own, following) in enumerate(itertools.pairwise(weights)):
        found[f"in.{layer}"] = own.flatten(1).norm(dim=1)
        # After a convolution, the output's weights have a unit's positions side by side.
        found[f"out.{layer}"] = following.reshape(len(following), len(own), -1).norm(dim=(0, 2))
    return found


def _losses(
    teacher: nn.Sequential, student: nn.Sequential, inputs: Tensor, labels: Tensor | None
) -> dict[str, Tensor]:
    batches = torch.split(inputs, EVALUATION_BATCH)
    wanted, outputs = (torch.cat([net(batch) for batch in batches]).double() for net in (teacher, student))
    found = {"loss": (outputs - wanted).square().mean()}
    if labels is not None:
        found["error"] = (outputs.argmax(1) != labels).double().mean()
        found["teacher_error"] = (wanted.argmax(1) != labels).double().mean()
    return found


def _distance(student: nn.Sequential, teacher: nn.Sequential) -> Tensor:
    mine, theirs = (
        net.get_submodule("hidden0").get_parameter("weight").detach().double() for net in (student, teacher)
    )
    return (mine[: len(theirs)] - theirs).square().sum(1).mean().sqrt()


def _state(stack: Together, steps: Steps) -> dict[str, Tensor]:
    """All that the next epoch depends on."""
    state = {f"value.{name}": value.detach() for name, value in stack.values.items()}
    for name, parts in steps.kept.items():
        state |= {f"step.{part}.{name}": held for part, held in parts.items()}
    return state


@torch.no_grad()
def _restore(state: State, stack: Together, steps: Steps) -> None:
    for name, value in _state(stack, steps).items():
        value.copy_(state[name])


def _open(folder: Path | None, config: TeacherStudentConfig, origin: str, *, resume: bool) -> int:
    """Make the folder, or find how many epochs it holds, from 0."""
    if folder is None:
        if resume:
            raise NetopsyError("resume=True: expected a folder with the run to go on with; got folder=None")
        return 0
    manifest = folder / "run.json"
    if not (resume and manifest.is_file()):
        new_folder(folder)
        write_json(manifest, {"config": canonical(config), "origin": origin})
        return 0
    known = read_json(manifest)
    if digest({"config": known.get("config"), "origin": known.get("origin")}) != digest(
        {"config": canonical(config), "origin": origin}
    ):
        mine, theirs = canonical(config)["fields"], dict(known.get("config", {}).get("fields", {}))
        differing = [name for name in mine if theirs.get(name) != mine[name]] or ["the students' start"]
        raise NetopsyError(
            f"resume=True: {folder} holds a run that differs in {shorten(differing)}; pass its config, or "
            "another folder"
        )
    sweep_temporaries(folder)
    states = [int(path.stem.removeprefix("state-")) for path in folder.glob("state-*.safetensors")]
    return max(states) + 1 if states else 0


def _record(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch}.safetensors"


def _write(folder: Path, epoch: int, records: State, state: State) -> None:
    """The records first: a state says that all until it is there."""
    write_state(_record(folder, epoch), records)
    write_state(folder / f"state-{epoch}.safetensors", state)
    (folder / f"state-{epoch - 1}.safetensors").unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Tensor]:
    file = TensorFile(path)
    return {name: file.read(name) for name in file.names}
