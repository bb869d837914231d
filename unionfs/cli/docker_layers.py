"""The layers of an image or a container of Docker's own store, for a mount."""

from __future__ import annotations

from unionfs.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.image.docker_store import Stack
    from unionfs.union.config import Config


def find(root: str, name: str) -> Stack:
    """What Docker has of that name below its data root ("": the usual one). Raises CommandError."""
    from unionfs.image import docker_store
    from unionfs.image.errors import ImageError

    try:
        return docker_store.find(root or docker_store.DEFAULT_ROOT, name)
    except ImageError as error:
        failed = CommandError(str(error))
        failed.exit_code = error.code
        raise failed from error
    except PermissionError as error:
        raise CommandError(f"{error.filename}: Docker's store can be read by root alone") from None


def put(found: Stack, config: Config, *, writable: bool) -> None:
    """Let `config` describe the stack. writable: as Docker itself mounts a stopped container; else all of it is
    read-only. Raises CommandError where that cannot be.
    """
    import os

    if writable and not found.upper:
        raise CommandError(f"{found.name} is an image, and Docker's images do not change: mount it without --rw")
    if writable and found.running:
        raise CommandError(
            f"the container {found.name} is running, and its kernel mount has that layer: stop it first"
        )
    lowers = found.lowers if writable or not found.upper else [found.upper, *found.lowers]
    if not lowers:
        raise CommandError(f"{found.name} has no layers: there is nothing to mount")
    config.lower = [os.fsencode(path) for path in lowers]
    if writable:
        config.upper, config.work = os.fsencode(found.upper), os.fsencode(found.work)
    config.readonly = not writable


def fill(config: Config, name: bytes, root: bytes) -> str:
    """What `unionfs mount -o docker=NAME` shows: writable only for a container that is stopped, and not with `ro`.

    A line for the user, or "". Raises CommandError.
    """
    import os

    from unionfs.cli.errors import UsageError

    if config.lower or config.data or config.upper is not None or config.work is not None:
        raise UsageError("option docker: it brings its layers along; leave lowerdir, datadir, upperdir and workdir out")
    found = find(os.fsdecode(root), os.fsdecode(name))
    put(found, config, writable=bool(found.upper) and not found.running and not config.readonly)
    return f"{found.name} is running: mounted read-only, and what it changes from now on may not show" * found.running
