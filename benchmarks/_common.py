"""What the benchmark scripts share: interleaved timing, the naive loop, and the result file."""

from __future__ import annotations

import copy
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from netopsy.network.sites import Site
from netopsy.network.trajectory import Trajectory

RESULTS = Path(__file__).parent / "results"


def interleaved(
    repeats: int, *, clock: Callable[[], float] = time.perf_counter, **ways: Callable[[], object]
) -> dict[str, list[float]]:
    """Seconds of each way by a clock, run in turns: a noisy machine slows all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = clock()
            way()
            seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], slow: str, fast: str) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


@torch.no_grad()
def naive(
    model: nn.Module,
    trajectory: Trajectory,
    edits: Sequence[tuple[Site, int]],
    images: Tensor,
    labels: Tensor,
    batch: int,
) -> list[tuple[float, float]]:
    """The loop anybody writes: copy the state in, run the whole network, for each edit; error and loss."""
    results = []
    edited = copy.deepcopy(model).eval()
    for site, key in [(None, -1), *edits]:
        edited.load_state_dict(model.state_dict())
        if site is not None:
            own = edited.state_dict()
            for address in site.addresses:
                own[address.name].copy_(trajectory.tensor(key, address.name))
        wrong, loss = 0, 0.0
        for x, y in zip(images.split(batch), labels.split(batch), strict=True):
            logits = edited(x)
            wrong += int((logits.argmax(1) != y).sum())
            loss += float(nn.functional.cross_entropy(logits, y, reduction="sum"))
        results.append((wrong / len(labels), loss / len(labels)))
    return results


def write(name: str, command: str, lines: Sequence[str]) -> None:
    """Print the result and keep it beside the environment it was measured in."""
    environment = (
        f"Measured with `{command}`: torch {torch.__version__}, {torch.get_num_threads()} thread(s), "
        f"Python {platform.python_version()}, {platform.machine()}."
    )
    text = "\n".join([f"# {name}", "", environment, "", *lines, ""])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    print(text)
