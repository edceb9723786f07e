"""The layers study on a tiny net: runs are reused or refused, and every claim can be asked of every preset."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from netopsy._checks import NetopsyError
from netopsy.data.dataset import Dataset, standardize, subset
from netopsy.data.digits import digits
from netopsy.models.fcn import fcn
from netopsy.network.groups import fcn_groups
from netopsy.network.sites import find_sites
from netopsy.studies import layers
from netopsy.studies.layers import NEEDS, PAPER, PRESETS, Setting
from netopsy.studies.layers_claims import ALL_BUT_FIRST, CLAIMS
from netopsy.training.config import FitConfig


def small() -> Dataset:
    return subset(standardize(digits()), train=200, test=60)


def tiny(epochs: int = 1, lr: float = 0.05) -> Setting:
    def factory(data: Dataset) -> Callable[[], nn.Module]:
        return partial(fcn, inputs=(1, 8, 8), classes=data.classes, depth=3, width=8)

    def config(seed: int) -> FitConfig:
        return FitConfig(epochs=epochs, lr=lr, seed=seed, keep=(0,))

    return Setting(
        name="tiny", data=small, factory=factory, config=config, sites="modules", groups=fcn_groups, draws=1
    )


def test_a_finished_run_is_used_again_and_another_is_refused(tmp_path: Path) -> None:
    data, lines = small(), list[str]()
    first = layers.trained(tiny(), data, 3, tmp_path, lines.append)
    assert lines == [lines[0]]
    assert lines[0].startswith("tiny, seed 3: epoch 1/1, train error ")
    again = layers.trained(tiny(), data, 3, tmp_path, lines.append)
    assert len(lines) == 1
    assert again.keys == first.keys == (0, 1)
    for name, value in first.state().items():
        assert torch.equal(value, again.state()[name])
    with pytest.raises(NetopsyError, match="tiny-3: holds a run of another config; choose another folder, or delete"):
        layers.trained(tiny(lr=0.05 + 1e-12), data, 3, tmp_path, lines.append)
    with pytest.raises(NetopsyError, match="tiny-3: holds a run of another data"):
        layers.trained(tiny(), subset(data, train=100), 3, tmp_path, lines.append)
    manifest = tmp_path / "tiny-3" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "finished": False}))
    layers.trained(tiny(), data, 3, tmp_path, lines.append)
    assert len(lines) == 2  # an interrupted run starts anew


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "cluster"}, "preset: expected one of 'laptop', 'paper'; got 'cluster'"),
        ({"claims": ["F99"]}, "claim: expected one of 'F1a', 'F4', 'F6'; got 'F99'"),
        ({"seeds": (0, 1)}, "seeds: expected at least 3 different ones for F1a; got 0, 1"),
        ({"seeds": (0, 1, 1)}, "seeds: expected at least 3 different ones for F1a; got 0, 1, 1"),
    ],
)
def test_a_study_refuses_bad_options_before_any_work(
    options: Mapping[str, str | Sequence[int]],
    message: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(NetopsyError, match=message):
        layers.run(tmp_path / "study", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_claim_has_its_settings(preset: str) -> None:
    assert set(NEEDS) == set(CLAIMS)
    for needed in NEEDS.values():
        assert set(needed) <= set(PRESETS[preset])
    names = [setting.name for preset in PRESETS.values() for setting in preset.values()]
    assert len(set(names)) == len(names)  # run folders of two settings never meet


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_settings_are_complete(name: str) -> None:
    setting = PAPER[name]
    shape = (3, 32, 32) if name == "resnet" else (1, 28, 28)
    part = (torch.zeros(2, *shape), torch.tensor([0, 9]))
    model = setting.factory(Dataset(name="stand-in", train=part, test=part, classes=10))()
    config = setting.config(4)
    assert (config.epochs, config.batch_size, config.momentum, config.weight_decay) == (100, 128, 0.9, 0.0)
    assert (config.optimizer, config.lr_drops, config.lr_factor, config.seed) == ("sgd", (30, 60, 90), 0.2, 4)
    assert config.keys == (0, 1, 2, 3, 8, 40, 90, 100)
    assert config.augment == ("pad-crop-flip" if name == "resnet" else "none")
    assert replace(config, seed=0) == setting.config(0)
    sites = [site.name for site in find_sites(model, setting.sites)]
    groups = setting.groups(sites)
    if name == "resnet":
        assert sum("block" in site for site in sites) == 3 + 4 + 6 + 3  # ResNet-50
        assert sites[-1] == "classifier"
        assert len(groups[ALL_BUT_FIRST]) == 12
        assert sum(value.numel() for value in model.parameters()) > 23e6
    else:
        depth = int(name.removeprefix("fcn"))
        assert sites == [*(f"hidden.{i}" for i in range(depth)), "classifier"]
        assert model.hidden[1].weight.shape == (256, 256)  # type: ignore[union-attr, index]
        if depth == 5:
            assert {"layers 2, 3, 4, 5, 6", "layers 2, 4, 6"} <= set(groups)
