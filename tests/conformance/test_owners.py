"""Other owners on the mount than on disk, by the options of fuse-overlayfs. The kernel has no such options."""

from __future__ import annotations

import errno
import os

import pytest

from tests.conftest import Mount
from tests.lib.asuser import as_user
from tests.lib.errors import fails
from tests.lib.layers import Dir, File

pytestmark = pytest.mark.engines("unionfs", "fusepy")


def test_ranges_of_ids(mount: Mount) -> None:
    fs = mount({"f": File("x", uid=3, gid=4), "high": File("y", uid=70000), "d": Dir(uid=5, gid=5)},
               options=["uidmapping=0:100000:65536", "gidmapping=:0:200000:10:10:300000:10"])
    assert (fs.stat("f").st_uid, fs.stat("f").st_gid) == (100003, 200004)
    assert fs.stat("high").st_uid == 65534, "an id without a place"
    os.chown(fs.path("f"), 100007, 300002)
    assert (fs.stat("f").st_uid, fs.stat("f").st_gid) == (100007, 300002)
    on_disk = os.stat(fs.upper + "/f")
    assert (on_disk.st_uid, on_disk.st_gid) == (7, 12)
    with fails(errno.EINVAL):
        os.chown(fs.path("f"), 5, -1)
    os.chmod(fs.path("d"), 0o777)
    as_user(lambda: os.mkdir(fs.path("d/made")), uid=100009, gid=200001)
    made = os.stat(fs.upper + "/d/made")
    assert (made.st_uid, made.st_gid) == (9, 1)
    assert fs.stat("d/made").st_uid == 100009


def test_everything_shows_one_owner(mount: Mount) -> None:
    fs = mount({"f": File("x", uid=3, gid=4)}, options=["squash_to_uid=1234", "squash_to_gid=99"])
    fs.write("new", b"")
    for name in ("f", "new"):
        assert (fs.stat(name).st_uid, fs.stat(name).st_gid) == (1234, 99)
    os.chown(fs.path("new"), 1234, 99)
    with fails(errno.EPERM):
        os.chown(fs.path("new"), 4321, -1)
    assert os.stat(fs.upper + "/new").st_uid == os.geteuid()


def test_owners_on_disk_stay_across_copy_up(mount: Mount) -> None:
    fs = mount({"f": File("x", uid=3, gid=4)}, options=["squash_to_root"])
    fs.append("f", b"y")
    assert fs.stat("f").st_uid == 0
    assert (os.stat(fs.upper + "/f").st_uid, os.stat(fs.upper + "/f").st_gid) == (3, 4)
