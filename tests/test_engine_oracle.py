"""The engine computes what a naive float64 loop computes, exported and eager, on models that have made trouble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy.engine.edits import (
    AddNoise,
    Edit,
    FromCheckpoint,
    Interpolate,
    LowRank,
    Mask,
    Quantize,
    Rule,
    Variant,
    edit_site,
    joined,
)
from netopsy.engine.evaluate import evaluate
from netopsy.engine.evaluation import Evaluation
from netopsy.network.addresses import Address
from netopsy.network.sites import find_sites
from netopsy.network.trajectory import Trajectory
from tests import zoo
from tests.oracles import naive

METRICS = ("error", "loss", "unchanged")
ENGINES = [(name, engine) for name in zoo.MODELS for engine in ("exported", "eager") if name not in zoo.EAGER]
ENGINES += [(name, "auto") for name in zoo.EAGER]


def rewind(model: nn.Module, seed: int = 5) -> Trajectory:
    return Trajectory.from_states(model, {0: zoo.fresh_state(model, seed), "final": model.state_dict()})


@cache
def variants(name: str) -> tuple[Variant, ...]:
    """Edits of every site, by every rule; joint, composed and sliced ones."""
    model = zoo.case(name).model
    trajectory, sites = rewind(model), find_sites(zoo.build("mlp") if name == "scripted" else model)
    rules: list[Rule] = [
        FromCheckpoint(trajectory, 0),
        AddNoise(0.3, 1),
        Mask((0,), axis=0),
        Quantize(3),
        Interpolate(trajectory, 0, 0.4),
        LowRank(1),
    ]
    found = [
        edit_site(f"{site} by {type(rule).__name__}", site, rule)
        for i, site in enumerate(sites)
        for rule in (rules[0], rules[1 + i % 5], rules[1 + (i + 2) % 5])
    ]
    whole = [edit_site(str(site), site, rules[0]) for site in sites]
    found += [joined("all", whole), joined("pair", whole[:2]), whole[0] + whole[-1]]
    matrix = next(n for n, value in model.named_parameters() if value.ndim > 1 and min(value.shape[:2]) > 2)
    here, part = Address("parameter", matrix), Address("parameter", matrix, index="1:3, 0")
    found += [
        Variant("noise, then rank", (Edit(here, rules[1]), Edit(here, rules[5]))),
        Variant("rank, then noise", (Edit(here, rules[5]), Edit(here, rules[1]))),
        Variant("slice", (Edit(part, rules[0]),)),
        Variant("slice, then whole", (Edit(part, rules[1]), Edit(here, rules[4]))),
    ]
    buffers = [n for n, value in model.named_buffers() if value.is_floating_point()]
    found += [Variant(f"buffer {n}", (Edit(Address("buffer", n), AddNoise(0.1, 2)),)) for n in buffers]
    return tuple(found)


def by_hand(model: nn.Module, variant: Variant) -> dict[str, Tensor]:
    """The values a variant writes, one edit after the other."""
    values: dict[str, Tensor] = {}
    holders = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for edit in variant.edits:
        assert isinstance(edit, Edit)
        value = values.get(edit.address.name, holders[edit.address.name].detach()).clone()
        if not value.is_floating_point():
            continue
        where = ... if edit.address.index is None else eval(f"np.s_[{edit.address.index}]")
        value[where] = edit.rule(value[where].clone(), edit.address)
        values[edit.address.name] = value
    return values


@cache
def expected(name: str) -> tuple[Mapping[str, np.ndarray], Sequence[Mapping[str, np.ndarray]], Sequence[str]]:
    """The oracle's sums of every example, of the baseline and of each variant, and each variant's status."""
    case = zoo.case(name)
    runs = [{}, *(by_hand(case.model, variant) for variant in variants(name))]
    logits = [naive.logits(case.model, values, [case.inputs], case.read) for values in runs]
    baseline, *rest = [naive.metrics(scores, case.labels, logits[0], shift=case.shift) for scores in logits]
    status = ["no-op" if torch.equal(x, logits[0]) else "ok" if x.isfinite().all() else "non-finite" for x in logits]
    return baseline, rest, status[1:]


def run(name: str, engine: str) -> Evaluation:
    case = zoo.case(name)
    return evaluate(
        case.model,
        case.data,
        variants(name),
        task=case.task,
        metrics=METRICS,
        examples=METRICS,
        engine=engine,  # type: ignore[arg-type]
        batch_size=8,
    )


@pytest.mark.parametrize(("name", "engine"), ENGINES)
def test_it_equals_the_naive_loop(name: str, engine: str) -> None:
    found = run(name, engine)
    baseline, rows, status = expected(name)
    assert found.provenance["engine"] == ("exported" if engine == "exported" else "eager")
    assert bool(found.provenance["engine_reasons"]) == (engine == "auto")
    assert list(found.status) == status
    assert set(found.n) == {zoo.N}
    positions = baseline["positions"].sum()
    for metric in METRICS:
        close = {"atol": 2e-4, "rtol": 2e-4} if metric == "loss" else {"atol": 1e-12, "rtol": 0}
        means = [row[metric].sum() / positions for row in [*rows, baseline]]
        each = [row[metric] / np.maximum(row["positions"], 1) for row in [*rows, baseline]]
        np.testing.assert_allclose([*found.metrics[metric], found.baseline[metric]], means, **close)
        np.testing.assert_allclose(found.examples[metric], each, **close)
    change = [(row["error"].sum() - baseline["error"].sum()) / positions for row in rows]
    np.testing.assert_allclose(found.delta_error, change, atol=1e-12)
    assert (found.delta_error_low <= found.delta_error).all()
    assert (found.delta_error <= found.delta_error_high).all()


@pytest.mark.parametrize("name", zoo.MODELS)
def test_the_cases_can_tell_an_edit_from_none(name: str) -> None:
    baseline, rows, _ = expected(name)
    moved = [not (np.abs(row["loss"] - baseline["loss"]) < 1e-3).all() for row in rows]
    assert np.mean(moved) > 0.8


@pytest.mark.parametrize("name", zoo.MODELS)
def test_the_order_of_edits_of_one_address_matters(name: str) -> None:
    labels = [variant.label for variant in variants(name)]
    rows = expected(name)[1]
    one, other = rows[labels.index("noise, then rank")], rows[labels.index("rank, then noise")]
    assert np.abs(one["loss"] - other["loss"]).max() > 1e-3
