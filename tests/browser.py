"""Headless Chromium for the tests of pages. Without one they skip, unless NETOPSY_BROWSER=required."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def browser() -> Iterator[Any]:
    """A browser of playwright's."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if not found or sync_playwright is None:
        reason = "needs Debian's chromium and the package playwright"
        if os.environ.get("NETOPSY_BROWSER") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=list(QUIET))
        try:
            yield started
        finally:
            started.close()


@contextmanager
def opened(chromium: Any, path: Path, *, width: int = 1200, clean: bool = True, **options: Any) -> Iterator[Any]:
    """A page of a file; at the end nothing may have been logged as wrong, asked of a network, or popped up.

    Args:
        chromium: of `browser`.
        path: of the file.
        width: of the window in CSS pixels.
        clean: False where the page is meant to complain: `page.trouble` lists it.
        options: of the context, such as `color_scheme`.
    """
    context = chromium.new_context(viewport={"width": width, "height": 800}, **options)
    try:
        page = context.new_page()
        page.trouble = []
        page.on("console", lambda m: page.trouble.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.trouble.append(str(error)))
        page.on("dialog", lambda dialog: (page.trouble.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda r: page.trouble.append(r.url) if r.url != path.as_uri() else None)
        page.goto(path.as_uri())
        yield page
        assert not clean or page.trouble == []
    finally:
        context.close()
