"""The paper's groupings of layers and blocks, by their published numbers."""

from __future__ import annotations

import pytest

from netopsy._checks import NetopsyError
from netopsy.models.resnet import resnet
from netopsy.network.groups import fcn_groups, residual_groups
from netopsy.network.sites import find_sites

SITES = ["1", "2", "3", "4", "5", "6"]


def test_five_hidden_layers_give_the_papers_groups() -> None:
    assert fcn_groups(SITES) == {
        "layers 2, 3, 4, 5, 6": ("2", "3", "4", "5", "6"),
        "layers 2, 3, 5, 6": ("2", "3", "5", "6"),
        "layers 2, 4, 6": ("2", "4", "6"),
    }


def test_a_group_is_neither_repeated_nor_of_one_layer() -> None:
    assert fcn_groups(SITES[:3]) == {"layers 2, 3": ("2", "3")}
    assert fcn_groups(SITES[:4]) == {
        "layers 2, 3, 4": ("2", "3", "4"),
        "layers 2, 3": ("2", "3"),
        "layers 2, 4": ("2", "4"),
    }


def test_two_layers_cannot_be_grouped() -> None:
    with pytest.raises(NetopsyError, match=r"groups: expected at least 3 layers to group; got hidden\.0, classifier"):
        fcn_groups(["hidden.0", "classifier"])


def test_resnet_18_gives_the_papers_groups() -> None:
    names = [site.name for site in find_sites(resnet(18, classes=3, width=1 / 16), "blocks")]
    seconds = tuple(f"stage{i}.block2" for i in (1, 2, 3, 4))
    assert residual_groups(names) == {
        "all but the first block of each stage": seconds,
        "all but the first block, stages 2 and 3": seconds[1:3],
    }  # every second block is all but the first here


def test_groups_are_the_same_in_torchvisions_names() -> None:
    names = ["conv1", "bn1", *(f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in range(3)), "fc"]
    groups = residual_groups(names)
    assert groups["all but the first block of each stage"] == tuple(
        f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (1, 2)
    )
    assert groups["all but the first block, stages 2 and 3"] == ("layer2.1", "layer2.2", "layer3.1", "layer3.2")
    assert groups["every second block"] == ("layer1.1", "layer2.1", "layer3.1", "layer4.1")


def test_a_stage_is_told_by_its_whole_name() -> None:
    names = [f"backbone.0.layer{j}.{k}" for j in (1, 2) for k in range(4)]
    assert len(residual_groups(names)["every second block"]) == 4


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["hidden.0", "classifier"],
        ["stage1.block1", "stage1.block2"],
        [f"stage{i}.block{j}.conv{k}" for i in (1, 2) for j in (1, 2) for k in (1, 2)],
    ],
)
def test_what_has_no_two_stages_cannot_be_grouped(names: list[str]) -> None:
    with pytest.raises(
        NetopsyError, match=r"groups: expected blocks of at least two stages, named like.*pass sites='blocks'"
    ):
        residual_groups(names)
