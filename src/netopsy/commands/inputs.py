"""What a command line names: models and data, built in or of the user's own code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

from torch import Tensor, nn

from netopsy._checks import NetopsyError, near
from netopsy.data.cifar import cifar10, cifar100
from netopsy.data.dataset import Dataset, standardize
from netopsy.data.digits import digits
from netopsy.data.idx import fashion_mnist, mnist
from netopsy.models import resnet, vgg
from netopsy.models.fcn import fcn

DATA: Mapping[str, Callable[[], Dataset]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "mnist": mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
}
MODELS = ("fcn", "vgg", "resnet")
SAFE = ("netopsy.models.", "netopsy.training.removal:")
"""What a run's manifest may name for us to call: a file that somebody sent is no reason to run anything else."""


def imported(what: str, name: str) -> Any:
    """The object that `pkg.mod:name` names; modules of the working folder count.

    Raises:
        NetopsyError: when there is no such module or name, or the import fails.
    """
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise NetopsyError(f"{what}: expected pkg.mod:name, a name in a module that can be imported; got {name!r}")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        home = importlib.import_module(module)
    except Exception as error:  # the module is the user's, and may do anything
        raise NetopsyError(f"{what}: cannot import {module!r}: {type(error).__name__}: {error}") from error
    try:
        return getattr(home, attribute)
    except AttributeError as error:
        names = [known for known in vars(home) if not known.startswith("_")]
        raise NetopsyError(f"{what}: module {module!r} has no {attribute!r}{near(attribute, names)}") from error


def read_data(name: str) -> Any:
    """Data by name: a built-in set, standardized, or what the user's loader returns.

    Raises:
        NetopsyError: for an unknown name, or a loader that is none.
    """
    if name in DATA:
        return standardize(DATA[name]())
    if ":" not in name:
        raise NetopsyError(
            f"data: expected one of {', '.join(DATA)}, or pkg.mod:loader; got {name!r}{near(name, DATA)}"
        )
    return _call("data", imported("data", name), name)


def train_and_test(data: Any) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
    """The train split and, where there is one, the test split.

    Raises:
        NetopsyError: for data of another form.
    """
    if isinstance(data, Dataset):
        return data.train, data.test
    if isinstance(data, Mapping) and "train" in data:
        return _pair(data["train"]), _pair(data["test"]) if "test" in data else None
    if isinstance(data, tuple | list) and len(data) == 2 and not isinstance(data[0], Tensor):
        return _pair(data[0]), _pair(data[1])
    return _pair(data), None


def probed_splits(data: Any) -> Any:
    """What a probe measures on: of a data set its test split; anything else as it is."""
    if isinstance(data, Dataset):
        return {"test": data.test}
    pairs = isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, tuple | list) for part in data)
    return {"test": data[1]} if pairs else data


def model_factory(
    name: str, *, depth: int | None, width: float | None, data: tuple[Tensor, Tensor]
) -> Callable[[], nn.Module]:
    """What builds a model: a built-in one of the data's size, or the user's function without arguments.

    Raises:
        NetopsyError: for an unknown name, a size that it does not come in, or images that it does not take.
    """
    if name not in MODELS:
        if ":" not in name:
            known = ", ".join(MODELS)
            raise NetopsyError(
                f"model: expected one of {known}, or pkg.mod:factory; got {name!r}{near(name, MODELS)}"
            )
        if depth is not None or width is not None:
            raise NetopsyError(f"model {name}: --depth and --width are of built-in models; leave them out")
        return cast("Callable[[], nn.Module]", imported("model", name))
    images, labels = data
    classes, shape = int(labels.max()) + 1, tuple(images.shape[1:])
    if name == "fcn":
        return partial(
            fcn, inputs=shape, classes=classes, depth=depth or 3, width=round(256 if width is None else width)
        )
    if len(shape) != 3:
        raise NetopsyError(f"model {name}: expected images (n, channels, height, width); got {tuple(images.shape)}")
    scale = 1.0 if width is None else width
    if name == "vgg":
        kind = f"vgg{depth or 11}"
        _known("vgg", depth or 11, [int(known[3:]) for known in get_args(vgg.Name)])
        size = shape[1]
        return partial(vgg.vgg, cast("vgg.Name", kind), classes=classes, channels=shape[0], size=size, width=scale)
    _known("resnet", depth or 18, list(get_args(resnet.Depth)))
    return partial(resnet.resnet, cast("resnet.Depth", depth or 18), classes=classes, channels=shape[0], width=scale)


def recorded_factory(manifest: Mapping[str, Any]) -> Callable[[], nn.Module]:
    """The factory that a run's manifest describes, where it is one of netopsy's models.

    Raises:
        NetopsyError: when it is the user's own, which must be named to be run.
    """
    described = manifest.get("factory")
    factory = _restored(described) if described else None
    if factory is None:
        was = f" (it was {described['call']})" if isinstance(described, dict) and "call" in described else ""
        raise NetopsyError(f"run: its model is not one of netopsy's; name it by --model pkg.mod:factory{was}")
    return cast("Callable[[], nn.Module]", factory)


def _restored(described: Any) -> Any:
    """A function or partial of netopsy's models from its canonical form; None where it holds anything else."""
    if not isinstance(described, dict) or "call" not in described:
        return None
    call = str(described["call"])
    module, _, name = call.partition(":")
    if not call.startswith(SAFE) or "." in name or name.startswith("_"):
        return None
    function = imported("run", call)
    if getattr(function, "__module__", None) != module:
        return None
    values = [*described.get("args", ()), *described.get("kwargs", {}).values()]
    restored = [_restored(value) if isinstance(value, dict) else _tupled(value) for value in values]
    if any(new is None and old is not None for new, old in zip(restored, values, strict=True)):
        return None
    count = len(described.get("args", ()))
    return partial(
        function, *restored[:count], **dict(zip(described.get("kwargs", {}), restored[count:], strict=True))
    )


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def _call(what: str, function: Any, name: str) -> Any:
    if not callable(function):
        raise NetopsyError(
            f"{what}: expected {name} to be a function without arguments; it is {type(function).__name__}"
        )
    return function()


def _pair(data: Any) -> tuple[Tensor, Tensor]:
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        return data[0], data[1]
    raise NetopsyError(
        "data: expected a netopsy Dataset, a pair of tensors (inputs, labels), a (train, test) of such pairs, or a "
        f"mapping with 'train' and 'test'; got {type(data).__name__}"
    )


def _known(model: str, depth: int, known: list[int]) -> None:
    if depth not in known:
        raise NetopsyError(f"model {model}: expected a depth of {', '.join(map(str, known))}; got {depth}")
