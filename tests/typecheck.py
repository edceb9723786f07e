"""The runtime type checker of the tests; an int passes where a float is asked for, as PEP 484 has it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def tower(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its types checked, from its first call on: half of all is never called in one process."""
    checked = functools.cache(lambda: _check(function))

    @functools.wraps(function)
    def checking(*args: Any, **kwargs: Any) -> Any:
        return checked()(*args, **kwargs)

    return checking
