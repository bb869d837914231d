"""Removing names: a whiteout where a lower layer shows the name, else the upper object is just removed.

Nothing is ever copied up to be removed, except the directory that must hold the whiteout.
"""

from __future__ import annotations

import os
from errno import EISDIR, ENOENT, ENOTDIR, ENOTEMPTY

from unionfs.layer import verbs
from unionfs.union import whiteout
from unionfs.union.copyup import copy_up
from unionfs.union.lookup import entry, find, names, require, stat
from unionfs.union.merge import DT_DIR, LAYER_MASK, LAYER_SHIFT, LOWER, TYPE, Names
from unionfs.union.node import UPPER, Dir, Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.union.stack import Stack


def unlink(stack: Stack, directory: Dir, name: bytes) -> None:
    """Remove a name that is not a directory's. An object still open or known lives on without it."""
    stack.require_writable()
    value = entry(stack, directory, name)
    if not value & TYPE:
        raise OSError(ENOENT, os.strerror(ENOENT), name)
    if value & TYPE == DT_DIR:
        raise OSError(EISDIR, os.strerror(EISDIR), name)
    if value & LOWER:
        copy_up(stack, directory)
    fd = stack.part_fd(directory, UPPER)
    node = directory.children.get(name)
    undo = None if node is None else hold(stack, node, directory, name)
    try:
        if not value & LOWER:
            verbs.unlink(fd, name)
        elif value >> LAYER_SHIFT & LAYER_MASK == UPPER:
            whiteout.replace(stack, fd, name, is_dir=False)
        else:
            whiteout.put(stack, fd, name)
    except BaseException:
        if undo is not None:
            os.close(undo)
        raise
    if directory.listing is not None:
        directory.listing.remove(name)
    if node is not None:
        detach(stack, node, directory, name, undo)


def rmdir(stack: Stack, directory: Dir, name: bytes) -> None:
    """Remove a directory in which the union shows nothing. ENOTEMPTY otherwise."""
    stack.require_writable()
    node = require(stack, directory, name)
    if not node.is_dir:
        raise OSError(ENOTDIR, os.strerror(ENOTDIR), name)
    require_empty(stack, node)  # type: ignore[arg-type]
    value = entry(stack, directory, name)
    if value & LOWER:
        copy_up(stack, directory)
    fd = stack.part_fd(directory, UPPER)
    in_upper = node.layer == UPPER
    if in_upper:
        stack.part_fd(node, UPPER)  # type: ignore[arg-type]  # its attributes can be asked for afterwards
    if not value & LOWER:
        whiteout.remove(stack, fd, name, is_dir=True)
    elif in_upper:
        whiteout.replace(stack, fd, name, is_dir=True)
    else:
        whiteout.put(stack, fd, name)
    bury(stack, node, directory, name)  # type: ignore[arg-type]
    if directory.listing is not None:
        directory.listing.remove(name)


def require_empty(stack: Stack, directory: Dir) -> None:
    """Raises ENOTEMPTY if the union shows anything in the directory."""
    listing = names(stack, directory)
    if any(value & TYPE for value in listing.entries.values()):
        raise OSError(ENOTEMPTY, os.strerror(ENOTEMPTY), directory.name)


def bury(stack: Stack, node: Dir, directory: Dir, name: bytes) -> None:
    """A directory has lost its name for good: it stays known, empty, to those who are in it."""
    directory.children.pop(name, None)
    node.removed = True
    node.linked = False
    node.listing = Names({}, {})


def hold(stack: Stack, node: Node, directory: Dir, name: bytes) -> int | None:
    """Before an upper object loses the name by which it is reached: a descriptor that keeps it, if it needs one."""
    if node.layer != UPPER or node.fd >= 0 or (node.parent, node.name) != (directory, name):
        return None
    return verbs.open_path(stack.part_fd(directory, UPPER), name)


def detach(stack: Stack, node: Node, directory: Dir, name: bytes, held: int | None) -> None:
    """(directory, name) is no name of the node any more. `held` is what hold() gave."""
    directory.children.pop(name, None)
    if node.names is None:
        node.links = 0 if node.layer != UPPER else node.links
    else:
        node.names.discard((directory, name))
        _count_down(stack, node, held)
    if (node.parent, node.name) != (directory, name) or node.fd >= 0:
        return
    for other_dir, other in node.names or ():
        if find(stack, other_dir, other) == node.layer:
            node.parent, node.name = other_dir, other
            if held is not None:
                os.close(held)
            return
    if held is not None and node.names and stack.index is not None and stack.index.take_in(stack, node, held):
        os.close(held)
        return
    node.linked = False
    if held is not None:
        node.fd = held


def _count_down(stack: Stack, node: Node, held: int | None) -> None:
    """One hard link less. An indexed inode keeps the count on disk, since not all of its names are there."""
    if node.layer != UPPER:
        # Copying the data to keep a count on disk, as the kernel does, is no fair price: it is kept in memory.
        stack.hidden_links[node.ino] = stack.hidden_links.get(node.ino, 0) + 1
        node.links = (stat(stack, node).st_nlink if node.links < 0 else node.links) - 1
    elif node.links > 0:
        node.links -= 1
        if stack.index is not None:
            stack.index.renew(stack, node, held)
