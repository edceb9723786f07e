"""Our transformers, the mixer and the staged ResNet: sizes, names, what they compute, and the two engines on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine.edits import Bypass, Variant
from netopsy.engine.evaluate import evaluate
from netopsy.models.fixup import fixup
from netopsy.models.mixer import mixer, mixer_b16, mixer_l16
from netopsy.models.staged_resnet import staged_resnet
from netopsy.models.transformer import transformer
from netopsy.models.vit import vit, vit_b16, vit_l16
from netopsy.network.sites import find_sites
from netopsy.network.trajectory import Trajectory
from netopsy.probes.robustness import robustness
from tests.oracles import transformers as oracle


def lm(**options: Any) -> nn.Module:
    return transformer(**{"vocabulary": 11, "length": 6, "depth": 2, "width": 8, "heads": 2, **options})


def small_vit(**options: Any) -> nn.Module:
    return vit(**{"classes": 4, "channels": 2, "size": 6, "patch": 2, "depth": 2, "width": 8, "heads": 2, **options})


def small_mixer(**options: Any) -> nn.Module:
    return mixer(**{"classes": 4, "channels": 2, "size": 6, "patch": 2, "depth": 2, "width": 8, **options})


def staged(**options: Any) -> nn.Module:
    return staged_resnet(**{"stages": (2, 1), "classes": 4, "channels": 2, "width": 1 / 16, **options})


BUILD: dict[str, Callable[..., nn.Module]] = {
    "lm": lm,
    "vit": small_vit,
    "vit-mean": lambda: small_vit(pool="mean"),
    "mixer": small_mixer,
    "staged": staged,
    "staged-norm": lambda: staged(batch_norm=True),
}


def given(name: str, n: int = 3) -> Tensor:
    return torch.randint(11, (n, 6)) if name == "lm" else torch.randn(n, 2, 6, 6)


def size(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


def stirred(model: nn.Module) -> nn.Module:
    """No bias, norm or class token is neutral."""
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3 * torch.randn(value.shape))
    return model.double().eval()


# Sizes and names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "printed"),
    [(vit_b16, 86_567_656), (vit_l16, 304_326_632), (mixer_b16, 59_880_472), (mixer_l16, 208_196_168)],
)
def test_image_models_have_the_papers_counts(build: Callable[[], nn.Module], printed: int) -> None:
    with torch.device("meta"):
        assert size(build()) == printed


def test_vit_b16_count_by_hand() -> None:
    attention, mlp, norm = 4 * (768 * 768 + 768), 768 * 3072 + 3072 + 3072 * 768 + 768, 2 * 768
    block = attention + mlp + 2 * norm
    stem = 3 * 16 * 16 * 768 + 768 + 768 + 197 * 768
    assert stem + 12 * block + norm + 768 * 1000 + 1000 == 86_567_656


@pytest.mark.parametrize("bias", [False, True])
def test_language_model_count_by_hand(bias: bool) -> None:
    model = lm(hidden=5, bias=bias)
    block = 4 * (8 * 8 + 8 * bias) + 8 * 5 + 5 + 5 * 8 + 8 + 2 * 2 * 8
    assert size(model) == 11 * 8 + 6 * 8 + 2 * block + 2 * 8 + 8 * 11 + 11


def test_t5_base_sizes_give_the_papers_count_but_for_the_positions() -> None:
    with torch.device("meta"):
        model = transformer(vocabulary=17_712, length=128, depth=12, width=768, hidden=3072, heads=12)
    assert size(model) - 128 * 768 == 112_242_480


def test_sites_are_the_papers_layers() -> None:
    head = ["norm", "head"]
    attention = [f"attention.{part}" for part in ("query", "key", "value", "out")]
    block = ["norm0", *attention, "norm1", "mlp.dense0", "mlp.dense1"]
    mixing = ["norm0", "token_mixing.dense0", "token_mixing.dense1"]
    mixing += ["norm1", "channel_mixing.dense0", "channel_mixing.dense1"]
    starts = {"lm": ["embedding", "position"], "vit": ["embedding", "token", "position"], "mixer": ["embedding"]}
    for name, start in starts.items():
        model, parts = BUILD[name](), mixing if name == "mixer" else block
        inner = [f"blocks.{i}.{part}" for i in range(2) for part in parts]
        assert [site.name for site in find_sites(model, "modules")] == [*start, *inner, *head]
        assert [site.name for site in find_sites(model, "blocks")] == [*start, "blocks.0", "blocks.1", *head]
    names = ["stem.conv", "stage1.block1", "stage1.block2", "down2.conv", "stage2.block1", "classifier"]
    assert [site.name for site in find_sites(staged(), "blocks")] == names


# What they compute ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_the_language_model_agrees_with_one_position_at_a_time(bias: bool) -> None:
    with forked(0):
        model, ids = stirred(lm(bias=bias)), given("lm")
    expected = oracle.language_model(dict(model.state_dict()), ids.numpy(), 2, 2)
    np.testing.assert_allclose(model(ids).detach().numpy(), expected, rtol=1e-9, atol=1e-11)
    assert expected.std() > 0.1


@pytest.mark.parametrize("name", ["vit", "vit-mean", "mixer"])
def test_image_models_agree_with_one_patch_at_a_time(name: str) -> None:
    with forked(1):
        model, images = stirred(BUILD[name]()), given(name).double()
    state = dict(model.state_dict())
    slow = (
        oracle.mixer(state, images.numpy(), 2, 2) if name == "mixer" else oracle.vit(state, images.numpy(), 2, 2, 2)
    )
    np.testing.assert_allclose(model(images).detach().numpy(), slow, rtol=1e-9, atol=1e-11)
    assert slow.std() > 0.1


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_staged_resnet_agrees_with_its_formula(batch_norm: bool) -> None:
    with forked(2):
        model, x = staged(batch_norm=batch_norm), given("staged").double()
        for name, value in model.named_buffers():
            if "running" in name:
                value.uniform_(0.5, 1.5)
        stirred(model)
    state = model.state_dict()

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), stride, 1)

    def preact(name: str, x: Tensor) -> Tensor:
        if batch_norm:
            mean, variance, scale, shift = (
                state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
            )
            x = (x - mean) / (variance + 1e-5).sqrt() * scale + shift
        return x.clamp(min=0)

    x, y = conv("stem.conv", x), x
    for name in ("stage1.block1", "stage1.block2", "down2", "stage2.block1"):
        if name == "down2":
            x = conv("down2.conv", preact("down2.norm", x), 2)
        else:
            x = x + conv(f"{name}.conv2", preact(f"{name}.norm2", conv(f"{name}.conv1", preact(f"{name}.norm1", x))))
    x = preact("norm", x).mean((2, 3))
    torch.testing.assert_close(model(y), x @ state["classifier.weight"].T + state["classifier.bias"])


def test_every_block_of_a_staged_resnet_can_be_bypassed() -> None:
    """All skips are the identity: replacing a block by it is setting its last convolution to zero."""
    with forked(3):
        model, x, y = staged(stages=(2, 2, 1)).eval(), given("staged", 9), torch.randint(4, (9,))
    blocks = [name for name, _ in model.named_modules() if name.rpartition(".")[2].startswith("block")]
    assert blocks == ["stage1.block1", "stage1.block2", "stage2.block1", "stage2.block2", "stage3.block1"]
    losses = (
        evaluate(model, (x, y), [Variant(name, (Bypass(name),)) for name in blocks], engine="eager").to_frame().loss
    )
    for name, loss in zip(blocks, losses[1:], strict=True):
        zeroed = staged(stages=(2, 2, 1)).eval()
        zeroed.load_state_dict(model.state_dict())
        with torch.no_grad():
            for value in zeroed.get_submodule(f"{name}.conv2").parameters():
                value.zero_()
            assert loss == pytest.approx(F.cross_entropy(zeroed(x), y).item(), rel=1e-5)


def test_fixup_draws_a_staged_resnet() -> None:
    model = staged()
    fixup(model)
    assert not model(given("staged")).any()


@pytest.mark.parametrize("place", [1, 3, 5])
def test_a_later_token_changes_no_earlier_logit(place: int) -> None:
    with forked(4):
        model, ids = lm().eval(), given("lm", 8)
    other = ids.clone()
    other[:, place:] = (ids[:, place:] + 1) % 11
    with torch.no_grad():
        before, after = model(ids), model(other)
    assert torch.equal(before[:, :place], after[:, :place])
    assert (before[:, place:] != after[:, place:]).all(2).all()


def test_a_shorter_sequence_has_the_same_logits() -> None:
    with forked(5):
        model, ids = lm().eval(), given("lm")
    torch.testing.assert_close(model(ids[:, :4]), model(ids)[:, :4])


def test_without_positions_a_vit_by_the_mean_knows_no_order() -> None:
    with forked(6):
        model, images = small_vit(pool="mean"), given("vit")
        nn.init.zeros_(model.position.weight)
    halves = torch.cat([images[:, :, 2:], images[:, :, :2]], 2)  # whole patches move
    torch.testing.assert_close(model(halves), model(images))
    nn.init.normal_(model.position.weight)
    assert not torch.allclose(model(halves), model(images))


# Initial values -------------------------------------------------------------------------------------------------


def test_initial_values_are_as_documented() -> None:
    with forked(7), torch.no_grad():
        model = transformer(vocabulary=400, length=100, depth=1, width=96, hidden=192, heads=4)
        image = vit(classes=5, width=96, depth=1)
        mixing = mixer(classes=5, width=96, depth=1)
        assert model.embedding.weight.std().item() == pytest.approx(1.0, rel=0.02)
        assert model.position.weight.square().mean().item() == pytest.approx(0.5, rel=0.04)
        assert image.position.weight.std().item() == pytest.approx(0.02, rel=0.04)
        assert not image.token.weight.any()
        dense = model.blocks[0].mlp.dense0
        limit = math.sqrt(6 / (96 + 192))
        assert 0.95 * limit < dense.weight.abs().max().item() <= limit
        assert not dense.bias.any()
        assert mixing.blocks[0].channel_mixing.dense1.weight.std().item() == pytest.approx((4 * 96) ** -0.5, rel=0.04)
    with forked(8):
        torchs = lm(init="torch")
    assert torchs.head.bias.any()


@pytest.mark.parametrize("name", BUILD)
def test_one_seed_gives_one_model(name: str) -> None:
    models = []
    for seed in (0, 0, 1):
        with forked(seed):
            models.append(BUILD[name]().state_dict())
    first, again, other = models
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


# Engines --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch.export's own
@pytest.mark.parametrize("name", ["lm", "vit", "mixer", "staged-norm"])
def test_both_engines_find_the_same_robustness(name: str) -> None:
    states = {}
    for epoch in (0, 1):
        with forked(epoch):
            states[epoch] = BUILD[name]().state_dict()
    with forked(9):
        x = given(name, 21)
        y = torch.randint(11, (21, 6)) if name == "lm" else torch.randint(4, (21,))
    if name == "lm":
        y[::4, 3:] = -100
    trajectory = Trajectory.from_states(BUILD[name], states)
    frames = []
    for engine in ("exported", "eager"):
        result = robustness(trajectory, (x, y), engine=engine, batch_size=8)
        assert result.provenance["engine"] == engine
        frames.append(result.frame)
    exported, eager = frames
    assert exported.site.tolist() == eager.site.tolist()
    assert exported.loss.nunique() > len(exported) / 2
    np.testing.assert_allclose(exported.loss, eager.loss, rtol=1e-5)
    np.testing.assert_allclose(exported.error, eager.error, atol=1e-9)


# Refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "changes", "message"),
    [
        (lm, {"vocabulary": 0}, "vocabulary: expected an integer >= 1; got 0"),
        (lm, {"length": 0}, "length: expected an integer >= 1; got 0"),
        (lm, {"depth": 0}, "depth: expected an integer >= 1; got 0"),
        (lm, {"width": 0}, "width: expected an integer >= 1; got 0"),
        (lm, {"hidden": 0}, "hidden: expected an integer >= 1; got 0"),
        (lm, {"heads": 0}, "heads: expected an integer >= 1; got 0"),
        (lm, {"heads": 3}, "heads: expected a divisor of the width, 8; got 3"),
        (lm, {"activation": "tanh"}, "activation: expected one of 'relu', 'gelu'; got 'tanh'"),
        (lm, {"init": "zeros"}, "init: expected one of .* got 'zeros'"),
        (small_vit, {"patch": 4}, "patch: expected a divisor of the image's size, 6; got 4"),
        (small_vit, {"classes": 0}, "classes: expected an integer >= 1; got 0"),
        (small_vit, {"pool": "max"}, "pool: expected one of 'token', 'mean'; got 'max'"),
        (small_vit, {"init": "zeros"}, "init: expected one of .* got 'zeros'"),
        (small_mixer, {"patch": 5}, "patch: expected a divisor of the image's size, 6; got 5"),
        (small_mixer, {"depth": 0}, "depth: expected an integer >= 1; got 0"),
        (small_mixer, {"token_units": 0}, "token_units: expected an integer >= 1; got 0"),
        (small_mixer, {"channel_units": 0}, "channel_units: expected an integer >= 1; got 0"),
        (staged, {"stages": ()}, "stages: expected the number of blocks of at least one stage; got none"),
        (staged, {"stages": (1, 0)}, "stages: expected an integer >= 1; got 0"),
        (staged, {"width": 0.001}, r"width: expected a number in \[0.015625, inf\); got 0.001"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_built_is_refused(build: Callable[..., nn.Module], changes: Any, message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        build(**changes)


def test_a_sequence_that_is_too_long_is_refused() -> None:
    message = "positions: expected at most 6, the length that the model was built for; got 7; cut the sequences"
    with pytest.raises(NetopsyError, match=message):
        lm()(torch.zeros(2, 7, dtype=torch.int64))
