"""Small models that have made trouble, each with data and the way to read them; built once a session."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from netopsy._random import forked
from netopsy.network.task import Task

N, CLASSES = 21, 3
"""Examples of every case: with batches of 8 the last one has 5."""


def mlp(width: int = 8) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


class Inplace(nn.Module):
    """Convolution and batch norm with in-place operations on slices and aliases."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu, self.drop, self.fc = nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        r = h
        h = self.bn(h)
        h[:, :4] += r[:, :4]
        h = self.relu(h)
        h += r
        return self.drop(self.fc(h.mean((2, 3))))


class Twice(nn.Module):
    """A module that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.a(torch.tanh(self.a(x)))))


class Registered(nn.Module):
    """A module that is registered twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = self.a
        self.c = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.tanh(self.a(x)))))


class LSTM(nn.Module):
    """A recurrent net, whose module returns a tuple of which a part is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.l, self.f = nn.Embedding(20, 5), nn.LSTM(5, 7, batch_first=True), nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.l(self.e(x))[0][:, -1])


class Inverted(nn.Module):
    """An EfficientNet block: depthwise convolution, squeeze and excitation, SiLU, batch norm."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(c, 2 * c, 1, bias=False), nn.BatchNorm2d(2 * c)
        self.dw = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c, bias=False)
        self.bn2, self.se1, self.se2 = nn.BatchNorm2d(2 * c), nn.Conv2d(2 * c, c, 1), nn.Conv2d(c, 2 * c, 1)
        self.project, self.bn3 = nn.Conv2d(2 * c, c, 1, bias=False), nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        silu = nn.functional.silu
        h = silu(self.bn2(self.dw(silu(self.bn1(self.expand(x))))))
        gate = torch.sigmoid(self.se2(silu(self.se1(h.mean((2, 3), keepdim=True)))))
        return x + self.bn3(self.project(h * gate))


class Efficient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Sequential(Inverted(4))
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Assigned(nn.Module):
    """Writes into slices of a tensor it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 6)
        h[:, :3] = self.a(x)
        h[:, 3:] = torch.tanh(self.b(x))
        h[:, 1:5] *= 2
        return self.c(h)


class Normed(nn.Module):
    """A weight-norm parametrization."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = parametrizations.weight_norm(nn.Linear(6, 6)), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.a(x)))


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


class Wrapped(nn.Module):
    """Returns a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Output:
        return Output(None, self.c(torch.tanh(self.a(x))))


class Branch(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.c(torch.relu(h)) if h.isfinite().sum() > 0 else self.c(self.b(h))


class Item(nn.Module):
    """A number read from a tensor in the forward pass decides a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.register_buffer("width", torch.tensor(4))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        keep = int(self.width.item())
        return self.c(torch.cat([h[:, :keep], h.new_zeros(len(h), 6 - keep)], 1))


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # scripts are deprecated, not gone
        return torch.jit.script(mlp())


def hooked() -> nn.Module:
    model = mlp()
    model[2].register_forward_hook(lambda module, args, output: 2 * output)
    return model


def gpt2() -> nn.Module:
    import transformers

    config = transformers.GPT2Config(
        n_embd=8, n_layer=1, n_head=2, vocab_size=20, n_positions=8, bos_token_id=None, eos_token_id=None
    )
    return transformers.GPT2LMHeadModel(config)


def bert() -> nn.Module:
    import transformers

    config = transformers.BertConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        vocab_size=20,
        max_position_embeddings=8,
        num_labels=CLASSES,
    )
    return transformers.BertForSequenceClassification(config)


@dataclass(frozen=True, eq=False)
class Case:
    """A model and data.

    Attributes:
        data: as `evaluate` takes them.
        inputs: all of them as `(args, kwargs)` of the model.
        labels: all targets.
        read: the model's output -> logits.
        exports: whether the model can be exported.
    """

    model: nn.Module
    data: Any
    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    labels: Tensor
    task: Task
    read: Callable[[Any], Tensor]
    exports: bool

    @property
    def shift(self) -> bool:
        return self.task.positions == "next"


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "inplace": Inplace,
    "twice": Twice,
    "registered": Registered,
    "lstm": LSTM,
    "efficient": Efficient,
    "assigned": Assigned,
    "normed": Normed,
    "wrapped": Wrapped,
    "gpt2": gpt2,
    "bert": bert,
    "branch": Branch,
    "item": Item,
    "scripted": scripted,
    "hooked": hooked,
}
EAGER = ("branch", "item", "scripted", "hooked")


def stirred(value: Tensor, name: str) -> Tensor:
    """A generic value: no bias, norm or statistic is neutral, no variance or gain negative."""
    if not value.is_floating_point():
        return value.clone()
    if "var" in name or name.endswith("original0"):
        return 0.5 + torch.rand(value.shape)
    if value.ndim < 2:
        return 0.3 * torch.randn(value.shape) + (1.0 if "weight" in name else 0.0)
    return torch.randn(value.shape) / value[0].numel() ** 0.5


def fresh_state(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """A generic state dict; tied parameters stay tied."""
    made: dict[int, Tensor] = {}
    with forked(seed):
        for name, value in model.state_dict(keep_vars=True).items():
            made.setdefault(id(value), stirred(value.detach(), name))
    return {name: made[id(value)] for name, value in model.state_dict(keep_vars=True).items()}


def build(name: str, seed: int = 0) -> nn.Module:
    """A new model with generic values, in eval mode."""
    with forked(seed):
        model = MODELS[name]()
    model.load_state_dict(fresh_state(model, seed))
    return model.eval()


@cache
def case(name: str) -> Case:
    """The case of this name; every test gets the same model, so that it is exported once."""
    model, task = build(name), Task()
    with forked(1):
        labels = torch.randint(0, CLASSES, (N,))
        tokens, mask = torch.randint(0, 20, (N, 6)), torch.ones(N, 6, dtype=torch.long)
        x = torch.randn(N, 1, 6, 6) if name in ("inplace", "efficient") else torch.randn(N, 6)
    if name in ("gpt2", "bert"):
        mask[::3, 4:] = 0
        if name == "gpt2":
            task, labels = Task(positions="next"), torch.where(mask > 0, tokens, -100)
        kwargs = {"input_ids": tokens, "attention_mask": mask}
        data: Any = {**kwargs, "labels": labels}
        inputs: tuple[tuple[Any, ...], dict[str, Any]] = ((), kwargs)
    else:
        x = tokens if name == "lstm" else x
        data, inputs = (x, labels), ((x,), {})
    plain = name not in ("gpt2", "bert", "wrapped")
    read = (lambda output: output) if plain else (lambda output: output.logits)
    return Case(model, data, inputs, labels, task, read, name not in EAGER)
