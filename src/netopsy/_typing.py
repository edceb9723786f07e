"""Names for the types that cross rooms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

Key: TypeAlias = int | str
"""The user's own epoch, step or name of a checkpoint."""

Batch: TypeAlias = Any
"""Whatever a data source yields; only a `Task` looks inside."""

State: TypeAlias = Mapping[str, Tensor]
"""Tensor values by their name in the model's `state_dict`."""

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
