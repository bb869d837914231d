"""The parts of a directory in the layers: merging downwards, opaque marks, redirects.

A redirect says where the parts below are: the name of a sibling, or a path from the root of the lower layers, which
is walked in each of them from the top, redirects and opaque directories on the way included.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from errno import ENAMETOOLONG, ENOENT, ENOTDIR, EPERM
from stat import S_IFMT

from unionfs.layer import verbs
from unionfs.union import marks
from unionfs.union.node import NOWHERE, UPPER, Dir, Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionfs.union.stack import Stack


def resolve(stack: Stack, above: Dir, name: bytes, top: int, st: os.stat_result) -> Dir:
    """The directory that `name` in `above` stands for, with all its parts: merging, opaque marks and redirects.

    Raises EINVAL for a redirect that could lead astray, EPERM for one that redirect_dir forbids to follow.
    """
    listing = above.listing
    below: Sequence[int] = above.layers if listing is None else listing.several.get(name, ())
    child = Dir(0, [top], {}, above, name)
    trail = Trail(above, name)
    if top != UPPER:
        child.paths[top] = trail.path_in(top) or b""
    layer = top
    try:
        stack.keep_part(child, top, verbs.open_dir(stack.part_fd(above, top), name))
        more = _read_marks(stack, child, trail, top, child.fds[top])
        while more and (layer := trail.next_layer(layer, below, stack.bottom)):
            more = _add_part(stack, child, trail, layer)
        child.ino = _number_of(stack, child, st)
    except BaseException:
        stack.close_parts(child)
        raise
    return child


class Trail:
    """Where the next lower layers are to be asked: a name in the parent's parts, or a path from each layer's root."""

    __slots__ = ("above", "name", "absolute", "redirected")

    def __init__(self, above: Dir, name: bytes) -> None:
        self.above = above
        self.name = name
        self.absolute: list[bytes] | None = None
        self.redirected = False

    def path_in(self, layer: int) -> bytes | None:
        """The path from the layer's root; None where the parent has no part there."""
        if self.absolute is not None:
            return b"/".join(self.absolute)
        base = self.above.paths.get(layer)
        if base is None:
            return None
        return base + b"/" + self.name if base else self.name

    def next_layer(self, asked: int, known: Sequence[int], bottom: int) -> int:
        """The layer to ask after `asked`, 0 when there is none: one of those known to have the name; after a redirect,
        of the parent's or of all."""
        if self.absolute is not None:
            return asked + 1 if asked < bottom else 0
        layers = self.above.layers if self.redirected else known
        index = bisect_right(layers, asked)
        return layers[index] if index < len(layers) else 0

    def redirect(self, parts: list[bytes]) -> None:
        self.redirected = True
        if parts[0] == b"":
            self.absolute = parts[1:]
        elif self.absolute is not None:
            self.absolute = self.absolute[:-1] + parts
        else:
            self.name = parts[0]


def _read_marks(stack: Stack, child: Dir, trail: Trail, layer: int, fd: int) -> bool:
    """Take in the marks on one part, open at `fd`: False if nothing below it shows through."""
    if layer >= stack.bottom and layer != UPPER:
        return False
    found = marks.present(fd, b"", stack.marks.prefix)
    if layer == UPPER:
        child.impure = stack.marks.impure in found
    if stack.marks.opaque in found and marks.read(fd, b"", stack.marks.opaque) == b"y":
        child.opaque = child.opaque or layer == UPPER
        return False
    if stack.aufs_in(layer) and verbs.exists(fd, marks.AUFS_OPAQUE):
        return False
    if stack.marks.redirect in found:
        if not stack.follow_redirects:
            raise OSError(EPERM, "redirect on a stack mounted with redirect_dir=nofollow", trail.name)
        value = marks.read(fd, b"", stack.marks.redirect) or b""
        trail.redirect(marks.parse_redirect(value))
        if layer == UPPER:
            child.redirect = value
    return True


def _add_part(stack: Stack, child: Dir, trail: Trail, layer: int) -> bool:
    """Ask one lower layer for its part of `child`; False if no deeper layer is to be asked."""
    if trail.absolute is not None:
        return _add_absolute(stack, child, trail, layer)
    path = trail.path_in(layer)
    if path is None:
        return True
    fd = _enter(stack, stack.part_fd(trail.above, layer), trail.name, layer)
    if fd < 0:
        return fd == _ABSENT
    child.layers.append(layer)
    child.paths[layer] = path
    stack.keep_part(child, layer, fd)
    return _read_marks(stack, child, trail, layer, fd)


def _add_absolute(stack: Stack, child: Dir, trail: Trail, layer: int) -> bool:
    """Walk an absolute redirect from the layer's root. An opaque or redirected directory on the way counts as well."""
    parts = trail.absolute or []
    fd = os.dup(stack.layers[layer].fd)
    more = True
    try:
        for depth, name in enumerate(parts, 1):
            below = _enter(stack, fd, name, layer)
            if below < 0:
                return more and below == _ABSENT
            os.close(fd)
            fd = below
            step = Trail(child, name)
            step.absolute = parts[:depth]
            more = _read_marks(stack, child, step, layer, fd) and more
            if step.redirected:
                trail.absolute = (step.absolute or []) + parts[depth:]
        child.layers.append(layer)
        child.paths[layer] = b"/".join(parts)
        stack.keep_part(child, layer, fd)
        fd = NOWHERE
    finally:
        if fd >= 0:
            os.close(fd)
    return more


_ABSENT, _ENDS = -1, -2


def _enter(stack: Stack, fd: int, name: bytes, layer: int) -> int:
    """The directory `name` of a lower layer, open: what is asked of it is asked of it and nothing else.

    _ABSENT: the layer has no such name; _ENDS: it has a whiteout or something that is no directory.
    """
    try:
        return verbs.open_dir(fd, name)
    except OSError as error:
        if error.errno == ENOTDIR:
            return _ENDS
        if error.errno not in (ENOENT, ENAMETOOLONG):  # too long: a redirect to what can be nowhere
            raise
    return _ENDS if stack.aufs_in(layer) and verbs.exists(fd, marks.AUFS_PREFIX + name) else _ABSENT


def kind_at(stack: Stack, fd: int, name: bytes, layer: int) -> int:
    """S_IFMT of a name in a lower layer; 0: not there; a whiteout counts as what it is not, a directory."""
    try:
        return S_IFMT(verbs.stat(fd, name).st_mode)
    except FileNotFoundError:
        return -1 if stack.aufs_in(layer) and verbs.exists(fd, marks.AUFS_PREFIX + name) else 0
    except OSError as error:
        if error.errno == ENAMETOOLONG:
            return 0  # a redirect to what can be nowhere, as the kernel takes it
        raise


def _number_of(stack: Stack, child: Dir, st: os.stat_result) -> int:
    """A directory keeps the number of its topmost lower part, so that copy-up and rename do not change it."""
    first = child.layers[0]
    if first == UPPER and len(child.layers) > 1:
        first = child.layers[1]
        st = os.stat(stack.part_fd(child, first))
    return stack.inode_number(first, st.st_ino)


def resolve_path(stack: Stack, names: list[bytes], above: int) -> Dir:
    """The directory at a path from the root of the lower layers, as the layers below `above` together show it.

    It is no one's child and says only where the parts are; it has none where no layer has the path.
    """
    directory = Dir(0, [], {}, None, names[-1] if names else b"")
    trail = Trail(stack.root, directory.name)
    trail.absolute = names
    layer, more = above, True
    while more and (layer := trail.next_layer(layer, (), stack.bottom)):
        if names:
            more = _add_part(stack, directory, trail, layer)
        else:
            directory.layers.append(layer)
            directory.paths[layer] = b""
    stack.close_parts(directory)
    return directory


def lower_path(node: Node, redirect: bytes) -> bytes:
    """The path at which the layers below the upper show what `node` stands over: the value of a redirect to it.

    redirect: that of the node's own upper part, b"" for none.
    """
    names: list[bytes] = []
    while True:
        parts = marks.parse_redirect(redirect) if redirect else [node.name]
        if parts[0] == b"":
            names = parts[1:] + names
            break
        names = parts + names
        node = node.parent
        if node.parent is node:
            break
        redirect = node.redirect
    return b"/" + b"/".join(names)
