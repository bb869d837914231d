"""A Docker daemon, an image built by it, and a registry, each started once for all tests that ask."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image import programs
from tests.image.programs import Background, Docker

DOCKERFILE = """\
FROM base:1
LABEL a=b
ENV X=1
RUN mkdir -p /d/e && echo hi > /d/e/f && ln /d/e/f /d/e/g && chmod 4755 /d/e/f && ln -s /nowhere /d/s
RUN rm -rf /old && mkdir /old && echo new > /old/n
RUN rm /d/e/g; chown 1000:2000 /d; chmod 1777 /tmp; mknod /d/fifo p; mknod /d/null c 1 3; rm -r /gone
COPY 1.txt /x/y/1.txt
RUN dd if=/dev/zero of=/sparse bs=1 count=1 seek=1000000
RUN touch -d '2001-02-03 04:05:06' /x/y/1.txt
EXPOSE 80
VOLUME /v
WORKDIR /w
USER 5:6
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["echo hello"]
"""
_APPLETS = (
    "sh", "ls", "cat", "mkdir", "rm", "touch", "chmod", "chown", "ln", "echo", "dd", "mknod", "mv", "cp", "stat",
    "rmdir", "sleep", "true",
)  # fmt: skip


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    programs.need("dockerd", "docker", "busybox")
    if os.geteuid() != 0:
        pytest.skip("a Docker daemon of our own needs root")
    place = Path(tempfile.mkdtemp(prefix="ud-"))        # short: its path goes into a socket's address
    daemon = Background(
        ["dockerd", "--data-root", place / "data", "--exec-root", place / "exec", "-H", f"unix://{place}/sock",
         "--pidfile", place / "pid", "--iptables=false", "--bridge=none", "--storage-driver=overlay2"],
        place / "log",
    )  # fmt: skip
    try:
        if not daemon.wait_until(lambda: _answers(place / "sock")):
            pytest.skip(f"dockerd cannot run here: {(place / 'log').read_text()[-500:]}")
        yield Docker(place / "sock", place / "data")
    finally:
        daemon.stop()
        _unmount_below(place)
        shutil.rmtree(place)


def _answers(path: Path) -> bool:
    command = ["docker", "-H", f"unix://{path}", "version"]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def _unmount_below(place: Path) -> None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines()[::-1]:
        if (target := line.split(" ")[4]).startswith(f"{place}/"):
            subprocess.run(["umount", target], check=True)


@pytest.fixture(scope="session")
def busybox_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with a shell in it."""
    programs.need("busybox", "setcap")
    root = tmp_path_factory.mktemp("busybox")
    root.chmod(0o755)       # what an image has there; Docker ignores it, others do not
    for name in ("bin", "etc", "tmp", "old", "gone/deep"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin/busybox")
    for applet in _APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "old/f").write_text("x\n")
    (root / "gone/deep/f").write_text("y\n")
    (root / "etc/empty").write_text("")
    (root / "bin/capped").write_text("#!/bin/sh\n")
    programs.run("setcap", "cap_net_raw+ep", root / "bin/capped")
    return root


@pytest.fixture(scope="session")
def built(docker: Docker, busybox_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an image that Docker built here, with one of everything; its base is base:1."""
    command = ["tar", "--xattrs", "--xattrs-include=*", "-C", str(busybox_tree), "-c", "."]
    tar = subprocess.run(command, check=True, capture_output=True).stdout
    docker("import", "--change", 'CMD ["/bin/sh"]', "-", "base:1", stdin=tar)
    context = tmp_path_factory.mktemp("context")
    (context / "1.txt").write_text("hello\n")
    docker.build("test:img", context, DOCKERFILE)
    return "test:img"


@pytest.fixture(scope="session")
def saved(docker: Docker, built: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`docker save` of the built image and its base."""
    path = tmp_path_factory.mktemp("saved") / "images.tar"
    docker("save", "-o", path, built, "base:1")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """"HOST:PORT" of a registry without authorization."""
    yield from serve_registry(tmp_path_factory.mktemp("registry"), "")


def serve_registry(place: Path, more: str) -> Iterator[str]:
    """A real registry on loopback; `more` is added to its configuration."""
    programs.need("docker-registry")
    address = f"127.0.0.1:{free_port()}"
    config = place / "config.yml"
    config.write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {place}/data\nhttp:\n  addr: {address}\n{more}"
    )
    server = Background(["docker-registry", "serve", config], place / "log")
    try:
        assert server.wait_until(lambda: listens(address)), (place / "log").read_text()
        yield address
    finally:
        server.stop()


def listens(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True
