# SPDX-License-Identifier: Apache-2.0

"""Files import from lower floors and from their own, never from a higher one, and never in a circle.

The test reads the imports of every file, also those within functions and for type checkers, without importing any.
"""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import anomalib_crad

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(anomalib_crad.__file__).parent

#: From the bottom to the top. ``docs/contributing.md`` explains them.
FLOORS = (
    {"files", "provenance", "optional_packages", "freed_memory", "plugin"},
    {"data"},
    {"recording"},
    {"metrics"},
    {"post_processing"},
    {"prediction", "visualization"},
    {"export"},
    {"models"},
    {"deploy", "benchmark"},
    {"cli"},
)
#: Ways in, which nothing else imports. The root names the public classes of all floors and loads none until it is used.
DOORS = {"__init__", "__main__", "quickstart"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_names(path: Path, anywhere: bool = True) -> Iterator[str]:
    """Full names of what a file imports, wherever the import stands or only where it runs as the file is loaded."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(module) if anywhere else module.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import, whose floor cannot be read"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[str]:
    """Modules of this package that a file imports."""
    names = (name for name in imported_names(path) if name.partition(".")[0] == PACKAGE.name)
    return {name if name in MODULES else name.rpartition(".")[0] for name in names}


def room(module: str) -> str:
    """First part of a module's name within the package."""
    return module.split(".")[1] if "." in module else "__init__"


def floor(module: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS, start=1) if room(module) in rooms)


INSIDE = {name: path for name, path in MODULES.items() if room(name) not in DOORS}
IMPORTS = {name: own_imports(path) - {PACKAGE.name} for name, path in INSIDE.items()}


def test_every_file_is_on_a_floor() -> None:
    rooms = {room(name) for name in INSIDE}
    assert rooms == set().union(*FLOORS)


def test_no_file_imports_from_a_higher_floor() -> None:
    upward = [
        f"{name} (floor {floor(name)}) imports {imported} (floor {floor(imported)})"
        for name, imports in IMPORTS.items()
        for imported in sorted(imports)
        if floor(imported) > floor(name)
    ]
    assert not upward, "\n".join(upward)


def test_no_file_imports_itself_through_others() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        circle = " <- ".join(error.args[1])
        raise AssertionError(circle) from None


def test_nothing_imports_the_ways_in() -> None:
    doors = {name for name in MODULES if room(name) in DOORS} - {PACKAGE.name}
    assert not {name: doors & imports for name, imports in IMPORTS.items() if doors & imports}


def test_no_file_takes_a_class_from_the_root() -> None:
    """That would hide its floor."""
    for name, path in INSIDE.items():
        taken = {imported for imported in imported_names(path) if imported.rpartition(".")[0] == PACKAGE.name}
        assert taken <= set(MODULES), name


def test_the_plugin_imports_the_standard_library_only() -> None:
    """All of it, since it is part of every ``import torch``."""
    for name, path in INSIDE.items():
        if room(name) == "plugin":
            tops = {imported.partition(".")[0] for imported in imported_names(path)}
            assert tops <= {*sys.stdlib_module_names, PACKAGE.name}, name
            assert {room(imported) for imported in IMPORTS[name]} <= {"plugin"}, name


def test_the_lowest_floor_loads_the_standard_library_only() -> None:
    """It may import more within functions."""
    for name, path in INSIDE.items():
        if floor(name) == 1:
            tops = {imported.partition(".")[0] for imported in imported_names(path, anywhere=False)}
            assert tops <= {*sys.stdlib_module_names, PACKAGE.name}, name
