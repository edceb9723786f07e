"""What evaluate accepts, refuses and reports."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine.edits import AddNoise, Edit, Rule, Variant, edit_site
from netopsy.engine.evaluate import evaluate
from netopsy.engine.evaluation import Evaluation, Stopping
from netopsy.network.addresses import Address
from netopsy.network.sites import find_sites
from netopsy.network.task import Task
from tests.oracles import naive

N = 400
METRICS = ("error", "loss", "unchanged")
Estimand = Literal["population", "dataset"]


def weight(rule: Rule, label: str = "v", name: str = "0.weight") -> Variant:
    return Variant(label, (Edit(Address("parameter", name), rule),))


def flipped(value: Tensor, address: Address) -> Tensor:
    return -value


def linear(classes: int = 3) -> nn.Sequential:
    """Predicts the largest of the first inputs."""
    model = nn.Sequential(nn.Linear(4, classes))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(classes, 4))
        model[0].bias.zero_()
    return model


def separable(n: int = N) -> tuple[Tensor, Tensor]:
    """Inputs that `linear` gets right but for one in ten."""
    with forked(12):
        x = torch.randn(n, 4)
    y = x[:, :3].argmax(1)
    y[::10] = (y[::10] + 1) % 3
    return x, y


X, Y = separable()


def run(
    model: nn.Module | None = None, data: Any = None, variants: list[Variant] | None = None, **options: Any
) -> Evaluation:
    """`evaluate` with defaults: one variant that turns the answers round, eagerly."""
    variants = [weight(flipped)] if variants is None else variants
    return evaluate(model or linear(), (X, Y) if data is None else data, variants, **{"engine": "eager", **options})


# Numbers


def test_a_case_by_hand() -> None:
    found = run(
        variants=[weight(flipped, "flipped"), weight(lambda v, _: 2 * v, "doubled")], metrics=("error", "unchanged")
    )
    assert found.baseline["error"] == 0.1
    worst = (X[:, :3].argmin(1) != Y).double().mean().item()
    assert found.metrics["error"].tolist() == [worst, 0.1]
    assert found.metrics["unchanged"].tolist() == [0, 1]
    np.testing.assert_allclose(found.delta_error, [worst - 0.1, 0], atol=1e-12)
    assert found.labels == ("flipped", "doubled")
    assert found.status == ("ok", "ok")
    assert found.chance == pytest.approx(2 / 3)
    assert found.classes == 3
    assert found.baseline_n == N
    assert found.n.tolist() == [N, N]


def test_examples_are_in_the_datas_own_order() -> None:
    x, y = X[:50], Y[:50]
    found = run(
        data=(x, y), metrics=("loss", "error", "unchanged"), examples=("loss", "error", "unchanged"), batch_size=7
    )
    expected = nn.functional.cross_entropy(-x[:, :3], y, reduction="none")
    np.testing.assert_allclose(found.examples["loss"][0], expected, atol=1e-6)
    np.testing.assert_array_equal(found.examples["error"][-1], (x[:, :3].argmax(1) != y).double())
    np.testing.assert_array_equal(found.examples["unchanged"], [[0.0] * 50, [1.0] * 50])
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    again = run(data=loader, examples=("loss",), seed=9)
    np.testing.assert_allclose(again.examples["loss"], found.examples["loss"], atol=1e-6)


def test_a_metric_of_ones_own() -> None:
    def logit(logits: Tensor, targets: Tensor) -> Tensor:
        return logits.gather(1, targets[:, None])[:, 0]

    found = run(metrics=("error", logit), examples=("logit",))
    mine = X[:, :3].gather(1, Y[:, None])[:, 0]
    np.testing.assert_allclose(found.examples["logit"], [-mine, mine], atol=1e-6)
    assert found.metrics["logit"][0] == pytest.approx(-mine.mean().item(), abs=1e-6)
    assert found.baseline["logit"] == pytest.approx(mine.mean().item(), abs=1e-6)


def test_a_function_that_writes_into_the_logits_harms_no_other() -> None:
    def zeroed(logits: Tensor, targets: Tensor) -> Tensor:
        return logits.mul_(0).sum(1) + targets.mul_(0)

    assert run(metrics=("error", zeroed, "loss")).metrics["loss"] == pytest.approx(run().metrics["loss"])


def test_a_loss_of_ones_own() -> None:
    task = Task(loss=lambda logits, targets: (logits - nn.functional.one_hot(targets, 3)).square().sum(1))
    found = run(task=task, metrics=("loss",))
    assert found.baseline["loss"] == pytest.approx(
        (X[:, :3] - torch.eye(3)[Y]).square().sum(1).mean().item(), rel=1e-6
    )


def test_results_do_not_depend_on_the_seed_or_the_grid() -> None:
    data = (X[:40], Y[:40])
    reference = run(data=data)
    for options in ({"seed": 5}, {"batch_size": 7}, {"batch_size": 1}, {"seed": 2, "batch_size": 39}):
        found = run(data=data, **options)
        assert found.metrics["error"].tolist() == reference.metrics["error"].tolist()
        np.testing.assert_allclose(found.metrics["loss"], reference.metrics["loss"], rtol=1e-6)


# Targets of several positions


class Tagger(nn.Module):
    """Logits for every token, as a sequence or as an image."""

    def __init__(self, image: bool = False) -> None:
        super().__init__()
        self.image, self.e, self.f = image, nn.Embedding(12, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.f(torch.tanh(self.e(x)))
        return logits.reshape(len(x), 2, -1, 4) if self.image else logits


@pytest.mark.parametrize(("positions", "image"), [("all", False), ("all", True), ("next", False)])
@pytest.mark.parametrize("ignore", [-100, 3])
def test_per_token_metrics_equal_the_oracle(positions: Literal["all", "next"], ignore: int, image: bool) -> None:
    with forked(3):
        model = Tagger(image).eval()
        x, y = torch.randint(0, 12, (30, 6)), torch.randint(0, 4, (30, 6))
    y[::4, 3:] = ignore
    y[5] = ignore
    targets = y.reshape(30, 2, 3) if image else y
    task = Task(positions=positions, ignore_index=ignore)
    noise = AddNoise(1.0, 4)
    site = next(s for s in find_sites(model) if s.name == "f")
    found = run(model, (x, targets), [edit_site("v", site, noise)], task=task, batch_size=8,
                metrics=METRICS, examples=METRICS)  # fmt: skip
    values = {a.name: noise(model.get_parameter(a.name).detach(), a) for a in site.addresses}
    logits = [naive.logits(model, v, [((x,), {})], lambda z: z) for v in (values, {})]
    rows = [naive.metrics(z, y, logits[1], ignore=ignore, shift=positions == "next") for z in logits]
    for metric in METRICS:
        counts = np.maximum(rows[0]["positions"], 1)
        np.testing.assert_allclose(found.examples[metric], [r[metric] / counts for r in rows], atol=1e-5)
        mean = rows[0][metric].sum() / rows[0]["positions"].sum()
        assert found.metrics[metric][0] == pytest.approx(mean, abs=1e-5)
    change = (rows[0]["error"] - rows[1]["error"]).sum() / rows[0]["positions"].sum()
    assert found.delta_error[0] == pytest.approx(change, abs=1e-12)
    assert found.delta_error_low[0] < change < found.delta_error_high[0]
    exact = run(model, (x, targets), [edit_site("v", site, noise)], task=task, stop=Stopping(estimand="dataset"))
    assert exact.delta_error_low[0] == pytest.approx(change, abs=1e-9)
    assert exact.delta_error_high[0] == pytest.approx(change, abs=1e-9)


@pytest.mark.parametrize("loader", [False, True])
@pytest.mark.parametrize("estimand", ["population", "dataset"])
def test_ignored_examples_do_not_dilute_the_interval(
    loader: bool, estimand: Literal["population", "dataset"]
) -> None:
    y = Y.clone()
    y[: N // 2] = -100
    data: Any = DataLoader(TensorDataset(X, y), batch_size=50) if loader else (X, y)
    stop = Stopping(estimand=estimand)
    found, kept = run(data=data, stop=stop), run(data=(X[N // 2 :], Y[N // 2 :]), stop=stop)
    assert found.delta_error[0] == kept.delta_error[0]
    assert found.baseline == pytest.approx(kept.baseline)
    assert found.metrics["error"] == kept.metrics["error"]
    assert found.delta_error_low[0] == pytest.approx(kept.delta_error_low[0], abs=1e-9)
    assert found.delta_error_high[0] == pytest.approx(kept.delta_error_high[0], abs=1e-9)


# Early stopping


def small(value: Tensor, address: Address) -> Tensor:
    return value + 0.001


LEVELS = [
    weight(lambda v, _: 1.5 * v, "robust"),
    weight(flipped, "broken"),
    weight(lambda v, _: v + 0.0, "nothing"),
    weight(lambda v, _: torch.cat([0 * v[:1], v[1:]]), "one class lost"),
]
LARGE = separable(4000)


@pytest.fixture(scope="module")
def stopped() -> dict[str, Evaluation]:
    return {
        rule: evaluate(linear(), LARGE, LEVELS, stop=rule, batch_size=100, engine="eager", examples=("error",))  # type: ignore[arg-type]
        for rule in ("exact", "precision", "verdict")
    }


@pytest.mark.parametrize("rule", ["precision", "verdict"])
def test_stopping_early_saves_examples_and_stays_right(rule: str, stopped: dict[str, Evaluation]) -> None:
    exact, found = stopped["exact"], stopped[rule]
    assert found.status == ("ok", "ok", "no-op", "ok")
    assert (found.delta_error_low <= exact.delta_error).all()
    assert (exact.delta_error <= found.delta_error_high).all()
    cheap = [0] if rule == "precision" else [0, 1]  # a paired change of ±1 is not soon known to ± 0.02
    assert (found.n[cheap] < len(LARGE[0]) / 4).all()
    assert found.baseline_n == max(found.n)
    assert (found.n % 100 == 0).all()
    if rule == "precision":
        half = (found.delta_error_high - found.delta_error_low) / 2
        assert ((half <= 0.02 + 1e-9) | (found.n == len(LARGE[0]))).all()
    else:
        decided = (found.delta_error_low > 0.05) | (found.delta_error_high <= 0.05)
        assert decided.all()
        assert ((found.delta_error_low > 0.05) == (exact.delta_error > 0.05)).all()
        assert found.provenance["whole"] == (found.baseline_n == len(LARGE[0]))


@pytest.mark.parametrize("rule", ["precision", "verdict"])
def test_examples_that_were_not_run_are_nan(rule: str, stopped: dict[str, Evaluation]) -> None:
    found, exact = stopped[rule], stopped["exact"]
    seen = ~np.isnan(found.examples["error"])
    assert seen[:-1].sum(1).tolist() == found.n.tolist()
    assert seen[-1].sum() == found.baseline_n
    np.testing.assert_array_equal(found.examples["error"][seen], exact.examples["error"][seen])
    assert found.metrics["error"][0] == pytest.approx(np.nanmean(found.examples["error"][0]))


def test_the_whole_data_set_has_intervals_of_no_width() -> None:
    for data in ((X, Y), [(X[:300], Y[:300]), (X[300:], Y[300:])], _Twice()):
        found = run(data=data, variants=LEVELS, stop=Stopping(estimand="dataset"), batch_size=64)
        np.testing.assert_allclose(found.delta_error_low, found.delta_error, atol=1e-12)
        np.testing.assert_allclose(found.delta_error_high, found.delta_error, atol=1e-12)
    population = run(variants=LEVELS, stop=Stopping(estimand="population"))
    wide = population.delta_error_high - population.delta_error_low
    assert (wide[[0, 1, 3]] > 0.01).all()
    assert wide[2] == 0


class _Twice:
    """Batches whose number nobody knows before a full pass."""

    def __iter__(self) -> Any:
        return iter([(X[:100], Y[:100]), (X[100:], Y[100:])])


def test_intervals_hold_at_once_over_seeds() -> None:
    """99 % confidence: over 12 orders of the same data, each interval has its exact change."""
    exact = run(variants=LEVELS).delta_error
    misses = 0
    for seed in range(12):
        found = run(
            variants=LEVELS,
            stop=Stopping(rule="precision", precision=0.1, estimand="dataset"),
            seed=seed,
            batch_size=40,
        )
        misses += int(not ((found.delta_error_low <= exact) & (exact <= found.delta_error_high)).all())
    assert misses <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "never"}, "stop: expected one of 'exact', 'precision', 'verdict'; got 'never'"),
        ({"estimand": "sample"}, "estimand: expected one of 'population', 'dataset'"),
        ({"precision": 0.0}, r"precision: expected a number in \(0, 1\]; got 0.0"),
        ({"tolerance": -0.1}, r"tolerance: expected a number in \[0, 1\]"),
        ({"confidence": 1.0}, r"confidence: expected a number in \(0, 1\); got 1.0"),
    ],
)
def test_bad_stopping_is_refused(options: dict[str, Any], message: str) -> None:
    stopping = Stopping()
    for name, value in options.items():
        object.__setattr__(stopping, name, value)
    with pytest.raises(NetopsyError, match=message):
        inspect.unwrap(Stopping.__post_init__)(stopping)


# Outputs that are not finite


def test_variants_that_are_not_finite_are_reported_and_counted_as_wrong() -> None:
    def huge(value: Tensor, address: Address) -> Tensor:
        return 2e38 * value

    def infinite(value: Tensor, address: Address) -> Tensor:
        return value * math.inf

    found = run(variants=[weight(huge), weight(infinite), weight(flipped)], metrics=METRICS)
    bad = ~torch.isfinite(2e38 * X[:, :3]).all(1)
    assert 0 < bad.sum() < N
    wrong = bad | (X[:, :3].argmax(1) != Y)
    assert found.bad.tolist() == [int(bad.sum()), N, 0]
    assert found.status == ("non-finite", "non-finite", "ok")
    assert found.metrics["error"].tolist()[:2] == [wrong.double().mean().item(), 1.0]
    assert found.metrics["unchanged"][1] == 0
    assert not np.isfinite(found.metrics["loss"][:2]).any()
    np.testing.assert_allclose(found.delta_error[:2], [wrong.double().mean().item() - 0.1, 0.9], atol=1e-12)


@pytest.mark.parametrize("at", [0, N - 1])
def test_a_baseline_that_is_not_finite_is_refused(at: int) -> None:
    class Rational(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) / x[:, :1]

    x = X.clone()
    x[at, 0] = 0
    message = "on the first batch are not finite" if at == 0 else "are not finite on some examples"
    variants = [weight(flipped, name="a.weight")]
    data = [(x[:1], Y[:1]), (x[1:], Y[1:])]

    class InOrder:
        def __iter__(self) -> Any:
            return iter(data)

    with pytest.raises(NetopsyError, match=f"model: its own outputs {message}; check its weights"):
        run(Rational(), InOrder(), variants)


# What is refused, before any long work


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.a(x), 0.5, training=True)


def with_nan() -> Tensor:
    x = X.clone()
    x[37, 2] = math.nan
    return x


REFUSED: list[tuple[Callable[[], nn.Module], Any, dict[str, Any], str]] = [
    (linear, (X, Y + 1), {}, "expected labels from 0 to 2, .*; the data has labels from 1 to 3; map the labels"),
    (linear, (X, Y - 1), {}, "the data has labels from -1 to 1"),
    (lambda: linear(2), (X, Y), {}, "labels from 0 to 1, the model's 2 classes; the data has labels from 0 to 2"),
    (linear, DataLoader(TensorDataset(X, Y + 1)), {}, r"the first batch has labels from \d to 3"),
    (linear, (X, Y.float()), {}, r"expected integer class labels .*; got torch.float32 of shape \(256,\)"),
    (linear, (X, nn.functional.one_hot(Y)), {}, "logits: 1 positions an example, but the targets have 3"),
    (linear, (X, torch.full_like(Y, -100)), {}, "targets: expected some to count; all are the ignore_index -100"),
    (linear, (with_nan(), Y), {}, "expected finite inputs; the data has NaN or infinite values; clean"),
    (linear, (X[:, :3], Y), {}, r"be run on the first batch, input shapes \[\(4, 3\)\]: .* as the model takes"),
    (linear, {"pixels": X, "labels": Y}, {}, "data: Sequential cannot be run on the first batch"),
    (linear, {"x": X, "y": Y}, {}, "expected a dict with one of labels, label, .*; got the keys x, y"),
    (lambda: linear().half(), (X, Y), {}, "expected float32 or float64 parameters; .* torch.float16 .half precis"),
    (lambda: linear().bfloat16(), (X, Y), {}, "torch.bfloat16 .half precision"),
    (Dropping, (X, Y), {}, "model: Dropping is not deterministic in eval mode: two passes .* always-on dropout"),
    (lambda: nn.Sequential(nn.Linear(4, 3), nn.Flatten(0)), (X, Y), {}, r"logits: expected shape \(n, classes\)"),
    (nn.Identity, (X, Y), {"task": Task(logits=lambda z: z.sum())}, r"logits: expected shape .* got \(\)"),
    (linear, (X, Y), {"task": Task(inputs=lambda b: b[0])}, r"\(args, kwargs\), such as \(\(x,\), {}\); got Tensor"),
    (linear, (X, Y), {"task": Task(inputs=lambda b: (b[0], b[1]))}, r"Task\(inputs=.*; got \(Tensor, Tensor\)"),
    (linear, {"x": X, "labels": Y}, {"task": Task(targets=lambda b: b["y"])},
     r"Task\(targets=...\): KeyError: 'y'; it was given a batch of type dict with the keys x, labels"),
    (linear, (X, Y), {"metrics": ("erorr",)}, "metrics: expected error, loss, unchanged or a function"),
    (linear, (X, Y), {"examples": ("unchanged",)}, "examples: expected one of 'error', 'loss'; got 'unchanged'"),
    (linear, (X, Y), {"variants": [weight(flipped, name="0.wieght")]}, "'v': the model has no parameter .*0.weight"),
    (linear, (X, Y), {"variants": [weight(lambda v, _: v[:1])]}, "'v': the edit of 0.weight.*a rule keeps shape"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "data", "options", "message"), REFUSED)
def test_it_is_refused(make: Callable[[], nn.Module], data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetopsyError, match=f"(?s){message}"):
        run(make(), data, **options)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(NetopsyError, match="engine: expected one of 'auto', 'exported', 'eager'; got 'fast'"):
        run(engine="fast")


def test_a_later_batch_is_checked_too() -> None:
    y = Y.clone()
    y[-1] = 3
    batches = [(X[:300], Y[:300]), (X[300:399], y[300:399]), (X[399:], y[399:])]

    class InOrder:
        def __iter__(self) -> Any:
            return iter(batches)

    with pytest.raises(NetopsyError, match="batch 2 has labels from 3 to 3"):
        run(data=InOrder())
    batches[2] = (with_nan()[30:40], Y[30:40])
    with pytest.raises(NetopsyError, match="batch 2 has NaN or infinite values"):
        run(data=InOrder())


# The report


def test_progress_is_told() -> None:
    told: list[tuple[int, int | None]] = []
    run(batch_size=150, progress=lambda done, total: told.append((done, total)))
    assert told == [(150, N), (300, N), (400, N)]
    told.clear()
    run(data=_Twice(), progress=lambda done, total: told.append((done, total)))
    assert told == [(100, None), (400, None)]


def test_no_variants() -> None:
    found = run(variants=[])
    assert found.baseline["error"] == 0.1
    assert (found.labels, found.status, len(found.n), len(found.delta_error)) == ((), (), 0, 0)
    assert run(variants=[], stop="precision").baseline_n <= N


def test_provenance_says_what_was_done() -> None:
    stop = Stopping(rule="verdict", precision=0.03, tolerance=0.04, confidence=0.9, estimand="dataset")
    provenance = run(stop=stop, seed=3).provenance
    said = {
        "stop": "verdict",
        "precision": 0.03,
        "tolerance": 0.04,
        "confidence": 0.9,
        "estimand": "dataset",
        "seed": 3,
    }
    assert {name: provenance[name] for name in said} == said
    assert (provenance["seed"], provenance["engine"], provenance["examples"]) == (3, "eager", N)
    assert provenance["torch"] == torch.__version__
    assert provenance["seconds"] > 0
    assert provenance["data"] == run().provenance["data"] != run(data=(X, (Y + 1) % 3)).provenance["data"]
    assert run().provenance["whole"]


def test_the_table() -> None:
    found = run(variants=LEVELS)
    frame = found.to_frame()
    assert frame["label"].tolist() == ["baseline", *found.labels]
    assert frame["error"].tolist() == [found.baseline["error"], *found.metrics["error"]]
    assert frame["delta_error"].tolist() == [0, *found.delta_error]
    assert frame["n"].tolist() == [N, *found.n]
    assert frame["status"].tolist() == ["ok", *found.status]
    text = str(found)
    assert all(label in text for label in ("baseline", "robust", "broken", "no-op", "0.1000"))


def test_models_in_double_precision() -> None:
    found = run(linear().double(), (X.double(), Y), engine="exported")
    assert found.metrics["error"].tolist() == run().metrics["error"].tolist()
    assert found.provenance["engine"] == "exported"


def test_the_baseline_is_that_of_the_model_in_eval_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    found = run(model, variants=[weight(flipped)])
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model.eval()(X), Y).item()
    assert found.baseline["loss"] == pytest.approx(expected, rel=1e-5)
