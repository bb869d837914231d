"""From a name to a node, and where the node lives: the hot core.

A directory with one part is asked directly; one with several is merged once in memory (merge.py), after which a name
costs one dict lookup and one stat however many layers there are.
"""

from __future__ import annotations

import os
from errno import EINVAL, ENAMETOOLONG, ENOENT
from stat import S_IFCHR, S_IFDIR, S_IFMT, S_IFREG

from unionfs.layer import verbs
from unionfs.union import marks
from unionfs.union.merge import (
    DT_CHR,
    FIRST_OFFSET,
    INO_SHIFT,
    LAYER_MASK,
    LAYER_SHIFT,
    LOWER,
    TYPE,
    WHITEOUT,
    Names,
    merge,
    pack,
)
from unionfs.union.node import HERE, KINDS, NOWHERE, UPPER, Dir, Node
from unionfs.union.parts import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionfs.union.stack import Stack

NAME_MAX = 255
_NO_NAMES = (b"", b".", b"..")
# A directory whose parts are larger than this on disk (about 20,000 names on ext4) is first asked layer by layer;
# only when lookups go on is it worth reading whole: merging costs about 0.5 µs a name, a probe about 2 µs a layer.
_LARGE = 1 << 20
_PROBES = 64


def lookup(stack: Stack, directory: Dir, name: bytes) -> tuple[Node, os.stat_result] | None:
    """The node of a name and its stat; None where the union shows no such name."""
    node = directory.children.get(name)
    if node is not None:
        if stack.lingering:
            stack.lingering.discard(node)
        return node, stat(stack, node)
    if stack.fd_count > stack.fd_limit:
        stack.trim()
    layer = find(stack, directory, name)
    if layer is None:
        return None
    return _adopt(stack, directory, name, layer)


def named(stack: Stack, directory: Dir, name: bytes) -> Node | None:
    """lookup() for who needs the node alone: one that is known costs no system call."""
    node = directory.children.get(name)
    if node is None:
        found = lookup(stack, directory, name)
        return None if found is None else found[0]
    if stack.lingering:
        stack.lingering.discard(node)
    return node


def find(stack: Stack, directory: Dir, name: bytes) -> int | None:
    """The layer in which the union finds the name; None where it shows none."""
    value = entry(stack, directory, name)
    return value >> LAYER_SHIFT & LAYER_MASK if value & TYPE else None


def entry(stack: Stack, directory: Dir, name: bytes) -> int:
    """What the merged directory says of a name: a packed int as in merge.py, 0 for nothing at all."""
    check_name(name)
    listing = directory.listing
    if listing is None:
        if len(directory.layers) > 1 and not directory.removed and _worth_merging(stack, directory):
            listing = names(stack, directory)
        else:
            return _probe(stack, directory, name)
    return listing.entries.get(name, 0)


def check_name(name: bytes) -> None:
    """A name is one component of a path, whoever gives it: nothing else may ever be resolved against a layer.

    Raises ENAMETOOLONG and EINVAL.
    """
    if len(name) > NAME_MAX:
        raise OSError(ENAMETOOLONG, os.strerror(ENAMETOOLONG), name)
    if b"/" in name or name in _NO_NAMES:
        raise OSError(EINVAL, os.strerror(EINVAL), name)


def names(stack: Stack, directory: Dir) -> Names:
    """The directory's merged content, read once."""
    listing = directory.listing
    if listing is None:
        listing = directory.listing = Names({}, {}) if directory.removed else merge(stack, directory)
        stack.remember_listing(directory)
    return listing


def _worth_merging(stack: Stack, directory: Dir) -> bool:
    directory.probes += 1
    if directory.probes == 1:
        size = sum(os.stat(stack.part_fd(directory, layer)).st_size for layer in directory.layers)
        directory.probes = _PROBES if size <= _LARGE else 2
    return directory.probes >= _PROBES


def _probe(stack: Stack, directory: Dir, name: bytes) -> int:
    """The rule of merging for a single name, asked of each layer in turn; agrees with merge() entry for entry."""
    if directory.removed:
        return 0
    value = 0
    for layer in directory.layers:
        kind, ino = _look(stack, directory, layer, name)
        if kind and not value & (TYPE | WHITEOUT):
            value = pack(kind, layer, stack.inode_number(layer, ino), LOWER if layer else 0)
            if layer != UPPER:
                return value
        elif kind:
            return value | LOWER
        elif kind is None:  # a whiteout
            if layer != UPPER or value:
                return value
            value = WHITEOUT
    return value


def _look(stack: Stack, directory: Dir, layer: int, name: bytes) -> tuple[int | None, int]:
    """(DT_ type, inode number) of a name in one layer's part: type 0 for absent, None for whited out."""
    fd = stack.part_fd(directory, layer)
    aufs = stack.aufs_in(layer)
    if aufs and name[:4] == marks.AUFS_PREFIX:
        return 0, 0
    try:
        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        hidden = aufs and len(directory.layers) > 1 and verbs.exists(fd, marks.AUFS_PREFIX + name)
        return None if hidden else 0, 0
    if is_whiteout(stack, fd, name, st):
        return None, 0
    return st.st_mode >> 12, st.st_ino


def is_whiteout(stack: Stack, fd: int, name: bytes, st: os.stat_result) -> bool:
    """Whether an object on disk is a whiteout: device 0:0, or an empty file with the mark where such are announced."""
    if st.st_mode >> 12 == DT_CHR:
        return st.st_rdev == marks.WHITEOUT_RDEV
    return (st.st_size == 0 and S_IFMT(st.st_mode) == S_IFREG and stack.has_xattr_whiteouts(fd)
            and marks.read(fd, name, stack.marks.whiteout) is not None)


# --- nodes ---------------------------------------------------------------------------------------------------------

def _adopt(stack: Stack, directory: Dir, name: bytes, layer: int) -> tuple[Node, os.stat_result] | None:
    """The node for a name that `layer` decides; hard links of a node already known lead to that one."""
    fd = directory.fds.get(layer, NOWHERE)
    if fd < 0:
        fd = stack.part_fd(directory, layer)
    try:
        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None  # a layer was changed underneath: the name is gone, as it would be for the kernel
    kind = KINDS[st.st_mode >> 12]
    if kind == S_IFDIR:
        child = resolve(stack, directory, name, layer, st)
        directory.children[name] = child
        return child, st
    if kind == S_IFCHR and st.st_rdev == marks.WHITEOUT_RDEV:
        return None
    node = _node_of(stack, directory, name, layer, st, kind, fd)
    stack.lingering.discard(node)
    directory.children[name] = node
    return (node, st) if node.layer == layer and node.name == name else (node, stat(stack, node))


def _node_of(stack: Stack, directory: Dir, name: bytes, layer: int, st: os.stat_result, kind: int, fd: int) -> Node:
    ino = stack.inode_number(layer, st.st_ino)
    if layer == UPPER and directory.impure:
        ino = stack.origin_number(fd, name) or ino
    key = ino if layer != UPPER else upper_key(st)
    if st.st_nlink == 1 and key not in stack.hard_links:  # one that had other names may be open by them still
        return Node(ino, kind, layer, directory, name)
    node = stack.hard_links.get(key)
    if node is None:
        node = stack.indexed_node(directory, name, layer, ino, kind, fd) or Node(ino, kind, layer, directory, name)
        if node.layer == UPPER != layer:  # the index leads to an inode that may be known by a name in the upper
            real = upper_key(stat(stack, node))
            node = stack.hard_links.get(real, node)
            remember_links(stack, node, real)
        remember_links(stack, node, key)
        if node.layer != UPPER and ino in stack.hidden_links:
            node.links = st.st_nlink - stack.hidden_links[ino]
        if node.names is None:
            node.names = set()
    if node.names is None:
        node.names = {(node.parent, node.name)}
    node.names.add((directory, name))
    if not node.linked and node.layer == layer:  # it had lost the names known so far
        node.parent, node.name, node.linked = directory, name, True
        if node.fd >= 0:
            os.close(node.fd)
            node.fd = NOWHERE
    return node


def upper_key(st: os.stat_result) -> int:
    """How `hard_links` names an inode of the upper. Not by the number shown: that comes from a mark, which may lie."""
    return ~st.st_ino


def remember_links(stack: Stack, node: Node, key: int) -> None:
    """Other names of the inode lead to this node."""
    if stack.hard_links.get(key) is not node:
        stack.hard_links[key] = node
        stack.link_keys.setdefault(node, []).append(key)


def stat(stack: Stack, node: Node) -> os.stat_result:
    """The object's real attributes; what is shown instead of its inode number and link count: node.ino, nlink()."""
    if node.files or stack.unsettled:
        fd = open_fd(stack, node)
        if fd >= 0:
            return os.stat(fd)
    if node.fd >= 0:
        return os.stat(node.fd)
    if node.is_dir:
        return os.stat(stack.part_fd(node, node.layer))  # type: ignore[arg-type]
    fd = node.parent.fds.get(node.layer, NOWHERE)
    if fd < 0:
        fd = stack.part_fd(node.parent, node.layer)
    return os.stat(node.name, dir_fd=fd, follow_symlinks=False)


def nlink(stack: Stack, node: Node, st: os.stat_result) -> int:
    """The link count to show. A merged directory has 1, as in the kernel: counting would mean reading it."""
    if node.is_dir:
        if node.removed:  # type: ignore[attr-defined]
            return 0
        return 1 if len(node.layers) > 1 else st.st_nlink  # type: ignore[attr-defined]
    return st.st_nlink if node.links < 0 else node.links


def place(stack: Stack, node: Node) -> tuple[int, bytes]:
    """(descriptor, name) under which the layer's verbs reach the node's metadata."""
    if node.fd >= 0:
        return node.fd, b""
    if node.is_dir:
        return stack.part_fd(node, node.layer), b""  # type: ignore[arg-type]
    return stack.part_fd(node.parent, node.layer), node.name


def reach(stack: Stack, node: Node) -> tuple[int, bytes | None]:
    """`place` for the verbs that take a name of None: a descriptor open on the object, where there is one."""
    fd = open_fd(stack, node)
    return (fd, None) if fd >= 0 else place(stack, node)


def open_fd(stack: Stack, node: Node) -> int:
    """A descriptor that is really open (not O_PATH) on the node's own object; NOWHERE where there is none."""
    if node.files and node.data is HERE:
        for file in node.files:
            if file.fd >= 0:
                return file.fd
    return stack.unsettled.get(node, NOWHERE)


def readlink(stack: Stack, node: Node) -> bytes:
    """The target of a symlink."""
    stack.keep_within_limit()
    return verbs.readlink(*place(stack, node))


def birth_time(stack: Stack, node: Node) -> tuple[int, int] | None:
    """(seconds, nanoseconds), None where the layer's file system does not know."""
    return verbs.birth_time(*place(stack, node))


def parent(stack: Stack, directory: Dir) -> Dir:
    """The directory's parent; the root is its own."""
    return directory.parent


def forget(stack: Stack, node: Node) -> None:
    """No front end knows the node any more: let go of all that is held for it.

    A directory in which others are known (a hard link may be, by another of its names) and a copy that waits for its
    sync stay what they are until then: what leads to them must lead to the same object when they are met again.
    """
    pending = [node]
    while pending:  # a whole chain of directories may have waited for the last one in it
        node = pending.pop()
        if node is stack.root:
            continue
        if (node.is_dir and node.children) or node in stack.unsettled or node in stack.settling:  # type: ignore[attr-defined]
            stack.lingering.add(node)
            if node.is_dir:
                stack.close_parts(node)  # type: ignore[arg-type]
            continue
        for place_dir in _drop(stack, node):
            if place_dir in stack.lingering:
                stack.lingering.discard(place_dir)
                pending.append(place_dir)


def release_lingering(stack: Stack, node: Node) -> None:
    """What kept the node is over: forget it, if that was asked for meanwhile."""
    if node in stack.lingering:
        stack.lingering.discard(node)
        forget(stack, node)


def _drop(stack: Stack, node: Node) -> list[Dir]:
    """Let go of all that is held for a node; the directories that may have waited for that."""
    above = [node.parent]
    for place_dir, name in node.names or ((node.parent, node.name),):
        if place_dir.children.get(name) is node:
            del place_dir.children[name]
        above.append(place_dir)
    for key in stack.link_keys.pop(node, ()):
        if stack.hard_links.get(key) is node:
            del stack.hard_links[key]
    if node.fd >= 0:
        os.close(node.fd)
        node.fd = NOWHERE
    if node.is_dir:
        stack.close_parts(node)  # type: ignore[arg-type]
    return above if stack.lingering else []


# --- listing --------------------------------------------------------------------------------------------------------

def listed_number(stack: Stack, directory: Dir, name: bytes, value: int) -> int:
    """The inode number that readdir shows: that of lookup. Costs a call only where the listing alone cannot know."""
    node = directory.children.get(name)
    if node is not None:
        return node.ino
    ino = value >> INO_SHIFT
    layer = value >> LAYER_SHIFT & LAYER_MASK
    if layer == UPPER and (directory.impure or value & LOWER):
        found = _adopt(stack, directory, name, layer)
        if found is not None:
            ino = found[0].ino
            if not found[0].lookups:
                forget(stack, found[0])
    return ino


def readdir(stack: Stack, directory: Dir, offset: int) -> Iterator[tuple[bytes, int, int, int]]:
    """(name, inode number, DT_ type, next offset) of the entries behind `offset`; 0 and 2 both mean the first.

    The offsets 1 and 2 are left to the caller for `.` and `..`. Offsets stay valid while the directory changes and
    as long as the Dir is known; every name that is there throughout is given exactly once.
    """
    if offset < 0:
        raise OSError(EINVAL, os.strerror(EINVAL))
    stack.keep_within_limit()
    listing = names(stack, directory)
    if offset <= FIRST_OFFSET:
        listing.readers += 1
    at_end = True
    for name, value, after in listing.entries_from(offset):
        at_end = False
        yield name, listed_number(stack, directory, name, value), value & TYPE, after
    if at_end:
        listing.readers -= 1
        if listing.readers <= 0 and not listing.changed and len(directory.layers) == 1:
            stack.drop_listing(directory)  # lookups do not need it, and most directories are listed once


def require(stack: Stack, directory: Dir, name: bytes) -> Node:
    """The node of a name that must be there. Raises ENOENT."""
    node = named(stack, directory, name)
    if node is None:
        raise OSError(ENOENT, os.strerror(ENOENT), name)
    return node
