"""What a stack is made of, and the one error that a bad description of it gives."""

from __future__ import annotations


class ConfigError(Exception):
    """The stack cannot be built as described.

    The message is one line for a person: it names the thing (path or option) and what to do.
    Raised only while a `Union` is being built; nothing is left open, locked or changed.
    """


class Config:
    """A stack of layers and how to treat it. Paths are bytes, absolute or relative to the current directory.

    lower        read-only layers, top first
    data         data-only layers below them (`lower1::data1::data2`), found only through metacopy redirects
    upper, work  the writable layer and its scratch directory on the same file system; None: read-only mount
    readonly     refuse changes although there is an upper
    userxattr    keep overlay's marks in `user.overlay.` instead of `trusted.overlay.`; None: decided by capability
    redirect_dir on | follow | nofollow | off, as in the kernel
    metacopy     copy up metadata alone where the data does not change
    index        keep hard links of lower files together across copy-up (kernel's `index=on` format)
    xino         tell layers on different file systems apart in the upper bits of st_ino
    sync         write copied-up data to disk before its name appears (False: `fsync=0`)
    volatile     never sync anything
    whiteout     device | xattr | aufs: the form of new whiteouts; auto: the first that the upper can hold
    acl, xattr   False: POSIX ACLs / all extended attributes are not supported on the mount
    uid_map, gid_map   (first id on disk, first id shown, count) triples, as in fuse-overlayfs; empty: as on disk
    squash_uid, squash_gid   every object shows this owner
    xattr_permissions  0, or 2: owner, mode and type live in `user.containers.override_stat`
    mountpoint   where it will be mounted, for the checks that a layer and the mount point do not contain each other
    """

    __slots__ = ("lower", "data", "upper", "work", "readonly", "userxattr", "redirect_dir", "metacopy", "index",
                 "xino", "sync", "volatile", "whiteout", "acl", "xattr", "uid_map", "gid_map", "squash_uid",
                 "squash_gid", "xattr_permissions", "mountpoint")

    def __init__(self, *, lower: list[bytes], data: list[bytes] | None = None, upper: bytes | None = None,
                 work: bytes | None = None, readonly: bool = False, userxattr: bool | None = None,
                 redirect_dir: str = "on", metacopy: bool = False, index: bool = True, xino: bool = True,
                 sync: bool = True, volatile: bool = False, whiteout: str = "auto", acl: bool = True,
                 xattr: bool = True, uid_map: list[tuple[int, int, int]] | None = None,
                 gid_map: list[tuple[int, int, int]] | None = None, squash_uid: int | None = None,
                 squash_gid: int | None = None, xattr_permissions: int = 0, mountpoint: bytes | None = None) -> None:
        self.lower = lower
        self.data = data or []
        self.upper = upper
        self.work = work
        self.readonly = readonly
        self.userxattr = userxattr
        self.redirect_dir = redirect_dir
        self.metacopy = metacopy
        self.index = index
        self.xino = xino
        self.sync = sync
        self.volatile = volatile
        self.whiteout = whiteout
        self.acl = acl
        self.xattr = xattr
        self.uid_map = uid_map or []
        self.gid_map = gid_map or []
        self.squash_uid = squash_uid
        self.squash_gid = squash_gid
        self.xattr_permissions = xattr_permissions
        self.mountpoint = mountpoint
