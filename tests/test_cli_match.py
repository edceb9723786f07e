"""netopsy match: two runs' units, found again, refused where they do not go together; and how a report shows them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from netopsy.cli import main
from netopsy.commands import match as matching
from netopsy.data.dataset import standardize, subset
from netopsy.data.digits import digits
from netopsy.models.fcn import fcn
from netopsy.probes.matching import match_units, reassigned
from netopsy.probes.winner_ranks import winner_ranks
from netopsy.report.blocks import Fold, Picture, Section, Table
from netopsy.report.matching import layer_pairs, match_section, ranks_section
from netopsy.report.run import write_report
from netopsy.report.sections import section_of
from netopsy.training.config import FitConfig
from netopsy.training.fit import fit

NET = partial(fcn, inputs=(1, 8, 8), classes=10)
DATA = subset(standardize(digits()), train=200, test=60)


def run(folder: Path, *, width: int = 5, depth: int = 2, seed: int = 0) -> Path:
    config = FitConfig(epochs=2, batch_size=100, lr=0.05, seed=seed)
    fit(partial(NET, depth=depth, width=width), DATA.train, config, folder=folder, about={"data": "digits"})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    home = tmp_path_factory.mktemp("runs")
    return run(home / "one"), run(home / "other", width=7, seed=1)


def test_two_runs_are_matched_and_found_again(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["match", *map(str, runs), "--out", str(tmp_path / "page.html")]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    one, other = (matching.subject(folder, model=None, init=None, final=None, data=None, out=None) for folder in runs)
    networks = one.trajectory.model(), other.trajectory.model()
    expected = match_units(*networks, one.data["test"])
    for row, (name, matrix) in zip(told["layers"], expected.matrix.items(), strict=True):
        known = np.isfinite(matrix)
        assert (row["layer_a"], row["units_a"], row["units_b"]) == (name, 5, 7)
        assert row["rho_bar"] == pytest.approx(np.where(known, matrix, -1).max(1)[known.any(1)].mean())
        assert row["rho_bar_back"] == pytest.approx(np.where(known, matrix, -1).max(0)[known.any(0)].mean())
    assert len(told["units"]) == 10
    ranks = winner_ranks(one.trajectory, networks[1], one.data["test"]).frame
    assert [row["rho_bar"] for row in told["winners"]] == pytest.approx(ranks.rho_bar.tolist())
    assert [row["checkpoint"] for row in told["winners"]] == [0, 0, 1, 1, 2, 2]
    for path in told["files"].values():
        assert Path(path).exists()
        assert Path(path).is_relative_to(runs[0] / "results")
    assert told["sentences"][0].startswith("Units of one are found again in other ")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Which units of one are those of other" in page
    assert "When one came to have the units of other" in page

    monkeypatch.setattr(matching, "kept", lambda home, load, measure: load(home))
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "layer of one layer of other" in " ".join(shown.split())
    assert "units of other among those of one" in shown
    assert shown.splitlines()[-1].split() == ["report", str(tmp_path / "page.html")]
    assert main(["report", str(runs[0]), "--out", str(tmp_path / "report.html")]) == 0
    assert "Which units of one are those of other" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN"], "match: expected RUN_A RUN_B, the folders of two runs; got"),
        (["RUN", "RUN"], "match: expected different runs; got"),
        (["RUN", "nowhere"], "match: expected the folders of two runs; there is no folder nowhere"),
        (["RUN", "OTHER", "--other-sites", "x"], "match: expected layers of the first run beside those of the other"),
        (["RUN", "OTHER", "--sites", "nothing"], "one: site 'nothing': matches no module of FCN"),
        (["RUN", "OTHER", "--split", "train"], "split: expected one of 'test'; got 'train'"),
        (["RUN", "DEEP"], "sites: expected as many layers of one network as of the other"),
        (["RUN", "NARROW"], "narrow: data: FCN cannot be run on the first examples, input shapes [(2, 1, 8, 8)]"),
        (
            ["RUN", "MINE"],
            "models and data are loaded because a folder says so; pass --other-model",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_matched_is_refused(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    if "DEEP" in words:
        run(tmp_path / "deep", depth=3)
    if "NARROW" in words:
        data = DATA.train[0][:, :, :4, :4], DATA.train[1]
        config = FitConfig(epochs=1, lr=0.1)
        fit(partial(fcn, inputs=(1, 4, 4), classes=10, width=3), data, config, folder=tmp_path / "narrow",
            about={"data": "digits"})  # fmt: skip
    if "MINE" in words:
        fit(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), DATA.train, FitConfig(epochs=1, lr=0.1),
            folder=tmp_path / "mine", about={"data": "digits"})  # fmt: skip
    named = {
        "RUN": runs[0],
        "OTHER": runs[1],
        **{name.upper(): tmp_path / name for name in ("deep", "narrow", "mine")},
    }
    assert main(["match", *(str(named.get(word, word)) for word in words)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return NET(depth=2, width=40), NET(depth=2, width=50)


def blocks(section: Section, kind: type[Any]) -> list[Any]:
    inner = [part for block in section.blocks if isinstance(block, Fold) for part in block.blocks]
    return [block for block in (*section.blocks, *inner) if isinstance(block, kind)]


def test_any_match_in_a_report_is_drawn(tmp_path: Path) -> None:
    result = match_units(*pair(), DATA.test)
    section = section_of(result)
    assert section.title == "Which units of one network are those of another"
    assert len(blocks(section, Picture)) == 2
    matched = int(reassigned(result, "one-to-one").layers.matched[0])
    assert f"best first. 32 of {matched} are shown, at equal steps." in blocks(section, Picture)[0].caption
    layers, units = blocks(section, Table)
    assert [row[2].text for row in layers.rows] == ["40", "40"]
    assert len(units.rows) == 80
    assert "one network" in write_report(result, tmp_path / "page.html").read_text(encoding="utf-8")
    assert match_section(reassigned(result, "one-to-one")).verdict == section.verdict


def test_a_network_and_itself_in_closed_form() -> None:
    """Every unit is its own match: ρ̄ = 1 both ways, and all pairs are the same."""
    net, _ = pair()
    result = match_units(net, net, DATA.test, names=("a", "b"))
    table = layer_pairs(result)
    assert table.rho_bar.tolist() == table.rho_bar_back.tolist() == pytest.approx([1, 1])
    assert table["same"].tolist() == table.pairs.tolist()
    [best, one_to_one, *_] = match_section(result).verdict
    assert "of a are found again in b" in best
    assert "(100 %) do the same" in one_to_one
    single = reassigned(result, "one-to-one")
    assert single.provenance["assignment"] == "one-to-one"
    assert single.frame.equals(match_units(net, net, DATA.test, assignment="one-to-one").frame)


def test_units_that_never_vary_are_told() -> None:
    one, two = pair()
    with torch.no_grad():
        for module in one.modules():
            if isinstance(module, nn.Linear):
                module.bias[:2] = -1000
                module.weight[:2] = 0
    section = match_section(match_units(one, two, DATA.test, names=("a", "b")))
    assert section.verdict[-1].startswith("Of 80 units of a, ")
    assert "never vary" in section.verdict[-1]
    with torch.no_grad():
        for value in one.parameters():
            value.zero_()
    nothing = match_section(match_units(one, two, DATA.test))
    assert nothing.verdict == ("Nothing can be said of these layers: no units vary, or not all values are finite.",)
    assert blocks(nothing, Picture) == []


def test_ranks_of_a_single_checkpoint_and_of_many(runs: tuple[Path, Path]) -> None:
    one, other = (matching.subject(folder, model=None, init=None, final=None, data=None, out=None) for folder in runs)
    result = winner_ranks(one.trajectory, other.trajectory, one.data["test"], names=("one", "other"))
    section = ranks_section(result)
    assert section.verdict[0].startswith("ρ̄ of other's units in one went from 0.")
    assert "and of 0." in section.verdict[1]
    assert len(blocks(section, Picture)) == 2
    assert str(result).startswith("units of other among those of one\n")
    last = result.frame[result.frame.checkpoint == 2]
    single = ranks_section(type(result)(frame=last, provenance=result.provenance))
    assert single.verdict[0].startswith("one has one checkpoint, at which ρ̄ of other's units is 0.")
    assert blocks(single, Picture) == []
