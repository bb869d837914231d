"""Readahead across files: while someone reads one small file after the other, directory by directory, and they come
from the disk, the files of the next directory are read as soon as it is listed, all at once.

The kernel reads ahead within a file only, so `tar`, `grep -r` and `cp -a` wait for the disk once for each file.
"""

from __future__ import annotations

from stat import S_IFREG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.union import Node, Union

LARGEST = 256 << 10  # bytes of a file; larger ones get the kernel's own readahead
MOST = 4 << 20  # bytes of one directory
CREDIT = 16  # directories for which one read that had to wait for the disk counts
PAUSE = 4  # directories listed without a file being read, after which it is no reading of trees


class Readahead:
    """With the union's lock held.

    reads   files that someone began to read, since a directory was listed
    """

    __slots__ = ("_credit", "_idle", "_union", "reads")

    def __init__(self, union: Union) -> None:
        self._union = union
        self._credit = 0
        self._idle = 0
        self.reads = 0

    @property
    def going(self) -> bool:
        """Whether files are being read one after the other."""
        return self._credit > 0

    def missed(self) -> None:
        """The beginning of a file was not in memory."""
        self._credit = CREDIT

    def wanted(self) -> bool:
        """A directory is being listed: whether its files are to be read ahead."""
        if not self._credit:
            return False
        self._idle = 0 if self.reads else self._idle + 1
        self.reads = 0
        if self._idle > PAUSE:
            self._credit = 0
            return False
        self._credit -= 1
        return True

    def read(self, nodes: list[tuple[Node, int]]) -> None:
        """Begin to read files, given with their sizes."""
        room = MOST
        for node, size in nodes:
            if 0 < size <= LARGEST and size <= room and node.kind == S_IFREG:
                room -= size
                self._union.read_soon(node)
