"""Which layers need no training? Probe one trained network for it, then train with those frozen and compare."""

from dataclasses import replace
from functools import partial
from itertools import combinations

import netopsy
from netopsy.data.dataset import standardize
from netopsy.data.digits import digits
from netopsy.engine.edits import FromCheckpoint, edit_site, joined
from netopsy.engine.evaluation import Stopping
from netopsy.models.fcn import fcn
from netopsy.network.sites import find_sites

OUT = "runs/examples/what_to_freeze"
TOLERANCE, CONFIDENCE = 0.05, 0.95
LAYERS = ("hidden.0", "hidden.1", "hidden.2", "classifier")

data = standardize(digits())
images, labels = data.train
train, choose = (images[:600], labels[:600]), (images[600:], labels[600:])  # the test split is for the check alone
factory = partial(fcn, inputs=(1, 8, 8), classes=10, depth=3, width=768)
config = netopsy.FitConfig(epochs=20, lr=0.01, batch_size=64, keep=())
usual = netopsy.fit(factory, train, config, folder=f"{OUT}/usual", overwrite=True).trajectory

# Layers that can each be set back need not stand it together: ask for every two and every three.
groups = {" + ".join(some): some for count in (2, 3) for some in combinations(LAYERS, count)}
result = netopsy.robustness(
    usual, choose, sites=LAYERS, draws=0, groups=groups, tolerance=TOLERANCE, confidence=CONFIDENCE
)
result.save(f"{OUT}/result", overwrite=True)
print(result)

frame = result.to_frame()
robust = frame[frame.verdict == "robust"].site
size = {site: sum(result.provenance["parameters"][layer] for layer in groups.get(site, (site,))) for site in robust}
if not size:
    raise SystemExit("No layer is certified robust: freeze none.")
best = max(size, key=lambda site: size[site])
share = size[best] / sum(result.provenance["parameters"].values())
print(f"\nFreeze: {best} ({share:.0%} of the parameters), the largest of {len(size)} robust choices.")

# The check, on images that chose nothing: the network trained with them frozen, as an edit of the usual one.
config = replace(config, frozen=tuple(groups.get(best, (best,))))
frozen = netopsy.fit(factory, train, config, folder=f"{OUT}/frozen", overwrite=True).trajectory
model, other = usual.model(), FromCheckpoint(frozen, frozen.final)
variant = joined("trained with these frozen", [edit_site("", site, other) for site in find_sites(model)])
check = netopsy.evaluate(model, data.test, [variant], stop=Stopping(confidence=CONFIDENCE))
low, high = check.delta_error_low[0], check.delta_error_high[0]
print(
    f"Test error with all layers trained: {check.baseline_error:.2%}; with these frozen {check.delta_error[0]:+.2%},"
)
print(f"{CONFIDENCE:.0%} interval [{low:+.2%}, {high:+.2%}], for this one training seed.")
costs = "at most" if high <= TOLERANCE else "more than" if low > TOLERANCE else "perhaps more than"
print(f"Verdict: freezing costs {costs} {TOLERANCE:.0%}.")
