"""`unionfs image`: container images without Docker. Each action is a function in a module of its own kind."""

from __future__ import annotations

import os
from errno import EDQUOT, ENOSPC

from unionfs.cli.errors import CommandError, UsageError, shown

# name → (module, arguments, one line for the overview); the function in the module has the name with _ for -
ACTIONS = {
    "load": ("image_transfer", "FILE|DIR|-", "bring in what docker save, skopeo, buildah, umoci wrote"),
    "save": (
        "image_transfer",
        "NAME… -o FILE|DIR",
        "write an OCI layout, an OCI archive or a docker-archive",
    ),
    "pull": ("image_transfer", "NAME", "fetch an image from a registry"),
    "push": ("image_transfer", "NAME [TARGET]", "send an image to a registry"),
    "ls": ("image_show", "[NAME]", "the images of the store, with sizes shared and own"),
    "inspect": ("image_show", "NAME…", "config, layers and digests as JSON, as docker inspect prints them"),
    "history": ("image_show", "NAME", "how the image was made, step by step"),
    "layers": ("image_show", "NAME", "what each layer adds, changes, removes and wastes"),
    "diff": ("image_show", "A B | LAYER", "what differs between two images, or what a writable layer changes"),
    "explain": ("image_show", "NAME PATH", "which layer a path comes from, and what it hides"),
    "build": ("image_build", "[-t NAME] CONTEXT", "make an image from a Dockerfile"),
    "mount": ("image_work", "NAME MNT", "show an image's tree, read-only or with a writable layer"),
    "run": ("image_work", "NAME [CMD…]", "run a command in a throwaway writable layer"),
    "commit": ("image_work", "LAYER|MNT NEW", "make a writable layer the top layer of a new image"),
    "writable": ("image_work", "[--rm LAYER]", "the writable layers that are kept or mounted"),
    "tag": ("image_keep", "NAME NEW", "another name for an image"),
    "rm": ("image_keep", "NAME…", "remove a name, and the image with its last one"),
    "gc": ("image_keep", "", "give back what no image needs"),
}


def run(argv: list[bytes]) -> int:
    """`unionfs image ACTION …`."""
    from unionfs.image.errors import ImageError

    action = os.fsdecode(argv[0]) if argv else "--help"
    if action in ("--help", "-h", "help"):
        print(overview(), end="")
        return 0
    if action not in ACTIONS:
        raise _unknown(action)
    from importlib import import_module

    module, arguments, line = ACTIONS[action]
    if any(word in (b"--help", b"-h") for word in argv[1:]):
        function = getattr(import_module("unionfs.cli." + module), action)
        print(f"usage: unionfs image {action} {arguments}\n\n{(function.__doc__ or line).rstrip()}")
        return 0
    try:
        return int(getattr(import_module("unionfs.cli." + module), action)(argv[1:]))
    except ImageError as error:
        failed = CommandError(str(error))
        failed.exit_code = error.code
        raise failed from error
    except BrokenPipeError:  # `unionfs image ls | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        where = f"{shown(os.fsencode(error.filename))}: " if error.filename else ""
        if not where and error.errno in (ENOSPC, EDQUOT):
            where = "the disk of the store, or of the output: "
        raise CommandError(where + (error.strerror or str(error))) from error


def overview() -> str:
    rows = "".join(f"  {name:<9}{arguments:<20}{line}\n" for name, (_, arguments, line) in ACTIONS.items())
    return (
        f"usage: unionfs image ACTION … [--store DIR]\n\n{rows}\n"
        "The store is /var/lib/unionfs for root, else $XDG_DATA_HOME/unionfs; --store or $UNIONFS_STORE name "
        "another.\n"
    )


def _unknown(name: str) -> UsageError:
    from difflib import get_close_matches

    near = get_close_matches(name, ACTIONS, 1)
    hint = f"did you mean '{near[0]}'?" if near else "see unionfs image --help"
    return UsageError(f"unknown action '{shown(os.fsencode(name))}' of unionfs image; {hint}")
