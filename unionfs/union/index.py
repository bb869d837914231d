"""Hard links of lower files across copy-up: the kernel's `index=on` format.

When the first name of a lower file with several is copied up, the new inode also gets a name in workdir/index: the
origin mark in hex. A lower name found later leads through it to the one upper inode. `overlay.nlink` on that inode
says how many names the union shows, relative to its real link count ("U-1") or to the lower's ("L+0").
"""

from __future__ import annotations

import os
from errno import EEXIST, EIO, ENOENT
from stat import S_IFMT

from unionfs.layer import verbs
from unionfs.union import marks
from unionfs.union.lookup import place
from unionfs.union.node import UPPER, Dir, Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.union.stack import Stack


class Index:
    """The open index directory and the names in it."""

    __slots__ = ("directory", "entries")

    def __init__(self, fd: int, entries: set[bytes]) -> None:
        self.directory = Dir(0, [UPPER], {}, None, b"index")
        self.directory.fds[UPPER] = fd
        self.entries = entries

    @classmethod
    def load(cls, stack: Stack) -> Index | None:
        """Opens or makes workdir/index and reads its names; None where it cannot be had."""
        base = os.open(stack.config.work or b"", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                verbs.mkdir(base, b"index", 0o700)
            except OSError as error:
                if error.errno != EEXIST:
                    return None
            fd = verbs.open_dir(base, b"index")
        finally:
            os.close(base)
        return cls(fd, {entry.name for entry in verbs.scan(fd)})

    def close(self) -> None:
        os.close(self.directory.fds.pop(UPPER))

    def node(self, stack: Stack, directory: Dir, name: bytes, layer: int, ino: int, kind: int, fd: int) -> Node | None:
        """The node of an indexed inode, reached from a lower name or an upper one; None where it is not indexed.

        Raises EIO where what is in the index cannot be that inode.
        """
        if layer != UPPER:
            if not self.entries:
                return None
            mark = stack.origin_mark(fd, name, layer)
            entry = mark.hex().encode() if mark else b""
            if entry not in self.entries:
                return None
            if S_IFMT(verbs.stat(self.directory.fds[UPPER], entry).st_mode) != kind:
                raise OSError(EIO, "the index leads to something of another type", name)
            node = Node(ino, kind, UPPER, self.directory, entry)
        else:
            node = Node(ino, kind, UPPER, directory, name)
        node.links = self._links(stack, node, verbs.stat(fd, name).st_nlink if layer != UPPER else 0)
        return node

    def _links(self, stack: Stack, node: Node, lower_links: int) -> int:
        """What `overlay.nlink` says; -1 (as on disk) where there is no such mark or it says nothing that can be."""
        fd = stack.part_fd(node.parent, UPPER)
        value = marks.read(fd, node.name, stack.marks.nlink) or b""
        reference, digits = value[:1], value[2:]
        if reference not in (b"U", b"L") or value[1:2] not in (b"+", b"-") or len(digits) > 9 or not digits.isdigit():
            return -1
        base = verbs.stat(fd, node.name).st_nlink if reference == b"U" else lower_links
        count = base + int(value[1:])
        return count if base and count > 0 else -1

    def add(self, stack: Stack, fd: int, name: bytes | None, mark: bytes, links: int) -> bytes:
        """Give a copied-up inode its name in the index and the mark of its link count. Returns that name.

        It is about to get one name in the upper beside the one here.
        """
        entry = mark.hex().encode()
        verbs.setxattr(fd, name, stack.marks.nlink, b"U%+d" % (links - 2))
        verbs.link(fd, name, self.directory.fds[UPPER], entry)
        self.entries.add(entry)
        return entry

    def take_in(self, stack: Stack, node: Node, held: int) -> bool:
        """The inode (open at `held`) has lost its last name in the upper, but lower names lead to it: from now on it
        is reached by its name here. False where it has none."""
        origin = marks.read(held, b"", stack.marks.origin)
        entry = origin.hex().encode() if origin else b""
        if entry not in self.entries:
            return False
        node.parent, node.name = self.directory, entry
        return True

    def renew(self, stack: Stack, node: Node, held: int | None) -> None:
        """Write the node's count again after it lost a name; with its last name the index name goes as well.

        `held`: a descriptor of the inode, where the node's own place is gone.
        """
        fd, name = (held, b"") if held is not None else place(stack, node)
        if node.links > 0:
            value = b"U%+d" % (node.links - verbs.stat(fd, name).st_nlink)
            if marks.read(fd, name, stack.marks.nlink) != value:
                verbs.setxattr(fd, name, stack.marks.nlink, value)
            return
        origin = marks.read(fd, name, stack.marks.origin)
        if origin:
            self.drop(origin.hex().encode())

    def drop(self, entry: bytes) -> None:
        """The inode has no name left in the union: its index name goes too."""
        self.entries.discard(entry)
        try:
            verbs.unlink(self.directory.fds[UPPER], entry)
        except OSError as error:
            if error.errno != ENOENT:
                raise
