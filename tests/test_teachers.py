"""Random teachers, students of their shape, and starts near a teacher."""

import pytest
import torch
from torch import nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.models.teachers import CHOICES, layered_net, random_teacher, start_near, unit_sites


def maps(net: nn.Sequential) -> list[nn.Linear | nn.Conv2d]:
    return [module for module in net.children() if isinstance(module, nn.Linear | nn.Conv2d)]


@pytest.mark.parametrize("conv", [False, True])
def test_a_teachers_rows_are_separate_and_of_length_one(conv: bool) -> None:
    teacher = random_teacher(inputs=(1, 8, 8) if conv else 5, hidden=(6, 7), outputs=9, conv=conv, seed=3)
    assert len(maps(teacher)) == 3
    for module in maps(teacher):
        rows = module.weight.detach().flatten(1).double()
        assert torch.allclose(rows.norm(dim=1), torch.ones(len(rows), dtype=torch.float64), atol=1e-6)
        assert len(torch.unique(rows, dim=0)) == len(rows)
        for row in rows:  # up to the row's length, the authors' five values
            known = (row[row != 0].abs().min() * torch.tensor([1, 2, 0.5])).tolist()
            assert all(value == 0 or any(abs(abs(value) - k) < 1e-6 for k in known) for value in row.tolist())


def test_biases_are_within_a_half_over_the_rows_length() -> None:
    """A row of k values from CHOICES is at most √k / 2 long, and its bias at most 1/2 before that division."""
    teacher = random_teacher(inputs=1, hidden=(4,), outputs=1, seed=0)
    weight, bias = maps(teacher)[0].weight, maps(teacher)[0].bias
    assert sorted(weight.flatten().tolist()) == [-1.0, -1.0, 1.0, 1.0]  # all four of the rows that there are
    assert bias is not None
    assert bool((bias.abs() <= 2).all())
    assert len(set(bias.tolist())) == 4


def test_a_seed_draws_one_teacher_and_no_global_generator_is_used() -> None:
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    one, same, other = (random_teacher(inputs=4, hidden=(3,), outputs=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(maps(one)[0].weight, maps(same)[0].weight)
    assert not torch.equal(maps(one)[0].weight, maps(other)[0].weight)
    assert not one.training


def test_too_many_units_for_different_rows() -> None:
    with pytest.raises(NetopsyError, match="teacher, hidden0: expected at most 4 units, for 1 weights"):
        random_teacher(inputs=1, hidden=(5,), outputs=2)
    assert len(CHOICES) == 5


@pytest.mark.parametrize(("norm", "sites"), [("none", ("relu0", "relu1")), ("before", ("relu0", "relu1")),
                                             ("after", ("norm0", "norm1"))])  # fmt: skip
@pytest.mark.parametrize("conv", [False, True])
def test_units_are_what_the_next_map_is_given(norm: str, sites: tuple[str, ...], conv: bool) -> None:
    net = layered_net(inputs=(2, 6, 6), hidden=(3, 4), outputs=5, multi=2, conv=conv, norm=norm)  # type: ignore[arg-type]
    assert unit_sites(net) == sites
    assert [len(module.weight) for module in maps(net)] == [6, 8, 5]
    assert net(torch.randn(4, 2, 6, 6)).shape == (4, 5)
    norms = [module for module in net.children() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == (0 if norm == "none" else 2)


def test_images_that_convolutions_use_up() -> None:
    with pytest.raises(NetopsyError, match=r"inputs: expected \(channels, height, width\) of more than 4 pixels"):
        layered_net(inputs=(1, 4, 9), hidden=(3, 3), outputs=2, conv=True)
    with pytest.raises(NetopsyError, match="hidden: expected at least one size; got none"):
        layered_net(inputs=4, hidden=(), outputs=2)
    with pytest.raises(NetopsyError, match="multi: expected an integer >= 1; got 0"):
        layered_net(inputs=4, hidden=(3,), outputs=2, multi=0)


def near(p_w: float, p_v: float) -> tuple[nn.Sequential, nn.Sequential]:
    teacher = random_teacher(inputs=10, hidden=(20,), outputs=30, bias=False, seed=1)
    with forked(0):
        student = layered_net(inputs=10, hidden=(20,), outputs=30, multi=5, bias=False)
    start_near(student, teacher, p_w=p_w, p_v=p_v, seed=2)
    return student, teacher


def test_a_start_at_the_teacher_itself() -> None:
    student, teacher = near(1.0, 1.0)
    (w, v), (w_star, v_star) = ([m.weight.detach() for m in maps(net)] for net in (student, teacher))
    assert torch.allclose(w[:20], w_star, atol=1e-6)
    cosine = torch.nn.functional.cosine_similarity(v[:, :20], v_star, dim=1)
    assert torch.allclose(cosine, torch.ones(30), atol=1e-6)


@pytest.mark.parametrize("p", [(0.0, 0.0), (0.3, 1.0), (1.0, 0.3)])
def test_starts_are_normalized_as_the_paper_says(p: tuple[float, float]) -> None:
    student, _ = near(*p)
    w, v = (m.weight.detach() for m in maps(student))
    assert torch.allclose(w.norm(dim=1), torch.ones(100), atol=1e-6)
    assert torch.allclose(v.norm(dim=1), torch.ones(30), atol=1e-6)


def test_the_initial_gap_grows_with_p_v() -> None:
    gaps = []
    for p_v in (0.0, 1.0):
        v = maps(near(0.0, p_v)[0])[1].weight.detach()
        gaps.append(float(v[:, :20].norm(dim=0).mean() - v[:, 20:].norm(dim=0).mean()))
    assert abs(gaps[0]) < 0.05 < 0.3 < gaps[1]


def test_a_start_needs_two_layers_without_biases() -> None:
    teacher = random_teacher(inputs=4, hidden=(3,), outputs=2)
    with pytest.raises(NetopsyError, match="start: expected a student and a teacher with one hidden layer and no"):
        start_near(teacher, teacher, p_w=1.0, p_v=1.0, seed=0)
    with pytest.raises(NetopsyError, match=r"p_w: expected a number in \[0, 1\]; got 2"):
        start_near(teacher, teacher, p_w=2.0, p_v=1.0, seed=0)
