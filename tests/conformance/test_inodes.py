"""Inode numbers: one per file, the same before and after a copy-up, a rename, a remount."""

from __future__ import annotations

import os

from tests.conftest import Mount
from tests.lib.engines import Mounted
from tests.lib.layers import Dir, Layer, Special, Symlink

SOME: list[Layer] = [
    {"f": "1", "d/x": "2", "l": Symlink("f"), "p": Special(0o010000), "d": Dir()},
    {"g": "3", "d/y": "4", "e/z": "5"},
]
NAMES = ["f", "d", "d/x", "l", "p", "g", "d/y", "e", "e/z"]


def numbers(fs: Mounted) -> dict[str, int]:
    return {name: fs.stat(name).st_ino for name in NAMES}


def test_no_two_files_share_a_number(mount: Mount) -> None:
    fs = mount(*SOME, upper={"u": "", "d/w": ""})
    all_numbers = [fs.stat(name).st_ino for name in [*NAMES, "", "u", "d/w"]]
    assert len(set(all_numbers)) == len(all_numbers)


def test_files_keep_their_number_across_copy_up_and_remount(mount: Mount) -> None:
    fs = mount(*SOME)
    before = numbers(fs)
    for name in ("f", "d/x", "g", "d/y", "e/z", "p", "d", "e"):
        os.chmod(fs.path(name), 0o700)
    os.lchown(fs.path("l"), 1, 1)
    assert numbers(fs) == before
    fs.remount()
    assert numbers(fs) == before


def test_the_root_keeps_its_number(mount: Mount) -> None:
    fs = mount(*SOME)
    before = fs.stat().st_ino
    os.chmod(fs.mnt, 0o700)
    assert fs.stat().st_ino == before
    fs.remount()
    assert fs.stat().st_ino == before


def test_number_across_rename(mount: Mount) -> None:
    fs = mount(*SOME)
    before = fs.stat("f").st_ino
    os.rename(fs.path("f"), fs.path("e/moved"))
    assert fs.stat("e/moved").st_ino == before
    fs.remount()
    assert fs.stat("e/moved").st_ino == before


def test_number_of_a_directory_across_rename(mount: Mount) -> None:
    fs = mount(*SOME)
    before = {name: fs.stat(name).st_ino for name in ("d", "d/x", "d/y")}
    os.rename(fs.path("d"), fs.path("e/n"))
    after = {name: fs.stat(name.replace("d", "e/n", 1)).st_ino for name in before}
    assert after == before
    fs.remount()
    after = {name: fs.stat(name.replace("d", "e/n", 1)).st_ino for name in before}
    assert after == before


def test_numbers_of_upper_files_last(mount: Mount) -> None:
    fs = mount({"x": ""})
    fs.write("new", b"")
    os.mkdir(fs.path("dir"))
    before = (fs.stat("new").st_ino, fs.stat("dir").st_ino)
    os.rename(fs.path("new"), fs.path("dir/new"))
    fs.remount()
    assert (fs.stat("dir/new").st_ino, fs.stat("dir").st_ino) == before


def test_a_new_file_under_an_old_name_is_another(mount: Mount) -> None:
    fs = mount({"f": ""})
    before = fs.stat("f").st_ino
    with open(fs.path("f")) as held:
        os.unlink(fs.path("f"))
        fs.write("f", b"")
        assert fs.stat("f").st_ino != before
        assert os.fstat(held.fileno()).st_ino == before


def test_fstat_and_stat_agree(mount: Mount) -> None:
    fs = mount({"f": "", "d/g": ""})
    for name in ("f", "d", "d/g"):
        fd = os.open(fs.path(name), os.O_RDONLY)
        assert os.fstat(fd) == fs.stat(name)
        os.chmod(fs.path(name), 0o700)
        assert os.fstat(fd).st_ino == fs.stat(name).st_ino
        os.close(fd)
