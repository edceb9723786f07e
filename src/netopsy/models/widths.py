"""How much wider or narrower each layer of a model is than published."""

from __future__ import annotations

import math
from collections.abc import Mapping

from netopsy._checks import NetopsyError, inside, near, shorten


def layer_factors(bases: Mapping[str, int], width: float, widths: Mapping[str, float] | None) -> dict[str, float]:
    """The factor on the units of each layer: its own one of `widths`, or else `width`.

    Args:
        bases: from a layer's name to its units at width 1, the fewest where it has several numbers of units.
        width: factor of every layer that `widths` does not name.
        widths: factors of single layers.

    Raises:
        NetopsyError: an unknown layer, or a factor below 1/base, which leaves a layer without units, or infinite.

    >>> layer_factors({"conv1": 96, "fc1": 384}, 1.0, {"conv1": 0.25})
    {'conv1': 0.25, 'fc1': 1.0}
    """
    inside("width", width, 1.0 / min(bases.values()), math.inf, open_high=True)
    own = {} if widths is None else widths
    for name, factor in own.items():
        if name not in bases:
            raise NetopsyError(
                f"widths: expected names of layers whose width can be set, {shorten(bases)}; "
                f"got {name!r}{near(name, bases)}"
            )
        inside(f"widths[{name!r}]", factor, 1.0 / bases[name], math.inf, open_high=True)
    return {name: own.get(name, width) for name in bases}
