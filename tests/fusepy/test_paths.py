"""Paths to nodes, and that what is known stays bounded."""

from __future__ import annotations

import errno
import os

import pytest

from tests.lib.errors import fails
from unionfs.fusepy_front.paths import Handle, Paths
from unionfs.union import Union

HIDDEN = b".fuse_hidden0000000500000007"


def opened(paths: Paths, path: bytes, flags: int = os.O_RDONLY) -> int:
    directory, name = paths.place(path)
    handle = Handle(paths.node(path), directory, name)
    if not handle.node.is_dir:
        handle.file = paths.union.open(handle.node, flags)
    return paths.opened(handle)


def hide(paths: Paths, path: bytes) -> None:
    """What libfuse's rename of an open file means."""
    directory, name = paths.place(path)
    paths.hide(paths.node(path), directory, name, HIDDEN)
    paths.union.unlink(directory, name)


def test_a_path_leads_to_one_node(union: Union) -> None:
    paths = Paths(union, keep_links=True)
    assert paths.node(b"/") is union.root
    assert paths.node(b"/d/y") is paths.node(b"/d/y")
    assert paths.place(b"/d/new") == (paths.node(b"/d"), b"new")


@pytest.mark.parametrize(
    ("path", "code"), [(b"/none", errno.ENOENT), (b"/none/x", errno.ENOENT), (b"/f/x", errno.ENOTDIR)]
)
def test_paths_to_nothing(union: Union, path: bytes, code: int) -> None:
    with fails(code):
        Paths(union, keep_links=True).node(path)


def test_known_nodes_are_bounded(union: Union) -> None:
    paths = Paths(union, keep_links=True, limit=5)
    for i in range(20):
        paths.node(b"/d/x%d" % i)
        paths.trim()
    assert len(paths.known) == 5
    directory = paths.node(b"/d")
    assert len(directory.children) <= 5  # type: ignore[attr-defined]  # the union has forgotten them, too


def test_what_is_open_stays_known(union: Union) -> None:
    paths = Paths(union, keep_links=True, limit=2)
    file, directory = opened(paths, b"/f"), opened(paths, b"/d")
    kept = paths.handles[file].node, paths.handles[directory].node
    for i in range(20):
        paths.node(b"/d/x%d" % i)
        paths.trim()
    assert (paths.node(b"/f"), paths.node(b"/d")) == kept
    for number in (file, directory):
        paths.closed(number)
    for i in range(20):
        paths.node(b"/d/x%d" % i)
        paths.trim()
    assert paths.node(b"/f") is not kept[0]


def test_an_unlinked_file_is_forgotten_at_once(union: Union) -> None:
    paths = Paths(union, keep_links=True)
    node = paths.node(b"/d/y")
    union.unlink(*paths.place(b"/d/y"))
    paths.let_go(node)
    assert node not in paths.known
    assert not node.lookups


def test_an_unlinked_open_file_is_found_until_it_is_closed(union: Union) -> None:
    paths = Paths(union, keep_links=True)
    number = opened(paths, b"/f", os.O_RDWR)
    node = paths.node(b"/f")
    hide(paths, b"/f")
    assert paths.node(b"/" + HIDDEN) is node
    with fails(errno.ENOENT):
        paths.node(b"/f")
    paths.closed(number)
    assert not paths.hidden
    assert node.fd == -1  # the descriptor that kept it is closed
    with fails(errno.ESTALE):  # so that the kernel looks the old name up anew
        paths.node(b"/" + HIDDEN)


def test_libfuse_asks_whether_a_new_hidden_name_is_free(union: Union) -> None:
    paths = Paths(union, keep_links=True)
    opened(paths, b"/f")
    hide(paths, b"/f")
    with fails(errno.ENOENT):
        paths.node(b"/.fuse_hidden0000000500000008")


@pytest.mark.parametrize(
    ("old", "new", "hides"),
    [
        (b"/f", b"/" + HIDDEN, True),
        (b"/d/y", b"/d/" + HIDDEN, True),
        (b"/f", b"/d/" + HIDDEN, False),
        (b"/f", b"/.fuse_hidden", False),
        (b"/f", b"/" + HIDDEN + b".bak", False),
        (b"/f", b"/.fuse_hidden000000050000f007", False),  # far from where libfuse's counter can be
    ],
)
def test_what_is_libfuse_s_renaming(union: Union, old: bytes, new: bytes, hides: bool) -> None:
    assert Paths(union, keep_links=True).is_hiding(old, new) == hides


def test_a_file_that_could_not_be_unlinked_is_where_it_was(union: Union) -> None:
    paths = Paths(union, keep_links=True)
    number = opened(paths, b"/f")
    directory, name = paths.place(b"/f")
    node = paths.node(b"/f")
    paths.hide(node, directory, name, HIDDEN)
    paths.hide_not(node, directory, name, HIDDEN)
    assert paths.node(b"/f") is node
    assert paths.handles[number].name == b"f"
    assert not paths.hidden


def test_other_names_of_a_file(union: Union) -> None:
    paths = Paths(union, keep_links=True)
    node = paths.node(b"/f")
    directory, name = paths.place(b"/d/z")
    union.link(node, directory, name)
    assert paths.other_names(node, directory, name) == [b"/f"]
    assert sorted(paths.other_names(node, None, b"")) == [b"/d/z", b"/f"]


@pytest.mark.parametrize("keep_links", [True, False])
def test_files_with_several_names_are_kept_where_the_kernel_is_told_of_all(union: Union, keep_links: bool) -> None:
    paths = Paths(union, keep_links=keep_links, limit=3)
    node = paths.node(b"/f")
    union.link(node, *paths.place(b"/d/z"))
    for _ in range(2):
        for i in range(20):
            paths.node(b"/d/x%d" % i)
            paths.trim()
    assert (node in paths.known) == keep_links
