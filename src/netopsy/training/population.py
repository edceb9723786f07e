"""Train many networks of one architecture at once, each as `fit` would train it alone."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from torch import nn

from netopsy._checks import NetopsyError, at_least, one_of
from netopsy._random import derive
from netopsy.data.dataset import corrupt_labels
from netopsy.training import inputs
from netopsy.training import resume as resuming
from netopsy.training.config import FitConfig
from netopsy.training.epoch import Row, make_optimizer
from netopsy.training.fit import build
from netopsy.training.inputs import Split
from netopsy.training.population_course import Course, Write, advance, go_on, history_write, keep, result_of
from netopsy.training.population_folder import RESUME, PopulationFolder, find_population
from netopsy.training.population_result import PopulationResult
from netopsy.training.population_trainers import Member, Trainer
from netopsy.training.population_ways import Way, make_trainer
from netopsy.training.run_folder import RunFolder
from netopsy.training.together import check_alike
from netopsy.training.writer import Writer

Factory = Callable[[], nn.Module]
"""Makes a network with its initial weights."""

SAME = ("batch_size", "loss", "optimizer", "augment", "pad", "frozen", "removed", "validation_share")
"""What members of one population have in common: they take their steps together."""

PopulationProgress = Callable[[int, int, int, Row], object]
"""Called after every epoch of every member with the member, its epoch (from 1), the number of its epochs and its row
of the history."""


def fit_population(
    factory: Factory | Sequence[Factory],
    data: Split,
    configs: Sequence[FitConfig],
    *,
    folder: str | Path | None = None,
    shared_order: bool = False,
    way: Way | Literal["auto"] = "auto",
    overwrite: bool = False,
    resume: bool = False,
    validation: Split | None = None,
    progress: PopulationProgress | None = None,
) -> PopulationResult:
    """Train networks of one architecture at once, each as `fit` trains it with its own config.

    Members may differ in seed (initial weights, order of the data, label noise), lr and its drops, momentum, weight
    decay, epochs, what is kept and when to stop. Stacked, sums are taken in another order than by `fit`, so that
    members agree with it up to rounding (see docs/populations.md); one by one they have its bits. The same arguments
    give the same bits, as for `fit`.

    A member that is done, or diverged (a loss or weight is no longer finite), leaves the stack after that epoch.

    With a folder, member i's run is in the folder `i` in it, as `fit` writes it; beside them `population.json` (way,
    each member's status) and, while training goes on, `resume.safetensors`. A resumed population gives the bits of
    one that was never interrupted, except `seconds`.

    Args:
        factory: makes a member with its initial weights, as for `fit`; or one factory a member, all of them of one
            architecture, such as for initial scales of their own.
        data: train inputs, of shape (n, …), and labels, int64 of shape (n,).
        configs: one a member; `SAME` lists what must be the same in all.
        folder: where to write; None keeps the states in memory.
        shared_order: all members meet the data in the order (and with the augmentation) of the first member's seed,
            which is faster; then only members with that seed equal the run of `fit` alone.
        way: "matmul", "vmap" or "one-by-one"; "auto" takes what was measured to be fastest, see `population_ways`.
        overwrite: allow a folder that has files in it; older runs of the same members are replaced.
        resume: go on with the population in the folder, in the way that it was begun in; begin it if there is none.
        validation: inputs and labels that all histories report on, as for `fit`.
        progress: see `PopulationProgress`.

    Raises:
        NetopsyError: data, models, configs or folder are not as above; the networks cannot be trained in this way;
            or, to resume, the folder holds another population.
    """
    one_of("way", way, ("auto", "matmul", "vmap", "one-by-one"))
    if resume and (folder is None or overwrite):
        raise NetopsyError(
            "resume=True: expected a folder, and overwrite=False, which would begin anew; got "
            f"folder={folder!r}, overwrite={overwrite}; pass one of the two"
        )
    _check_configs(configs)
    factories = [factory] * len(configs) if callable(factory) else list(factory)
    if len(factories) != len(configs):
        raise NetopsyError(
            f"factory: expected one, or one for each of {len(configs)} configs; got {len(factories)}; pass as many"
        )
    if data[1].ndim != 1:
        raise NetopsyError(
            f"data: expected one label an example, of shape (n,); got {tuple(data[1].shape)}; train networks with "
            "labels by position one at a time, by fit"
        )
    for config in {(c.augment, c.patience, c.validation_share): c for c in configs}.values():
        inputs.check_inputs(data, validation, config)
    members, models = _make_members(factories, data, validation, configs, shared_order)
    check_alike(models)
    optimizers = [make_optimizer(model, member.config) for model, member in zip(models, members, strict=True)]
    sample = members[0].train[0][: configs[0].batch_size]
    path = None if folder is None else Path(folder)
    found = find_population(path) if path is not None and resume else None
    if found is not None and way == "auto":
        way = found["way"]  # another one would round in another way

    def trainer_of(numbers: Sequence[int]) -> tuple[Trainer, Way, str]:
        return make_trainer(
            [members[number] for number in numbers],
            [models[number] for number in numbers],
            [optimizers[number] for number in numbers],
            sample,
            way,
        )

    def opened(chosen: Way | Literal["auto"]) -> tuple[PopulationFolder, list[RunFolder]]:
        assert path is not None
        origin = {"members": len(members), "shared_order": shared_order, "way": chosen}
        place = PopulationFolder(path=path, origin=origin)
        runs = _runs(place, factories, models, data, validation, members)
        if found is not None:
            place.check(found, runs, [model.state_dict() for model in models])
        return place, runs

    if found is not None and path is not None and (found["finished"] or (path / RESUME).is_file()):
        place, runs = opened(way)
        courses = [Course(member=member, run=run) for member, run in zip(members, runs, strict=True)]
        snapshots = {} if found["finished"] else place.read_snapshots()
        go_on(courses, found["status"], snapshots)
        for number, snapshot in snapshots.items():
            resuming.put(models[number], optimizers[number], snapshot)
        chosen, reason = found["way"], "as it was begun"
        if snapshots:
            _train(courses, trainer_of(list(snapshots))[0], place, progress)
        else:
            place.resume_file.unlink(missing_ok=True)
    else:
        trainer, chosen, reason = trainer_of(range(len(members)))
        if path is None:
            place, courses = None, [Course(member=member, run=None) for member in members]
        else:
            place, runs = opened(chosen)
            place.begin(runs, [_possible_keys(c) for c in configs], overwrite=overwrite or found is not None)
            courses = [Course(member=member, run=run) for member, run in zip(members, runs, strict=True)]
        _train(courses, trainer, place, progress)
    return PopulationResult(members=tuple(map(result_of, courses)), way=chosen, reason=reason)


def _train(
    courses: Sequence[Course], trainer: Trainer, place: PopulationFolder | None, progress: PopulationProgress | None
) -> None:
    """Train all members that are not done, epoch by epoch; they are all at the same one."""
    active = [course for course in courses if course.status is None]
    writes: list[Write] = []
    with Writer() as writer:

        def submit() -> None:
            if writes:
                writer.submit(functools.partial(_run_all, tuple(writes)))
                writes.clear()

        try:
            for course in active:
                if not course.states:
                    writes += keep(course, 0, trainer.state(course.member.number))
            submit()
            written = time.monotonic()
            while active:
                rows = trainer.epoch(len(active[0].rows) + 1)
                for course in active:
                    writes += advance(course, rows[course.member.number], trainer)
                trained, active = active, [course for course in active if course.status is None]
                if len(active) < len(trained):
                    if active:
                        trainer = trainer.only([course.member.number for course in active])
                    if place is not None:
                        writes.append(functools.partial(place.write_status, [course.status for course in courses]))
                if place is not None and active and time.monotonic() - written >= resuming.SECONDS:
                    snapshots = {
                        course.member.number: trainer.snapshot(course.member.number, course.rows, course.best)
                        for course in active
                    }
                    writes.append(functools.partial(place.write_snapshots, snapshots))
                    written = time.monotonic()
                submit()
                if progress is not None:
                    for course in trained:
                        number, epochs = course.member.number, course.member.config.epochs
                        progress(number, len(course.rows), epochs, course.rows[-1])
        except BaseException:
            writes += [history_write(course) for course in active if course.run is not None]
            with suppress(Exception):  # an error of this write must not hide the one that is on its way
                submit()
            raise


def _run_all(writes: Sequence[Write]) -> None:
    for write in writes:
        write()


def _make_members(
    factories: Sequence[Factory],
    data: Split,
    validation: Split | None,
    configs: Sequence[FitConfig],
    shared_order: bool,
) -> tuple[list[Member], list[nn.Module]]:
    """What each member is trained on, and its model, as `fit` makes them."""
    members, models = [], []
    for number, (factory, config) in enumerate(zip(factories, configs, strict=True)):
        (images, labels), held = data, validation
        if config.validation_share:
            (images, labels), held = inputs.hold_out(data, config.validation_share, config.seed)
        model, trained = build(factory, data, held, config)
        if config.label_noise:
            classes = int(data[1].max()) + 1
            labels = corrupt_labels(labels, config.label_noise, classes, derive(config.seed, "labels"))
        order = configs[0].seed if shared_order else config.seed
        member = Member(number=number, config=config, order=order, train=(images, labels), held=held, factory=trained)
        members.append(member)
        models.append(model)
    return members, models


def _runs(
    place: PopulationFolder,
    factories: Sequence[Factory],
    models: Sequence[nn.Module],
    data: Split,
    validation: Split | None,
    members: Sequence[Member],
) -> list[RunFolder]:
    """Each member's run folder, with the manifest that `fit` would give it."""
    whole = inputs.describe(factories[0], models[0], data, validation, members[0].config, None)
    tiny = data[0][:1], data[1][:1]  # the data are hashed once
    same = {name: whole[name] for name in ("data", "validation")}
    runs = []
    for factory, model, member in zip(factories, models, members, strict=True):
        about = {"population": dict(place.origin), "member": member.number}
        origin = {**inputs.describe(factory, model, tiny, None, member.config, about), **same}
        runs.append(RunFolder(path=place.path / str(member.number), origin=origin))
    return runs


def _possible_keys(config: FitConfig) -> Sequence[int]:
    """Epochs at which a member may have a checkpoint; its trajectory may end at any, where it may stop early."""
    early = config.patience is not None or config.has_target
    return range(config.epochs + 1) if early else config.keys


def _check_configs(configs: Sequence[FitConfig]) -> None:
    at_least("configs", len(configs), 1)
    for name in SAME:
        for number, config in enumerate(configs):
            own, first = getattr(config, name), getattr(configs[0], name)
            if own != first:
                raise NetopsyError(
                    f"configs: expected one {name} for all members; member 0 has {first!r}, member {number} has "
                    f"{own!r}; train the others as a population of their own"
                )
