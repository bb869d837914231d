"""How `unionfs umount` knows that the daemon has ended: a socket that the daemon holds and the kernel closes.

Its abstract name has the mount's device number and the daemon's pid, so nothing is left on disk and nothing can be
stale. The daemon never accepts: a connection just breaks when the process ends.
"""

from __future__ import annotations

import os
import socket

_WAIT = 20.0  # s; a daemon that was just unmounted has only to finish what it does and close its files


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
    """The daemon's end, to be kept until the process ends; None where no socket is to be had: nobody can wait."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        end.bind(b"\0" + _prefix(number) + b"%d" % os.getpid())
        end.listen(8)
    except OSError:
        end.close()
        return None
    return end


def grasp(number: bytes) -> list[socket.socket]:
    """The waiter's ends, to be taken before unmounting. Of more than one daemon where the kernel has given the
    number of a mount that is gone, but whose daemon is still writing, to the next.
    """
    ends = []
    for name in _names(number):
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


def _prefix(number: bytes) -> bytes:
    # the user too: a stranger's socket of the same name would only make umount wait, but need not
    return b"unionfs/" + number + b"/%d/" % os.geteuid()


def _names(number: bytes) -> list[bytes]:
    wanted = b"@" + _prefix(number)
    with open("/proc/net/unix", "rb") as table:
        last = [line.split()[-1] for line in table]
    return [b"\0" + name[1:] for name in last if name.startswith(wanted)]
