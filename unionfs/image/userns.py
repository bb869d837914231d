"""An ordinary user as root of a user namespace: there he may mount, and be everybody that /etc/subuid gives him.

What is made in there belongs to him outside; whom it belongs to in the image is in an xattr (union/statmark.py), so
the ids that his namespace knows do not matter for what can be unpacked, only for whom a command can become.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from unionfs import libc
from unionfs.image.errors import ImageError

_EVERYBODY = ["0", "0", "4294967295"]


def inside() -> bool:
    """Whether this process is in a user namespace that does not have all ids."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return file.read().split() != _EVERYBODY
    except OSError:
        return False


def enter() -> None:
    """For an ordinary user: become root of a new user namespace, with mounts of its own. Nothing for root.

    Only where the process has one thread. Raises ImageError where the machine does not let him.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        return
    os.environ.setdefault("HOME", os.path.expanduser("~"))  # in there he would be looked up as root
    maps = [_map("/etc/subuid", uid), _map("/etc/subgid", uid, gid)]
    helped = all(len(rows) > 1 for rows in maps) and shutil.which("newuidmap") and shutil.which("newgidmap")
    try:
        if not (helped and _enter_with_helpers(maps)):
            _enter_alone(uid, gid)
        libc.unshare(libc.CLONE_NEWNS)
        libc.mount(None, b"/", None, libc.MS_PRIVATE | libc.MS_REC, None)
    except OSError as error:
        raise ImageError(
            f"an ordinary user needs a user namespace for this, which is not to be had here ({error.strerror}): "
            "see /proc/sys/user/max_user_namespaces, /proc/sys/kernel/unprivileged_userns_clone and AppArmor's rules"
        ) from None


def _enter_alone(uid: int, gid: int) -> None:
    """With his own id only, as root."""
    libc.unshare(libc.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _enter_with_helpers(maps: list[list[tuple[int, int, int]]]) -> bool:
    """newuidmap and newgidmap write the maps, from outside: a child waits for the namespace. False: they would not."""
    ready, go = os.pipe()
    answer, tell = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        code = 1
        try:
            os.close(go)
            if os.read(ready, 1):
                code = max(_write_map(tool, parent, rows) for tool, rows in zip(_HELPERS, maps, strict=True))
        finally:
            os.write(tell, bytes([code & 1]))
            os._exit(0)
    os.close(ready)
    os.close(tell)
    try:
        # From here on there is no way back: a process may not leave the namespace again.
        libc.unshare(libc.CLONE_NEWUSER)
        os.write(go, b"x")
        mapped = os.read(answer, 1) == b"\0"
    finally:
        os.close(go)
        os.close(answer)
        os.waitpid(child, 0)
    if mapped:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        return True
    raise OSError(1, "newuidmap or newgidmap refused the ranges of /etc/subuid and /etc/subgid")


_HELPERS = ("newuidmap", "newgidmap")


def _write_map(tool: str, pid: int, rows: list[tuple[int, int, int]]) -> int:
    numbers = [str(number) for row in rows for number in row]
    return subprocess.run([tool, str(pid), *numbers], stdin=subprocess.DEVNULL, check=False).returncode != 0


def _map(path: str, uid: int, own: int | None = None) -> list[tuple[int, int, int]]:
    """(first id inside, first outside, how many): root is the user himself, then come the ranges given to him."""
    rows = [(0, uid if own is None else own, 1)]
    names = {str(uid), _login(uid)}
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip().split(":") for line in file]
    except OSError:
        return rows
    for fields in lines:
        if len(fields) == 3 and fields[0] in names and fields[1].isdigit() and fields[2].isdigit():
            last = rows[-1]
            rows.append((last[0] + last[2], int(fields[1]), int(fields[2])))
    return rows


def _login(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
