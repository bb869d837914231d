"""Whole directory trees: removing, measuring. Without recursion, for a hostile layer may be very deep."""

from __future__ import annotations

import os
import stat

from unionfs.layer import verbs
from unionfs.layer.tree import Layer


def remove_tree(path: str) -> None:
    """Remove a directory of ours; gone already is fine.

    Modes that forbid it to an ordinary user are changed on the way.
    """
    try:
        layer = Layer(os.fsencode(path), 0)
    except FileNotFoundError:
        return
    try:
        _empty(layer)
    finally:
        layer.close()
    os.rmdir(path)


def _empty(layer: Layer) -> None:
    """Files first, on the way down; then the directories, the deepest first."""
    pending = [b""]
    done: list[bytes] = []
    while pending:
        directory = pending.pop()
        done.append(directory)
        fd = layer.open_dir(directory)
        try:
            os.chmod(verbs.at(fd, b""), 0o700)
            for entry in list(verbs.scan(fd)):
                if entry.is_dir(follow_symlinks=False):
                    pending.append(directory + b"/" + entry.name if directory else entry.name)
                else:
                    verbs.unlink(fd, entry.name)
        finally:
            os.close(fd)
    for directory in reversed(done[1:]):
        parent, _, name = directory.rpartition(b"/")
        fd = layer.open_dir(parent)
        try:
            verbs.rmdir(fd, name)
        finally:
            os.close(fd)


def disk_usage(path: str) -> int:
    """Bytes that a file, or a tree with hard links counted once, takes on disk."""
    st = os.lstat(path)
    total = st.st_blocks * 512
    if not stat.S_ISDIR(st.st_mode):
        return total
    layer = Layer(os.fsencode(path), 0)
    seen: set[int] = set()
    pending = [b""]
    try:
        while pending:
            directory = pending.pop()
            fd = layer.open_dir(directory)
            try:
                for entry in verbs.scan(fd):
                    st = verbs.stat(fd, entry.name)
                    if stat.S_ISDIR(st.st_mode):
                        pending.append(directory + b"/" + entry.name if directory else entry.name)
                    elif st.st_nlink > 1:
                        if st.st_ino in seen:
                            continue
                        seen.add(st.st_ino)
                    total += st.st_blocks * 512
            finally:
                os.close(fd)
    finally:
        layer.close()
    return total
