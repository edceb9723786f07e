"""What the layers paper claims of transformers and Mixers (Figs. 7 to 9), as statistics with margins.

Every statistic and margin stands here before it is run; a changed margin is a commit of its own that says why.

All are about shares: the increase of error (of tokens or of images) when a layer is reset, as a share of the way from
the trained network's error to chance. The paper gives no numbers, only bars. A tenth of the way is the least that we
call "not robust", a fiftieth the least that we call a difference between means over layers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Literal, TypeAlias

import pandas as pd

from netopsy.probes.operations import FULL_MODEL
from netopsy.store.results import OK
from netopsy.studies.claims import BySeed, Claim, Direction, Measured

Kind: TypeAlias = Literal["norm", "mixing", "first dense", "second dense", "outside"]
"""Of a layer in a block (attention's four maps, or the Mixer's two across patches, are one kind), or outside."""

Operation: TypeAlias = Literal["re-randomize", "re-initialize"]
Blocks: TypeAlias = Literal["all", "lower half", "upper half", "all but the first"]

ROBUST = 0.1
DIFFERENCE = 0.02
KINDS: tuple[tuple[str, Kind], ...] = (
    (r"norm[01]", "norm"),
    (r"attention\.\w+|token_mixing\.dense[01]", "mixing"),
    (r"(mlp|channel_mixing)\.dense0", "first dense"),
    (r"(mlp|channel_mixing)\.dense1", "second dense"),
)
MIXED: tuple[Kind, ...] = ("mixing", "second dense")
MAPS: tuple[Kind, ...] = ("mixing", "first dense", "second dense", "outside")


def shares(rows: pd.DataFrame, *, line: str, operation: Operation, checkpoint: int = 0) -> pd.DataFrame:
    """A row a layer and seed: `seed, site, block, half, kind, share` (mean over draws); `block` is -1 outside.

    Args:
        rows: `line, seed, site, operation, checkpoint, error, delta_error, chance, status` of layers and of the
            unchanged network (operation "baseline").
        line: of networks; failed ones are left out.
        operation: of the layers.
        checkpoint: of a re-initialization.
    """
    of = rows[(rows.line == line) & (rows.status == OK) & (rows.site.fillna("") != FULL_MODEL)]
    trained = of[of.operation == "baseline"].drop_duplicates("seed").set_index("seed")
    way = (trained.chance - trained.error).rename("way")
    reset = of[of.operation == operation]
    if operation == "re-initialize":
        reset = reset[reset.checkpoint == checkpoint]
    mean = reset.groupby(["seed", "site"], sort=False).delta_error.mean().reset_index().join(way, on="seed")
    mean["share"] = (mean.delta_error / mean.way).where(mean.way > 0)
    placed = mean.site.str.extract(r"^blocks\.(\d+)\.(.+)$")
    mean["block"] = placed[0].astype("Int64").fillna(-1).astype(int)
    mean["kind"] = placed[1].map(_kind, na_action="ignore").fillna("outside")
    middle = (mean.block.max() + 1) / 2
    mean["half"] = ["" if b < 0 else "lower half" if b < middle else "upper half" for b in mean.block]
    return mean[["seed", "site", "block", "half", "kind", "share"]]


def _kind(part: str) -> Kind:
    return next(kind for pattern, kind in KINDS if re.fullmatch(pattern, part))


def mean_share(
    rows: pd.DataFrame,
    *,
    line: str,
    kinds: Sequence[Kind],
    operation: Operation,
    blocks: Blocks = "all",
    checkpoint: int = 0,
) -> BySeed:
    """The mean share of layers of some kinds, in some blocks."""
    table = shares(rows, line=line, operation=operation, checkpoint=checkpoint)
    table = table[table.kind.isin(kinds)]
    if blocks == "all but the first":
        table = table[table.block > 0]
    elif blocks != "all":
        table = table[table.half == blocks]
    return _by_seed(rows, table.groupby("seed").share.mean())


def difference(rows: pd.DataFrame, *, more: dict[str, object], less: dict[str, object]) -> BySeed:
    """One mean share minus another of the same seed."""
    one, other = (mean_share(rows, **side) for side in (more, less))  # type: ignore[arg-type]
    return one.sub(other)


def mended_by_one_epoch(rows: pd.DataFrame, *, line: str) -> BySeed:
    """Of the layers that are not robust at checkpoint 0, the part that is robust at checkpoint 1."""
    start, after = (
        shares(rows, line=line, operation="re-initialize", checkpoint=checkpoint).set_index(["seed", "site"]).share
        for checkpoint in (0, 1)
    )
    critical = start[start > ROBUST].index
    return _by_seed(rows, (after.reindex(critical) <= ROBUST).astype(float).groupby("seed").mean())


def redrawn_apart(rows: pd.DataFrame, *, line: str, sites: Sequence[str] | None = None) -> BySeed:
    """Re-randomization's share minus re-initialization's, of the sites named; or the mean distance of all others."""
    redrawn, reset = (
        shares(rows, line=line, operation=operation).set_index(["seed", "site"]).share
        for operation in ("re-randomize", "re-initialize")
    )
    apart = redrawn - reset
    named = apart.index.get_level_values("site").isin(ENDS if sites is None else sites)
    chosen = apart[named] if sites is not None else apart[~named].abs()
    return _by_seed(rows, chosen.groupby("seed").mean())


def _by_seed(rows: pd.DataFrame, values: pd.Series[float]) -> BySeed:
    """A value for every seed that was asked for; NaN for those without."""
    return values.reindex(sorted(rows.seed.unique())).astype(float)


ENDS = ("embedding", "head")


def _mean(
    name: str, direction: Direction, *, line: str, kinds: Sequence[Kind], operation: Operation, blocks: Blocks = "all"
) -> Measured:
    return Measured(
        name=name,
        statistic=f"mean share of {', '.join(kinds)} layers, {blocks} blocks, {operation}d",
        direction=direction,
        margin=ROBUST,
        lines=(line,),
        measure=partial(mean_share, line=line, kinds=tuple(kinds), operation=operation, blocks=blocks),
    )


def _more(name: str, statistic: str, more: dict[str, object], less: dict[str, object]) -> Measured:
    lines = tuple(dict.fromkeys(str(side["line"]) for side in (more, less)))
    return Measured(
        name=name,
        statistic=statistic,
        direction="above",
        margin=DIFFERENCE,
        lines=lines,
        measure=partial(difference, more=more, less=less),
    )


def _lower_over_upper(line: str, kinds: Sequence[Kind], operation: Operation) -> Measured:
    side = {"line": line, "kinds": tuple(kinds), "operation": operation}
    return _more(
        "upper blocks more robust",
        f"mean share of {', '.join(kinds)} layers in the lower half of the blocks minus the upper half, {operation}d",
        {**side, "blocks": "lower half"},
        {**side, "blocks": "upper half"},
    )


def _redrawn(line: str, kinds: Sequence[Kind], blocks: Blocks = "all") -> dict[str, object]:
    return {"line": line, "kinds": tuple(kinds), "operation": "re-randomize", "blocks": blocks}


F7 = Claim(
    id="layers/F7",
    source="Fig. 7",
    sentence="Transformer language model: layer norms are not robust; the second dense layer and attention are, but "
    "for block 0; the first dense layer is sensitive; upper blocks are more robust; most layers become robust after "
    "one epoch; re-randomization and re-initialization differ at embedding and head only.",
    parts=(
        _mean("layer norms", "above", line="lm", kinds=("norm",), operation="re-initialize"),
        _mean(
            "attention, second dense", "below", line="lm", kinds=MIXED, operation="re-initialize",
            blocks="all but the first",
        ),
        _mean("first dense", "above", line="lm", kinds=("first dense",), operation="re-initialize"),
        _lower_over_upper("lm", ("norm", "mixing", "first dense", "second dense"), "re-initialize"),
        Measured(
            name="after one epoch",
            statistic="of the layers with a share above 0.1 at checkpoint 0, that with at most 0.1 at checkpoint 1",
            direction="above",
            margin=0.5,
            lines=("lm",),
            measure=partial(mended_by_one_epoch, line="lm"),
        ),
        *(
            Measured(
                name=f"{site}, redrawn",
                statistic="share when re-randomized minus share when re-initialized to checkpoint 0",
                direction="above",
                margin=ROBUST,
                lines=("lm",),
                measure=partial(redrawn_apart, line="lm", sites=(site,)),
            )
            for site in ENDS
        ),
        Measured(
            name="other layers, redrawn",
            statistic="mean distance between the shares when re-randomized and when re-initialized to checkpoint 0",
            direction="below",
            margin=ROBUST,
            lines=("lm",),
            measure=partial(redrawn_apart, line="lm"),
        ),
    ),
)  # fmt: skip

F8 = Claim(
    id="layers/F8",
    source="Fig. 8",
    sentence="Vision transformers: attention and the second dense layer are robust, more so in upper blocks; the "
    "first dense layer is more robust than in the language model; the larger net is more robust but for layer norms; "
    "SAM helps the small net, and makes upper layer norms of the large one less robust.",
    parts=(
        _mean("attention, second dense", "below", line="vit", kinds=MIXED, operation="re-randomize"),
        _lower_over_upper("vit", MIXED, "re-randomize"),
        _more(
            "first dense, against the language model",
            "mean share of the first dense layers of the language model minus those of the small ViT, re-randomized",
            _redrawn("lm", ("first dense",)),
            _redrawn("vit", ("first dense",)),
        ),
        _more(
            "the larger net",
            "mean share of all layers but norms in the small net minus the large one, re-randomized",
            _redrawn("vit", MAPS),
            _redrawn("vit large", MAPS),
        ),
        _more(
            "SAM, small net",
            "mean share of all layers without SAM minus with it, re-randomized",
            _redrawn("vit", (*MAPS, "norm")),
            _redrawn("vit sam", (*MAPS, "norm")),
        ),
        _more(
            "SAM, upper norms of the large net",
            "mean share of layer norms in the upper half of the blocks with SAM minus without, re-randomized",
            _redrawn("vit large sam", ("norm",), "upper half"),
            _redrawn("vit large", ("norm",), "upper half"),
        ),
    ),
)

F9 = Claim(
    id="layers/F9",
    source="Fig. 9",
    sentence="MLP-Mixers: the same pattern (token mixing in attention's place).",
    parts=(
        _mean("token mixing, second dense", "below", line="mixer", kinds=MIXED, operation="re-randomize"),
        _lower_over_upper("mixer", MIXED, "re-randomize"),
        _more(
            "the larger net",
            "mean share of all layers but norms in the small net minus the large one, re-randomized",
            _redrawn("mixer", MAPS),
            _redrawn("mixer large", MAPS),
        ),
        _more(
            "SAM, small net",
            "mean share of all layers without SAM minus with it, re-randomized",
            _redrawn("mixer", (*MAPS, "norm")),
            _redrawn("mixer sam", (*MAPS, "norm")),
        ),
    ),
)

CLAIMS = {"F7": F7, "F8": F8, "F9": F9}
