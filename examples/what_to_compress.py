"""How few bits and how low a rank does each layer stand? One by one, then all at once, then checked on other data."""

from functools import partial

import pandas as pd

import netopsy
from netopsy.data.dataset import standardize
from netopsy.data.digits import digits
from netopsy.engine.edits import AddNoise, LowRank, Quantize, edit_site, joined
from netopsy.engine.evaluation import Stopping
from netopsy.models.fcn import fcn
from netopsy.network.sites import find_sites

OUT = "runs/examples/what_to_compress"
TOLERANCE, CONFIDENCE = 0.05, 0.95
RULES = {  # the harshest first
    "bits": {bits: Quantize(bits) for bits in (2, 3, 4, 6, 8)},
    "rank": {rank: LowRank(rank) for rank in (1, 2, 4, 8, 16, 32)},
    "noise": {sigma: AddNoise(sigma, seed=0) for sigma in (0.16, 0.08, 0.04, 0.02, 0.01)},
}

data = standardize(digits())
images, labels = data.train
train, choose = (images[:800], labels[:800]), (images[800:], labels[800:])  # the test split is for the check alone
factory = partial(fcn, inputs=(1, 8, 8), classes=10, depth=3, width=128)
config = netopsy.FitConfig(epochs=30, lr=0.02, batch_size=64, keep=())
model = netopsy.fit(factory, train, config, folder=f"{OUT}/run", overwrite=True).trajectory.model()

rows = [
    {"layer": site.name, "edit": kind, "level": level, "variant": edit_site(f"{site}, {kind} {level}", site, rule)}
    for site in find_sites(model)
    for kind, levels in RULES.items()
    for level, rule in levels.items()
]
stop = Stopping(confidence=CONFIDENCE)  # that all intervals hold at once
found = netopsy.evaluate(model, choose, [row["variant"] for row in rows], stop=stop)
table = pd.concat([pd.DataFrame(rows), found.to_frame()[1:].reset_index(drop=True)], axis=1)
table.drop(columns="variant").to_parquet(f"{OUT}/table.parquet")
kept = table[table.delta_error_high <= TOLERANCE].groupby(["layer", "edit"], sort=False).first().reset_index()
cell = kept.level.map("{:g}".format) + kept.delta_error_high.map(" (≤ {:+.1%})".format)
print(f"Error {found.baseline_error:.2%}. The harshest edit of each layer alone that costs at most {TOLERANCE:.0%},")
print(f"and the upper end of its cost, at {CONFIDENCE:.0%} for all {len(table)} edits at once:")
print(kept.assign(cell=cell).pivot(index="layer", columns="edit", values="cell")[list(RULES)].to_string())

together = [joined(f"all layers: {edit}", part.variant) for edit, part in kept.groupby("edit", sort=False)]
check = netopsy.evaluate(model, data.test, together, stop=stop)
print(f"\nAll layers at once, on the test split (error {check.baseline_error:.2%}):")
for label, delta, low, high in zip(
    check.labels, check.delta_error, check.delta_error_low, check.delta_error_high, strict=True
):
    verdict = "fine" if high <= TOLERANCE else "too much" if low > TOLERANCE else "undecided"
    print(f"{label}: {delta:+.2%} [{low:+.2%}, {high:+.2%}], {verdict}")
