"""Where the bytes of a metacopy file are: in a lower layer, under the same name or the one its redirect gives."""

from __future__ import annotations

import os
from errno import EIO, ENOENT, ENOTDIR
from stat import S_IFREG

from unionfs.union import marks
from unionfs.union.lookup import place
from unionfs.union.node import NOWHERE, Dir, Node
from unionfs.union.parts import kind_at, resolve_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.union.stack import Stack


def find_data(stack: Stack, node: Node) -> tuple[int, bytes] | None:
    """None where the bytes are with the metadata, else (lower layer, path from its root).

    They are in the next lower layer with a regular file that is no metacopy. Raises EIO where there is none: the
    stack is broken, and zeros would be a lie.
    """
    if node.layer >= stack.deepest:
        return None  # nothing below it could hold the data
    fd, name = place(stack, node)
    if stack.marks.metacopy not in marks.present(fd, name, stack.marks.prefix):
        return None
    layer, directory = node.layer, node.parent
    redirect = marks.read(fd, name, stack.marks.redirect)
    absolute: list[bytes] | None = None
    name = node.name
    while True:
        if redirect:
            parts = marks.parse_redirect(redirect)
            if parts[0] == b"":
                absolute, name = parts[1:], parts[-1]
                directory = resolve_path(stack, absolute[:-1], layer)
            else:
                absolute, name = None, parts[0]
        layer, path = _next_file(stack, directory, name, layer, absolute)
        above, _, name = path.rpartition(b"/")
        fd = stack.layers[layer].open_dir(above)
        try:
            if stack.marks.metacopy not in marks.present(fd, name, stack.marks.prefix):
                return layer, path
            redirect = marks.read(fd, name, stack.marks.redirect)
        finally:
            os.close(fd)


def _next_file(stack: Stack, directory: Dir, name: bytes, above: int,
               absolute: list[bytes] | None) -> tuple[int, bytes]:
    """(layer, path) of the next regular file below layer `above`; in data-only layers for an absolute path alone."""
    candidates = [(layer, directory.paths[layer]) for layer in directory.layers if layer > above]
    if absolute is not None:
        data_path = b"/".join(absolute[:-1])
        candidates += [(layer, data_path) for layer in range(max(above, stack.bottom) + 1, stack.deepest + 1)]
    for layer, base in candidates:
        fd = NOWHERE
        try:
            fd = stack.layers[layer].open_dir(base)
            kind = kind_at(stack, fd, name, layer)
        except OSError as error:
            if error.errno in (ENOENT, ENOTDIR):
                continue
            raise
        finally:
            if fd >= 0:
                os.close(fd)
        if kind == S_IFREG:
            return layer, base + b"/" + name if base else name
        if kind:
            break
    raise OSError(EIO, "a metacopy file without its data in any lower layer", name)
