"""Copy-up: an object of a lower layer becomes one of the upper, with everything that makes it what it is.

The copy is built where nobody sees it (a file without a name, or a name in the work directory), completed, synced and
then put into place by one system call: a crash leaves either the old or the new object. Large data is copied with the
lock released; the node is among `stack.copying` meanwhile, and whoever needs its copy-up waits.
"""

from __future__ import annotations

import os
from errno import EOPNOTSUPP, EPERM
from stat import S_IFLNK, S_IFREG

from unionfs.layer import verbs
from unionfs.union import marks
from unionfs.union.copying import copy_attributes, copy_bytes
from unionfs.union.lookup import place, remember_links, upper_key
from unionfs.union.merge import DT_DIR, LAYER_MASK, LAYER_SHIFT, LOWER, TYPE
from unionfs.union.metacopy import find_data
from unionfs.union.node import HERE, NOWHERE, UNKNOWN, UPPER, Dir, Node
from unionfs.union.parts import lower_path
from unionfs.union.settle import defer, may_defer, settle_one

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from unionfs.union.stack import Stack

    _R = TypeVar("_R")

_SMALL = 256 << 10   # up to here a copy takes well under a millisecond and is not worth another thread


def slow(stack: Stack, node: Node, writing: bool = True) -> bool:
    """Whether copying the node up may take long or must wait. writing: its data is going to change, too."""
    if node in stack.copying or node in stack.settling or (writing and node in stack.unsettled):
        return True
    if node.layer == UPPER or node.kind != S_IFREG:
        return False
    if _syncs(stack) and (writing or not may_defer(stack)):
        return True
    return verbs.stat(*place(stack, node)).st_size > _SMALL


def copy_up(stack: Stack, node: Node) -> None:
    """Make the node one of the upper layer, for a change that leaves its data alone.

    Does nothing if it is there already. Raises EROFS, ENOSPC, EDQUOT, EIO and what else the layers say; then the
    union is as before and nothing is left behind.
    """
    while node in stack.copying:
        stack.copied.wait()
    if node.layer == UPPER:
        return
    stack.require_writable()
    stack.keep_within_limit()
    if node.is_dir:
        for directory in _not_in_upper(node):  # type: ignore[arg-type]
            stack.keep_within_limit()
            _copy_dir(stack, directory)
    else:
        _run(stack, node, _copy_file, None, None if stack.config.metacopy else may_defer(stack))


def own_data(stack: Stack, node: Node, keep: int | None = None) -> None:
    """copy_up for a change of the data: from now on the node's bytes are its own, and safe to change.

    Of a lower file only the first `keep` bytes are needed (None: all).
    """
    if node.is_dir:
        copy_up(stack, node)
        return
    while True:  # each step may release the lock, so that others change the node meanwhile
        if node in stack.copying:
            stack.copied.wait()
        elif node.layer != UPPER:
            stack.require_writable()
            _run(stack, node, _copy_file, keep, False)
        elif node in stack.unsettled or node in stack.settling:
            settle_one(stack, node)
        elif locate_data(stack, node) is not HERE:
            _run(stack, node, _complete, keep, False)
        else:
            return


def _run(stack: Stack, node: Node, work: Callable[[Stack, Node, int | None, bool | None], int], keep: int | None,
         deferring: bool | None) -> None:
    stack.copying.add(node)
    try:
        copied = work(stack, node, keep, deferring)
    finally:
        stack.copying.discard(node)
        stack.copied.notify_all()
    _count(stack, node, copied)


def _count(stack: Stack, node: Node, copied: int) -> None:
    stack.counters["copy_ups"] += 1
    stack.counters["copied_bytes"] += copied
    if stack.emit is not None:
        stack.emit("copy-up", node, copied)


def _syncs(stack: Stack) -> bool:
    return stack.config.sync and not stack.config.volatile


# --- directories ---------------------------------------------------------------------------------------------------

def _not_in_upper(directory: Dir) -> list[Dir]:
    """The directory and those above it that the upper layer lacks, from the top."""
    missing = []
    while directory.layer != UPPER:
        missing.append(directory)
        directory = directory.parent
    return missing[::-1]


def _copy_dir(stack: Stack, directory: Dir) -> None:
    """Directories copy their attributes only."""
    source = stack.part_fd(directory, directory.layer)
    name = stack.temp_name()
    verbs.mkdir(stack.work_fd, name, 0o700)
    held = verbs.open_file(stack.work_fd, name, os.O_RDONLY | os.O_DIRECTORY)
    try:
        st = os.stat(source)
        copy_attributes(stack, source, b"", held, None, st)
        if _mark_origin(stack, directory, source, b"", held, None, 1):
            set_impure(stack, directory.parent)
        verbs.set_times(held, None, st)
        put_quietly(stack, directory.parent, verbs.rename, stack.work_fd, name, directory.name)
    except BaseException:
        os.close(held)
        try:
            verbs.rmdir(stack.work_fd, name)
        except OSError:
            pass  # the next mount empties the work directory
        raise
    stack.keep_part(directory, UPPER, held)
    directory.layers.insert(0, UPPER)
    directory.layer = UPPER
    _note_entry(directory.parent, directory.name)
    _count(stack, directory, 0)


def put_quietly(stack: Stack, directory: Dir, verb: Callable[[int, bytes, int, bytes], None], fd: int, name: bytes,
                new_name: bytes) -> None:
    """Put an object into a directory's upper part without moving the directory's times: nobody changed it."""
    target = stack.part_fd(directory, UPPER)
    before = os.stat(target)
    verb(fd, name, target, new_name)
    try:
        verbs.set_times(target, b".", before)
    except OSError:
        pass  # the object is there, which is what was asked for


# --- everything else -----------------------------------------------------------------------------------------------

def _copy_file(stack: Stack, node: Node, keep: int | None, deferring: bool | None) -> int:
    """The new object with all that belongs to it. deferring: its sync may wait; None: even its data (metacopy=on)."""
    if node.linked:
        copy_up(stack, node.parent)
    made, old = _Made(stack), _Old(stack, node)
    try:
        copied = 0
        bare = deferring is None and node.linked and node.kind == S_IFREG
        if bare:
            made.open_file()
            os.ftruncate(made.fd, old.st.st_size)
        elif node.kind == S_IFREG:
            made.open_file()
            copied = _copy_data(stack, node, old.fd, made.fd, keep)
        else:
            _make_special(stack, node, old, made)
        mark = _dress(stack, node, old, made)
        deferring = deferring and copied > 0 and _syncs(stack) and node.linked
        if deferring or bare:
            verbs.setxattr(made.fd, None, stack.marks.metacopy, b"")
        elif copied and _syncs(stack):
            _unlocked(stack, verbs.sync, made.fd)
        if node.linked:  # perhaps under another of its names by now
            copy_up(stack, node.parent)
            _put_in_place(stack, node, made, mark, old.st.st_nlink)
        else:
            _keep_unnamed(stack, node, made)
        node.layer, node.data = UPPER, UNKNOWN if bare else HERE
        if not bare:
            _swap_files(node, made.fd)
        if deferring:
            defer(stack, node, made.fd)
            made.fd = NOWHERE
    finally:
        old.close()
        made.discard()
    return copied


def _complete(stack: Stack, node: Node, keep: int | None, _deferring: bool | None) -> int:
    """Bring the data of a metacopy file into it. Until the mark goes, the data below counts: a crash loses nothing."""
    fd, name = place(stack, node)
    st = verbs.stat(fd, name)
    target = verbs.open_file(fd, name, os.O_RDWR | os.O_NONBLOCK)
    try:
        copied = _copy_data(stack, node, NOWHERE, target, keep)
        if copied and _syncs(stack):
            _unlocked(stack, verbs.sync, target)
        verbs.set_times(target, None, st)
        verbs.removexattr(target, None, stack.marks.metacopy)
        node.data = HERE
        _swap_files(node, target)
    finally:
        os.close(target)
    return copied


class _Old:
    """The object that is copied: where the verbs reach it, and its stat. A regular file is open, which is cheaper."""

    __slots__ = ("fd", "name", "st")

    def __init__(self, stack: Stack, node: Node) -> None:
        fd, name = place(stack, node)
        self.fd: int = verbs.open_reading(fd, name) if node.kind == S_IFREG else fd
        self.name: bytes | None = None if node.kind == S_IFREG else name
        try:
            self.st = verbs.stat(self.fd, self.name)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.name is None:
            os.close(self.fd)


class _Made:
    """The new object while it has no name in the union: `fd` and, where it has a name in work, `name`."""

    __slots__ = ("stack", "fd", "name")

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.fd = NOWHERE
        self.name = b""

    def open_file(self) -> None:
        stack = self.stack
        if stack.abilities.tmpfile:
            self.fd = verbs.open_unnamed(stack.work_fd, 0o600)
        else:
            name = stack.temp_name()
            self.fd = verbs.open_file(stack.work_fd, name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            self.name = name

    def place(self) -> tuple[int, bytes | None]:
        return (self.fd, None) if self.fd >= 0 else (self.stack.work_fd, self.name)

    def put(self, _fd: int, _name: bytes, target: int, name: bytes) -> None:
        """Put it into place; from then on it belongs to the union."""
        if self.name:
            verbs.rename(self.stack.work_fd, self.name, target, name)
            self.name = b""
        else:
            verbs.link(self.fd, b"", target, name)

    def discard(self) -> None:
        """Let go of it; what has not been put into place is gone."""
        if self.fd >= 0:
            os.close(self.fd)
        if self.name:
            verbs.unlink(self.stack.work_fd, self.name)


def _make_special(stack: Stack, node: Node, old: _Old, made: _Made) -> None:
    name = stack.temp_name()
    if node.kind == S_IFLNK:
        verbs.symlink(stack.work_fd, name, verbs.readlink(old.fd, old.name or b""))
    else:
        verbs.mknod(stack.work_fd, name, node.kind | 0o600, old.st.st_rdev)
    made.name = name


def _dress(stack: Stack, node: Node, old: _Old, made: _Made) -> bytes:
    """Give the new object the old one's attributes. Returns the origin mark it got, if any."""
    target = made.place()
    copy_attributes(stack, old.fd, old.name, *target, old.st)
    mark = _mark_origin(stack, node, old.fd, old.name, *target, old.st.st_nlink) if node.linked else b""
    verbs.set_times(*target, old.st)
    return mark


def _put_in_place(stack: Stack, node: Node, made: _Made, mark: bytes, links: int) -> None:
    """The name, last of all; before it the index name of an inode with several (links)."""
    entry = b""
    if mark:
        set_impure(stack, node.parent)
    if mark and links > 1 and stack.index is not None:
        links = links if node.links < 0 else node.links
        entry = stack.index.add(stack, *made.place(), mark, links)
        node.links = links
    try:
        put_quietly(stack, node.parent, made.put, 0, b"", node.name)
    except BaseException:
        if entry and stack.index is not None:
            stack.index.drop(entry)
        raise
    if node.names is not None:
        remember_links(stack, node, upper_key(verbs.stat(stack.part_fd(node.parent, UPPER), node.name)))
    _note_entry(node.parent, node.name)


def _keep_unnamed(stack: Stack, node: Node, made: _Made) -> None:
    """The node lost its name before or while it was copied: the copy never gets one."""
    node.fd = verbs.open_path(stack.work_fd, made.name) if made.name else os.open(
        verbs.at(made.fd, b""), os.O_PATH | os.O_CLOEXEC)


def _swap_files(node: Node, fd: int) -> None:
    """Open descriptors follow to where the bytes are now, so that they see what is written from now on.

    They share the copy's own descriptor: opening it anew could fail, now that it has its mode.
    """
    for file in node.files or ():
        if file.fd >= 0:
            os.dup2(fd, file.fd, inheritable=False)


# --- parts of the work ---------------------------------------------------------------------------------------------

def _copy_data(stack: Stack, node: Node, held: int, target: int, keep: int | None) -> int:
    """Copy the data, holes kept; the lock is released while much is copied. Returns the bytes copied.

    held: a descriptor on the node's file, which may be one of metadata alone; NOWHERE: there is none.
    """
    source = held if held >= 0 and locate_data(stack, node) is HERE else open_data(stack, node, os.O_RDONLY)
    try:
        st = os.fstat(source)
        size = st.st_size if keep is None else min(keep, st.st_size)
        if size == 0:
            return 0
        if size <= _SMALL:
            return copy_bytes(source, target, size, st)
        return _unlocked(stack, copy_bytes, source, target, size, st)
    finally:
        if source != held:
            os.close(source)


def _unlocked(stack: Stack, work: Callable[..., _R], *arguments: object) -> _R:
    """Pure I/O, while others use the union."""
    stack.lock.release()
    try:
        return work(*arguments)
    finally:
        stack.lock.acquire()


def locate_data(stack: Stack, node: Node) -> tuple[int, bytes] | None:
    """Where the node's bytes are: HERE, or in a lower layer that a metacopy mark leads to."""
    if node.data is UNKNOWN:
        node.data = find_data(stack, node) if node.kind == S_IFREG else HERE
    return node.data


def open_data(stack: Stack, node: Node, flags: int) -> int:
    """A descriptor on the node's bytes, wherever they are."""
    data = locate_data(stack, node)
    if data is HERE:
        return _open_at(*place(stack, node), flags)
    layer, path = data
    above, _, name = path.rpartition(b"/")
    fd = stack.layers[layer].open_dir(above)
    try:
        return _open_at(fd, name, flags)
    finally:
        os.close(fd)


def _open_at(fd: int, name: bytes, flags: int) -> int:
    if flags & os.O_ACCMODE == os.O_RDONLY:
        return verbs.open_reading(fd, name)
    return verbs.open_file(fd, name, flags)


def _mark_origin(stack: Stack, node: Node, source: int, source_name: bytes | None, fd: int, name: bytes | None,
                 links: int) -> bytes:
    """Record which lower object this was, so that st_ino survives a remount. Its directory is to be marked impure.

    A file that had several names (links) is another one from now on unless the index keeps them together.
    """
    if not stack.abilities.xattr or (links > 1 and stack.index is None):
        return b""
    mark = stack.origin_mark(source, source_name, node.layer)
    if mark is None:
        return b""
    try:
        verbs.setxattr(fd, name, stack.marks.origin, mark)
    except OSError as error:
        if error.errno not in (EPERM, EOPNOTSUPP):  # user.* xattrs cannot be put on symlinks and devices
            raise
        return b""
    return mark


def keep_lower_path(stack: Stack, node: Node) -> None:
    """Before a file whose bytes still count as the lower's gets another name: record where that lower file is."""
    if node.kind != S_IFREG or not node.linked:
        return
    if node in stack.unsettled or node in stack.settling or locate_data(stack, node) is not HERE:
        fd, name = place(stack, node)
        value = lower_path(node, marks.read(fd, name, stack.marks.redirect) or b"")
        verbs.setxattr(fd, name, stack.marks.redirect, value)


def set_impure(stack: Stack, directory: Dir) -> None:
    """Mark a directory as holding objects that show the inode number of a lower one."""
    if not directory.impure and stack.abilities.xattr:
        verbs.setxattr(stack.part_fd(directory, UPPER), b"", stack.marks.impure, b"y")
        directory.impure = True


def _note_entry(directory: Dir, name: bytes) -> None:
    """The name is decided by the upper layer now."""
    listing = directory.listing
    if listing is not None:
        value = listing.entries.get(name, 0)
        if value:
            listing.entries[name] = value & ~(LAYER_MASK << LAYER_SHIFT) | LOWER
            layers = listing.several.get(name)
            if layers is not None and layers[0] != UPPER:
                layers.insert(0, UPPER)
            elif layers is None and value & TYPE == DT_DIR:
                listing.several[name] = [UPPER, value >> LAYER_SHIFT & LAYER_MASK]


def link_up(stack: Stack, node: Node, directory: Dir, name: bytes) -> None:
    """Make this name of the node one of the upper layer: a lower hard link of a node copied up under another name."""
    copy_up(stack, node)
    copy_up(stack, directory)
    if node.fd >= 0 or (node.parent, node.name) == (directory, name):
        return  # it is reached by this very name
    if verbs.exists(stack.part_fd(directory, UPPER), name):
        return
    set_impure(stack, directory)
    put_quietly(stack, directory, verbs.link, *place(stack, node), name)
    _note_entry(directory, name)
    if node.links >= 0 and stack.index is not None:
        stack.index.renew(stack, node, None)
