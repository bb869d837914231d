"""A small root file system in three layers, made from files of this machine and a few of its own."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

BIG = 32 << 20  # bytes of the large files: enough to see what copying costs

# Files of this machine that the bottom layer takes along, where they exist.
_BORROWED = ("/etc/os-release", "/etc/protocols", "/etc/bash.bashrc", "/etc/login.defs", "/bin/ls")


def build(home: Path) -> list[Path]:
    """Makes the layers below `home`; top first, as lowerdir= lists them."""
    base, runtime, app = home / "base", home / "runtime", home / "app"
    _base(base)
    _runtime(runtime)
    _app(app)
    return [app, runtime, base]


def _base(root: Path) -> None:
    """The distribution: configuration, a program, documentation, and two large files."""
    for name in _BORROWED:
        if os.path.isfile(name):
            _parent(root / name[1:])
            shutil.copy2(name, root / name[1:])
    _write(root / "etc/motd", "Welcome to the base layer.\n")
    _write(root / "etc/legacy.conf", "nobody reads this any more\n")
    for page in ("install", "upgrade", "history"):
        _write(root / f"usr/share/doc/base/{page}.txt", f"{page}: as it was\n")
    pattern = bytes(range(256)) * 4096
    for name in ("words.db", "old.img"):
        _parent(root / "var/lib" / name)
        with open(root / "var/lib" / name, "wb") as file:
            for _ in range(BIG // len(pattern)):
                file.write(pattern)


def _runtime(root: Path) -> None:
    """What an image adds to it: an interpreter's library; and it removes a file of the layer below."""
    _write(root / "etc/motd", "Welcome to the runtime layer.\n")
    for module in ("core", "net", "text"):
        _write(root / f"usr/lib/runtime/{module}.lib", f"module {module}\n" * 50)
    whiteout(root / "etc/legacy.conf")


def _app(root: Path) -> None:
    """The application and its configuration."""
    _write(root / "etc/app.conf", "listen = 8080\n")
    _write(root / "srv/app/main.prog", "the application\n" * 100)
    _write(root / "srv/app/static/index.html", "<h1>hello</h1>\n")


def whiteout(path: Path) -> None:
    """Removes a name of the layers below: device 0:0 or, where that may not be made, as image layers do."""
    _parent(path)
    try:
        os.mknod(path, stat.S_IFCHR | 0o000, os.makedev(0, 0))
    except PermissionError:
        path.with_name(".wh." + path.name).touch()


def _write(path: Path, text: str) -> None:
    _parent(path)
    path.write_text(text)


def _parent(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
