"""Who may do what, as ordinary users with groups; and what a change of content takes away."""

from __future__ import annotations

import errno
import os
import stat
import struct

import pytest

from tests.conftest import Mount
from tests.lib.asuser import ALICE, BOB, STAFF, as_user, in_child
from tests.lib.errors import fails
from tests.lib.layers import Dir, File, Symlink

CAPS = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def mode(st: os.stat_result) -> int:
    return stat.S_IMODE(st.st_mode)


def test_reading_others_files(mount: Mount) -> None:
    fs = mount({"open": File("x", mode=0o644), "closed": File("y", mode=0o600, uid=BOB)})
    assert as_user(lambda: fs.read("open")) == b"x"
    with fails(errno.EACCES):
        as_user(lambda: fs.read("closed"))
    assert as_user(lambda: fs.read("closed"), uid=BOB) == b"y"


def test_writing_others_files_copies_nothing(mount: Mount) -> None:
    fs = mount({"f": File("x", mode=0o644)})
    with fails(errno.EACCES):
        as_user(lambda: fs.append("f", b"y"))
    with fails(errno.EPERM):
        as_user(lambda: os.chmod(fs.path("f"), 0o666))
    with fails(errno.EPERM):
        as_user(lambda: os.chown(fs.path("f"), ALICE, -1))
    with fails(errno.EPERM):
        as_user(lambda: os.utime(fs.path("f"), ns=(1, 2)))
    with fails(errno.EACCES):
        as_user(lambda: os.utime(fs.path("f")))
    with fails(errno.EACCES):
        as_user(lambda: os.truncate(fs.path("f"), 0))
    fs.assert_not_copied_up("f")


def test_a_user_changes_his_lower_files(mount: Mount) -> None:
    """The copy-up needs rights in upper and work that the user does not have."""
    fs = mount({"home": Dir(mode=0o700, uid=ALICE, gid=ALICE), "home/f": File("x", mode=0o600, uid=ALICE, gid=ALICE)})

    def work() -> None:
        fs.append("home/f", b"y")
        os.chmod(fs.path("home/f"), 0o640)
        fs.write("home/new", b"z")
        os.mkdir(fs.path("home/dir"))
        os.rename(fs.path("home/f"), fs.path("home/dir/g"))

    as_user(work)
    assert fs.read("home/dir/g") == b"xy"
    for name in ("home/new", "home/dir", "home/dir/g"):
        assert (fs.stat(name).st_uid, fs.stat(name).st_gid) == (ALICE, ALICE)
    assert mode(fs.stat("home/dir/g")) == 0o640


def test_others_read_only_files_in_a_readable_place(mount: Mount) -> None:
    """cp of a 0444 file: created for writing and never opened again by path."""
    fs = mount({"d": Dir(mode=0o777), "d/src": File("content", mode=0o444)})

    def copy() -> None:
        fd = os.open(fs.path("d/copy"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        os.write(fd, fs.read("d/src"))
        os.fchmod(fd, 0o444)
        os.write(fd, b" more")
        os.close(fd)

    as_user(copy)
    assert fs.read("d/copy") == b"content more"
    assert mode(fs.stat("d/copy")) == 0o444


def test_directory_0555(mount: Mount) -> None:
    fs = mount({"d": Dir(mode=0o777)})

    def work() -> None:
        os.mkdir(fs.path("d/ro"), 0o555)
        with fails(errno.EACCES):
            fs.write("d/ro/f", b"")
        os.chmod(fs.path("d/ro"), 0o755)
        fs.write("d/ro/f", b"1")
        os.chmod(fs.path("d/ro"), 0o555)
        with fails(errno.EACCES):
            os.unlink(fs.path("d/ro/f"))

    as_user(work)
    assert fs.read("d/ro/f") == b"1"


def test_directory_without_search(mount: Mount) -> None:
    fs = mount({"d": Dir(mode=0o700), "d/f": File("x", mode=0o666), "r": Dir(mode=0o744), "r/f": ""})
    with fails(errno.EACCES):
        as_user(lambda: fs.read("d/f"))
    with fails(errno.EACCES):
        as_user(lambda: fs.ls("d"))
    assert as_user(lambda: fs.ls("r")) == ["f"]
    with fails(errno.EACCES):
        as_user(lambda: fs.stat("r/f"))


def test_supplementary_groups(mount: Mount) -> None:
    fs = mount({"f": File("x", mode=0o660, gid=STAFF), "d": Dir(mode=0o770, gid=STAFF)})
    with fails(errno.EACCES):
        as_user(lambda: fs.read("f"))
    as_user(lambda: fs.append("f", b"y"), groups=[5000, STAFF, 6000])
    as_user(lambda: fs.write("d/new", b""), groups=[STAFF])
    assert fs.read("f") == b"xy"
    assert fs.stat("d/new").st_gid == ALICE


def test_owner_gives_a_file_to_his_groups_only(mount: Mount) -> None:
    fs = mount({"f": File("x", uid=ALICE, gid=ALICE)})
    as_user(lambda: os.chown(fs.path("f"), -1, STAFF), groups=[STAFF])
    assert fs.stat("f").st_gid == STAFF
    with fails(errno.EPERM):
        as_user(lambda: os.chown(fs.path("f"), -1, 999), groups=[STAFF])
    with fails(errno.EPERM):
        as_user(lambda: os.chown(fs.path("f"), BOB, -1), groups=[STAFF])


def test_setgid_directory_gives_its_group(mount: Mount) -> None:
    fs = mount({"d": Dir(mode=0o2777, gid=STAFF)})

    def work() -> None:
        fs.write("d/f", b"")
        os.mkdir(fs.path("d/e"))
        os.symlink("x", fs.path("d/l"))
        os.mkfifo(fs.path("d/p"))

    as_user(work)
    for name in ("f", "e", "l", "p"):
        assert (fs.stat("d/" + name).st_uid, fs.stat("d/" + name).st_gid) == (ALICE, STAFF), name
    assert mode(fs.stat("d/e")) & stat.S_ISGID
    assert not mode(fs.stat("d/f")) & stat.S_ISGID


def test_setgid_file_by_a_foreigner_in_a_setgid_directory(mount: Mount) -> None:
    """Nobody makes a setgid program for a group that he is not in."""
    fs = mount({"d": Dir(mode=0o2777, gid=STAFF)})
    as_user(lambda: fs.write("d/f", b"", mode=0o2755))
    assert not mode(fs.stat("d/f")) & stat.S_ISGID
    as_user(lambda: fs.write("d/g", b"", mode=0o2755), groups=[STAFF])
    assert mode(fs.stat("d/g")) & stat.S_ISGID


def test_chmod_setgid_by_a_foreigner(mount: Mount) -> None:
    fs = mount({"f": File("x", mode=0o755, uid=ALICE, gid=STAFF)})
    as_user(lambda: os.chmod(fs.path("f"), 0o2755))
    assert mode(fs.stat("f")) == 0o755
    as_user(lambda: os.chmod(fs.path("f"), 0o2755), groups=[STAFF])
    assert mode(fs.stat("f")) == 0o2755


def test_sticky_directory(mount: Mount) -> None:
    fs = mount({"t": Dir(mode=0o1777), "t/bobs": File("b", uid=BOB), "t/alices": File("a", uid=ALICE)})
    with fails(errno.EPERM):
        as_user(lambda: os.unlink(fs.path("t/bobs")))
    with fails(errno.EPERM):
        as_user(lambda: os.rename(fs.path("t/bobs"), fs.path("t/mine")))
    with fails(errno.EPERM):
        as_user(lambda: os.rename(fs.path("t/alices"), fs.path("t/bobs")))
    as_user(lambda: os.unlink(fs.path("t/alices")))
    assert fs.ls("t") == ["bobs"]


def test_unlink_needs_the_directory_not_the_file(mount: Mount) -> None:
    fs = mount({"d": Dir(mode=0o777), "d/f": File("x", mode=0o600, uid=BOB), "e/g": File("y", uid=ALICE)})
    as_user(lambda: os.unlink(fs.path("d/f")))
    with fails(errno.EACCES):
        as_user(lambda: os.unlink(fs.path("e/g")))
    assert fs.ls("e") == ["g"]


def test_rename_of_a_directory_needs_rights_to_it(mount: Mount) -> None:
    """Moving a directory elsewhere changes its .. entry."""
    fs = mount({"a": Dir(mode=0o777), "a/d": Dir(mode=0o755, uid=BOB), "b": Dir(mode=0o777)})
    with fails(errno.EACCES):
        as_user(lambda: os.rename(fs.path("a/d"), fs.path("b/d")))
    as_user(lambda: os.rename(fs.path("a/d"), fs.path("a/e")))
    assert fs.ls("a") == ["e"]


def test_umask(mount: Mount) -> None:
    fs = mount({"d": Dir(mode=0o777)})
    as_user(lambda: fs.write("d/f", b"", mode=0o666), umask=0o037)
    as_user(lambda: os.mkdir(fs.path("d/e"), 0o777), umask=0o077)
    assert (mode(fs.stat("d/f")), mode(fs.stat("d/e"))) == (0o640, 0o700)


def test_mode_of_creation_does_not_bind_its_opener(mount: Mount) -> None:
    fs = mount({"d": Dir(mode=0o777)})

    def work() -> None:
        fd = os.open(fs.path("d/f"), os.O_RDWR | os.O_CREAT, 0o000)
        os.write(fd, b"written")
        assert os.pread(fd, 10, 0) == b"written"
        os.close(fd)

    as_user(work)
    assert mode(fs.stat("d/f")) == 0


def test_special_nodes_are_for_root(mount: Mount) -> None:
    fs = mount({"d": Dir(mode=0o777)})
    with fails(errno.EPERM):
        as_user(lambda: os.mknod(fs.path("d/dev"), stat.S_IFCHR | 0o666, os.makedev(1, 3)))
    as_user(lambda: os.mkfifo(fs.path("d/fifo")))
    os.mknod(fs.path("d/dev"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert os.access(fs.path("d/dev"), os.W_OK)


def test_root_reads_and_writes_everything(mount: Mount) -> None:
    fs = mount({"d": Dir(mode=0, uid=ALICE), "d/f": File("x", mode=0, uid=BOB)})
    fs.append("d/f", b"y")
    assert fs.read("d/f") == b"xy"


@pytest.mark.parametrize("where", ["lower", "upper"])
@pytest.mark.parametrize("how", ["write", "truncate", "open truncating", "chown", "fallocate"])
def test_setuid_goes_when_a_user_changes_content(mount: Mount, how: str, where: str) -> None:
    fs = mount({"f": File(b"program", mode=0o6777, uid=ALICE, gid=ALICE)})
    if where == "upper":
        os.utime(fs.path("f"))
    assert mode(fs.stat("f")) == 0o6777

    def change() -> None:
        if how == "write":
            fs.write("f", b"P", 0)
        elif how == "truncate":
            os.truncate(fs.path("f"), 3)
        elif how == "open truncating":
            os.close(os.open(fs.path("f"), os.O_WRONLY | os.O_TRUNC))
        elif how == "chown":
            os.chown(fs.path("f"), -1, ALICE)
        else:
            fd = os.open(fs.path("f"), os.O_WRONLY)
            os.posix_fallocate(fd, 0, 100)
            os.close(fd)

    as_user(change)
    assert mode(fs.stat("f")) == 0o777
    fs.remount()
    assert mode(fs.stat("f")) == 0o777


def test_setgid_without_group_execute_stays(mount: Mount) -> None:
    fs = mount({"f": File(b"x", mode=0o2766, uid=ALICE, gid=ALICE)})
    as_user(lambda: fs.write("f", b"P", 0))
    assert mode(fs.stat("f")) == 0o2766


def test_root_keeps_setuid_when_writing(mount: Mount) -> None:
    fs = mount({"f": File(b"x", mode=0o6755)})
    fs.write("f", b"y", 0)
    assert mode(fs.stat("f")) == 0o6755


@pytest.mark.parametrize("how", ["write", "truncate", "chown"])
def test_capabilities_go_when_content_or_owner_changes(mount: Mount, how: str) -> None:
    fs = mount({"f": File(b"x", mode=0o755, uid=ALICE, gid=ALICE, xattrs={"security.capability": CAPS})})
    changes = {
        "write": lambda: fs.write("f", b"P", 0),
        "truncate": lambda: os.truncate(fs.path("f"), 0),
        "chown": lambda: os.chown(fs.path("f"), -1, STAFF),
    }
    changes[how]()
    assert "security.capability" not in os.listxattr(fs.path("f"))


def test_root_keeps_setuid_when_writing_what_another_holds(mount: Mount) -> None:
    fs = mount({"f": ""}, upper={"g": File("x", mode=0o4755)})
    reader = os.open(fs.path("g"), os.O_RDONLY)
    try:
        fs.append("g", b"y")
        assert fs.stat("g").st_mode & 0o7777 == 0o4755
    finally:
        os.close(reader)


def test_chown_that_leaves_both_owners_clears_setuid(mount: Mount) -> None:
    fs = mount({"f": File("x", mode=0o4755), "g": File("x", mode=0o2755)})
    os.chown(fs.path("f"), -1, -1)
    with open(fs.path("g"), "rb") as file:
        os.fchown(file.fileno(), -1, -1)
    assert [fs.stat(name).st_mode & 0o7777 for name in ("f", "g")] == [0o755, 0o755]


def test_chown_by_root_clears_setuid(mount: Mount) -> None:
    fs = mount({"f": File(b"x", mode=0o6755), "d": Dir(mode=0o2755)})
    os.chown(fs.path("f"), 1, 1)
    assert mode(fs.stat("f")) == 0o755
    os.chown(fs.path("d"), 1, 1)
    assert mode(fs.stat("d")) == 0o2755


def test_a_mapped_write_of_an_open_descriptor_after_a_change_of_mode(mount: Mount) -> None:
    fs = mount({"d": Dir(mode=0o777)})

    def work() -> bytes:
        fd = os.open(fs.path("d/f"), os.O_RDWR | os.O_CREAT, 0o600)
        os.fchmod(fd, 0)
        os.write(fd, b"still mine")
        os.ftruncate(fd, 5)
        os.fsync(fd)
        content = os.pread(fd, 20, 0)
        os.close(fd)
        return content

    assert as_user(work) == b"still"


def test_dac_override_without_owning(mount: Mount) -> None:
    """Root without its capabilities is but another user."""
    fs = mount({"f": File("x", mode=0o600, uid=ALICE)})

    def reduced() -> bytes:
        os.setgroups([])
        os.setresuid(0, BOB, 0)
        return fs.read("f")

    with fails(errno.EACCES):
        in_child(reduced)


def test_symlinks_show_0777_and_their_owner(mount: Mount) -> None:
    fs = mount({"d": Dir(mode=0o777), "l": Symlink("x", uid=BOB)})
    as_user(lambda: os.symlink("t", fs.path("d/l")))
    assert (mode(fs.stat("l")), fs.stat("l").st_uid) == (0o777, BOB)
    assert (mode(fs.stat("d/l")), fs.stat("d/l").st_uid) == (0o777, ALICE)


def test_access_answers_as_the_real_user(mount: Mount) -> None:
    fs = mount({"f": File("x", mode=0o640, gid=STAFF), "x": File("", mode=0o711)})
    wants = [os.R_OK, os.W_OK, os.X_OK]
    assert as_user(lambda: [os.access(fs.path("f"), w) for w in wants], groups=[STAFF]) == [True, False, False]
    assert as_user(lambda: [os.access(fs.path("x"), w) for w in wants]) == [False, False, True]
