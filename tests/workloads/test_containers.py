"""Podman and Buildah with unionfs as their mount program, in a store of their own: import, run, build, commit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.engines import ROOT, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PROGRAMS = {"podman": "podman", "buildah": "buildah", "runc": "runc", "busybox": "busybox-static"}

APPLETS = ("sh", "cat", "echo", "grep", "ls", "mkdir", "mv", "rm", "stat", "test")

SETTINGS = {
    "storage.conf": """
        [storage]
        driver = "overlay"
        graphroot = "BASE/root"
        runroot = "BASE/run"
        [storage.options.overlay]
        mount_program = "BASE/unionfs"
    """,
    "containers.conf": """
        [containers]
        default_ulimits = []
        [engine]
        runtime = "runc"
        cgroup_manager = "cgroupfs"
        events_logger = "none"
    """,
    "policy.json": """{"default": [{"type": "insecureAcceptAnything"}]}""",
    "unionfs": f"""#!/bin/sh
        echo "$@" >>BASE/calls
        PYTHONPATH={ROOT} exec {sys.executable} -m unionfs "$@"
    """,
}


class Store:
    """A store of images and containers below `base`, whose layers are mounted by unionfs."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for name, text in SETTINGS.items():
            (base / name).write_text(text.replace("BASE", str(base)))
        (base / "unionfs").chmod(0o755)
        self.environment = {
            **os.environ, "CONTAINERS_CONF": str(base / "containers.conf"), "TMPDIR": str(base),
            "CONTAINERS_STORAGE_CONF": str(base / "storage.conf"),
        }  # fmt: skip

    def podman(self, *words: str | Path) -> str:
        return self._run("podman", *words)

    def container(self, image: str, script: str, *flags: str) -> str:
        return self.podman("run", "--ulimit", "host", "--network", "none", *flags, image, "/bin/sh", "-ec", script)

    def build(self, recipe: str, tag: str) -> str:
        (self.base / "recipe").write_text(recipe)
        return self._run("buildah", "bud", "--isolation", "chroot", "--signature-policy", self.base / "policy.json",
                         "--layers", "-t", tag, "-f", self.base / "recipe", self.base)  # fmt: skip

    def _run(self, *words: str | Path) -> str:
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def calls(self) -> list[str]:
        return (self.base / "calls").read_text().splitlines()

    def left(self) -> list[str]:
        """Mounts and processes of this store."""
        with open("/proc/self/mounts") as mounts:
            found = [line for line in mounts if f"{self.base}/" in line and " fuse" in line]
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if f"{self.base}/".encode() in words:
                found.append(f"{entry} {words!r}")
        return found


@pytest.fixture
def store() -> Iterator[Store]:
    for program, package in PROGRAMS.items():
        if not shutil.which(program):
            pytest.skip(f"needs {program} (Debian package {package})")
    base = Path(tempfile.mkdtemp(prefix="unionfs-pod-", dir=os.environ.get("UNIONFS_TEST_DIR", "/var/tmp")))
    made = Store(base)
    yield made
    wait_until(lambda: made.left() == [], "the end of the store's mounts and processes")
    with open("/proc/self/mounts") as mounts:
        for target in [line.split()[1] for line in mounts if f"{base}/" in line][::-1]:
            subprocess.run(["umount", target], check=True)  # Podman makes its store a mount of its own
    shutil.rmtree(base)


def busybox_image(store: Store) -> str:
    root = store.base / "busybox"
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/motd").write_text("as it was\n")
    subprocess.run(["tar", "-C", root, "-cf", store.base / "busybox.tar", "."], check=True)
    store.podman("import", store.base / "busybox.tar", "busybox:1")
    return "localhost/busybox:1"


def test_podman_runs_a_container(store: Store) -> None:
    """What it does is seen by `podman diff` and kept by `podman commit`; its mount goes with it."""
    image = busybox_image(store)
    type_of_root = store.container(image, "grep ' / ' /proc/mounts", "--rm").split()[2]
    assert type_of_root == "fuse.unionfs"
    store.container(image, "echo new >/etc/new; rm -r /tmp; mv /etc/motd /etc/old; cat /etc/old", "--name", "changed")
    changes = set(store.podman("diff", "changed").split("\n"))
    assert {"A /etc/new", "D /tmp", "D /etc/motd", "A /etc/old", "C /etc"} <= changes
    wait_until(lambda: store.left() == [], "the end of the container's mount")
    store.podman("commit", "changed", "changed:1")
    store.podman("rm", "changed")
    script = "cat /etc/new /etc/old; test ! -e /tmp; test ! -e /etc/motd"
    assert store.container("localhost/changed:1", script, "--rm") == "new\nas it was\n"
    assert any(re.search(r"lowerdir=\S+,upperdir=\S+,workdir=\S+", call) for call in store.calls())


def test_buildah_builds_an_image_of_several_layers(store: Store) -> None:
    image = busybox_image(store)
    store.build(f"""
FROM {image}
RUN echo one >/etc/one && mkdir /srv && echo page >/srv/page
RUN rm /etc/motd && mv /srv /www
RUN echo two >>/etc/one
""", "built:1")  # fmt: skip
    script = "cat /etc/one /www/page; test ! -e /srv; test ! -e /etc/motd"
    assert store.container("localhost/built:1", script, "--rm").split() == ["one", "two", "page"]
    assert max(call.count("/l/") for call in store.calls()) >= 4, "the layers were mounted one over another"


def test_podman_keeps_owners_in_xattrs(store: Store) -> None:
    """force_mask, for stores whose files cannot change hands: Podman passes xattr_permissions=2."""
    settings = store.base / "storage.conf"
    settings.write_text(settings.read_text() + "        force_mask = \"700\"\n")
    image = busybox_image(store)
    script = "echo x >/tmp/f; chown 5:6 /tmp/f; chmod 751 /tmp/f; stat -c '%a %u:%g' /tmp/f /etc/motd /tmp"
    assert store.container(image, script, "--name", "owners").splitlines() == ["751 5:6", "644 0:0", "755 0:0"]
    assert any("xattr_permissions=2" in call for call in store.calls())
    store.podman("commit", "owners", "owners:1")
    store.podman("rm", "owners")
    again = store.container("localhost/owners:1", "stat -c '%a %u:%g' /tmp/f", "--rm")
    assert again == "751 5:6\n"
    made = next(path for path in (store.base / "root/overlay").glob("*/diff/tmp/f"))
    assert (made.stat().st_uid, os.getxattr(made, "user.containers.override_stat")[:4]) == (0, b"5:6:")
