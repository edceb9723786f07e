"""How much blocks turn hidden states: by hand, against a slow loop, and on every kind of transformer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.network.transformer_sites import transformer_blocks
from netopsy.probes.block_influence import BlockInfluence, block_influence
from tests.oracles.block_influence import angular_distance, influence
from tests.test_transformer_sites import built, data_of

MODELS = ("bert", "deberta", "gpt2", "llama", "vit", "t5", "timm", "ours", "our-vit")


class Turn(nn.Module):
    """Turns every position by an angle in the plane of the first two features."""

    def __init__(self, angle: float) -> None:
        super().__init__()
        c, s = math.cos(angle), math.sin(angle)
        self.weight = nn.Parameter(torch.tensor([[c, -s], [s, c]], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def turns(*angles: float) -> nn.Sequential:
    return nn.Sequential(*(Turn(angle) for angle in angles))


def plane(n: int = 7, positions: int = 3) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.randn(n, positions, 2, generator=source, dtype=torch.float64), torch.zeros(n, dtype=torch.long)


def seen(model: nn.Module, names: list[str], inputs: Any) -> list[tuple[Any, Any]]:
    """What enters and leaves modules, by hooks of the test's own."""
    caught: dict[str, tuple[Any, Any]] = {}

    def first(value: Any) -> Any:
        return value[0] if not isinstance(value, Tensor) else value

    def hook(name: str) -> Any:
        def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            entering = args[0] if args else kwargs["hidden_states"]
            caught[name] = entering.double().numpy(), first(output).double().numpy()

        return keep

    handles = [model.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True) for name in names]
    with torch.no_grad():
        model(*inputs[0], **inputs[1])
    for handle in handles:
        handle.remove()
    return [caught[name] for name in names]


def test_turns_by_hand() -> None:
    result = block_influence(turns(0, math.pi / 2, math.pi / 3), plane(), blocks=["0", "1", "2"], batch_size=3)
    assert result.frame.block_influence[0] == result.frame.angular_distance[0] == 0.0  # exactly
    np.testing.assert_allclose(result.frame.block_influence[1:], [1, 0.5], atol=1e-12)
    np.testing.assert_allclose(result.frame.angular_distance[1:], [1 / 2, 1 / 3], atol=1e-12)
    assert result.frame.positions.tolist() == [21] * 3
    angles = result.angles.set_index(["block", "blocks"]).angular_distance
    expected = {("0", 1): 0, ("0", 2): 1 / 2, ("0", 3): 5 / 6, ("1", 1): 1 / 2, ("1", 2): 5 / 6, ("2", 1): 1 / 3}
    assert set(angles.index) == set(expected)
    for key, value in expected.items():
        assert angles[key] == pytest.approx(value, abs=1e-12), key


def test_opposite_is_the_most_and_length_counts_nothing() -> None:
    model = nn.Sequential(Turn(math.pi), nn.Linear(2, 2, bias=False).double())
    with torch.no_grad():
        model[1].weight.copy_(3 * torch.eye(2))  # type: ignore[operator]
    found = block_influence(model, plane(), blocks={"back": "0", "longer": "1"}).frame
    assert found.block.tolist() == ["back", "longer"]
    np.testing.assert_allclose(found.block_influence, [2, 0], atol=1e-12)
    np.testing.assert_allclose(found.angular_distance, [1, 0], atol=1e-7)


def test_vectors_are_one_position_and_batches_change_nothing() -> None:
    x, y = plane(positions=1)
    one = block_influence(turns(1.0), (x[:, 0], y), blocks=["0"])
    other = block_influence(turns(1.0), (x, y), blocks=["0"], batch_size=2)
    assert one.frame.positions[0] == 7
    assert one.frame.block_influence[0] == pytest.approx(1 - math.cos(1), abs=1e-12)
    np.testing.assert_allclose(one.frame.block_influence, other.frame.block_influence, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_transformers_against_the_loop(name: str) -> None:
    (data, task), model = data_of(name), built(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    inputs = task.inputs(data)
    modules = list(transformer_blocks(model).values())
    assert len(modules) == 2
    result = block_influence(model, data, task=task, batch_size=4)
    assert result.frame.module.tolist() == modules
    caught = seen(model, modules, inputs)
    whole = np.ones(caught[0][0].shape[:2], dtype=bool)
    for row, (entering, leaving) in zip(result.frame.to_dict("records"), caught, strict=True):
        assert row["block_influence"] == pytest.approx(influence(entering, leaving, whole), abs=1e-5)
        assert row["angular_distance"] == pytest.approx(angular_distance(entering, leaving, whole), abs=1e-5)
        assert row["block_influence"] > 1e-3
    both = result.angles[result.angles.blocks == 2].angular_distance.item()
    assert both == pytest.approx(angular_distance(caught[0][0], caught[1][1], whole), abs=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_counts_nowhere(name: str, side: str) -> None:
    (data, task), model = data_of(name), built(name)
    length = data["input_ids"].shape[1]
    mask = (torch.arange(length) < torch.tensor([5, 2, 3, 1, 4, 5])[:, None]).long()
    mask = mask.flip(1) if side == "left" else mask
    masked = {**data, "attention_mask": mask}
    modules = list(transformer_blocks(model).values())
    caught = seen(model, modules, task.inputs(masked))
    result = block_influence(model, masked, task=task).frame
    assert result.positions.tolist() == [int(mask.sum())] * 2
    for row, (entering, leaving) in zip(result.to_dict("records"), caught, strict=True):
        assert row["block_influence"] == pytest.approx(influence(entering, leaving, mask.numpy()), abs=1e-5)
        assert row["angular_distance"] == pytest.approx(angular_distance(entering, leaving, mask.numpy()), abs=1e-5)
    other = {**masked, "input_ids": torch.where(mask == 1, data["input_ids"], 7)}
    again = block_influence(model, other, task=task).frame
    columns = ["block_influence", "angular_distance"]
    np.testing.assert_allclose(result[columns], again[columns], atol=1e-5)


def test_an_encoder_and_a_decoder_are_two_stacks() -> None:
    (data, task), model = data_of("t5-both"), built("t5-both")
    words = data["input_ids"]
    mask = torch.ones_like(words)
    mask[:, 3:] = 0
    data = {"input_ids": words, "attention_mask": mask, "decoder_input_ids": words[:, :4], "labels": data["labels"]}
    result = block_influence(model, data, task=task)
    counted = dict(zip(result.frame.block, result.frame.positions, strict=True))
    assert counted == {"encoder block 0": 6 * 3, "decoder block 0": 6 * 4}
    assert set(result.angles.blocks) == {1}  # no angle from one stack to the other


def test_a_shared_block_counts_each_time_it_runs() -> None:
    (data, task), model = data_of("albert"), built("albert")
    result = block_influence(model, data, task=task).frame
    assert result.positions.tolist() == [2 * data["input_ids"].numel()]


def test_a_state_of_zeros_has_no_direction() -> None:
    x, y = plane()
    x[0, 0] = 0
    result = block_influence(turns(1.0), (x, y), blocks=["0"]).frame
    assert math.isnan(result.block_influence[0])
    assert result.angular_distance[0] == pytest.approx(1 / math.pi, abs=1e-12)  # of the last position


class Pooling(nn.Module):
    """A block of a transformer; asked for, of its hidden states only the mean is left, or they become images."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.attention = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("query", "key", "value", "out")})
        self.mlp = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self.attention[name](x) for name in ("query", "key", "value"))
        x = x + self.attention["out"](nn.functional.scaled_dot_product_attention(query, key, value))
        x = x + self.mlp(x)
        return x.mean(1, keepdim=True) if self.kind == "pool" else x[..., None] if self.kind == "image" else x


class Pooled(nn.Module):
    def __init__(self, *kinds: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Pooling(kind) for kind in kinds)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x.flatten(1)[:, :4])


@pytest.mark.parametrize("masked", [True, False])
def test_found_blocks_that_change_the_shape_have_no_influence(masked: bool) -> None:
    source = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 3, 4, generator=source), torch.zeros(7, dtype=torch.long)
    data = {"x": x, **({"attention_mask": torch.ones(7, 3)} if masked else {}), "labels": y}
    with forked(0):
        model, plain = Pooled("", "", "pool", ""), Pooled("", "", "", "")
    plain.load_state_dict(model.state_dict())
    result, other = block_influence(model, data, batch_size=3), block_influence(plain, data)
    for name in ("block_influence", "angular_distance"):
        np.testing.assert_allclose(result.frame[name][:2], other.frame[name][:2], rtol=1e-6)
        assert result.frame[name].isna().tolist() == [False, False, True, masked]  # which positions count behind it?
    assert result.provenance["reshaping"] == ["block 2", "block 3"][: 1 + masked]
    spans = set(zip(result.angles.block, result.angles.blocks, strict=True))
    assert spans == {*((f"block {i}", 1) for i in range(4)), ("block 0", 2)}
    image = block_influence(Pooled("", "image"), data).frame
    assert image.block_influence.isna().tolist() == [False, True]
    with pytest.raises(NetopsyError, match=r"'blocks.2': takes .*\(7, 3, 4\) and gives \(7, 1, 4\)"):
        block_influence(model, data, blocks=["blocks.2"])


def test_save_and_load(tmp_path: Path) -> None:
    result = block_influence(turns(0.5, 1.0), plane(), blocks=["0", "1"])
    result.save(tmp_path / "result")
    again = BlockInfluence.load(tmp_path / "result")
    pd.testing.assert_frame_equal(again.to_frame(), result.frame)
    pd.testing.assert_frame_equal(again.angles, result.angles)
    assert again.provenance == result.provenance
    assert str(again) == str(result)
    assert "block_influence" in str(result)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("model", "blocks", "message"),
    [
        (turns(1.0), None, "Sequential .* has none"),
        (turns(1.0), "0", "blocks: expected names of modules"),
        (turns(1.0), [], "blocks: expected names of modules"),
        (turns(1.0), ["9"], "the model has no module '9'"),
        (nn.Sequential(nn.Linear(2, 3).double()), ["0"], r"'0': takes .*\(7, 3, 2\) and gives \(7, 3, 3\)"),
        (nn.Sequential(nn.Unflatten(1, (1, 3)), nn.ReLU()), ["1"], r"expected hidden states .* got \(7, 1, 3, 2\)"),
        ("bert", None, "model: expected a torch module; got str"),
    ],
)
def test_refusals(model: Any, blocks: Any, message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        block_influence(model, plane(), blocks=blocks)


def test_a_mask_must_fit_the_positions() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Turn(1.0)

        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            return self.block(x)

    x, y = plane()
    data = {"x": x, "attention_mask": torch.ones(7, 2), "labels": y}
    with pytest.raises(NetopsyError, match=r"attention_mask: expected .* \(7, 3\); got \(7, 2\)"):
        block_influence(Masked(), data, blocks=["block"])
