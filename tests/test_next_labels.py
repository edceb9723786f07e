"""Labels of causal language models are moved where the probes look for them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.commands.inspect import subject
from netopsy.commands.next_labels import next_labels
from netopsy.engine.evaluate import evaluate
from netopsy.network.task import Task

WORDS = 11


def gpt2() -> hf.GPT2LMHeadModel:
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8, "vocab_size": WORDS}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))


def text(n: int = 6) -> Tensor:
    with forked(3):
        return torch.randint(WORDS, (n, 5))


def batch(ids: Tensor) -> dict[str, Tensor]:
    return {"input_ids": ids, "labels": torch.where(ids == 2, -100, ids)}


FORMS: dict[str, Any] = {
    "dict": batch(text()),
    "list": [batch(part) for part in text().split(4)],
    "tuple": (text(), batch(text())["labels"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_next_token_is_what_is_told(form: str) -> None:
    with forked(0):
        model = gpt2()
    moved = evaluate(model, next_labels(FORMS[form]), metrics=("error", "loss"), engine="eager")
    wanted = evaluate(model, FORMS[form], metrics=("error", "loss"), engine="eager", task=Task(positions="next"))
    assert moved.baseline["error"] == wanted.baseline["error"]
    assert moved.baseline["loss"] == pytest.approx(wanted.baseline["loss"], rel=1e-6)


def test_splits_are_moved_apart() -> None:
    found = next_labels({"train": batch(text(2)), "test": batch(text(3))})
    assert {name: len(part["labels"]) for name, part in found.items()} == {"train": 2, "test": 3}
    assert found["test"]["labels"][:, -1].tolist() == [-100] * 3
    assert torch.equal(found["test"]["input_ids"], text(3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"input_ids": text(), "labels": text()[:, 0]}, r"expected labels of shape \(n, positions\) .*; got \(6,\)"),
        (iter([batch(text())]), r"expected tensors, or a list of batches, .*; return list\(loader\)"),
    ],
)
def test_other_data_are_refused(data: Any, message: str) -> None:
    with pytest.raises(NetopsyError, match=f"data: {message}"):
        next_labels(data)


def test_a_folder_of_a_causal_model_is_inspected_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "tuned")):
        with forked(seed):
            gpt2().save_pretrained(tmp_path / name)
    (tmp_path / "own_text.py").write_text(
        "from tests.test_next_labels import batch, text\ndata = lambda: batch(text())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    open_ = partial(subject, None, model=None, data="own_text:data", out=None)
    found = open_(init=Path("base"), final=Path("tuned"))
    assert torch.equal(found.data["labels"], next_labels(batch(text()))["labels"])
    assert found.folder.parent == Path("runs/inspected")
    other = open_(init=Path("tuned"), final=Path("base"))
    assert other.folder != found.folder
    assert (other.folder.name[:5], found.folder.name[:6]) == ("base-", "tuned-")


@pytest.mark.parametrize(
    ("final", "message"),
    [
        ("nowhere", "nowhere: expected a folder that save_pretrained wrote; there is none"),
        ("empty", "empty: expected .*model.safetensors"),
        ("bare", r"config.json that save_pretrained writes; it cannot be read .* \(--model pkg.mod:factory\)"),
    ],
)
def test_a_folder_that_is_no_model_is_told(tmp_path: Path, final: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/model.safetensors").write_bytes(b"")
    with pytest.raises(NetopsyError, match=message):
        subject(None, model=None, init=tmp_path / "bare", final=tmp_path / final, data="digits", out=None)


def test_a_loader_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_failing.py").write_text("def data():\n    return {}['images']\n")
    monkeypatch.syspath_prepend(tmp_path)
    for seed, name in enumerate(("base", "tuned")):
        with forked(seed):
            gpt2().save_pretrained(tmp_path / name)
    with pytest.raises(NetopsyError, match="data: own_failing:data raised KeyError: 'images'"):
        subject(
            None,
            model=None,
            init=tmp_path / "base",
            final=tmp_path / "tuned",
            data="own_failing:data",
            out=None,
        )
