"""The teachers, students and inputs of a teacher-student run, each drawn by its own seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import derive, forked, generator
from netopsy.data.dataset import standardize, subset
from netopsy.data.idx import fashion_mnist
from netopsy.models.teachers import layered_net, random_teacher, start_near
from netopsy.probes.teacher_student_config import TeacherStudentConfig
from netopsy.training.fit import fit

BLOCK = 64
"""Batches that are drawn at once: drawing them one by one takes as long as a step of small nets."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sources:
    """Inputs of a run.

    Attributes:
        config: of the run.
        images: train inputs (n, …) and labels of a real data set; None where inputs are drawn.
        test: of a real data set.
        kept: seed -> the fixed inputs of a finite Gaussian set, (samples, …).
    """

    config: TeacherStudentConfig
    images: tuple[Tensor, Int64[Tensor, " n"]] | None = field(default=None, repr=False)
    test: tuple[Tensor, Int64[Tensor, " m"]] | None = field(default=None, repr=False)
    kept: Mapping[int, Tensor] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        if self.images is not None:
            return tuple(self.images[0].shape[1:])
        return self.config.inputs if isinstance(self.config.inputs, tuple) else (self.config.inputs,)

    @property
    def samples(self) -> int:
        """Examples of an epoch."""
        return self.config.samples if self.images is None else len(self.images[0])

    def epoch(self, epoch: int) -> Iterator[Tensor]:
        """An epoch's batches, each (seeds, b, …): every member's own."""
        config = self.config
        if self.images is None and config.fresh:
            sources = [generator(derive(seed, "inputs", epoch)) for seed in config.seeds]
            size = BLOCK * config.batch_size
            for first in range(0, config.samples, size):
                count = min(size, config.samples - first)
                block = torch.stack([torch.randn(count, *self.shape, generator=source) for source in sources])
                yield from torch.split(block.mul_(config.data_std), config.batch_size, dim=1)
            return
        pools = [self.kept[seed] if self.images is None else self.images[0] for seed in config.seeds]
        orders = [
            torch.randperm(self.samples, generator=generator(derive(seed, "order", epoch))) for seed in config.seeds
        ]
        for first in range(0, self.samples, config.batch_size):
            rows = slice(first, first + config.batch_size)
            yield torch.stack([pool[order[rows]] for pool, order in zip(pools, orders, strict=True)])

    def evaluation(self, seed: int) -> Tensor:
        """The examples on which a seed's student is measured, (m, …)."""
        if self.test is not None:
            return self.test[0]
        drawn = torch.randn(self.config.evaluation, *self.shape, generator=generator(derive(seed, "evaluation")))
        return drawn * self.config.data_std


def open_sources(config: TeacherStudentConfig) -> Sources:
    """Read or draw the inputs of a run.

    Raises:
        NetopsyError: where the data set is not found.
    """
    if config.data == "gaussian":
        empty = Sources(config=config)
        if config.fresh:
            return empty
        kept = {
            seed: torch.randn(config.samples, *empty.shape, generator=generator(derive(seed, "inputs")))
            for seed in config.seeds
        }
        return replace(empty, kept={seed: drawn.mul_(config.data_std) for seed, drawn in kept.items()})
    full = fashion_mnist()
    few = subset(full, train=min(config.samples, len(full.train[1])), test=min(config.evaluation, len(full.test[1])))
    data = standardize(few)
    return Sources(config=config, images=data.train, test=data.test)


def teacher_of(config: TeacherStudentConfig, seed: int, sources: Sources) -> nn.Sequential:
    """A seed's teacher, in eval mode; it is trained first where the data are real."""
    drawn = derive(seed if config.teacher_seed is None else config.teacher_seed, "teacher")
    shape, hidden, bias = sources.shape, config.hidden, config.bias
    if sources.images is None:
        return random_teacher(
            inputs=shape, hidden=hidden, outputs=config.outputs, conv=config.conv, bias=bias, seed=drawn
        )
    build = partial(
        layered_net,
        inputs=shape,
        hidden=hidden,
        outputs=config.outputs,
        conv=config.conv,
        norm=config.teacher_norm,
        affine=True,
        bias=bias,
    )
    if config.teacher_fit is None:
        raise NetopsyError("teacher_fit: expected a FitConfig with data='fashion-mnist'; got None")
    found = fit(build, sources.images, replace(config.teacher_fit, seed=drawn & 0x7FFFFFFF, keep=()))
    trained = found.trajectory.model()
    if not isinstance(trained, nn.Sequential):
        raise TypeError(f"expected the trained teacher to be what was built; got {type(trained).__name__}")
    return trained.eval()


def student_of(config: TeacherStudentConfig, seed: int, sources: Sources, teacher: nn.Sequential) -> nn.Sequential:
    """A seed's student before the first step."""
    with forked(derive(seed, "student")):
        student = layered_net(
            inputs=sources.shape,
            hidden=config.hidden,
            outputs=config.outputs,
            multi=config.node_multi,
            conv=config.conv,
            norm=config.norm,
            affine=config.affine,
            bias=config.bias,
        )
    if config.start is not None:
        near = config.start
        start_near(student, teacher, p_w=near.p_w, p_v=near.p_v, seed=derive(seed, "start"))
    return student


def teachers_of(config: TeacherStudentConfig, sources: Sources) -> list[nn.Sequential]:
    """Every seed's teacher; one object for all where it is shared."""
    if config.teacher_seed is not None:
        return [teacher_of(config, config.teacher_seed, sources)] * len(config.seeds)
    return [teacher_of(config, seed, sources) for seed in config.seeds]


def students_of(
    config: TeacherStudentConfig, sources: Sources, teachers: Sequence[nn.Sequential]
) -> list[nn.Sequential]:
    """Every seed's student before the first step."""
    pairs = zip(config.seeds, teachers, strict=True)
    return [student_of(config, seed, sources, teacher) for seed, teacher in pairs]
