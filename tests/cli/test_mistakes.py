"""Every way to get a mount wrong: one clear line, nothing mounted, no process left."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.cli.site import Site, needs_root
from tests.lib import kernel
from tests.lib.engines import ROOT, is_mounted


def test_a_missing_layer(site: Site) -> None:
    site.refused("mount", "-o", f"lowerdir={site.base}/none", site.mnt, message="/none: does not exist")


def test_a_layer_that_is_a_file(site: Site) -> None:
    (site.base / "file").touch()
    site.refused("mount", "-o", f"lowerdir={site.base}/file", site.mnt, message="/file: .*not a directory")


@needs_root
def test_an_unreadable_layer(site: Site) -> None:
    site.give_to_user()
    (site.base / "bottom").chmod(0o300)
    done = site.run_as_user("mount", "-o", site.options, site.mnt)
    assert done.returncode == 1
    assert re.search(r"^unionfs: .*/bottom: (cannot be read|.*ermission)", done.stderr)
    assert not is_mounted(str(site.mnt))
    assert site.processes() == []


def test_upper_without_work(site: Site) -> None:
    upper, work = f"upperdir={site.base}/upper", f"workdir={site.base}/work"
    site.refused("mount", "-o", f"{site.stack},{upper}", site.mnt, message="upperdir .*without workdir")
    site.refused("mount", "-o", f"{site.stack},{work}", site.mnt, message="workdir .*without upperdir")


def test_no_layers_at_all(site: Site) -> None:
    site.refused("mount", site.mnt, message="lowerdir=")


@needs_root
def test_work_on_another_file_system(site: Site) -> None:
    kernel.mount("tmpfs", str(site.base / "work"), "tmpfs", "")
    site.refused("mount", "-o", site.options, site.mnt, message="work.* not on the file system of .*upper")


def test_upper_in_use(site: Site) -> None:
    site.mount("-o", site.options, site.mnt)
    (site.base / "other").mkdir()
    (site.base / "work2").mkdir()
    done = site.run("mount", "-o", site.options.replace("/work", "/work2"), site.base / "other")
    assert done.returncode == 1
    assert re.search("upperdir .*/upper is in use", done.stderr)
    assert not is_mounted(str(site.base / "other"))


@needs_root
def test_upper_in_use_by_the_kernel(site: Site) -> None:
    (site.base / "other").mkdir()
    kernel.mount("overlay", str(site.base / "other"), "overlay", site.options)
    site.refused("mount", "-o", site.options, site.mnt, message="is in use")


def test_overlapping_layers(site: Site) -> None:
    (site.base / "top/inner").mkdir()
    site.refused("mount", "-o", f"lowerdir={site.base}/top:{site.base}/top", site.mnt, message="the same directory")
    site.refused("mount", "-o", f"lowerdir={site.base}/top:{site.base}/top/inner", site.mnt, message="overlap")
    site.refused("mount", "-o", site.options.replace("/work", "/upper/work"), site.mnt, message="work|upper")


def test_the_mount_point_inside_a_layer(site: Site) -> None:
    (site.base / "top/m").mkdir()
    site.refused("mount", "-o", site.options, site.base / "top/m", message="mount point .*inside")


def test_a_layer_inside_the_mount_point(site: Site) -> None:
    (site.mnt / "layer").mkdir()
    site.refused("mount", "-o", f"lowerdir={site.mnt}/layer", site.mnt, message="inside the mount point")
    site.refused("mount", "-o", f"lowerdir={site.mnt}", site.mnt, message="mount point")


def test_bad_mount_points(site: Site) -> None:
    (site.base / "file").touch()
    site.refused("mount", "-o", site.options, site.base / "none", message="mount point .*/none: no such directory")
    site.refused("mount", "-o", site.options, site.base / "file", message="mount point .*/file: not a directory")
    (site.mnt / "entry").touch()
    site.refused("mount", "-o", site.options, site.mnt, message="mount point .*/mnt is not empty")


def test_an_unknown_option(site: Site) -> None:
    site.refused("mount", "-o", site.options + ",volatil", site.mnt, code=2,
                 message="unknown option 'volatil'; did you mean 'volatile'?")  # fmt: skip


def test_a_log_that_cannot_be_written(site: Site) -> None:
    site.refused("mount", "--log", site.base / "none/log", "-o", site.options, site.mnt, message="log file .*none/log")


def in_a_namespace(site: Site, preparation: str, words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command where /dev has only what `preparation` makes there."""
    script = f"""set -eu
        mount --make-rprivate /
        mount -t tmpfs tmpfs /dev
        mknod -m 666 /dev/null c 1 3
        mknod -m 666 /dev/urandom c 1 9
        {preparation}
        {words}
    """
    return subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False,
                          cwd=site.base, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip


@needs_root
def test_no_fuse_device(site: Site) -> None:
    done = in_a_namespace(site, "", f"{sys.executable} -m unionfs mount -o {site.options} {site.mnt}")
    assert done.returncode == 1
    assert done.stderr.startswith("unionfs: /dev/fuse is missing; ")
    assert done.stderr.count("\n") == 1
    assert site.processes() == []


@needs_root
def test_a_fuse_device_that_is_not_permitted(site: Site) -> None:
    """Its node lies on a file system mounted nodev, which forbids opening it, as a container's device rules do."""
    preparation = "mknod -m 600 /dev/fuse c 10 229; mount -o remount,nodev /dev"
    done = in_a_namespace(site, preparation, f"{sys.executable} -m unionfs mount -f -o {site.options} {site.mnt}")
    assert done.returncode == 1
    assert done.stderr.startswith("unionfs: /dev/fuse may not be opened by you; ")
    assert done.stderr.count("\n") == 1
