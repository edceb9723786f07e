"""Over-parameterized students learn from teachers: which units win, and when that was to be seen.

Tian et al.: Luck Matters: Understanding Training Dynamics of Deep ReLU Networks (2019), §4.2 and §5.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from netopsy import __version__
from netopsy._identity import canonical
from netopsy.probes.teacher_student_config import TeacherStudentConfig
from netopsy.probes.teacher_student_nets import open_sources, students_of, teachers_of
from netopsy.probes.teacher_student_result import TeacherStudentResult
from netopsy.probes.teacher_student_run import train


def teacher_student(
    config: TeacherStudentConfig,
    *,
    folder: Path | str | None = None,
    resume: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> TeacherStudentResult:
    """Train students on their teachers' outputs, all seeds as one, and measure them before and after every epoch.

    >>> tiny = TeacherStudentConfig(
    ...     inputs=4, hidden=(3,), outputs=2, samples=64, epochs=1, evaluation=64, seeds=(0, 1)
    ... )
    >>> teacher_student(tiny).to_frame().columns.tolist()
    ['epoch', 'layer', 'seed', 'rho_bar', 'rank', 'loss']

    Args:
        config: all that decides the run.
        folder: where each epoch is written as it ends, for `resume`; with a copy of the students' state.
        resume: go on with the run in the folder: one that has not begun is begun, a finished one is read. The result
            has the bits of a run that was never interrupted.
        progress: called with the epochs done and their total.

    Returns:
        Records of all epochs, kept in memory: 4 bytes times epochs, seeds and the products of the layers' widths, the
        teacher's and the student's.

    Raises:
        NetopsyError: a data set that is not found; a folder with files in it, or to resume, one of another run.
    """
    started = time.perf_counter()
    sources = open_sources(config)
    teachers = teachers_of(config, sources)
    run = train(
        config,
        sources,
        teachers,
        students_of(config, sources, teachers),
        origin="drawn",
        folder=None if folder is None else Path(folder),
        resume=resume,
        progress=progress,
    )
    return TeacherStudentResult(
        seeds=config.seeds,
        records=run.records,
        final=run.final,
        provenance={
            "probe": "teacher_student",
            "netopsy": __version__,
            "torch": torch.__version__,
            "config": canonical(config),
            "seconds": time.perf_counter() - started,
        },
    )
