"""Shapes and types of every annotated function are checked in the tests, and only there."""

import functools
import sys
from collections.abc import Iterator

import jaxtyping
import pytest

import tests.typecheck  # the hook below finds it by its name

jaxtyping.install_import_hook("netopsy", f"{tests.typecheck.__name__}.tower")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the tests' own type checks, which would refuse a bad value before the product does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session", autouse=True)
def traced_once() -> Iterator[None]:
    """Exports, which most of the time went into, are shared; see `tests.traces`."""
    graph = sys.modules.get("netopsy.engine.graph")
    if graph is None:  # none of the tests that were chosen needs it, which takes seconds to import
        yield
        return
    import torch._export.utils as torchs

    from tests.traces import shared

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "_trace", shared(graph._trace))
        # A sixth of an export: it looks up all operators again, for each of their namespaces.
        patch.setattr(torchs, "_materialize_cpp_cia_ops", functools.cache(torchs._materialize_cpp_cia_ops))
        yield
