"""The real tools that images are made and checked with: where they are, how they are run, stopped and waited for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

DEADLINE = 60.0
_PACKAGES = {
    "dockerd": "docker.io", "docker": "docker.io", "busybox": "busybox-static", "getcap": "libcap2-bin",
    "setcap": "libcap2-bin", "setfattr": "attr", "htpasswd": "apache2-utils",
    "newuidmap": "uidmap", "newgidmap": "uidmap",
}  # fmt: skip


def need(*programs: str) -> None:
    """Skip the test where a program is missing, saying which package brings it."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} (Debian package {_PACKAGES.get(program, program)})")


def run(*command: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """The command's standard output; an AssertionError with what it printed where it fails."""
    done = subprocess.run(
        [os.fspath(word) for word in command], input=stdin, capture_output=True, env=env, cwd=cwd, timeout=300
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
    return done.stdout.decode()


def unionfs(*arguments: str | Path, store: Path, fails: int = 0, stdin: bytes = b"", **env: str) -> str:
    """`unionfs image …` in a process of its own: its output, or what it says on failing with that exit code."""
    command = [sys.executable, "-bb", "-W", "error", "-m", "unionfs", "image", *[os.fspath(word) for word in arguments]]
    done = subprocess.run(
        [*command, "--store", os.fspath(store)], input=stdin, capture_output=True, env={**os.environ, **env},
        timeout=300,
    )  # fmt: skip
    said = f"{command}: {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
    assert done.returncode == fails, said
    return done.stderr.decode() if fails else done.stdout.decode()


class Background:
    """A program that runs until the end of a fixture."""

    def __init__(self, command: Sequence[str | Path], log: Path) -> None:
        self.log = log
        environment = {**os.environ, "TMPDIR": os.fspath(log.parent)}  # where containerd writes what nobody asked for
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [os.fspath(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment
            )

    def wait_until(self, ready: Callable[[], bool]) -> bool:
        """Whether it became ready before it ended or the deadline passed."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self.process.poll() is None:
            if ready():
                return True
            time.sleep(0.05)
        return False

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Docker:
    """A daemon of our own, with the overlay2 driver, and its client."""

    def __init__(self, socket: Path, data: Path) -> None:
        self.socket = socket
        self.data = data

    def __call__(self, *arguments: str | Path, stdin: bytes = b"") -> str:
        env = {**os.environ, "DOCKER_HOST": f"unix://{self.socket}", "DOCKER_BUILDKIT": "0"}
        return run("docker", *arguments, stdin=stdin, env=env)

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("inspect", name))[0]
        return found

    def layers(self, name: str) -> list[Path]:
        """The unpacked layers of an image or container, bottom first."""
        data = self.inspect(name)["GraphDriver"]["Data"]
        lowers = data.get("LowerDir", "").split(":") if data.get("LowerDir") else []
        return [Path(path) for path in [data["UpperDir"], *lowers]][::-1]

    def build(self, name: str, context: Path, dockerfile: str) -> None:
        (context / "Dockerfile").write_text(dockerfile)
        self("build", "--network=none", "-q", "-t", name, context)
