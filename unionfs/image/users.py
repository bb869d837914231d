"""USER of an image: names looked up in the image's own /etc/passwd and /etc/group, read as plain files.

The C library's lookup would ask the host's services. Where nothing else is said, this process's root is the image's.
"""

from __future__ import annotations

import os
from errno import EINVAL

from unionfs.image.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[str], str]
    """A text file of the image by its absolute path; "" where there is none."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def read_here(path: str) -> str:
    """A text file; "" where there is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return ""


class User:
    """Ids, and the home directory."""

    __slots__ = ("gid", "groups", "home", "uid")

    def __init__(self, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home

    def become(self) -> None:
        """Take these ids for good. OSError."""
        if self.uid == 0 and self.gid == 0 and not self.groups:
            return
        try:
            os.setgroups(self.groups)
        except PermissionError:
            pass  # a user namespace of an ordinary user has no say in groups
        try:
            os.setgid(self.gid)
            os.setuid(self.uid)
        except OSError as exc:
            if exc.errno != EINVAL:
                raise
            raise ImageError(
                f"user {self.uid}:{self.gid} does not exist in your user namespace: that takes ranges for you in "
                "/etc/subuid and /etc/subgid, and newuidmap (package uidmap); -u 0 runs it as root of the namespace"
            ) from None


def find(text: str, read: Read = read_here) -> User:
    """"", "UID[:GID]", "NAME[:GROUP]" → ids; as Docker reads USER. ImageError for a name the image does not know."""
    name, _, group = text.partition(":")
    name = name or "0"
    row = _row(read, "passwd", lambda fields: name in (fields[0], fields[2]) if name.isdigit() else fields[0] == name)
    if row is None and not name.isdigit():
        raise ImageError(f"the image has no user {name} in /etc/passwd")
    uid = int(row[2]) if row else int(name)
    gid = int(row[3]) if row else 0
    groups: list[int] = []
    if group:
        gid = _group(read, group)
    elif row:
        groups = [int(fields[2]) for fields in _rows(read, "group", 4)
                  if row[0] in fields[3].split(",") and fields[2].isdigit()]  # fmt: skip
    return User(uid, gid, groups, row[5] if row and len(row) > 5 else "/")


def ids(text: str, read: Read) -> tuple[int, int]:
    """(uid, gid) for COPY --chown: without a group, it is the number of the user, as in Docker."""
    name, colon, group = text.partition(":")
    user = find(name, read)
    if colon and group:
        return user.uid, _group(read, group)
    return user.uid, user.gid if not name.isdigit() else user.uid


def environment(user: User) -> dict[str, str]:
    """What a process has in its environment without the image saying so."""
    return {"PATH": PATH, "HOME": user.home, "HOSTNAME": os.uname().nodename}


def _group(read: Read, group: str) -> int:
    if group.isdigit():
        return int(group)
    row = _row(read, "group", lambda fields: fields[0] == group)
    if row is None:
        raise ImageError(f"the image has no group {group} in /etc/group")
    return int(row[2])


def _row(read: Read, file: str, wanted: Callable[[list[str]], bool]) -> list[str] | None:
    return next((fields for fields in _rows(read, file, 4) if wanted(fields)), None)


def _rows(read: Read, file: str, least: int) -> list[list[str]]:
    """The lines of a file in /etc with at least so many fields."""
    rows = [line.split(":") for line in read(f"/etc/{file}").splitlines()]
    return [fields for fields in rows if len(fields) >= least]
