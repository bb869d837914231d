"""How the data of an open file travels: cached (READ and WRITE messages, pages kept by the kernel) or
passthrough (the kernel uses the backing file directly).

The kernel's rules, which cost an application an EIO when broken:
- while any open of an inode is cached, no open of it may be passthrough, and the other way round;
- all passthrough opens of an inode that live at the same time use the same backing id.

Ours, which follow:
- the first open decides, and the mode stays while any open of the node lives;
- passthrough only for regular files whose data is in upper: what is in a lower may be copied up while it is
  open, and a reader that passes through would go on reading the lower;
- a set-user-id or set-group-id file opened for writing is cached: whether a write strips the bits depends on
  the writer, and only WRITE tells (FUSE_WRITE_KILL_SUIDGID). In passthrough they are always stripped, see
  `device.backing`; so it is also when a file gets such bits while it is open for writing;
- the pages kept from an earlier cached open are stale once a passthrough open could write: the next cached
  open then must not keep them.

`node.front` holds all this: the number of opens from bit 4 up, and below it the mode, STALE, and FED: the kernel has
been given the file's data with an open.
A backing id belongs to its node and is kept after the last release, so that opening a file that was open
lately costs no system call but the reply.
"""

from __future__ import annotations

from collections import OrderedDict
from errno import ELOOP, EOPNOTSUPP, EPERM
from os import O_ACCMODE
from stat import S_IFREG, S_ISGID, S_ISUID

from unionfs.wire.kernel import FOPEN_KEEP_CACHE, FOPEN_PASSTHROUGH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.device.backing import Backings
    from unionfs.union import File, Node, Union

CACHED, PASSTHROUGH, STALE, FED = 1, 2, 4, 8
_MODE = CACHED | PASSTHROUGH
_OPEN = 16  # one open
_SET_ID = S_ISUID | S_ISGID

# Backing ids kept for nodes that nobody has open. Each holds an open file in the kernel (about 1 KiB, and
# no descriptor of ours); a compiler's working set of headers fits.
MAX_IDLE = 1024

# What BACKING_OPEN answers where passthrough is impossible for good on this file system or for this process.
_NEVER = (ELOOP, EOPNOTSUPP, EPERM)


class Modes:
    """Decides on the mode of every open. All calls with `union.lock` held."""

    __slots__ = ("_backings", "_idle", "_ids", "_union", "_unavailable")

    def __init__(self, union: Union, backings: Backings | None, unavailable: Callable[[OSError], None]) -> None:
        """`backings` None: everything is cached. `unavailable` hears once why passthrough was given up."""
        self._union = union
        self._backings = backings
        self._unavailable = unavailable
        self._ids: dict[Node, int] = {}  # backing ids
        # Nodes with a backing id and no open, least recently used first. In a plain dict the first is found by passing
        # over all that went since it last grew: 3 us at this size.
        self._idle: OrderedDict[Node, None] = OrderedDict()

    def opened(self, file: File, mode: int = -1) -> tuple[int, int]:
        """FOPEN_… flags and backing id for a new open of `file.node`; `mode` is its st_mode where known."""
        node = file.node
        front = node.front
        if front < _OPEN:
            passing = self._backings is not None and self._may_pass(file, mode)
        else:
            passing = front & PASSTHROUGH != 0
        if passing and (backing := self._ids.get(node) or self._register(file)):
            self._idle.pop(node, None)
            front = front | PASSTHROUGH | (STALE if file.flags & O_ACCMODE else 0)
            node.front = front + _OPEN
            return FOPEN_PASSTHROUGH, backing
        node.front = (front & ~STALE | CACHED) + _OPEN
        return (0 if front & STALE else FOPEN_KEEP_CACHE), 0

    def released(self, node: Node) -> None:
        """One open of `node` is gone."""
        front = node.front - _OPEN
        if front < _OPEN:
            front &= STALE | FED
            if node in self._ids:
                self._keep(node)
        node.front = front

    def forget(self, node: Node) -> None:
        """The kernel no longer knows `node`."""
        if node in self._ids:
            self._idle.pop(node, None)
            self._unregister(node)
        node.front = 0

    def _may_pass(self, file: File, mode: int) -> bool:
        node = file.node
        if node.kind != S_IFREG or not node.upper:
            return False
        if node.data is not None:
            file.fileno()  # finds out where the data of a copy of metadata alone is
            if node.data is not None:
                return False
        if not file.flags & O_ACCMODE:
            return True
        if mode < 0:
            mode = self._union.stat(node).st_mode
        return not mode & _SET_ID

    def _register(self, file: File) -> int:
        """The backing id; 0 where there can be none."""
        assert self._backings is not None
        try:
            backing = self._ids[file.node] = self._backings.open(file.fileno())
        except OSError as error:
            if error.errno in _NEVER:
                self._backings = None
                self._unavailable(error)
            return 0
        return backing

    def _unregister(self, node: Node) -> None:
        backing = self._ids.pop(node)
        if self._backings is not None:
            self._backings.close(backing)

    def _keep(self, node: Node) -> None:
        idle = self._idle
        idle[node] = None
        if len(idle) > MAX_IDLE:
            oldest, _ = idle.popitem(last=False)
            self._unregister(oldest)
