"""How the documentation site is built: `make docs`, without network and without warnings."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from functools import cache
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment
from sphinx.util.inspect import stringify_signature

import netopsy

project = "netopsy"
author = "The netopsy authors"
copyright = author
version = release = netopsy.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_static"]
source_suffix = {".md": "markdown"}

# The pages are plain Markdown, which must read as well on a code host: of MyST's own syntax there are only toctrees,
# in indexes, and autodoc's directives, in the reference.
myst_heading_anchors = 3

html_theme = "furo"
html_title = "netopsy"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5f8b", "color-brand-content": "#1f5f8b"},
    "dark_css_variables": {"color-brand-primary": "#7fb8de", "color-brand-content": "#7fb8de"},
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False

# Docstrings are written as Markdown: single backticks are code.
default_role = "code-or-link"
smartquotes_action = "D"  # dashes only

# Every reference is checked, but for those to other libraries, as signatures name them: their inventories could only
# be had by network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:class", r"(collections|ds|nn|np|npt|numpy|pandas|pathlib|pd|torch)\..*"),
    (r"py:class", r"Axes|Bool|Figure|Float|Int|Int64|Path|Tensor|UInt8|ndarray"),
    (r"py:obj", r".*"),  # code in single backticks is no reference, unless it happens to name something
]


class CodeOrLink(PyXRefRole):
    """Code in single backticks, as it stands, with a link where it names something on these pages."""

    explicit_title_re = re.compile("(?!)")  # `folder/<key>` is no title with a target

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        self.name, self.disabled = "py:obj", False
        return super().run()

    def process_link(
        self, env: BuildEnvironment, refnode: nodes.Element, has_explicit_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        return super().process_link(env, refnode, True, title, target)  # explicit: the title stays


class Bare(str):
    """Text that a signature shows without quotation marks."""

    __repr__ = str.__str__


@cache
def homes(module: str) -> dict[str, str]:
    """A module's names of classes and types -> where they are defined: there, or in what it imports of netopsy."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(inspect.getsource(sys.modules[module]))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("netopsy"):
            found |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.ClassDef):
            found[node.name] = f"{module}.{node.name}"
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id: f"{module}.{name.id}" for name in targets if isinstance(name, ast.Name)}
    return found


def as_written(
    app: Sphinx, what: str, name: str, thing: Any, options: object, arguments: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Signatures as the source has them, so that `Key` and `Float[Tensor, "n c"]` are not spelled out; names link."""
    if arguments is None:
        return None
    signature = inspect.signature(thing)
    if what == "method" and inspect.isfunction(thing):  # not bound: without self
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    known = homes(thing.__module__)

    def linked(annotation: Any) -> Any:
        if not isinstance(annotation, str):
            return annotation
        return re.sub(r"(?<![\w.])[A-Z]\w*", lambda m: f"~{known[m[0]]}" if m[0] in known else m[0], annotation)

    def named(default: Any) -> Any:
        return Bare(default.__name__) if inspect.isfunction(default) else default

    parameters = [
        p.replace(annotation=linked(p.annotation), default=named(p.default)) for p in signature.parameters.values()
    ]
    shown = stringify_signature(signature.replace(parameters=parameters), show_return_annotation=False)
    result = signature.return_annotation
    return shown, linked(result) if isinstance(result, str) and what != "class" else None


def link_out(app: Sphinx, page: str, source: list[str]) -> None:
    """A relative link out of docs/, which a code host follows, gives the file itself on the site."""
    if "/" not in page:  # from deeper pages, .. is still in docs/
        source[0] = source[0].replace("](../", "](path:../")


def setup(app: Sphinx) -> None:
    app.connect("source-read", link_out)
    app.add_role("code-or-link", CodeOrLink())
    app.connect("autodoc-process-signature", as_written)
