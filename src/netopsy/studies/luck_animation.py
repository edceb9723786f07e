"""A moving picture of students that find their teachers: two inputs, so that a unit's weights are a point."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy._storage import write_atomic
from netopsy.plots.style import BLUE, FAINT, LABEL, VERMILLION
from netopsy.probes.teacher_student_config import TeacherStudentConfig
from netopsy.probes.teacher_student_nets import open_sources, students_of, teachers_of
from netopsy.probes.teacher_student_run import train
from netopsy.training.together import Together

MOVING = TeacherStudentConfig(
    inputs=2, hidden=(5,), outputs=20, node_multi=6, bias=False, data_std=1.0, samples=6400, epochs=40, lr=1.0,
    evaluation=256, seeds=(0,),
)  # fmt: skip

MILLISECONDS = 120
"""Of a frame."""


def animate(path: Path, config: TeacherStudentConfig = MOVING) -> Path:
    """Train one student and write a GIF of its first layer's weights, a frame an epoch; arrows are the teacher's.

    A point's area is the length of the unit's outgoing weights: units that nobody listens to fade.

    Raises:
        NetopsyError: for inputs of other than two numbers, convolutions, or several seeds.
    """
    if config.inputs not in (2, (2,)) or config.conv or len(config.seeds) != 1:
        raise NetopsyError(
            f"animation: expected two inputs, no convolutions and one seed; got inputs={config.inputs}, "
            f"conv={config.conv}, {len(config.seeds)} seeds"
        )
    config = replace(config, h_star=())
    sources = open_sources(config)
    teachers = teachers_of(config, sources)
    path_of: list[tuple[Tensor, Tensor]] = []

    def watch(epoch: int, students: Together) -> None:
        own, following = (students.values[f"{name}.weight"].detach()[0] for name in _first_two(config))
        path_of.append((own.clone(), following.norm(dim=0)))

    train(config, sources, teachers, students_of(config, sources, teachers), origin="drawn", watch=watch)
    goal = teachers[0].get_submodule("hidden0").get_parameter("weight").detach()
    reach = max(float(points.abs().max()) for points, _ in [*path_of, (goal, goal)]) * 1.15
    frames = [_frame(epoch, points, sizes, goal, reach) for epoch, (points, sizes) in enumerate(path_of)]
    first, *rest = frames
    write_atomic(
        path,
        lambda temporary: first.save(
            temporary, format="GIF", save_all=True, append_images=rest, duration=MILLISECONDS, loop=0, optimize=True
        ),
    )
    return path


def _first_two(config: TeacherStudentConfig) -> Sequence[str]:
    return "hidden0", "hidden1" if len(config.hidden) > 1 else "output"


def _frame(
    epoch: int, points: Float[Tensor, "j 2"], sizes: Float[Tensor, " j"], goal: Float[Tensor, "t 2"], reach: float
) -> Image.Image:
    figure = Figure(figsize=(3.4, 3.6), layout="constrained", facecolor="white", dpi=80)
    ax = figure.add_subplot()
    ax.axhline(0, color=FAINT, linewidth=0.6)
    ax.axvline(0, color=FAINT, linewidth=0.6)
    for x, y in goal.tolist():
        ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "->", "color": VERMILLION, "lw": 1.4})
    across, up = points.T.tolist()
    ax.scatter(across, up, s=(30 * sizes).tolist(), color=BLUE, alpha=0.7, linewidths=0)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    ax.tick_params(labelsize=6, length=2)
    ax.set_title(f"epoch {epoch}\npoints: the student; arrows: its teacher", size=LABEL, loc="left")
    held = io.BytesIO()
    figure.savefig(held, format="png")
    return Image.open(held).convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
