"""How `unionfs umount` knows that the daemon has ended: a socket that the daemon holds and the kernel closes.

Its abstract name is made of the mount's device number, which no two mounts share, so nothing is left on disk
and nothing can be stale. The daemon never accepts: a connection just breaks when the process ends.
"""

from __future__ import annotations

import os
import socket

_WAIT = 20.0  # s; a daemon that was just unmounted has only to close its files


def device_number(mountpoint: bytes) -> bytes | None:
    """The `major:minor` of the topmost mount at this absolute path; asks the kernel's table and no daemon."""
    target = _as_in_mountinfo(mountpoint)
    with open("/proc/self/mountinfo", "rb") as table:
        found = [fields[2] for fields in map(bytes.split, table) if fields[4] == target]
    return found[-1] if found else None


def _as_in_mountinfo(path: bytes) -> bytes:
    for character in b"\\ \t\n#":
        path = path.replace(bytes([character]), b"\\%03o" % character)
    return path


def hold(number: bytes) -> socket.socket | None:
    """The daemon's end; None where the name is taken or sockets are not to be had: umount will not wait."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        end.bind(_name(number))
        end.listen(8)
    except OSError:
        end.close()
        return None
    return end


def grasp(number: bytes) -> socket.socket | None:
    """The waiter's end, to be taken before unmounting; None where no daemon of ours serves the mount."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.settimeout(_WAIT)
    try:
        end.connect(_name(number))
    except OSError:
        end.close()
        return None
    return end


def wait(end: socket.socket) -> bool:
    """Returns when the daemon has ended, or False after 20 s."""
    try:
        end.recv(1)
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    finally:
        end.close()
    return True


def _name(number: bytes) -> bytes:
    # the user too: a stranger's socket of the same name would only make umount wait, but need not
    return b"\0unionfs/" + number + b"/%d" % os.geteuid()
