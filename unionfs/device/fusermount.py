"""Mounting as an ordinary user, through the set-uid program fusermount3 (second choice: fusermount).

The helper opens /dev/fuse, mounts, and passes the descriptor back over the socket named in _FUSE_COMMFD.
"""

from __future__ import annotations

import os
from errno import EBUSY, EINVAL, EIO, EPERM

from unionfs.device.errors import MountError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

PROGRAMS = (b"fusermount3", b"fusermount")

# MS_* of mount(2) as the words that the helper takes. What a plain user's mount cannot have (dev, suid) the
# helper leaves off by itself.
_WORDS = {1: b"ro", 2: b"nosuid", 4: b"nodev", 8: b"noexec", 16: b"sync", 1024: b"noatime", 128: b"dirsync"}


def mount(mountpoint: bytes, source: bytes, flags: int, options: list[bytes]) -> int:
    """Mounts and returns the descriptor of /dev/fuse. Raises MountError."""
    import socket

    words = [word for flag, word in _WORDS.items() if flags & flag]
    text = b",".join([b"fsname=" + _escaped(source), b"subtype=unionfs", *words, *options])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            environment = {**os.environb, b"_FUSE_COMMFD": b"%d" % theirs.fileno()}
            code, said = _run([b"-o", text, b"--", mountpoint], environment)
        if code:
            raise MountError(_reason(mountpoint, said))
        return _received(ours)


def unmount(mountpoint: bytes, lazy: bool) -> None:
    """Unmounts. Raises OSError with EBUSY, EINVAL (not a mount of ours), EPERM or EIO."""
    flags = [b"-u", b"-z"] if lazy else [b"-u"]
    try:
        code, said = _run([*flags, b"--", mountpoint], dict(os.environb))
    except MountError as error:
        raise OSError(EPERM, str(error), mountpoint) from None
    if code:
        number = _errno(said)
        raise OSError(number, os.strerror(number), mountpoint)


def _errno(said: str) -> int:
    if "busy" in said:
        return EBUSY
    if "not found" in said or "Invalid argument" in said or "No such file" in said:
        return EINVAL
    return EPERM if "permi" in said.lower() else EIO


def _escaped(text: bytes) -> bytes:
    return text.replace(b"\\", b"\\\\").replace(b",", b"\\,")


def _run(arguments: list[bytes], environment: dict[bytes, bytes]) -> tuple[int, str]:
    """Exit code and stderr of the first helper that there is."""
    for program in PROGRAMS:
        receiving, sending = os.pipe()
        try:
            pid = os.posix_spawnp(
                program,
                [program, *arguments],
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, sending, 2)],
            )
        except (FileNotFoundError, PermissionError):  # the latter: a directory in PATH that we may not enter
            os.close(receiving)
            continue
        finally:
            os.close(sending)
        with open(receiving, "rb") as pipe:
            said = pipe.read().decode("utf-8", "backslashreplace")
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said
    raise MountError("fusermount3 is missing, and only root can mount without it; install the package fuse3")


def _reason(mountpoint: bytes, said: str) -> str:
    if "user_allow_other" in said:
        return "allow_other is refused: add the line user_allow_other to /etc/fuse.conf, or leave the option out"
    if "failed to open /dev/fuse" in said:
        return "/dev/fuse may not be opened by you; as root chmod 666 it, or give the container --device /dev/fuse"
    line = " ".join(said.split()) or "fusermount3 failed and said nothing"
    return f"mounting at {shown(mountpoint)} failed: {line}"


def _received(end: socket.socket) -> int:
    """The descriptor that the helper sent. Raises MountError where there is none."""
    import socket

    _data, fds, _flags, _address = socket.recv_fds(end, 1, 1)
    if not fds:
        raise MountError("fusermount3 passed no descriptor of /dev/fuse")
    os.set_inheritable(fds[0], False)
    return fds[0]
