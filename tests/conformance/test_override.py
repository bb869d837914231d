"""Owners, modes and types in an xattr: `xattr_permissions=2` of fuse-overlayfs. The kernel has no such option."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Mount
from tests.lib.asuser import ALICE, BOB, as_user
from tests.lib.engines import Mounted, is_mounted, wait_until
from tests.lib.errors import fails
from tests.lib.layers import Dir, File, Layer, Symlink

pytestmark = pytest.mark.engines("unionfs", "fusepy")

KEY, OLD_KEY = "user.containers.override_stat", "user.fuseoverlayfs.override_stat"
CAPABILITY = "security.capability"
CAP_NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")
OPTIONS = ["xattr_permissions=2"]


def marked(text: str, content: str = "", key: str = KEY) -> File:
    return File(content, mode=0o600, xattrs={key: text.encode()})


LOWER: Layer = {
    "f": marked(f"{ALICE}:6:4755:file", "x"), "plain": File("y", uid=3, mode=0o640),
    "d": Dir(mode=0o700, xattrs={KEY: f"0:{BOB}:2775:dir".encode()}),
    "n": marked("0:0:0666:char-1-3"), "p": marked("5:5:0600:pipe"), "l": Symlink("f"),
}


def show(fs: Mounted, name: str) -> tuple[int, int, int]:
    st = os.lstat(fs.path(name))
    return stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid


def on_disk(fs: Mounted, name: str) -> bytes:
    return os.getxattr(f"{fs.upper}/{name}", KEY)


def test_what_the_xattr_says_is_shown(mount: Mount) -> None:
    fs = mount(LOWER, options=OPTIONS)
    assert show(fs, "f") == (0o4755, ALICE, 6)
    assert show(fs, "plain") == (0o640, 3, 0)
    assert show(fs, "d") == (0o2775, 0, BOB)
    assert stat.S_ISFIFO(fs.stat("p").st_mode)
    device = fs.stat("n")
    assert stat.S_ISCHR(device.st_mode)
    assert device.st_rdev == os.makedev(1, 3)
    assert fs.read("f") == b"x"


def test_listings_tell_the_type_that_is_shown(mount: Mount) -> None:
    fs = mount(LOWER, options=OPTIONS)
    with os.scandir(fs.path()) as entries:
        types = {entry.name: (entry.is_file(follow_symlinks=False), entry.is_dir(follow_symlinks=False))
                 for entry in entries}  # fmt: skip
    assert types == {"f": (True, False), "plain": (True, False), "d": (False, True), "n": (False, False),
                     "p": (False, False), "l": (False, False)}  # fmt: skip
    assert subprocess.run(["find", fs.path(), "-type", "c"], capture_output=True, text=True).stdout == fs.path("n\n")


def test_the_xattr_itself_is_not_seen_nor_set(mount: Mount) -> None:
    fs = mount({**LOWER, "old": marked("1:2:0700:file", key=OLD_KEY)}, options=OPTIONS)
    for name in ("f", "d", "old"):
        assert os.listxattr(fs.path(name)) == []
        for key in (KEY, OLD_KEY):
            with fails(errno.ENODATA):
                os.getxattr(fs.path(name), key)
            with fails(errno.EPERM):
                os.setxattr(fs.path(name), key, b"0:0:0777:file")
            with fails(errno.ENODATA):
                os.removexattr(fs.path(name), key)
    fs.assert_not_copied_up("f", "d", "old")


def test_the_older_name_counts_in_layers_that_have_it(mount: Mount) -> None:
    fs = mount({".": Dir(xattrs={OLD_KEY: b"0:0:0755:dir"}), "old": marked("1:2:0751:file", key=OLD_KEY)}, LOWER,
               options=OPTIONS)
    assert show(fs, "old") == (0o751, 1, 2)
    os.chmod(fs.path("old"), 0o4700)
    assert show(fs, "old") == (0o4700, 1, 2)
    assert on_disk(fs, "old") == b"1:2:4700:file"
    assert show(fs, "f") == (0o4755, ALICE, 6)


def test_changes_go_into_the_xattr_alone(mount: Mount) -> None:
    fs = mount(LOWER, options=OPTIONS)
    os.chmod(fs.path("f"), 0o640)
    assert show(fs, "f") == (0o640, ALICE, 6)
    assert on_disk(fs, "f") == b"%d:6:0640:file" % ALICE
    os.chown(fs.path("f"), 7, -1)
    os.chown(fs.path("d"), -1, 8)
    os.chown(fs.path("n"), 9, 9)
    assert on_disk(fs, "f") == b"7:6:0640:file"
    assert on_disk(fs, "d") == b"0:8:2775:dir"
    assert on_disk(fs, "n") == b"9:9:0666:char-1-3"
    real = os.stat(f"{fs.upper}/f")
    assert (stat.S_IMODE(real.st_mode), real.st_uid) == (0o600, 0)
    fs.remount()
    assert (show(fs, "f"), show(fs, "n")) == ((0o640, 7, 6), (0o666, 9, 9))


def test_what_has_no_xattr_gets_one(mount: Mount) -> None:
    fs = mount(LOWER, options=OPTIONS)
    os.chmod(fs.path("plain"), 0o4711)
    assert show(fs, "plain") == (0o4711, 3, 0)
    assert on_disk(fs, "plain") == b"3:0:4711:file"


def test_on_files_of_others_it_is_not_believed(mount: Mount) -> None:
    """Their owner could have written it, and be root by it."""
    theirs = File("x", uid=ALICE, mode=0o755, xattrs={KEY: b"0:0:4755:file"})
    node = File("", uid=ALICE, mode=0o666, xattrs={KEY: b"0:0:0666:char-1-1"})
    fs = mount({"f": theirs, "n": node}, options=OPTIONS)
    assert show(fs, "f") == (0o755, ALICE, 0)
    assert stat.S_ISREG(fs.stat("n").st_mode)
    with os.scandir(fs.path()) as entries:
        assert all(entry.is_file() for entry in entries)
    as_user(lambda: os.chmod(fs.path("f"), 0o750), uid=ALICE)
    assert show(fs, "f") == (0o750, ALICE, 0)
    assert on_disk(fs, "f") == b"%d:0:0750:file" % ALICE
    assert os.stat(f"{fs.upper}/f").st_uid == 0


def test_the_kernel_checks_what_is_shown(mount: Mount) -> None:
    fs = mount(LOWER, options=OPTIONS)
    assert as_user(lambda: fs.read("f"), uid=BOB) == b"x"
    with fails(errno.EACCES):
        as_user(lambda: fs.append("f", b"y"), uid=BOB)
    as_user(lambda: fs.append("f", b"y"), uid=ALICE)
    assert fs.read("f") == b"xy"
    with fails(errno.EPERM):
        as_user(lambda: os.chmod(fs.path("f"), 0o777), uid=BOB)
    as_user(lambda: os.chmod(fs.path("f"), 0), uid=ALICE)
    with fails(errno.EACCES):
        as_user(lambda: fs.read("f"), uid=ALICE)
    assert fs.read("f") == b"xy", "root, and the daemon, get in"


def test_writing_and_chown_take_privilege_away(mount: Mount) -> None:
    fs = mount(LOWER, options=OPTIONS)
    as_user(lambda: fs.append("f", b"y"), uid=ALICE)
    assert show(fs, "f")[0] == 0o755
    for before, after in ((0o6755, 0o755), (0o2745, 0o2745)):
        os.chmod(fs.path("plain"), before)
        os.chown(fs.path("plain"), 5, 5)
        assert show(fs, "plain")[0] == after


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_new_objects_belong_to_who_makes_them(mount: Mount, umask: int) -> None:
    fs = mount({"t": Dir(mode=0o700, xattrs={KEY: b"0:0:1777:dir"})}, options=OPTIONS)

    def make() -> None:
        os.umask(umask)
        os.close(os.open(fs.path("t/f"), os.O_CREAT | os.O_WRONLY, 0o666))
        os.close(os.open(fs.path("t/closed"), os.O_CREAT | os.O_WRONLY, 0))
        os.mkdir(fs.path("t/d"), 0o777)
        os.mkfifo(fs.path("t/p"), 0o666)
        os.symlink("f", fs.path("t/l"))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(fs.path("t/s"))
        os.mkdir(fs.path("t/d/inner"))

    as_user(make, uid=ALICE, gid=BOB)
    left = 0o777 & ~umask
    assert show(fs, "t/f") == (0o666 & ~umask, ALICE, BOB)
    assert show(fs, "t/closed") == (0, ALICE, BOB)
    assert show(fs, "t/d") == show(fs, "t/d/inner") == (left, ALICE, BOB)
    assert stat.S_ISFIFO(fs.stat("t/p").st_mode)
    assert stat.S_ISSOCK(fs.stat("t/s").st_mode)
    assert show(fs, "t/p") == (0o666 & ~umask, ALICE, BOB)
    assert stat.S_ISREG(os.lstat(f"{fs.upper}/t/p").st_mode)
    assert on_disk(fs, "t/d") == b"%d:%d:%04o:dir" % (ALICE, BOB, left)
    assert {os.lstat(f"{fs.upper}/t/{name}").st_uid for name in ("f", "d", "p", "s")} == {0}


def test_setgid_directories_pass_their_group_on(mount: Mount) -> None:
    fs = mount(LOWER, options=OPTIONS)
    fs.write("d/f", b"")
    os.mkdir(fs.path("d/inner"), 0o750)
    assert show(fs, "d/f") == (0o644, 0, BOB)
    assert show(fs, "d/inner") == (0o2750, 0, BOB)


def test_devices_and_what_would_be_a_whiteout(mount: Mount) -> None:
    fs = mount({}, options=OPTIONS)
    os.mknod(fs.path("z"), 0o600 | stat.S_IFBLK, os.makedev(259, 70000))
    assert on_disk(fs, "z") == b"0:0:0600:block-259-70000"
    assert fs.stat("z").st_rdev == os.makedev(259, 70000)
    with fails(errno.EPERM):
        os.mknod(fs.path("w"), 0o600 | stat.S_IFCHR, 0)


def test_capabilities_are_kept_beside_it(mount: Mount) -> None:
    fs = mount(LOWER, options=OPTIONS)
    os.setxattr(fs.path("f"), CAPABILITY, CAP_NET_RAW)
    assert os.listxattr(fs.path("f")) == [CAPABILITY]
    assert os.getxattr(f"{fs.upper}/f", "user.containers.override_" + CAPABILITY) == CAP_NET_RAW
    fs.append("f", b"y")
    assert os.listxattr(fs.path("f")) == [], "a write takes them away"
    os.setxattr(fs.path("f"), CAPABILITY, CAP_NET_RAW)
    os.chown(fs.path("f"), 1, 1)
    assert os.listxattr(fs.path("f")) == [], "and so does another owner"


def test_names_move_with_what_they_show(mount: Mount) -> None:
    fs = mount(LOWER, options=OPTIONS)
    os.link(fs.path("f"), fs.path("f2"))
    os.rename(fs.path("n"), fs.path("d/n2"))
    assert show(fs, "f2") == show(fs, "f") == (0o4755, ALICE, 6)
    assert fs.stat("d/n2").st_rdev == os.makedev(1, 3)
    assert fs.stat("f").st_nlink == 2
    held = os.open(fs.path("f"), os.O_RDONLY)
    try:
        os.unlink(fs.path("f"))
        os.unlink(fs.path("f2"))
        assert os.fstat(held).st_uid == ALICE
        os.fchmod(held, 0o600)
        assert stat.S_IMODE(os.fstat(held).st_mode) == 0o600
    finally:
        os.close(held)


def test_ids_of_the_xattr_are_mapped(mount: Mount) -> None:
    fs = mount(LOWER, options=[*OPTIONS, "uidmapping=0:100000:65536", "gidmapping=0:100000:65536"])
    assert show(fs, "f") == (0o4755, 100000 + ALICE, 100006)
    os.chown(fs.path("f"), 100001, 100002)
    assert on_disk(fs, "f") == b"1:2:0755:file"
    assert show(fs, "f") == (0o755, 100001, 100002)
    os.chmod(fs.path("d"), 0o777)
    as_user(lambda: os.mkdir(fs.path("d/made")), uid=100009, gid=100008)
    assert on_disk(fs, "d/made") == b"9:8:0755:dir"


def test_an_upper_without_user_xattrs_is_refused(base: Path) -> None:
    """ramfs has none."""
    for name in ("lower", "ram", "mnt"):
        (base / name).mkdir()
    subprocess.run(["mount", "-t", "ramfs", "ramfs", base / "ram"], check=True)
    try:
        for name in ("upper", "work"):
            (base / "ram" / name).mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "unionfs", "mount", "-o", f"xattr_permissions=2,noxattrs,lowerdir={base}/lower,"
             f"upperdir={base}/ram/upper,workdir={base}/ram/work", base / "mnt"], capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, is_mounted(str(base / "mnt"))) == (1, False)
        assert "xattr_permissions=2 keeps owners in user.* extended attributes" in done.stderr
    finally:
        subprocess.run(["umount", base / "ram"], check=True)


@pytest.mark.skipif(shutil.which("fuse-overlayfs") is None, reason="needs fuse-overlayfs")
def test_fuse_overlayfs_shows_the_same(mount: Mount, base: Path) -> None:
    """What is written here, it reads."""
    fs = mount({".": Dir(xattrs={KEY: b"0:0:0755:dir"}), **LOWER}, upper={".": Dir(xattrs={KEY: b"0:0:0755:dir"})},
               options=OPTIONS)
    os.chown(fs.path("f"), 11, 12)
    os.chmod(fs.path("d"), 0o1751)
    fs.write("d/new", b"", mode=0o604)
    names = ("f", "d", "d/new")
    wanted = [show(fs, name) for name in names]
    fs.unmount()
    theirs = base / "theirs"
    theirs.mkdir()
    subprocess.run(["fuse-overlayfs", "-o", f"lowerdir={fs.upper}:{fs.lowers[0]}", theirs], check=True)
    try:
        wait_until(lambda: is_mounted(str(theirs)), "the mount of fuse-overlayfs")
        assert [show_at(f"{theirs}/{name}") for name in names] == wanted
    finally:
        subprocess.run(["umount", theirs], check=True)


def show_at(path: str) -> tuple[int, int, int]:
    st = os.lstat(path)
    return stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid
