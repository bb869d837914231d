"""Extended attributes: an application's own, overlay's own, and ACLs."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from tests.conftest import Mount
from tests.lib import acl, kernel
from tests.lib.asuser import ALICE, BOB, STAFF, as_user
from tests.lib.errors import fails
from tests.lib.layers import Dir, File, Symlink, Whiteout

SIX = "u:6 user:4001:6 g:4 m:6 o:0"


def test_lower_xattrs_show(mount: Mount) -> None:
    fs = mount({"f": File("x", xattrs={"user.a": b"1", "user.b": b"\0\xff", "trusted.c": b""})})
    assert sorted(os.listxattr(fs.path("f"))) == ["trusted.c", "user.a", "user.b"]
    assert os.getxattr(fs.path("f"), "user.b") == b"\0\xff"
    assert os.getxattr(fs.path("f"), "trusted.c") == b""


def test_set_replace_remove(mount: Mount) -> None:
    fs = mount({"f": "x"})
    path = fs.path("f")
    os.setxattr(path, "user.a", b"1")
    os.setxattr(path, "user.a", b"22", os.XATTR_REPLACE)
    with fails(errno.EEXIST):
        os.setxattr(path, "user.a", b"3", os.XATTR_CREATE)
    with fails(errno.ENODATA):
        os.setxattr(path, "user.b", b"3", os.XATTR_REPLACE)
    fs.remount()
    assert os.getxattr(path, "user.a") == b"22"
    os.removexattr(path, "user.a")
    with fails(errno.ENODATA):
        os.getxattr(path, "user.a")
    with fails(errno.ENODATA):
        os.removexattr(path, "user.a")
    assert os.listxattr(path) == []


def test_on_directories(mount: Mount) -> None:
    fs = mount({"d": Dir(xattrs={"user.low": b"1"}), "d/f": ""})
    os.setxattr(fs.path("d"), "user.new", b"2")
    fs.remount()
    assert sorted(os.listxattr(fs.path("d"))) == ["user.low", "user.new"]
    assert fs.ls("d") == ["f"]


def test_on_symlinks(mount: Mount) -> None:
    fs = mount({"l": Symlink("nowhere")})
    os.setxattr(fs.path("l"), "trusted.t", b"1", follow_symlinks=False)
    assert os.listxattr(fs.path("l"), follow_symlinks=False) == ["trusted.t"]
    with fails(errno.EPERM):
        os.setxattr(fs.path("l"), "user.u", b"1", follow_symlinks=False)


def test_setxattr_does_not_follow_a_link_into_the_mount(mount: Mount) -> None:
    """A daemon that follows an absolute link into its own mount waits for itself for ever."""
    fs = mount({"f": "x"})
    os.symlink(fs.path("f"), fs.path("l"))
    os.setxattr(fs.path("l"), "trusted.t", b"1", follow_symlinks=False)
    os.lchown(fs.path("l"), 5, 5)
    assert os.listxattr(fs.path("f")) == []
    assert fs.stat("f").st_uid == 0


def test_sizes(mount: Mount) -> None:
    fs = mount({"f": "x"})
    path = fs.path("f")
    value = os.urandom(3000)
    os.setxattr(path, "user.big", value)
    assert os.getxattr(path, "user.big") == value
    os.setxattr(path, "user.empty", b"")
    assert os.getxattr(path, "user.empty") == b""
    with fails(errno.ERANGE):
        os.setxattr(path, "user." + "n" * 256, b"")
    with fails(errno.E2BIG, errno.ENOSPC, errno.ERANGE):
        os.setxattr(path, "user.huge", b"x" * 65537)
    with fails(errno.EOPNOTSUPP):
        os.setxattr(path, "nonsense.name", b"")


def test_many_xattrs(mount: Mount) -> None:
    fs = mount({"f": File("x", xattrs={f"user.name{i:03}": b"%d" % i for i in range(60)})})
    os.chmod(fs.path("f"), 0o600)
    assert sorted(os.listxattr(fs.path("f"))) == [f"user.name{i:03}" for i in range(60)]
    assert os.getxattr(fs.path("f"), "user.name059") == b"59"


@pytest.mark.engines("overlay", "unionfs", "fusepy")
class TestPrivate:
    """overlay.* of the layers never shows; what is set through the mount is escaped, so nesting works."""

    MARK = "trusted.overlay.opaque"

    def test_hidden(self, mount: Mount) -> None:
        fs = mount({"d": Dir(opaque=True), "d/f": ""})
        os.chmod(fs.path("d/f"), 0o600)
        for name in ("d", "d/f", ""):
            assert os.listxattr(fs.path(name)) == []
        with fails(errno.ENODATA):
            os.getxattr(fs.path("d"), self.MARK)
        with fails(errno.ENODATA):
            os.getxattr(fs.path("d/f"), "trusted.overlay.origin")
        with fails(errno.ENODATA):
            os.removexattr(fs.path("d"), self.MARK)
        fs.remount()
        assert fs.ls("d") == ["f"]

    def test_escaped(self, mount: Mount) -> None:
        fs = mount({"d/f": ""}, {"d/g": ""})
        os.setxattr(fs.path("d"), self.MARK, b"y")
        assert os.listxattr(fs.path("d")) == [self.MARK]
        assert os.getxattr(fs.path("d"), self.MARK) == b"y"
        fs.remount()
        assert os.getxattr(fs.path("d"), self.MARK) == b"y"
        assert fs.ls("d") == ["f", "g"]
        assert os.getxattr(fs.upper + "/d", "trusted.overlay.overlay.opaque") == b"y"
        os.removexattr(fs.path("d"), self.MARK)
        assert os.listxattr(fs.path("d")) == []

    def test_escaped_in_a_lower(self, mount: Mount) -> None:
        fs = mount({"d": Dir(xattrs={"trusted.overlay.overlay.opaque": b"y"})}, {"d/f": ""})
        assert os.listxattr(fs.path("d")) == [self.MARK]
        assert fs.ls("d") == ["f"]
        os.chmod(fs.path("d"), 0o700)
        assert os.getxattr(fs.path("d"), self.MARK) == b"y"

    def test_other_namespace_is_an_applications(self, mount: Mount) -> None:
        """Without userxattr, user.overlay.* is nobody's business."""
        fs = mount({"d": Dir(xattrs={"user.overlay.opaque": b"y"}), "d/a": ""}, {"d/b": ""})
        assert fs.ls("d") == ["a", "b"]
        assert os.listxattr(fs.path("d")) == ["user.overlay.opaque"]

    def test_nesting(self, mount: Mount) -> None:
        """An overlay whose layers lie in the mount finds its own marks there."""
        fs = mount({"a/d/x": "", "b/d/y": ""})
        os.setxattr(fs.path("a/d"), self.MARK, b"y")
        nested = fs.base + "/nested"
        os.mkdir(nested)
        kernel.mount("nested", nested, "overlay", f"lowerdir={fs.path('a')}:{fs.path('b')}")
        try:
            assert os.listdir(nested + "/d") == ["x"]
        finally:
            kernel.umount(nested)


@pytest.mark.engines("overlay", "unionfs", "fusepy")
class TestUserxattr:
    def test_reads_and_writes_the_user_namespace(self, mount: Mount) -> None:
        fs = mount(
            {"d": Dir(xattrs={"user.overlay.opaque": b"y"}), "d/a": ""},
            {"d/b": "", "e/x": ""},
            options=["userxattr", *_no_redirect(mount)],
        )
        assert fs.ls("d") == ["a"]
        assert os.listxattr(fs.path("d")) == []
        os.unlink(fs.path("e/x"))
        os.rmdir(fs.path("e"))
        os.mkdir(fs.path("e"))
        fs.remount()
        assert fs.ls("e") == []
        assert os.getxattr(fs.upper + "/e", "user.overlay.opaque") == b"y"
        assert "trusted.overlay.opaque" not in os.listxattr(fs.upper + "/e")


def _no_redirect(mount: Mount) -> list[str]:
    """The kernel allows no redirects together with userxattr."""
    return ["redirect_dir=nofollow", "metacopy=off"]


class TestAcl:
    def test_lower_acl_shows_and_counts(self, mount: Mount) -> None:
        fs = mount({"f": File("x", mode=0o660, xattrs={acl.ACCESS: acl.encode(SIX)})})
        assert acl.decode(os.getxattr(fs.path("f"), acl.ACCESS)) == SIX
        as_user(lambda: fs.append("f", b"y"), uid=ALICE)
        with fails(errno.EACCES):
            as_user(lambda: fs.read("f"), uid=BOB)
        fs.remount()
        assert acl.decode(os.getxattr(fs.path("f"), acl.ACCESS)) == SIX
        assert fs.read("f") == b"xy"

    def test_set_and_mode(self, mount: Mount) -> None:
        fs = mount({"f": File("x", mode=0o600)})
        os.setxattr(fs.path("f"), acl.ACCESS, acl.encode(SIX))
        assert fs.stat("f").st_mode & 0o777 == 0o660
        os.chmod(fs.path("f"), 0o640)
        assert acl.decode(os.getxattr(fs.path("f"), acl.ACCESS)) == SIX.replace("m:6", "m:4")
        os.removexattr(fs.path("f"), acl.ACCESS)
        with fails(errno.ENODATA):
            os.getxattr(fs.path("f"), acl.ACCESS)

    def test_removing_an_acl_that_is_not_there(self, mount: Mount) -> None:
        """Unlike any other xattr: it succeeds."""
        fs = mount({"f": "x", "d": Dir()})
        os.removexattr(fs.path("f"), acl.ACCESS)
        os.removexattr(fs.path("d"), acl.DEFAULT)

    def test_an_acl_that_is_but_a_mode(self, mount: Mount) -> None:
        fs = mount({"f": File("x", mode=0o600)})
        os.setxattr(fs.path("f"), acl.ACCESS, acl.encode("u:7 g:5 o:4"))
        assert fs.stat("f").st_mode & 0o777 == 0o754

    def test_group_entry(self, mount: Mount) -> None:
        fs = mount({"f": File("x", mode=0o600)})
        os.setxattr(fs.path("f"), acl.ACCESS, acl.encode(f"u:6 g:0 group:{STAFF}:4 m:4 o:0"))
        assert as_user(lambda: fs.read("f"), groups=[STAFF]) == b"x"
        with fails(errno.EACCES):
            as_user(lambda: fs.read("f"))

    def test_default_acl_is_inherited_instead_of_the_umask(self, mount: Mount) -> None:
        fs = mount({"d": Dir(mode=0o777)})
        os.setxattr(fs.path("d"), acl.DEFAULT, acl.encode("u:7 user:4001:7 g:7 m:7 o:0"))
        os.umask(0o077)
        fs.write("d/f", b"", mode=0o666)
        os.mkdir(fs.path("d/sub"), 0o777)
        assert acl.decode(os.getxattr(fs.path("d/f"), acl.ACCESS)) == "u:6 user:4001:7 g:7 m:6 o:0"
        assert acl.decode(os.getxattr(fs.path("d/sub"), acl.ACCESS)) == "u:7 user:4001:7 g:7 m:7 o:0"
        assert acl.decode(os.getxattr(fs.path("d/sub"), acl.DEFAULT)) == "u:7 user:4001:7 g:7 m:7 o:0"
        os.mkfifo(fs.path("d/p"), 0o622)
        assert fs.stat("d/p").st_mode & 0o777 == 0o620
        os.symlink("x", fs.path("d/l"))
        assert os.listxattr(fs.path("d/l"), follow_symlinks=False) == []

    def test_lower_default_acl(self, mount: Mount) -> None:
        default = acl.encode("u:7 user:4001:6 g:5 m:7 o:1")
        fs = mount({"d": Dir(xattrs={acl.DEFAULT: default})})
        fs.write("d/f", b"", mode=0o666)
        assert acl.decode(os.getxattr(fs.path("d/f"), acl.ACCESS)) == "u:6 user:4001:6 g:5 m:6 o:0"
        assert os.getxattr(fs.path("d"), acl.DEFAULT) == default

    def test_over_a_whiteout_the_directory_counts_as_well(self, mount: Mount) -> None:
        """Such an object may have been made elsewhere and moved: with the group and the ACL of where it is."""
        default = acl.encode("u:7 user:4001:6 g:5 m:7 o:0")
        fs = mount({"d": Dir(mode=0o2777, gid=STAFF, xattrs={acl.DEFAULT: default}), "d/f": "", "d/sub/x": ""})
        os.unlink(fs.path("d/f"))
        os.unlink(fs.path("d/sub/x"))
        os.rmdir(fs.path("d/sub"))
        fs.write("d/f", b"", mode=0o666)
        os.mkdir(fs.path("d/sub"), 0o777)
        for name, shown in (("d/f", "u:6 user:4001:6 g:5 m:6 o:0"), ("d/sub", "u:7 user:4001:6 g:5 m:7 o:0")):
            assert acl.decode(os.getxattr(fs.path(name), acl.ACCESS)) == shown
            assert fs.stat(name).st_gid == STAFF
        assert os.getxattr(fs.path("d/sub"), acl.DEFAULT) == default
        assert fs.stat("d/sub").st_mode & 0o2000

    def test_umask_counts_without_a_default_acl(self, mount: Mount) -> None:
        fs = mount({"d": Dir()})
        os.umask(0o027)
        fs.write("d/f", b"", mode=0o666)
        os.mkdir(fs.path("d/e"), 0o777)
        assert fs.stat("d/f").st_mode & 0o777 == 0o640
        assert fs.stat("d/e").st_mode & 0o777 == 0o750

    def test_only_the_owner_sets(self, mount: Mount) -> None:
        fs = mount({"f": File("x", mode=0o666, uid=BOB)})
        with fails(errno.EPERM):
            as_user(lambda: os.setxattr(fs.path("f"), acl.ACCESS, acl.encode(SIX)), uid=ALICE)
        as_user(lambda: os.setxattr(fs.path("f"), acl.ACCESS, acl.encode(SIX)), uid=BOB)
        assert acl.decode(os.getxattr(fs.path("f"), acl.ACCESS)) == SIX

    def test_malformed(self, mount: Mount) -> None:
        fs = mount({"f": "", "d": Dir()})
        with fails(errno.EINVAL):
            os.setxattr(fs.path("f"), acl.ACCESS, struct.pack("<I", 2) + b"\x01")
        with fails(errno.EINVAL):
            os.setxattr(fs.path("f"), acl.ACCESS, acl.encode("u:6 o:0"))
        with fails(errno.EACCES):
            os.setxattr(fs.path("f"), acl.DEFAULT, acl.encode("u:6 g:0 o:0"))


def test_trusted_is_for_root(mount: Mount) -> None:
    fs = mount({"f": File("x", mode=0o666, xattrs={"trusted.t": b"1", "user.u": b"2"})})
    assert as_user(lambda: os.listxattr(fs.path("f"))) == ["user.u"]
    with fails(errno.EPERM, errno.ENODATA):
        as_user(lambda: os.setxattr(fs.path("f"), "trusted.t", b"2"))
    as_user(lambda: os.setxattr(fs.path("f"), "user.u", b"3"))
    assert os.getxattr(fs.path("f"), "user.u") == b"3"


def test_user_xattr_needs_write_permission(mount: Mount) -> None:
    fs = mount({"f": File("x", mode=0o644), "w": Whiteout()})
    with fails(errno.EACCES):
        as_user(lambda: os.setxattr(fs.path("f"), "user.u", b"3"))
    fs.assert_not_copied_up("f")
