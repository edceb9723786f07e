"""Whose unit goes with whose: correlations of two layers' units, and what is read off them.

Tian et al.: Luck Matters: Understanding Training Dynamics of Deep ReLU Networks (2019),
§5.1. Rows are a teacher's units t, columns a student's units j; any two layers will do. Leading axes are a
population: many students in one call.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from netopsy._checks import NetopsyError

ROUNDING = 1e-6
"""A unit whose standard deviation is a smaller part of its mean is constant: float32 has 24 bits."""


def rho(student: Float[Tensor, "*p n j"], teacher: Float[Tensor, "*q n t"]) -> Float[Tensor, "*r t j"]:
    """Normalized correlation: the cosine of two units' centered activations over n samples, signed.

    Args:
        student: activations of one student, or of N, (N, n, j); of a convolution with all positions as samples.
        teacher: of one teacher, (n, t) or (1, n, t), or of N.

    Returns:
        In float64, between -1 and 1; NaN for every pair with a unit that is constant or not finite.

    Raises:
        NetopsyError: when the two have different samples.

    >>> one = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    >>> rho(one, -one[:, :1]).round(decimals=9).tolist()
    [[-1.0, nan]]
    """
    if student.shape[-2] != teacher.shape[-2]:
        raise NetopsyError(
            f"rho: expected activations of the same samples, (n, units); got {student.shape[-2]} of the student and "
            f"{teacher.shape[-2]} of the teacher; give both networks the same inputs"
        )
    a, b = unit_columns(teacher), unit_columns(student)
    found: Tensor = (a.mT @ b).clamp(-1, 1)
    return found


def unit_columns(values: Float[Tensor, "*p n units"]) -> Float[Tensor, "*p n units"]:
    """Centered columns of length one, in float64; NaN where a column is constant or not finite."""
    values = values.double()
    mean = values.mean(-2, keepdim=True)
    moved = values - mean
    length = torch.linalg.vector_norm(moved, dim=-2, keepdim=True)
    still = constant(mean, length / values.shape[-2] ** 0.5)
    scaled: Tensor = moved / length.masked_fill(still, torch.nan)
    return scaled


def constant(mean: Float[Tensor, "*s"], deviation: Float[Tensor, "*s"]) -> Bool[Tensor, "*s"]:
    """Units that do not vary beyond rounding."""
    still: Tensor = deviation <= ROUNDING * mean.abs()
    return still


def rho_bar(matrix: Float[Tensor, "*p t j"]) -> Float[Tensor, "*p"]:
    """ρ̄: the mean over the teacher's units of their best correlation among the student's.

    Units without a number, of either network, are left out; NaN where nothing is left.
    """
    highest = _ordered(matrix).amax(-1)
    mean: Tensor = highest.masked_fill(highest.isneginf(), torch.nan).nanmean(-1)
    return mean


def best(matrix: Float[Tensor, "*p t j"]) -> Int64[Tensor, "*p t"]:
    """The student's unit that goes best with each of the teacher's; -1 for a unit without a number."""
    highest, place = _ordered(matrix).max(-1)
    return place.masked_fill(highest.isneginf(), -1)


def one_to_one(matrix: Float[Tensor, "t j"]) -> Int64[Tensor, " t"]:
    """The pairing of different units with the largest sum of correlations; -1 for a unit that is left over.

    Kuhn's assignment, as `scipy.optimize.linear_sum_assignment` solves it, among units with numbers.
    """
    known = ~matrix.isnan()
    rows, columns = (known.any(side).nonzero().flatten() for side in (1, 0))
    kept = matrix[rows][:, columns]
    first, second = (torch.from_numpy(side) for side in linear_sum_assignment(kept.cpu().numpy(), maximize=True))
    found = torch.full(matrix.shape[:1], -1, dtype=torch.int64)
    found[rows.cpu()[first]] = columns.cpu()[second]
    return found


def mean_rank(early: Float[Tensor, "*p t j"], final: Float[Tensor, "*p t j"]) -> Float[Tensor, "*p"]:
    """r̄(e): how high the winners of the end ranked at an earlier epoch, between 0 (all first) and 1.

    Each teacher's unit has its winner in `final`, the student's unit with the highest ρ. Its rank in `early` is the
    number of units with a higher ρ there (a winner without a number is behind all that have one), divided by the
    number of the student's units. The mean is over the teacher's units that have a winner; NaN where none has.
    """
    winner = best(final)
    scores = _ordered(early)
    own = scores.gather(-1, winner.clamp(min=0)[..., None])
    rank = (scores > own).double().mean(-1)
    mean: Tensor = rank.masked_fill(winner < 0, torch.nan).nanmean(-1)
    return mean


def block(matrix: Float[Tensor, "t j"], match: Int64[Tensor, " t"]) -> Float[Tensor, "k k"]:
    """Matched rows, and the columns in their order: an identity where each unit goes with its match alone.

    Two rows with one match have that column twice.
    """
    rows = (match >= 0).nonzero().flatten()
    return matrix[rows][:, match[rows]]


def diagonal_ratio(square: Float[Tensor, "k k"]) -> float:
    """Mean diagonal over mean absolute off-diagonal entry (Figure 11); NaN of fewer than two rows.

    >>> diagonal_ratio(torch.tensor([[4.0, 1.0], [-3.0, 2.0]]))
    1.5
    """
    if len(square) < 2:
        return float("nan")
    other = ~torch.eye(len(square), dtype=torch.bool, device=square.device)
    return float(square.diagonal().double().mean() / square[other].double().abs().mean())


def _ordered(matrix: Float[Tensor, "*p t j"]) -> Float[Tensor, "*p t j"]:
    return matrix.masked_fill(matrix.isnan(), -torch.inf)
