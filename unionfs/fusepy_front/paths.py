"""From libfuse's paths to the union's nodes: which nodes are known, for how long, and where unlinked ones are found."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from errno import ENOENT, ENOTDIR, ESTALE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.union import Dir, Node, Union

# Nodes kept although nobody has them open: about 400 bytes each. Below it nothing is ever looked up twice.
KNOWN = 50_000
_TRIES = 64  # nodes looked at for one that may be forgotten, so that no single request pays for all

# What libfuse renames an open file to instead of unlinking it: node id and a counter, so no name comes twice.
_HIDDEN = re.compile(rb"\.fuse_hidden[0-9a-f]{16,}")
_AHEAD = 64
_RETIRED = 1024  # such names remembered after the file was closed, for who is just opening it


class Handle:
    """An open file or directory, and the name it was opened by (libfuse keeps it by that name).

    file   the union's open file; None for a directory
    """

    __slots__ = ("node", "file", "directory", "name")

    def __init__(self, node: Node, directory: Dir, name: bytes) -> None:
        self.node = node
        self.file: File | None = None
        self.directory = directory
        self.name = name


class Paths:
    """All that front end B knows. `union.lock` guards it.

    known    nodes that the union keeps for us, least recently met first. `node.lookups` counts what holds a node:
             1 for being here, 1 for each open handle of a directory; `node.front` says that it was used lately
    hidden   libfuse's name for an unlinked open file → (its node, directory it had that name in)
    retired  such names whose files were closed lately
    handles  open files and directories, by the number that libfuse hands back
    """

    def __init__(self, union: Union, keep_links: bool, limit: int = KNOWN) -> None:
        """`keep_links`: never forget a file with several names, all of which the kernel may be told about."""
        self.union = union
        self.root = union.root
        self.limit = limit
        self.keep_links = keep_links
        self.known: OrderedDict[Node, None] = OrderedDict()
        self.hidden: dict[bytes, tuple[Node, Dir]] = {}
        self.retired: OrderedDict[bytes, None] = OrderedDict()
        self._counter = 0
        self.handles: dict[int, Handle] = {}
        self._next = 1

    # --- paths ---------------------------------------------------------------------------------------------------

    def node(self, path: bytes) -> Node:
        """The node at an absolute path. Raises ENOENT or ENOTDIR."""
        if path == b"/":
            return self.root
        directory, name = self.place(path)
        if name in self.hidden:
            return self.hidden[name][0]
        if name in self.retired:  # whoever came here by the file's old name is to look that up anew
            raise OSError(ESTALE, os.strerror(ESTALE), name)
        return self._child(directory, name)

    def place(self, path: bytes) -> tuple[Dir, bytes]:
        """The directory of a path and the name in it, whether or not there is such a name."""
        directory = self.root
        names = path.split(b"/")
        for name in names[1:-1]:
            child = directory.children.get(name)
            if child is None or not child.lookups:
                child = self._child(directory, name)
            if not child.is_dir:
                raise OSError(ENOTDIR, os.strerror(ENOTDIR), path)
            directory = child  # type: ignore[assignment]
        directory.front = 1
        return directory, names[-1]

    def _child(self, directory: Dir, name: bytes) -> Node:
        node = directory.children.get(name)
        if node is None:
            found = self.union.lookup(directory, name)
            if found is None:
                raise OSError(ENOENT, os.strerror(ENOENT), name)
            node = found[0]
        self.meet(node)
        return node

    def if_there(self, path: bytes) -> Node | None:
        """The node at a path; None where there is none."""
        try:
            return self.node(path)
        except FileNotFoundError:
            return None

    # --- knowing and forgetting ------------------------------------------------------------------------------------

    def meet(self, node: Node) -> None:
        """The node is in use now; know it from now on."""
        node.front = 1
        if not node.lookups:
            node.lookups = 1
            self.known[node] = None

    def trim(self) -> None:
        """Forget what has not been used for long. Only between requests: it takes nodes away."""
        known = self.known
        for _ in range(_TRIES):
            if len(known) <= self.limit:
                return
            node, _none = known.popitem(last=False)
            if node.front or not self._dispensable(node):
                node.front = 0
                known[node] = None
            else:
                node.lookups = 0
                self.union.forget(node)

    def _dispensable(self, node: Node) -> bool:
        if node.files or node in self.union.copying or node.lookups != 1:
            return False
        if node.names is not None and self.keep_links:
            return False
        return not (node.is_dir and node.children)  # type: ignore[attr-defined]

    def let_go(self, node: Node) -> None:
        """Forget a node that has lost its last name, unless someone has it open: nothing leads to it any more."""
        if node.linked or node.files or node in self.union.copying or node.lookups > 1:
            return
        if not any(node is kept for kept, _directory in self.hidden.values()):
            self.known.pop(node, None)
            node.lookups = 0
            self.union.forget(node)

    # --- unlinked open files ---------------------------------------------------------------------------------------

    def is_hiding(self, old: bytes, new: bytes) -> bool:
        """Whether a rename is libfuse's way to unlink an open file: in its directory, to the next name of its own.

        libfuse counts its names, threads may be a few ahead of each other: a program that calls a file so by itself
        does not come near.
        """
        above, _, name = new.rpartition(b"/")
        if old.rpartition(b"/")[0] != above or _HIDDEN.fullmatch(name) is None:
            return False
        return abs(int(name[-8:], 16) - self._counter) <= _AHEAD and name not in self.hidden

    def hide(self, node: Node, directory: Dir, name: bytes, hidden: bytes) -> None:
        """The file is about to lose a name, and libfuse then knows it by another one, which nobody sees."""
        self.hidden[hidden] = node, directory
        self._renamed(node, directory, name, directory, hidden)
        self._counter = max(self._counter, int(hidden[-8:], 16))

    def hide_not(self, node: Node, directory: Dir, name: bytes, hidden: bytes) -> None:
        """It has not lost it after all."""
        del self.hidden[hidden]
        self._renamed(node, directory, hidden, directory, name)

    def unhide(self, name: bytes) -> bool:
        """libfuse is done with a hidden name; False where it is none."""
        found = self.hidden.get(name)
        if found is not None:
            self._retire(name)
            self.let_go(found[0])
        return found is not None or name in self.retired

    def _retire(self, name: bytes) -> None:
        del self.hidden[name]
        self.retired[name] = None
        if len(self.retired) > _RETIRED:
            self.retired.popitem(last=False)

    def _retire_all(self, node: Node) -> None:
        """libfuse forgets to be done with a name in a directory that has gone, too."""
        for name in [name for name, (kept, _directory) in self.hidden.items() if kept is node]:
            self._retire(name)

    # --- handles ---------------------------------------------------------------------------------------------------

    def opened(self, handle: Handle) -> int:
        """The number for a handle."""
        if handle.file is None:
            handle.node.lookups += 1
        number = self._next
        self._next = number + 1
        self.handles[number] = handle
        return number

    def closed(self, number: int) -> None:
        """The last descriptor is gone."""
        handle = self.handles.pop(number)
        if handle.file is not None:
            self.union.release(handle.file)
            if not handle.node.files:
                self._retire_all(handle.node)
        else:
            handle.node.lookups -= 1
        self.let_go(handle.node)

    def moved(self, node: Node, old_dir: Dir, old: bytes, new_dir: Dir, new: bytes) -> None:
        """A name of the node was changed, and libfuse did the same to the handles it opened by that name."""
        if node.files:
            self._renamed(node, old_dir, old, new_dir, new)

    def _renamed(self, node: Node, old_dir: Dir, old: bytes, new_dir: Dir, new: bytes) -> None:
        for handle in self.handles.values():
            if handle.node is node and handle.directory is old_dir and handle.name == old:
                handle.directory, handle.name = new_dir, new

    # --- what else the kernel knows of the same inode --------------------------------------------------------------

    def other_names(self, node: Node, directory: Dir | None, name: bytes) -> list[bytes]:
        """The paths of all names of a node but the given one."""
        places = set(node.names or ())
        places.update((above, hidden) for hidden, (kept, above) in self.hidden.items() if kept is node)
        places.discard((directory, name))
        return [path for place in places if (path := self._path(*place))]

    def _path(self, directory: Dir, name: bytes) -> bytes:
        names = [name]
        while directory is not self.root:
            if directory.removed:
                return b""
            names.append(directory.name)
            directory = directory.parent
        return b"/" + b"/".join(reversed(names))


if TYPE_CHECKING:
    from unionfs.union import File
