"""Three ways to treat batch-norm statistics when a block is reset: what they say of one trained ResNet."""

from functools import partial

import pandas as pd
import torch

import netopsy
from netopsy.data.dataset import standardize
from netopsy.data.digits import digits
from netopsy.models.resnet import resnet
from netopsy.training.config import FitConfig
from netopsy.training.fit import fit

torch.set_num_threads(2)
data = standardize(digits())
factory = partial(resnet, 18, classes=10, channels=1, width=0.25, version=1, batch_norm=True)
run = fit(factory, data.train, FitConfig(epochs=15, lr=0.05, lr_drops=(9, 13), keep=(0, 1)), validation=data.test)
trajectory = netopsy.Trajectory.from_states(factory, run.states)

tables = {}
for policy in ("keep", "reset", "recompute"):
    result = netopsy.robustness(
        trajectory,
        data.test,
        sites="blocks",
        checkpoints=(0, 1),
        draws=3,
        batch_norm=policy,
        calibration=data.train,
    )
    frame = result.to_frame()
    frame = frame[frame.operation != "baseline"]
    column = frame.operation.where(frame.operation == "re-randomize", "checkpoint " + frame.checkpoint.astype(str))
    tables[policy] = frame.groupby(["site", column], sort=False).error.mean().unstack()

print(f"error of the trained network: {run.history.validation_error.iloc[-1]:.1%}, n = {len(data.test[1])}")
print(pd.concat(tables, axis=1).map("{:.1%}".format).to_string())
