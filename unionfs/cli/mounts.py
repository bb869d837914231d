"""The kernel's table of mounts. No path on a mount is looked at, so no daemon is asked, be it stopped or dead."""

from __future__ import annotations

import os

TYPE = b"fuse.unionfs"


class Mount:
    """One line of /proc/self/mountinfo."""

    __slots__ = ("device", "fstype", "options", "path", "source")

    def __init__(self, line: bytes) -> None:
        before, _, after = line.partition(b" - ")
        fields = before.split(b" ")
        self.device, self.path = fields[2], fields[4]  # "major:minor"; path and source are escaped, as in the table
        self.fstype, self.source, self.options = after.rstrip(b"\n").split(b" ", 2)

    @property
    def owner(self) -> int:
        """The user who mounted it, if it is a FUSE mount; else -1."""
        for option in self.options.split(b","):
            name, _, value = option.partition(b"=")
            if name == b"user_id":
                return int(value)
        return -1


def topmost(path: bytes) -> Mount | None:
    """What is mounted at this absolute path, free of symlinks, and not hidden by a later mount there."""
    target = _escaped(path)
    with open("/proc/self/mountinfo", "rb") as table:
        found = [line for line in table if line.split(b" ", 5)[4] == target]
    return Mount(found[-1]) if found else None


def locate(path: bytes) -> tuple[bytes, Mount | None]:
    """The absolute path, free of symlinks, and what is mounted there.

    Where the path as given is a mount point its last component is not followed, which would ask the daemon.
    """
    parent, name = os.path.split(path.rstrip(b"/"))
    if name not in (b"", b".", b".."):
        real = os.path.join(os.path.realpath(parent or b"."), name)
        if (mount := topmost(real)) is not None:
            return real, mount
    real = os.path.realpath(path)
    return real, topmost(real)


def _escaped(path: bytes) -> bytes:
    for character in b"\\ \t\n#":
        path = path.replace(bytes([character]), b"\\%03o" % character)
    return path
