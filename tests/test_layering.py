"""A room imports only rooms above it in this list; siblings (rooms on one line) do not import each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "netopsy"
FLOORS = [
    {"_amounts", "_checks", "_random", "_typing"},
    {"_storage", "_identity"},
    {"plots"},
    {"network"},
    {"engine"},
    {"models", "data"},
    {"training"},
    {"probes"},
    {"store"},
    {"report"},
    {"studies"},
    {"commands"},
    {"_cli_options", "_cli_heatmap"},
    {"_cli_output", "_cli_parse"},
    {"cli", "__main__"},
]
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


def imported(path: Path) -> set[str]:
    """Rooms of netopsy that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names |= {f"netopsy.{alias.name}" for alias in node.names if node.module == "netopsy"}
    rooms = {name.split(".")[1] for name in names if name.startswith("netopsy.")}
    return {room for room in rooms if not room.startswith("__")}  # the root's own names, such as its version


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_rooms_above_it(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for other in imported(path) - {room}:
        assert other in FLOOR, f"{path} imports the unknown room {other}"
        assert FLOOR[other] < FLOOR[room], f"{path}: {room} may not import {other}"


def test_plots_know_no_model_and_no_torch() -> None:
    for path in (ROOT / "plots").glob("*.py"):
        assert "torch" not in path.read_text().split("import")[-1]


def test_the_rooms_own_init_files_are_empty() -> None:
    for path in ROOT.glob("*/__init__.py"):
        assert path.read_text() == "", path
