"""Shapes and types of every annotated function are checked in the tests, and only there."""

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
