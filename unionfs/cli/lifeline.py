"""How `unionfs umount` knows that the daemon has ended: a socket that the daemon holds and the kernel closes.

Its abstract name tells the mount, by its device number and a hash of its path, and the daemon's pid; so nothing is
left on disk and nothing can be stale. The daemon never accepts: a connection just breaks when the process ends.
Sockets of others than the mount's owner do not count, so that no stranger can make an unmount wait.
"""

from __future__ import annotations

import os
import socket
from struct import Struct
from zlib import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.cli.mounts import Mount

_WAIT = 20.0  # s; a daemon that was just unmounted has only to finish what it does and close its files
_UCRED = Struct("iII")  # struct ucred: pid, uid, gid


def hold(mount: Mount) -> socket.socket | None:
    """The daemon's end, to be kept until the process ends; None where no socket is to be had: nobody can wait."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        end.bind(b"\0" + _prefix(mount) + b"%d" % os.getpid())
        end.listen(8)
    except OSError:
        end.close()
        return None
    return end


def grasp(mount: Mount) -> list[socket.socket]:
    """The waiter's ends, to be taken before unmounting. More than one where the daemon of an earlier mount at the
    same place is still writing.
    """
    ends = []
    for name in _names(mount):
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        end.settimeout(_WAIT)
        try:
            end.connect(name)
            held = _holder(end) == mount.owner
        except OSError:
            held = False
        if held:
            ends.append(end)
        else:
            end.close()
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


def _holder(end: socket.socket) -> int:
    """The user of the process that listens at the other end."""
    return int(_UCRED.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1])


def _prefix(mount: Mount) -> bytes:
    return b"unionfs/%s/%08x/" % (mount.device, crc32(mount.path))


def _names(mount: Mount) -> list[bytes]:
    wanted = b"@" + _prefix(mount)
    with open("/proc/net/unix", "rb") as table:
        last = [line.split()[-1] for line in table]
    return [b"\0" + name[1:] for name in last if name.startswith(wanted)]
