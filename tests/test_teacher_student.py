"""Students and teachers: against a student trained by hand, alone, interrupted, and refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._identity import canonical
from netopsy.probes.lottery import lottery, prune
from netopsy.probes.teacher_student import teacher_student
from netopsy.probes.teacher_student_config import NearStart, TeacherStudentConfig
from netopsy.probes.teacher_student_nets import open_sources, students_of, teachers_of
from netopsy.probes.teacher_student_result import TeacherStudentResult
from netopsy.training.config import FitConfig
from tests.oracles import students as oracle

TINY = TeacherStudentConfig(
    inputs=5, hidden=(3, 4), outputs=6, node_multi=2, data_std=2.0, samples=72, batch_size=16, epochs=2,
    evaluation=70, lr=0.05, seeds=(4, 1, 7),
)  # fmt: skip
TWO_LAYERS = replace(TINY, hidden=(4,), bias=False, data_std=1.0, start=NearStart(p_w=1.0, p_v=0.3))
IMAGES = TeacherStudentConfig(
    inputs=(1, 8, 8), hidden=(2, 3), outputs=4, conv=True, node_multi=2, norm="after", affine=True, samples=24,
    batch_size=8, epochs=1, evaluation=300, seeds=(0, 1),
)  # fmt: skip


def layers(net: nn.Sequential) -> oracle.Layers:
    linear = [module for module in net.children() if isinstance(module, nn.Linear)]
    return [(m.weight.detach().double().numpy(), m.bias.detach().double().numpy()) for m in linear]


def last(net: nn.Sequential) -> Tensor:
    return net.get_submodule("output").get_parameter("weight").detach()


def test_a_population_is_students_trained_by_hand() -> None:
    result = teacher_student(TINY)
    sources = open_sources(TINY)
    teachers = teachers_of(TINY, sources)
    frame = result.to_frame().set_index(["epoch", "layer", "seed"])
    batches = [[each.double().numpy() for each in sources.epoch(epoch)] for epoch in (1, 2)]
    assert [each.shape for each in batches[0]] == [(3, 16, 5)] * 4 + [(3, 8, 5)]
    for place, (seed, start) in enumerate(zip(TINY.seeds, students_of(TINY, sources, teachers), strict=True)):
        teacher, student, inputs = layers(teachers[place]), layers(start), sources.evaluation(seed).double().numpy()
        path = [student]
        for epoch in range(2):
            path.append(oracle.sgd(path[-1], teacher, [each[place] for each in batches[epoch]], TINY.lr))
        for epoch, now in enumerate(path):
            assert frame.loss[epoch, 0, seed] == pytest.approx(oracle.loss(now, teacher, inputs), rel=1e-4)
            for layer in (0, 1):
                rho, final = (oracle.correlation(each, teacher, inputs, layer) for each in (now, path[-1]))
                found = result.rho(layer)[epoch, place].nan_to_num(-np.inf).numpy()
                np.testing.assert_allclose(found, rho, atol=1e-4)
                assert frame.rho_bar[epoch, layer, seed] == pytest.approx(oracle.covered(rho), abs=1e-4)
                assert frame["rank"][epoch, layer, seed] == pytest.approx(oracle.rank(rho, final), abs=1e-9)
                inward = np.linalg.norm(now[layer][0], axis=1)
                outward = np.linalg.norm(now[layer + 1][0], axis=0)
                np.testing.assert_allclose(result.records[f"in.{layer}"][epoch, place].numpy(), inward, rtol=1e-4)
                np.testing.assert_allclose(result.records[f"out.{layer}"][epoch, place].numpy(), outward, rtol=1e-4)
        np.testing.assert_allclose(result.final["hidden1.weight"][place].numpy(), path[-1][1][0], atol=1e-4)


def test_the_frame_and_the_units() -> None:
    result = teacher_student(TINY)
    frame, units = result.to_frame(), result.units()
    assert frame.columns.tolist() == ["epoch", "layer", "seed", "rho_bar", "rank", "loss"]
    assert len(frame) == 3 * 2 * 3
    assert frame.seed.tolist()[:6] == [4, 1, 7, 4, 1, 7]
    assert (frame["rank"][frame.epoch == 2] == 0).all()
    assert len(units) == 3 * 3 * (6 + 8)
    for layer in (0, 1):
        for place, seed in enumerate(TINY.seeds):
            rho = result.rho(layer)[-1, place].nan_to_num(-2)
            best = {int(row.argmax()) for row in rho if row.max() > -2}
            chosen = units[(units.epoch == 2) & (units.layer == layer) & (units.seed == seed) & units.winner]
            assert set(chosen.unit) == best
            one = units[(units.epoch == 1) & (units.layer == layer) & (units.seed == seed)]
            np.testing.assert_array_equal(one.fan_in, result.records[f"in.{layer}"][1, place].double())


@pytest.mark.parametrize("config", [TINY, replace(TINY, norm="after"), replace(TINY, fresh=False)],
                         ids=["plain", "norm", "finite"])  # fmt: skip
def test_a_student_is_the_same_whoever_else_is_there(config: TeacherStudentConfig) -> None:
    many, alone = teacher_student(config), teacher_student(replace(config, seeds=(1,)))
    for name, value in alone.records.items():
        torch.testing.assert_close(many.records[name][:, 1:2], value, rtol=1e-3, atol=1e-4, equal_nan=True)


def test_convolutions_pool_all_positions() -> None:
    result = teacher_student(IMAGES)
    sources = open_sources(IMAGES)
    teachers = teachers_of(IMAGES, sources)
    student = students_of(IMAGES, sources, teachers)[1].eval()
    inputs, teacher = sources.evaluation(1), teachers[1]
    with torch.no_grad():
        mine, theirs = student[:3](inputs), teacher[:2](inputs)
    assert mine.shape == (300, 4, 6, 6)
    a, b = (value.transpose(0, 1).flatten(1).double().numpy() for value in (theirs, mine))
    np.testing.assert_allclose(result.rho(0)[0, 1].numpy(), np.corrcoef(a, b)[:2, 2:], atol=1e-5)
    ends = last(student).reshape(4, 6, 16)
    np.testing.assert_allclose(result.records["out.1"][0, 1], ends.norm(dim=(0, 2)), rtol=1e-5)
    assert bool((result.records["loss"][1] != result.records["loss"][0]).all())


def test_a_shared_teacher_and_a_finite_set() -> None:
    config = replace(TINY, teacher_seed=9)
    sources = open_sources(config)
    teachers = teachers_of(config, sources)
    assert all(teacher is teachers[0] for teacher in teachers)
    finite = open_sources(replace(TINY, fresh=False))
    one, two = (torch.cat([batch[0] for batch in finite.epoch(epoch)]) for epoch in (1, 2))
    assert not torch.equal(one, two)
    torch.testing.assert_close(one.sort(0).values, two.sort(0).values, rtol=0, atol=0)
    fresh = open_sources(TINY)
    one, two = (torch.cat([batch[0] for batch in fresh.epoch(epoch)]).flatten() for epoch in (1, 2))
    assert not set(one.tolist()) & set(two.tolist())
    mixed = teacher_student(replace(config, seeds=(9,)))
    own = teacher_student(replace(TINY, seeds=(9,)))
    torch.testing.assert_close(mixed.records["loss"], own.records["loss"], rtol=1e-4, atol=0)


def test_a_start_at_the_teacher_and_its_distance() -> None:
    result = teacher_student(TWO_LAYERS)
    distance = result.records["distance"]
    assert distance.shape == (3, 3)
    assert bool((distance[0] < 1e-6).all())
    assert bool((distance[1:] > 1e-4).all())
    far = teacher_student(replace(TWO_LAYERS, start=NearStart(p_w=0.0, p_v=0.3), epochs=1))
    assert bool((far.records["distance"][0] > 0.7).all())


def test_h_star_at_the_epochs_asked_for() -> None:
    result = teacher_student(replace(TINY, h_star=(0, 2)))
    assert result.records["h_star.1"].shape == (2, 3, 4, 8)
    sources = open_sources(TINY)
    teachers = teachers_of(TINY, sources)
    student, teacher = students_of(TINY, sources, teachers)[0], teachers[0]
    inputs = sources.evaluation(4)
    with torch.no_grad():  # the last hidden layer's β* is W^T W*, whatever the example
        beta = last(student).T @ last(teacher)
        gates = [(net[:-1](inputs) > 0).float() for net in (student, teacher)]
    wanted = beta * (gates[0].T @ gates[1]) / len(inputs)
    torch.testing.assert_close(result.records["h_star.1"][0, 0], wanted.T, rtol=1e-4, atol=1e-6)


class Stop(Exception):
    """Of an interruption."""


def stop_at(epoch: int) -> object:
    def progress(done: int, total: int) -> None:
        if done == epoch:
            raise Stop

    return progress


@pytest.mark.parametrize("config", [replace(TINY, momentum=0.5, epochs=3), replace(IMAGES, epochs=3)],
                         ids=["momentum", "conv"])  # fmt: skip
def test_an_interrupted_run_goes_on_to_the_same_bits(config: TeacherStudentConfig, tmp_path: Path) -> None:
    whole = teacher_student(config)
    with pytest.raises(Stop):
        teacher_student(config, folder=tmp_path / "run", progress=stop_at(2))  # type: ignore[arg-type]
    heard: list[int] = []
    found = teacher_student(
        config, folder=tmp_path / "run", resume=True, progress=lambda done, total: heard.append(done)
    )
    assert heard == [3]
    again = teacher_student(
        config, folder=tmp_path / "run", resume=True, progress=lambda done, total: heard.append(9)
    )
    for result in (found, again):
        for name, value in whole.records.items():
            torch.testing.assert_close(result.records[name], value, rtol=0, atol=0, equal_nan=True)
        for name, value in whole.final.items():
            assert torch.equal(result.final[name], value), name
    assert sorted(path.name for path in (tmp_path / "run").glob("state*")) == ["state-3.safetensors"]


def test_a_result_is_saved_and_read(tmp_path: Path) -> None:
    result = teacher_student(replace(TINY, epochs=1))
    found = TeacherStudentResult.load(result.save(tmp_path / "result"))
    assert found.seeds == result.seeds
    assert found.provenance == result.provenance
    assert found.to_frame().equals(result.to_frame())
    assert all(torch.equal(found.final[name], value) for name, value in result.final.items())
    assert str(found) == str(result)
    assert "Means over 3 seeds." in str(found)
    assert canonical(TINY)["fields"]["seeds"] == [4, 1, 7]
    with pytest.raises(NetopsyError, match="it exists and is not empty"):
        result.save(tmp_path / "result")
    with pytest.raises(NetopsyError, match="expected a saved TeacherStudentResult; it has no"):
        TeacherStudentResult.load(tmp_path)
    with pytest.raises(NetopsyError, match="layer: expected one of"):
        result.rho(2)


def test_a_diverged_student_is_named_and_leaves_the_others() -> None:
    result = teacher_student(replace(TINY, lr=1e30, epochs=2))
    assert not bool(result.records["loss"][-1].isfinite().any())
    lost = replace(result, records={**result.records, "loss": torch.tensor([[1.0, float("nan"), 1.0]] * 3)})
    assert "Diverged: the students of seeds 1." in str(lost)


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    return torch.rand(count, 1, 4, 4, generator=source) + labels[:, None, None, None] / 5, labels


def test_a_trained_teacher_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from netopsy.data.dataset import Dataset
    from netopsy.probes import teacher_student_nets

    data = Dataset(name="made", train=images(120, 0), test=images(60, 1), classes=10)
    monkeypatch.setattr(teacher_student_nets, "fashion_mnist", lambda: data)
    fit = FitConfig(epochs=8, batch_size=20, lr=0.05)
    config = TeacherStudentConfig(
        data="fashion-mnist", hidden=(8,), outputs=10, norm="after", teacher_fit=fit, teacher_norm="after",
        teacher_seed=3, samples=100, evaluation=40, batch_size=20, epochs=2, lr=0.1, seeds=(0, 1),
    )  # fmt: skip
    result = teacher_student(config)
    assert result.records["error"].shape == (3, 2)
    teacher = result.records["teacher_error"]
    assert bool((teacher == teacher[0, 0]).all())
    assert float(teacher[0, 0]) < 0.7
    assert bool((result.records["loss"][-1] < result.records["loss"][0]).all())
    assert len(open_sources(config).evaluation(0)) == 40


def test_pruned_units_stay_zero_and_winners_begin_where_they_did() -> None:
    for config in (TINY, replace(TINY, norm="after", affine=True), replace(TINY, norm="before", affine=True), IMAGES):
        result = lottery(config)
        assert list(result.runs) == ["all", "winners", "winners redrawn", "others"]
        for layer in range(2):
            won = result.runs["all"].winners(layer)
            assert result.kept[layer] == tuple(won.sum(1).tolist())
            for name in ("winners", "winners redrawn"):
                run = result.runs[name]
                for part in ("in", "out"):
                    lengths = run.records[f"{part}.{layer}"]
                    assert bool((lengths[:, ~won] == 0).all())
                    assert bool((lengths[:, won] > 0).all())
            other = result.runs["others"].records[f"in.{layer}"][0] > 0
            assert not bool((other & won).any())
        first = (run.records["in.0"][0] for run in result.runs.values())
        everything, reset, redrawn, _ = first
        won = result.runs["all"].winners(0)
        assert torch.equal(reset[won], everything[won])
        assert not torch.equal(redrawn[won], everything[won])
    frame = result.to_frame()
    assert frame.columns[0] == "ticket"
    assert set(frame.ticket) == set(result.runs)
    assert str(result).splitlines()[0].split() == ["ticket", "loss"]


def test_pruning_is_what_a_smaller_student_computes() -> None:
    sources = open_sources(TINY)
    student = students_of(TINY, sources, teachers_of(TINY, sources))[0]
    inputs = sources.evaluation(4)
    kept = [torch.tensor([True, False, True, False, True, True]), torch.arange(8) < 3]
    (w0, b0), (w1, b1), (w2, b2) = layers(student)
    a, b = (mask.numpy() for mask in kept)
    small = [(w0[a], b0[a]), (w1[b][:, a], b1[b]), (w2[:, b], b2)]
    prune(student, kept)
    wanted = [oracle.run(small, x)[-1] for x in inputs.double().numpy()]
    np.testing.assert_allclose(student(inputs).detach().numpy(), np.array(wanted), atol=1e-5)


def test_lottery_goes_on_and_refuses(tmp_path: Path) -> None:
    heard: list[str] = []
    config = replace(TINY, epochs=1)
    first = lottery(config, folder=tmp_path, progress=lambda name, done, total: heard.append(name))
    assert heard == ["all", "winners", "winners redrawn", "others"]
    again = lottery(config, folder=tmp_path, resume=True, progress=lambda name, done, total: heard.append("again"))
    assert "again" not in heard
    assert again.to_frame().equals(first.to_frame())
    with pytest.raises(NetopsyError, match="lottery: expected students that are drawn at random"):
        lottery(TWO_LAYERS)
    with pytest.raises(NetopsyError, match="with winners in every layer; one diverged"):
        lottery(replace(TINY, lr=1e30))


def test_folders_of_other_runs(tmp_path: Path) -> None:
    config = replace(TINY, epochs=1)
    with pytest.raises(NetopsyError, match="resume=True: expected a folder with the run"):
        teacher_student(config, resume=True)
    teacher_student(config, folder=tmp_path / "run")
    with pytest.raises(NetopsyError, match="it exists and is not empty"):
        teacher_student(config, folder=tmp_path / "run")
    with pytest.raises(NetopsyError, match="holds a run that differs in lr, seeds; pass its config"):
        teacher_student(replace(config, lr=0.5, seeds=(0,)), folder=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "mnist"}, "data: expected one of 'gaussian', 'fashion-mnist'"),
        ({"norm": "batch"}, "norm: expected one of 'none', 'before', 'after'"),
        ({"epochs": 0}, "epochs: expected an integer >= 1; got 0"),
        ({"evaluation": 1}, "evaluation: expected an integer >= 2"),
        ({"lr": 0.0}, r"lr: expected a number in \(0, inf\)"),
        ({"momentum": 1.0}, r"momentum: expected a number in \[0, 1\)"),
        ({"data_std": -1.0}, r"data_std: expected a number in \(0, inf\)"),
        ({"seeds": ()}, "seeds: expected different ones, one at least"),
        ({"seeds": (1, 1)}, "seeds: expected different ones, one at least; got 1, 1"),
        ({"seeds": (-1,)}, "seeds: expected an integer >= 0"),
        ({"teacher_seed": -1}, "teacher_seed: expected an integer >= 0"),
        ({"norm": "after", "samples": 17}, "17 samples in batches of 16 end with a batch of one"),
        ({"norm": "after", "batch_size": 1}, "72 samples in batches of 1 end with a batch of one"),
        ({"teacher_norm": "after"}, "teacher_fit, teacher_norm: expected with data='fashion-mnist' only"),
        ({"data": "fashion-mnist", "outputs": 10}, r"expected teacher_fit=FitConfig\(...\) and outputs=10"),
        ({"data": "fashion-mnist", "outputs": 10, "fresh": False, "teacher_fit": FitConfig(epochs=1, lr=0.1)},
         "fresh: expected True with data='fashion-mnist'"),
        ({"h_star": (3,)}, "h_star: expected epochs from 0 to 2; got also 3"),
        ({"h_star": (1,), "norm": "after"}, "h_star: expected fully connected nets without normalization"),
        ({"start": NearStart(p_w=0.5, p_v=0.5)}, "start: expected fully connected nets with one hidden layer"),
    ],
)  # fmt: skip
def test_configs_that_are_refused(changes: dict[str, object], message: str, unchecked: None) -> None:
    with pytest.raises(NetopsyError, match=message):
        replace(TINY, **changes)  # type: ignore[arg-type]


def test_starts_outside_their_range() -> None:
    with pytest.raises(NetopsyError, match=r"p_v: expected a number in \[0, 1\]; got 1.5"):
        NearStart(p_w=0.0, p_v=1.5)
