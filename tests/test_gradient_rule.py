"""Theorem 1 against autograd, Theorem 2 against definition and autograd, networks for which there is neither."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.models.fcn import fcn
from netopsy.probes.gradient_rule import recursive_gradients
from netopsy.probes.layer_dynamics import LayerDynamics, layer_dynamics, overlap
from netopsy.probes.relu_chain import relu_chain
from tests.oracles import matching as oracle


def chain(seed: int, widths: tuple[int, ...], *, bias: bool = True) -> nn.Sequential:
    with forked(seed):
        parts: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            parts += [nn.Linear(a, b, bias=bias), nn.ReLU()]
        return nn.Sequential(*parts[:-1]).double()


def linear(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def by_autograd(student: nn.Module, teacher: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Minus the gradient at each linear module's output, example by example."""
    outputs: list[Tensor] = []
    handles = [m.register_forward_hook(lambda m, i, output: outputs.append(output)) for m in linear(student)]
    loss = (student(inputs) - teacher(inputs).detach()).square().sum() / 2
    for handle in handles:
        handle.remove()
    return [-gradient for gradient in torch.autograd.grad(loss, outputs)]


def test_theorem_1_on_random_networks() -> None:
    """120 pairs of one to five layers, of widths of their own, with and without biases."""
    rng, worst, layers = np.random.default_rng(0), 0.0, 0
    for seed in range(120):
        depth, bias = int(rng.integers(0, 5)), bool(rng.integers(2))
        ends = [int(size) for size in rng.integers(1, 6, 2)]
        hidden = [tuple(int(size) for size in rng.integers(1, 12, depth)) for _ in range(2)]
        student, teacher = (chain(2 * seed + k, (ends[0], *hidden[k], ends[1]), bias=bias) for k in range(2))
        with torch.no_grad():
            for module in (*linear(student), *linear(teacher)):
                module.weight.mul_(2.0)
                if bias:
                    module.bias.mul_(5.0)
        inputs = torch.from_numpy(rng.standard_normal((6, ends[0])))
        found, expected = recursive_gradients(student, teacher, inputs), by_autograd(student, teacher, inputs)
        assert len(found) == len(expected) == depth + 1
        for a, b in zip(found, expected, strict=True):
            worst, layers = max(worst, float((a - b).abs().max())), layers + (float(b.abs().max()) > 0)
    assert worst < 1e-10
    assert layers > 300


def test_without_the_constant_node_the_rule_is_wrong() -> None:
    """Biases are not carried by the units alone: what the rule would give is far from the gradient."""
    student, teacher = chain(0, (4, 6, 5, 3)), chain(1, (4, 5, 7, 3))
    inputs = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = relu_chain("student", student, inputs), relu_chain("teacher", teacher, inputs)
    mine, theirs = a.run(inputs), b.run(inputs)
    top, other = a.maps[-1], b.maps[-1]  # one layer below the outputs β is the product of the top weights
    units = theirs.values[-2] @ other.T @ top - mine.values[-2] @ top.T @ top
    whole = (mine.gates[-2] * units)[:, :-1]
    bare = theirs.values[-2][:, :-1] @ other[:, :-1].T @ top - mine.values[-2][:, :-1] @ top[:, :-1].T @ top
    expected = by_autograd(student, teacher, inputs)[1]
    torch.testing.assert_close(whole, expected, atol=1e-12, rtol=0)
    assert float(((mine.gates[-2] * bare)[:, :-1] - expected).abs().max()) > 0.05


def test_netopsys_own_networks_and_images() -> None:
    with forked(0):
        student, teacher = (fcn(inputs=(1, 3, 2), classes=4, depth=2, width=width) for width in (9, 5))
        images = torch.randn(7, 1, 3, 2)
    found = recursive_gradients(student, teacher, images)
    for a, b in zip(found, by_autograd(student.double(), teacher.double(), images.double()), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    assert [tuple(g.shape) for g in found] == [(7, 9), (7, 9), (7, 4)]


def pair() -> tuple[nn.Sequential, nn.Sequential, Tensor]:
    inputs = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return chain(0, (4, 6, 5, 3)), chain(1, (4, 3, 4, 3)), inputs


def result() -> LayerDynamics:
    student, teacher, inputs = pair()
    return layer_dynamics(student, teacher, (inputs, inputs[:, 0]), batch_size=16)


def test_the_update_is_minus_the_gradient_of_all_examples() -> None:
    student, teacher, inputs = pair()
    loss = (student(inputs) - teacher(inputs).detach()).square().sum() / 2 / len(inputs)
    for module, moments in zip(linear(student), result().moments, strict=True):
        weight, bias = torch.autograd.grad(loss, [module.weight, module.bias], retain_graph=True)
        units = module.out_features
        torch.testing.assert_close(moments.update[:-1, :units].T, -weight, atol=1e-12, rtol=0)
        torch.testing.assert_close(moments.update[-1, :units], -bias, atol=1e-12, rtol=0)


def test_expectations_are_those_of_the_definitions() -> None:
    """β of the units below the outputs is constant; one layer below, it depends on the gates between."""
    student, teacher, inputs = pair()
    a, b = (relu_chain("net", net, inputs) for net in (student, teacher))
    mine, theirs = a.run(inputs), b.run(inputs)
    found = result()
    n = len(inputs)
    top, other = a.maps[2], b.maps[2]
    torch.testing.assert_close(found.moments[1].beta_across, top.T @ other)
    torch.testing.assert_close(found.moments[1].beta, top.T @ top)
    betas = [torch.zeros(7, 4, dtype=torch.float64), torch.zeros(7, 4, dtype=torch.float64)]
    for x in range(n):
        gates, gates_star = torch.diag(mine.gates[1][x]), torch.diag(theirs.gates[1][x])
        beta = a.maps[1].T @ gates @ top.T @ other @ gates_star @ b.maps[1] / n
        betas[0] += beta
        betas[1] += torch.diag(mine.gates[0][x]) @ beta @ torch.diag(theirs.gates[0][x])
    torch.testing.assert_close(found.moments[0].beta_across, betas[0])
    torch.testing.assert_close(found.moments[0].joint_across, betas[1])
    torch.testing.assert_close(found.moments[0].gates_across, mine.gates[0].T @ theirs.gates[0] / n)
    torch.testing.assert_close(found.moments[2].below_across, mine.values[2].T @ theirs.values[2] / n)
    torch.testing.assert_close(found.h_star(0), betas[1][:6, :3].T)
    torch.testing.assert_close(found.h_star(0, separated=True), (betas[0] * found.moments[0].gates_across)[:6, :3].T)
    torch.testing.assert_close(found.h_star(2), torch.eye(3, dtype=torch.float64))


def test_the_gap_is_that_of_the_update_written_out() -> None:
    student, teacher, inputs = pair()
    a, b = (relu_chain("net", net, inputs) for net in (student, teacher))
    mine, theirs = a.run(inputs), b.run(inputs)
    found = result()
    for layer, moments in enumerate(found.moments):
        row = found.frame.iloc[layer]
        units = a.widths[layer + 1]
        exact = moments.update[:, :units].numpy()
        for column, h, h_star in (
            ("gap_joint", moments.joint, moments.joint_across),
            ("gap_separated", moments.separated, moments.separated_across),
        ):
            made = oracle.separated_update(
                mine.values[layer].numpy(), theirs.values[layer].numpy(), a.maps[layer].T.numpy(),
                b.maps[layer].T.numpy(), h.numpy(), h_star.T.numpy(),
            )[:, :units]  # fmt: skip
            gap = np.linalg.norm(made - exact) / np.linalg.norm(exact)
            assert row[column] == pytest.approx(gap, abs=1e-9)
    gaps = found.frame.set_index("layer")
    assert gaps.gap_joint[2] < 1e-12 > gaps.gap_separated[2]  # nothing is separated at the outputs
    assert gaps.gap_joint[1] == pytest.approx(gaps.gap_separated[1], abs=1e-12)  # β is constant there
    assert gaps.gap_joint[0] > 0.01
    assert gaps.gap_joint[0] != pytest.approx(gaps.gap_separated[0], abs=1e-4)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = result()
    monkeypatch.setattr("netopsy.probes.layer_dynamics.NUMBERS", 300)
    for a, b in zip(whole.moments, result().moments, strict=True):
        torch.testing.assert_close(a.joint, b.joint)
        torch.testing.assert_close(a.update, b.update)


def test_a_student_that_is_the_teacher_has_no_update() -> None:
    student, _, inputs = pair()
    found = layer_dynamics(student, student, (inputs, inputs[:, 0])).frame
    assert found["update"].max() < 1e-14
    exact = found[found["update"] == 0]
    assert exact.gap_joint.isna().all()


def test_overlap_by_hand_and_of_a_teacher() -> None:
    square = torch.tensor([[2.0, 1.0], [1.0, 4.0]])
    assert overlap(square) == (pytest.approx(2 / 6), 0.5)
    assert np.isnan(overlap(square[:1, :1])).all()
    assert np.isnan(overlap(torch.zeros(3, 3))).all()
    teacher = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        teacher[0].weight.copy_(torch.eye(2))
        teacher[0].bias.zero_()
    inputs = torch.tensor([[1.0, 2.0], [3.0, -1.0], [-1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
    row = layer_dynamics(chain(0, (2, 3, 1)), teacher, (inputs, inputs[:, 0])).frame.iloc[0]
    # gates: both on the first, one on the second, the other on the fourth; values 1·2, squares 1 + 9 and 4 + 4
    assert (row.gate_overlap, row.epsilon_d) == (pytest.approx(1 / 2), pytest.approx(1 / 2))
    assert (row.value_overlap, row.epsilon_l) == (pytest.approx(2 * 2 / 18), pytest.approx(2 / 8))


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(x + torch.relu(self.a(x)))
        return out


@pytest.mark.usefixtures("unchecked")
def test_refusals() -> None:
    student, teacher, inputs = pair()
    normed = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, eps=0.5), nn.ReLU(), nn.Linear(5, 3)).double()
    tanh = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    for other in (normed, tanh, Skip().double()):
        with pytest.raises(NetopsyError, match=r"student: expected a chain .* gives other outputs than its 2 linear"):
            recursive_gradients(other, teacher, inputs)
    with pytest.raises(NetopsyError, match=r"teacher: expected as many layers, .* 4-6-5-3; got 4-3-3; widths of"):
        recursive_gradients(student, chain(0, (4, 3, 3)), inputs)
    with pytest.raises(NetopsyError, match="teacher: expected inputs of 5 numbers an example; got 4"):
        recursive_gradients(student, chain(0, (5, 3, 2, 3)), inputs)
    with pytest.raises(NetopsyError, match=r"got Conv2d with 0 linear modules of sizes none"):
        recursive_gradients(nn.Conv2d(1, 1, 1), teacher, inputs)
    strange = nn.Sequential(nn.Linear(4, 5), nn.Linear(6, 3))
    with pytest.raises(NetopsyError, match=r"got Sequential with 2 linear modules of sizes 4 to 5, 6 to 3"):
        recursive_gradients(strange, teacher, inputs)
    with pytest.raises(NetopsyError, match="teacher: expected a torch module; got int"):
        recursive_gradients(student, 3, inputs)  # type: ignore[arg-type]
    with pytest.raises(NetopsyError, match="expected batches with one tensor of inputs; got others"):
        layer_dynamics(student, teacher, (inputs, inputs, inputs[:, 0]))


def test_what_is_printed() -> None:
    text = str(result())
    assert "gap_separated" in text
    assert "–" in text  # the outputs have no gates that could overlap
    assert result().provenance["examples"] == 50
