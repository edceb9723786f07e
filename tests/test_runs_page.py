"""The code in docs/runs.md runs as it stands there."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import netopsy
from netopsy.models.fcn import fcn

PAGE = (Path(__file__).parent.parent / "docs" / "runs.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

build_model = partial(fcn, inputs=4, classes=2, depth=2, width=3)


def test_every_block_is_run() -> None:
    assert len(BLOCKS) == 3


def test_record_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def train_one_epoch(model: nn.Module) -> None:
        with torch.no_grad():
            for value in model.parameters():
                value += 1

    model = build_model()
    names: dict[str, Any] = {
        "netopsy": netopsy,
        "model": model,
        "build_model": build_model,
        "train_one_epoch": train_one_epoch,
    }
    exec(BLOCKS[0], names)
    trajectory = names["trajectory"]
    assert trajectory.keys == (0, 1, 2, 3)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trajectory.tensor(0, name), value - 3)
        assert torch.equal(trajectory.tensor(3, name), value)


def test_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = torch.randn(40, 4), torch.arange(40) % 2
    names = {"netopsy": netopsy, "build_model": build_model, "images": images, "labels": labels}
    exec(BLOCKS[1], names)
    assert sorted(int(path.stem) for path in (tmp_path / "runs/first/checkpoints").iterdir()) == [0, 1, 2, 3]


def test_sweep(tmp_path: Path) -> None:
    names: dict[str, Any] = {"netopsy": netopsy, "__name__": __name__}
    exec(BLOCKS[2], names)
    sweep = names["sweep"]
    assert len(sweep.configs) == 3 * 5 * 3
    assert {config.width for config in sweep.configs} == {16, 64, 256}
    assert len({config.lr for config in sweep.configs}) == 5
    assert names["measure"](sweep.configs[0], tmp_path) == {"error": 0.1}
