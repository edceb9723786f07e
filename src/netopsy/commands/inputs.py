"""What a command line names: models and data, built in or of the user's own code."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

from torch import Tensor, nn

from netopsy._checks import NetopsyError, near
from netopsy._typing import Key, State
from netopsy.data.cifar import cifar10, cifar100
from netopsy.data.dataset import Dataset, standardize
from netopsy.data.digits import digits
from netopsy.data.idx import fashion_mnist, mnist
from netopsy.models import resnet, vgg
from netopsy.models.fcn import fcn
from netopsy.models.inits import Normal
from netopsy.network.pretrained_folders import pretrained_states
from netopsy.training.removal import without

DATA: Mapping[str, Callable[[], Dataset]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "mnist": mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
}
MODELS = ("fcn", "vgg", "resnet")
SAFE = re.compile(r"netopsy\.(models\.\w+:[A-Za-z]\w*|training\.removal:without)")
"""What a run's manifest may name for us to call: a file that somebody sent is no reason to run anything else."""
NORMAL = "netopsy.models.inits:Normal"
"""The one class that a manifest may name: it holds numbers."""


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
        NetopsyError: for an unknown name, or a loader that is none, or fails.
    """
    if name in DATA:
        return standardize(DATA[name]())
    if ":" not in name:
        raise NetopsyError(
            f"data: expected one of {', '.join(DATA)}, or pkg.mod:loader; got {name!r}{near(name, DATA)}"
        )
    loader = function("data", name)
    try:
        return loader()
    except NetopsyError:
        raise
    except Exception as error:  # it is the user's, and may do anything
        raise NetopsyError(f"data: {name} raised {type(error).__name__}: {error}") from error


def function(what: str, name: str) -> Callable[[], Any]:
    """The function without arguments that `pkg.mod:name` names.

    Raises:
        NetopsyError: as `imported`; and when it is something else.
    """
    found = imported(what, name)
    wanted = f"{what}: expected {name} to be a function without arguments"
    if not callable(found):
        raise NetopsyError(f"{wanted}; it is {type(found).__name__}; name a function that returns it")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise NetopsyError(f"{wanted}; it has others ({error}); name a function that binds them") from error
    except ValueError:  # written in C, and does not say what it takes
        pass
    return cast("Callable[[], Any]", found)


def pretrained(initial: Path, final: Path) -> tuple[Callable[[], nn.Module], dict[Key, State]]:
    """What builds a fine-tuned model, and its states before and after, from two folders of Hugging Face's.

    Raises:
        NetopsyError: transformers is not installed, or the folders are not of a model and its base.
    """
    try:
        return pretrained_states(initial, final)
    except ImportError as error:
        raise NetopsyError(f"model: {error}") from error


def train_and_test(data: Any) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
    """The train split and, where there is one, the test split.

    Raises:
        NetopsyError: for data of another form.
    """
    if isinstance(data, Dataset):
        return data.train, data.test
    if isinstance(data, Mapping) and "train" in data:
        return _pair(data["train"]), _pair(data["test"]) if "test" in data else None
    if _is_two_splits(data):
        return _pair(data[0]), _pair(data[1])
    return _pair(data), None


def probed_splits(data: Any) -> Any:
    """What a probe measures on: of a data set all but its train split; anything else as it is."""
    if isinstance(data, Dataset):
        return {"test": data.test}
    if _is_two_splits(data):
        return {"test": data[1]}
    if isinstance(data, Mapping) and len(data) > 1:
        return {split: part for split, part in data.items() if split != "train"}
    return data


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
        return function("model", name)
    images, labels = data
    classes, shape = int(labels.max()) + 1, tuple(images.shape[1:])
    if name == "fcn":
        if width is not None and not width.is_integer():
            raise NetopsyError(f"model fcn: expected a whole number of units as width; got {width:g}")
        units = 256 if width is None else int(width)
        return partial(fcn, inputs=shape, classes=classes, depth=3 if depth is None else depth, width=units)
    if len(shape) != 3:
        raise NetopsyError(f"model {name}: expected images (n, channels, height, width); got {tuple(images.shape)}")
    scale = 1.0 if width is None else width
    if name == "vgg":
        number = 11 if depth is None else depth
        _known("vgg", number, [int(known[3:]) for known in get_args(vgg.Name)])
        kind = cast("vgg.Name", f"vgg{number}")
        return partial(vgg.vgg, kind, classes=classes, channels=shape[0], size=shape[1], width=scale)
    number = 18 if depth is None else depth
    _known("resnet", number, list(get_args(resnet.Depth)))
    return partial(resnet.resnet, cast("resnet.Depth", number), classes=classes, channels=shape[0], width=scale)


def recorded_factory(manifest: Mapping[str, Any]) -> Callable[[], nn.Module] | None:
    """The factory that a run's manifest describes; None where it is not one of netopsy's models.

    Then it is somebody's own code, which the user must name to have it run.
    """
    return cast("Callable[[], nn.Module] | None", _restored(manifest.get("factory")))


def trained_factory(factory: Callable[[], nn.Module], manifest: Mapping[str, Any]) -> Callable[[], nn.Module]:
    """What makes the network that a run trained: without the modules that its config removed."""
    config = manifest.get("config")
    removed = config.get("removed") if "factory" in manifest and isinstance(config, dict) else None
    return partial(without, factory, tuple(map(str, removed))) if removed else factory


def _restored(described: Any) -> Any:
    """A function or partial of netopsy's models from its canonical form; None where it is anything else."""
    if not isinstance(described, dict):
        return None
    call, args, kwargs = str(described.get("call")), described.get("args", []), described.get("kwargs", {})
    if not SAFE.fullmatch(call) or not isinstance(args, list) or not isinstance(kwargs, dict):
        return None
    try:
        found = imported("run", call)
    except NetopsyError:  # of another version, say
        return None
    if getattr(found, "__module__", None) != call.partition(":")[0]:
        return None
    values = [*args, *kwargs.values()]
    restored = [_argument(value) if isinstance(value, dict) else _tupled(value) for value in values]
    if any(new is None and old is not None for new, old in zip(restored, values, strict=True)):
        return None
    factory = partial(found, *restored[: len(args)], **dict(zip(kwargs, restored[len(args) :], strict=True)))
    try:
        inspect.signature(factory).bind()
    except (TypeError, ValueError):
        return None
    return factory


def _argument(described: dict[str, Any]) -> Any:
    """A factory, a `Normal`, or factors by layer's name, from its canonical form; None where it is anything else."""
    if "call" in described:
        return _restored(described)
    if "type" in described:
        held = described.get("fields")
        if described["type"] != NORMAL or not isinstance(held, dict) or set(held) != {"sigma", "truncated"}:
            return None
        try:
            return Normal(**held) if _is_number(held["sigma"]) and isinstance(held["truncated"], bool) else None
        except NetopsyError:
            return None
    return dict(described) if all(map(_is_number, described.values())) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def _is_two_splits(data: Any) -> bool:
    """A tuple (train, test); a list is one of batches."""
    return isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, tuple | list) for part in data)


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
