"""How a two-layer student moves onto its teacher: as an exact differential equation, and by SGD beside it.

Tian et al.: Luck Matters: Understanding Training Dynamics of Deep ReLU Networks (2019), Theorems 4 and 5, Figure 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp

from netopsy import __version__
from netopsy._checks import Diverged, NetopsyError, at_least, inside, one_of
from netopsy._random import derive
from netopsy._storage import new_folder, read_result, write_result, write_state
from netopsy.network.tensor_files import TensorFile
from netopsy.probes.arc_cosine import angles
from netopsy.probes.two_layers import (
    Setting,
    TwoLayer,
    check_pair,
    expected_gradient,
    expected_loss,
    sampled_gradient,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Way: TypeAlias = Literal["ode", "sgd"]
"""The expected gradient as a differential equation; or steps along gradients of fresh batches."""

Course: TypeAlias = Sequence[TwoLayer]
"""The student at each time."""

WEIGHTS = "weights.safetensors"
"""The file of a saved result's students."""

SHOWN = 12
"""Times that a printed result has of each way, at most."""


@dataclass(frozen=True, eq=False)
class StudentDynamics:
    """A student's way to its teacher. Its first units, as many as the teacher's, are the set u, the others r.

    Attributes:
        paths: way -> the student at each time.
        frame: one row a way and time; see `to_frame`.
        nodes: one row a way, time and unit: `way, time, node, set` (u or r), `angle` to the teacher's unit of the
            same number (radians; null in r), `fan_in_norm, fan_out_norm`.
        provenance: sizes, times, options, versions.
    """

    paths: Mapping[str, Course] = field(repr=False)
    frame: pd.DataFrame = field(repr=False)
    nodes: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table.

        Columns: `way, time`, `loss` (½E‖student - teacher‖², exact for both ways), `distance` (‖W_u - W*‖),
        `angle` (the largest in u), `fan_out_u` and `fan_out_r` (means of the row norms of V; null without r).
        """
        return self.frame.copy()

    def plot(self, ax: Axes | None = None, *, way: Way = "ode") -> Axes:
        """Draw the row norms of V_u and V_r over time (`netopsy.plots.matching.norm_bands`).

        Args:
            ax: where to draw; by default a new figure, `.figure` of what is returned.
            way: which of the ways.
        """
        from netopsy.plots.matching import norm_bands

        one_of("way", way, tuple(self.paths))
        return norm_bands(self.nodes[self.nodes.way == way], ax=ax)

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `times.parquet`, `units.parquet`, `weights.safetensors` and `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        folder = new_folder(Path(path), overwrite=overwrite)
        tensors = {
            f"{way}.{at}.{name}": torch.tensor(getattr(net, name))
            for way, nets in self.paths.items()
            for at, net in enumerate(nets)
            for name in ("fan_in", "fan_out")
        }
        write_state(folder / WEIGHTS, tensors)
        tables = {"times": self.frame, "units": self.nodes}
        return write_result(folder, tables, self.provenance, overwrite=True)  # the manifest last

    @classmethod
    def load(cls, path: Path | str) -> StudentDynamics:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "StudentDynamics", "student_dynamics", ["times", "units"])
        file, frame = TensorFile(Path(path) / WEIGHTS), tables["times"]
        if len(file.names) != 2 * len(frame):
            raise NetopsyError(
                f"{path}: expected the weights of {len(frame)} students in {WEIGHTS}; it has {len(file.names)} "
                "matrices; the file is damaged"
            )
        paths = {}
        for way, rows in frame.groupby("way", sort=False):
            read = [
                [file.read(f"{way}.{at}.{name}").numpy() for name in ("fan_in", "fan_out")] for at in range(len(rows))
            ]
            paths[str(way)] = [TwoLayer(fan_in=w, fan_out=v) for w, v in read]
        return cls(paths=paths, frame=frame, nodes=tables["units"], provenance=provenance)

    def __str__(self) -> str:
        p, count = self.provenance, len(self.provenance["times"])
        kept = np.unique(np.linspace(0, count - 1, min(count, SHOWN)).round().astype(int))
        shown = self.frame[self.frame.groupby("way", sort=False).cumcount().isin(kept)]
        text = shown.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="–")
        left_out = f"; {len(kept)} of {count} times" if len(kept) < count else ""
        units = f"{p['units']} units learn from {p['teacher_units']}"
        return f"{text}\n{units}{left_out}. Angles in radians; fan_out: mean norms of the rows of V_u and V_r."


def student_dynamics(
    teacher: TwoLayer,
    student: TwoLayer,
    times: Sequence[float],
    *,
    ways: Sequence[Way] = ("ode", "sgd"),
    project: bool = True,
    train_top: bool = True,
    threshold: float = 0.0,
    scale: float = 1.0,
    lr: float = 0.01,
    batch: int = 64,
    seed: int = 0,
    tolerance: float = 1e-6,
) -> StudentDynamics:
    """Follow a two-layer student of a two-layer teacher on Gaussian inputs.

    Theorem 5 is the default. Theorem 4 is `train_top=False` with students and teachers whose fan-out is all ones:
    then β = 1. Without `project` it is plain gradient descent.

    Args:
        teacher: the network that gives the targets.
        student: where training starts; its first units are those that are to find the teacher's.
        times: when to look, from 0 on, ascending; a step of SGD takes the time `lr`.
        ways: `"ode"`, `"sgd"` or both.
        project: see `netopsy.probes.two_layers.Setting`.
        train_top: whether the fan-out weights move.
        threshold: of all gates, in standard deviations of a pre-activation.
        scale: standard deviation of each input.
        lr: learning rate of SGD.
        batch: fresh inputs a step.
        seed: of these inputs.
        tolerance: relative, of the differential equation's solution; the absolute one is a hundredth of it.

    Raises:
        NetopsyError: for networks or times that do not fit.
        Diverged: when SGD comes to weights that are not finite.
    """
    check_pair(student, teacher)
    setting = Setting(project=project, train_top=train_top, threshold=threshold, scale=scale)
    moments = np.asarray(times, dtype=np.float64)
    if moments.ndim != 1 or not len(moments) or not (np.isfinite(moments).all() and (np.diff(moments) > 0).all()):
        raise NetopsyError(f"times: expected ascending numbers; got {times!r}")
    inside("times", float(moments[0]), 0, np.inf)
    inside("lr", lr, 0, np.inf, open_low=True, open_high=True)
    inside("tolerance", tolerance, 1e-12, 1e-2)
    at_least("batch", batch, 1)
    if not ways:
        raise NetopsyError("ways: expected 'ode', 'sgd' or both; got none")
    for way in ways:
        one_of("ways", way, ("ode", "sgd"))
    paths: dict[str, Course] = {}
    for way in ways:
        if way == "ode":
            paths[way] = _solve(student, teacher, moments, setting, tolerance)
        else:
            paths[way] = _descend(student, teacher, moments, setting, lr, batch, seed)
    frames = [_nodes(way, path, moments, teacher) for way, path in paths.items()]
    nodes = pd.concat(frames, ignore_index=True).astype(dict.fromkeys(("way", "set"), "string"))
    return StudentDynamics(
        paths=paths,
        frame=_frame(paths, moments, teacher, setting),
        nodes=nodes,
        provenance={
            "probe": "student_dynamics",
            "netopsy": __version__,
            "units": len(student.fan_in),
            "teacher_units": len(teacher.fan_in),
            "times": moments.tolist(),
            "ways": list(ways),
            **asdict(setting),
            "lr": lr,
            "batch": batch,
            "seed": seed,
            "tolerance": tolerance,
        },
    )


def _solve(
    student: TwoLayer, teacher: TwoLayer, times: Float[np.ndarray, " t"], setting: Setting, tolerance: float
) -> Course:
    shape, split = student.fan_in.shape, student.fan_in.size

    def network(flat: Float[np.ndarray, " p"]) -> TwoLayer:
        return TwoLayer(fan_in=flat[:split].reshape(shape), fan_out=flat[split:].reshape(student.fan_out.shape))

    def motion(_: float, flat: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
        moved = expected_gradient(network(flat), teacher, setting)
        return np.concatenate([moved.fan_in.ravel(), moved.fan_out.ravel()])

    start = np.concatenate([student.fan_in.ravel(), student.fan_out.ravel()]).astype(np.float64)
    if times[-1] == 0:
        return [network(start)]
    span = (0.0, float(times[-1]))
    found = solve_ivp(motion, span, start, t_eval=times, rtol=tolerance, atol=tolerance / 100)
    if not found.success:
        raise Diverged(f"times: the differential equation could not be solved up to {span[1]:g}: {found.message}")
    return [network(flat) for flat in found.y.T]


def _descend(
    student: TwoLayer,
    teacher: TwoLayer,
    times: Float[np.ndarray, " t"],
    setting: Setting,
    lr: float,
    batch: int,
    seed: int,
) -> Course:
    rng = np.random.default_rng(derive(seed, "inputs"))
    now, done, path = student, 0, []
    length = np.linalg.norm(student.fan_in, axis=1, keepdims=True)
    for time in times:
        for _ in range(round(float(time) / lr) - done):
            noise = rng.standard_normal((batch, student.fan_in.shape[1]))
            moved = sampled_gradient(now, teacher, setting, noise)
            w = now.fan_in + lr * moved.fan_in
            if setting.project:  # a straight step leaves the sphere, by lr²
                w *= length / np.maximum(np.linalg.norm(w, axis=1, keepdims=True), np.finfo(np.float64).tiny)
            v = now.fan_out + lr * moved.fan_out
            if not (np.abs(w).max() < 1e6 and np.abs(v).max() < 1e6):
                raise Diverged(f"lr={lr:g}: SGD diverged before time {time:g}; choose a smaller learning rate")
            now, done = TwoLayer(fan_in=w, fan_out=v), done + 1
        path.append(now)
    return path


def _nodes(way: str, path: Course, times: Float[np.ndarray, " t"], teacher: TwoLayer) -> pd.DataFrame:
    """A row a time and unit."""
    goals = len(teacher.fan_in)
    parts = []
    for time, net in zip(times, path, strict=True):
        units = len(net.fan_in)
        angle = np.full(units, np.nan)
        angle[:goals] = _angles(net, teacher)
        parts.append(
            pd.DataFrame(
                {
                    "way": way,
                    "time": float(time),
                    "node": np.arange(units),
                    "set": np.where(np.arange(units) < goals, "u", "r"),
                    "angle": angle,
                    "fan_in_norm": np.linalg.norm(net.fan_in, axis=1),
                    "fan_out_norm": np.linalg.norm(net.fan_out, axis=1),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _angles(net: TwoLayer, teacher: TwoLayer) -> Float[np.ndarray, " u"]:
    return np.asarray(angles(net.fan_in[: len(teacher.fan_in)], teacher.fan_in).diagonal())


def _frame(
    paths: Mapping[str, Course], times: Float[np.ndarray, " t"], teacher: TwoLayer, setting: Setting
) -> pd.DataFrame:
    goals, rows = len(teacher.fan_in), []
    for way, path in paths.items():
        for time, net in zip(times, path, strict=True):
            top = np.linalg.norm(net.fan_out, axis=1)
            rest = float(top[goals:].mean()) if len(top) > goals else float("nan")
            distance = float(np.linalg.norm(net.fan_in[:goals] - teacher.fan_in))
            angle = float(_angles(net, teacher).max())
            loss = expected_loss(net, teacher, setting)
            rows.append((way, float(time), loss, distance, angle, float(top[:goals].mean()), rest))
    names = ["way", "time", "loss", "distance", "angle", "fan_out_u", "fan_out_r"]
    return pd.DataFrame(rows, columns=names).astype({"way": "string"})
