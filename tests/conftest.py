"""Shapes and types of every annotated function are checked in the tests, and only there."""

from jaxtyping import install_import_hook

install_import_hook("netopsy", "tests.typecheck.tower")
