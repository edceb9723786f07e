"""What decides a population of students that learn from teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from netopsy._checks import NetopsyError, at_least, inside, one_of, shorten
from netopsy.models.teachers import Norm
from netopsy.training.config import FitConfig


@dataclass(frozen=True, kw_only=True)
class NearStart:
    """Where the students of Theorem 5 start; see `netopsy.models.teachers.start_near`.

    Attributes:
        p_w: the teacher's share in the incoming weights of the first units.
        p_v: in their outgoing weights.
    """

    p_w: float
    p_v: float

    def __post_init__(self) -> None:
        inside("p_w", self.p_w, 0.0, 1.0)
        inside("p_v", self.p_v, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class TeacherStudentConfig:
    """A population of students, one a seed, trained by SGD to give their teachers' outputs (mean squared error).

    The defaults are those of the authors' code (Tian et al. 2019): the small fully connected teacher.

    Attributes:
        data: "gaussian": normal inputs with standard deviation `data_std`, labeled by random teachers; or
            "fashion-mnist": its images, standardized, labeled by the logits of teachers that are trained first, as
            `teacher_fit` says.
        inputs: numbers of a Gaussian input, or its shape; (1, 16, 16) for the authors' convolutions.
        hidden: units (channels) of each of the teacher's hidden layers.
        outputs: the teacher's.
        conv: 3x3 convolutions without padding instead of linear maps.
        node_multi: the student's units of a hidden layer, for one of its teacher's.
        norm: the student's batch normalization: none, "before" or "after" each ReLU. A random teacher has none.
        affine: whether it has a scale and a shift of its own; the authors' fully connected students do not.
        bias: of all maps, of both.
        start: where students of one hidden layer without biases start; None: PyTorch's default draw.
        teacher_fit: how teachers of "fashion-mnist" are trained; its seed is replaced by the teacher's.
        teacher_norm: their batch normalization (with scale and shift).
        teacher_seed: the seed of one teacher that all students have; None: each seed has its own.
        data_std: of Gaussian inputs.
        samples: an epoch's; of "fashion-mnist" the first of the train split.
        fresh: Gaussian inputs drawn anew for each epoch (an infinite data set), or the same (a finite one, kept in
            memory: 4 bytes times seeds, samples and the numbers of an input).
        evaluation: examples on which correlations and losses are measured; of "fashion-mnist" the first of the test
            split.
        epochs: passes.
        batch_size: examples a step; an epoch's last batch is smaller where the number does not divide.
        lr: learning rate; 0.05 or 0.1 in the figures.
        momentum: of SGD.
        seeds: one student each: of its start, its teacher, its inputs and their order. A student is the same whoever
            else is in the population.
        h_star: epochs (0: before the first step) at which H* is computed, for fully connected nets without
            normalization; examples times the square of the student's width, so of few epochs.

    Raises:
        NetopsyError: a value is out of its range, or does not go with the others.
    """

    data: Literal["gaussian", "fashion-mnist"] = "gaussian"
    inputs: int | tuple[int, ...] = 20
    hidden: tuple[int, ...] = (10, 15, 20, 25)
    outputs: int = 100
    conv: bool = False
    node_multi: int = 10
    norm: Norm = "none"
    affine: bool = False
    bias: bool = True
    start: NearStart | None = None
    teacher_fit: FitConfig | None = None
    teacher_norm: Norm = "none"
    teacher_seed: int | None = None
    data_std: float = 10.0
    samples: int = 100_000
    fresh: bool = True
    evaluation: int = 1024
    epochs: int = 40
    batch_size: int = 64
    lr: float = 0.01
    momentum: float = 0.0
    seeds: tuple[int, ...] = tuple(range(10))
    h_star: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        one_of("data", self.data, ("gaussian", "fashion-mnist"))
        one_of("norm", self.norm, ("none", "before", "after"))
        one_of("teacher_norm", self.teacher_norm, ("none", "before", "after"))
        for name in ("outputs", "node_multi", "samples", "epochs", "batch_size"):
            at_least(name, getattr(self, name), 1)
        at_least("evaluation", self.evaluation, 2)
        inside("data_std", self.data_std, 0.0, float("inf"), open_low=True, open_high=True)
        inside("lr", self.lr, 0.0, float("inf"), open_low=True, open_high=True)
        inside("momentum", self.momentum, 0.0, 1.0, open_high=True)
        _check_seeds(self.seeds)
        if self.teacher_seed is not None:
            at_least("teacher_seed", self.teacher_seed, 0)
        if self.norm != "none" and 1 in (self.samples % self.batch_size, min(self.samples, self.batch_size)):
            raise NetopsyError(
                f"norm: expected batches of two examples at least; {self.samples} samples in batches of "
                f"{self.batch_size} end with a batch of one; change samples or batch_size"
            )
        self._check_data()
        self._check_h_star()
        if self.start is not None and (self.conv or len(self.hidden) != 1 or self.bias or self.norm != "none"):
            raise NetopsyError(
                f"start: expected fully connected nets with one hidden layer, norm='none' and bias=False; got "
                f"hidden={self.hidden}, conv={self.conv}, norm={self.norm!r}, bias={self.bias}"
            )

    def _check_data(self) -> None:
        """Refuse options of the other data."""
        if self.data == "gaussian" and (self.teacher_fit is not None or self.teacher_norm != "none"):
            raise NetopsyError(
                "teacher_fit, teacher_norm: expected with data='fashion-mnist' only, for a random teacher is not "
                "trained; got data='gaussian'"
            )
        if self.data == "fashion-mnist" and (self.teacher_fit is None or self.outputs != 10):
            raise NetopsyError(
                f"data='fashion-mnist': expected teacher_fit=FitConfig(...) and outputs=10; got "
                f"teacher_fit={self.teacher_fit}, outputs={self.outputs}"
            )
        if self.data == "fashion-mnist" and not self.fresh:
            raise NetopsyError("fresh: expected True with data='fashion-mnist', which is finite anyway; got False")

    def _check_h_star(self) -> None:
        if not self.h_star:
            return
        if self.conv or self.norm != "none" or self.teacher_norm != "none":
            raise NetopsyError(
                f"h_star: expected fully connected nets without normalization; got conv={self.conv}, "
                f"norm={self.norm!r}, teacher_norm={self.teacher_norm!r}; pass h_star=()"
            )
        if late := [epoch for epoch in self.h_star if not 0 <= epoch <= self.epochs]:
            raise NetopsyError(f"h_star: expected epochs from 0 to {self.epochs}; got also {shorten(late)}")


def _check_seeds(seeds: Sequence[int]) -> None:
    for seed in seeds:
        at_least("seeds", seed, 0)
    if not seeds or len(set(seeds)) < len(seeds):
        raise NetopsyError(f"seeds: expected different ones, one at least; got {shorten(seeds)}")
