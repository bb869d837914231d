"""What a server knows, in a few plain tables: everything a successor would need to go on.

`union.lock` guards all of it.
"""

from __future__ import annotations

import gc
import resource
from array import array
from errno import ESTALE

from unionfs.server.readahead import Readahead
from unionfs.wire.kernel import FUSE_ROOT_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.server.modes import Modes
    from unionfs.server.settler import Settler
    from unionfs.union import File, Node, Union
    from unionfs.wire.negotiate import Agreement


_SHRINK_FROM = 8192


class _Nobody:
    """Stands where an id is not in use: whatever a handler wants of it is ESTALE, an answer and no accident."""

    def __getattr__(self, name: str) -> object:
        raise OSError(ESTALE, f"no such node ({name})")


NOBODY: Node = _Nobody()  # type: ignore[assignment]


class State:
    """
    union      the core
    nodes      node id → Node, of all that the kernel knows; the root is 1 and never forgotten. A list, since a dict
               costs 70 bytes more for each; ids come again when the kernel has forgotten them
    unused     ids below len(nodes) that stand for nothing; an array, since each int would keep a bit of the memory
               that the node was in. When they are more than shrink_at, memory is given back
    files      file handle → File, of all that the kernel has open; 0 is never a handle
    modes      how each open file's data reaches its readers
    settler    makes copies safe on disk that were told to wait
    readers    node → File for reads that come without a handle (zero-message opens)
    agreement  what was agreed on with the kernel; None before INIT
    zero_open  files are opened without a message
    max_readers  how many of them are kept
    readahead  reads small files before a walker comes to them
    throttled_until  while time.monotonic() is below it, writes are not for the loop
    """

    __slots__ = (
        "agreement", "files", "max_readers", "modes", "next_file", "nodes", "readahead", "readers", "settler",
        "shrink_at", "throttled_until", "union", "unused", "zero_open",
    )  # fmt: skip

    def __init__(self, union: Union, modes: Modes, settler: Settler) -> None:
        self.union = union
        self.modes = modes
        self.settler = settler
        self.nodes: list[Node] = [NOBODY, union.root]
        self.unused: array[int] = array("Q")
        self.shrink_at = _SHRINK_FROM
        self.files: dict[int, File] = {}
        self.readers: dict[Node, File] = {}
        self.next_file = 1
        self.agreement: Agreement | None = None
        self.zero_open = False
        self.max_readers = min(MAX_READERS, max(8, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
        self.throttled_until = 0.0
        self.readahead = Readahead(union)
        union.root.nodeid = FUSE_ROOT_ID

    def forget(self, nodeid: int, times: int) -> None:
        """The kernel gives back `times` of the references that replies with an entry gave it."""
        nodes = self.nodes
        node = nodes[nodeid] if nodeid < len(nodes) else NOBODY
        if node is NOBODY or nodeid == FUSE_ROOT_ID:
            return
        node.lookups -= times
        if node.lookups > 0:
            return
        nodes[nodeid] = NOBODY
        self.unused.append(nodeid)
        if len(self.unused) > self.shrink_at:
            self._shrink()
        node.nodeid = node.lookups = 0
        if reader := self.readers.pop(node, None):
            self.union.release(reader)
        self.modes.forget(node)
        self.union.forget(node)

    def known(self, node: Node) -> int:
        """The node's id; a new one where the kernel does not know the node yet."""
        nodeid = node.nodeid
        if not nodeid:
            if self.unused:
                nodeid = self.unused.pop()
                self.nodes[nodeid] = node
            else:
                nodeid = len(self.nodes)
                self.nodes.append(node)
            node.nodeid = nodeid
        return nodeid

    def _shrink(self) -> None:
        """Give back memory once three quarters of the nodes are gone; costs less than the forgets that led here."""
        nodes = self.nodes
        known = len(nodes) - len(self.unused)
        if known * 3 < len(self.unused):
            while nodes[-1] is NOBODY:
                nodes.pop()
            self.unused = array("Q", [nodeid for nodeid in self.unused if nodeid < len(nodes)])
            # Nothing is garbage here. But a full collection gives up what the interpreter keeps for new dicts and
            # lists, and these few keep nearly all memory around them from going back to the system.
            gc.collect()
        self.shrink_at = max(_SHRINK_FROM, len(nodes) - known // 4)

    def open(self, file: File) -> int:
        """A handle for `file`."""
        handle = self.next_file
        self.next_file = handle + 1
        self.files[handle] = file
        return handle

    def release(self, handle: int) -> None:
        """The kernel has closed `handle`."""
        file = self.files.pop(handle)
        self.modes.released(file.node)
        self.union.release(file)

    def reader(self, nodeid: int) -> File:
        """An open file for reading a node that was opened without a message."""
        node = self.nodes[nodeid]
        readers = self.readers
        file = readers.get(node)
        if file is None:
            file = readers[node] = self.union.open(node, 0)
            if len(readers) > self.max_readers:
                self.union.release(readers.pop(next(iter(readers))))
        return file


# Descriptors kept for reads without a handle. The kernel keeps the pages, so a file is read once and seldom
# again; far below the usual limit of 1024 descriptors.
MAX_READERS = 128
