"""A student alone, trained by hand: plain loops over layers, units and samples, in float64."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Layers = list[tuple[Array, Array]]


def run(layers: Layers, x: Array) -> list[Array]:
    """All layers' values on one example: ReLU after all but the last."""
    values = [x]
    for place, (weight, bias) in enumerate(layers):
        before = weight @ values[-1] + bias
        values.append(before if place == len(layers) - 1 else np.where(before > 0, before, 0.0))
    return values


def sgd(student: Layers, teacher: Layers, batches: Sequence[Array], lr: float) -> Layers:
    """Mean squared error over a batch's examples and outputs, one step a batch."""
    layers = [(weight.copy(), bias.copy()) for weight, bias in student]
    for batch in batches:
        grads = [(np.zeros_like(weight), np.zeros_like(bias)) for weight, bias in layers]
        for x in batch:
            values, wanted = run(layers, x), run(teacher, x)[-1]
            back = 2 * (values[-1] - wanted) / len(wanted) / len(batch)
            for place in reversed(range(len(layers))):
                grads[place][0][:] += np.outer(back, values[place])
                grads[place][1][:] += back
                back = (layers[place][0].T @ back) * (values[place] > 0)
        layers = [(w - lr * gw, b - lr * gb) for (w, b), (gw, gb) in zip(layers, grads, strict=True)]
    return layers


def correlation(student: Layers, teacher: Layers, inputs: Array, layer: int) -> Array:
    """ρ of a hidden layer: teacher's units x student's; -inf where a unit is constant."""
    mine = np.array([run(student, x)[layer + 1] for x in inputs])
    theirs = np.array([run(teacher, x)[layer + 1] for x in inputs])
    found = np.zeros((theirs.shape[1], mine.shape[1]))
    for t in range(theirs.shape[1]):
        for j in range(mine.shape[1]):
            a, b = theirs[:, t] - theirs[:, t].mean(), mine[:, j] - mine[:, j].mean()
            scale = np.sqrt((a @ a) * (b @ b))
            found[t, j] = a @ b / scale if scale > 1e-12 else -np.inf
    return found


def loss(student: Layers, teacher: Layers, inputs: Array) -> float:
    """Mean squared error."""
    return float(np.mean([(run(student, x)[-1] - run(teacher, x)[-1]) ** 2 for x in inputs]))


def covered(rho: Array) -> float:
    """Mean over the teacher's units, those that are constant left out, of the best."""
    best = [max(row) for row in rho if max(row) > -np.inf]
    return float(sum(best) / len(best))


def rank(early: Array, final: Array) -> float:
    """Mean place, at an earlier epoch, of those that are best at the end."""
    places = []
    for before, after in zip(early, final, strict=True):
        if max(after) == -np.inf:
            continue
        winner = int(np.argmax(after))
        places.append(sum(other > before[winner] for other in before) / len(before))
    return float(sum(places) / len(places))
