"""The exported engine is held against eager execution, and given up where it is wrong or stale."""

from __future__ import annotations

import dataclasses
import gc
import operator
import re
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine import execution, graph
from netopsy.engine.edits import AddNoise, Edit, FromCheckpoint, LowRank, Mask, Rule, Variant, edit_site
from netopsy.engine.evaluate import evaluate
from netopsy.engine.evaluation import Evaluation
from netopsy.engine.execution import Engine
from netopsy.engine.graph import Program, Step
from netopsy.network.addresses import Address
from netopsy.network.sites import find_sites
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from tests import zoo
from tests.oracles import naive

NOISE = AddNoise(0.5, 1)


def parameter(name: str, rule: Rule = NOISE) -> Variant:
    return Variant(f"edit {name}", (Edit(Address("parameter", name), rule),))


def noisy(model: nn.Module) -> list[Variant]:
    return [edit_site(str(site), site, NOISE) for site in find_sites(model)]


def losses(model: nn.Module, data: Any, variants: list[Variant], **options: Any) -> Evaluation:
    return evaluate(model, data, variants, examples=("loss",), batch_size=8, **options)


def data_for(width: int = 6, n: int = zoo.N) -> tuple[Tensor, Tensor]:
    with forked(11):
        return torch.randn(n, width), torch.randint(0, zoo.CLASSES, (n,))


# A program that is wrong


def corrupted(which: Callable[[Step], bool], change: Callable[[Any], Any]) -> Callable[..., Program]:
    """`export` with one step's result changed."""
    original = graph.export

    def export(*args: Any) -> Program:
        program = original(*args)
        steps = list(program.steps)
        index = next(i for i, step in enumerate(steps) if which(step))
        run = steps[index].run
        steps[index] = dataclasses.replace(steps[index], run=lambda slots: change(run(slots)))
        return dataclasses.replace(program, steps=tuple(steps), verified=set())

    return export


def stale(name: str) -> Callable[..., Program]:
    """`export` of a program that has the value of one parameter baked in."""
    original = graph.export

    def export(model: nn.Module, *args: Any) -> Program:
        program = original(model, *args)
        value = dict(model.named_parameters())[name].detach()
        slot = program.state[name]
        state = {other: where for other, where in program.state.items() if other != name}
        return dataclasses.replace(program, state=state, constants={**program.constants, slot: value}, verified=set())

    return export


def broken(value: Tensor) -> Tensor:
    raise RuntimeError("an operation that fails")


@pytest.mark.parametrize(
    ("export", "reason"),
    [
        (corrupted(lambda step: True, lambda value: value + 0.1), "logits differ for the unedited model"),
        (corrupted(lambda step: True, broken), "the exported program fails: an operation that fails"),
        (stale("2.weight"), r"logits differ for an edit of .*2\.weight"),
    ],
)
def test_a_wrong_program_is_not_used(
    export: Callable[..., Program], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = zoo.case("mlp")
    variants = noisy(case.model)
    reference = losses(case.model, case.data, variants, engine="eager")
    monkeypatch.setattr(execution, "export", export)
    monkeypatch.setattr(execution, "forget", lambda model: None)  # other tests use the program too
    found = losses(case.model, case.data, variants)
    assert found.provenance["engine"] == "eager"
    (why,) = found.provenance["engine_reasons"]
    assert re.search(reason, why)
    np.testing.assert_array_equal(found.examples["loss"], reference.examples["loss"])
    with pytest.raises(NetopsyError, match=f"engine='exported': Sequential cannot be run so: .*{reason}"):
        losses(case.model, case.data, variants, engine="exported")


def test_an_edit_that_changes_little_must_arrive_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.build("mlp")
    with torch.no_grad():
        model[4].weight.mul_(5e-4)  # what 2.weight does is below the tolerance of the logits
    monkeypatch.setattr(execution, "export", stale("2.weight"))
    with pytest.raises(NetopsyError, match=r"logits differ for an edit of 2\.weight"):
        losses(model, zoo.case("mlp").data, [parameter("2.weight", lambda value, _: 1e6 * value)], engine="exported")


# Models that cannot be exported


class Length(nn.Module):
    """Asks for the length of its input, which specializes the program."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, zoo.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + torch.zeros(len(x), 1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (zoo.Branch, "unbacked|data-dependent|GuardOnDataDependent"),
        (zoo.Item, "unbacked|data-dependent|GuardOnDataDependent"),
        (zoo.hooked, "the model has forward hooks"),
        (zoo.scripted, "the model has ScriptModules"),
        (Length, "Constraints violated"),
    ],
)
def test_why_a_model_runs_eagerly(make: Callable[[], nn.Module], reason: str) -> None:
    model, data = make(), data_for()
    variants = [parameter(next(name for name, _ in model.named_parameters()))]
    found = losses(model, data, variants)
    assert found.provenance["engine"] == "eager"
    (why,) = found.provenance["engine_reasons"]
    assert re.search(reason, why), why
    assert len(why) < 300
    with pytest.raises(NetopsyError, match=f"(?s)engine='exported'.*({reason}).*use engine='auto'"):
        losses(model, data, variants, engine="exported")


def test_a_failed_export_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, zoo.CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            while x.norm() < 50:
                x = 2 * x
            return self.a(x)

    assert losses(Growing(), data_for(), [parameter("a.weight")]).provenance["engine"] == "eager"
    assert capfd.readouterr() == ("", "")


class Collecting(nn.Module):
    """Hooks its layer when it is first called, as models of transformers do to collect what layers give."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, zoo.CLASSES)
        self.hooked = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.hooked:
            self.a.register_forward_hook(lambda module, args, output: None)
            self.a.register_forward_pre_hook(lambda module, args: None)
            self.hooked = True
        return self.a(x)


@pytest.mark.parametrize("engine", ["exported", "eager"])
def test_hooks_that_a_model_sets_itself_do_not_stay(engine: Engine) -> None:
    model = Collecting()
    found = losses(model, data_for(), [parameter("a.weight")], engine=engine)
    assert found.provenance["engine"] == engine
    assert not model.hooked
    assert not model.a._forward_hooks
    assert not model.a._forward_pre_hooks


def test_a_failed_export_is_not_tried_again_for_other_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def export(*args: Any) -> Program:
        tries.append(1)
        raise graph.ExportError("no")

    monkeypatch.setattr(execution, "export", export)
    model = zoo.LSTM()
    batches = [(torch.randint(0, 20, (4, t)), torch.randint(0, zoo.CLASSES, (4,))) for t in (3, 4, 5)]
    found = evaluate(model, batches, [parameter("f.weight")])
    assert len(tries) == 1
    assert found.provenance["engine_reasons"] == ["no"]


@pytest.mark.parametrize("name", ["0", "0.2"])
def test_scripts_cannot_be_hooked(name: str) -> None:
    variant = Variant("v", (Edit(Address("output", name), Mask((0,))),))
    with pytest.raises(
        NetopsyError, match=f"'{name}' is in a ScriptModule, .* pass the module as it was before torch"
    ):
        losses(nn.Sequential(zoo.scripted()), data_for(), [variant])


def test_no_variants_need_no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "export", None)
    case = zoo.case("mlp")
    found = losses(case.model, case.data, [])
    assert (found.provenance["engine"], found.provenance["engine_reasons"]) == ("eager", [])
    logits = naive.logits(case.model, {}, [case.inputs], case.read)
    expected = naive.metrics(logits, case.labels, logits)
    assert found.baseline["loss"] == pytest.approx(expected["loss"].mean(), abs=1e-5)


# Wrappers


class NoBackend(Exception):
    pass


@pytest.mark.parametrize("engine", ["exported", "eager"])
def test_wrappers_are_looked_through(engine: str) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise NoBackend

    case = zoo.case("mlp")
    variants = noisy(case.model)
    reference = losses(case.model, case.data, variants, engine=engine)
    compiled = torch.compile(case.model, backend=backend)
    for wrapped in (
        compiled,
        nn.DataParallel(case.model),
        torch.compile(nn.DataParallel(case.model), backend=backend),
    ):
        assert isinstance(wrapped, nn.Module)
        found = losses(wrapped, case.data, variants, engine=engine)
        np.testing.assert_array_equal(found.examples["loss"], reference.examples["loss"])
        assert found.provenance["engine"] == engine


# Tied weights, units that can be permuted, nothing that is done


@pytest.mark.parametrize("engine", ["exported", "eager"])
def test_both_names_of_tied_weights_mean_one_edit(engine: str) -> None:
    case = zoo.case("gpt2")
    names = ("transformer.wte.weight", "lm_head.weight")
    state = zoo.fresh_state(case.model, 3)
    trajectory = Trajectory.from_states(case.model, {0: state, 1: case.model.state_dict()})
    rules: list[Rule] = [FromCheckpoint(trajectory, 0), AddNoise(0.3, 2), LowRank(2)]
    variants = [parameter(name, rule) for rule in rules for name in names]
    found = losses(case.model, case.data, variants, task=case.task, engine=engine)
    assert found.provenance["engine"] == engine
    for i in range(0, len(variants), 2):
        np.testing.assert_array_equal(found.examples["loss"][i], found.examples["loss"][i + 1])
        assert np.abs(found.examples["loss"][i] - found.examples["loss"][-1]).max() > 1e-2
    logits = [naive.logits(case.model, v, [case.inputs], case.read) for v in ({names[1]: state[names[1]]}, {})]
    expected = naive.metrics(logits[0], case.labels, logits[1], shift=True)
    each = expected["loss"] / expected["positions"]
    np.testing.assert_allclose(found.examples["loss"][0], each, atol=2e-4)


@pytest.mark.parametrize("engine", ["exported", "eager"])
def test_permuting_hidden_units_changes_nothing(engine: str) -> None:
    case = zoo.case("mlp")
    order = torch.tensor([3, 1, 0, 7, 6, 2, 5, 4])

    def rows(value: Tensor, address: Address) -> Tensor:
        return value[order]

    def columns(value: Tensor, address: Address) -> Tensor:
        return value[:, order]

    edits = [("0.weight", rows), ("0.bias", rows), ("2.weight", columns)]
    permuted = Variant("permuted", tuple(Edit(Address("parameter", name), rule) for name, rule in edits))
    half = Variant("half of it", permuted.edits[:2])
    found = losses(case.model, case.data, [permuted, half], engine=engine)
    np.testing.assert_allclose(found.examples["loss"][0], found.examples["loss"][-1], atol=1e-5)
    assert found.delta_error[0] == 0
    assert found.status[0] == "ok"
    assert np.abs(found.examples["loss"][1] - found.examples["loss"][-1]).max() > 1e-2


class Spare(nn.Module):
    """Has parameters that lead nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.spare, self.c = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, zoo.CLASSES)
        self.bn, self.unused = nn.BatchNorm1d(4), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        self.spare(x)
        return self.c(torch.relu(self.bn(self.a(x))))


@pytest.mark.parametrize("engine", ["exported", "eager"])
def test_an_edit_that_changes_nothing_is_a_no_op(engine: str) -> None:
    model = Spare().eval()
    trajectory = Trajectory.from_states(model, {0: zoo.fresh_state(model, 2), "final": model.state_dict()})
    sites = find_sites(model)
    rewound = [edit_site(f"rewind {site}", site, FromCheckpoint(trajectory, "final")) for site in sites]
    counter = Variant("counter", (Edit(Address("buffer", "bn.num_batches_tracked"), lambda v, _: v + 1),))
    unused = [parameter("spare.weight"), parameter("unused"), counter]
    used = [parameter("a.weight"), parameter("spare.weight") + parameter("c.weight")]
    found = losses(
        model, data_for(), [*rewound, *unused, *used], engine=engine, metrics=("error", "loss", "unchanged")
    )
    still = len(rewound) + len(unused)
    assert found.status == ("no-op",) * still + ("ok",) * len(used)
    for metric, values in found.metrics.items():
        np.testing.assert_array_equal(values[:still], found.baseline[metric])
    np.testing.assert_array_equal(found.examples["loss"][:still], np.tile(found.examples["loss"][-1], (still, 1)))
    assert not found.delta_error[:still].any()
    assert set(found.n) == {zoo.N}
    assert found.provenance["engine"] == engine


class Rare(nn.Module):
    """Uses a parameter for a rare example only, as an expert or a row of an embedding is."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.table = nn.Linear(6, zoo.CLASSES), nn.Embedding(30, zoo.CLASSES)

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        return self.a(x) + self.table(token)


@pytest.mark.parametrize("engine", ["exported", "eager"])
def test_what_the_first_examples_do_not_use_is_run_all_the_same(engine: str) -> None:
    model, (x, y) = Rare(), data_for()
    token = torch.zeros(zoo.N, dtype=torch.long)
    token[13] = 29
    rows = [Address("parameter", "table.weight", index=str(row)) for row in (29, 17)]
    variants = [Variant(str(address), (Edit(address, lambda v, _: v + 5 * torch.arange(3)),)) for address in rows]
    found = losses(model, (x, token, y), variants, engine=engine)
    moved = np.flatnonzero(found.examples["loss"][0] != found.examples["loss"][-1])
    assert moved.tolist() == [13]
    assert found.status[0] == "ok"
    assert found.status[1] == ("ok" if engine == "exported" else "no-op")  # a graph knows parameters, not their rows
    edited = model.table.weight.detach().clone()
    edited[29] += 5 * torch.arange(3)
    logits = naive.logits(model, {"table.weight": edited}, [((x, token), {})], lambda z: z)
    np.testing.assert_allclose(found.examples["loss"][0], naive.metrics(logits, y, logits)["loss"], atol=1e-5)


class Long(nn.Module):
    """Uses a module for long inputs only."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.extra, self.f = nn.Embedding(20, 5), nn.Linear(5, 5), nn.Linear(5, zoo.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.e(x)
        if x.shape[1] > 4:
            h = torch.tanh(self.extra(h))
        return self.f(h.mean(1))


@pytest.mark.parametrize("engine", ["exported", "eager"])
def test_batches_of_other_shapes_may_use_other_parameters(engine: str) -> None:
    model = Long().eval()
    with forked(2):
        batches = [(torch.randint(0, 20, (4, t)), torch.randint(0, zoo.CLASSES, (4,))) for t in (3, 6, 3)]
    variants = [parameter("extra.weight"), parameter("f.weight")]
    for ordered in (batches, batches[::-1], [batches[1], batches[0]]):
        found = losses(model, ordered, variants, engine=engine)
        edited = {"extra.weight": NOISE(model.extra.weight.detach(), variants[0].edits[0].address)}  # type: ignore[union-attr]
        inputs, labels = [((x,), {}) for x, _ in ordered], torch.cat([y for _, y in ordered])
        logits = [naive.logits(model, values, inputs, lambda z: z) for values in (edited, {})]
        expected = naive.metrics(logits[0], labels, logits[1])["loss"]
        np.testing.assert_allclose(found.examples["loss"][0], expected, atol=1e-5)
        assert found.status == ("ok", "ok")
        assert found.provenance["engine"] == engine


# The cache of programs


def count_traces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    traces: list[int] = []
    original = graph._trace

    def trace(*args: Any) -> Any:
        traces.append(1)
        return original(*args)

    monkeypatch.setattr(graph, "_trace", trace)
    return traces


def test_a_program_is_made_once_and_weights_are_never_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = count_traces(monkeypatch)
    model, data = zoo.mlp(), data_for()
    one = losses(model, data, noisy(model), engine="exported")
    with torch.no_grad():
        model[0].weight.mul_(-1.5)
        model[4].bias.copy_(torch.tensor([1.0, 2, 3]))
    two = losses(model, data, noisy(model), engine="exported")
    model[2].weight = nn.Parameter(torch.randn(8, 8))
    three = losses(model, data, noisy(model), engine="exported")
    assert len(traces) == 1
    assert one.baseline["loss"] != two.baseline["loss"] != three.baseline["loss"]
    reference = losses(model, data, noisy(model), engine="eager")
    np.testing.assert_allclose(three.examples["loss"], reference.examples["loss"], atol=1e-5)


def replace_slope(model: nn.Sequential) -> None:
    model[1] = nn.LeakyReLU(0.5)


def replace_layers(model: nn.Sequential) -> None:
    model[0], model[2] = nn.Linear(6, 5), nn.Linear(5, 8)


@pytest.mark.parametrize("change", [replace_slope, replace_layers])
def test_a_change_of_structure_is_noticed(change: Callable[[nn.Sequential], None]) -> None:
    model, data = zoo.mlp(), data_for()
    model[1] = nn.LeakyReLU(0.1)
    losses(model, data, noisy(model), engine="exported")
    change(model)
    found = losses(model, data, noisy(model), engine="exported")
    reference = losses(model, data, noisy(model), engine="eager")
    np.testing.assert_allclose(found.examples["loss"], reference.examples["loss"], atol=1e-5)
    assert found.provenance["engine"] == "exported"


def test_a_replaced_module_is_noticed_where_the_baseline_cannot_tell() -> None:
    model, data = zoo.mlp(), data_for()
    with torch.no_grad():
        model[0].bias.fill_(100)  # all units are active: ReLU and leaky ReLU agree
    variants = [parameter("0.bias", lambda value, _: -value)]
    losses(model, data, variants, engine="exported")
    model[1] = nn.LeakyReLU(0.5)
    found = losses(model, data, variants, engine="exported")
    reference = losses(model, data, variants, engine="eager")
    np.testing.assert_allclose(found.examples["loss"], reference.examples["loss"], rtol=1e-4, atol=1e-4)


def test_a_changed_constant_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.scale, self.offset = nn.Linear(6, zoo.CLASSES), 1.0, torch.zeros(zoo.CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * self.a(x) + self.offset

    traces = count_traces(monkeypatch)
    model, data = Scaled(), data_for()
    for scale, offset in ((1.0, 0.0), (3.0, 1.0)):
        model.scale, model.offset = scale, torch.tensor([0.0, offset, 0.0])
        found = losses(model, data, [parameter("a.weight")], engine="exported")
        reference = losses(model, data, [parameter("a.weight")], engine="eager")
        np.testing.assert_allclose(found.examples["loss"], reference.examples["loss"], atol=1e-5)
    assert len(traces) == 2


@pytest.mark.parametrize("closes_over_the_model", [False, True])
def test_the_cache_keeps_no_model_alive(closes_over_the_model: bool) -> None:
    model = zoo.mlp()
    task = Task(logits=lambda z, m=model: z * len(list(m.children()))) if closes_over_the_model else Task()
    losses(model, data_for(), noisy(model), task=task, engine="exported")
    gc.collect()
    kept, seen = len(graph._programs), weakref.ref(model)
    del model, task
    gc.collect()
    assert seen() is None
    assert len(graph._programs) == kept - 1


def test_programs_of_tasks_that_are_gone_are_dropped() -> None:
    model = zoo.mlp()
    for scale in (1.0, 2.0):
        task = Task(logits=lambda z, scale=scale: scale * z)
        found = losses(model, data_for(), noisy(model), task=task, engine="exported")
        reference = losses(model, data_for(), noisy(model), task=task, engine="eager")
        np.testing.assert_allclose(found.examples["loss"], reference.examples["loss"], rtol=1e-5)
    del task
    gc.collect()
    losses(model, data_for(), noisy(model), engine="exported")
    assert len(graph._programs[model]) == 1


def test_a_reader_of_logits_that_cannot_be_held_weakly(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = count_traces(monkeypatch)
    model = zoo.Wrapped()
    task = Task(logits=operator.attrgetter("logits"))
    found = [losses(model, data_for(), noisy(model), task=task, engine="exported") for _ in range(2)]
    reference = losses(model, data_for(), noisy(model), engine="eager")
    np.testing.assert_allclose(found[1].examples["loss"], reference.examples["loss"], atol=1e-5)
    assert len(traces) == 1


# Batches


def test_a_batch_of_one_runs_eagerly_and_says_so() -> None:
    model, (x, y) = zoo.mlp(), data_for()
    variants = noisy(model)
    reference = losses(model, (x, y), variants, engine="eager")
    found = evaluate(model, (x, y), variants, batch_size=1, examples=("loss",))
    assert found.provenance["engine"] == "exported and eager"  # the last two examples are one batch
    assert found.provenance["engine_reasons"] == ["a batch of one example"]
    np.testing.assert_allclose(found.examples["loss"], reference.examples["loss"], atol=1e-5)
    single = evaluate(model, (x[:1], y[:1]), variants, examples=("loss",))
    assert single.provenance["engine"] == "eager"
    np.testing.assert_allclose(single.examples["loss"][:, 0], reference.examples["loss"][:, 0], atol=1e-5)


def test_one_program_serves_batches_of_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = count_traces(monkeypatch)
    model, (x, y) = zoo.mlp(), data_for()
    reference = losses(model, (x, y), noisy(model), engine="eager")
    for size in (2, 5, 16, 50):
        found = evaluate(model, (x, y), noisy(model), batch_size=size, engine="exported", examples=("loss",))
        np.testing.assert_allclose(found.examples["loss"], reference.examples["loss"], atol=1e-5)
    assert len(traces) == 1


def test_inputs_that_are_no_tensors_run_eagerly() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, zoo.CLASSES)

        def forward(self, words: list[str]) -> Tensor:
            return self.a(torch.tensor([[float(len(word)), float(word.count("a"))] for word in words]))

    batches = [(["banana", "fig"], torch.tensor([0, 1])), (["date", "apple", "kiwi"], torch.tensor([2, 1, 0]))]
    model = Words()
    found = evaluate(model, batches, [parameter("a.weight")], examples=("loss",))
    assert found.provenance["engine"] == "eager"
    assert found.examples["loss"].shape == (2, 5)
    assert np.isfinite(found.examples["loss"]).all()
    assert found.status == ("ok",)
