"""`make demo`: a stack of three layers, mounted for real, and copy-on-write at work on it, step by step.

Everything happens in a temporary directory that is gone at the end, as are the mounts, however it ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo import layers, show, tree

Snapshot = dict[str, str]


class Demo:
    """The stack below `home` and its mount. Each step is a method that begins with its heading."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.lowers = layers.build(home)
        self.upper, self.work, self.mnt = home / "upper", home / "work", home / "merged"
        for directory in (self.upper, self.work, self.mnt):
            directory.mkdir()
        self.before = [tree.snapshot(str(layer)) for layer in self.lowers]
        self.options = (
            f"lowerdir={':'.join(map(str, self.lowers))},upperdir={self.upper},workdir={self.work}"
        )

    # -- the command ------------------------------------------------------------------------

    def unionfs(self, *arguments: str) -> float:
        """Runs the real command; its seconds. Ends the demo where it fails."""
        show.command(" ".join(["unionfs", *arguments]).replace(f"{self.home}/", ""))
        program = Path(sys.executable).with_name("unionfs")
        prefix = [str(program)] if program.exists() else [sys.executable, "-m", "unionfs"]
        start = time.perf_counter()
        done = subprocess.run([*prefix, *arguments], check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(f"demo: unionfs {arguments[0]} failed with exit code {done.returncode}")
        return seconds

    def mount(self) -> float:
        return self.unionfs("mount", "-o", self.options, str(self.mnt))

    # -- the walk ---------------------------------------------------------------------------

    def walk(self) -> None:
        steps: list[tuple[str, Callable[[], None]]] = [
            ("Three layers, and an empty one on top of them", self.show_layers),
            ("Mounted: one tree", self.show_mount),
            ("Reading goes through the layers, from the top", self.show_reading),
            ("Changing a file of a lower layer copies it up first", self.show_copy_up),
            ("Deleting leaves a whiteout", self.show_whiteout),
            ("A directory that replaces another is opaque", self.show_opaque),
            ("Renaming a directory of a lower layer leaves a redirect", self.show_redirect),
            ("Unmounted and mounted again: the same tree", self.show_remount),
            ("The kernel's own overlay on the same directories", self.show_kernel),
        ]
        for number, (heading, action) in enumerate(steps, 1):
            show.step(number, heading)
            action()

    def show_layers(self) -> None:
        rows: list[tuple[str, ...]] = [("layer", "names", "data", "for example")]
        for layer, example in zip(
            self.lowers, ("srv/app/main.prog", "usr/lib/runtime/core.lib", "etc/login.defs"), strict=True
        ):
            count = len(tree.snapshot(str(layer))) - 1
            rows.append((layer.name, str(count), f"{tree.disk_use(str(layer)):,}", example))
        show.table([*rows, ("upper", "0", "0", "(writable)")])

    def show_mount(self) -> None:
        seconds = self.mount()
        with open("/proc/mounts") as mounts:
            show.result(next(line.strip() for line in mounts if line.split()[1] == str(self.mnt)))
        show.check(True, f"mounted {seconds * 1e3:.0f} ms after the command was started")

    def show_reading(self) -> None:
        rows: list[tuple[str, ...]] = [("file on the mount", "its content begins with", "comes from")]
        names = ("etc/motd", "etc/app.conf", "usr/lib/runtime/core.lib", "usr/share/doc/base/install.txt")
        for name in names:
            layer = next(layer for layer in self.lowers if (layer / name).exists())
            rows.append((name, (self.mnt / name).read_text().splitlines()[0], layer.name))
            same = (self.mnt / name).read_bytes() == (layer / name).read_bytes()
            show.check(same, f"{name} is {layer.name}'s")
        show.table(rows)
        show.check(not (self.mnt / "etc/legacy.conf").exists(),
                   "etc/legacy.conf of base is hidden by a whiteout in runtime")  # fmt: skip
        show.check(not any(self.upper.iterdir()), "nothing was written: upper is empty")

    def show_copy_up(self) -> None:
        name = "var/lib/words.db"
        reader = os.open(self.mnt / name, os.O_RDONLY)
        show.say(f"A reader holds {name} open ({show.size(layers.BIG)}). Now one byte of it changes:")
        first = _timed(lambda: _overwrite(self.mnt / name, b"!"))
        again = _timed(lambda: _overwrite(self.mnt / name, b"?"))
        held = os.pread(reader, 1, 0)
        os.close(reader)
        show.table([
            ("", "time", "data in upper"),
            ("first write, with copy-up", show.micros(first), show.size(tree.disk_use(str(self.upper)))),
            ("second write", show.micros(again), ""),
        ])  # fmt: skip
        with open(self.home / "base" / name, "rb") as file:
            show.check(file.read(1) == b"\0", "base still has the old byte")
        with open(self.upper / name, "rb") as file:
            show.check(file.read(1) == b"?", "upper has the new one")
        show.check(held == b"?", "and the reader, who opened the file before all that, sees it")

    def show_whiteout(self) -> None:
        name = "var/lib/old.img"
        before = tree.disk_use(str(self.upper))
        show.command(f"rm merged/{name}      # {show.size(layers.BIG)} in base")
        seconds = _timed(lambda: os.unlink(self.mnt / name))
        self._show_marks(name)
        show.check(not (self.mnt / name).exists(), "gone from the mount")
        show.check((self.home / "base" / name).exists(), "still in base")
        copied = tree.disk_use(str(self.upper)) - before
        show.check(copied <= 4096, f"removed in {show.micros(seconds)}; data copied: {show.size(copied)}")

    def show_opaque(self) -> None:
        name = "usr/share/doc/base"
        show.command(f"rm -r merged/{name} && mkdir merged/{name} && echo … >merged/{name}/new.txt")
        shutil.rmtree(self.mnt / name)
        (self.mnt / name).mkdir()
        (self.mnt / name / "new.txt").write_text("the only page\n")
        self._show_marks(name)
        show.check(os.listdir(self.mnt / name) == ["new.txt"], "the old pages do not shine through")

    def show_redirect(self) -> None:
        show.command("mv merged/srv/app merged/srv/service")
        seconds = _timed(lambda: os.rename(self.mnt / "srv/app", self.mnt / "srv/service"))
        self._show_marks("srv/")
        show.check((self.mnt / "srv/service/static/index.html").exists(), "the whole directory moved")
        gone = not (self.mnt / "srv/app").exists()
        show.check(gone, f"and its old name is gone, in {show.micros(seconds)}")

    def show_remount(self) -> None:
        before = tree.snapshot(str(self.mnt))
        self.unionfs("umount", str(self.mnt))
        show.check(not any(self.mnt.iterdir()), "unmounted: the mount point is an empty directory")
        self.mount()
        self._same(before, tree.snapshot(str(self.mnt)), "before and after")
        self.final = before

    def show_kernel(self) -> None:
        self.unionfs("umount", str(self.mnt))
        options = self.options + ",redirect_dir=on,index=on,xino=off"
        show.command("mount -t overlay overlay -o …,redirect_dir=on,index=on merged")
        done = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(self.mnt)],
                              capture_output=True, text=True, check=False)  # fmt: skip
        if done.returncode:
            why = (done.stderr.strip() or "no reason given").splitlines()[0]
            show.skipped(f"not possible here, so not compared ({why})")
            return
        try:
            self._same(self.final, tree.snapshot(str(self.mnt)), "on unionfs and on the kernel's overlay")
        finally:
            subprocess.run(["umount", str(self.mnt)], check=True)

    # -- what several steps need ------------------------------------------------------------

    def _show_marks(self, prefix: str) -> None:
        for path, mark in tree.marks(str(self.upper)):
            if path.replace(".wh.", "").startswith(prefix):
                show.result(f"upper/{path}: {mark}")

    def _same(self, first: Snapshot, second: Snapshot, where: str) -> None:
        names = sorted(first.keys() | second.keys())
        differing = [name for name in names if first.get(name) != second.get(name)]
        for name in differing[:5]:
            show.result(f"{name}\n  {first.get(name)}\n  {second.get(name)}")
        what = "types, modes, owners, times, xattrs and contents"
        show.check(not differing, f"{len(first)} names are the same {where}: {what}")

    def show_end(self) -> None:
        same = [tree.snapshot(str(layer)) for layer in self.lowers] == self.before
        show.check(same, "the three lower layers are bit for bit what they were")

    def clean_up(self) -> None:
        """Whatever happened: no mount, no daemon, no file."""
        if os.path.ismount(self.mnt):
            subprocess.run([sys.executable, "-m", "unionfs", "umount", "--lazy", str(self.mnt)], check=False)


def _timed(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _overwrite(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, data, 0)
    os.close(fd)


def main() -> int:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # in order with the command's output
    show.title("unionfs: copy-on-write at work")
    home = Path(tempfile.mkdtemp(prefix="unionfs-demo-"))
    demo = None
    try:
        demo = Demo(home)
        demo.walk()
        show.step(10, "What is left")
        demo.show_end()
    finally:
        if demo is not None:
            demo.clean_up()
        shutil.rmtree(home, ignore_errors=True)
    show.check(not left_behind(str(home)), "nothing is mounted, no process runs, no file stays behind")
    return 0


def left_behind(home: str) -> list[str]:
    """Mounts below `home`, processes that were started with a path there, and `home` itself if it exists."""
    with open("/proc/mounts") as mounts:
        found = [line for line in mounts if line.split()[1].startswith(home)]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(home) in words:
            found.append(f"process {pid}")
    return found + ([home] if os.path.exists(home) else [])


if __name__ == "__main__":
    sys.exit(main())
