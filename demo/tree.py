"""A tree as a value, to compare: everything about every name that a user of the tree can see."""

from __future__ import annotations

import hashlib
import os
import stat


def snapshot(root: str) -> dict[str, str]:
    """path → type, mode, owner, size, modification time, xattrs and a hash of the content."""
    found = {}
    for directory, names, files in os.walk(root):
        for name in [".", *names, *files] if directory == root else [*names, *files]:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, root)] = _describe(path)
    return found


def _describe(path: str) -> str:
    st = os.lstat(path)
    words = [stat.filemode(st.st_mode), f"{st.st_uid}:{st.st_gid}", f"mtime={st.st_mtime_ns}"]
    if stat.S_ISREG(st.st_mode):
        with open(path, "rb") as file:
            words += [f"size={st.st_size}", hashlib.file_digest(file, "sha256").hexdigest()]
    elif stat.S_ISLNK(st.st_mode):
        words.append(os.readlink(path))
    elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
        words.append(f"device={os.major(st.st_rdev)}:{os.minor(st.st_rdev)}")
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        words.append(f"{name}={os.getxattr(path, name, follow_symlinks=False)!r}")
    return " ".join(words)


def marks(root: str) -> list[tuple[str, str]]:
    """What overlay wrote on disk in an upper layer: (path, mark), whiteouts and overlay's xattrs."""
    found = []
    for directory, names, files in os.walk(root):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            st = os.lstat(path)
            shown = os.path.relpath(path, root)
            if stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
                found.append((shown, "whiteout: character device 0, 0"))
            elif name.startswith(".wh."):
                found.append((shown, "whiteout: a .wh. file"))
            for xattr in os.listxattr(path, follow_symlinks=False):
                if ".overlay." in xattr and xattr.rpartition(".")[2] in ("opaque", "redirect", "whiteout"):
                    value = os.getxattr(path, xattr, follow_symlinks=False)
                    found.append((shown, f"{xattr} = {value.decode('utf-8', 'replace')!r}"))
    return found


def disk_use(root: str) -> int:
    """Bytes of file data below `root`, as the disk counts them."""
    total = 0
    for directory, _, files in os.walk(root):
        total += sum(os.lstat(os.path.join(directory, name)).st_blocks * 512 for name in files)
    return total
