"""Two-layer students of two-layer teachers on Gaussian inputs: the exact expected gradient, and one that is sampled.

Tian et al.: Luck Matters: Understanding Training Dynamics of Deep ReLU Networks (2019), Theorems 4 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from netopsy._checks import NetopsyError, at_least, inside
from netopsy._random import derive
from netopsy.probes.arc_cosine import angles, gate_kernel, relu_kernel, unit_rows


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoLayer:
    """x -> Σ_j v_j max(w_j·x - hσ‖w_j‖, 0), for inputs x ~ N(0, σ² I) and a threshold h that is given elsewhere.

    Attributes:
        fan_in: w_j, a row a unit (the columns of the paper's W).
        fan_out: v_j, a row a unit (the rows of the paper's V).
    """

    fan_in: Float[np.ndarray, "m d"] = field(repr=False)
    fan_out: Float[np.ndarray, "m o"] = field(repr=False)

    def __post_init__(self) -> None:
        a, b = np.shape(self.fan_in), np.shape(self.fan_out)
        if len(a) != 2 or len(b) != 2 or a[0] != b[0] or 0 in (*a, *b):
            raise NetopsyError(
                f"fan_in, fan_out: expected shapes (units, inputs) and (units, outputs); got {a} and {b}"
            )
        if not (np.isfinite(self.fan_in).all() and np.isfinite(self.fan_out).all()):
            raise NetopsyError("fan_in, fan_out: expected finite weights; got NaN or infinite ones")


def check_pair(student: TwoLayer, teacher: TwoLayer) -> None:
    """Refuse a student with fewer units than the teacher, other inputs or other outputs."""
    a, b = (np.shape(net.fan_in) + np.shape(net.fan_out)[1:] for net in (student, teacher))
    if a[1:] != b[1:] or a[0] < b[0]:
        raise NetopsyError(
            f"student: expected at least the teacher's {b[0]} units, its {b[1]} inputs and {b[2]} outputs; got "
            f"{a[0]}, {a[1]} and {a[2]}"
        )


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What decides how a two-layer student moves.

    Attributes:
        project: whether fan-in weights move at right angles to themselves, as batch normalization has it (Theorem 3).
        train_top: whether the fan-out weights move.
        threshold: h, in standard deviations of a pre-activation; above 0 gates are biased negatively.
        scale: σ, the standard deviation of each input.
    """

    project: bool = True
    train_top: bool = True
    threshold: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        inside("threshold", self.threshold, -10, 10)
        inside("scale", self.scale, 0, np.inf, open_low=True, open_high=True)


def expected_gradient(student: TwoLayer, teacher: TwoLayer, setting: Setting) -> TwoLayer:
    """Minus the gradient of ½E‖student - teacher‖², in closed form: W' and V'.

    The gradient of E[f_w f_v] with respect to w is σ² (P v + ‖v‖ (K - P cos θ) ŵ), with P the `gate_kernel` and K the
    `relu_kernel` at the angle θ between the two. The second part lies along w: with `project` nothing is left of it,
    and the motion is that of Theorem 5, P⊥ (W* H* - W H) with H = VVᵀ ∘ D. For Gaussian inputs, that is, separating
    the expectations costs nothing there.
    """
    w, v, h = student.fan_in, student.fan_out, setting.threshold
    length, unit = np.linalg.norm(w, axis=1), unit_rows(w)
    moved, top = np.zeros_like(w), np.zeros_like(v)
    for sign, other in ((1, teacher), (-1, student)):
        theta = angles(w, other.fan_in)
        gates, relus = gate_kernel(theta, h), relu_kernel(theta, h)
        lengths = np.linalg.norm(other.fan_in, axis=1)
        tie = v @ other.fan_out.T
        moved += sign * (tie * gates) @ other.fan_in
        if not setting.project:
            moved += sign * ((tie * (relus - np.cos(theta) * gates)) @ lengths)[:, None] * unit
        top += sign * (np.outer(length, lengths) * relus) @ other.fan_out
    return _motion(moved, top, unit, setting)


def sampled_gradient(
    student: TwoLayer, teacher: TwoLayer, setting: Setting, noise: Float[np.ndarray, "b d"]
) -> TwoLayer:
    """Minus the gradient on a batch of inputs σ · noise: what the two networks compute themselves."""
    x = setting.scale * noise
    f, gates = _hidden(student, x, setting)
    error = _hidden(teacher, x, setting)[0] @ teacher.fan_out - f @ student.fan_out
    arriving = gates * (error @ student.fan_out.T)
    unit = unit_rows(student.fan_in)
    bias = setting.threshold * setting.scale * arriving.sum(0)[:, None] * unit
    factor = setting.scale**2 * len(x)
    return _motion((arriving.T @ x - bias) / factor, f.T @ error / factor, unit, setting)


def expected_loss(student: TwoLayer, teacher: TwoLayer, setting: Setting) -> float:
    """½E‖student - teacher‖², in closed form."""
    total = 0.0
    for factor, a, b in ((1, student, student), (-2, student, teacher), (1, teacher, teacher)):
        lengths = np.outer(np.linalg.norm(a.fan_in, axis=1), np.linalg.norm(b.fan_in, axis=1))
        kernel = lengths * relu_kernel(angles(a.fan_in, b.fan_in), setting.threshold)
        total += factor * float((kernel * (a.fan_out @ b.fan_out.T)).sum())
    return max(setting.scale**2 * total / 2, 0.0)


def close_start(
    *,
    inputs: int,
    teacher: int,
    outputs: int,
    factor: float = 10.0,
    p_w: float = 0.0,
    p_v: float = 0.0,
    seed: int = 0,
) -> tuple[TwoLayer, TwoLayer]:
    """A teacher, and a student whose first units start near the teacher's (§4.2, Figure 7).

    W_u = normalize(p_w W* + (1 - p_w) noise) and W_r is noise, each unit's fan-in of length one; V_u = p_v V* +
    (1 - p_v) noise and V_r is noise, where V*, the noise over all units, and in the end V have columns (an output's
    weights) of length one. What is normalized together in V is not printed: this is the reading of
    `netopsy.models.teachers.start_near`, of which the study's networks are made.

    Args:
        inputs: d.
        teacher: units of the teacher.
        outputs: o.
        factor: the student's units over the teacher's.
        p_w: between 0 (noise) and 1 (the teacher's weights), for fan-in.
        p_v: the same for fan-out.
        seed: of all draws. Those of the teacher and of the noise depend on neither p_w nor p_v.

    Returns:
        The teacher and the student.
    """
    for name, size in (("inputs", inputs), ("teacher", teacher), ("outputs", outputs)):
        at_least(name, size, 1)
    inside("factor", factor, 1, np.inf, open_high=True)
    inside("p_w", p_w, 0, 1)
    inside("p_v", p_v, 0, 1)
    units = round(factor * teacher)
    made = []
    for name, width, p, normalize in (("w", inputs, p_w, unit_rows), ("v", outputs, p_v, _unit_columns)):
        goal = normalize(np.random.default_rng(derive(seed, "teacher", name)).standard_normal((teacher, width)))
        start = normalize(np.random.default_rng(derive(seed, "student", name)).standard_normal((units, width)))
        start[:teacher] = p * goal + (1 - p) * start[:teacher]
        made.append((goal, normalize(start)))
    (w_goal, w), (v_goal, v) = made
    return TwoLayer(fan_in=w_goal, fan_out=v_goal), TwoLayer(fan_in=w, fan_out=v)


def _unit_columns(weights: Float[np.ndarray, "m o"]) -> Float[np.ndarray, "m o"]:
    return unit_rows(weights.T).T


def _hidden(net: TwoLayer, x: Float[np.ndarray, "b d"], setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Activations and gates, (b, m) both."""
    before = x @ net.fan_in.T - setting.threshold * setting.scale * np.linalg.norm(net.fan_in, axis=1)
    gates = before > 0
    return before * gates, gates


def _motion(
    moved: Float[np.ndarray, "m d"], top: Float[np.ndarray, "m o"], unit: Float[np.ndarray, "m d"], setting: Setting
) -> TwoLayer:
    """In units of inputs with σ = 1, times σ²."""
    if setting.project:
        moved = moved - (moved * unit).sum(1, keepdims=True) * unit
    factor = setting.scale**2
    return TwoLayer(fan_in=factor * moved, fan_out=factor * top if setting.train_top else np.zeros_like(top))
