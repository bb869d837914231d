"""What a tree looks like: snapshots to compare, and differences one can read.

    tree.assert_same(tree.snapshot(a), tree.snapshot(b))

A snapshot holds what an application can see: type, mode, owner, size, content, link target, device number, mtime,
xattrs without overlay's own, which names are hard links of each other. An exact one, for layers that must stay
bit for bit the same, also holds inode numbers, ctime and every xattr.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection

from tests.lib import kernel

Facts = dict[str, object]
Snapshot = dict[bytes, Facts]

_KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFCHR: "char",
    stat.S_IFBLK: "block", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket",
}  # fmt: skip


def snapshot(root: str | bytes, *, exact: bool = False, content: bool = True) -> Snapshot:
    """Facts by path relative to root (b"" is the root). content=False: sizes only, for big trees."""
    base = os.fsencode(root)
    found: Snapshot = {}
    inodes: dict[int, list[bytes]] = {}
    pending = [b""]
    while pending:
        path = pending.pop()
        full = base + b"/" + path if path else base
        st = os.lstat(full)
        found[path] = _facts(full, st, exact, content)
        if stat.S_ISDIR(st.st_mode):
            pending += [path + b"/" + name if path else name for name in os.listdir(full)]
        elif st.st_nlink > 1:
            inodes.setdefault(st.st_ino, []).append(path)
    for names in inodes.values():
        for path in names:
            found[path]["linked with"] = sorted(name for name in names if name != path)
    return dict(sorted(found.items()))


def _facts(path: bytes, st: os.stat_result, exact: bool, content: bool) -> Facts:
    kind = _KINDS[stat.S_IFMT(st.st_mode)]
    facts: Facts = {
        "type": kind, "mode": oct(stat.S_IMODE(st.st_mode)), "owner": (st.st_uid, st.st_gid),
        "mtime": st.st_mtime_ns, "xattrs": _xattrs(path, exact),
    }  # fmt: skip
    if kind != "dir":
        facts["nlink"] = st.st_nlink
        facts["size"] = st.st_size
    if kind == "file" and content:
        facts["content"] = _content(path, st.st_size)
    if kind == "symlink":
        facts["target"] = os.readlink(path)
    if kind in ("char", "block"):
        facts["rdev"] = (os.major(st.st_rdev), os.minor(st.st_rdev))
    if exact:
        facts["inode"], facts["ctime"] = st.st_ino, st.st_ctime_ns
    return facts


def _xattrs(path: bytes, exact: bool) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    if not exact:
        names = [name for name in names if not is_private(name)]
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)}


def is_private(xattr: str) -> bool:
    """Overlay's own, which no mount shows (its escaped form overlay.overlay. is an application's)."""
    return any(
        xattr.startswith(space) and not xattr.startswith(space + "overlay.")
        for space in ("trusted.overlay.", "user.overlay.")
    )


def _content(path: bytes, size: int) -> object:
    """Short content as it is, long as a digest."""
    with open(path, "rb") as file:
        if size <= 64:
            return file.read()
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def diff(one: Snapshot, two: Snapshot, *, ignore: Collection[str] = (), names: str = "first second") -> list[str]:
    """The differences, one line each; [] when the trees are the same. ignore: names of facts ("mtime", …)."""
    first, second = names.split()
    lines: list[str] = []
    for path in sorted(one.keys() | two.keys()):
        shown = os.fsdecode(path) or "(root)"
        if path not in two:
            lines.append(f"{shown}: only in {first} ({one[path]['type']})")
        elif path not in one:
            lines.append(f"{shown}: only in {second} ({two[path]['type']})")
        else:
            lines += _differing(shown, one[path], two[path], ignore, first, second)
    return lines


def assert_same(one: Snapshot, two: Snapshot, *, ignore: Collection[str] = (), names: str = "first second") -> None:
    """AssertionError that holds every difference."""
    lines = diff(one, two, ignore=ignore, names=names)
    assert not lines, "\n".join(["the trees differ:", *lines])


def _differing(path: str, a: Facts, b: Facts, ignore: Collection[str], first: str, second: str) -> list[str]:
    return [
        f"{path}: {fact} is {a.get(fact)!r} in {first}, {b.get(fact)!r} in {second}"
        for fact in sorted(a.keys() | b.keys())
        if fact not in ignore and a.get(fact) != b.get(fact)
    ]


def listing_faults(root: str | bytes) -> list[str]:
    """Where readdir and stat disagree: d_type, d_ino, a name twice, no "." or ".."."""
    faults: list[str] = []
    pending = [os.fsencode(root)]
    while pending:
        directory = pending.pop()
        entries = kernel.all_dirents(directory)
        names = [entry.name for entry in entries]
        if not {b".", b".."} <= set(names):
            faults.append(f"{directory!r} lacks . or ..")
        if len(set(names)) != len(names):
            faults.append(f"{directory!r} lists a name twice: {sorted(names)}")
        for entry in entries:
            if entry.name == b"..":
                continue
            full = directory + b"/" + entry.name
            st = os.lstat(full)
            if entry.ino != st.st_ino:
                faults.append(f"{full!r}: d_ino {entry.ino}, st_ino {st.st_ino}")
            if entry.type != stat.S_IFMT(st.st_mode) >> 12:
                faults.append(f"{full!r}: d_type {entry.type}, mode {st.st_mode:o}")
            if stat.S_ISDIR(st.st_mode) and entry.name != b".":
                pending.append(full)
    return faults
