"""The binding (mfusepy or fusepy), and what it leaves out of libfuse's calls: file handles, flags, offsets, umask.

Only what the public interface of a binding drops or bends is done here, in a subclass of its FUSE class; the other
calls reach `Operations` as it translates them. Bytes travel through it as latin-1 text, which maps each byte to one
character and back, so that no name is lost, whatever its encoding.
"""

from __future__ import annotations

import os
from errno import EIO
from queue import SimpleQueue
from threading import Event, Thread

from unionfs.union import UTIME_NOW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from unionfs.fusepy_front.operations import Operations

ENCODING = "latin-1"
# Best first. libfuse 3 passes on far more (see the package's docstring); fusepy knows libfuse 2 alone.
_CHOICES = (
    ("mfusepy", "libfuse3.so.4"), ("mfusepy", "libfuse3.so.3"), ("fuse", "libfuse.so.2"), ("mfusepy", "libfuse.so.2"),
)  # fmt: skip
_PATH = "FUSE_LIBRARY_PATH"

# fuse_common.h
_CAP_ATOMIC_O_TRUNC, _CAP_BIG_WRITES, _CAP_DONT_MASK = 1 << 3, 1 << 5, 1 << 6
_CAP_POSIX_ACL, _CAP_HANDLE_KILLPRIV, _CAP_CACHE_SYMLINKS, _CAP_EXPLICIT_INVAL = 1 << 19, 1 << 20, 1 << 23, 1 << 25
_FILL_PLUS, _READDIR_PLUS = 2, 1
_PATIENCE = 0.5  # s that an answer waits until the kernel has forgotten other names
_UTIME_NOW, _UTIME_OMIT = 0x3FFFFFFF, 0x3FFFFFFE


def load() -> Any:
    """The binding's module, with its library loaded. Raises ImportError that says what is missing.

    The environment variable FUSE_LIBRARY_PATH, which both bindings know, names a library to be used instead.
    """
    asked = os.environ.get(_PATH)
    choices = _CHOICES if asked is None else [(name, asked) for name in _names_for(asked)]
    problems = []
    for name, library in choices:
        os.environ[_PATH] = library
        try:
            return _import(name)
        except (ImportError, OSError, AttributeError) as error:
            problems.append(f"{name}: {error}")
        finally:
            if asked is None:
                del os.environ[_PATH]
            else:
                os.environ[_PATH] = asked
    raise ImportError("; ".join(dict.fromkeys(problems)))


def _names_for(library: str) -> tuple[str, ...]:
    return ("mfusepy",) if "fuse3" in library else ("fuse", "mfusepy")


def _import(name: str) -> Any:
    """Imports one binding; not importlib, so that who reads the imports sees them."""
    if name == "mfusepy":
        import mfusepy as binding
    else:
        import fuse as binding
    if not hasattr(binding, "FUSE") or not hasattr(binding.FUSE, "_wrapper"):
        raise ImportError("not a fusepy that is known here (fuse-python has a module of the same name)")
    return binding


def major(binding: Any) -> int:
    """2 or 3: the library's API."""
    return int(getattr(binding, "fuse_version_major", 2))


class Context:
    """fuse_get_context() with the umask, which fusepy leaves out of its structure."""

    def __init__(self, binding: Any) -> None:
        structure = binding.fuse_context
        if not hasattr(structure, "umask"):
            structure = type("fuse_context", (structure,), {"_fields_": [("umask", binding.c_mode_t)]})
        self._get = binding.ctypes.CDLL(binding._libfuse._name).fuse_get_context
        self._get.restype = binding.ctypes.POINTER(structure)

    def who(self) -> tuple[int, int, int]:
        """(uid, gid, umask) of whoever is served in this thread."""
        context = self._get().contents
        return context.uid, context.gid, context.umask

    def fuse(self) -> Any:
        """The pointer to libfuse's own state."""
        return self._get().contents.fuse


def bridge(binding: Any, service: Service) -> type:
    """The binding's FUSE class with our methods in the place of its own, under the names it looks for."""
    suffix = f"_fuse_{major(binding)}"
    methods: dict[str, Any] = {"service": service, "_wrapper": Calls._wrapper, "fgetattr": Calls.fgetattr}
    for name in ("readdir", "opendir", "utimens", "ioctl", "init", "destroy"):
        methods[name + suffix if hasattr(binding.FUSE, name + suffix) else name] = getattr(Calls, name)
    if major(binding) == 3:
        for name in ("rename", "chmod", "chown", "truncate"):
            methods[name + suffix] = getattr(Calls, name)
        methods.update(lseek=Calls.lseek, copy_file_range=Calls.copy_file_range)
    else:
        methods["ftruncate"] = Calls.truncate
    return type("Bridge", (binding.FUSE,), methods)


class Service:
    """What the calls need besides the operations."""

    def __init__(self, binding: Any, context: Context, log: Callable[[str], None], ready: Callable[[], None],
                 acl: bool) -> None:
        self.binding = binding
        self.major = major(binding)
        self.context = context
        self.log = log
        self.ready = ready
        self.acl = acl
        self.error: BaseException | None = None  # of ready(): the mount was given up
        self._invalidate: Any = None
        if self.major == 3:
            pointer, text = binding.ctypes.c_void_p, binding.ctypes.c_char_p
            self._invalidate = binding.ctypes.CDLL(binding._libfuse._name).fuse_invalidate_path
            self._invalidate.argtypes = (pointer, text)
        self._stale: SimpleQueue[tuple[Any, list[bytes], Event] | None] = SimpleQueue()
        self._thread: Thread | None = None

    def invalidate(self, paths: list[bytes]) -> None:
        """Have the kernel forget attributes and pages of these names, before the caller answers if that can be.

        A thread of its own does it: it waits for pages that are being read, and whoever reads them may wait for the
        request that is being served now, by its path or for a free thread of libfuse. Then the answer goes first.
        """
        if self._invalidate is not None:
            if self._thread is None:
                self._thread = Thread(target=self._forget_names, name="unionfs-invalidate", daemon=True)
                self._thread.start()
            done = Event()
            self._stale.put((self.context.fuse(), paths, done))
            done.wait(_PATIENCE)

    def _forget_names(self) -> None:
        while (item := self._stale.get()) is not None:
            fuse, paths, done = item
            for path in paths:
                self._invalidate(fuse, path)
            done.set()

    def stop(self) -> None:
        """Nothing is left to be forgotten: the mount is gone, and libfuse is about to be."""
        if self._thread is not None:
            self._stale.put(None)
            self._thread.join()

    def failed(self, what: str) -> None:
        """An error that is nobody's but ours."""
        from traceback import format_exc

        self.log(f"unexpected error in {what}:\n{format_exc()}")


def _text(path: bytes | None) -> str | None:
    return None if path is None else path.decode(ENCODING)


def _handle(fip: Any) -> int:
    return fip.contents.fh if fip else 0


class Calls:
    """Methods for `bridge`; the arguments are libfuse's, `self` is the binding's FUSE object."""

    operations: Operations
    service: Service

    def _wrapper(self, func: Callable[..., Any], *args: Any) -> int:
        """Around every call: the lock, and the only place where an exception becomes an errno."""
        operations = self.operations
        try:
            with operations.union.lock:
                result: int = func(*args) or 0
                stale = operations.stale
                if stale:
                    operations.stale = []
                operations.paths.trim()
            if stale:
                self.service.invalidate(stale)
            return result
        except OSError as error:
            return -(error.errno or EIO)
        except BaseException:
            self.service.failed(func.__name__)
            return -EIO

    def destroy(self, _data: object) -> None:
        self.service.stop()

    def fgetattr(self, path: bytes | None, buf: Any, fip: Any) -> None:
        _fill(buf.contents, *self.operations.attributes(_text(path), _handle(fip)))

    def opendir(self, path: bytes, fip: Any) -> None:
        fi = fip.contents
        fi.fh = self.operations.opendir(path.decode(ENCODING))
        if self.service.major == 3:  # the kernel may keep the listing: it sees every change that there can be
            fi.cache_readdir = fi.keep_cache = 1

    def readdir(self, path: bytes | None, buf: Any, filler: Any, offset: int, fip: Any, flags: int = 0) -> None:
        """Entries from the offset on, until libfuse has as many as were asked for; with attributes for `ls -l`."""
        operations, handle = self.operations, fip.contents.fh
        more = (0,) if self.service.major == 3 else ()
        st = self.service.binding.c_stat()
        for name, ino, dtype, after in operations.readdir(_text(path), handle, offset):
            entry = operations.entry(handle, name) if flags & _READDIR_PLUS and after > 2 else None
            if entry is not None:
                _fill(st, *entry)
                full = filler(buf, name, st, after, _FILL_PLUS)
            else:
                st.st_ino, st.st_mode = ino, dtype << 12
                full = filler(buf, name, st, after, *more)
            if full:
                return

    def utimens(self, path: bytes | None, buf: Any, fip: Any = None) -> None:
        times = buf.contents
        self.operations.utimens(_text(path), (_time(times.actime), _time(times.modtime)), _handle(fip))

    def ioctl(self, path: bytes | None, cmd: int, _arg: Any, fip: Any, _flags: int, data: int | None) -> None:
        """`data` is room for an int, in and out."""
        number = self.service.binding.ctypes.c_uint
        room = number.from_address(data) if data else number()
        answer = self.operations.ioctl(_text(path), cmd & 0xFFFFFFFF, room.value, _handle(fip))
        if answer is not None:
            room.value = answer

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        self.operations.rename(old.decode(ENCODING), new.decode(ENCODING), flags)

    def chmod(self, path: bytes | None, mode: int, fip: Any) -> None:
        self.operations.chmod(_text(path), mode, _handle(fip))

    def chown(self, path: bytes | None, uid: int, gid: int, fip: Any) -> None:
        """An id of all ones says that it is to be left."""
        owner, group = (-1 if number == 0xFFFFFFFF else number for number in (uid, gid))
        self.operations.chown(_text(path), owner, group, _handle(fip))

    def truncate(self, path: bytes | None, length: int, fip: Any) -> None:
        self.operations.truncate(_text(path), length, _handle(fip))

    def lseek(self, _path: bytes | None, offset: int, whence: int, fip: Any) -> int:
        return self.operations.lseek(_handle(fip), offset, whence)

    def copy_file_range(self, _path_in: bytes | None, fip_in: Any, off_in: int, _path_out: bytes | None,
                        fip_out: Any, off_out: int, length: int, _flags: int) -> int:
        return self.operations.copy_file_range(_handle(fip_in), off_in, _handle(fip_out), off_out, length)

    def init(self, conn: Any, config: Any = None) -> None:
        """The mount is there and libfuse about to answer."""
        service = self.service
        if service.major == 3:
            _agree_3(conn.contents, config.contents, service.acl)
        else:
            _agree_2(service.binding, conn)
        try:
            service.ready()
        except BaseException as error:
            service.error = error
            service.binding.fuse_exit()


def _agree_3(conn: Any, config: Any, acl: bool) -> None:
    wanted = _CAP_DONT_MASK | _CAP_CACHE_SYMLINKS | _CAP_EXPLICIT_INVAL | (_CAP_POSIX_ACL if acl else 0)
    # Who writes and whether that strips setuid the kernel knows, libfuse does not say.
    conn.want = (conn.want | wanted & conn.capable) & ~_CAP_HANDLE_KILLPRIV
    config.use_ino = config.nullpath_ok = 1
    config.hard_remove = 0  # see Operations.rename: hidden names cost nothing here and keep fstat working


def _agree_2(binding: Any, conn: Any) -> None:
    """libfuse 2's fuse_conn_info up to `want`: seven ints, `capable` the last but one. fusepy does not describe it."""
    numbers = binding.ctypes.cast(conn, binding.ctypes.POINTER(binding.ctypes.c_uint))
    numbers[6] |= (_CAP_ATOMIC_O_TRUNC | _CAP_BIG_WRITES | _CAP_DONT_MASK) & numbers[5]


def _fill(st: Any, ino: int, links: int, found: os.stat_result) -> None:
    st.st_ino = ino
    st.st_nlink = links
    st.st_mode = found.st_mode
    st.st_uid = found.st_uid
    st.st_gid = found.st_gid
    st.st_rdev = found.st_rdev
    st.st_size = found.st_size
    st.st_blksize = found.st_blksize
    st.st_blocks = found.st_blocks
    for field, time in (("st_atimespec", found.st_atime_ns), ("st_mtimespec", found.st_mtime_ns),
                        ("st_ctimespec", found.st_ctime_ns)):
        spec = getattr(st, field)
        spec.tv_sec, spec.tv_nsec = divmod(time, 10**9)


def _time(spec: Any) -> int | None:
    if spec.tv_nsec == _UTIME_OMIT:
        return None
    return UTIME_NOW if spec.tv_nsec == _UTIME_NOW else spec.tv_sec * 10**9 + spec.tv_nsec
