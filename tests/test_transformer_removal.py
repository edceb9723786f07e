"""Whole blocks of transformers left out: both engines equal the model without them."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
from torch import nn

from netopsy._checks import NetopsyError
from netopsy.engine.edits import Bypass, Variant, joined, remove_blocks
from netopsy.engine.evaluate import evaluate
from netopsy.engine.evaluation import Evaluation
from netopsy.engine.execution import Engine
from netopsy.models.fcn import fcn
from tests.test_transformer_sites import ENGINES, built, data_of

STACKS = {
    "bert": "bert.encoder.layer",
    "deberta": "deberta.encoder.layer",
    "gpt2": "transformer.h",
    "llama": "model.layers",
    "vit": "vit.layers",
    "t5": "encoder.encoder.block",
    "timm": "blocks",
}


def without(name: str, number: int) -> nn.Module:
    """The model, one block deleted from its list."""
    twin = copy.deepcopy(built(name))
    stack = twin.get_submodule(STACKS[name])
    if name == "t5" and number == 0:  # the next block must make the position bias that the first makes for all
        first, second = (stack[i].layer[0].SelfAttention for i in range(2))  # type: ignore[index]
        second.has_relative_attention_bias = True
        second.relative_attention_bias = first.relative_attention_bias
    del stack[number]  # type: ignore[operator]
    return twin


@cache
def measured(name: str, engine: Engine) -> Evaluation:
    data, task = data_of(name)
    return evaluate(built(name), data, remove_blocks(built(name)), task=task, engine=engine, examples=("loss",))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", STACKS)
def test_a_removed_block_is_one_deleted_from_the_list(name: str, number: int, engine: Engine) -> None:
    result, (data, task) = measured(name, engine), data_of(name)
    assert result.provenance["engine"] == engine
    assert result.labels == ("block 0 removed", "block 1 removed")
    expected = evaluate(without(name, number), data, task=task, engine="eager", examples=("loss",))
    np.testing.assert_allclose(result.examples["loss"][number], expected.examples["loss"][-1], atol=1e-5)
    assert np.abs(result.examples["loss"][number] - result.examples["loss"][-1]).max() > 1e-3


def test_blocks_are_bypassed_in_the_order_of_the_model() -> None:
    assert remove_blocks(nn.DataParallel(built("timm"))) == (
        Variant("block 0 removed", (Bypass("blocks.0"),)),
        Variant("block 1 removed", (Bypass("blocks.1"),)),
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_all_blocks_may_go_together(engine: Engine) -> None:
    (data, task), model = data_of("timm"), built("timm")
    both = joined("no blocks", remove_blocks(model))
    twin = copy.deepcopy(model)
    twin.blocks = nn.Sequential()
    result = evaluate(model, data, [both], task=task, engine=engine, examples=("loss",))
    expected = evaluate(twin, data, task=task, engine="eager", examples=("loss",))
    np.testing.assert_allclose(result.examples["loss"][0], expected.examples["loss"][-1], atol=1e-5)


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(NetopsyError, match=r"FCN .* has none"):
        remove_blocks(fcn(inputs=6, classes=3, depth=2, width=8))
