"""The rule of merging, written once: what a directory contains, given its parts in the layers.

Lookup and readdir both read the result, `Names`: one dict from name to a packed int, so that an entry costs no object
of its own. The int holds, from bit 0: the DT_ type (0: no such name is visible), LOWER, WHITEOUT, the layer, the inode
number as the directory lists it (0: to be asked for).

    type     layer  flags           meaning
    != 0     any    -               visible, found first in that layer
    0        0      WHITEOUT        hidden by a whiteout in the upper, which a new object must replace
    0        0      -               was there, is gone; keeps its place so that offsets stay stable
    any      any    LOWER           some lower layer shows the name: removing it needs a whiteout
"""

from __future__ import annotations

from bisect import bisect_right
from errno import EACCES, ENODATA, ENOENT, EOPNOTSUPP, EPERM

from unionfs.layer import verbs
from unionfs.union.marks import AUFS_META, AUFS_PREFIX
from unionfs.union.node import UPPER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionfs.union.node import Dir
    from unionfs.union.stack import Stack

DT_CHR, DT_DIR, DT_REG, DT_LNK = 2, 4, 8, 10
TYPE, LOWER, WHITEOUT = 0x0F, 0x10, 0x20
LAYER_SHIFT, LAYER_MASK, INO_SHIFT = 8, 0xFFF, 20

FIRST_OFFSET = 2  # offsets 1 and 2 belong to "." and ".."
_COMPACT_FROM = 1024  # gone names kept before it is worth looking whether half of the list is gone


def pack(dtype: int, layer: int, ino: int = 0, flags: int = 0) -> int:
    return ino << INO_SHIFT | layer << LAYER_SHIFT | flags | dtype


class Names:
    """The merged content of one directory, kept up to date by every change made through the union.

    entries   name → packed int, see above
    several   name → layers, top first, for directories that more than one layer has
    order     names in listing order, once someone has listed the directory; a name keeps its place when it goes
    cookies   offset of each name in `order`, where it is no longer its position (after compaction)
    end       how much of `order` is shown: what there was when someone last began to list, so that listing a directory
              ends although files are made in it meanwhile
    readers   how many began to list and have not come to the end
    changed   it says what a second reading of the layers would not: its offsets must not be forgotten
    """

    __slots__ = ("entries", "several", "order", "cookies", "end", "readers", "gone", "changed")

    def __init__(self, entries: dict[bytes, int], several: dict[bytes, list[int]]) -> None:
        self.entries = entries
        self.several = several
        self.order: list[bytes] | None = None
        self.cookies: list[int] | None = None
        self.end = 0
        self.readers = 0
        self.gone = 0
        self.changed = False

    def add(self, name: bytes, dtype: int, ino: int) -> None:
        """The name is now an object in the upper layer."""
        old = self.entries.get(name)
        if old is None and self.order is not None:
            self.order.append(name)
            if self.cookies is not None:
                self.cookies.append(self.cookies[-1] + 1 if self.cookies else FIRST_OFFSET + 1)
        self.entries[name] = pack(dtype, UPPER, ino, old & LOWER if old else 0)
        self.several.pop(name, None)
        self.changed = True

    def remove(self, name: bytes, whiteout: bool = False) -> None:
        """The name is gone: behind a whiteout in the upper if a lower layer shows it or `whiteout`, else altogether."""
        lower = self.entries.get(name, 0) & LOWER
        self.entries[name] = lower | WHITEOUT if lower or whiteout else 0
        self.several.pop(name, None)
        self.changed = True
        self.gone += 1

    def entries_from(self, offset: int) -> Iterator[tuple[bytes, int, int]]:
        """(name, packed int, offset that continues behind it) of the visible names after `offset`."""
        if self.order is None:
            self.order = list(self.entries)
        elif offset <= FIRST_OFFSET and self.gone > _COMPACT_FROM and self.gone * 2 > len(self.order):
            self._compact()
        entries, order, cookies = self.entries, self.order, self.cookies
        if offset <= FIRST_OFFSET or not self.end:
            self.end = len(order)
        start = max(offset - FIRST_OFFSET, 0) if cookies is None else bisect_right(cookies, offset)
        for index in range(start, min(self.end, len(order))):
            name = order[index]
            value = entries[name]
            if value & TYPE:
                yield name, value, index + FIRST_OFFSET + 1 if cookies is None else cookies[index]

    def _compact(self) -> None:
        """Forget names that left nothing behind. The others keep their offsets, for listings under way."""
        order = self.order or []
        cookies = self.cookies or range(FIRST_OFFSET + 1, FIRST_OFFSET + 1 + len(order))
        kept = [(name, cookie) for name, cookie in zip(order, cookies, strict=True) if self.entries[name]]
        self.order = [name for name, _ in kept]
        self.cookies = [cookie for _, cookie in kept]
        self.entries = {name: self.entries[name] for name in self.order}
        self.gone = 0


def read_part(stack: Stack, directory: Dir, layer: int) -> tuple[list[tuple[bytes, int, int]], list[bytes]]:
    """One layer's part of a directory: ([(name, DT_ type, inode number)], [names it whites out])."""
    fd = stack.part_fd(directory, layer)
    aufs = stack.aufs_in(layer)
    marked = stack.has_xattr_whiteouts(fd)
    found: list[tuple[bytes, int, int]] = []
    whiteouts: list[bytes] = []
    for entry in verbs.scan(fd):
        name = entry.name
        if aufs and name[:4] == AUFS_PREFIX:
            if not name.startswith(AUFS_META):
                whiteouts.append(name[4:])
        elif entry.is_file(follow_symlinks=False):
            if marked and _is_marked_whiteout(stack, fd, name):
                whiteouts.append(name)
            else:
                found.append((name, DT_REG, entry.inode()))
        elif entry.is_dir(follow_symlinks=False):
            found.append((name, DT_DIR, entry.inode()))
        elif entry.is_symlink():
            found.append((name, DT_LNK, entry.inode()))
        else:
            st = entry.stat(follow_symlinks=False)
            dtype = st.st_mode >> 12
            if dtype == DT_CHR and st.st_rdev == 0:
                whiteouts.append(name)
            else:
                found.append((name, dtype, st.st_ino))
    return found, whiteouts


def _is_marked_whiteout(stack: Stack, fd: int, name: bytes) -> bool:
    """The xattr form: a file without content that carries the mark, in a directory marked to hold such."""
    try:
        verbs.getxattr(fd, name, stack.marks.whiteout)
        return verbs.stat(fd, name).st_size == 0
    except OSError as error:
        if error.errno in (ENODATA, ENOENT, EACCES, EPERM, EOPNOTSUPP):
            return False  # what cannot be asked is no whiteout, as for the kernel
        raise


def merge(stack: Stack, directory: Dir) -> Names:
    """Read every part of the directory, top first, and keep of each name what shows."""
    entries: dict[bytes, int] = {}
    several: dict[bytes, list[int]] = {}
    closed: set[bytes] = set()  # names of which deeper layers have nothing more to say
    number = stack.inode_number
    for layer in directory.layers:
        found, whiteouts = read_part(stack, directory, layer)
        base = layer << LAYER_SHIFT | (LOWER if layer else 0)
        for name, dtype, ino in found:
            old = entries.get(name)
            if old is None:
                entries[name] = number(layer, ino) << INO_SHIFT | base | dtype
            elif name not in closed:
                _cover(entries, several, closed, name, old, layer, dtype)
        for name in whiteouts:
            if name not in entries:
                entries[name] = WHITEOUT | layer << LAYER_SHIFT
                if layer != UPPER:
                    closed.add(name)
            else:
                closed.add(name)
    for name in closed:  # hidden by a lower's whiteout: simply not there
        if not entries[name] & TYPE and entries[name] >> LAYER_SHIFT & LAYER_MASK:
            del entries[name]
    stack.counters["merges"] += 1
    return Names(entries, several)


def _cover(entries: dict[bytes, int], several: dict[bytes, list[int]], closed: set[bytes], name: bytes, old: int,
           layer: int, dtype: int) -> None:
    """A layer below the one that already decided `name` has it too: directories merge, all else ends there."""
    if not old & TYPE:  # behind the upper's whiteout
        entries[name] = old | LOWER
        closed.add(name)
        return
    if layer != UPPER and not old & LOWER:
        entries[name] = old | LOWER
    if old & TYPE == DT_DIR and dtype == DT_DIR:
        several.setdefault(name, [old >> LAYER_SHIFT & LAYER_MASK]).append(layer)
    else:
        closed.add(name)
