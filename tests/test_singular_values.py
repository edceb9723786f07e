"""Singular values of convolutions against dense matrices and closed forms; spectra over checkpoints."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine import convolution
from netopsy.engine.convolution import Convolution
from netopsy.network.trajectory import Trajectory
from netopsy.plots.spectra import norm_lines, spectrum_lines
from netopsy.probes.singular_values import conv_singular_values
from netopsy.probes.spectra import spectra
from netopsy.probes.spectra_result import SpectraResult
from tests.oracles import convolutions as oracle


def drawn(*shape: int, seed: int = 0) -> Tensor:
    with forked(seed):
        return torch.randn(*shape, dtype=torch.float64)


CASES: dict[str, tuple[Any, ...]] = {  # size, kernel, stride, dilation, groups
    "square": ((6, 6), (4, 3, 3, 3), (1, 1), (1, 1), 1),
    "odd size": ((5, 7), (2, 3, 3, 3), (1, 1), (1, 1), 1),
    "one position": ((1, 1), (2, 3, 3, 3), (1, 1), (1, 1), 1),
    "two positions": ((2, 2), (2, 2, 3, 3), (1, 1), (1, 1), 1),
    "stride": ((6, 8), (4, 3, 3, 2), (2, 2), (1, 1), 1),
    "more outputs": ((4, 6), (9, 2, 3, 3), (2, 2), (1, 1), 1),
    "stride is size": ((3, 4), (2, 2, 3, 3), (3, 4), (1, 1), 1),
    "groups": ((6, 9), (4, 3, 3, 3), (2, 3), (2, 1), 2),
    "depthwise": ((4, 4), (6, 1, 3, 3), (1, 1), (1, 1), 3),
    "skips": ((5, 6), (2, 3, 3, 3), (2, 2), (1, 1), 1),
    "line": ((7,), (3, 2, 3), (1,), (2,), 1),
    "even line": ((8,), (2, 2, 4), (2,), (1,), 1),
    "solid": ((4, 4, 2), (2, 2, 3, 2, 1), (2, 1, 1), (1, 1, 1), 1),
    "wide kernel": ((3, 4), (2, 2, 5, 7), (1, 1), (1, 1), 1),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("padding", ["circular", "zeros"])
def test_they_are_those_of_the_dense_matrix(case: str, padding: Any) -> None:
    size, shape, stride, dilation, groups = CASES[case]
    kernel = drawn(*shape)
    dense = oracle.matrix(
        kernel,
        size,
        stride=stride,
        before=[gap * (k - 1) // 2 for gap, k in zip(dilation, shape[2:], strict=True)],
        outputs=[-(-n // step) for n, step in zip(size, stride, strict=True)],
        dilation=dilation,
        groups=groups,
        wraps=padding == "circular",
    )
    found = conv_singular_values(kernel, size, stride=stride, padding=padding, dilation=dilation, groups=groups)
    np.testing.assert_allclose(found, np.linalg.svd(dense, compute_uv=False), atol=1e-12)
    assert (np.diff(found) <= 0).all()


@pytest.mark.parametrize(
    "options",
    [{}, {"padding": 1}, {"padding": 2, "stride": 2}, {"padding": 1, "stride": 3, "dilation": 2}, {"groups": 2}],
    ids=str,
)
def test_numbers_of_zeros_are_those_of_conv2d(options: dict[str, int]) -> None:
    kernel = drawn(4, 2, 3, 3).float()
    dense = oracle.conv2d_of_the_identity(kernel, (7, 6), **options)
    found = conv_singular_values(kernel, (7, 6), **{"padding": 0, **options})
    np.testing.assert_allclose(found, np.linalg.svd(dense, compute_uv=False), atol=1e-12)


def test_the_published_recipe_gives_the_same() -> None:
    kernel = drawn(5, 3, 3, 3)
    np.testing.assert_allclose(conv_singular_values(kernel, 8), oracle.fft2_recipe(kernel, (8, 8)), atol=1e-12)


def test_closed_forms() -> None:
    identity = torch.zeros(3, 3, 3, 3)
    identity[range(3), range(3), 1, 1] = 2.0
    for padding in ("circular", "zeros"):
        np.testing.assert_allclose(conv_singular_values(identity, 5, padding=padding), [2.0] * 75, atol=1e-12)
    # one tap at a time, every second position: the operator picks and scales
    np.testing.assert_allclose(conv_singular_values(identity, 4, stride=2), [2.0] * 12, atol=1e-12)
    # the second difference on a line: 2 - 2 cos(2πf/n) around, 2 - 2 cos(πf/(n+1)) between zeros
    second = torch.tensor([[[-1.0, 2, -1]]])
    around = sorted((2 - 2 * math.cos(2 * math.pi * f / 9) for f in range(9)), reverse=True)
    between = sorted((2 - 2 * math.cos(math.pi * f / 10) for f in range(1, 10)), reverse=True)
    np.testing.assert_allclose(conv_singular_values(second, 9), around, atol=1e-12)
    np.testing.assert_allclose(conv_singular_values(second, 9, padding="zeros"), between, atol=1e-12)
    # a mean over all positions has rank one
    mean = conv_singular_values(torch.full((1, 1, 4, 4), 1 / 16), 4)
    np.testing.assert_allclose(mean, [1.0] + [0.0] * 15, atol=1e-12)


@pytest.mark.parametrize("padding", ["circular", "zeros"])
def test_invariants(padding: Any) -> None:
    kernel, n = drawn(4, 3, 3, 3), 6
    values = conv_singular_values(kernel, n, padding=padding)
    assert len(values) == 3 * n * n
    twice = conv_singular_values(-2 * kernel, n, padding=padding)
    np.testing.assert_allclose(twice, 2 * values, atol=1e-12)
    turned = conv_singular_values(kernel.transpose(0, 1).flip(2, 3), n, padding=padding)  # the adjoint
    np.testing.assert_allclose(turned, values, atol=1e-12)
    if padding == "circular":
        assert (values**2).sum() == pytest.approx(n * n * float(kernel.square().sum()))
    rotation = torch.linalg.qr(drawn(4, 4, seed=1))[0]
    np.testing.assert_allclose(
        conv_singular_values(torch.einsum("po,oikl->pikl", rotation, kernel), n, padding=padding), values, atol=1e-12
    )


def test_blocks_of_frequencies_may_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = conv_singular_values(drawn(4, 3, 3, 3), (6, 10), stride=2)
    monkeypatch.setattr(convolution, "CHUNK", 1)
    np.testing.assert_allclose(conv_singular_values(drawn(4, 3, 3, 3), (6, 10), stride=2), whole, atol=1e-13)


LANCZOS = {
    "square": drawn(6, 6, 3, 3),
    "wide": drawn(3, 6, 3, 3),
    "tall": drawn(6, 3, 3, 3),
    "every value twice": torch.block_diag(*[drawn(3, 3)] * 2)[:, :, None, None] * drawn(1, 1, 3, 3, seed=2),
    "all values equal": torch.eye(6)[:, :, None, None],
    "few values": torch.zeros(6, 6, 1, 1).index_put((torch.tensor(0), torch.tensor(1)), torch.tensor(1.0)),
    "zero": torch.zeros(6, 6, 3, 3),
}


@pytest.mark.parametrize("name", LANCZOS)
def test_the_largest_without_the_matrix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = LANCZOS[name]
    whole = conv_singular_values(kernel, 5, padding="zeros")
    assert conv_singular_values(kernel, 5, padding="zeros", top=3).tolist() == whole[:3].tolist()
    monkeypatch.setattr(convolution, "LANCZOS", 10)
    for top in (1, 4):
        found = conv_singular_values(kernel, 5, padding="zeros", top=top)
        np.testing.assert_allclose(found, whole[:top], atol=1e-9)
        again = conv_singular_values(kernel, 5, padding="zeros", top=top)
        np.testing.assert_allclose(again, found, atol=1e-12)  # where values are equal ARPACK restarts at random


def test_circular_values_can_be_cut_too() -> None:
    kernel = drawn(3, 3, 3, 3)
    assert conv_singular_values(kernel, 6, top=2).tolist() == conv_singular_values(kernel, 6)[:2].tolist()
    assert len(conv_singular_values(kernel, 2, top=100)) == 12


def test_a_matrix_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "DENSE", 10)
    with pytest.raises(NetopsyError, match=r"matrix of 108 x 72, too large .* pass a small top="):
        conv_singular_values(drawn(3, 2, 3, 3), 6, padding="zeros")
    with pytest.raises(NetopsyError, match=r"top=72: .* too large"):
        conv_singular_values(drawn(3, 2, 3, 3), 6, padding="zeros", top=72)
    monkeypatch.setattr(convolution, "LANCZOS", 10**9)
    found = conv_singular_values(drawn(3, 2, 3, 3), 6, padding="zeros", top=2)
    monkeypatch.undo()
    np.testing.assert_allclose(found, conv_singular_values(drawn(3, 2, 3, 3), 6, padding="zeros")[:2], rtol=1e-9)


def test_lanczos_that_does_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "LANCZOS", 10)
    monkeypatch.setattr(convolution, "eigsh", partial(convolution.eigsh, maxiter=1))
    with pytest.raises(NetopsyError, match="top=2: Lanczos did not converge for the 150 x 150 operator"):
        conv_singular_values(drawn(6, 6, 3, 3), 5, padding="zeros", top=2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": torch.ones(3, 3)}, r"kernel: expected a real floating .* got \(3, 3\); of a linear layer"),
        ({"kernel": [1.0]}, "got list"),
        ({"kernel": torch.ones(3, 3, 3, 3, dtype=torch.int64)}, "expected a real floating"),
        ({"kernel": torch.ones(0, 3, 3, 3)}, "kernel: expected at least one entry"),
        ({"kernel": torch.full((1, 1, 3, 3), math.nan)}, "kernel: expected finite values"),
        ({"input_shape": (4, 4, 4)}, r"input_shape: expected one number, or 2, one an axis; got \(4, 4, 4\)"),
        ({"input_shape": 0}, "input_shape: expected an integer >= 1; got 0"),
        ({"stride": 0}, "stride: expected an integer >= 1"),
        ({"padding": -1}, "padding: expected an integer >= 0"),
        ({"padding": "reflect"}, "padding: expected 'circular', 'zeros', or numbers of zeros; got 'reflect'"),
        ({"groups": 3}, "groups=3: expected a divisor of the kernel's 4 outputs"),
        ({"input_shape": 2, "padding": 0}, "input_shape: expected an input at least as large as the kernel"),
        ({"top": 0}, "top: expected an integer >= 1"),
    ],
    ids=str,
)
def test_bad_input_is_refused(arguments: dict[str, Any], message: str) -> None:
    given = {"kernel": torch.ones(4, 3, 3, 3), "input_shape": 6, **arguments}
    with pytest.raises(NetopsyError, match=message):
        conv_singular_values(**given)


def network(seed: int, **options: Any) -> nn.Sequential:
    with forked(seed):
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, stride=2, **options), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3),
            nn.Flatten(), nn.Linear(12, 3), nn.Linear(3, 3),
        )  # fmt: skip


DATA = (torch.randn(5, 2, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(5, dtype=torch.long))


def trajectory(**options: Any) -> Trajectory:
    states = {key: network(seed, **options).state_dict() for key, seed in ((0, 1), (4, 2), (9, 3))}
    return Trajectory.from_states(network(0, **options), states)


def test_spectra_of_every_module_at_every_checkpoint() -> None:
    result = spectra(trajectory(), DATA)
    frame = result.to_frame().set_index(["site", "checkpoint"])
    assert list(frame.index) == [(site, key) for key in (0, 4, 9) for site in ("0", "3", "5", "6")]
    assert result.provenance["sizes"] == {"0": [8, 8], "3": [4, 4]}
    first, last = network(1), network(3)
    values = conv_singular_values(last[0].weight, 8, stride=2)
    row = frame.loc[("0", 9)]
    assert (row.norm, row.smallest, row["values"]) == (values[0], values[-1], len(values))
    assert row.stable_rank == pytest.approx((values**2).sum() / values[0] ** 2)
    moved = last[0].weight.double() - first[0].weight.double()
    assert row.moved == pytest.approx(conv_singular_values(moved, 8, stride=2)[0])
    linear = torch.linalg.svdvals(last[5].weight.double()).detach().numpy()
    kept = result.values[(result.values.site == "5") & (result.values.checkpoint == 9)]
    np.testing.assert_allclose(kept.value, linear, atol=1e-12)
    assert kept["index"].tolist() == [0, 1, 2]
    assert set(frame.loc[("3", 0), ["moved"]]) == {0.0}
    assert set(frame.status) == {"ok"}


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_their_own_padding(mode: str) -> None:
    path = trajectory(padding_mode=mode)
    frame = spectra(path, DATA, padding="own", checkpoints=[9], sites=["0", "3"]).frame.set_index("site")
    weight = network(3)[0].weight.detach()
    dense = oracle.matrix(
        weight, (8, 8), stride=(2, 2), before=(1, 1), outputs=(4, 4), dilation=(1, 1), wraps=mode == "circular"
    )
    assert frame.norm["0"] == pytest.approx(np.linalg.svd(dense, compute_uv=False)[0], rel=1e-12)
    inner = conv_singular_values(network(3)[3].weight, 4, padding=0)
    assert (frame.norm["3"], frame.smallest["3"]) == (inner[0], inner[-1])


def test_own_padding_that_wraps_to_another_size() -> None:
    """Two positions at each side, around: more outputs than inputs, so no frequencies."""
    with forked(1):
        model = nn.Sequential(nn.Conv1d(2, 2, 3, padding=2, padding_mode="circular"), nn.Flatten(), nn.Linear(14, 2))
    data = (torch.randn(3, 2, 5), torch.zeros(3))
    frame = spectra(Trajectory(model, {7: model.state_dict()}), data, padding="own", sites="0").frame
    weight = model[0].weight.detach()
    dense = oracle.matrix(weight, (5,), stride=(1,), before=(2,), outputs=(7,), dilation=(1,), wraps=True)
    assert frame.norm[0] == pytest.approx(np.linalg.svd(dense, compute_uv=False)[0], rel=1e-12)
    assert np.isnan(frame.moved[0])  # no initial weights


def test_same_and_valid_padding() -> None:
    for padding, size in (("same", 7), ("valid", 5)):
        with forked(1):
            model = nn.Sequential(nn.Conv1d(2, 2, 3, padding=padding), nn.Flatten(), nn.Linear(2 * size, 2))
        frame = spectra(
            Trajectory(model, {7: model.state_dict()}),
            (torch.randn(3, 2, 7), torch.zeros(3)),
            padding="own",
            sites="0",
        ).frame
        expected = conv_singular_values(model[0].weight, 7, padding="zeros" if padding == "same" else 0)
        assert frame["values"][0] == len(expected)
        assert frame.norm[0] == expected[0]


class Idle(nn.Module):
    """One convolution is never called, one reflects at the edge."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Conv2d(1, 1, 3)
        self.mirror = nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mirror(x).mean((2, 3)))


def test_modules_without_a_spectrum_say_why() -> None:
    with forked(2):
        model = Idle()
    bad = {name: value.clone() for name, value in model.state_dict().items()}
    bad["head.weight"][0, 0] = math.inf
    path = Trajectory(model, {0: model.state_dict(), 1: bad})
    frame = spectra(path, DATA, padding="own").frame
    assert frame.status.tolist() == ["not called", "padding", "ok", "not called", "padding", "non-finite"]
    assert frame.norm.isna().tolist() == [True, True, False, True, True, True]
    assert spectra(path, DATA, sites="mirror").frame.status.tolist() == ["ok", "ok"]


def test_a_parametrized_weight_is_the_one_that_acts() -> None:
    with forked(3):
        model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)), nn.Linear(3, 2)).eval()
    data = (torch.randn(3, 4), torch.zeros(3))
    frame = spectra(Trajectory(model, {0: model.state_dict()}), data).frame
    expected = torch.linalg.svdvals(model[0].weight.double())[0].item()
    assert frame.norm[0] == pytest.approx(expected, rel=1e-6)


def test_few_values_and_few_points() -> None:
    result = spectra(trajectory(), DATA, top=3, checkpoints=[9])
    assert result.frame["values"].tolist() == [3, 3, 3, 3]
    assert result.frame.smallest.isna().all()
    assert result.frame.stable_rank.isna().all()
    result = spectra(trajectory(), DATA, points=5, checkpoints=[9], sites="0")
    values = conv_singular_values(network(3)[0].weight, 8, stride=2)
    assert result.values["index"].tolist() == [0, 16, 32, 47, 63]
    np.testing.assert_array_equal(result.values.value, values[[0, 16, 32, 47, 63]])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trajectory": network(0)}, r"trajectory: expected a netopsy\.Trajectory; got Sequential"),
        ({"sites": "1"}, "site '1': matches no linear or convolutional module of Sequential"),
        ({"sites": ()}, "sites: expected names or globs"),
        ({"checkpoints": ()}, "checkpoints: expected at least one key, or 'all'; got none"),
        ({"checkpoints": (3,)}, "no checkpoint 3"),
        ({"padding": "zeros"}, "padding: "),
        ({"points": 1}, "points: expected an integer >= 2"),
        ({"top": 0}, "top: expected an integer >= 1"),
    ],
    ids=str,
)
def test_bad_questions_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        spectra(**{"trajectory": trajectory(), "data": DATA, **arguments})


def test_a_weight_made_by_a_hook_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    weight = model[0].weight
    del model[0]._parameters["weight"]
    model[0].register_parameter("weight_v", weight)
    model[0].weight = weight.detach()
    with pytest.raises(NetopsyError, match="site '0': its weight is no parameter but made by a hook"):
        spectra(Trajectory(model, {0: model.state_dict()}), (torch.randn(3, 4), torch.zeros(3)))


def test_they_are_saved_and_read_again(tmp_path: Path) -> None:
    path = Trajectory.from_states(network(0), {0: network(1).state_dict(), "final": network(2).state_dict()})
    seen: list[tuple[int, int | None]] = []
    result = spectra(path, DATA, progress=lambda *at: seen.append(at))
    assert seen == [(i, 8) for i in range(1, 9)]
    again = SpectraResult.load(result.save(tmp_path / "spectra"))
    pd.testing.assert_frame_equal(again.to_frame(), result.to_frame())
    pd.testing.assert_frame_equal(again.values, result.values)
    assert "convolutions with circular padding" in str(again)
    with pytest.raises(NetopsyError, match="expected a saved SpectraResult"):
        SpectraResult.load(tmp_path)


def test_the_pictures() -> None:
    result = spectra(trajectory(), DATA)
    ax = result.plot(kind="spectrum", site="0")
    assert [line.get_label() for line in ax.lines] == ["0", "4", "9"]
    np.testing.assert_allclose(ax.lines[2].get_ydata(), conv_singular_values(network(3)[0].weight, 8, stride=2))
    bars = result.plot()
    np.testing.assert_allclose(bars.lines[2].get_ydata(), result.frame.moved[result.frame.checkpoint == 9])
    assert [label.get_text() for label in bars.get_xticklabels()] == ["0", "3", "5", "6"]
    with pytest.raises(NetopsyError, match="site"):
        spectrum_lines(result.values, site="none")
    with pytest.raises(NetopsyError, match="got several for '0' at 0"):
        norm_lines(pd.concat([result.frame, result.frame]))
    with pytest.raises(NetopsyError, match="column='moved': expected at least one number; got none"):
        norm_lines(result.frame.assign(moved=np.nan))


def test_the_operator_is_what_its_matrix_says() -> None:
    conv = Convolution.read(drawn(4, 2, 3, 3), (4, 5), 2, "zeros", 1, 2)
    x = drawn(3, 4, 4, 5, seed=1)
    assert conv.shape == (4 * 2 * 3, 4 * 4 * 5)
    np.testing.assert_allclose(conv(x).flatten(1), x.flatten(1) @ conv._matrix(), atol=1e-12)
