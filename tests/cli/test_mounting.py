"""All ways to spell a mount, on real mounts."""

from __future__ import annotations

import os

import pytest

from tests.cli.site import HELPER, USER, Site, assert_works, fields, needs_root, unmount, user_mounts
from tests.lib.asuser import as_user
from tests.lib.engines import is_mounted


def test_with_options(site: Site) -> None:
    site.mount("-o", site.options, site.mnt)
    assert_works(site)
    unmount(site)


def test_with_flags(site: Site) -> None:
    base = site.base
    site.mount("--lower", base / "top", "--lower", base / "bottom", "--upper", base / "upper", "--work", base / "work",
               site.mnt)  # fmt: skip
    assert_works(site)
    unmount(site)


def test_with_a_source(site: Site) -> None:
    site.mount("-o", site.options, "my-image", site.mnt)
    assert_works(site, "my-image")


@pytest.mark.parametrize(
    "words",
    [
        ["-o", "OPTIONS", "MNT"],
        ["image", "MNT", "-o", "OPTIONS,rw,dev,suid"],
        ["image", "MNT", "-s", "-n", "-o", "OPTIONS"],
        ["image", "MNT", "-v", "-o", "OPTIONS", "-t", "fuse.unionfs"],
    ],
)
def test_as_the_mount_helper(site: Site, words: list[str]) -> None:
    argv = [word.replace("OPTIONS", site.options).replace("MNT", str(site.mnt)) for word in words]
    done = site.run(*argv, program=HELPER)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert_works(site, "image" if "image" in words else "unionfs")


def test_the_helper_s_dry_run_mounts_nothing(site: Site) -> None:
    done = site.run("image", site.mnt, "-f", "-o", site.options, program=HELPER)
    assert done.returncode == 0
    assert not is_mounted(str(site.mnt))


@pytest.mark.parametrize("words", [["-o", "OPTIONS", "MNT"], ["overlay", "MNT", "-o", "OPTIONS,dev,suid"]])
def test_as_a_mount_program(site: Site, words: list[str]) -> None:
    """As Podman runs fuse-overlayfs, and as mount.fuse3 runs it for containerd."""
    argv = [word.replace("OPTIONS", site.options).replace("MNT", str(site.mnt)) for word in words]
    assert site.run(*argv).returncode == 0
    assert_works(site, "overlay" if "overlay" in words else "unionfs")


def test_relative_paths_and_symlinks(site: Site) -> None:
    """As Podman's store has it: short symlinks, and a layer beside the one that a symlink leads to."""
    (site.base / "l").mkdir()
    (site.base / "l/X").symlink_to("../top")
    site.mount("-o", "lowerdir=l/X:l/X/../bottom,upperdir=upper,workdir=work", "mnt")
    assert_works(site)


def test_paths_with_all_special_characters(site: Site) -> None:
    odd = site.base / 'a:b,c\\d"e f\n'
    odd.mkdir()
    (odd / "odd").touch()
    text = str(odd).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
    site.mount("-o", f"lowerdir={text}:{site.base}/top", site.mnt)
    assert sorted(os.listdir(site.mnt)) == ["odd", "t"]


def test_without_upper_it_is_read_only(site: Site) -> None:
    site.mount("-o", site.stack, site.mnt)
    assert fields(site.mnt)[3].split(",")[0] == "ro"
    with pytest.raises(OSError, match="Read-only file system"):
        (site.mnt / "n").touch()


def test_ro_with_upper(site: Site) -> None:
    (site.base / "upper/u").touch()
    site.mount("-o", site.options + ",ro", site.mnt)
    assert sorted(os.listdir(site.mnt)) == ["b", "t", "u"]
    with pytest.raises(OSError, match="Read-only file system"):
        (site.mnt / "n").touch()


def test_mount_flags_are_shown(site: Site) -> None:
    site.mount("-o", site.options + ",nosuid,nodev,noexec,noatime", site.mnt)
    assert {"rw", "nosuid", "nodev", "noexec", "noatime", "default_permissions", "allow_other"} <= set(
        fields(site.mnt)[3].split(",")
    )


def test_nonempty_hides_what_is_there(site: Site) -> None:
    (site.mnt / "hidden").touch()
    site.mount("-o", site.options + ",nonempty", site.mnt)
    assert sorted(os.listdir(site.mnt)) == ["b", "t"]
    unmount(site)
    assert os.listdir(site.mnt) == ["hidden"]


@needs_root
def test_a_private_mount_does_not_propagate(site: Site) -> None:
    site.mount("-o", site.options + ",private", site.mnt)
    with open("/proc/self/mountinfo") as table:
        (line,) = [line for line in table if line.split()[4] == str(site.mnt)]
    assert "shared:" not in line


@user_mounts
def test_an_ordinary_user_mounts_through_fusermount3(site: Site) -> None:
    site.give_to_user()
    assert site.run_as_user("mount", "-o", site.options, site.mnt).stderr == ""
    assert {"nosuid", "nodev", f"user_id={USER}"} <= set(fields(site.mnt)[3].split(","))
    with pytest.raises(PermissionError):
        os.listdir(site.mnt)  # not even root

    def use() -> list[str]:
        (site.mnt / "n").write_text("new")
        os.unlink(site.mnt / "b")
        return sorted(os.listdir(site.mnt))

    assert as_user(use, USER) == ["n", "t"]
    assert site.run_as_user("umount", site.mnt).stderr == ""
    assert not is_mounted(str(site.mnt))
    assert site.processes() == []
