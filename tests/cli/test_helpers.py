"""The links of `unionfs install-helper` at work: mount(8) and umount(8) find our helpers, and nothing else changes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cli.site import Done, Site, needs_root
from tests.lib.engines import ROOT

pytestmark = needs_root

SCRIPTS = {"unionfs": "main", "mount.unionfs": "mount_helper", "umount.unionfs": "umount_helper"}


def with_links(site: Site, script: str, *, foreign: str = "") -> Done:
    """Runs a shell script after install-helper, in a mount namespace whose /sbin is ours to write."""
    programs, private, sbin = site.base / "bin", site.base / "sbin", os.path.realpath("/sbin")
    programs.mkdir()
    private.mkdir()
    for name, function in SCRIPTS.items():
        (programs / name).write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
            f"from unionfs.cli import {function}\nsys.exit({function}())\n"
        )
        (programs / name).chmod(0o755)
    preparation = f"""set -eu
        mount --make-rprivate /
        mount -t tmpfs tmpfs {private}
        mkdir {private}/u {private}/w
        mount -t overlay overlay -o lowerdir={sbin},upperdir={private}/u,workdir={private}/w {sbin}
        mkdir -p /run/mount
        mount -t tmpfs tmpfs /run/mount
        rm -f {sbin}/mount.unionfs {sbin}/mount.fuse.unionfs {sbin}/umount.unionfs {sbin}/umount.fuse.unionfs
        {foreign and f"echo exit 1 >{sbin}/{foreign}"}
        {programs}/unionfs install-helper >/dev/null
    """
    end = """
        ! grep . /run/mount/utab >&2
    """
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", preparation + script + end],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("fstype", ["unionfs", "fuse.unionfs"])
def test_mount_8_finds_the_helper(site: Site, fstype: str) -> None:
    done = with_links(site, f"""
        mount -t {fstype} my-layers {site.mnt} -o {site.options},nosuid
        cat {site.mnt}/b
        echo; grep " {site.mnt} " /proc/mounts
        umount {site.mnt}
    """)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    content, line = done.stdout.splitlines()
    assert content == "bottom"
    assert line.startswith(f"my-layers {site.mnt} fuse.unionfs rw,nosuid,")


def test_beside_another_program_s_mount_unionfs(site: Site) -> None:
    """Debian's package unionfs-fuse has one."""
    done = with_links(site, f"""
        mount -t fuse.unionfs my-layers {site.mnt} -o {site.options}
        cat {site.mnt}/b
        umount {site.mnt}
    """, foreign="mount.unionfs")  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "bottom")
    assert "/mount.unionfs belongs to another program and stays; use mount -t fuse.unionfs" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("frontend", ["kernel", "fusepy"])
def test_umount_8_returns_when_the_layers_are_free(site: Site, frontend: str) -> None:
    """So that the layers' file system can be unmounted right after, every time: an open file would forbid that."""
    home = site.base / "home"
    home.mkdir()
    layers = f"lowerdir={home}/l,upperdir={home}/u,workdir={home}/w"
    done = with_links(site, f"""
        for round in 1 2 3 4 5 6; do
            mount -t tmpfs tmpfs {home}
            mkdir {home}/l {home}/u {home}/w
            seq 1000 >{home}/l/file
            mount -t fuse.unionfs none {site.mnt} -o {layers},frontend={frontend}
            echo $round >>{site.mnt}/file
            umount {site.mnt}
            umount {home}
        done
    """)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_umount_8_of_a_busy_mount(site: Site) -> None:
    """Fails as it does for every file system; -l detaches."""
    done = with_links(site, f"""
        mount -t fuse.unionfs none {site.mnt} -o {site.options}
        exec 9<{site.mnt}/b
        code=0
        umount {site.mnt} || code=$?
        test $code = 32
        cat {site.mnt}/b
        umount -l {site.mnt}
        cat <&9
        exec 9<&-
    """)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "bottombottom")
    assert done.stderr.startswith(f"unionfs: {site.mnt}: busy: ")
    assert done.stderr.count("\n") == 1


def test_nothing_stays_in_libmount_s_table(site: Site) -> None:
    """However the mount ends: by our command, by a signal, by the death of its daemon; `with_links` looks."""
    mount = f"mount -t fuse.unionfs none {site.mnt} -o {site.options},log={site.log}"
    pid = f"$(sed -n '$s/.* pid //p' {site.log})"
    done = with_links(site, f"""
        {mount}
        grep -c . /run/mount/utab
        {site.base}/bin/unionfs umount {site.mnt}
        {mount}
        kill {pid}
        while grep {site.mnt} /run/mount/utab; do :; done >/dev/null
        {mount}
        kill -9 {pid}
        while test -e {site.mnt}/b; do :; done
        umount {site.mnt}
    """)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
