"""Mount-time checks: a stack that cannot work is refused with one line that names the thing and what to do."""

from __future__ import annotations

import fcntl
import os
from errno import EEXIST, ENOENT, ENOTDIR, ENOTEMPTY
from time import monotonic, sleep

from unionfs import libc
from unionfs.layer import verbs
from unionfs.layer.tree import Layer
from unionfs.union.config import Config, ConfigError
from unionfs.union.node import UPPER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.union.marks import Marks

_FS_IOC_GETFSUUID = 0x80111500  # _IOR(0x15, 0, struct fsuuid2)
_CAP_SYS_ADMIN = 1 << 21
LAYERS_MAX = 4095  # what the packed entries of a listing have room for (merge.py)
_PATIENCE = 2.0  # s that a mount waits for the daemon of one just unmounted to let go of its upper


class Abilities:
    """What the upper file system was found able to do; the defaults are those of a stack that is never written."""

    __slots__ = ("whiteout", "xattr", "tmpfile", "exchange", "rename_whiteout", "handles")

    def __init__(self) -> None:
        self.whiteout = "device"
        self.xattr = True
        self.tmpfile = True
        self.exchange = True
        self.rename_whiteout = True
        self.handles = True


def show(path: bytes) -> str:
    return os.fsdecode(path)


def check_options(config: Config) -> None:
    """Combinations that mean nothing, and a process that cannot work at all. Raises ConfigError."""
    if not os.path.exists("/proc/self/fd"):
        raise ConfigError("/proc is not mounted here, and unionfs reaches extended attributes through it: mount it "
                          "with `mount -t proc proc /proc`")
    if not config.lower and config.upper is None:
        raise ConfigError("no layers: give lowerdir=DIR[:DIR…], and upperdir=DIR,workdir=DIR for a writable mount")
    if len(config.lower) + len(config.data) > LAYERS_MAX:
        raise ConfigError(f"{len(config.lower) + len(config.data)} lower layers; at most {LAYERS_MAX} are possible")
    if config.data and not config.lower:
        raise ConfigError("data-only layers (::DIR) need at least one ordinary lowerdir above them")
    if (config.upper is None) != (config.work is None):
        missing, given = ("workdir", "upperdir") if config.work is None else ("upperdir", "workdir")
        raise ConfigError(f"{given} is given without {missing}: add {missing}=DIR on the same file system, "
                          "or leave both out for a read-only mount")


def open_layer(path: bytes, index: int, option: str) -> Layer:
    """The layer, open. Raises ConfigError where it is missing, no directory, or cannot be read."""
    try:
        layer = Layer(path, index)
    except OSError as error:
        reason = {ENOENT: "does not exist", ENOTDIR: "is not a directory"}.get(error.errno or 0, error.strerror)
        raise ConfigError(f"{option} {show(path)}: {reason}") from None
    if not os.access(verbs.at(layer.fd, b""), os.R_OK | os.X_OK):
        layer.close()
        raise ConfigError(f"{option} {show(path)}: cannot be read; check its permissions")
    return layer


def check_overlaps(layers: dict[int, Layer], config: Config) -> None:
    """No layer inside another, none twice, and neither the work directory nor the mount point among them."""
    spots = {index: _ancestry(layer.path) for index, layer in layers.items()}
    names = {index: f"{'upperdir' if index == UPPER else 'lowerdir'} {show(layer.path)}"
             for index, layer in layers.items()}
    if config.work is not None:
        try:
            spots[-1], names[-1] = _ancestry(config.work), f"workdir {show(config.work)}"
        except OSError as error:
            raise ConfigError(f"workdir {show(config.work)}: {error.strerror}; create it first") from None
    owner: dict[tuple[int, int], int] = {}
    for index, chain in spots.items():
        if chain[0] in owner:
            raise ConfigError(f"{names[owner[chain[0]]]} and {names[index]} are the same directory")
        owner[chain[0]] = index
    for index, chain in spots.items():
        outer = next((owner[spot] for spot in chain[1:] if spot in owner), None)
        if outer is not None:
            raise ConfigError(f"{names[index]} lies inside {names[outer]}: layers must not overlap")
    if config.mountpoint is not None:
        _check_mountpoint(config.mountpoint, spots, names, owner)


def _check_mountpoint(mountpoint: bytes, spots: dict[int, list[tuple[int, int]]], names: dict[int, str],
                      owner: dict[tuple[int, int], int]) -> None:
    chain = _ancestry(mountpoint)
    for spot in chain:
        if spot in owner:
            raise ConfigError(f"mount point {show(mountpoint)} lies inside {names[owner[spot]]}: choose one outside "
                              "the layers")
    for index, above in spots.items():
        if chain[0] in above:
            raise ConfigError(f"{names[index]} lies inside the mount point {show(mountpoint)}, which would hide it: "
                              "choose another mount point")


def _ancestry(path: bytes) -> list[tuple[int, int]]:
    """(device, inode) of a directory and of each one above it, up to the root."""
    chain: list[tuple[int, int]] = []
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while True:
            st = os.stat(fd)
            if chain and chain[-1] == (st.st_dev, st.st_ino):
                return chain
            chain.append((st.st_dev, st.st_ino))
            above = os.open(b"..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = above
    finally:
        os.close(fd)


def sees_trusted_xattrs() -> bool:
    """Whether `trusted.` xattrs are open to this process: CAP_SYS_ADMIN in the initial user namespace."""
    try:
        with open("/proc/self/uid_map") as file:
            if file.read().split() != ["0", "0", "4294967295"]:
                return False
        with open("/proc/self/status") as file:
            effective = next(line for line in file if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return os.geteuid() == 0
    return bool(int(effective.split()[1], 16) & _CAP_SYS_ADMIN)


# --- upper and work -------------------------------------------------------------------------------------------------

def lock_upper(config: Config) -> list[int]:
    """Descriptors that hold the locks on upper and work. Raises ConfigError where another mount uses one of them."""
    held: list[int] = []
    try:
        for option, path in (("upperdir", config.upper), ("workdir", config.work)):
            assert path is not None
            held.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            if not _lock(held[-1]):
                raise ConfigError(f"{option} {show(path)} is in use by another unionfs mount: unmount that first, or "
                                  "give this one an upperdir and workdir of its own")
            _refuse_kernel_overlay(option, path)
    except BaseException as error:
        for fd in held:
            os.close(fd)
        if isinstance(error, OSError):
            raise ConfigError(f"{os.fsdecode(error.filename or b'')}: {error.strerror}") from None
        raise
    return held


def _lock(fd: int) -> bool:
    """Take the lock. umount(2) returns before the daemon has finished, so a holder gets a moment to end."""
    deadline = monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if monotonic() > deadline:
                return False
            sleep(0.01)


def _refuse_kernel_overlay(option: str, path: bytes) -> None:
    with open("/proc/self/mountinfo", "rb") as file:
        lines = [line for line in file if b" - overlay " in line]
    spot = os.stat(path)
    for line in lines:
        for setting in line.split()[-1].split(b","):
            if setting.startswith((b"upperdir=", b"workdir=")):
                other = setting.split(b"=", 1)[1].replace(b"\\134", b"\\").replace(b"\\040", b" ")
                try:
                    same = os.path.samestat(os.stat(other), spot)
                except OSError:
                    continue
                if same:
                    where = os.fsdecode(line.split()[4])
                    raise ConfigError(f"{option} {show(path)} is in use by the kernel overlay mounted on {where}: "
                                      "unmount that first")


def prepare_work(upper: Layer, config: Config) -> int:
    """An empty `work` directory inside workdir, as the kernel makes it, open. What a crash left there is removed."""
    path = config.work
    assert path is not None
    base = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.stat(base).st_dev != upper.dev:
            raise ConfigError(f"workdir {show(path)} is not on the file system of upperdir {show(upper.path)}: "
                              "put it beside the upperdir")
        if verbs.exists(base, b"work/incompat/volatile"):
            raise ConfigError(f"{show(path)}/work/incompat/volatile exists: this upper was last mounted `volatile` and "
                              "may be incomplete; remove that directory to use it all the same")
        try:
            # Closed as the kernel's is, but not to a user, who has to remove it.
            verbs.mkdir(base, b"work", 0 if sees_trusted_xattrs() else 0o700)
        except FileExistsError:
            pass
        fd = verbs.open_dir(base, b"work")
        remove_below(fd)
        if config.volatile:
            verbs.mkdir(fd, b"incompat", 0o700)
            verbs.mkdir(fd, b"incompat/volatile", 0o700)
        return fd
    except OSError as error:
        raise ConfigError(f"workdir {show(path)}: {error.strerror}") from None
    finally:
        os.close(base)


def remove_below(fd: int) -> None:
    """Remove everything in a directory, never following a symlink."""
    for entry in list(verbs.scan(fd)):
        remove_tree(fd, entry.name)


def remove_tree(fd: int, name: bytes) -> None:
    """Remove an object and all below it. Full directories in it are first moved up beside it: no depth is too deep."""
    pending = [] if _removed(fd, name) else [name]
    serial = 0
    while pending:
        name = pending.pop()
        below = verbs.open_dir(fd, name)
        try:
            for entry in list(verbs.scan(below)):
                if _removed(below, entry.name):
                    continue
                while verbs.exists(fd, aside := b"#gone%x" % serial):
                    serial += 1
                verbs.rename(below, entry.name, fd, aside)
                pending.append(aside)
        finally:
            os.close(below)
        verbs.rmdir(fd, name)


def _removed(fd: int, name: bytes) -> bool:
    """Remove an object. False, and it can be emptied, where it is a directory that is not empty."""
    try:
        verbs.unlink(fd, name)
        return True
    except IsADirectoryError:
        pass
    except PermissionError:  # some file systems say so of a directory
        if not os.path.isdir(verbs.at(fd, name)):
            raise
    try:
        verbs.rmdir(fd, name)
        return True
    except OSError as error:
        if error.errno not in (ENOTEMPTY, EEXIST):
            raise
    if os.geteuid():
        verbs.chmod(fd, name, 0o700)
    return False


def discard(fd: int, name: bytes) -> None:
    """Remove what is left over in the work directory, if it can be: the next mount empties it in any case."""
    try:
        if verbs.exists(fd, name):
            remove_tree(fd, name)
    except OSError:
        pass


def probe(work_fd: int, upper: Layer, names: Marks, config: Config) -> Abilities:
    """Try out on real files what the upper file system can do. Raises ConfigError where it cannot be an upper."""
    able = Abilities()
    name = b"#probe"
    try:
        os.close(verbs.open_file(work_fd, name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        able.xattr = config.xattr and _works(verbs.setxattr, work_fd, name, names.opaque, b"y")
        able.exchange = _works(verbs.rename, work_fd, name, work_fd, name, libc.RENAME_NOREPLACE, refused_by=EEXIST)
        able.handles = _works(verbs.handle, work_fd, name)
        able.whiteout = _whiteout_form(work_fd, able, config)
        able.rename_whiteout = able.whiteout == "device" and _works(
            verbs.rename, work_fd, name, work_fd, name + b"2", libc.RENAME_WHITEOUT)
        able.tmpfile = _tmpfile_works(work_fd)
        _check_same_mount(work_fd, upper, config)
    except OSError as error:
        raise ConfigError(f"workdir {show(config.work or b'')} cannot be written: {error.strerror}") from None
    finally:
        remove_below_probe(work_fd)
    if not able.xattr and config.xattr:
        kind = names.prefix.split(b".")[0].decode()
        other = "use `userxattr`, or " if kind == "trusted" else ""
        raise ConfigError(f"the file system of upperdir {show(upper.path)} has no {kind}.* extended attributes: {other}"
                          "`noxattrs` (no directory renames, whiteouts as .wh. files)")
    return able


def remove_below_probe(work_fd: int) -> None:
    for name in (b"#probe", b"#probe2", b"#probe3"):
        if verbs.exists(work_fd, name):
            remove_tree(work_fd, name)


def _works(verb: object, *arguments: object, refused_by: int = 0) -> bool:
    try:
        verb(*arguments)  # type: ignore[operator]
    except OSError as error:
        return error.errno == refused_by
    return True


def _whiteout_form(work_fd: int, able: Abilities, config: Config) -> str:
    if config.whiteout != "auto":
        return config.whiteout
    if _works(verbs.mknod, work_fd, b"#probe3", 0o020000, 0):
        return "device"
    return "xattr" if able.xattr else "aufs"


def _tmpfile_works(work_fd: int) -> bool:
    try:
        fd = verbs.open_unnamed(work_fd, 0o600)
    except OSError:
        return False
    try:
        verbs.link(fd, b"", work_fd, b"#probe2" if not verbs.exists(work_fd, b"#probe2") else b"#probe")
    except OSError:
        return verbs.exists(work_fd, b"#probe2") and verbs.exists(work_fd, b"#probe")
    finally:
        os.close(fd)
    return True


def _check_same_mount(work_fd: int, upper: Layer, config: Config) -> None:
    """Two mounts of one file system have the same device, but nothing can be renamed between them."""
    try:
        verbs.rename(work_fd, b"#no such name", upper.fd, b"#no such name")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ConfigError(f"workdir {show(config.work or b'')} and upperdir {show(upper.path)} must be reached through "
                          f"the same mount: {error.strerror}") from None


def fs_uuid(fd: int) -> bytes:
    """The 16 bytes that name the file system of an open directory; zeros where it has none."""
    buffer = bytearray(17)
    try:
        held = os.open(verbs.at(fd, b""), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return bytes(16)
    try:
        fcntl.ioctl(held, _FS_IOC_GETFSUUID, buffer)
    except OSError:
        return bytes(16)
    finally:
        os.close(held)
    return bytes(buffer[1:17])
