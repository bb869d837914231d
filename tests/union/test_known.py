"""What is known while someone knows it: forgetting, descriptors, hard links and their index."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.lib.layers import Dir, Layer, Link
from tests.union.core import ROOT, Core
from unionfs.union import Node

LINKED: Layer = {"a": "shared", "b": Link("a"), "d/c": Link("a"), "e": Dir()}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_ten_thousand_directories_with_few_descriptors(tmp_path: Path) -> None:
    """All known at once, as the kernel may: what is open stays within the limit, and all answer."""
    with Core(tmp_path, [{f"{i // 100}/{i % 100}/f": f"{i}" for i in range(10_000)}]) as core:
        core.union.fd_limit = 32
        before, most = descriptors(), 0
        for i in range(10_000):
            assert core.find(f"{i // 100}/{i % 100}/f") is not None
            most = max(most, core.union.fd_count)
        assert len(core.met) >= 20_000
        assert most <= 32 + 4
        assert descriptors() - before <= 32 + 4
        for i in range(0, 10_000, 977):
            assert core.read(f"{i // 100}/{i % 100}/f") == b"%d" % i


def test_changes_in_directories_whose_descriptors_were_closed(tmp_path: Path) -> None:
    with Core(tmp_path, [{f"d{i}/sub/f": "x" for i in range(60)}]) as core:
        core.union.fd_limit = 16
        nodes = [core.node(f"d{i}/sub/f") for i in range(60)]
        for i in range(60):
            core.union.rename(*core.at(f"d{i}"), *core.at(f"moved{i}"))
        for node in nodes:
            core.union.chmod(node, 0o600)
        assert descriptors() < 200
        for i in range(60):
            assert core.union.stat(core.node(f"moved{i}/sub/f")).st_mode & 0o777 == 0o600


def test_forgetting_releases_everything(tmp_path: Path) -> None:
    with Core(tmp_path, [{f"d{i}/f{j}": "" for i in range(9) for j in range(9)}]) as core:
        before = descriptors()
        core.view()
        held = core.union.create(*core.at("d1/new"), 0o600, os.O_RDWR, ROOT)
        core.union.unlink(*core.at("d1/new"))
        core.union.release(held[2])
        core.met.add(held[0])
        for node in list(core.met):
            core.union.forget(node)
        core.met.clear()
        assert core.union.root.children == {}
        assert core.union.hard_links == {}
        assert core.union.lingering == set()
        core.union.close_parts(core.union.root)
        assert descriptors() <= before


def test_a_directory_stays_while_one_of_its_hard_links_is_known(tmp_path: Path) -> None:
    with Core(tmp_path, [LINKED]) as core:
        node, directory = core.node("d/c"), core.dir("d")
        assert core.node("a") is node
        core.union.forget(directory)
        assert core.union.lingering == {directory}
        assert core.dir("d") is directory
        assert core.union.lingering == set()
        core.union.forget(directory)
        core.union.forget(node)
        assert core.union.lingering == set()
        assert core.union.root.children == {}


def _names(core: Core) -> dict[str, tuple[int, int]]:
    """path → (inode number, link count) of the names of the one file."""
    found: dict[str, tuple[int, int]] = {}
    for path in ("a", "b", "d/c", "new"):
        node = core.find(path)
        if node is not None:
            found[path] = node.ino, core.union.nlink(node, core.union.stat(node))
    return found


def _indexed(core: Core) -> list[str]:
    return os.listdir(core.work + "/index")


def test_the_names_of_a_lower_file_stay_one_inode(tmp_path: Path) -> None:
    with Core(tmp_path, [LINKED]) as core:
        at_first = _names(core)
        assert {count for _ino, count in at_first.values()} == {3}
        core.union.chmod(core.node("b"), 0o600)
        assert len(_indexed(core)) == 1
        for _ in range(2):
            assert _names(core) == at_first
            assert core.node("a") is core.node("d/c")
            core.reopen()


def test_counts_of_an_indexed_file(tmp_path: Path) -> None:
    with Core(tmp_path, [LINKED]) as core:
        core.union.chmod(core.node("a"), 0o600)
        steps: list[tuple[Callable[[], object], int]] = [
            (lambda: core.union.link(core.node("b"), *core.at("new")), 4),
            (lambda: core.union.unlink(*core.at("a")), 3),
            (lambda: core.union.unlink(*core.at("b")), 2),
            (lambda: core.union.rename(*core.at("d/c"), *core.at("a")), 2),
            (lambda: core.union.unlink(*core.at("new")), 1),
        ]
        for step, links in steps:
            step()
            assert {count for _ino, count in _names(core).values()} == {links}
            core.reopen()
            assert {count for _ino, count in _names(core).values()} == {links}
            assert len(_indexed(core)) == 1
        core.union.unlink(*core.at("a"))
        assert _names(core) == {}
        assert _indexed(core) == []


def test_an_indexed_file_without_a_name_in_the_upper(tmp_path: Path) -> None:
    with Core(tmp_path, [LINKED]) as core:
        node = core.node("a")
        assert _names(core).keys() == {"a", "b", "d/c"}
        core.union.chmod(core.node("b"), 0o600)
        before = descriptors()
        core.union.unlink(*core.at("a"))
        assert node.linked
        assert descriptors() <= before, "it needs no descriptor of its own"
        core.write("b", b"S")
        core.union.unlink(*core.at("b"))
        assert _names(core) == {"d/c": (node.ino, 1)}
        core.reopen()
        assert _names(core) == {"d/c": (node.ino, 1)}
        assert core.read("d/c") == b"Shared"


def test_without_index_the_names_part(tmp_path: Path) -> None:
    with Core(tmp_path, [LINKED], index=False) as core:
        core.write("a", b"S")
        core.reopen()
        assert (core.read("a"), core.read("b")) == (b"Shared", b"shared")


def _count_down(core: Core, node: Node) -> int:
    return core.union.nlink(node, core.union.stat(node))


def test_a_lower_links_count_goes_down_without_a_copy(tmp_path: Path) -> None:
    with Core(tmp_path, [LINKED]) as core:
        node = core.node("a")
        assert _names(core).keys() == {"a", "b", "d/c"}
        for path, links in [("a", 2), ("d/c", 1), ("b", 0)]:
            core.union.unlink(*core.at(path))
            assert _count_down(core, node) == links
        assert not node.upper
        assert core.union.counters["copied_bytes"] == 0
