"""The code in docs/bring-your-own.md runs as it stands there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import netopsy
from netopsy.network.trajectory import Trajectory
from netopsy.probes.robustness_result import RobustnessResult
from tests import zoo

PAGE = Path(__file__).parent.parent / "docs" / "bring-your-own.md"
PARTS = re.findall(r"^## (\d)\. (.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
BLOCKS = [(number, "\n".join(re.findall(r"```python\n(.*?)```", part, re.DOTALL))) for number, part in PARTS]


class Headed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = zoo.mlp()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"head": self.net(x)}


def images() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(24, 6), torch.randint(0, 3, (24,))


def two_files() -> dict[str, Any]:
    torch.save(zoo.mlp().state_dict(), "init.pt")
    torch.save({f"_orig_mod.{k}": v for k, v in zoo.mlp().state_dict().items()}, "trained.pt")
    x, y = images()
    return {"build_model": zoo.mlp, "images": x, "labels": y}


def folder() -> dict[str, Any]:
    Path("checkpoints").mkdir()
    for epoch in range(3):
        torch.save(zoo.mlp().state_dict(), f"checkpoints/epoch_{epoch}.pt")
    (x, y), (a, b) = images(), images()
    return {"build_model": zoo.mlp, "images": x, "labels": y, "train_images": a, "train_labels": b}


def transformer() -> dict[str, Any]:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
        num_labels=3,
    )

    def build_bert() -> nn.Module:
        model: nn.Module = transformers.BertForSequenceClassification(config)
        return model

    return {
        "torch": torch,
        "build_bert": build_bert,
        "pretrained": build_bert().state_dict(),
        "finetuned": build_bert().state_dict(),
        "ids": torch.randint(0, 20, (12, 5)),
        "mask": torch.ones(12, 5, dtype=torch.int64),
        "labels": torch.randint(0, 3, (12,)),
    }


def shaped() -> dict[str, Any]:
    parts = [images() for _ in range(2)]
    states = {0: Headed().state_dict(), 1: Headed().state_dict()}
    batches = [{"image": x, "class": y} for x, y in parts]
    return {"trajectory": Trajectory.from_states(Headed, states), "batches": batches}


def metric() -> dict[str, Any]:
    x, y = images()
    states = {0: zoo.mlp().state_dict(), 1: zoo.mlp().state_dict()}
    return {"trajectory": Trajectory.from_states(zoo.mlp, states), "images": x, "labels": y}


PREPARED: dict[str, Callable[[], dict[str, Any]]] = {
    "1": two_files,
    "2": folder,
    "3": transformer,
    "4": shaped,
    "5": metric,
}


def test_every_recipe_is_run() -> None:
    assert [number for number, _ in BLOCKS] == list(PREPARED)
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("```python") == text.count("```") / 2 == sum(part.count("```python") for _, part in PARTS)


@pytest.mark.parametrize(("number", "code"), BLOCKS, ids=[number for number, _ in BLOCKS])
def test_a_recipe_runs_as_it_stands(
    number: str,
    code: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    space = {"netopsy": netopsy, **PREPARED[number]()}
    exec(compile(code, f"bring-your-own.md, {number}", "exec"), space)
    if number == "1":
        assert capsys.readouterr().out.startswith("data: error after each edit")
        return
    result = space["result"]
    assert isinstance(result, RobustnessResult)
    if number == "2":
        assert result.frame.split.unique().tolist() == ["train", "test"]
        assert set(result.frame.checkpoint.dropna()) == {0, 1, 2}
    if number == "3":
        assert {"bert.encoder.layer.0", "bert.encoder.layer.1", "classifier"} <= set(result.frame.site.dropna())
        assert space["half"].frame.site.equals(result.frame.site)
        assert not space["half"].frame.loss.equals(result.frame.loss)
    if number == "5":
        assert result.frame.columns[5:7].tolist() == ["error", "margin"]
        assert result.frame.margin.notna().all()
