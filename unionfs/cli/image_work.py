"""`unionfs image mount, run, commit, writable`: working in an image's tree."""

from __future__ import annotations

import os

from unionfs.cli.errors import CommandError, UsageError
from unionfs.cli.image_args import Arguments, command_after, report, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any

    from unionfs.image.sandbox import Process
    from unionfs.image.store import Image, Store
    from unionfs.image.writable import Writable

_MOUNT = {
    b"--rw": ("rw", False), b"--keep": ("keep", True), b"--docker": ("docker", False),
    b"--docker-root": ("docker-root", True), b"-o": ("options", True),
}  # fmt: skip


def mount(argv: list[bytes]) -> int:
    """Mounts an image's tree at MNT, read-only; unionfs umount MNT unmounts it. Meanwhile gc leaves its layers alone.

      --rw                with a writable layer, which is gone after the unmount
      --keep LAYER        with the writable layer of that name, which stays; made where there is none
      --docker            NAME is an image or a container in Docker's own store; --rw only for a stopped container,
                          whose changes are then Docker's
      --docker-root DIR   where that is (/var/lib/docker)
      -o OPTIONS          more mount options, as for unionfs mount
      --store DIR
    """
    arguments = Arguments(argv, _MOUNT, 2, 2, "mount NAME MNT [--rw | --keep LAYER] [--docker]")
    name, mountpoint = arguments.words
    if arguments.has("docker") or arguments.has("docker-root"):
        if arguments.has("keep"):
            raise UsageError("--keep is for images of the store; a container has its own writable layer: use --rw")
        _mount_docker(arguments, name, mountpoint)
        return 0
    from unionfs.cli.image_mount import Request, start
    from unionfs.image.find import find

    with arguments.store() as store:
        image = find(store, name)
        layer = _writable(store, image, arguments.get("keep")) if arguments.has("rw") or arguments.has("keep") else None
        lowers = _lowers(store, image)
        request = Request(lowers, *((layer.diff, layer.work) if layer else ()), rootless=store.rootless)
        request.options(arguments.get("options"))
        if layer is None:
            request.config.readonly = True
        else:
            layer.mounted_at(os.path.realpath(mountpoint))
            if not layer.kept:
                request.volatile()
                request.at_end = layer.discard
        start(store, image.layers(), request, mountpoint)
    return 0


def _lowers(store: Store, image: Image) -> list[str]:
    """The image's layers; an image without any is an empty directory."""
    lowers = image.lowerdirs()
    if not lowers:
        os.makedirs(store.path("empty"), 0o755, exist_ok=True)
        lowers = [store.path("empty")]
    return lowers


def _writable(store: Store, image: Image, name: str) -> Writable:
    """A new throwaway one, or the kept one of that name."""
    from unionfs.image import writable

    for layer in writable.every(store) if name else []:
        if layer.name == name:
            if layer.image != image.digest:
                raise CommandError(f"the writable layer {name} is over another image, {layer.image}")
            return layer
    return writable.make(store, image, name)


def _mount_docker(arguments: Arguments, name: str, mountpoint: str) -> None:
    from unionfs.cli import docker_layers
    from unionfs.cli.image_mount import Request, start

    found = docker_layers.find(arguments.get("docker-root"), name)
    request = Request([])
    docker_layers.put(found, request.config, writable=arguments.has("rw"))
    if found.running:
        report(f"{name} is running: what it changes from now on may not show here")
    request.options(arguments.get("options"))
    start(None, [], request, mountpoint)


_RUN = {
    b"-e": ("env", True), b"--env": ("env", True), b"-w": ("workdir", True), b"--workdir": ("workdir", True),
    b"-u": ("user", True), b"--user": ("user", True), b"--entrypoint": ("entrypoint", True),
    b"--keep": ("keep", True), b"--hostname": ("hostname", True),
}  # fmt: skip
_RUN_USAGE = "unionfs run [FLAGS] NAME [CMD…]"


def run(argv: list[bytes]) -> int:
    """Runs the image's command, or CMD after the image's entrypoint, in the image's tree with a writable layer that is
    gone afterwards, and exits with its exit code (125: not started, 126: not executable, 127: not found). The command
    has namespaces of its own for mounts, processes, IPC and host name, and Docker's default capabilities; the network
    is the host's.

      -e, --env NAME=VALUE      -w, --workdir DIR      -u, --user USER[:GROUP]      --hostname NAME
      --entrypoint CMD          instead of the image's ("": none)
      --keep LAYER              in the writable layer of that name, which stays
      --store DIR
    """
    from contextlib import ExitStack

    from unionfs.image import sandbox, userns
    from unionfs.image.find import find
    from unionfs.image.store import Store

    flags, name, command = command_after(argv, _RUN, _RUN_USAGE)
    given = dict(flags)
    userns.enter()
    with ExitStack() as stack:
        with Store(given.get("store") or None) as store:  # not longer, or a gc would wait for the command
            image = find(store, name)
            process = _process(image, flags, command)
            layer = _writable(store, image, given.get("keep", ""))
            stack.enter_context(run_root(store, image, layer))
        return sandbox.run(os.fsencode(layer.mnt), process)


def _process(image: Image, flags: list[tuple[str, str]], command: list[str]) -> Process:
    """What the image's config and the flags together say. Raises CommandError where that is no command."""
    from unionfs.image.sandbox import Process

    config: dict[str, Any] = image.config.get("config") or {}
    given = dict(flags)
    entrypoint = list(config.get("Entrypoint") or [])
    arguments = command or list(config.get("Cmd") or [])
    if "entrypoint" in given:
        entrypoint = [given["entrypoint"]] if given["entrypoint"] else []
        arguments = command
    argv = entrypoint + arguments
    if not argv:
        raise CommandError("the image has no command of its own: unionfs run NAME CMD…")
    env = dict(pair.split("=", 1) for pair in config.get("Env") or [] if "=" in pair)
    for flag, value in flags:
        if flag == "env":
            key, equals, text = value.partition("=")
            env[key] = text if equals else os.environ.get(key, "")
    cwd = given.get("workdir", config.get("WorkingDir") or "/")
    user = given.get("user", config.get("User") or "")
    return Process(argv, env, cwd, user, hostname=given.get("hostname", "unionfs"))


def run_root(store: Store, image: Image, layer: Writable) -> AbstractContextManager[None]:
    """The image with the writable layer, mounted at layer.mnt, with all that `sandbox.run` mounts on."""
    from unionfs.cli.image_mount import Request, mounted
    from unionfs.image import sandbox

    lowers = _lowers(store, image)
    points = os.path.join(layer.path, "points")
    if not os.path.isdir(points):
        os.mkdir(points, 0o755)
        sandbox.mount_points(points, lowers)
    request = Request([points, *lowers], layer.diff, layer.work, rootless=store.rootless)
    layer.mounted_at(layer.mnt)
    if not layer.kept:
        request.volatile()
        request.at_end = layer.discard
    return mounted(store, image.layers(), request, layer.mnt)


_COMMIT = {b"-m": ("message", True), b"--message": ("message", True), b"-a": ("author", True),
           b"--author": ("author", True)}  # fmt: skip


def commit(argv: list[bytes]) -> int:
    """Makes an image of a writable layer, named or by where it is mounted, and the image below it. Prints its ID.

      -m, --message TEXT, -a, --author NAME   for the history
      --store DIR
    """
    from unionfs.image import commit as committing
    from unionfs.image import reference, writable

    arguments = Arguments(argv, _COMMIT, 2, 2, "commit LAYER|MNT NEW")
    new = reference.parse(arguments.words[1]).familiar
    with arguments.store() as store:
        layer = writable.find(store, arguments.words[0])
        if layer.in_use() and layer.mountpoint:
            _sync(layer.mountpoint)
        image = committing.commit(
            store, layer.base(store), layer.diff, [new], created_by=f"unionfs image commit {new}",
            comment=arguments.get("message"), author=arguments.get("author"),
        )  # fmt: skip
    print(image.config_digest)
    return 0


def _sync(mountpoint: str) -> None:
    """What programs have written through shared mappings goes into the layer."""
    from unionfs import libc

    fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc.syncfs(fd)
    finally:
        os.close(fd)


def writable(argv: list[bytes]) -> int:
    """Lists the writable layers: those that are kept, and those that a mount has.

      --rm LAYER   remove it with what is in it
      --store DIR
    """
    from unionfs.image import writable as layers

    arguments = Arguments(argv, {b"--rm": ("rm", True)}, 0, 0, "writable [--rm LAYER]")
    with arguments.store() as store:
        if arguments.has("rm"):
            layer = layers.find(store, arguments.get("rm"))
            if layer.in_use():
                raise CommandError(f"{layer.name} is in use by the mount at {layer.mountpoint}: unmount that first")
            layer.discard()
            return 0
        rows = [["LAYER", "IMAGE", "KEPT", "MOUNTED AT"]]
        rows += [
            [layer.name, _image_name(store, layer), "yes" if layer.kept else "no",
             layer.mountpoint if layer.in_use() else ""]
            for layer in layers.every(store)
        ]  # fmt: skip
    table(rows)
    return 0


def _image_name(store: Store, layer: Writable) -> str:
    from unionfs.image.describe import short
    from unionfs.image.find import names_of

    base = layer.base(store)
    return next(iter(names_of(store, base)), short(base.config_digest))
