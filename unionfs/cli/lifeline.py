"""How `unionfs umount` knows that the daemon has ended: a socket that the daemon holds and the kernel closes.

Its abstract name tells the mount, by its device number and a hash of its path, and the daemon's pid; so nothing is
left on disk and nothing can be stale. The daemon never accepts: a connection just breaks when the process ends.
"""

from __future__ import annotations

import os
import socket
from zlib import crc32

_WAIT = 20.0  # s; a daemon that was just unmounted has only to finish what it does and close its files


def mount_name(mountpoint: bytes) -> bytes | None:
    """What tells the topmost mount at this absolute path from others; None where there is none.

    From the kernel's table: no daemon is asked.
    """
    target = _as_in_mountinfo(mountpoint)
    with open("/proc/self/mountinfo", "rb") as table:
        numbers = [fields[2] for fields in map(bytes.split, table) if fields[4] == target]
    return b"%s/%08x" % (numbers[-1], crc32(mountpoint)) if numbers else None


def _as_in_mountinfo(path: bytes) -> bytes:
    for character in b"\\ \t\n#":
        path = path.replace(bytes([character]), b"\\%03o" % character)
    return path


def hold(mount: bytes) -> socket.socket | None:
    """The daemon's end, to be kept until the process ends; None where no socket is to be had: nobody can wait."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        end.bind(b"\0" + _prefix(mount) + b"%d" % os.getpid())
        end.listen(8)
    except OSError:
        end.close()
        return None
    return end


def grasp(mount: bytes) -> list[socket.socket]:
    """The waiter's ends, to be taken before unmounting. More than one where the daemon of an earlier mount at the
    same place is still writing.
    """
    ends = []
    for name in _names(mount):
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        end.settimeout(_WAIT)
        try:
            end.connect(name)
        except OSError:
            end.close()
        else:
            ends.append(end)
    return ends


def wait(end: socket.socket) -> bool:
    """Returns when the daemon has ended, or False after 20 s."""
    with end:
        try:
            end.recv(1)
        except TimeoutError:
            return False
        except ConnectionError:
            pass
    return True


def _prefix(mount: bytes) -> bytes:
    # the user too: a stranger's socket of the same name would only make umount wait, but need not
    return b"unionfs/%s/%d/" % (mount, os.geteuid())


def _names(mount: bytes) -> list[bytes]:
    wanted = b"@" + _prefix(mount)
    with open("/proc/net/unix", "rb") as table:
        last = [line.split()[-1] for line in table]
    return [b"\0" + name[1:] for name in last if name.startswith(wanted)]
