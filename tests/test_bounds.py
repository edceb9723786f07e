"""PAC-Bayes and deterministic bounds: against their definitions in 50 digits, and where the true error is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binom, norm
from torch import nn

from netopsy._checks import NetopsyError
from netopsy.probes.bounds import pac_bayes_bound
from netopsy.probes.deterministic_bound import deterministic_bound
from netopsy.probes.kl import kl, kl_inverse
from tests.oracles import bounds as oracle

ROWS = [(0.5, 0.05, 3.0, 200), (0.0, 0.3, 7.0, 1000), (1.0, 1.0, 0.0, 17), (0.07, 0.011, 12.5, 200_704)]
MODULES = {
    "site": ["a", "b", "c", "d"],
    "alpha": [row[0] for row in ROWS],
    "sigma": [row[1] for row in ROWS],
    "distance": [row[2] for row in ROWS],
    "parameters": [row[3] for row in ROWS],
}
OPTIONS: dict[str, Any] = {"m": 60_000, "train_error": 0.08, "delta": 0.05}

CHAIN = {
    "site": ["conv1", "conv2", "head"],
    "alpha": [1.0, 1.0, 1.0],
    "distance": [1.0, 2.0, 0.5],
    "parameters": [72, 576, 80],
    "spectral": [2.0, 1.5, 0.9],
    "kernel": [3, 3, 1],
    "channels": [8, 8, 10],
    "spectral_final": [2.0, 1.5, 0.9],
    "spectral_change": [0.0, 0.0, 0.0],
}
ASKED: dict[str, Any] = {"m": 1000, "margin": 1.0, "margin_error": 0.1, "radius": 5.0, "size": 8}


@pytest.mark.parametrize("m", [50, 60_000])
def test_every_term_is_that_of_the_derivation(m: int) -> None:
    terms = oracle.terms(ROWS, m, 0.05)
    valid, tight = (pac_bayes_bound(MODULES, **{**OPTIONS, "m": m}, form=form) for form in ("valid", "kl"))
    assert valid.modules["index"].tolist() == terms["index"]
    for name, factor in {"kl": 1.0, "union": 0.5}.items():
        assert valid.modules[name].tolist() == pytest.approx([factor * float(x) for x in terms[name]], rel=1e-10)
    assert valid.modules.movement.tolist() == pytest.approx([2 * float(x) for x in terms["best_kl"]], rel=1e-10)
    assert valid.movement == pytest.approx(float(sum(terms["best_kl"])) / 2)
    assert (valid.covering, tight.covering) == (1.0, 0.0)
    assert tight.failure == 2 * valid.failure == pytest.approx(float(terms["failure"]))
    assert tight.union == 2 * valid.union == pytest.approx(float(sum(terms["union"])))
    assert tight.movement == pytest.approx(float(sum(terms["kl"])), rel=1e-10)


def test_the_three_forms_against_50_digits() -> None:
    values = {form: pac_bayes_bound(MODULES, **OPTIONS, form=form) for form in ("valid", "paper", "kl")}
    rates = {form: getattr(oracle, f"{form}_rate")(ROWS, 60_000, 0.05) for form in values}
    for form, bound in values.items():
        assert bound.rate == pytest.approx(float(rates[form]), rel=1e-10)
        assert bound.confidence == 0.95
    assert values["valid"].value == pytest.approx(0.08 + math.sqrt(float(rates["valid"])), rel=1e-10)
    assert values["paper"].value == pytest.approx(0.08 + math.sqrt(float(rates["paper"])), rel=1e-10)
    assert values["kl"].value == pytest.approx(float(oracle.kl_inverse(0.08, rates["kl"])), rel=1e-10)
    assert values["kl"].value < values["valid"].value


def test_the_kl_is_that_of_torch() -> None:
    """All weights of the posterior and the prior one by one."""
    bound = pac_bayes_bound({"alpha": [0.4], "sigma": [0.1], "distance": [2.0], "parameters": [50]}, **OPTIONS)
    start = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved *= 0.4 * 2.0 / moved.norm()
    posterior = torch.distributions.Normal(start + moved, 0.1)
    prior = torch.distributions.Normal(start, float(bound.modules.prior_sigma[0]))
    assert float(torch.distributions.kl_divergence(posterior, prior).sum()) == pytest.approx(bound.modules.kl[0])


def test_the_prior_is_on_the_grid_and_not_below_the_best() -> None:
    table = pac_bayes_bound(MODULES, **OPTIONS).modules
    best = table.sigma**2 + (table.alpha * table.distance) ** 2 / table.parameters
    ratio = np.log(table.prior_sigma**2 / best)
    assert ((ratio > -1e-9) & (ratio <= 1 / table.parameters + 1e-9)).all()
    place = (np.log(table.prior_sigma**2) - 1) * table.parameters
    assert (4 * 60_000 - place).tolist() == pytest.approx(table["index"].tolist(), abs=1e-4)
    assert (table.kl <= (1 + table.movement) / 2).all()
    assert (table.kl >= table.movement / 2).all()


def test_the_printed_constant_is_too_small_for_one_module_of_the_paper() -> None:
    one = {"alpha": [1.0], "sigma": [0.05], "distance": [10.0], "parameters": [200_704]}
    valid, paper = (pac_bayes_bound(one, **OPTIONS, form=form) for form in ("valid", "paper"))
    assert valid.covering + valid.union == pytest.approx(14.8, abs=0.1)
    assert paper.union == pytest.approx(12.9, abs=0.1)


def test_many_modules_break_the_printed_form() -> None:
    many = {name: column * 50 for name, column in {"alpha": [0.0], "sigma": [0.05], "distance": [1.0]}.items()}
    valid, paper = (
        pac_bayes_bound({**many, "parameters": [200_704] * 50}, **OPTIONS, form=form) for form in ("valid", "paper")
    )
    assert paper.value < valid.value


def test_where_the_grid_ends_the_bound_says_nothing() -> None:
    far = {"alpha": [1.0], "sigma": [1.0], "distance": [1e6], "parameters": [3]}
    for form in ("valid", "kl"):
        bound = pac_bayes_bound(far, m=2, train_error=0.0, form=form)
        assert bound.modules["index"].tolist() == [1]
        assert bound.value > 1 - 1e-6
    assert pac_bayes_bound(far, m=2, train_error=0.0).vacuous
    far = {"alpha": [1.0], "sigma": [1.0], "distance": [1e150], "parameters": [3]}
    assert pac_bayes_bound(far, m=100, train_error=0.0).value > 1


def test_more_examples_and_less_movement_shrink_it() -> None:
    for form in ("valid", "paper", "kl"):
        values = [pac_bayes_bound(MODULES, **{**OPTIONS, "m": m}, form=form).value for m in (10**4, 10**5, 10**7)]
        assert values[0] > values[1] > values[2] > 0.08
        for name, better in {"alpha": [0.25, 0, 1, 0.03], "sigma": [0.1, 0.4, 1, 0.02]}.items():
            assert pac_bayes_bound({**MODULES, name: better}, **OPTIONS, form=form).value < (
                pac_bayes_bound(MODULES, **OPTIONS, form=form).value
            )


def test_draws_of_the_noise_cost_their_interval() -> None:
    exact = pac_bayes_bound(MODULES, **OPTIONS)
    drawn = pac_bayes_bound(MODULES, **OPTIONS, draws=100, delta_draws=0.02)
    assert drawn.confidence == pytest.approx(0.93)
    assert kl(0.08, drawn.train_error_high) == pytest.approx(math.log(100) / 100)
    assert drawn.value - exact.value == pytest.approx(drawn.train_error_high - 0.08)
    assert (exact.train_error_high, exact.complexity) == (0.08, drawn.complexity)
    nearly = pac_bayes_bound(MODULES, **OPTIONS, draws=10**9)
    assert nearly.value == pytest.approx(exact.value, abs=1e-3)


def test_a_frame_of_criticality_is_read() -> None:
    frame = pd.DataFrame(MODULES).assign(epsilon=0.1, mu=1.0, error=0.1, status="feasible")
    frame = frame.astype({"parameters": "Int64", "site": "string", "alpha": "Float64"})
    assert pac_bayes_bound(frame, **OPTIONS).value == pac_bayes_bound(MODULES, **OPTIONS).value
    assert frame.columns.tolist()[-1] == "status"
    assert "form 'valid', m = 60000" in str(pac_bayes_bound(frame, **OPTIONS))


@pytest.mark.parametrize(("q", "c"), [(0.0, 0.1), (0.08, 1e-4), (0.5, 0.3), (0.9, 5.0), (0.2, 1e-12)])
def test_the_inverse_of_kl(q: float, c: float) -> None:
    p = kl_inverse(q, c)
    assert p == pytest.approx(float(oracle.kl_inverse(q, oracle.Decimal(c))), rel=1e-9)
    assert q < p <= q + math.sqrt(c / 2)
    assert kl_inverse(q, 0) == q
    assert kl_inverse(1, c) == 1
    assert kl_inverse(0, c) == pytest.approx(-math.expm1(-c))
    assert kl(q, q) == 0
    assert kl(0.5, 1) == kl(0.5, 0) == math.inf


def test_the_upper_limit_from_draws_covers() -> None:
    """Exactly: over all numbers of heads in n tosses."""
    n, delta = 20, 0.05
    for true in (0.02, 0.1, 0.5, 0.93):
        heads = np.arange(n + 1)
        covered = np.array([kl_inverse(h / n, math.log(2 / delta) / n) >= true for h in heads])
        assert binom.pmf(heads, n, true)[~covered].sum() <= delta


@pytest.mark.parametrize("form", ["valid", "kl"])
def test_coverage_where_the_true_error_is_known(form: Any) -> None:
    """A linear classifier of two Gaussians N(±μ, I); α and σ chosen to make the bound smallest, as a user would.

    The training error under noise is E_U L_S = mean of Φ(-y w·x/(σ‖x‖)), exactly; the true one the mean over draws
    of U of Φ(-(w + U)·μ/‖w + U‖).
    """
    source = np.random.default_rng(0)
    inputs, m, repeats, delta = 5, 100, 24, 0.05
    center = np.full(inputs, 0.5)
    unit = source.standard_normal((2000, inputs))
    start = source.standard_normal(inputs) * 0.3
    failed, informative, gaps = 0, 0, []
    for _ in range(repeats):
        y = source.choice([-1.0, 1.0], m)
        x = y[:, None] * center + source.standard_normal((m, inputs))
        w = start + (3 * (y[:, None] * x).mean(0) - start)
        best, at = math.inf, (0.0, 0.0)
        for alpha in (0.0, 0.5):
            for sigma in (0.5, 1.0):
                mean = start + alpha * (w - start)
                seen = norm.cdf(-y * (x @ mean) / (sigma * np.linalg.norm(x, axis=1))).mean()
                row = {"alpha": [alpha], "sigma": [sigma], "distance": [float(np.linalg.norm(w - start))]}
                bound = pac_bayes_bound(
                    {**row, "parameters": [inputs]}, m=m, train_error=float(seen), delta=delta, form=form
                )
                if bound.value < best:
                    best, at = bound.value, (alpha, sigma)
        noisy = start + at[0] * (w - start) + at[1] * unit
        true = norm.cdf(-(noisy @ center) / np.linalg.norm(noisy, axis=1)).mean()
        failed += best < true
        informative += best < 1
        gaps.append(best - true)
    assert failed <= binom.ppf(0.999, repeats, delta)
    assert informative == repeats
    assert np.mean(gaps) < 0.5  # a bound that always holds because it is huge would tell nothing


def test_the_deterministic_bound_against_50_digits() -> None:
    bound = deterministic_bound(CHAIN, **ASKED)
    depth, sigma = 3, []
    for i, (own, q, c) in enumerate(zip(CHAIN["spectral"], CHAIN["kernel"], CHAIN["channels"], strict=True)):
        others = math.prod(other for j, other in enumerate(CHAIN["spectral"]) if j != i)
        root = math.sqrt(c * math.log(4 * depth * 8**2))
        eq10 = 1.0 / (32 * math.e * depth * 5.0 * q * root * others)
        sigma.append(min(eq10, own / (4 * depth * q * root), 1))
    assert np.exp(bound.modules.log_sigma).tolist() == pytest.approx(sigma)
    rows = list(zip(CHAIN["alpha"], sigma, CHAIN["distance"], CHAIN["parameters"], strict=True))
    rate = oracle.deterministic_rate(rows, 1000, 0.05)
    assert bound.value == pytest.approx(0.1 + math.sqrt(float(rate)), rel=1e-9)
    total = bound.movement + bound.covering + bound.failure + bound.union
    assert total / 999 == pytest.approx(float(rate), rel=1e-9)
    assert bound.modules.limit.tolist() == ["margin"] * 3
    assert bound.vacuous == (bound.value >= 1)
    assert "premise certified" in str(bound)


def test_the_deterministic_bound_shrinks_with_m_and_grows_with_norms() -> None:
    values = [deterministic_bound(CHAIN, **{**ASKED, "m": m}).value for m in (10**3, 10**5, 10**7, 10**9)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.11
    larger = {**CHAIN, "spectral": [4.0, 1.5, 0.9]}
    assert deterministic_bound(larger, **ASKED).value > deterministic_bound(CHAIN, **ASKED).value


def test_a_wide_margin_is_limited_by_the_lemma_or_by_one() -> None:
    wide = deterministic_bound(CHAIN, **{**ASKED, "margin": 1e6})
    assert wide.modules.limit.tolist() == ["B.3"] * 3
    large = {**CHAIN, "spectral": [1e5, 1e5, 1e5]}
    assert deterministic_bound(large, **{**ASKED, "margin": 1e30}).modules.limit.tolist() == ["one"] * 3


def test_products_of_norms_that_overflow() -> None:
    deep = {
        "alpha": [1.0] * 400,
        "distance": [1.0] * 400,
        "parameters": [100] * 400,
        "spectral": [10.0] * 400,
        "kernel": [3] * 400,
        "channels": [3] * 400,
    }
    bound = deterministic_bound(deep, **ASKED)
    assert math.isfinite(bound.value)
    assert bound.modules.log_sigma.max() < -900
    assert (bound.status, math.isnan(bound.change)) == ("unverified", True)


def test_the_premise_is_certified_by_lipschitz_constants() -> None:
    """Against the function itself: a linear chain whose change is reached by the worst input."""
    first, second, moved = (torch.eye(2) * value for value in (2.0, 1.5, 1.4))
    x = torch.tensor([5.0, 0.0])
    change = float((second @ first @ x - moved @ first @ x).norm())
    chain = {
        "alpha": [1.0, 0.9],
        "distance": [1.0, 1.0],
        "parameters": [4, 4],
        "spectral": [2.0, 1.4],
        "kernel": [1, 1],
        "channels": [2, 2],
        "spectral_final": [2.0, 1.5],
        "spectral_change": [0.0, 0.1],
    }
    asked = {**ASKED, "size": 2}
    bound = deterministic_bound(chain, **{**asked, "margin": 8.1})
    assert bound.change == pytest.approx(change) == pytest.approx(1.0)
    assert bound.status == "certified"
    assert deterministic_bound(chain, **{**asked, "margin": 7.9}).status == "unverified"
    first_moved = {**chain, "spectral": [1.9, 1.4], "spectral_change": [0.1, 0.1]}
    assert deterministic_bound(first_moved, **asked).change == pytest.approx(5 * (0.1 * 1.5 + 1.9 * 0.1))


def test_the_noise_of_the_deterministic_bound_keeps_the_outputs() -> None:
    """With at least even chance, noise at its σ moves no output by more than γ/8: a bias-free convolutional chain."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular", bias=False),
        nn.ReLU(),
        nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular", bias=False),
    )
    x = torch.randn(50, 1, 6, 6)
    x *= 5.0 / x.flatten(1).norm(dim=1)[:, None, None, None]
    kernels = [model[0].weight.detach(), model[2].weight.detach()]
    spectra = [torch.fft.fft2(kernel, (6, 6)).permute(2, 3, 0, 1) for kernel in kernels]
    spectral = [float(torch.linalg.matrix_norm(spectrum, 2).max()) for spectrum in spectra]
    chain = {
        "alpha": [1.0, 1.0],
        "distance": [1.0, 1.0],
        "parameters": [36, 72],
        "spectral": spectral,
        "kernel": [3, 3],
        "channels": [4, 4],
    }
    bound = deterministic_bound(chain, **{**ASKED, "size": 6})
    before = model(x)
    kept = 0
    for seed in range(20):
        values = {}
        for name, log_sigma in zip(("0.weight", "2.weight"), bound.modules.log_sigma, strict=True):
            noise = torch.randn(model.get_parameter(name).shape, generator=torch.Generator().manual_seed(seed))
            values[name] = model.get_parameter(name) + math.exp(log_sigma) * noise
        change = (torch.func.functional_call(model, values, (x,)) - before).flatten(1).norm(dim=1).max()
        kept += float(change.detach()) <= 1 / 8
    assert kept >= 10


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("modules", "options", "match"),
    [
        ({"sigma": [0.1, 0.1, 0.0, 0.1]}, {}, r"sigma: expected numbers in \(0, 1\]; got c \(0\)"),
        ({"alpha": [0.1, None, 0.2, 3.0]}, {}, r"alpha: .* b \(nan\), d \(3\); an infeasible module has no bound"),
        ({"distance": [0.1]}, {}, "expected columns of one length, 4; 'distance' has 1"),
        ({"site": ["a", "a", "b", "c"]}, {}, "expected one row a site.*one epsilon"),
        ({"parameters": [], "site": []}, {}, "expected at least one row; got none"),
        ({"parameters": [0, 1, 1, 1]}, {}, r"parameters: expected numbers in \[1, inf\); got a \(0\)"),
        ({}, {"form": "printed"}, "form: expected one of 'valid', 'kl', 'paper'"),
        ({}, {"m": 1}, "m: expected an integer >= 2"),
        ({}, {"delta": 0.0}, r"delta: expected a number in \(0, 1\)"),
        ({}, {"train_error": 1.2}, r"train_error: expected a number in \[0, 1\]"),
        ({}, {"draws": 0}, "draws: expected an integer >= 1"),
        ({}, {"draws": 5, "delta_draws": 1.0}, r"delta_draws: expected a number in \(0, 1\)"),
        ({"distance": [1e3, 1e200, 0, 0], "alpha": [1, 1, 0, 0]}, {"m": 2, "form": "paper"}, "use form='valid'"),
    ],
)
def test_bad_input_of_pac_bayes(modules: dict[str, Any], options: dict[str, Any], match: str) -> None:
    with pytest.raises(NetopsyError, match=match):
        pac_bayes_bound({**MODULES, **modules}, **{**OPTIONS, **options})


def test_a_missing_column_is_named() -> None:
    for name in ("alpha", "sigma", "parameters"):
        with pytest.raises(NetopsyError, match=f"expected a column '{name}'; got site"):
            pac_bayes_bound({key: value for key, value in MODULES.items() if key != name}, **OPTIONS)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("modules", "options", "match"),
    [
        ({"spectral": [0.0, 1, 1]}, {}, r"spectral: expected numbers in \(0, inf\)"),
        ({"kernel": [0, 1, 1]}, {}, r"kernel: expected numbers in \[1, inf\)"),
        ({}, {"margin": 0.0}, r"margin: expected a number in \(0, inf\)"),
        ({}, {"radius": math.nan}, r"radius: expected a number in \(0, inf\)"),
        ({}, {"margin_error": -1.0}, r"margin_error: expected a number in \[0, 1\]"),
        ({}, {"size": 1}, "size: expected an integer >= 2"),
    ],
)
def test_bad_input_of_the_deterministic_bound(modules: dict[str, Any], options: dict[str, Any], match: str) -> None:
    with pytest.raises(NetopsyError, match=match):
        deterministic_bound({**CHAIN, **modules}, **{**ASKED, **options})
