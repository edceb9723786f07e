"""The catalogue of training runs: each in a folder named by what decides it, trained once, found ever after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from filelock import FileLock
from torch import Tensor, nn

from netopsy._identity import code_version, digest
from netopsy._storage import read_json
from netopsy.data.dataset import fingerprint
from netopsy.store.keyed import flat
from netopsy.training.config import FitConfig
from netopsy.training.fit import FitResult, Progress, fit


def trained(
    factory: Callable[[], nn.Module],
    data: tuple[Tensor, Tensor],
    config: FitConfig,
    *,
    catalogue: Path | str,
    validation: tuple[Tensor, Tensor] | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Train a network, or find it where it was trained before; one that was interrupted goes on.

    A run is known by its factory, data, configuration and the code of all three. Two processes that want the same run
    do not both train it: the second one waits.

    Args:
        factory: a function of a module, or `functools.partial` of one.
        data: train inputs and labels.
        config: how to train.
        catalogue: folder of runs; this one's is `catalogue/<key>`.
        validation: see `fit`.
        progress: see `fit`.

    Raises:
        NetopsyError: as `fit`; and for a factory that cannot be told from another, such as a lambda.
    """
    splits = [fingerprint(*split) for split in (data, validation) if split is not None]
    key = digest({"factory": factory, "data": splits, "config": config, "code": code_version(fit, factory)})
    path = Path(catalogue) / key
    path.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{key}.lock")):
        return fit(factory, data, config, folder=path, resume=True, validation=validation, progress=progress)


def list_runs(catalogue: Path | str) -> pd.DataFrame:
    """The runs of a folder: a row a run, with its path, model, configuration, whether it finished, and its size.

    Columns: `path, model, finished, epochs_done, megabytes`, then `FitConfig`'s fields.
    """
    rows = []
    for path in sorted(Path(catalogue).glob("**/manifest.json")):
        manifest = read_json(path)
        if "config" in manifest and "keys" in manifest:
            size = sum(file.stat().st_size for file in path.parent.glob("**/*") if file.is_file())
            head = {
                "path": path.parent.relative_to(catalogue).as_posix(),
                "model": manifest["model"],
                "finished": manifest["finished"],
                "epochs_done": max(manifest["keys"], default=0),
                "megabytes": round(size / 1e6, 3),
            }
            rows.append(head | flat(manifest["config"]))
    return pd.DataFrame(rows)
