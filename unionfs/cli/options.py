"""The meaning of mount options, in the spelling of `mount -t overlay` and of fuse-overlayfs.

One table says what there is. To add an option: one row in `_options()`, one row in docs/options.md (a test
compares the two). Pure: nothing is looked up on disk; what the layers are like is checked by `Union`.
"""

from __future__ import annotations

from unionfs.cli.errors import UsageError, shown
from unionfs.cli.optstring import SyntaxProblem, split_layers, split_options, unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.union.config import Config

    Effect = Callable[[Config, "MountOptions", bytes], None]

# <linux/mount.h>
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_DIRSYNC = 1, 2, 4, 8, 16, 128
MS_NOSYMFOLLOW, MS_NOATIME, MS_NODIRATIME = 1 << 8, 1 << 10, 1 << 11
MS_RELATIME, MS_STRICTATIME, MS_LAZYTIME = 1 << 21, 1 << 24, 1 << 25

FRONTENDS = ("auto", "kernel", "fusepy")


class MountOptions:
    """What concerns the mount and its daemon rather than the layers.

    source       what /proc/mounts shows as the device
    flags        MS_* for mount(2)
    allow_other  other users may enter; None: as the kernel's overlay, yes for root, no for others
    allow_root   of the other users, only root may enter
    timeout      seconds for which the kernel may believe entries and attributes; None: for good
    max_write    largest write request in bytes; None: the largest that there is
    passthrough  the kernel may use upper files directly
    pacing       the request loop may spend processor time on shorter waits
    labels       SELinux options for mount(2), as `context=…`
    private      the mount does not propagate (MS_PRIVATE)
    nonempty     the mount point may have entries, which the mount hides
    docker       an image or a container of Docker's own store, whose layers these are; docker_root: b"" the usual place
    """

    __slots__ = (
        "allow_other", "allow_root", "debug", "docker", "docker_root", "flags", "foreground", "frontend", "labels",
        "log", "max_write", "nonempty", "pacing", "passthrough", "private", "source", "timeout",
    )  # fmt: skip

    def __init__(self) -> None:
        self.source = b"unionfs"
        self.flags = 0
        self.allow_other: bool | None = None
        self.allow_root = False
        self.timeout: float | None = None
        self.max_write: int | None = None
        self.passthrough = True
        self.pacing = True
        self.labels: list[bytes] = []
        self.private = False
        self.nonempty = False
        self.docker: bytes | None = None
        self.docker_root = b""
        self.debug = False
        self.foreground = False
        self.log: bytes | None = None
        self.frontend = "auto"


class _BadValue(Exception):
    """The value does not fit; the message follows the option's name."""


def apply(text: bytes, config: Config, mount: MountOptions) -> None:
    """Carry out an option string on the two values; a later option overrides an earlier one.

    Raises UsageError with one line that names the option at fault.
    """
    try:
        pairs = split_options(text)
    except SyntaxProblem as problem:
        raise UsageError(f"mount options: {problem}") from None
    for name, value in pairs:
        apply_one(name, value, config, mount)


def apply_one(name: bytes, value: bytes | None, config: Config, mount: MountOptions) -> None:
    """Carry out one option; `value` is still escaped. Raises UsageError."""
    wants, effect = OPTIONS.get(name) or _outside_table(name)
    if value is None and wants == _NEEDS:
        raise UsageError(f"option {shown(name)} needs a value: {shown(name)}=…")
    if value is not None and wants == _NONE:
        raise UsageError(f"option {shown(name)} takes no value (got '{shown(value)}')")
    try:
        effect(config, mount, b"" if value is None else value)
    except (_BadValue, SyntaxProblem) as problem:
        raise UsageError(f"option {shown(name)}: {problem}") from None


def _outside_table(name: bytes) -> tuple[int, Effect]:
    """The row for names that the table cannot list: comments for other tools, and mistakes."""
    if name.startswith((b"x-", b"X-")):
        return _MAY, _nothing
    if name in REFUSED:
        raise UsageError(f"option {shown(name)} is not supported: {REFUSED[name]}")
    from difflib import get_close_matches

    known = [shown(row) for row in OPTIONS]
    near = get_close_matches(shown(name), known, 1)
    raise UsageError(f"unknown option '{shown(name)}'" + (f"; did you mean '{near[0]}'?" if near else ""))


# --- readers of values --------------------------------------------------------------------------------------


def _switch(value: bytes) -> bool:
    if value in (b"on", b"1"):
        return True
    if value in (b"off", b"0"):
        return False
    raise _BadValue(f"must be on or off, not '{shown(value)}'")


def _number(value: bytes) -> int:
    if not value.isdigit() or int(value) > 0xFFFFFFFF:
        raise _BadValue(f"must be a number from 0 to 4294967295, not '{shown(value)}'")
    return int(value)


def _seconds(value: bytes) -> float:
    whole, _, fraction = value.partition(b".")
    if not (whole + fraction).isdigit():
        raise _BadValue(f"must be a number of seconds, not '{shown(value)}'")
    return float(value)


def _choice(value: bytes, *choices: str) -> str:
    if (text := shown(value)) not in choices:
        raise _BadValue(f"must be {', '.join(choices[:-1])} or {choices[-1]}, not '{text}'")
    return text


def _path(value: bytes) -> bytes:
    if not value:
        raise _BadValue("the path is empty")
    return unescape(value)


def id_map(value: bytes) -> list[tuple[int, int, int]]:
    """`CID:HID:LEN…`, with or without a colon first, as fuse-overlayfs reads it.

    Gives (first id on disk, first id shown, count) triples.
    """
    fields = value.removeprefix(b":").split(b":")
    if len(fields) % 3 or not all(field.isdigit() for field in fields):
        raise _BadValue(f"must be CONTAINER:HOST:LENGTH, once or more, not '{shown(value)}'")
    numbers = [_number(field) for field in fields]
    triples = list(zip(numbers[0::3], numbers[1::3], numbers[2::3], strict=True))
    if not all(length and max(inside, outside) + length <= 1 << 32 for inside, outside, length in triples):
        raise _BadValue(f"a range is empty or ends beyond 4294967295: '{shown(value)}'")
    return triples


# --- effects ------------------------------------------------------------------------------------------------


def _nothing(_config: Config, _mount: MountOptions, _value: bytes) -> None:
    """Accepted for the sake of whoever passes it; there is nothing to do."""


def _lowerdir(config: Config, _mount: MountOptions, value: bytes) -> None:
    config.lower, config.data = split_layers(value) if value else ([], [])


def _lowerdir_add(config: Config, _mount: MountOptions, value: bytes) -> None:
    if config.data:
        raise _BadValue("a layer cannot come below data-only layers")
    config.lower = [*config.lower, _path(value)]


def _datadir_add(config: Config, _mount: MountOptions, value: bytes) -> None:
    if not config.lower:
        raise _BadValue("a data-only layer needs a layer above it")
    config.data = [*config.data, _path(value)]


def _docker(config: Config, mount: MountOptions, value: bytes) -> None:
    """Docker mounts its layers with these rules, so that each upper says by itself all that was changed."""
    mount.docker = _path(value)
    config.redirect_dir, config.metacopy, config.index = "off", False, False


def _redirect_dir(value: bytes) -> str:
    return _choice(value, "on", "follow", "nofollow", "off")


def _squash_to_root(config: Config, _mount: MountOptions, _value: bytes) -> None:
    config.squash_uid = config.squash_gid = 0


def _volatile(config: Config, _mount: MountOptions, _value: bytes) -> None:
    config.volatile, config.sync = True, False


def _noxattrs(config: Config, _mount: MountOptions, value: bytes) -> None:
    config.xattr = not (_switch(value) if value else True)


def _xattr_permissions(config: Config, _mount: MountOptions, value: bytes) -> None:
    config.xattr_permissions = int(_choice(value, "0", "2"))


def _only(*choices: str) -> Effect:
    """An option of the kernel's overlay of which these values alone are supported: they change nothing."""

    def effect(_config: Config, _mount: MountOptions, value: bytes) -> None:
        if shown(value) not in choices:
            raise _BadValue(f"'{shown(value)}' is not supported; leave the option out or use '{choices[0]}'")

    return effect


def _layers(field: str, read: Callable[[bytes], object]) -> Effect:
    """The value goes into a field of Config."""

    def effect(config: Config, _mount: MountOptions, value: bytes) -> None:
        setattr(config, field, read(value))

    return effect


def _mount(field: str, read: Callable[[bytes], object]) -> Effect:
    """The value goes into a field of MountOptions."""

    def effect(_config: Config, mount: MountOptions, value: bytes) -> None:
        setattr(mount, field, read(value))

    return effect


def _yes(_value: bytes) -> bool:
    return True


def _no(_value: bytes) -> bool:
    return False


def _label(name: bytes) -> Effect:
    def effect(_config: Config, mount: MountOptions, value: bytes) -> None:
        mount.labels = [*mount.labels, name + b'="' + value + b'"']

    return effect


def _flags(added: int, removed: int) -> Effect:
    def effect(config: Config, mount: MountOptions, _value: bytes) -> None:
        mount.flags = mount.flags & ~removed | added
        config.readonly = bool(mount.flags & MS_RDONLY)

    return effect


# --- the table ----------------------------------------------------------------------------------------------

_NONE, _NEEDS, _MAY = 0, 1, 2  # whether a value follows the name

_ATIMES = MS_NOATIME | MS_RELATIME | MS_STRICTATIME
_FLAGS = {
    b"ro": (MS_RDONLY, 0), b"rw": (0, MS_RDONLY),
    b"nosuid": (MS_NOSUID, 0), b"suid": (0, MS_NOSUID),
    b"nodev": (MS_NODEV, 0), b"dev": (0, MS_NODEV),
    b"noexec": (MS_NOEXEC, 0), b"exec": (0, MS_NOEXEC),
    b"sync": (MS_SYNCHRONOUS, 0), b"async": (0, MS_SYNCHRONOUS), b"dirsync": (MS_DIRSYNC, 0),
    b"nosymfollow": (MS_NOSYMFOLLOW, 0), b"symfollow": (0, MS_NOSYMFOLLOW),
    b"noatime": (MS_NOATIME, _ATIMES), b"atime": (0, MS_NOATIME),
    b"nodiratime": (MS_NODIRATIME, 0), b"diratime": (0, MS_NODIRATIME),
    b"relatime": (MS_RELATIME, _ATIMES), b"norelatime": (0, MS_RELATIME),
    b"strictatime": (MS_STRICTATIME, _ATIMES), b"nostrictatime": (0, MS_STRICTATIME),
    b"lazytime": (MS_LAZYTIME, 0), b"nolazytime": (0, MS_LAZYTIME),
    b"defaults": (0, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_SYNCHRONOUS),
}  # fmt: skip

# What other programs pass along: what is always so here (default_permissions), what has no counterpart here
# (threaded, writeback, static_nlink), and what /etc/fstab tells to others than the file system.
_WITHOUT_EFFECT = (
    b"default_permissions", b"static_nlink", b"threaded", b"writeback",
    b"auto", b"noauto", b"user", b"nouser", b"users", b"nousers", b"owner", b"noowner", b"group", b"nogroup",
    b"nofail", b"_netdev", b"comment", b"silent", b"loud", b"mand", b"nomand", b"iversion", b"noiversion",
)  # fmt: skip

# Known elsewhere, and not done here: the reason that the user is told.
REFUSED = {
    b"remount": "unmount and mount again",
    b"bind": "bind the mounted tree with mount --bind",
    b"auto_unmount": "SIGTERM and unionfs umount both unmount cleanly",
    b"ino32_t": "inode numbers have 64 bits",
    b"plugins": "there are no plugins",
}


def _options() -> dict[bytes, tuple[int, Effect]]:
    rows: dict[bytes, tuple[int, Effect]] = {
        # the stack
        b"lowerdir": (_NEEDS, _lowerdir),
        b"lowerdir+": (_NEEDS, _lowerdir_add),
        b"datadir+": (_NEEDS, _datadir_add),
        b"upperdir": (_NEEDS, _layers("upper", _path)),
        b"workdir": (_NEEDS, _layers("work", _path)),
        b"docker": (_NEEDS, _docker),
        b"docker_root": (_NEEDS, _mount("docker_root", _path)),
        # its rules
        b"redirect_dir": (_NEEDS, _layers("redirect_dir", _redirect_dir)),
        b"metacopy": (_NEEDS, _layers("metacopy", _switch)),
        b"index": (_NEEDS, _layers("index", _switch)),
        b"xino": (_NEEDS, _layers("xino", lambda v: v == b"auto" or _switch(v))),
        b"userxattr": (_NONE, _layers("userxattr", _yes)),
        b"whiteout": (_NEEDS, _layers("whiteout", lambda v: _choice(v, "auto", "device", "xattr", "aufs"))),
        b"fsync": (_NEEDS, _layers("sync", _switch)),
        b"volatile": (_NONE, _volatile),
        b"uuid": (_NEEDS, _only("auto", "on", "null", "off")),
        b"nfs_export": (_NEEDS, _only("off")),
        b"verity": (_NEEDS, _only("off")),
        # owners, xattrs
        b"uidmapping": (_NEEDS, _layers("uid_map", id_map)),
        b"gidmapping": (_NEEDS, _layers("gid_map", id_map)),
        b"squash_to_root": (_NONE, _squash_to_root),
        b"squash_to_uid": (_NEEDS, _layers("squash_uid", _number)),
        b"squash_to_gid": (_NEEDS, _layers("squash_gid", _number)),
        b"xattr_permissions": (_NEEDS, _xattr_permissions),
        b"noacl": (_NONE, _layers("acl", _no)),
        b"noxattrs": (_MAY, _noxattrs),
        # the mount
        b"allow_other": (_NONE, _mount("allow_other", _yes)),
        b"allow_root": (_NONE, _mount("allow_root", _yes)),
        b"timeout": (_NEEDS, _mount("timeout", _seconds)),
        b"max_write": (_NEEDS, _mount("max_write", _number)),
        b"passthrough": (_NEEDS, _mount("passthrough", _switch)),
        b"pacing": (_NEEDS, _mount("pacing", _switch)),
        b"fsname": (_NEEDS, _mount("source", unescape)),
        b"subtype": (_NEEDS, _only("unionfs")),
        b"private": (_NONE, _mount("private", _yes)),
        b"rprivate": (_NONE, _mount("private", _yes)),
        b"nonempty": (_NONE, _mount("nonempty", _yes)),
        # the daemon
        b"debug": (_NONE, _mount("debug", _yes)),
        b"foreground": (_NONE, _mount("foreground", _yes)),
        b"log": (_NEEDS, _mount("log", _path)),
        b"frontend": (_NEEDS, _mount("frontend", lambda v: _choice(v, *FRONTENDS))),
    }
    for name in (b"context", b"fscontext", b"defcontext", b"rootcontext"):
        rows[name] = (_NEEDS, _label(name))
    for name, (added, removed) in _FLAGS.items():
        rows[name] = (_NONE, _flags(added, removed))
    for name in _WITHOUT_EFFECT:
        rows[name] = (_MAY, _nothing)
    return rows


OPTIONS = _options()
