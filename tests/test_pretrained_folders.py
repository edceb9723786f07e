"""Folders of pretrained and fine-tuned models: other heads, shards, half precision, and what is refused."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.network.pretrained_folders import BaseState, build_pretrained, is_causal, pretrained_states
from netopsy.network.trajectory import Trajectory

hf.logging.disable_progress_bar()


def config(**options: Any) -> hf.BertConfig:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    return hf.BertConfig(**{**sizes, "vocab_size": 20, "max_position_embeddings": 8, **options})


@cache
def model(kind: str, seed: int, labels: int = 3) -> hf.PreTrainedModel:
    with forked(seed):
        return getattr(hf, kind)(config(num_labels=labels))


def saved(folder: Path, kind: str, seed: int, **options: Any) -> Path:
    model(kind, seed).save_pretrained(folder, **options)
    return folder


CLASSIFIER = "BertForSequenceClassification"
HEAD = ["classifier.weight", "classifier.bias"]


def opened(base: Path, final: Path, **options: Any) -> tuple[Trajectory, BaseState]:
    trajectory = Trajectory.from_states(*pretrained_states(base, final, **options))
    state = trajectory.state(0)
    assert isinstance(state, BaseState)
    return trajectory, state


@pytest.mark.parametrize(
    ("kind", "drawn"),
    [
        (CLASSIFIER, []),
        ("BertModel", HEAD),
        ("BertForMaskedLM", ["bert.pooler.dense.weight", "bert.pooler.dense.bias", *HEAD]),
    ],
)
def test_a_base_may_have_another_head(tmp_path: Path, kind: str, drawn: list[str]) -> None:
    base, final = saved(tmp_path / "base", kind, 1), saved(tmp_path / "final", CLASSIFIER, 2)
    trajectory, state = opened(base, final)
    assert list(state.drawn) == drawn
    assert trajectory.initial == 0
    assert trajectory.keys == (0, "final")
    own = model(kind, 1).state_dict()
    for name, value in trajectory.model(0).state_dict().items():
        if name not in drawn:
            assert torch.equal(value, own[name if name in own else name.removeprefix("bert.")]), name
        elif name.endswith("weight"):
            assert 0.005 < value.std() < 0.05, name  # BERT's initializer_range is 0.02
    trained = trajectory.model().state_dict()
    assert all(torch.equal(trained[name], value) for name, value in model(CLASSIFIER, 2).state_dict().items())
    heads = [name for name in load_file(base / "model.safetensors") if name.startswith("cls.")]
    assert [name for name in state.unused if name.startswith("cls.")] == heads


def test_the_draw_has_a_seed(tmp_path: Path) -> None:
    base, final = saved(tmp_path / "base", "BertModel", 1), saved(tmp_path / "final", CLASSIFIER, 2)
    before = torch.random.get_rng_state()
    heads = [opened(base, final, seed=seed)[1]["classifier.weight"] for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(before, torch.random.get_rng_state())


def test_another_number_of_classes_is_another_head(tmp_path: Path) -> None:
    model(CLASSIFIER, 1, 5).save_pretrained(tmp_path / "base")
    _, state = opened(tmp_path / "base", saved(tmp_path / "final", CLASSIFIER, 2))
    assert list(state.drawn) == HEAD
    assert state["classifier.weight"].shape == (3, 8)
    assert state.unused == tuple(name for name in state.unused if name in HEAD)


def test_a_bare_model_may_be_fine_tuned_from_one_with_a_head(tmp_path: Path) -> None:
    base, final = saved(tmp_path / "base", CLASSIFIER, 1), saved(tmp_path / "final", "BertModel", 2)
    trajectory, state = opened(base, final)
    assert not state.drawn
    assert sorted(state.unused) == sorted(HEAD)
    own = model(CLASSIFIER, 1).state_dict()
    assert all(torch.equal(value, own[f"bert.{name}"]) for name, value in trajectory.model(0).state_dict().items())


def test_shards_and_half_precision(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", "BertModel", 1, max_shard_size="2kB")
    assert len(list(base.glob("model-*.safetensors"))) > 2
    final = saved(tmp_path / "final", CLASSIFIER, 2)
    state = load_file(final / "model.safetensors")
    half = {name: value.bfloat16() for name, value in state.items()}
    save_file(half, final / "model.safetensors", {"format": "pt"})
    content = json.loads((final / "config.json").read_text())
    (final / "config.json").write_text(json.dumps({**content, "dtype": "bfloat16"}))
    trajectory, _ = opened(base, final)
    assert {value.dtype for value in trajectory.model().parameters()} == {torch.float32}
    for name, value in half.items():
        assert torch.equal(trajectory.tensor("final", name), value.float())
    name = "bert.encoder.layer.1.output.dense.weight"
    assert torch.equal(trajectory.tensor(0, name), model("BertModel", 1).state_dict()[name.removeprefix("bert.")])


def test_tied_weights_are_no_head_to_be_drawn(tmp_path: Path) -> None:
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8, "vocab_size": 20}
    small = hf.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)
    with forked(0):
        hf.GPT2Model(small).save_pretrained(tmp_path / "base")
        hf.GPT2LMHeadModel(small).save_pretrained(tmp_path / "final")
    trajectory, state = opened(tmp_path / "base", tmp_path / "final")
    assert not state.drawn
    start = trajectory.model(0)
    assert torch.equal(start.lm_head.weight, load_file(tmp_path / "base/model.safetensors")["wte.weight"])


@pytest.mark.parametrize(
    ("architectures", "causal"),
    [(["GPT2LMHeadModel"], True), (["LlamaForCausalLM"], True), (["BertForMaskedLM"], False), (None, False)],
)
def test_what_is_a_causal_language_model(tmp_path: Path, architectures: list[str] | None, causal: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": architectures}))
    assert is_causal(tmp_path) is causal


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": None}, "expected one entry under architectures.*--model pkg.mod:factory"),
        (
            {"architectures": ["Mine"], "auto_map": {}},
            "got Mine .its code lies beside it, and netopsy runs none.; up",
        ),
        ({"architectures": ["AutoModel"]}, "got AutoModel; upgrade transformers"),
        ({"num_attention_heads": 3}, "BertModel cannot be built from config.json: ValueError"),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = saved(tmp_path / "a", "BertModel", 1)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(NetopsyError, match=message):
        build_pretrained(folder)


def test_folders_that_are_refused(tmp_path: Path) -> None:
    final = saved(tmp_path / "final", CLASSIFIER, 2)
    with pytest.raises(NetopsyError, match="nowhere: expected a folder that save_pretrained wrote; there is none"):
        pretrained_states(tmp_path / "nowhere", final)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NetopsyError, match="expected a folder with one model"):
        pretrained_states(tmp_path / "empty", final)
    with forked(0):
        hf.BertModel(config(vocab_size=21)).save_pretrained(tmp_path / "larger")
        hf.BertForMaskedLM(config(num_hidden_layers=1)).save_pretrained(tmp_path / "shallow")
    with pytest.raises(NetopsyError, match=r"word_embeddings.weight is \(21, 8\), not \(20, 8\)"):
        pretrained_states(tmp_path / "larger", final)
    with pytest.raises(NetopsyError, match=r"but for its head; it has no bert.encoder.layer.1"):
        pretrained_states(tmp_path / "shallow", final)
    save_file({"x": torch.zeros(1)}, tmp_path / "empty/model.safetensors")
    with pytest.raises(NetopsyError, match="but for its head; it has nothing of it"):
        pretrained_states(tmp_path / "empty", final)
    (tmp_path / "empty/config.json").write_text("{")
    with pytest.raises(NetopsyError, match=r"expected the config.json that save_pretrained writes"):
        build_pretrained(tmp_path / "empty")


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "a", "BertModel", 1)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match=r"netopsy\[transformers\]"):
        build_pretrained(folder)
