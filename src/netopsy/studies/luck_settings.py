"""The students of Luck Matters (Tian et al. 2019), at a laptop's size and at the paper's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from netopsy.probes.teacher_student_config import NearStart, TeacherStudentConfig
from netopsy.training.config import FitConfig

Preset = Literal["laptop", "paper"]

SMALL, LARGE = (10, 15, 20, 25), (50, 75, 100, 125)
"""Hidden units of the fully connected teachers."""

FACTORS = (1, 2, 5, 10, 20, 50)
"""Over-parameterization of Figure 12."""

NEAR_FACTORS = (2, 5, 10)
STARTS = ((0.0, 0.0), (0.0, 1.0), (0.3, 1.0), (1.0, 1.0), (1.0, 0.3), (1.0, 0.0))
"""(p_w, p_v) of Figure 7."""

LR = 0.05
"""As in the authors' instructions."""

BASE: Mapping[Preset, TeacherStudentConfig] = {
    "laptop": TeacherStudentConfig(lr=LR, samples=10_000, epochs=20),
    "paper": TeacherStudentConfig(lr=LR),
}

NEAR_EPOCHS: Mapping[Preset, int] = {"laptop": 30, "paper": 200}
FASHION_SIZES: Mapping[Preset, tuple[int, int]] = {"laptop": (10, 10_000), "paper": (40, 60_000)}
"""Epochs and examples."""

NEAR: Mapping[Preset, TeacherStudentConfig] = {
    preset: TeacherStudentConfig(
        inputs=10,
        hidden=(20,),
        outputs=30,
        bias=False,
        data_std=1.0,
        samples=6400,
        epochs=epochs,
        lr=LR * 30 / 2,
    )
    for preset, epochs in NEAR_EPOCHS.items()
}
"""Of Figure 7: 100 steps an epoch, 20,000 in the authors' code. Its loss is half the sum over the 30 outputs, ours
their mean: the same steps at 15 times the learning rate."""

FASHION: Mapping[Preset, TeacherStudentConfig] = {
    preset: TeacherStudentConfig(
        data="fashion-mnist",
        hidden=LARGE,
        outputs=10,
        teacher_fit=FitConfig(epochs=epochs, batch_size=64, lr=0.01, momentum=0.9),
        teacher_norm="after",
        teacher_seed=0,
        samples=samples,
        evaluation=10_000,
        epochs=epochs,
        lr=LR,
    )
    for preset, (epochs, samples) in FASHION_SIZES.items()
}  # fmt: skip
"""In the place of CIFAR-10 with its trained teacher."""


def near_line(factor: int, p_w: float, p_v: float) -> str:
    """The name of a line of Figure 7."""
    return f"near x{factor}, {p_w:g}, {p_v:g}"


def lines(preset: Preset) -> dict[str, TeacherStudentConfig]:
    """All lines of students by name."""
    base, near, fashion = BASE[preset], NEAR[preset], FASHION[preset]
    large = replace(base, hidden=LARGE)
    conv = replace(base, conv=True, inputs=(1, 16, 16), hidden=(64,) * 4, affine=True)
    if preset == "laptop":
        large = replace(large, node_multi=4)
        conv = replace(conv, hidden=(8,) * 4, node_multi=4, samples=2000, epochs=10, evaluation=256)
    found = {f"fc x{factor}": replace(base, node_multi=factor) for factor in FACTORS}
    found |= {
        "fc, bn": replace(base, norm="after"),
        "fc, H*": replace(base, h_star=(0, base.epochs)),
        "fc large": large,
        "fc large, bn": replace(large, norm="after"),
        "conv": conv,
        "conv, bn": replace(conv, norm="after"),
        "conv, finite": replace(conv, fresh=False),
        "fashion": fashion,
        "fashion, bn": replace(fashion, norm="after"),
    }
    found |= {
        near_line(factor, p_w, p_v): replace(near, node_multi=factor, start=NearStart(p_w=p_w, p_v=p_v))
        for factor in NEAR_FACTORS
        for p_w, p_v in STARTS
    }
    return found
