"""Kernels against Monte Carlo, gradients against sampling and differences, both ways, the rate of Theorem 4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes

from netopsy._checks import Diverged, NetopsyError
from netopsy._storage import write_state
from netopsy.probes.arc_cosine import angles, gate_kernel, gate_slope, relu_kernel
from netopsy.probes.convergence_rate import convergence_rate, log_sine_rates
from netopsy.probes.student_dynamics import StudentDynamics, student_dynamics
from netopsy.probes.two_layers import (
    Setting,
    TwoLayer,
    close_start,
    expected_gradient,
    expected_loss,
    sampled_gradient,
)
from tests.oracles import two_layers as oracle

THETAS = np.array([0.0, 1e-3, 0.4, np.pi / 2, 2.0, 3.0, np.pi])


@pytest.mark.parametrize("threshold", [0.0, 0.7, -0.5, 1.5])
@pytest.mark.parametrize("theta", [0.0, 0.3, 1.2, 2.2])
def test_kernels_against_monte_carlo(theta: float, threshold: float) -> None:
    mean, error = oracle.kernels(theta, threshold, 200_000, seed=int(10 * theta))
    found = [kernel(np.array(theta), threshold) for kernel in (gate_kernel, relu_kernel)]
    assert (np.abs(found - mean) <= 5 * error + 1e-6).all()


def test_kernels_in_closed_form() -> None:
    """Cho and Saul's J_0 and J_1; independence at a right angle; a threshold near 0 changes little."""
    np.testing.assert_allclose(gate_kernel(THETAS), (np.pi - THETAS) / (2 * np.pi), atol=1e-15)
    order_1 = (np.sin(THETAS) + (np.pi - THETAS) * np.cos(THETAS)) / (2 * np.pi)
    np.testing.assert_allclose(relu_kernel(THETAS), order_1, atol=1e-15)
    np.testing.assert_allclose(gate_kernel(THETAS, 1e-12), gate_kernel(THETAS), atol=1e-11)
    np.testing.assert_allclose(relu_kernel(THETAS, 1e-12), relu_kernel(THETAS), atol=1e-11)
    share = 0.022750131948179195  # Φ(-2)
    assert float(gate_kernel(np.array(np.pi / 2), 2.0)) == pytest.approx(share**2)
    assert float(gate_kernel(np.array(0.0), 2.0)) == pytest.approx(share)
    bell = np.exp(-2) / np.sqrt(2 * np.pi)
    assert float(relu_kernel(np.array(0.0), 2.0)) == pytest.approx(5 * share - 2 * bell)
    assert float(relu_kernel(np.array(np.pi / 2), 2.0)) == pytest.approx((bell - 2 * share) ** 2)


@pytest.mark.parametrize("threshold", [0.0, 0.9, -0.4])
def test_slopes_are_differences_of_the_kernels(threshold: float) -> None:
    theta, step = np.array([0.2, 1.0, 2.5]), 1e-5
    fall = (gate_kernel(theta - step, threshold) - gate_kernel(theta + step, threshold)) / (2 * step)
    np.testing.assert_allclose(gate_slope(theta, threshold), fall, rtol=1e-7)
    up, down = theta - step, theta + step
    price = (relu_kernel(up, threshold) - relu_kernel(down, threshold)) / (np.cos(up) - np.cos(down))
    np.testing.assert_allclose(price, gate_kernel(theta, threshold), rtol=1e-6)


def test_small_angles_keep_their_digits() -> None:
    """An arc cosine of 1 - 5e-21 would be 0."""
    a = np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    found = angles(a, np.array([[1.0, 1e-10], [0.0, 0.0]]))
    assert found[0, 0] == pytest.approx(1e-10, rel=1e-6)
    assert np.pi - found[2, 0] == pytest.approx(1e-10, rel=1e-5)
    assert found[1, 0] == pytest.approx(np.pi / 2)
    assert (found[:, 1] == np.pi / 2).all()  # of zeros
    assert (angles(a, a).diagonal() == 0).all()


def unequal(seed: int = 0) -> tuple[TwoLayer, TwoLayer]:
    """A teacher and a student whose rows have other lengths than one."""
    teacher, student = close_start(inputs=4, teacher=2, outputs=3, factor=2.5, p_w=0.5, p_v=0.3, seed=seed)
    grown = student.fan_in * np.linspace(0.5, 2, len(student.fan_in))[:, None]
    return teacher, TwoLayer(fan_in=grown, fan_out=student.fan_out)


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.8])
def test_a_sampled_gradient_is_that_of_a_loop(threshold: float, project: bool) -> None:
    teacher, student = unequal()
    setting = Setting(threshold=threshold, project=project, scale=2.0)
    noise = np.random.default_rng(0).standard_normal((50, 4))
    found = sampled_gradient(student, teacher, setting, noise)
    w, v = oracle.gradient(
        (student.fan_in, student.fan_out), (teacher.fan_in, teacher.fan_out), 2 * noise, threshold=threshold,
        scale=2.0, project=project,
    )  # fmt: skip
    np.testing.assert_allclose(found.fan_in, w, atol=1e-12)
    np.testing.assert_allclose(found.fan_out, v, atol=1e-12)


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.8])
def test_the_expected_gradient_is_the_mean_of_sampled_ones(threshold: float, project: bool) -> None:
    teacher, student = unequal()
    setting = Setting(threshold=threshold, project=project, scale=2.0)
    exact = expected_gradient(student, teacher, setting)
    rng = np.random.default_rng(1)
    draws = [sampled_gradient(student, teacher, setting, rng.standard_normal((4000, 4))) for _ in range(40)]
    for values, goal in (
        (np.stack([draw.fan_in for draw in draws]), exact.fan_in),
        (np.stack([draw.fan_out for draw in draws]), exact.fan_out),
    ):
        error = values.std(0, ddof=1) / np.sqrt(len(draws))
        assert (np.abs(values.mean(0) - goal) <= 5 * error + 1e-12).all()
    if project:
        np.testing.assert_allclose((exact.fan_in * student.fan_in).sum(1), 0, atol=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 0.8])
def test_the_expected_gradient_is_that_of_the_exact_loss(threshold: float) -> None:
    teacher, student = unequal()
    setting = Setting(threshold=threshold, project=False, scale=1.5)
    exact, step = expected_gradient(student, teacher, setting), 1e-6
    for name in ("fan_in", "fan_out"):
        for place in np.ndindex(getattr(student, name).shape):
            losses = []
            for sign in (1, -1):
                weights = {"fan_in": student.fan_in.copy(), "fan_out": student.fan_out.copy()}
                weights[name][place] += sign * step
                losses.append(expected_loss(TwoLayer(**weights), teacher, setting))
            slope = (losses[0] - losses[1]) / (2 * step)
            assert -slope == pytest.approx(getattr(exact, name)[place], abs=1e-7)


def test_the_motion_is_that_of_the_theorem() -> None:
    """P⊥ (W* H* - W H) with H = VVᵀ ∘ D, unit by unit: with the projection Gaussian inputs separate exactly."""
    teacher, student = unequal()
    moved = expected_gradient(student, teacher, Setting()).fan_in
    w, v, w_star, v_star = student.fan_in, student.fan_out, teacher.fan_in, teacher.fan_out
    for j in range(len(w)):
        total = np.zeros(4)
        for t in range(len(w_star)):
            theta = angles(w[j : j + 1], w_star[t : t + 1])[0, 0]
            total += float(v[j] @ v_star[t]) * (np.pi - theta) / (2 * np.pi) * w_star[t]
        for k in range(len(w)):
            theta = angles(w[j : j + 1], w[k : k + 1])[0, 0]
            total -= float(v[j] @ v[k]) * (np.pi - theta) / (2 * np.pi) * w[k]
        unit = w[j] / np.linalg.norm(w[j])
        np.testing.assert_allclose(moved[j], total - (total @ unit) * unit, atol=1e-12)


def test_one_unit_in_closed_form() -> None:
    """θ' = -sin θ (π - θ) / 2π, so that sin θ falls at the rate cos θ d(θ)."""
    start = 0.6
    ones = np.ones((1, 1))
    teacher = TwoLayer(fan_in=np.array([[1.0, 0.0]]), fan_out=ones)
    student = TwoLayer(fan_in=np.array([[np.cos(start), np.sin(start)]]), fan_out=ones)
    times = [0.0, 0.5, 1.0, 2.0, 4.0]
    found = student_dynamics(teacher, student, times, ways=["ode"], train_top=False)
    steps, theta, expected = 40_000, start, [start]
    for step in range(steps):  # Euler's, of one number
        theta -= 4 / steps * np.sin(theta) * (np.pi - theta) / (2 * np.pi)
        if (step + 1) * 4 / steps in times:
            expected.append(theta)
    np.testing.assert_allclose(found.frame.angle, expected, rtol=1e-4)
    assert log_sine_rates(teacher.fan_in, student.fan_in)[0] == pytest.approx(
        np.cos(start) * (np.pi - start) / (2 * np.pi)
    )


def test_both_ways_side_by_side() -> None:
    """A close start: the near units come to the teacher's, the rest's fan-out falls; norms are conserved."""
    teacher, student = close_start(inputs=6, teacher=3, outputs=4, factor=2, p_w=0.8, p_v=0.8)
    found = student_dynamics(teacher, student, [0, 4, 30], lr=0.02, batch=128)
    frame = found.to_frame().set_index(["way", "time"])
    np.testing.assert_allclose(found.nodes.fan_in_norm, 1, atol=1e-6)
    for way in ("ode", "sgd"):
        part = frame.loc[way]
        assert part.loss[30] < 0.05 * part.loss[0]
        assert part.angle[30] < 0.5 * part.angle[0]
        assert part.fan_out_r[30] < 0.7 * part.fan_out_r[0] < 0.7 * 1.001
        assert part.fan_out_u[30] > part.fan_out_r[30]
        assert part.distance[0] == pytest.approx(np.linalg.norm(student.fan_in[:3] - teacher.fan_in))
        assert len(found.paths[way]) == 3
        np.testing.assert_array_equal(found.paths[way][0].fan_in, student.fan_in)
    for name in ("distance", "fan_out_u", "fan_out_r"):
        np.testing.assert_allclose(frame.loc["sgd"][name], frame.loc["ode"][name], rtol=0.15)
    assert set(found.nodes.set) == {"u", "r"}
    assert found.nodes[found.nodes.set == "r"].angle.isna().all()
    assert isinstance(found.plot(), Axes)
    assert "sgd" in str(found)


def test_sgd_comes_to_the_ode_with_its_step_size() -> None:
    """Batches so large that noise is small: what is left is the step's own error, in proportion to it."""
    teacher, student = close_start(inputs=3, teacher=2, outputs=2, factor=2, p_w=0.5, p_v=0.5)
    exact = student_dynamics(teacher, student, [1.0], ways=["ode"], tolerance=1e-9).paths["ode"][0]
    errors = []
    for lr in (0.25, 0.05):
        near = student_dynamics(teacher, student, [1.0], ways=["sgd"], lr=lr, batch=100_000).paths["sgd"][0]
        errors.append(np.abs(near.fan_in - exact.fan_in).max() + np.abs(near.fan_out - exact.fan_out).max())
    assert errors[1] < 0.45 * errors[0]
    again = student_dynamics(teacher, student, [1.0], ways=["sgd"], lr=0.25, batch=64, seed=3)
    same, other = (student_dynamics(teacher, student, [1.0], ways=["sgd"], lr=0.25, seed=seed) for seed in (3, 4))
    np.testing.assert_array_equal(again.paths["sgd"][0].fan_in, same.paths["sgd"][0].fan_in)
    assert (again.paths["sgd"][0].fan_in != other.paths["sgd"][0].fan_in).any()


def test_a_student_at_its_teacher_stays() -> None:
    teacher, student = close_start(inputs=4, teacher=3, outputs=2, factor=1, p_w=1.0, p_v=1.0)
    np.testing.assert_allclose(student.fan_in, teacher.fan_in, atol=1e-15)
    found = student_dynamics(teacher, student, [0.0, 1.0])
    np.testing.assert_allclose(found.frame.loss, 0, atol=1e-12)
    np.testing.assert_allclose(found.frame.distance, 0, atol=1e-6)
    assert found.frame.fan_out_r.isna().all()
    assert np.isnan(log_sine_rates(teacher.fan_in, student.fan_in)).all()


def cone(rng: np.random.Generator, m: int, inputs: int, theta_0: float) -> tuple[np.ndarray, np.ndarray]:
    """Orthogonal teachers, and students within θ_0, of which the first is at θ_0."""
    teacher = np.linalg.qr(rng.standard_normal((inputs, inputs)))[0][:m]
    aside = rng.standard_normal((m, inputs))
    aside -= (aside * teacher).sum(1, keepdims=True) * teacher
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    theta = theta_0 * np.array([1, *rng.random(m - 1)])[:, None]
    return teacher, np.cos(theta) * teacher + np.sin(theta) * aside


@pytest.mark.parametrize(
    ("m", "inputs", "threshold", "theta_0"), [(2, 4, 0.0, 0.1), (3, 3, 2.0, 0.1), (5, 8, 2.5, 0.05), (8, 9, 3.0, 0.1)]
)
def test_theorem_4_holds_inside_its_condition(m: int, inputs: int, threshold: float, theta_0: float) -> None:
    rng = np.random.default_rng(m)
    for _ in range(30):
        teacher, student = cone(rng, m, inputs, theta_0)
        stated = convergence_rate(teacher, theta_0, threshold=threshold)
        assert stated.holds
        assert stated.gamma == pytest.approx(np.cos(theta_0) - (m - 1) * stated.epsilon_d * stated.m_d)
        assert log_sine_rates(teacher, student, threshold=threshold)[0] >= stated.rate > 0


def test_the_stated_rate_rises_towards_the_teacher_and_needs_biases() -> None:
    rates = [convergence_rate(np.eye(5), angle, threshold=3.0).rate for angle in (0.2, 0.1, 0.05, 0.0)]
    assert rates == sorted(rates)
    assert convergence_rate(np.eye(2), 0.0).epsilon_d == 0.5
    assert not convergence_rate(np.eye(3), 0.0).holds
    assert convergence_rate(np.eye(3), 0.0, threshold=2.0).holds


def test_theorem_4_along_its_way() -> None:
    """The largest angle falls at the stated rate at least, faster as it nears 0."""
    rng = np.random.default_rng(0)
    teacher, student = cone(rng, 3, 5, 0.1)
    goal, start = (TwoLayer(fan_in=net, fan_out=np.ones((3, 1))) for net in (teacher, student))
    times = np.linspace(0, 200, 9)
    found = student_dynamics(
        goal, start, times.tolist(), ways=["ode"], train_top=False, threshold=2.0, tolerance=1e-9
    )
    falling = -np.diff(np.log(np.sin(found.frame.angle))) / np.diff(times)
    assert (falling >= convergence_rate(teacher, 0.1, threshold=2.0).rate).all()
    assert falling[-1] > falling[0]


def test_close_starts_differ_in_what_they_say_alone() -> None:
    far, near = (close_start(inputs=5, teacher=4, outputs=3, factor=2, p_w=p, p_v=1 - p) for p in (0.0, 1.0))
    for a, b in zip(far, near, strict=True):
        for net in (a, b):
            np.testing.assert_allclose(np.linalg.norm(net.fan_in, axis=1), 1)
            np.testing.assert_allclose(np.linalg.norm(net.fan_out, axis=0), 1)
    np.testing.assert_array_equal(far[0].fan_in, near[0].fan_in)
    np.testing.assert_array_equal(far[1].fan_in[4:], near[1].fan_in[4:])
    np.testing.assert_allclose(near[1].fan_in[:4], near[0].fan_in)
    assert near[1].fan_in.shape == (8, 5)
    assert near[1].fan_out.shape == (8, 3)
    other = close_start(inputs=5, teacher=4, outputs=3, factor=2, seed=1)
    assert (other[0].fan_in != far[0].fan_in).all()


@pytest.mark.parametrize("p", [0.3, 1.0])
def test_columns_of_the_whole_fan_out_are_normalized_together(p: float) -> None:
    """Column by column by hand, of the noise that p = 0 leaves alone; V_u is then longer than V_r, as in Figure 7."""
    (teacher, noise), (_, student) = (
        close_start(inputs=5, teacher=40, outputs=6, factor=4, p_v=share) for share in (0.0, p)
    )
    for column in range(6):
        mixed = noise.fan_out[:, column].copy()
        for unit in range(40):
            mixed[unit] = p * teacher.fan_out[unit, column] + (1 - p) * mixed[unit]
        np.testing.assert_allclose(student.fan_out[:, column], mixed / np.sqrt((mixed**2).sum()), atol=1e-15)
    near, rest = (np.linalg.norm(rows, axis=1).mean() for rows in (student.fan_out[:40], student.fan_out[40:]))
    assert near > 1.5 * rest if p == 1 else near > 0.5 * rest


def test_a_close_start_of_two_units_in_closed_form() -> None:
    """V* = ±1; at p_v = 1 the column (V*, n) of length √(1 + n²), where (m, n) is the noise of length one."""
    (teacher, noise), (_, student) = (
        close_start(inputs=2, teacher=1, outputs=1, factor=2, p_v=share) for share in (0.0, 1.0)
    )
    sign, n = float(teacher.fan_out[0, 0]), float(noise.fan_out[1, 0])
    assert abs(sign) == 1
    expected = np.array([[sign], [n]]) / np.sqrt(1 + n**2)
    np.testing.assert_allclose(student.fan_out, expected, atol=1e-15)


def test_results_are_saved_and_printed(tmp_path: Path) -> None:
    teacher, student = close_start(inputs=3, teacher=2, outputs=2, factor=2, p_w=0.5, p_v=0.5)
    single = TwoLayer(fan_in=student.fan_in.astype(np.float32), fan_out=student.fan_out.astype(np.float32))
    found = student_dynamics(teacher, single, np.linspace(0, 1, 30).tolist(), lr=0.05, threshold=0.5)
    again = StudentDynamics.load(found.save(tmp_path / "found"))
    pd.testing.assert_frame_equal(again.to_frame(), found.to_frame(), check_exact=True)
    pd.testing.assert_frame_equal(again.nodes, found.nodes, check_exact=True)
    assert again.provenance == found.provenance
    assert list(again.paths) == ["ode", "sgd"]
    for way, path in found.paths.items():
        for mine, theirs in zip(again.paths[way], path, strict=True):
            for name in ("fan_in", "fan_out"):
                a, b = getattr(mine, name), getattr(theirs, name)
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
    text = str(again)
    assert len(text.splitlines()) == 1 + 2 * 12 + 1
    assert text.splitlines()[-1].startswith("4 units learn from 2; 12 of 30 times. Angles in radians")
    assert isinstance(again.plot(way="sgd"), Axes)
    short = str(student_dynamics(teacher, student, [0.0], ways=["ode"]))
    assert short.splitlines()[-1].startswith("4 units learn from 2. Angles")
    with pytest.raises(NetopsyError, match="it exists and is not empty"):
        found.save(tmp_path / "found")
    write_state(tmp_path / "found" / "weights.safetensors", {"ode.0.fan_in": torch.zeros(4, 3)})
    with pytest.raises(NetopsyError, match=r"expected the weights of 60 students in weights.* it has 1 matrices"):
        StudentDynamics.load(tmp_path / "found")
    with pytest.raises(NetopsyError, match="expected a saved StudentDynamics; it has no times"):
        StudentDynamics.load(tmp_path)


@pytest.mark.usefixtures("unchecked")
def test_refusals() -> None:
    teacher, student = close_start(inputs=4, teacher=3, outputs=2, factor=2)
    with pytest.raises(NetopsyError, match=r"student: expected at least the teacher's 6 units, .* got 3, 4 and 2"):
        student_dynamics(student, teacher, [0.0, 1.0])
    for times in ([], [1.0, 1.0], [0.0, np.inf]):
        with pytest.raises(NetopsyError, match="times: expected ascending numbers; got"):
            student_dynamics(teacher, student, times)
    with pytest.raises(NetopsyError, match=r"times: expected a number in \[0, inf\]; got -1"):
        student_dynamics(teacher, student, [-1.0, 1.0])
    with pytest.raises(NetopsyError, match="ways: expected one of 'ode', 'sgd'; got 'adam'"):
        student_dynamics(teacher, student, [1.0], ways=["adam"])  # type: ignore[list-item]
    with pytest.raises(NetopsyError, match="ways: expected 'ode', 'sgd' or both; got none"):
        student_dynamics(teacher, student, [1.0], ways=[])
    with pytest.raises(Diverged, match=r"lr=50: SGD diverged before time .*; choose a smaller learning rate"):
        student_dynamics(teacher, student, [50_000.0], ways=["sgd"], lr=50.0)
    with pytest.raises(NetopsyError, match=r"expected shapes \(units, inputs\) .* got \(3, 2\) and \(4, 2\)"):
        TwoLayer(fan_in=np.ones((3, 2)), fan_out=np.ones((4, 2)))
    with pytest.raises(NetopsyError, match="expected finite weights; got NaN or infinite ones"):
        TwoLayer(fan_in=np.full((3, 2), np.nan), fan_out=np.ones((3, 2)))
    with pytest.raises(NetopsyError, match=r"theta_0: expected a number in \[0, 1.5708\); got 2"):
        convergence_rate(np.eye(3), 2.0)
    with pytest.raises(NetopsyError, match="teacher: expected at least two units, which may overlap; got 1"):
        convergence_rate(np.eye(3)[:1], 0.1)
    with pytest.raises(NetopsyError, match=r"p_w: expected a number in \[0, 1\]; got 2"):
        close_start(inputs=4, teacher=3, outputs=2, p_w=2.0)
    with pytest.raises(NetopsyError, match=r"scale: expected a number in \(0, inf\); got 0"):
        student_dynamics(teacher, student, [1.0], scale=0.0)
