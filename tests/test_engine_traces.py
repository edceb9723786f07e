"""No trace is left on the model or the process, after success and after an exception anywhere."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine.calibrate import recompute_statistics
from netopsy.engine.edits import AddNoise, Bypass, Edit, Mask, Variant, edit_site
from netopsy.engine.evaluate import evaluate
from netopsy.network.addresses import Address
from netopsy.network.sites import find_sites
from tests import zoo

ENGINES = ["exported", "eager"]
NAMES = [(name, engine) for name in zoo.MODELS for engine in ENGINES if name not in zoo.EAGER]
NAMES += [(name, "auto") for name in zoo.EAGER]


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that somebody might see, tensors as objects and as bytes."""
    seen: dict[str, Any] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for own in ("_parameters", "_buffers", "_modules"):
            seen[f"{name} {own}"] = [(key, id(value)) for key, value in getattr(module, own).items()]
        for own, value in module.__dict__.items():
            if own.endswith("_hooks") or "hooks_" in own:
                seen[f"{name} {own}"] = dict(value)
            elif not own.startswith("_"):
                seen[f"{name} {own}"] = value if isinstance(value, bool | int | float | str) else id(value)
        if isinstance(module, nn.RNNBase):
            seen[f"{name} flat"] = [id(value) for value in module._flat_weights]
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        bits = value.detach().clone().reshape(-1).view(torch.uint8).tolist()
        grad = None if value.grad is None else value.grad.tolist()
        seen[f"value of {name}"] = (type(value), value.requires_grad, value.is_leaf, value.data_ptr(), bits, grad)
    seen["use_cache"] = getattr(getattr(model, "config", None), "use_cache", None)
    return seen


def process() -> list[Any]:
    """The process's random generators and switches, but for `random`, from which the type checker draws too."""
    legacy = np.random.get_state()  # noqa: NPY002
    assert isinstance(legacy, tuple)
    switches = [torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_inference_mode_enabled()]
    return [torch.get_rng_state().tolist(), legacy[0], legacy[1].tolist(), *legacy[2:], *switches]


def stir_modes(model: nn.Module) -> None:
    """Mixed training flags, some gradients, some frozen parameters."""
    for i, module in enumerate(model.modules()):
        module.training = i % 3 == 1
    for i, value in enumerate(model.parameters()):
        if value.is_leaf:
            value.requires_grad_(i % 2 == 0)
            value.grad = torch.ones_like(value) if i % 4 == 0 else None


class Stop(Exception):
    pass


def loud_metric(logits: Tensor, targets: Tensor) -> Tensor:
    loud_metric.calls += 1  # type: ignore[attr-defined]
    if loud_metric.calls > 4:  # type: ignore[attr-defined]
        raise Stop
    return targets.float()


def loud_rule(value: Tensor, address: Address) -> Tensor:
    raise Stop


def interrupt(done: int, total: int | None) -> None:
    if done > 8:
        raise KeyboardInterrupt


def loud_later(value: Tensor, address: Address) -> Tensor:
    """A rule for activations that fails at the second batch."""
    if len(value) == 5:
        raise Stop
    return 2 * value


Failure = tuple[type[BaseException] | None, Callable[[nn.Module], tuple[list[Variant], dict[str, Any]]]]


def quiet(model: nn.Module) -> list[Variant]:
    sites = find_sites(zoo.build("mlp") if isinstance(model, torch.jit.ScriptModule) else model)
    return [edit_site(str(site), site, AddNoise(0.3, 1)) for site in sites]


def output_of(model: nn.Module) -> Address:
    return Address("output", next(n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)))


FAILURES: dict[str, Failure] = {
    "none": (None, lambda model: (quiet(model), {})),
    "metric": (Stop, lambda model: (quiet(model), {"metrics": ("error", loud_metric)})),
    "rule": (Stop, lambda model: ([*quiet(model), edit_site("loud", find_sites(model)[0], loud_rule)], {})),
    "interrupt": (KeyboardInterrupt, lambda model: (quiet(model), {"progress": interrupt})),
    "activation": (Stop, lambda model: ([Variant("v", (Edit(output_of(model), loud_later),))], {})),
    "mask": (NetopsyError, lambda model: ([Variant("v", (Edit(output_of(model), Mask((99,))),))], {})),
    "bypass": (
        NetopsyError,
        lambda model: ([Variant("v", (Edit(output_of(model), Mask((0,))), Bypass("nope")))], {}),
    ),
}


@pytest.fixture(autouse=True)
def _quiet_metric() -> None:
    loud_metric.calls = 0  # type: ignore[attr-defined]


def run(name: str, engine: str, failure: str) -> None:
    case = zoo.case(name)
    model = case.model
    stir_modes(model)
    before, around = snapshot(model), process()
    expected, make = FAILURES[failure]
    variants, options = make(model)
    try:
        evaluate(model, case.data, variants, task=case.task, engine=engine, batch_size=8, **options)  # type: ignore[arg-type]
        raised: type[BaseException] | None = None
    except BaseException as error:
        raised = type(error)
    finally:
        after, then = snapshot(model), process()
        model.eval()
    assert raised is expected
    assert after.keys() == before.keys()
    assert {key for key in before if before[key] != after[key]} == set()
    assert then == around


@pytest.mark.parametrize(("name", "engine"), NAMES)
def test_success_leaves_no_trace(name: str, engine: str) -> None:
    run(name, engine, "none")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["mlp", "inplace", "registered"])
@pytest.mark.parametrize("failure", [name for name in FAILURES if name != "none"])
def test_failure_leaves_no_trace(name: str, engine: str, failure: str) -> None:
    run(name, engine, failure)


@pytest.mark.parametrize("name", ["gpt2", "lstm", "branch", "scripted"])
def test_an_interrupt_leaves_no_trace_on_other_models(name: str) -> None:
    run(name, "eager", "interrupt")


def test_a_failing_model_leaves_no_trace() -> None:
    class Brittle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bn = nn.Linear(6, zoo.CLASSES), nn.BatchNorm1d(zoo.CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] == 5:
                raise Stop
            return self.bn(self.a(x))

    model = Brittle()
    stir_modes(model)
    data = zoo.case("mlp").data
    before, around = snapshot(model), process()
    with pytest.raises(Stop):
        evaluate(model, data, quiet(model), engine="eager", batch_size=8)
    assert (snapshot(model), process()) == (before, around)


def test_a_model_that_draws_is_refused_without_a_trace() -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, zoo.CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            np.random.rand()  # noqa: NPY002
            random.random()
            return self.a(x) + torch.rand(1)

    model = Random()
    before, around = snapshot(model), process()
    with pytest.raises(
        NetopsyError, match="Random is not deterministic in eval mode: two passes over one batch differ"
    ):
        evaluate(model, zoo.case("mlp").data, quiet(model))
    assert (snapshot(model), process()) == (before, around)


class Forgetful(nn.Module):
    """Keeps things on itself in the forward pass, a value made of its weights among them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.calls = nn.Linear(6, zoo.CLASSES), 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += x.shape[0]
        self.last = x
        if not hasattr(self, "doubled"):
            self.doubled = 2 * self.a.weight
        return x @ self.doubled.T + self.a.bias


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_forward_pass_keeps_is_neither_left_nor_used_by_the_next(engine: str) -> None:
    model, (x, y) = Forgetful(), zoo.case("mlp").data
    variants = [edit_site(str(seed), find_sites(model)[0], AddNoise(0.5, seed)) for seed in (1, 2)]
    before = snapshot(model)
    found = evaluate(model, (x, y), variants, engine=engine, batch_size=8)  # type: ignore[arg-type]
    assert snapshot(model) == before
    for i, variant in enumerate(variants):
        w, b = (e.rule(model.get_parameter(e.address.name).detach(), e.address) for e in variant.edits)  # type: ignore[union-attr]
        expected = nn.functional.cross_entropy(2 * x @ w.T + b, y).item()
        assert found.metrics["loss"][i] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_embedding_that_is_renormalized_in_place_is_not_written_to(engine: str) -> None:
    model = nn.Sequential(nn.Embedding(20, 4, max_norm=0.5), nn.Flatten(), nn.Linear(24, zoo.CLASSES))
    with torch.no_grad():
        model[0].weight.copy_(2 + torch.arange(80.0).reshape(20, 4) % 7)  # all too long
    before = snapshot(model)
    variants = [edit_site("v", find_sites(model)[0], lambda value, _: 3 * value)]
    found = evaluate(model, zoo.case("lstm").data, variants, engine="auto" if engine == "exported" else "eager")
    assert snapshot(model) == before
    assert found.metrics["loss"][0] == pytest.approx(found.baseline["loss"], abs=1e-6)  # only directions are left


@pytest.mark.parametrize("fails", [False, True])
def test_recomputing_statistics_leaves_no_trace(fails: bool) -> None:
    model = zoo.build("efficient")
    stir_modes(model)
    x, y = zoo.case("efficient").data
    data = [(x[:8], y[:8]), (x[8:16], y[8:16])] + ([(x[:8, 0], y[:8])] if fails else [])
    before, around = snapshot(model), process()
    variant = edit_site("v", find_sites(model)[0], AddNoise(0.3, 1))
    try:
        recompute_statistics(model, data, variant)
        assert not fails
    except RuntimeError:
        assert fails
    assert (snapshot(model), process()) == (before, around)


SCRIPT = """
import random
import torch
from netopsy.engine.edits import Variant, Edit, AddNoise
from netopsy.engine.evaluate import evaluate
from netopsy.network.addresses import Address

class Drawing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(6, 3)
    def forward(self, x):
        random.random()
        return self.a(x)

def failing(logits, targets):
    raise KeyboardInterrupt

before = random.getstate()
data = torch.randn(8, 6), torch.arange(8) % 3
variants = [Variant("v", (Edit(Address("parameter", "a.weight"), AddNoise(1.0, 1)),))]
assert evaluate(Drawing(), data, variants, engine="eager").status == ("ok",)
assert random.getstate() == before
try:
    evaluate(Drawing(), data, variants, engine="eager", metrics=[failing])
except KeyboardInterrupt:
    assert random.getstate() == before
    print("well")
"""


def test_pythons_own_generator_is_as_it_was() -> None:
    """In a process without the type checker, which draws from it."""
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert found.stdout == "well\n", found.stderr


def test_results_follow_the_seed_and_not_the_processs_generators() -> None:
    case = zoo.case("mlp")
    results = []
    for seed in (1, 2):
        with forked(seed):
            results.append(evaluate(case.model, case.data, quiet(case.model), engine="eager", batch_size=8))
    assert results[0].metrics["loss"].tolist() == results[1].metrics["loss"].tolist()
