"""The same random operations on two mounts over equal layers: same results, same errno, same tree.

At the end the stacks change hands: each upper is mounted by the other engine and has to show the same tree.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.differential.side import ACLS, KERNEL_FAILS, LIBFUSE_FAILS, Side
from tests.differential.stacks import NAMES, stacks
from tests.lib import acl, tree
from tests.lib.engines import OURS, UNIONS, Mounted
from tests.lib.layers import XATTR, Layer, Whiteout

PICK = st.integers(0, 10_000)
CONTENT = st.sampled_from([b"x", b"hello", b"0123456789" * 7, b"y" * 5000])
MODE = st.sampled_from([0o644, 0o600, 0o755, 0o4755, 0o2755, 0o000, 0o666, 0o777, 0o1777])


# The kernel permits no redirects and no metacopy there; nor does it keep an index, for which it would have to open
# file handles, so that names of a lower file part at the first change, while ours stay together.
IN_A_NAMESPACE = ["userxattr", "redirect_dir=nofollow", "metacopy=off"]


class Machine(RuleBasedStateMachine):
    """Compares the engines in `pair`; front end B has no renameat2 flags and no O_TMPFILE (`flags`).

    namespaced: in a user namespace, with what the kernel permits there. What is drawn never depends on what the mounts
    say: a difference that comes only sometimes would end as an error of Hypothesis instead of being told.
    """

    pair: ClassVar[tuple[str, str]]
    flags: ClassVar[bool] = True
    namespaced: ClassVar[bool] = False
    compared: ClassVar[int] = 0  # operations done on both sides

    def __init__(self) -> None:
        super().__init__()
        self.base = tempfile.mkdtemp(prefix="unionfs-diff-", dir=os.environ.get("UNIONFS_TEST_DIR", "/var/tmp"))
        os.chmod(self.base, 0o755)
        self.sides: list[Side] = []
        self.log: list[str] = []
        self.failed = False
        self.marked = False  # some lower has whiteouts in xattr form
        self.uncounted: set[int] = set()  # inode numbers on the first side whose link count it has forgotten

    def build(self, stack: tuple[list[Layer], Layer | None]) -> None:
        lowers, upper = stack
        entries = [entry for layer in lowers for entry in layer.values()]
        self.marked = any(isinstance(entry, Whiteout) and entry.form == XATTR for entry in entries)
        for i, engine in enumerate(self.pair):
            place = f"{self.base}/{i}"
            options = IN_A_NAMESPACE if self.namespaced else []
            fs = Mounted(engine, place, lowers, upper=upper, stray_whiteouts=bool(upper), options=options)
            self.sides.append(Side(fs))
        self.paths = self.known()
        self.same_tree()

    def teardown(self) -> None:
        try:
            if len(self.sides) == 2 and not self.failed:
                self.end()
        finally:
            for side in self.sides:
                side.close_all()
                side.fs.close()
            shutil.rmtree(self.base)

    # -- the comparison -----------------------------------------------------------------------------------------

    def both(self, name: str, *args: object) -> object:
        """The operation on both; the reference's answer."""
        self.log.append(f"{name}{args!r}")
        type(self).compared += 1
        one, two = (side.do(name, *args) for side in self.sides)
        known = isinstance(two, str) and (name, two) in KERNEL_FAILS
        known |= not self.flags and isinstance(one, str) and (name, one) in LIBFUSE_FAILS
        if one != two and not known:
            self.fail(f"{name}{args!r}: {self.pair[0]} says {one!r}, {self.pair[1]} says {two!r}")
        if known:
            self.both("held_close", args[0])
        return two

    def change(self, name: str, *args: object) -> object:
        answer = self.both(name, *args)
        self.paths = self.known()
        return answer

    def fail(self, what: str) -> None:
        self.failed = True
        text = "\n".join([what, "after:", *self.log])
        raise AssertionError(text.encode(errors="backslashreplace").decode())  # whoever reports it wants UTF-8

    def same_count(self, path: str) -> None:
        """The link count, where both can know it."""
        try:
            known = os.lstat(self.sides[0].fs.path(path)).st_ino not in self.uncounted
        except OSError:
            known = True
        if known:
            self.both("nlink", path)

    def without_counts(self, seen: tree.Snapshot) -> tree.Snapshot:
        """A tree without the link counts that the first side has forgotten."""
        if self.namespaced:  # without an index the kernel shows two numbers for two names of one inode
            for facts in seen.values():
                facts.pop("linked with", None)
        for path, facts in seen.items() if self.uncounted else ():
            try:
                ino = os.lstat(self.sides[0].fs.path(path)).st_ino
            except OSError:
                continue  # what one side lacks is a difference by itself
            if ino in self.uncounted:
                facts.pop("nlink", None)
                facts["linked with"] = facts.get("linked with") or []
        return seen

    def same_tree(self) -> None:
        one, two = (self.without_counts(side.tree()) for side in self.sides)
        if lines := tree.diff(one, two, names=" ".join(self.names())):
            self.fail("\n".join(["the trees differ:", *lines]))

    def names(self) -> list[str]:
        return [f"{engine}-{i + 1}" for i, engine in enumerate(self.pair)]

    def end(self) -> None:
        self.same_tree()
        for side in self.sides:
            side.close_all()
            shown = side.fs.tree()
            if side.fs.engine in OURS:
                self.uncounted |= side.forgetful()
            if side.fs.engine in OURS or self.namespaced:
                shown = self.without_counts(shown)
            if faults := tree.listing_faults(side.fs.mnt) if side.fs.engine != "overlay" else []:
                self.fail("\n".join(faults))
            side.fs.unmount()
            # The kernel cannot remove its shared whiteout when it is unmounted in a user namespace.
            if faults := [] if self.namespaced and side.fs.engine == "overlay" else side.fs.faults():
                self.fail("\n".join([f"{side.fs.engine} left:", *faults]))
            self.exchanged(side, shown)

    def exchanged(self, side: Side, shown: tree.Snapshot) -> None:
        """The stack of one engine, mounted by the other."""
        other = self.pair[0] if side.fs.engine == self.pair[1] else self.pair[1]
        side.fs.mount(engine=other)
        exchanged = side.fs.tree()
        if side.fs.engine in OURS or self.namespaced:
            exchanged = self.without_counts(exchanged)
        lines = tree.diff(shown, exchanged, names=f"{side.fs.engine} {other}-on-its-upper")
        side.fs.unmount()
        if lines:
            self.fail("\n".join(["after the exchange of uppers:", *lines]))

    # -- choosing -------------------------------------------------------------------------------------------------

    def known(self) -> list[str]:
        """All paths on the reference's side."""
        top = self.sides[-1].fs.mnt
        found = [""]
        for parent, directories, files in os.walk(top):
            found += [os.path.relpath(f"{parent}/{name}", top) for name in directories + files]
        return sorted(found)

    def old(self, pick: int) -> str:
        return self.paths[pick % len(self.paths)]

    def new(self, pick: int) -> str:
        """Mostly a name in a directory that exists; sometimes below a file or nothing."""
        parent = self.old(pick // 7)
        name = NAMES[pick % len(NAMES)]
        return f"{parent}/{name}" if parent and parent.count("/") < 4 else name

    def drop_set_id(self, ino: int) -> None:
        """Before root writes to a file that is held: passthrough takes its set-id bits, overlayfs not."""
        for which, fd in enumerate(self.sides[-1].held):
            st = os.fstat(fd)
            if st.st_ino == ino and st.st_mode & 0o6000 and stat.S_ISREG(st.st_mode):
                self.both("held_chmod", which, st.st_mode & 0o1777)
                return

    def thought_full(self, path: str) -> bool:
        """A directory that shows nothing, and that the kernel may take for full: it counts whiteouts in xattr form."""
        return self.marked and self.sides[-1].do("listdir", path) == [(b".", 4), (b"..", 4)]

    def remove_directory(self, path: str) -> None:
        if not self.thought_full(path):
            self.change("rmdir", path)

    # -- rules ------------------------------------------------------------------------------------------------------

    @rule(at=PICK, flags=st.sampled_from([0, os.O_EXCL, os.O_TRUNC, os.O_APPEND]), mode=MODE, content=CONTENT)
    def create(self, at: int, flags: int, mode: int, content: bytes) -> None:
        path = self.new(at)
        if self.both("stat", path) == "ENOENT" or flags & os.O_EXCL:
            self.change("create", path, flags, mode, content)

    @rule(at=PICK, mode=MODE)
    def mkdir(self, at: int, mode: int) -> None:
        self.change("mkdir", self.new(at), mode)

    @rule(at=PICK, to=st.sampled_from(["a", "../b", "d/d", "/nowhere"]))
    def symlink(self, at: int, to: str) -> None:
        self.change("symlink", to, self.new(at))

    @rule(at=PICK, kind=st.sampled_from([stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK, stat.S_IFREG]))
    def mknod(self, at: int, kind: int) -> None:
        self.change("mknod", self.new(at), kind)

    @rule(old=PICK, new=PICK)
    def link(self, old: int, new: int) -> None:
        self.change("link", self.old(old), self.new(new))

    @rule(at=PICK)
    def unlink(self, at: int) -> None:
        self.change("unlink", self.old(at))

    @rule(at=PICK)
    def rmdir(self, at: int) -> None:
        self.remove_directory(self.old(at))

    @rule(at=PICK)
    def empty_and_rmdir(self, at: int) -> None:
        if self.old(at):
            self.both("list_and_remove", self.old(at))
            self.remove_directory(self.old(at))

    @rule(old=PICK, new=PICK, over=st.booleans(), flags=st.sampled_from([0, 0, 0, 1, 2, 2, 3]))
    def rename(self, old: int, new: int, over: bool, flags: int) -> None:
        target = self.old(new) if over or flags & 2 else self.new(new)
        path = self.old(old)
        if self.thought_full(target):
            return
        # ext4 has already changed the directory when it finds that the target is not empty; ours does not ask it.
        if self.change("rename", path, target, flags if self.flags else 0) == "ENOTEMPTY":
            self.both("utime", os.path.dirname(path), 10**18)

    @rule(at=PICK, mode=MODE)
    def chmod(self, at: int, mode: int) -> None:
        self.both("chmod", self.old(at), mode)

    @rule(at=PICK, uid=st.sampled_from([-1, 0, 4001]), gid=st.sampled_from([-1, 0, 4100]))
    def chown(self, at: int, uid: int, gid: int) -> None:
        self.both("chown", self.old(at), uid, gid)

    @rule(at=PICK, when=st.integers(0, 10**18))
    def utime(self, at: int, when: int) -> None:
        self.both("utime", self.old(at), when)

    @rule(
        at=PICK,
        name=st.sampled_from(["user.a", "trusted.b", "trusted.overlay.opaque", "trusted.overlay.redirect"]),
        value=st.sampled_from([b"", b"y", b"/a", b"v" * 300]),
        flags=st.sampled_from([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE]),
    )
    def setxattr(self, at: int, name: str, value: bytes, flags: int) -> None:
        self.both("setxattr", self.old(at), name, value, flags)

    @rule(at=PICK, name=st.sampled_from(["user.a", "user.low", "trusted.overlay.opaque", acl.ACCESS]))
    def removexattr(self, at: int, name: str) -> None:
        # Removing an ACL that is not there is a success on ext4, and on overlayfs before the copy-up an error.
        if name == acl.ACCESS and name not in str(self.both("xattrs", self.old(at))):
            return
        self.both("removexattr", self.old(at), name)

    @rule(at=PICK, kind=st.sampled_from([acl.ACCESS, acl.DEFAULT]), text=st.sampled_from(ACLS))
    def set_acl(self, at: int, kind: str, text: str) -> None:
        self.both("set_acl", self.old(at), kind, text)

    @rule(at=PICK)
    def look(self, at: int) -> None:
        for what in ("stat", "read", "xattrs", "listdir"):
            self.both(what, self.old(at))
        self.same_count(self.old(at))

    @rule(at=PICK, offset=st.integers(0, 9000), content=CONTENT)
    def write_at(self, at: int, offset: int, content: bytes) -> None:
        with contextlib.suppress(OSError):
            self.drop_set_id(os.lstat(self.sides[-1].fs.path(self.old(at))).st_ino)
        self.both("write_at", self.old(at), offset, content)

    @rule(at=PICK, offset=st.integers(0, 9000))
    def mmap_write(self, at: int, offset: int) -> None:
        if self.namespaced:  # what is mapped comes as a write, by a daemon that may not keep set-id bits in a namespace
            with contextlib.suppress(OSError):
                mode = os.lstat(self.sides[-1].fs.path(self.old(at))).st_mode
                if mode & 0o6000 and stat.S_ISREG(mode):
                    self.both("chmod", self.old(at), mode & 0o1777)
        self.both("mmap_write", self.old(at), offset)

    @rule(at=PICK, size=st.integers(0, 9000))
    def truncate(self, at: int, size: int) -> None:
        self.both("truncate", self.old(at), size)

    @rule(at=PICK, mode=st.sampled_from([0, 1, 3, 16]), offset=st.integers(0, 5000), length=st.integers(1, 5000))
    def fallocate(self, at: int, mode: int, offset: int, length: int) -> None:
        self.both("fallocate", self.old(at), mode, offset, length)

    @rule(source=PICK, sink=PICK)
    def copy_range(self, source: int, sink: int) -> None:
        self.both("copy_range", self.old(source), self.old(sink))

    @rule(at=PICK, groups=st.sampled_from([(), (4100,)]))
    def user_writes(self, at: int, groups: tuple[int, ...]) -> None:
        self.both("user_writes", self.old(at), groups)

    @rule(at=PICK)
    def list_and_remove(self, at: int) -> None:
        if self.old(at):
            self.change("list_and_remove", self.old(at))

    @rule(at=PICK, flags=st.sampled_from([os.O_RDONLY, os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND]))
    def hold(self, at: int, flags: int) -> None:
        self.hold_path(self.old(at), flags)

    def hold_path(self, path: str, flags: int) -> None:
        full = self.sides[-1].fs.path(path)
        special = os.path.lexists(full) and stat.S_IFMT(os.lstat(full).st_mode) in (stat.S_IFIFO, stat.S_IFCHR)
        if self.flags or not special:  # libfuse is not told of an open FIFO or device
            self.both("hold", path, flags)

    @precondition(lambda self: self.flags)
    @rule(at=PICK)
    def hold_tmpfile(self, at: int) -> None:
        self.both("hold_tmpfile", self.old(at))

    @rule(
        which=PICK,
        what=st.sampled_from(["stat", "read", "write", "truncate", "chmod", "reopen_write", "link", "close"]),
        at=PICK,
        content=CONTENT,
        mode=MODE,
    )
    def held(self, which: int, what: str, at: int, content: bytes, mode: int) -> None:
        if not self.sides[-1].held:
            self.hold_path(self.old(at), os.O_RDWR)
            return
        arguments: dict[str, tuple[object, ...]] = {
            "write": (at % 6000, content),
            "truncate": (at % 6000,),
            "chmod": (mode,),
            "reopen_write": (content,),
            "link": (self.new(at),),
        }
        if what in ("write", "reopen_write"):
            self.drop_set_id(os.fstat(self.sides[-1].held[which % len(self.sides[-1].held)]).st_ino)
        self.change(f"held_{what}", which % len(self.sides[0].held), *arguments.get(what, ()))

    @rule()
    def remount(self) -> None:
        self.log.append("remount")
        if self.sides[0].fs.engine in OURS:
            self.uncounted |= self.sides[0].forgetful()
        for side in self.sides:
            side.remount()
        self.same_tree()

    @rule()
    def compare(self) -> None:
        self.same_tree()


def machine(one: str, two: str, namespaced: bool = False) -> type[Machine]:
    """namespaced: to be run as root of a user namespace; the layers then hold no devices and no hard links."""
    assert {one, two} <= set(UNIONS)

    @initialize(stack=stacks(simple=namespaced))
    def begin(self: Machine, stack: tuple[list[Layer], Layer | None]) -> None:
        self.build(stack)

    flags = "fusepy" not in (one, two)
    body = {"pair": (one, two), "flags": flags, "namespaced": namespaced, "begin": begin}
    return type(f"{one.title()}And{two.title()}", (Machine,), body)
