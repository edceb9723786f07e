"""How fast students turn onto their teachers when gates overlap little: the condition and the rate of Theorem 4.

Tian et al.: Luck Matters: Understanding Training Dynamics of Deep ReLU Networks (2019),
Theorem 4, for Gaussian inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from netopsy._checks import NetopsyError, inside
from netopsy.probes.arc_cosine import angles, gate_kernel, gate_slope, unit_rows
from netopsy.probes.two_layers import Setting, TwoLayer, check_pair, expected_gradient


@dataclass(frozen=True, kw_only=True)
class ConvergenceRate:
    """Whether Theorem 4 holds in a cone, and how fast it says students converge.

    Attributes:
        theta_0: every student's unit is at most this far from its teacher's, in radians.
        gamma: γ = cos θ_0 - (m - 1) ε_d M_d; the theorem holds where it is positive.
        d_bar: d̄, the least that a student's gate shares with its teacher's: P(both active).
        epsilon_d: ε_d, the teacher's largest overlap of two gates, over one gate.
        m_d: M_d, what the overlap is multiplied by for a student somewhere in the cone.
        rate: d̄γ, the least that -d log sin θ/dt of the largest angle is.
    """

    theta_0: float
    gamma: float
    d_bar: float
    epsilon_d: float
    m_d: float
    rate: float

    @property
    def holds(self) -> bool:
        """Whether the theorem's condition is met."""
        return self.gamma > 0


def convergence_rate(teacher: Float[np.ndarray, "m d"], theta_0: float, *, threshold: float = 0.0) -> ConvergenceRate:
    """Theorem 4 with constants that are computed, not assumed, for inputs x ~ N(0, I) and weights of length one.

    With d(θ) the `gate_kernel`, φ_jk the angles between the teacher's units, and s(θ) = -d'(θ): two students at most
    θ_0 from their teachers move the largest angle with at least
    cos θ_0 [d(θ_0) - Σ_k (d(φ_jk - θ_0) + κ s(φ_jk - 2θ_0)) / cos(θ_0/2)], κ = θ_0 / (2 sin(θ_0/2)), for the worst j.
    This is d̄ (cos θ_0 - (m - 1) ε_d M_d) with d̄ = d(θ_0), and M_d by comparison. It is derived here after the paper's
    proof, with the kernel's own slope in place of a Lipschitz constant: the cross-term of a unit k is at most
    d(∠(w*_k, w_j)) ‖w*_k - w_k‖ + abs(d(∠(w*_k, w_j)) - d(∠(w_k, w_j))), where the first angle is within θ_0 of φ_jk
    and the second within 2θ_0.

    Without a threshold ε_d is near ½ and the condition fails from three units on.

    Args:
        teacher: W*, a row a unit; only directions count.
        theta_0: largest angle of a student's unit from its teacher's, in [0, π/2).
        threshold: of all gates, in standard deviations of a pre-activation.

    Raises:
        NetopsyError: for an angle outside [0, π/2), or fewer than two units.

    >>> convergence_rate(np.eye(2), 0.1).holds, convergence_rate(np.eye(3), 0.1).holds
    (True, False)
    >>> convergence_rate(np.eye(3), 0.1, threshold=2.0).holds
    True
    """
    inside("theta_0", theta_0, 0, math.pi / 2, open_high=True)
    m = len(teacher)
    if m < 2:
        raise NetopsyError(f"teacher: expected at least two units, which may overlap; got {m}")
    phi = angles(teacher, teacher)
    other = ~np.eye(m, dtype=bool)
    kappa = theta_0 / 2 / math.sin(theta_0 / 2) if theta_0 > 0 else 1.0
    near = gate_kernel(np.maximum(phi - theta_0, 0), threshold)
    slope = gate_slope(np.maximum(phi - 2 * theta_0, 0), threshold)
    cross = float(np.where(other, near + kappa * slope, 0).sum(1).max()) / math.cos(theta_0 / 2)
    alone, d_bar = (float(gate_kernel(np.array(angle), threshold)) for angle in (0.0, theta_0))
    epsilon = float(gate_kernel(phi, threshold)[other].max()) / alone
    gamma = math.cos(theta_0) * (1 - cross / d_bar)
    return ConvergenceRate(
        theta_0=theta_0,
        gamma=gamma,
        d_bar=d_bar,
        epsilon_d=epsilon,
        m_d=math.cos(theta_0) * cross / d_bar / (m - 1) / epsilon if epsilon > 0 else math.inf,
        rate=d_bar * gamma,
    )


def log_sine_rates(
    teacher: Float[np.ndarray, "m d"], student: Float[np.ndarray, "m d"], *, threshold: float = 0.0
) -> Float[np.ndarray, " m"]:
    """-d log sin θ_j/dt of each unit under Theorem 4's dynamics, exact; NaN of a unit that has arrived.

    Args:
        teacher: W*, a row a unit; directions alone count.
        student: as many, each with its own teacher's unit.
        threshold: of all gates, in standard deviations of a pre-activation.
    """
    ones = np.ones((len(teacher), 1))
    goal, now = TwoLayer(fan_in=unit_rows(teacher), fan_out=ones), TwoLayer(fan_in=unit_rows(student), fan_out=ones)
    check_pair(now, goal)
    moved = expected_gradient(now, goal, Setting(threshold=threshold, train_top=False)).fan_in
    cosine = (now.fan_in * goal.fan_in).sum(1)
    towards = goal.fan_in - cosine[:, None] * now.fan_in  # of length sin θ
    square = (towards * towards).sum(1)
    arrived = square <= 1e-28
    rates = cosine * (moved * towards).sum(1) / np.where(arrived, 1, square)
    return np.where(arrived, np.nan, rates)
