"""Small models that have made trouble, each with data and the way to read them; built once a session."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from netopsy._random import forked
from netopsy.network.task import Task, default_logits

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


def built(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A new model with generic values, in eval mode."""
    with forked(seed):
        model = make()
    model.load_state_dict(fresh_state(model, seed))
    return model.eval()


def build(name: str, seed: int = 0) -> nn.Module:
    """A new model of this name with generic values, in eval mode."""
    return built(MODELS[name], seed)


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


# More kinds of models, for what must work with any: `ANY`, `any_case`. Those above are in every test of the engine.

WORDS, LENGTH = 20, 6


class Residual(nn.Module):
    """torchvision's block: one in-place ReLU that is called twice."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)
        self.conv2, self.bn2 = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


def headed(*body: nn.Module, width: int = 4) -> nn.Sequential:
    """A classifier of 8x8 images in three channels."""
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(width, CLASSES))
    return nn.Sequential(nn.Conv2d(3, width, 2, stride=2), *body, *pool)


def resnet() -> nn.Module:
    return headed(nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1), Residual(4))


class Squeezed(nn.Module):
    """EfficientNet's block, with in-place SiLU and stochastic depth."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False), nn.BatchNorm2d(c)
        self.act, self.gate = nn.SiLU(inplace=True), nn.Sigmoid()
        self.fc1, self.fc2, self.p = nn.Conv2d(c, 2, 1), nn.Conv2d(2, c, 1), 0.2

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.bn(self.conv(x)))
        h *= self.gate(self.fc2(self.act(self.fc1(h.mean((2, 3), keepdim=True)))))
        if self.training:
            h = h * (torch.rand(len(h), 1, 1, 1) > self.p)
        return x + h


class ChannelNorm(nn.LayerNorm):
    """torchvision's LayerNorm2d."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    """Depthwise convolution, MLP in channels-last layout, layer scale."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.dw, self.norm = nn.Conv2d(c, c, 3, padding=1, groups=c), nn.LayerNorm(c)
        self.mlp = nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))
        self.layer_scale = nn.Parameter(torch.full((c, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale * self.mlp(self.norm(self.dw(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Window(nn.Module):
    """Swin's attention in windows of 2x2 on a shifted map, with a table of relative positions and an index buffer."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(c), nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.table = nn.Parameter(torch.zeros(9, 2))
        places = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
        apart = places[:, None] - places[None] + 1
        self.register_buffer("index", 3 * apart[..., 0] + apart[..., 1])

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = torch.roll(self.norm(x.permute(0, 2, 3, 1)), (-1, -1), (1, 2))
        y = y.reshape(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = self.qkv(y).reshape(-1, 4, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / (c // 2) ** 0.5 + self.table[self.index].permute(2, 0, 1)
        y = self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, 4, c))
        y = y.reshape(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return x + torch.roll(y, (1, 1), (1, 2)).permute(0, 3, 1, 2)


class Straight(torch.autograd.Function):
    """The sign, with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Quantized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(6, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(Straight.apply(self.a(x)))


class Spectral(nn.Module):
    """Spectral norm: its vectors are buffers, and stay as they are in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = parametrizations.spectral_norm(nn.Linear(6, 6)), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.a(x)))


class Attending(nn.Module):
    """`nn.MultiheadAttention` on three pieces of the input; its output is a tuple of which a part is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(2, 8), nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.reshape(-1, 3, 2))
        return self.out((h + self.attention(h, h, h)[0]).mean(1))


class Encoder(nn.Module):
    """`nn.TransformerEncoder`, whose eval mode takes a fast path where no gradients are asked for."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.embed, self.encoder = nn.Linear(2, 8), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.encoder(self.embed(x.reshape(-1, 3, 2))).mean(1))


class Several(nn.Module):
    """Two inputs, one of them optional; a buffer; the logits first in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(2, 5), nn.Linear(5, CLASSES)
        self.register_buffer("center", torch.zeros(6))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, z: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        h = self.a(x - self.center)
        h = torch.relu(h) if z is None else torch.relu(h + self.b(z))
        return self.c(self.drop(h)), {"hidden": h}


class Named(Several):
    """Logits in a dict, and inputs by keyword."""

    def forward(self, x: Tensor, z: Tensor | None = None) -> dict[str, Any]:
        logits, rest = super().forward(x, z)
        return {"logits": logits, "rest": rest}


class Encoded(nn.Module):
    """A head on an encoder without one."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, nn.Linear(8, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask[..., None].to(hidden.dtype)
        return self.classifier((hidden * kept).sum(1) / kept.sum(1))


def hugging(name: str) -> nn.Module:
    """A small model of `transformers`, random."""
    import transformers as hf

    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "num_labels": CLASSES,
    }
    words = {**sizes, "vocab_size": WORDS, "max_position_embeddings": 8}
    if name == "bert_mlm":
        return hf.BertForMaskedLM(hf.BertConfig(**words))
    if name == "llama":
        ends = {"bos_token_id": None, "eos_token_id": None}
        return hf.LlamaForCausalLM(hf.LlamaConfig(**words, **ends, num_key_value_heads=1))
    if name == "vit":
        images = {"image_size": 8, "patch_size": 4, "num_channels": 3}
        return hf.ViTForImageClassification(hf.ViTConfig(**sizes, **images))
    if name == "t5":
        config = hf.T5Config(d_model=8, d_ff=12, d_kv=4, num_heads=2, num_layers=1, vocab_size=WORDS)
        return Encoded(hf.T5EncoderModel(config))
    config = hf.DistilBertConfig(
        dim=8,
        n_layers=1,
        n_heads=2,
        hidden_dim=12,
        vocab_size=WORDS,
        max_position_embeddings=8,
        num_labels=CLASSES,
    )
    return hf.DistilBertForSequenceClassification(config)


ANY: dict[str, Callable[[], nn.Module]] = {
    **{name: MODELS[name] for name in ("inplace", "twice", "lstm", "normed", "wrapped")},
    **{name: MODELS[name] for name in ("bert", "gpt2", "branch", "item", "hooked")},
    **{name: partial(hugging, name) for name in ("bert_mlm", "llama", "vit", "t5", "distilbert")},
    "resnet": resnet,
    "efficient_inplace": lambda: headed(Squeezed(4)),
    "convnext": lambda: headed(ChannelNorm(4), ConvNext(4)),
    "swin": lambda: headed(Window(4)),
    "compiled": lambda: torch.compile(mlp(), backend="eager"),
    "parallel": lambda: nn.DataParallel(mlp()),
    "custom_gradient": Quantized,
    "spectral": Spectral,
    "attention": Attending,
    "encoder": Encoder,
    "several": Several,
    "named": Named,
}


@cache
def any_case(name: str) -> Case:
    """A case of `ANY` with 24 examples; every test gets the same model."""
    n, model, task = 24, built(ANY[name]), Task()
    with forked(1):
        labels, x, z = torch.randint(0, CLASSES, (n,)), torch.randn(n, 6), torch.randn(n, 2)
        tokens, images = torch.randint(0, WORDS, (n, LENGTH)), torch.randn(n, 3, 8, 8)
    masked = torch.ones(n, LENGTH, dtype=torch.long)
    masked[::3, 4:] = 0
    args, kwargs = (x,), {}
    if name in ("bert", "gpt2", "bert_mlm", "llama", "t5", "distilbert"):
        args, kwargs = (), {"input_ids": tokens, "attention_mask": masked}
        if name in ("gpt2", "llama"):
            task, labels = Task(positions="next"), torch.where(masked > 0, tokens, -100)
        if name == "bert_mlm":  # a third of the tokens is asked for
            labels = torch.where((tokens % 3 == 0) & (masked > 0), tokens, -100)
    elif name == "vit":
        args, kwargs = (), {"pixel_values": images}
    elif name == "named":
        args, kwargs = (), {"x": x, "z": z}
    elif name == "several":
        args = (x, z)
    elif name == "lstm":
        args = (tokens,)
    elif name == "inplace":
        args = (images[:, :1],)
    elif name in ("resnet", "efficient_inplace", "convnext", "swin"):
        args = (images,)
    data: Any = {**kwargs, "labels": labels} if kwargs else (*args, labels)
    return Case(model, data, (args, kwargs), labels, task, default_logits, name not in EAGER)
