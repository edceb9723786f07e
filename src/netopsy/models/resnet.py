"""Residual networks V1 (He et al. 2016a) and V2 (He et al. 2016b), with and without batch normalization."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad as padded

from netopsy._checks import NetopsyError, at_least, one_of
from netopsy.models.inits import Init, check_init, initialize
from netopsy.models.widths import layer_factors

Depth: TypeAlias = Literal[18, 34, 50, 101, 152]
Version: TypeAlias = Literal[1, 2]
Stem: TypeAlias = Literal["small", "large"]
Shortcut: TypeAlias = Literal["projection", "padding"]
"""A strided 1×1 convolution, or every other pixel and channels of zeros (He et al. 2016a, options B and A)."""

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks in each stage (He et al. 2016a, Table 1); from depth 50 on they are bottlenecks."""
CHANNELS = 64
"""Channels of the published first stage; each stage has twice those of the stage before it."""
EXPANSION = 4
"""How many times its middle channels a bottleneck puts out."""


class Block(nn.Module):
    """A residual block: x -> after(body(before(x)) + skip), the skip being x itself where the shapes allow.

    Where they don't, the skip is `shortcut(before(x))`, a strided 1×1 convolution or a `Padding`. V1 has nothing
    before and a ReLU after; V2 has its first normalization and ReLU before and nothing after (Zhang et al. 2022,
    Fig. 10, "preact").
    """

    def __init__(
        self,
        *,
        before: Mapping[str, nn.Module],
        body: Mapping[str, nn.Module],
        after: Mapping[str, nn.Module],
        shortcut: nn.Module | None,
    ) -> None:
        super().__init__()
        for name, module in {**before, **body, **after}.items():
            self.add_module(name, module)
        self.shortcut = shortcut
        # Names, not modules: a module that someone replaces by setattr must be the one that runs.
        self._before, self._body, self._after = tuple(before), tuple(body), tuple(after)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Return the next block's input."""
        start = self._run(self._before, x)
        skip = x if self.shortcut is None else self.shortcut(start)
        return self._run(self._after, self._run(self._body, start) + skip)

    def _run(self, names: tuple[str, ...], x: Tensor) -> Tensor:
        for name in names:
            x = getattr(self, name)(x)
        return x


class Padding(nn.Module):
    """The shortcut without parameters (He et al. 2016a, option A): every `stride`-th pixel, and channels of zeros."""

    def __init__(self, *, stride: int, extra: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Return the pixels that a 1×1 convolution of this stride would read, with `extra` channels behind."""
        return padded(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))

    def extra_repr(self) -> str:
        """Name the numbers in the module's text."""
        return f"stride={self.stride}, extra={self.extra}"


class ResNet(nn.Sequential):
    """What `resnet` builds: `stem`, `stage1` … of blocks, in V2 `norm` and `relu`, then `pool` and `classifier`."""


def resnet(
    depth: Depth,
    *,
    classes: int,
    channels: int = 3,
    version: Version = 2,
    first: int = CHANNELS,
    width: float = 1.0,
    widths: Mapping[str, float] | None = None,
    batch_norm: bool = False,
    stem: Stem = "small",
    stages: Sequence[int] | None = None,
    shortcut: Shortcut = "projection",
    init: Init = "torch",
) -> ResNet:
    """Build a ResNet: images (n, channels, height, width), of any size, to logits (n, classes).

    The defaults are the networks of Zhang et al. 2022 on CIFAR-10 (Appendix A): V2, no batch normalization, small
    stem. A block is V1 `conv1 norm1 relu1 conv2 norm2`, the sum, `relu2`; or V2 `norm1 relu1 conv1 norm2 relu2 conv2`
    and the sum; a bottleneck has a third triple. The first block of each stage after the first halves the resolution
    (a bottleneck in its 3×3 convolution). A block has a `shortcut` only where its shapes change: the first of each
    stage, except `stage1.block1` of depth 18 and 34. V2's stem has no normalization and ReLU of its own: they are the
    first ones of `stage1.block1`.

    Args:
        depth: the published depth; sets the kind of block and, without `stages`, their number.
        classes: logits of one example.
        channels: channels of an image.
        version: 1 (post-activation) or 2 (pre-activation).
        first: channels of the stem and the first stage at width 1, doubled from stage to stage.
        width: factor on all channels (rounded, at least one).
        widths: factors of single blocks instead of `width`, on their inner channels: those that the block's last
            convolution reads and in a bottleneck also those before. `{"stage2.block1": 4.0}`; the sums keep theirs.
        batch_norm: whether there are normalizations; convolutions have biases exactly where there are none.
        stem: "small" is a 3×3 convolution for images of about 32 pixels; "large" a 7×7 convolution and a 3×3 max
            pooling, each of stride 2, for 224.
        stages: blocks in each stage instead of the published ones; any number of stages. See `resnet56`.
        shortcut: what skips a block whose shapes change: "projection", a 1×1 convolution (option B of He et al.
            2016a), or "padding" with zeros (option A; see `Padding`).
        init: see `netopsy.models.inits.initialize`; draws come from torch's global generator.

    Raises:
        NetopsyError: an unknown `depth`, `version`, `stem`, `shortcut` or `init`, a size or a number of blocks below
            1, no stage, an unknown block in `widths`, or a factor that leaves no channel.

    >>> model = resnet(18, classes=10, width=1 / 16)
    >>> [name for name, _ in model.stage2.block1.named_children()]
    ['relu1', 'conv1', 'relu2', 'conv2', 'shortcut']
    """
    one_of("depth", depth, get_args(Depth))
    one_of("version", version, get_args(Version))
    at_least("classes", classes, 1)
    at_least("channels", channels, 1)
    one_of("stem", stem, get_args(Stem))
    one_of("shortcut", shortcut, get_args(Shortcut))
    check_init(init)
    at_least("first", first, 1)
    counts = STAGES[depth] if stages is None else tuple(stages)
    if not counts:
        raise NetopsyError("stages: expected the number of blocks of at least one stage; got none; pass e.g. (2, 2)")
    for count in counts:
        at_least("stages", count, 1)
    bases = {f"stage{i}.block{j}": first * 2 ** (i - 1) for i, n in enumerate(counts, 1) for j in range(1, n + 1)}
    factors = layer_factors(bases, width, widths)

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    last = round(first * width)
    layers["stem"] = _stem(channels, last, stem, version, batch_norm)
    for i, count in enumerate(counts):
        outputs = round(first * 2**i * width) * (EXPANSION if depth >= 50 else 1)
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for j in range(count):
            stride = 2 if i > 0 and j == 0 else 1
            name = f"stage{i + 1}.block{j + 1}"
            middle = round(bases[name] * factors[name])
            shapes = (
                _bottleneck(last, middle, outputs, stride) if depth >= 50 else _basic(last, middle, outputs, stride)
            )
            blocks[f"block{j + 1}"] = _block(shapes, shortcut, version, batch_norm)
            last = outputs
        layers[f"stage{i + 1}"] = nn.Sequential(blocks)
    if version == 2:
        if batch_norm:
            layers["norm"] = nn.BatchNorm2d(last)
        layers["relu"] = nn.ReLU()
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(last, classes)
    model = ResNet(layers)
    initialize(model, init)
    return model


def resnet56(
    *,
    classes: int,
    channels: int = 3,
    width: float = 1.0,
    widths: Mapping[str, float] | None = None,
    shortcut: Shortcut = "padding",
    init: Init = "glorot-normal",
) -> ResNet:
    """Build the ResNet-56 for CIFAR (He et al. 2016a, section 4.2): V1, batch normalization, 3 stages of 9 blocks.

    16 channels in the stem and the first stage at width 1, then 32 and 64. Casper et al. 2019 take it "off the shelf"
    from He et al. and do not name the shortcuts: those of He et al. on CIFAR have no parameters (853,018 in all with
    10 classes), the default here. Their schedule is that of TensorFlow's official models, whose shortcuts are
    projections: `shortcut="projection"`. Arguments and errors are those of `resnet`.

    >>> sum(value.numel() for value in resnet56(classes=10).parameters())
    853018
    """
    return resnet(
        18,
        classes=classes,
        channels=channels,
        version=1,
        first=16,
        width=width,
        widths=widths,
        batch_norm=True,
        stages=(9, 9, 9),
        shortcut=shortcut,
        init=init,
    )


def _stem(inputs: int, outputs: int, stem: Stem, version: Version, batch_norm: bool) -> nn.Sequential:
    kernel, stride = (7, 2) if stem == "large" else (3, 1)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = _convolution(inputs, outputs, kernel, stride, batch_norm)
    if version == 1:
        if batch_norm:
            layers["norm"] = nn.BatchNorm2d(outputs)
        layers["relu"] = nn.ReLU()
    if stem == "large":
        layers["pool"] = nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(layers)


Shape: TypeAlias = tuple[int, int, int, int]
"""A convolution's input channels, output channels, kernel and stride."""


def _basic(inputs: int, middle: int, outputs: int, stride: int) -> list[Shape]:
    return [(inputs, middle, 3, stride), (middle, outputs, 3, 1)]


def _bottleneck(inputs: int, middle: int, outputs: int, stride: int) -> list[Shape]:
    return [(inputs, middle, 1, 1), (middle, middle, 3, stride), (middle, outputs, 1, 1)]


def _block(shapes: Sequence[Shape], shortcut: Shortcut, version: Version, batch_norm: bool) -> Block:
    chain: dict[str, nn.Module] = {}
    for i, (source, target, kernel, step) in enumerate(shapes, 1):
        convolution = {f"conv{i}": _convolution(source, target, kernel, step, batch_norm)}
        norm = {f"norm{i}": nn.BatchNorm2d(target if version == 1 else source)} if batch_norm else {}
        relu = {f"relu{i}": nn.ReLU()}
        chain |= {**convolution, **norm, **relu} if version == 1 else {**norm, **relu, **convolution}

    # The sum goes before V1's last ReLU; it forks from V2's first.
    names = list(chain)
    first = names.index("conv1")
    last = len(names) - 1 if version == 1 else len(names)
    return Block(
        before={name: chain[name] for name in names[:first]},
        body={name: chain[name] for name in names[first:last]},
        after={name: chain[name] for name in names[last:]},
        shortcut=_shortcut(shapes, shortcut, version, batch_norm),
    )


def _shortcut(shapes: Sequence[Shape], kind: Shortcut, version: Version, batch_norm: bool) -> nn.Module | None:
    """What stands in for the identity where a block's shapes change."""
    inputs, outputs, stride = shapes[0][0], shapes[-1][1], max(shape[-1] for shape in shapes)
    if inputs == outputs and stride == 1:
        return None
    if kind == "padding":
        return Padding(stride=stride, extra=outputs - inputs)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = _convolution(inputs, outputs, 1, stride, batch_norm)
    if version == 1 and batch_norm:
        layers["norm"] = nn.BatchNorm2d(outputs)
    return nn.Sequential(layers)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, batch_norm: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=not batch_norm)
