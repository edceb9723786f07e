"""What the layers paper claims, as statistics with margins, and how they are computed.

Every statistic and margin stands here before it is run; a changed margin is a commit of its own that says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from netopsy._checks import NetopsyError, shorten
from netopsy.network.groups import ALL_BUT_FIRST
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.studies.claims import Claim, Part

F1A = Claim(
    id="layers/F1a",
    source="Fig. 1a",
    sentence="FCN 3x256: layer 1 is critical to re-initialization at checkpoint 0; layers 2, 3 and the classifier "
    "are robust; re-randomizing any layer gives chance.",
    parts=(
        Part(
            name="layer 1, checkpoint 0",
            statistic="increase of test error, as a share of the way from the trained net's error to chance",
            direction="above",
            margin=0.5,
        ),
        Part(
            name="other layers, checkpoint 0",
            statistic="largest increase of test error among layers 2, 3 and the classifier",
            direction="below",
            margin=0.05,
        ),
        Part(
            name="re-randomized",
            statistic="smallest increase among all layers (mean over draws), as a share of the way to chance",
            direction="above",
            margin=0.75,
        ),
    ),
)

F4 = Claim(
    id="layers/F4",
    source="Fig. 4",
    sentence="ResNet: critical blocks are spread over depth, the first block of a stage more critical than the "
    "others of that stage; blocks robust to re-initialization are also robust to re-randomization, the classifier "
    "is not.",
    parts=(
        Part(
            name="first block of a stage",
            statistic="increase of test error at checkpoint 0 of a stage's first block minus the mean of its others, "
            "mean over the stages",
            direction="above",
            margin=0.02,
        ),
        Part(
            name="robust blocks re-randomized",
            statistic="mean increase (over draws and blocks) of the blocks whose increase at checkpoint 0 is <= 0.05",
            direction="below",
            margin=0.05,
        ),
        Part(
            name="classifier re-randomized",
            statistic="increase of test error (mean over draws), as a share of the way to chance",
            direction="above",
            margin=0.5,
        ),
    ),
)

F6 = Claim(
    id="layers/F6",
    source="Figs. 6, 11-13",
    sentence="Individually robust layers are not jointly robust; every-second-block grouping is much better.",
    parts=(
        Part(
            name="joint reset of ResNet blocks",
            statistic="increase of test error when all but the first block of each stage go to checkpoint 0 "
            "together, minus the largest increase of any of them alone",
            direction="above",
            margin=0.1,
        ),
        Part(
            name="every second layer",
            statistic="FCN 5x256: increase of layers 2-6 reset together minus that of layers 2, 4, 6",
            direction="above",
            margin=0.1,
        ),
    ),
)

CLAIMS = {"F1a": F1A, "F4": F4, "F6": F6}


def measure(claim: str, results: Mapping[str, Sequence[RobustnessResult]]) -> dict[str, list[float]]:
    """A claim's statistics, one value a seed."""
    if claim == "F1a":
        columns = [list(_fcn_statistics(result)) for result in results["fcn3"]]
    elif claim == "F4":
        columns = [list(_resnet_statistics(result)) for result in results["resnet"]]
    else:
        pairs = zip(results["resnet"], results["fcn5"], strict=True)
        columns = [list(_joint_statistics(residual, plain)) for residual, plain in pairs]
    return {part.name: [values[i] for values in columns] for i, part in enumerate(CLAIMS[claim].parts)}


def _increases(result: RobustnessResult) -> tuple[pd.Series[float], pd.Series[float], float]:
    """Increase of error by site: at checkpoint 0, re-randomized (mean over draws); and the way to chance.

    For a network that is no better than chance there is no way (NaN).
    """
    frame = result.to_frame()
    reset = frame[(frame.operation == "re-initialize") & (frame.checkpoint == 0)].set_index("site").delta_error
    redrawn = frame[frame.operation == "re-randomize"].groupby("site", sort=False).delta_error.mean()
    way = float(result.provenance["chance"] - frame[frame.operation == "baseline"].error.iloc[0])
    return reset, redrawn, way if way > 0 else float("nan")


def _fcn_statistics(result: RobustnessResult) -> tuple[float, float, float]:
    reset, redrawn, way = _increases(result)
    single = [site for site in redrawn.index if site not in result.groups]
    return reset[single[0]] / way, max(reset[single[1:]]), min(redrawn[single]) / way


def _resnet_statistics(result: RobustnessResult) -> tuple[float, float, float]:
    reset, redrawn, way = _increases(result)
    single = [site for site in redrawn.index if site not in result.groups]
    blocks = [site for site in single if ".block" in site]
    stages = pd.Series(blocks, index=[site.split(".")[0] for site in blocks]).groupby(level=0, sort=False)
    firsts = [reset[group.iloc[0]] - reset[list(group.iloc[1:])].mean() for _, group in stages]
    robust = [site for site in blocks if reset[site] <= 0.05]
    again = float(redrawn[robust].mean()) if robust else float("nan")
    return float(pd.Series(firsts).mean()), again, redrawn[single[-1]] / way


def _joint_statistics(residual: RobustnessResult, plain: RobustnessResult) -> tuple[float, float]:
    reset, _, _ = _increases(residual)
    if ALL_BUT_FIRST not in residual.groups:
        raise NetopsyError(f"F6: expected the group {ALL_BUT_FIRST!r}; got {shorten(residual.groups)}")
    together = reset[ALL_BUT_FIRST] - reset[list(residual.groups[ALL_BUT_FIRST])].max()
    plain_reset, _, _ = _increases(plain)
    return together, plain_reset["layers 2, 3, 4, 5, 6"] - plain_reset["layers 2, 4, 6"]
