"""Front end B: it only translates, from the paths of fusepy and libfuse to the nodes of the union.

For systems where front end A cannot speak to the kernel itself. It needs a binding and its library, best first:
mfusepy with libfuse 3; fusepy (or mfusepy) with libfuse 2. What each cannot do fails as on a file system without it:

both        no passthrough: data goes through the daemon. O_TMPFILE is EOPNOTSUPP. No birth time in statx(2).
            A removed directory that is somebody's working directory cannot be asked about any more (ESTALE, libfuse
            2: ENOENT), since libfuse knows it by its path alone; nor can a file be opened that was replaced while its
            name was being opened (libfuse 3: the kernel tries once again, and then says ESTALE; 2: ENOENT). To the
            kernel two names of a file are two files:
            a shared mapping of one does not see writes through the other, and O_APPEND on one that was opened before
            writes through the other may write where the end was. Replacing an open file by rename unlinks it
            just before: libfuse calls it so, and where the rename then fails the file stays unlinked. Names like
            `.fuse_hidden` and 16 hexadecimal digits are libfuse's.
            setfacl by somebody outside of the file's group does not clear the set-group-id bit.
libfuse 2   speaks the protocol of 2011. renameat2(2) with flags is EINVAL. fallocate(2) is EOPNOTSUPP with fusepy.
            ACLs can be set, inherited and read, and are not enforced: the mode bits alone decide. lseek(2) takes the
            whole file for data. copy_file_range(2) copies through the page cache. 128 KiB a request. No attributes
            with readdir. The kernel may not keep attributes, since it cannot be told when those of another name of
            the file changed: each stat(2) asks the daemon (not on a read-only mount, nor with `timeout=`); a file
            with several names that is open shows what is written through another name at the next open.

How long the kernel may believe what it was told: for good, because nobody else changes the layers, and with libfuse 3
it is told when a file changed under another of its names (fuse_invalidate_path).
"""

from __future__ import annotations

import os

from unionfs.fusepy_front import bridge
from unionfs.fusepy_front.operations import Operations
from unionfs.fusepy_front.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from unionfs.union import Union

load = bridge.load

_FOREVER = 1e9  # s; thirty years
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOSYMFOLLOW = 1, 2, 4, 256
# MS_* of mount(2) as the words that libfuse takes. It knows no others; those about access times change nothing.
_WORDS = {_MS_RDONLY: "ro", 8: "noexec", 16: "sync", 128: "dirsync", 1024: "noatime"}


class FrontError(Exception):
    """One line for the user: nothing is mounted."""


def serve(
    union: Union,
    mountpoint: bytes,
    *,
    source: bytes = b"unionfs",
    flags: int = 0,
    allow_other: bool = False,
    allow_root: bool = False,
    labels: Iterable[bytes] = (),
    timeout: float | None = None,
    debug: bool = False,
    log: Callable[[str], None] = lambda _line: None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Mounts `union` at `mountpoint` (absolute, free of symlinks) and serves it until it is unmounted.

    The parameters are those of `server.mount` and its options. `ready` is called once, when the mount answers; what it
    raises is raised here, after unmounting. Unless they are blocked, SIGTERM, SIGINT and SIGHUP unmount.
    Raises FrontError where libfuse cannot mount, ImportError where there is no binding.
    """
    if flags & _MS_NOSYMFOLLOW:
        raise FrontError("libfuse does not know the mount option nosymfollow")
    binding = load()
    context = bridge.Context(binding)
    config = union.config
    service = bridge.Service(binding, context, log, ready, acl=config.acl and config.xattr)
    keeps_pages = service.major == 3 or union.readonly
    paths = Paths(union, keep_links=keeps_pages and not union.readonly)
    operations = type("Operations", (Operations, binding.Operations), {})(union, paths, context.who, keeps_pages)
    words = _options(union.readonly, service.major, source, flags, labels, timeout)
    words.update(debug=debug, allow_root=allow_root, allow_other=allow_other and not allow_root)
    _run(bridge.bridge(binding, service), operations, mountpoint, words, service)


def _options(
    readonly: bool, major: int, source: bytes, flags: int, labels: Iterable[bytes], timeout: float | None
) -> dict[str, object]:
    """libfuse's options. Names and negative answers live as long as attributes do, but for libfuse 2 (see above)."""
    words: dict[str, object] = {"fsname": _escaped(source), "subtype": "unionfs", "default_permissions": True}
    if readonly:
        flags |= _MS_RDONLY
    words.update((word, True) for flag, word in _WORDS.items() if flags & flag)
    if os.geteuid() == 0:  # libfuse leaves these off unless asked; for others than root they are not to be had
        words.update(suid=not flags & _MS_NOSUID, dev=not flags & _MS_NODEV)
    for label in labels:
        key, _, value = label.partition(b"=")
        words[key.decode("latin-1")] = _escaped(value)
    lifetime = _FOREVER if timeout is None else timeout
    words.update(entry_timeout=lifetime, negative_timeout=lifetime, attr_timeout=lifetime)
    if major == 2:
        words.update(use_ino=True, big_writes=True, nonempty=True)
        if timeout is None and not readonly:
            words["attr_timeout"] = 0
    return words


def _escaped(value: bytes) -> str:
    return value.decode(bridge.ENCODING).replace("\\", "\\\\").replace(",", "\\,")


def _run(
    front: type, operations: Operations, mountpoint: bytes, words: dict[str, object], service: bridge.Service
) -> None:
    """libfuse's main loop. What it says while it mounts, on stderr, is caught: it is the reason where it fails."""
    said = os.memfd_create("libfuse")
    stderr = os.dup(2)
    inner = service.ready

    def ready() -> None:
        os.dup2(stderr, 2)
        inner()

    service.ready = ready
    os.dup2(said, 2)
    failed = False
    try:
        front(operations, mountpoint.decode(bridge.ENCODING), raw_fi=True, encoding=bridge.ENCODING, foreground=True,
              **words)  # fmt: skip
    except RuntimeError:  # the binding's word for an exit code of libfuse
        failed = True
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        text = os.pread(said, 4096, 0).decode("utf-8", "backslashreplace")
        os.close(said)
    if service.error is not None:
        raise service.error
    if failed:
        raise FrontError(" ".join(text.split()) or "libfuse failed and said nothing")
