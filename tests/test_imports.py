"""Imports point only in the direction of the table in docs/architecture.md, outside only where allowed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "unionfs"

# part → the parts that it may import, besides itself
ALLOWED = {
    "": set(),  # unionfs/__init__.py
    "__main__": {"cli"},
    "libc": set(),
    "wire": set(),
    "device": {"wire", "libc"},
    "layer": {"libc"},
    "union": {"layer", "libc"},
    "server": {"wire", "device", "union"},
    "fusepy_front": {"union"},
    "image": {"layer", "union", "libc"},
    "bench": set(),
    "cli": {"libc", "wire", "device", "layer", "union", "server", "fusepy_front", "image", "bench"},
}

# module outside the standard library → the part that may import it, and only inside a function
OUTSIDE = {"fuse": "fusepy_front", "mfusepy": "fusepy_front", "zstandard": "image", "matplotlib": "bench"}

# Start-up time is a promise: `unionfs mount` in under 150 ms. These cost milliseconds each.
HEAVY = {"argparse", "asyncio", "dataclasses", "inspect", "logging", "pathlib", "subprocess", "typing"}
ON_THE_WAY_TO_A_MOUNT = ("libc", "wire", "device", "layer", "union", "server")


class Import:
    def __init__(self, file: Path, line: int, module: str, at_run_time: bool, at_the_top: bool) -> None:
        self.file, self.line, self.module = file, line, module
        self.at_run_time, self.at_the_top = at_run_time, at_the_top

    def __repr__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"


def part(file: Path) -> str:
    """libc, wire, …: the file's or folder's name directly below unionfs/."""
    first = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports_of(file: Path) -> Iterator[Import]:
    pending: list[tuple[ast.AST, bool, bool]] = [(ast.parse(file.read_text()), True, True)]
    while pending:
        node, at_run_time, at_the_top = pending.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, at_run_time, at_the_top)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "unionfs" else [module]
            for name in names:
                yield Import(file, node.lineno, name, at_run_time, at_the_top)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            pending += [(child, False, at_the_top) for child in node.body]
        else:
            top = at_the_top and not isinstance(node, ast.FunctionDef)
            pending += [(child, at_run_time, top) for child in ast.iter_child_nodes(node)]


FILES = sorted(PACKAGE.rglob("*.py"))
ALL = [found for file in FILES for found in imports_of(file)]


def test_every_part_has_a_row() -> None:
    assert {part(file) for file in FILES} <= set(ALLOWED)


def test_imports_point_in_the_direction_of_the_table() -> None:
    """Also those for annotations alone: who names a type of another part depends on it."""
    wrong = []
    for found in ALL:
        module = found.module.split(".")
        if module[0] != "unionfs" or found.module == "unionfs.__version__":
            continue
        target = module[1] if len(module) > 1 else ""
        own = part(found.file)
        if target != own and target not in ALLOWED[own]:
            wrong.append(found)
    assert not wrong


def test_only_libc_uses_ctypes() -> None:
    assert {part(found.file) for found in ALL if found.module.split(".")[0] == "ctypes"} == {"libc"}


def test_nothing_outside_the_standard_library_but_where_it_is_allowed() -> None:
    names = sys.stdlib_module_names | {"unionfs", "__future__"}
    outside = [found for found in ALL if found.module.split(".")[0] not in names]
    assert not [found for found in outside if OUTSIDE.get(found.module.split(".")[0]) != part(found.file)]
    optional = [found for found in outside if part(found.file) != "fusepy_front"]
    assert not [found for found in optional if found.at_run_time and found.at_the_top]


def test_wire_does_no_io() -> None:
    able = ("os", "io", "socket", "fcntl", "select", "mmap", "threading", "_thread")
    found = [found for found in ALL if part(found.file) == "wire" and found.module in able]
    assert not [found for found in found if found.at_run_time]


def test_nothing_heavy_is_imported_on_the_way_to_a_mount() -> None:
    wrong = [found for found in ALL if part(found.file) in ON_THE_WAY_TO_A_MOUNT
             and found.at_run_time and found.at_the_top and found.module.split(".")[0] in HEAVY]  # fmt: skip
    assert not wrong


@pytest.mark.parametrize("module", ["unionfs", "unionfs.cli", "unionfs.cli.mount", "unionfs.cli.serve"])
def test_what_the_mount_command_imports_first_is_light(module: str) -> None:
    """Seen from a fresh interpreter, so with what the imports of imports bring along."""
    code = f"import sys; before = set(sys.modules); import {module}; print(*set(sys.modules) - before)"
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & HEAVY
