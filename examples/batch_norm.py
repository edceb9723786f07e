"""Which treatment of batch-norm statistics tells the truth when a block is reset? Three, on one trained ResNet."""

from functools import partial

import pandas as pd
import torch

import netopsy
from netopsy.data.dataset import standardize
from netopsy.data.digits import digits
from netopsy.models.resnet import resnet

OUT = "runs/examples/batch_norm"


def main(epochs: int = 15, stages: tuple[int, ...] = (2, 2, 2, 2)) -> None:
    """Print the table of docs/robustness.md; fewer epochs and blocks are for a quick look."""
    torch.set_num_threads(2)
    data = standardize(digits())
    factory = partial(resnet, 18, classes=10, channels=1, width=0.25, version=1, batch_norm=True, stages=stages)
    drops = tuple(drop for drop in (9, 13) if drop < epochs)
    config = netopsy.FitConfig(epochs=epochs, lr=0.05, lr_drops=drops, keep=(0, 1))
    run = netopsy.fit(factory, data.train, config, validation=data.test)

    tables = {}
    for policy in ("keep", "reset", "recompute"):
        result = netopsy.robustness(
            run.trajectory,
            data.test,
            sites="blocks",
            checkpoints=(0, 1),
            draws=3,
            batch_norm=policy,
            calibration=data.train,
        )
        result.save(f"{OUT}/{policy}", overwrite=True)
        frame = result.to_frame()
        frame = frame[frame.operation != "baseline"]
        redrawn = frame.operation == "re-randomize"
        column = frame.operation.where(redrawn, "checkpoint " + frame.checkpoint.astype(str))
        tables[policy] = frame.groupby(["site", column], sort=False).error.mean().unstack()

    print(f"error of the trained network: {run.history.validation_error.iloc[-1]:.1%}, n = {len(data.test[1])}")
    print(pd.concat(tables, axis=1).map("{:.1%}".format).to_string())


if __name__ == "__main__":
    main()
