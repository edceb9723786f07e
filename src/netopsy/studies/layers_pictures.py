"""The layers paper's figures from our runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from netopsy.plots.depth import depth_profile
from netopsy.plots.heatmap import heatmap
from netopsy.plots.style import save
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.studies.layers import Study
from netopsy.studies.layers_sweep_pictures import draw_f2, draw_t1
from netopsy.studies.layers_transformer_pictures import draw_blocks, draw_heatmap, draw_t2


def draw(study: Study, folder: Path) -> list[Path]:
    """Write the pictures of whatever was run."""
    written = draw_single(study.results, folder)
    drawn = {"F2": draw_f2, "T1": draw_t1, "T2": draw_t2, "F7": draw_blocks, "F8": draw_blocks, "F9": draw_blocks}
    written += [drawn[claim](table, folder / f"{claim}.png") for claim, table in study.tables.items()]
    if "F7" in study.tables:
        written.append(draw_heatmap(study.tables["F7"], folder / "F7-heatmap.png"))
    return written


def draw_single(results: Mapping[str, Sequence[RobustnessResult]], folder: Path) -> list[Path]:
    """Write each setting's heatmap (single sites, and with each joint group's members marked) and depth profile."""
    written = []
    for setting, runs in results.items():
        first = runs[0]
        frame = first.to_frame()
        single = frame[~frame.site.isin(list(first.groups))]
        written.append(save(heatmap(single), folder / f"{setting}-heatmap.png"))
        for number, (name, members) in enumerate(first.groups.items(), start=1):
            joint = frame[frame.site.isin([*single.site.dropna().unique(), name]) | frame.site.isna()]
            written.append(save(heatmap(joint, members=members), folder / f"{setting}-joint-{number}.png"))
        for kind in ("curves", "distances"):
            written.append(save(first.plot(kind=kind), folder / f"{setting}-{kind}.png"))
        seeds = pd.concat([run.to_frame().assign(seed=i) for i, run in enumerate(runs)], ignore_index=True)
        seeds = seeds[~seeds.site.isin([*first.groups, "full model"])]
        tolerance = float(first.provenance["tolerance"])
        written.append(save(depth_profile(seeds, tolerance=tolerance), folder / f"{setting}-depth.png"))
    return written
