"""Which layers does the network need that I train with my own loop? Record the loop, then probe the recording."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import netopsy
from netopsy.data.dataset import standardize
from netopsy.data.digits import digits
from netopsy.plots.style import save

OUT = "runs/examples/first_probe"
EPOCHS = 20


def build_model() -> nn.Module:
    """Any function that makes your network; the probe calls it again to draw layers anew."""
    layers = OrderedDict[str, nn.Module](flatten=nn.Flatten())
    for i, inputs in enumerate((64, 256, 256), 1):
        layers |= {f"layer{i}": nn.Linear(inputs, 256), f"relu{i}": nn.ReLU()}
    return nn.Sequential(layers | {"classifier": nn.Linear(256, 10)})


data = standardize(digits())
images, labels = data.train
torch.manual_seed(0)
model = build_model()
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
with netopsy.Recorder(model, f"{OUT}/run", overwrite=True) as recorder:  # checkpoint 0: the initial weights
    for epoch in range(1, EPOCHS + 1):
        for batch in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        recorder.record(epoch)

trajectory = netopsy.Trajectory.from_folder(build_model, f"{OUT}/run")
result = netopsy.robustness(trajectory, data.test, checkpoints=(0, 1, 5, EPOCHS), draws=3, tolerance=0.1)
print(result)

frame = result.to_frame()
for operation, words in (("re-initialize", "Set back to checkpoint 0"), ("re-randomize", "Drawn anew")):
    rows = frame[(frame.operation == operation) & (frame.checkpoint.fillna(0) == 0)]
    cost = rows.groupby("site").delta_error.mean()
    print(f"{words}, {cost.idxmax()} costs most: {cost.max():+.1%}; {cost.idxmin()} least: {cost.min():+.1%}.")
print("Wrote", result.save(f"{OUT}/result", overwrite=True), "and", save(result.plot(), f"{OUT}/heatmap.png"))
