"""A biopsy of a neural network: which layers, units and input directions carry the function."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Task": "netopsy.network.task",
    "Trajectory": "netopsy.network.trajectory",
    "NetopsyError": "netopsy._checks",
    "evaluate": "netopsy.engine.evaluate",
    "robustness": "netopsy.probes.robustness",
    "RobustnessResult": "netopsy.probes.robustness",
}

__all__ = ["NetopsyError", "RobustnessResult", "Task", "Trajectory", "__version__", "evaluate", "robustness"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import netopsy` needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'netopsy' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
