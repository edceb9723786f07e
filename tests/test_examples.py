"""Every script in examples/ runs as a user would run it, and what it says is held against a plain computation."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.data.dataset import standardize
from netopsy.data.digits import digits
from netopsy.data.text import classification_set
from netopsy.data.tokenizer import load_tokenizer
from netopsy.data.wordnet import glosses
from netopsy.network.sites import find_sites

ROOT = Path(__file__).parent.parent
SCRIPTS = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}
SHORT = {
    "batch_norm": "epochs=2, stages=(1,)",
    "fine_tuned_minilm": "base={bert!r}, train=64, probed=1500, held_out=300, epochs=2",
}
"""Arguments of `main`, for a script that takes long; the others run as they stand."""

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Ran:
    """What a script printed, where it wrote, and the BERT that it was given."""

    out: str
    folder: Path
    bert: Path

    def find(self, pattern: str) -> re.Match[str]:
        match = re.search(pattern, self.out)
        assert match, f"{pattern!r} is not in\n{self.out}"
        return match

    def share(self, pattern: str) -> float:
        """A percentage, as a fraction."""
        return float(self.find(pattern)[1]) / 100


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """Run a script once, in an empty folder."""
    done: dict[str, Ran] = {}

    def once(name: str) -> Ran:
        if name not in done:
            here = tmp_path_factory.mktemp(name)
            script = str(SCRIPTS[name])
            bert = tmp_path_factory.mktemp("bert")
            if name == "fine_tuned_minilm":
                small_bert(bert)
            arguments = SHORT.get(name, "").format(bert=str(bert))
            short = f"import runpy; runpy.run_path({script!r})['main']({arguments})"
            how = ["-c", short] if name in SHORT else [script]
            ended = subprocess.run(
                [sys.executable, "-W", "error", *how],
                cwd=here,
                env={**os.environ, "MPLBACKEND": "Agg"},
                capture_output=True,
                text=True,
                encoding="utf-8",
                check=False,
            )
            assert ended.returncode == 0, ended.stderr
            assert ended.stderr == ""
            written = {path.relative_to(here).as_posix() for path in here.glob("*/*/*")}
            assert written == {f"runs/examples/{name}"}
            assert [path.name for path in here.iterdir()] == ["runs"]
            done[name] = Ran(ended.stdout, here / "runs/examples" / name, bert)
        return done[name]

    return once


def small_bert(folder: Path) -> None:
    """A random BERT that reads letters, with its tokenizer, as a pretrained one's folder has them."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    try:
        glosses(download=False)
    except NetopsyError:
        pytest.skip("WordNet is not here")
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{x}" for x in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **sizes)
    with forked(0):
        transformers.BertModel(config).save_pretrained(folder)


def docstring(name: str) -> str:
    text = ast.get_docstring(ast.parse(SCRIPTS[name].read_text(encoding="utf-8")))
    assert text
    return text.splitlines()[0]


def forward(state: State, layers: list[str], images: Tensor) -> Tensor:
    """Logits of a fully connected ReLU network, in float64."""
    values = images.flatten(1).double()
    for layer in layers[:-1]:
        values = (values @ state[f"{layer}.weight"].double().T + state[f"{layer}.bias"].double()).relu()
    return values @ state[f"{layers[-1]}.weight"].double().T + state[f"{layers[-1]}.bias"].double()


def wrong(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) != labels).double().mean())


def swapped(state: State, other: State, layers: list[str]) -> dict[str, Tensor]:
    """The state with some layers of another one."""
    mine = tuple(f"{layer}." for layer in layers)
    return {name: (other if name.startswith(mine) else state)[name] for name in state}


def near(value: float, n: int) -> object:
    """Equal, but for one example on the edge between two classes and the rounding of what is printed."""
    return pytest.approx(value, abs=1.01 / n + 5e-4)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_and_is_short_and_listed(name: str, run: Callable[[str], Ran]) -> None:
    assert run(name).out.strip()
    text = SCRIPTS[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert f"examples/{name}.py" in page
    assert docstring(name) in page
    assert "?" in docstring(name), "the docstring says the question that the script answers"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_uses_what_is_public(name: str) -> None:
    for node in ast.walk(ast.parse(SCRIPTS[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        else:
            names = [node.attr] if isinstance(node, ast.Attribute) else []
        assert not [part for part in names if part.startswith("_")]


def test_every_script_is_checked() -> None:
    assert set(SCRIPTS) == {name.removeprefix("test_the_answer_of_") for name in globals() if "_answer_of_" in name}


def test_the_answer_of_first_probe(run: Callable[[str], Ran]) -> None:
    ran, (images, labels) = run("first_probe"), standardize(digits()).test
    layers = ["layer1", "layer2", "layer3", "classifier"]
    start, end = (load_file(ran.folder / f"run/checkpoints/{epoch}.safetensors") for epoch in (0, 20))
    base = wrong(forward(end, layers, images), labels)
    cost = {n: wrong(forward(swapped(end, start, [n]), layers, images), labels) - base for n in layers}
    assert ran.share(r"the trained network: ([\d.]+)%, n = 360") == near(base, 360)
    said = ran.find(r"checkpoint 0, (\w+) costs most: \+([\d.]+)%; (\w+) least: ([+-][\d.]+)%")
    assert float(said[2]) / 100 == near(max(cost.values()), 360) == near(cost[said[1]], 360)
    assert float(said[4]) / 100 == near(min(cost.values()), 360) == near(cost[said[3]], 360)
    assert ran.share(r"Drawn anew, \w+ costs most: \+([\d.]+)%") > 10 * max(cost.values())
    assert (ran.folder / "heatmap.png").read_bytes().startswith(b"\x89PNG")


def test_the_answer_of_what_to_freeze(run: Callable[[str], Ran]) -> None:
    ran, data = run("what_to_freeze"), standardize(digits())
    layers = ["hidden.0", "hidden.1", "hidden.2", "classifier"]
    start, usual = (load_file(ran.folder / f"usual/checkpoints/{epoch}.safetensors") for epoch in (0, 20))
    frozen = load_file(ran.folder / "frozen/checkpoints/20.safetensors")
    chosen = ran.find(r"Freeze: (.+) \(")[1].split(" + ")
    for name, value in frozen.items():  # what was said to be frozen is what stood still
        assert torch.equal(value, start[name]) == (name.rpartition(".")[0] in chosen)

    images, labels = (part[600:] for part in data.train)
    base = wrong(forward(usual, layers, images), labels)
    frame = pd.read_parquet(ran.folder / "result/results.parquet").set_index("site")
    for site in frame.index.dropna():
        error = wrong(forward(swapped(usual, start, site.split(" + ")), layers, images), labels)
        assert frame.delta_error[site] == near(error - base, len(labels))
    robust = [site.split(" + ") for site in frame.index[frame.delta_error_high <= 0.05].dropna()]
    count = {n: sum(usual[f"{n}.{kind}"].numel() for kind in ("weight", "bias")) for n in layers}
    assert chosen in robust
    assert sum(count[n] for n in chosen) == max(sum(count[n] for n in some) for some in robust)
    assert ran.share(r"\((\d+)% of the parameters") == pytest.approx(
        sum(count[n] for n in chosen) / sum(count.values()), abs=0.005
    )

    images, labels = data.test
    base, error = (wrong(forward(state, layers, images), labels) for state in (usual, frozen))
    assert ran.share(r"all layers trained: ([\d.]+)%") == near(base, 360)
    assert ran.share(r"with these frozen ([+-][\d.]+)%") == near(error - base, 360)
    low, high = (float(bound) for bound in ran.find(r"interval \[(\S+)%, (\S+)%\]").groups())
    verdict = ran.find(r"Verdict: freezing costs (.+) 5%")[1]
    assert verdict == ("at most" if high <= 5 else "more than" if low > 5 else "perhaps more than")
    assert low < 100 * (error - base) < high


def quantized(value: Tensor, bits: int) -> Tensor:
    """Each entry at the nearest of the levels, by looking at all of them."""
    top = 2 ** (bits - 1) - 1
    levels = value.double().abs().max() / top * torch.arange(-top, top + 1)
    nearest: Tensor = levels[(value.double().flatten()[:, None] - levels).abs().argmin(1)]
    return nearest.reshape(value.shape)


def low_rank(value: Tensor, rank: int) -> Tensor:
    """Project on the main eigenvectors of W W^T."""
    if value.ndim < 2:
        return value
    w = value.double()
    main = torch.linalg.eigh(w @ w.T)[1][:, -rank:]
    return main @ main.T @ w


def test_the_answer_of_what_to_compress(run: Callable[[str], Ran]) -> None:
    ran, data = run("what_to_compress"), standardize(digits())
    layers = ["hidden.0", "hidden.1", "hidden.2", "classifier"]
    state = load_file(ran.folder / "run/checkpoints/30.safetensors")
    table = pd.read_parquet(ran.folder / "table.parquet")
    images, labels = (part[800:] for part in data.train)
    base = wrong(forward(state, layers, images), labels)
    assert ran.share(r"Error ([\d.]+)%") == near(base, len(labels))
    rules: dict[str, Callable[[Tensor, int], Tensor]] = {"bits": quantized, "rank": low_rank}

    def edited(kind: str, levels: Mapping[str, int]) -> dict[str, Tensor]:
        at = {name: levels.get(name.rpartition(".")[0]) for name in state}
        return {n: value if at[n] is None else rules[kind](value, int(at[n] or 0)) for n, value in state.items()}

    header = ran.find(r"\n(edit +.*)")[1].split()[1:]
    for layer in layers:
        cells = dict(zip(header, re.findall(r"([\d.]+) \(", ran.find(rf"\n({layer} .*)")[1]), strict=True))
        for kind in ("bits", "rank"):
            rows = table[(table.layer == layer) & (table.edit == kind)]
            for row in rows.to_dict("records"):
                error = wrong(forward(edited(kind, {layer: int(row["level"])}), layers, images), labels)
                assert row["delta_error"] == near(error - base, len(labels))
            assert int(cells[kind]) == rows[rows.delta_error_high <= 0.05]["level"].min()

    images, labels = data.test
    base = wrong(forward(state, layers, images), labels)
    kept = table[table.delta_error_high <= 0.05].groupby(["edit", "layer"])["level"].min()
    for kind in ("bits", "rank"):
        error = wrong(forward(edited(kind, kept[kind].astype(int).to_dict()), layers, images), labels)
        said = ran.find(rf"all layers: {kind}: (\S+)% \[(\S+)%, (\S+)%\], (.+)")
        delta, low, high = (float(said[i]) for i in (1, 2, 3))
        assert delta / 100 == near(error - base, 360)
        assert low <= delta <= high
        assert said[4] == ("fine" if high <= 5 else "too much" if low > 5 else "undecided")


def test_the_answer_of_fine_tuned_transformer(run: Callable[[str], Ran]) -> None:
    transformers = pytest.importorskip("transformers")
    ran = run("fine_tuned_transformer")
    source = torch.Generator().manual_seed(2)
    words = torch.randint(1, 31, (2000, 8), generator=source)
    mask = (torch.arange(8) < torch.randint(3, 9, (2000, 1), generator=source)).long()
    counts = torch.stack([(((words - 1) // 10 == topic) * mask).sum(1) for topic in range(3)], 1)
    labels = counts.argmax(1)

    before, after = (load_file(ran.folder / name / "model.safetensors") for name in ("pretrained", "fine_tuned"))
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig.from_pretrained(ran.folder / "fine_tuned")
    ).eval()

    def error(state: State, attended: Tensor) -> float:
        model.load_state_dict(state)
        with torch.no_grad():
            return wrong(model(input_ids=words, attention_mask=attended).logits, labels)

    base = error(after, mask)
    assert ran.share(r"the trained network: ([\d.]+)%, n = 2000") == near(base, 2000)
    assert base < 0.15 < 0.5 < error(before, mask)  # it has learned, and had not before
    assert error(after, torch.ones_like(mask)) > base + 0.1  # and the mask was used
    frame = pd.read_parquet(ran.folder / "result/results.parquet").set_index("site")
    sites = {site: [site] for site in frame.index.dropna()}
    sites["all layers"] = [f"bert.encoder.layer.{i}" for i in range(3)]
    assert len(sites) == 7
    for site, parts in sites.items():
        assert frame.error[site] == near(error(swapped(after, before, parts), mask), 2000)
    needed = set(ran.find(r"Needs its fine-tuning: (.*)\.\n")[1].split(", "))
    spare = set(ran.find(r"Does not, taken alone: (.*)\.\n")[1].split(", ")) - {"nothing certified"}
    assert needed == set(frame.index[frame.delta_error_low > 0.05].dropna())
    assert spare == set(frame.index[frame.delta_error_high <= 0.05].dropna())
    assert "bert.embeddings" in needed


def test_the_answer_of_batch_norm(run: Callable[[str], Ran]) -> None:
    ran = run("batch_norm")
    frames = {p: pd.read_parquet(ran.folder / p / "results.parquet") for p in ("keep", "reset", "recompute")}
    printed = {line.split()[0]: line.split()[1:] for line in ran.out.splitlines()[4:]}
    cells: dict[str, list[str]] = {}
    for frame in frames.values():
        for site, rows in frame[frame.operation != "baseline"].groupby("site", sort=False):
            reset, redrawn = (rows[rows.operation == kind] for kind in ("re-initialize", "re-randomize"))
            cells.setdefault(str(site), []).extend(f"{x:.1%}" for x in [*reset.error, redrawn.error.mean()])
    assert printed == cells
    keep, reset = (frames[policy].set_index(["site", "operation"]).error for policy in ("keep", "reset"))
    assert keep["classifier"].equals(reset["classifier"])  # it has no statistics
    assert not keep["stage1.block1"].equals(reset["stage1.block1"])
    assert ran.share(r"trained network: ([\d.]+)%") == near(frames["keep"].error[0], 360)


def test_batch_norm_repeats_the_documented_run_by_default() -> None:
    tree = ast.parse(SCRIPTS["batch_norm"].read_text(encoding="utf-8"))
    (main,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert [ast.literal_eval(value) for value in main.args.defaults] == [15, (2, 2, 2, 2)]
    assert "ResNet-18 V1 (width 16, batch norm, 15 epochs" in (ROOT / "docs/robustness.md").read_text("utf-8")


def test_the_answer_of_fine_tuned_minilm(run: Callable[[str], Ran]) -> None:
    ran = run("fine_tuned_minilm")
    before, after = (load_file(ran.folder / f"run/checkpoints/{epoch}.safetensors") for epoch in (0, 2))
    frame = pd.read_parquet(ran.folder / "result/results.parquet").set_index("site")
    for site, part in (("block 1", "bert.encoder.layer.1."), ("head", "classifier."), ("pooler", "bert.pooler.")):
        names = [name for name in before if name.startswith(part)]
        way = sum(float((after[name] - before[name]).double().square().sum()) for name in names)
        length = sum(float(before[name].double().square().sum()) for name in names)
        assert frame.relative_change[site] == pytest.approx((way / length) ** 0.5)
    robust = frame[(frame.verdict == "robust") & frame.block.isna()]
    assert ran.find(r"The (\d+) parts that are robust alone")[1] == str(len(robust))
    assert len(robust) > 2
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig.from_pretrained(ran.bert, num_labels=45)
    model = transformers.BertForSequenceClassification(config).eval()
    sites = {site.name: site for site in find_sites(model, "transformer")}
    splits = {
        "probed": [part[64:1564] for part in glosses(download=False).train],
        "held-out": [part[:300] for part in glosses(download=False).test],
    }
    tokenizer = load_tokenizer(ran.bert, pad="[PAD]", begin="[CLS]", end="[SEP]")
    batches = {split: classification_set(*parts, tokenizer, 32) for split, parts in splits.items()}

    def cost(split: str, parts: Sequence[str]) -> float:
        back = {address.name for name in parts for address in sites[name].addresses}
        errors = []
        for state in (after, {name: (before if name in back else after)[name] for name in after}):
            model.load_state_dict(state)
            with torch.no_grad():
                errors.append(wrong(model(**batches[split]).logits, batches[split]["labels"]))
        return errors[1] - errors[0]

    order = robust.delta_error.sort_values().index.tolist()
    probed, held_out = ran.out.split("Held out:")
    sets = re.findall(r"^(\d+) of \d+ sites .* ([+-][\d.]+) \[", probed, flags=re.MULTILINE)
    assert sets
    for count, said in sets:
        assert float(said) / 100 == near(cost("probed", order[: int(count)]), 1500)
    chosen = ran.find(r"(\d+|No set) (?:can go back at once|is certified)")[1]
    together = order[: int(chosen)] if chosen.isdigit() else order[:1]
    assert float(re.findall(r"^1 of 1 sites .* ([+-][\d.]+) \[", held_out, re.MULTILINE)[0]) / 100 == near(
        cost("held-out", together), 300
    )
    small = sum(cost("held-out", [name]) <= 0.05 for name in order)
    assert ran.find(r"Held out: (\d+) cost at most 5 points")[1] == str(small)
