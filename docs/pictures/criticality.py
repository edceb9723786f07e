"""Valleys, spectra and CKA of docs/criticality-study.md; `netopsy study layers --claims F1a` trains the network."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import netopsy
from netopsy.data.dataset import standardize
from netopsy.data.idx import fashion_mnist
from netopsy.models.fcn import fcn
from netopsy.plots.cka import cka_heatmap
from netopsy.plots.spectra import spectrum_lines
from netopsy.plots.style import save
from netopsy.plots.valley import valley_panels

RUN, HERE = Path("runs/layers/fcn-3x256-fashion-mnist-0"), Path(__file__).parent
SITES = ("hidden.0", "hidden.2")
SIGMAS = [0.0, *np.geomspace(0.003, 0.6, 11)]


def main() -> None:
    """Write the pictures beside this file."""
    few = tuple(part[:2000] for part in standardize(fashion_mnist()).train)
    trajectory = netopsy.Trajectory.from_folder(partial(fcn, inputs=(1, 28, 28), classes=10), RUN)
    grids = [netopsy.valley(trajectory, few, site, sigmas=SIGMAS, noise_samples=3).to_frame() for site in SITES]
    for kind, name in (("surface", "valleys"), ("map", "maps")):
        save(valley_panels(pd.concat(grids), kind=kind, draws=3), HERE / f"criticality-{name}.png")

    figure = Figure(figsize=(9.6, 3.0), layout="constrained", facecolor="white")
    spectra, axes = netopsy.spectra(trajectory, few), figure.subplots(1, 2)
    for ax, site in zip(axes, SITES, strict=True):
        spectrum_lines(spectra.values, site=site, ax=ax)
    axes[0].get_legend().remove()
    save(figure, HERE / "criticality-spectra.png")

    figure = Figure(figsize=(9.0, 4.0), layout="constrained", facecolor="white")
    for ax, site in zip(figure.subplots(1, 2), SITES, strict=True):
        pairs = netopsy.cka(trajectory.model(), netopsy.rewound(trajectory, [site]), few).to_frame()
        cka_heatmap(pairs, labels=("trained", f"{site} rewound"), colorbar=site == SITES[-1], ax=ax)
    save(figure, HERE / "criticality-cka.png")


if __name__ == "__main__":
    main()
