"""One layer's tar → an overlay layer directory, by OCI's rules, in one pass.

Nothing outside the directory can be touched, whatever the archive says: every step goes from one directory's
descriptor to the next by a single name, and a symlink is never followed. An archive that tries to is refused.
Attributes come last on each object; those that filling a directory would disturb, when everything is there.
"""

from __future__ import annotations

import os
import stat
from errno import EEXIST, ENAMETOOLONG, EPERM

from unionfs.image import attrs, tar_entry
from unionfs.image.chain import Chain
from unionfs.image.codec import write_all
from unionfs.image.copies import copy_attributes, copy_file
from unionfs.image.directories import DIR, NEW_FILE, Directories, clear_whiteout, components, make_whiteout, split
from unionfs.image.errors import HostileEntry, LimitExceeded, show
from unionfs.layer import verbs
from unionfs.union.marks import AUFS_META, AUFS_OPAQUE, AUFS_PREFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.image.tar_entry import Entry
    from unionfs.image.tar_read import TarReader


class Limits:
    """How much an archive may ask for. The defaults let every image through that is meant as one."""

    def __init__(self, *, size: int = 1 << 40, entries: int = 10_000_000, depth: int = 1024) -> None:
        self.size = size
        """Bytes of data in one layer (holes of sparse files do not count)."""
        self.entries = entries
        self.depth = depth


class Counts:
    """What was unpacked. size: as Docker counts a layer, the lengths of files (once per inode) and
    symlinks."""

    def __init__(self) -> None:
        self.entries = 0
        self.size = 0


class Unpacker:
    """Unpacks one layer into the empty directory `root`; umask must be 0 (see `run`).

    lowers: the directories of the layers below, top first. A directory that the archive fills without
    listing it, and the target of a hard link that it does not hold, have their attributes and data from
    there. rootless: keep owners, modes and devices in xattrs.
    Raises HostileEntry, LimitExceeded, BadArchive, OSError.
    """

    def __init__(self, root: bytes, lowers: list[bytes], *, rootless: bool, limits: Limits) -> None:
        self.notes = attrs.Notes()
        self.counts = Counts()
        self._owner = attrs.XattrOwner(self.notes) if rootless else attrs.RealOwner(self.notes)
        self._lowers = lowers
        self._limits = limits
        self._stored = 0
        self._dirs = Directories(root, self._owner.marks, limits.depth)
        self._open = self._dirs.open
        self._listed: dict[bytes, tuple[int, int, bytes | None]] = {}
        """Directories the archive lists: atime, mtime, default ACL, set when they are full."""
        self._makers = {
            tar_entry.REGULAR: self._file, tar_entry.DIRECTORY: self._directory, tar_entry.SYMLINK:
            self._symlink, tar_entry.HARDLINK: self._hardlink, tar_entry.CHAR: self._special,
            tar_entry.BLOCKDEV: self._special, tar_entry.FIFO: self._special,
        }  # fmt: skip

    def run(self, reader: TarReader) -> None:
        """Unpack everything. The process's umask is 0 meanwhile, so that open() gives files their mode at
        once."""
        umask = os.umask(0)
        try:
            self._reader = reader
            for entry in reader:
                try:
                    self._entry(entry)
                except OSError as exc:
                    raise self._explained(exc, entry) from exc
                except (OverflowError, ValueError) as exc:  # a time or device number no system has; NUL in a name
                    raise HostileEntry(entry.name, f"cannot be made: {exc}") from None
            self._finish()
        finally:
            os.umask(umask)
            self._dirs.close()

    def _explained(self, exc: OSError, entry: Entry) -> Exception:
        if exc.errno == EEXIST:
            return HostileEntry(entry.name, "comes twice in the layer")
        if exc.errno == ENAMETOOLONG:
            return HostileEntry(entry.name, "a name longer than file systems allow")
        return OSError(exc.errno, f"{show(entry.name)}: {os.strerror(exc.errno or 0)}")

    def _entry(self, entry: Entry) -> None:
        counts = self.counts
        counts.entries += 1
        if counts.entries > self._limits.entries:
            raise LimitExceeded(f"the layer has more than {self._limits.entries} entries")
        parent, base = split(entry.name)
        if not base:
            self._root_entry(entry)
            return
        try:
            dir_fd = self._open[parent]
        except KeyError:
            if AUFS_META in parent:
                self.notes.add("AUFS's own files are left out", entry.name)
                return
            dir_fd = self._dirs.make(parent, entry)
        if base.startswith(AUFS_PREFIX):
            self._whiteout(dir_fd, base, entry)
            return
        maker = self._makers.get(entry.kind)
        if maker is None:
            raise HostileEntry(entry.name, f"an entry of unknown type {show(entry.kind)}")
        maker(dir_fd, base, entry)

    # what an entry can be

    def _file(self, dir_fd: int, base: bytes, entry: Entry) -> None:
        counts = self.counts
        counts.size += entry.size
        self._stored += entry.stored
        if self._stored > self._limits.size:
            raise LimitExceeded(f"the layer's files need more than {self._limits.size} bytes")
        try:
            fd = os.open(base, NEW_FILE, entry.mode & 0o777, dir_fd=dir_fd)
        except FileExistsError:
            if not clear_whiteout(dir_fd, base):
                raise
            fd = os.open(base, NEW_FILE, entry.mode & 0o777, dir_fd=dir_fd)
        try:
            if entry.segments is not None:
                self._sparse(fd, entry)
            elif entry.size:
                self._data(fd)
            self._owner.file(fd, entry)
        finally:
            os.close(fd)

    def _data(self, fd: int) -> None:
        whole = self._reader.whole()
        if whole is not None:
            write_all(fd, whole)
            return
        for piece in self._reader.pieces():
            write_all(fd, piece)

    def _sparse(self, fd: int, entry: Entry) -> None:
        segments = iter(entry.segments or ())
        left = 0
        for piece in self._reader.pieces():
            while piece:
                if not left:
                    offset, left = next(segments)
                    os.lseek(fd, offset, os.SEEK_SET)
                part = piece[:left]
                write_all(fd, part)
                left -= len(part)
                piece = piece[len(part) :]
        os.ftruncate(fd, entry.size)

    def _directory(self, dir_fd: int, base: bytes, entry: Entry) -> None:
        """A directory listed a second time only changes its attributes: archives joined together do that."""
        path = b"/".join(components(entry.name, entry))
        opaque = False
        try:
            os.mkdir(base, 0o700, dir_fd=dir_fd)
        except FileExistsError:
            if clear_whiteout(dir_fd, base):
                opaque = True
                os.mkdir(base, 0o700, dir_fd=dir_fd)
            elif not stat.S_ISDIR(os.stat(base, dir_fd=dir_fd, follow_symlinks=False).st_mode):
                raise
        fd = self._open.get(path)
        if fd is None:
            fd = self._dirs.keep(path, os.open(base, DIR, dir_fd=dir_fd))
        self._owner.directory(fd, entry)
        if opaque:
            self._set_opaque(fd, b"")
        self._remember(path, entry)

    def _root_entry(self, entry: Entry) -> None:
        if entry.kind != tar_entry.DIRECTORY:
            raise HostileEntry(entry.name, "not a directory, in the place of the root")
        self._owner.directory(self._dirs.root, entry)
        self._remember(b"", entry)

    def _remember(self, path: bytes, entry: Entry) -> None:
        acl = entry.xattrs.get(attrs.DEFAULT_ACL) if entry.xattrs else None
        self._listed[path] = (entry.mtime if entry.atime is None else entry.atime, entry.mtime, acl)
        self._dirs.implied.discard(path)

    def _symlink(self, dir_fd: int, base: bytes, entry: Entry) -> None:
        if not entry.linkname:
            raise HostileEntry(entry.name, "a symlink to nowhere")
        self.counts.size += len(entry.linkname)
        try:
            os.symlink(entry.linkname, base, dir_fd=dir_fd)
        except FileExistsError:
            if not clear_whiteout(dir_fd, base):
                raise
            os.symlink(entry.linkname, base, dir_fd=dir_fd)
        self._owner.symlink(dir_fd, base, entry)

    def _special(self, dir_fd: int, base: bytes, entry: Entry) -> None:
        try:
            made = self._owner.special(dir_fd, base, entry)
        except FileExistsError:
            if not clear_whiteout(dir_fd, base):
                raise
            made = self._owner.special(dir_fd, base, entry)
        if not made:
            self.notes.add("devices are left out: making them is not permitted here", entry.name)

    def _hardlink(self, dir_fd: int, base: bytes, entry: Entry) -> None:
        names = components(entry.linkname, entry, "a link to ")
        if not names:
            raise HostileEntry(entry.name, "a hard link to the root")
        path = b"/".join(names)
        try:
            self._link(path, dir_fd, base, entry)
        except FileNotFoundError:
            dir_fd = os.dup(dir_fd)  # the directory may have to make room for others meanwhile
            try:
                if not self._bring_up(path, entry):
                    raise HostileEntry(
                        entry.name, f"a hard link to {show(path)}, which does not exist"
                    ) from None
                self._link(path, dir_fd, base, entry)
            finally:
                os.close(dir_fd)

    def _link(self, path: bytes, dir_fd: int, base: bytes, entry: Entry) -> None:
        source, name = self._dirs.walk(path, entry)
        try:
            os.link(name, base, src_dir_fd=source, dst_dir_fd=dir_fd, follow_symlinks=False)
        except FileExistsError:
            if not clear_whiteout(dir_fd, base):
                raise
            os.link(name, base, src_dir_fd=source, dst_dir_fd=dir_fd, follow_symlinks=False)
        except OSError as exc:
            if exc.errno != EPERM:
                raise
            raise HostileEntry(entry.name, f"a hard link to {show(path)}, which is a directory") from None
        finally:
            os.close(source)

    # whiteouts

    def _whiteout(self, dir_fd: int, base: bytes, entry: Entry) -> None:
        if base == AUFS_OPAQUE:
            self._set_opaque(dir_fd, b"")
            return
        if base.startswith(AUFS_META):
            self.notes.add("AUFS's own files are left out", entry.name)
            return
        name = base[len(AUFS_PREFIX) :]
        if name in (b"", b".", b".."):
            raise HostileEntry(entry.name, "a whiteout of no name")
        try:
            if not make_whiteout(dir_fd, name, self._owner.marks):
                attrs.set_times(dir_fd, name, entry)    # means nothing, but makes every unpacking the same
        except FileExistsError:
            # The layer's own object of that name stays: a whiteout speaks of the layers below.
            if stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
                self._set_opaque(dir_fd, name)

    def _set_opaque(self, dir_fd: int, name: bytes) -> None:
        verbs.setxattr(dir_fd, name, self._owner.marks.opaque, b"y")

    # the end, and what comes from the layers below

    def _finish(self) -> None:
        if self._dirs.implied and self._lowers:
            self._adopt_implied()
        for path in sorted(self._dirs.implied):
            self._listed[path] = (0, 0, None)
        for path in sorted(self._listed):
            atime, mtime, acl = self._listed[path]
            fd = self._dirs.reopen(path)
            if acl is not None:
                os.setxattr(fd, attrs.DEFAULT_ACL, acl)
            os.utime(fd, ns=(atime, mtime))

    def _adopt_implied(self) -> None:
        """Give directories that the archive does not list what they have in the layers below."""
        with Chain(self._lowers) as chain:
            for path in sorted(self._dirs.implied):
                version = chain.find(path)
                if version is None or not stat.S_ISDIR(version.stat.st_mode):
                    continue
                fd, name = (
                    (os.dup(chain.roots[version.layer]), b"")
                    if not path
                    else chain.open_parent(version.layer, path)
                )
                try:
                    copy_attributes(fd, name, self._dirs.reopen(path), b"")
                finally:
                    os.close(fd)
                self._dirs.implied.discard(path)
                self._listed[path] = (version.stat.st_atime_ns, version.stat.st_mtime_ns, None)

    def _bring_up(self, path: bytes, entry: Entry) -> bool:
        """Copy a file up from the layers below, for a hard link to it. False where there is none."""
        with Chain(self._lowers) as chain:
            version = chain.find(path)
            if version is None or not stat.S_ISREG(version.stat.st_mode):
                return False
            parent, _, name = path.rpartition(b"/")
            target = self._open[parent] if parent in self._open else self._dirs.make(parent, entry)
            fd, _ = chain.open_parent(version.layer, path)
            try:
                copy_file(fd, target, name)
            finally:
                os.close(fd)
        self.counts.size += version.stat.st_size
        return True
