"""Points of a site's line, held against `evaluate` with the edits they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy._random import derive, forked
from netopsy.engine import perturb
from netopsy.engine.edits import AddNoise, Edit, Interpolate, Variant, edit_site
from netopsy.engine.evaluate import evaluate, opened
from netopsy.engine.execution import Engine
from netopsy.engine.line import Line
from netopsy.engine.perturb import Surroundings
from netopsy.engine.route import Route
from netopsy.network.sites import Site, find_sites
from netopsy.network.trajectory import Trajectory
from tests import zoo

DRAWS, SEED, POINTS = 3, 5, [(1.0, 0.0), (0.0, 0.3), (0.4, 0.2)]


class Residual(nn.Module):
    """Convolutions, batch norm, a shortcut around the second one, a flat head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.norm(self.second(x))) + x
        return self.head(x.flatten(1))


def trained(factory: type[nn.Module] | object) -> Trajectory:
    """Two sets of weights and statistics."""
    states = {}
    for key in (0, 1):
        with forked(key):
            model = factory()  # type: ignore[operator]
            states[key] = {
                name: value + 0.1 * torch.cos(37 * value) if value.is_floating_point() else value
                for name, value in model.state_dict().items()
            }
    return Trajectory.from_states(factory, states)  # type: ignore[arg-type]


def data(*shape: int, n: int = 50) -> tuple[Tensor, Tensor]:
    with forked(2):
        return torch.randn(n, *shape), torch.randint(0, 3, (n,))


CASES = {
    "mlp": (zoo.mlp, (6,)),
    "residual": (Residual, (1, 4, 4)),
    "twice": (zoo.Twice, (6,)),
    "registered": (zoo.Registered, (6,)),
}


@contextmanager
def around(trajectory: Trajectory, site: Site, examples: object, engine: Engine = "auto") -> Iterator[Surroundings]:
    model = trajectory.model()
    seen = edit_site(site.name, site, AddNoise(1.0, 0))
    with opened(
        model,
        examples,
        [seen],
        task=None,
        metrics=("error",),
        stop="exact",
        examples=(),
        seed=0,
        engine=engine,
        batch_size=16,
    ) as run:
        line = Line.of(run.execution.state, site, trajectory, 0, draws=DRAWS, seed=SEED)
        yield Surroundings(run, line, run.source.total or 0)


def expected(trajectory: Trajectory, site: Site, examples: object) -> list[tuple[list[float], float]]:
    """Errors of each draw and the mean loss, by `evaluate`."""
    variants = []
    for alpha, sigma in POINTS:
        for draw in range(DRAWS):
            edits = [Edit(a, Interpolate(trajectory, 0, alpha)) for a in site.addresses]
            noise = AddNoise(sigma, derive(SEED, site.name, draw))
            edits += [Edit(a, noise) for a in site.addresses if a.kind == "parameter"]
            variants.append(Variant(f"{alpha} {sigma} {draw}", tuple(edits)))
    frame = evaluate(trajectory.model(), examples, variants, batch_size=16).to_frame()[1:]
    parts = [frame[i : i + DRAWS] for i in range(0, len(frame), DRAWS)]
    return [(part.error.tolist(), float(part.loss.mean())) for part in parts]


@pytest.mark.parametrize("engine", ["exported", "eager"])
@pytest.mark.parametrize("case", CASES)
def test_points_are_what_evaluate_measures(case: str, engine: Engine) -> None:
    factory, shape = CASES[case]
    trajectory, examples = trained(factory), data(*shape)
    for site in find_sites(trajectory.model()):
        with around(trajectory, site, examples, engine) as surroundings:
            found = surroundings.measure(POINTS, 50, loss=True)
            again = surroundings.measure(POINTS, 50, loss=True)
        for mine, twice, (errors, loss) in zip(found, again, expected(trajectory, site, examples), strict=True):
            np.testing.assert_allclose(mine.draws, errors, atol=1e-12)
            assert mine.loss == pytest.approx(loss, rel=1e-5)
            assert mine.errors.mean() == pytest.approx(mine.error)
            assert mine.spread == 0
            np.testing.assert_array_equal(mine.errors, twice.errors)


@pytest.mark.parametrize("room", [0, 3000])
def test_what_is_not_kept_is_computed_again(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trajectory, examples = trained(Residual), data(1, 4, 4)
    site = find_sites(trajectory.model())[1]
    with around(trajectory, site, examples) as surroundings:
        wanted = surroundings.measure(POINTS, 50, loss=True)
    monkeypatch.setattr(perturb, "KEPT_BYTES", room)
    with around(trajectory, site, examples) as surroundings:
        for points in (POINTS, POINTS):
            found = surroundings.measure(points, 50, loss=True)
            for mine, whole in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(mine.errors, whole.errors)
                assert mine.loss == pytest.approx(whole.loss, rel=1e-5)


def test_some_of_the_examples_are_the_first_of_the_order() -> None:
    trajectory, examples = trained(zoo.mlp), data(6)
    with around(trajectory, find_sites(trajectory.model())[0], examples) as surroundings:
        (few,) = surroundings.measure(POINTS[2:], 20)
        (all_of_them,) = surroundings.measure(POINTS[2:], 50)
    assert len(few.errors) == 32  # whole batches
    np.testing.assert_array_equal(few.errors, all_of_them.errors[:32])
    assert few.spread == pytest.approx((few.errors.var(ddof=1) / 32 * (1 - 32 / 50)) ** 0.5)


def test_a_slice_leaves_the_rest_as_it_was() -> None:
    trajectory = trained(zoo.mlp)
    site = find_sites(trajectory.model(), "0.weight[2:4]")[0]
    with around(trajectory, site, data(6)) as surroundings:
        line = surroundings.line
    moved = line.values(0.0, 0.5, 1)["0.weight"] - line.end["0.weight"]
    assert moved[2:4].abs().min() > 0
    assert not moved[:2].any()
    assert not moved[4:].any()
    start, end = (trajectory.tensor(key, "0.weight")[2:4] for key in (0, 1))
    assert line.distance() == pytest.approx(float((end - start).norm()), rel=1e-6)


def test_which_steps_are_affine_in_a_site() -> None:
    """A product of the site's own is; what follows is not; a second use of the site is not."""

    def routes(case: str) -> dict[str, Route]:
        factory, shape = CASES[case]
        trajectory, found = trained(factory), {}
        for site in find_sites(trajectory.model()):
            with around(trajectory, site, data(*shape)) as surroundings:
                surroundings.measure(POINTS[:1], 50)
                found[site.name] = next(iter(surroundings._routes.values()))
        return found

    assert {name: (len(r.affine), r.stackable) for name, r in routes("mlp").items()} == {
        "0": (1, True),
        "2": (1, True),
        "4": (1, True),
    }
    residual = routes("residual")
    assert [len(residual[name].affine) for name in ("first", "second", "norm", "head")] == [1, 1, 0, 1]
    assert [residual[name].stackable for name in ("first", "second", "head")] == [True, False, True]
    assert len(routes("twice")["a"].affine) == 1
