"""The objects of the union while someone knows them: inodes and merged directories."""

from __future__ import annotations

from stat import S_IFDIR

TYPE_CHECKING = False  # `typing` itself would cost 4 ms of start-up
if TYPE_CHECKING:
    from unionfs.union.data import File
    from unionfs.union.merge import Names

UPPER = 0  # index of the writable layer; read-only stacks have no layer 0, their lowers still count from 1
NOWHERE = -1
HERE = None
UNKNOWN = (-1, b"")
KINDS = [dtype << 12 for dtype in range(16)]  # S_IFMT(mode) is KINDS[mode >> 12], without 32 bytes for each node's own


class Node:
    """One inode of the union. Names that are hard links of each other lead to the same Node.

    Where it lives: layer `layer`, directory `parent` (which has a part in that layer), under `name`; or, when an upper
    object has lost that name, behind the O_PATH descriptor `fd`. `linked` says that (parent, name) is a name of it in
    the union; a lower object stays reachable there also when it is not. `links` is what st_nlink shows, NOWHERE: what
    the layer says. `data` is where the bytes are: HERE, with the metadata; (layer, path from its root), for metacopy;
    UNKNOWN until someone needs them. `bare`: it was made through this mount and nobody has given it an xattr since.
    nodeid, lookups and front belong to the front end. Of them the union reads lookups alone, and only whether it is 0:
    then the front end does not know the node.

    There may be a million of them: what few have is kept elsewhere, in tables by node.
    """

    __slots__ = ("ino", "kind", "layer", "parent", "name", "fd", "linked", "links", "data", "bare", "files",
                 "names", "nodeid", "lookups", "front")
    is_dir = False

    def __init__(self, ino: int, kind: int, layer: int, parent: Dir, name: bytes) -> None:
        self.ino = ino
        self.kind = kind
        self.layer = layer
        self.parent = parent
        self.name = name
        self.fd = NOWHERE
        self.linked = True
        self.links = NOWHERE
        self.data: tuple[int, bytes] | None = UNKNOWN
        self.bare = False
        self.files: set[File] | None = None
        self.names: set[tuple[Dir, bytes]] | None = None  # every name it is known under, when it has several
        self.nodeid = 0
        self.lookups = 0
        self.front = 0

    @property
    def upper(self) -> bool:
        return self.layer == UPPER

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} ino={self.ino} layer={self.layer}>"


class Dir(Node):
    """A directory: its parts in the layers, top first, and what is known of its content.

    layers    indices of the layers that contribute, ascending; layers[0] holds the attributes
    paths     layer → path from that layer's root, for lowers (they never move); the upper's follows from `parent`
    fds       layer → descriptor, while open
    children  nodes in it that the front end knows, by name
    listing   the merged content once it has been read, else None
    probes    lookups answered layer by layer, before the content is worth reading whole
    removed   its name is gone; it is empty and stays so
    impure    the upper part may hold objects whose st_ino is that of a lower
    redirect  the mark on the upper part that says where the parts below it are; b"" for none
    opaque    nothing below the upper part shows through
    """

    __slots__ = ("layers", "paths", "fds", "children", "listing", "probes", "removed", "impure", "opaque", "redirect")
    is_dir = True

    def __init__(self, ino: int, layers: list[int], paths: dict[int, bytes], parent: Dir | None, name: bytes) -> None:
        super().__init__(ino, S_IFDIR, layers[0] if layers else UPPER, parent or self, name)
        self.layers = layers
        self.paths = paths
        self.fds: dict[int, int] = {}
        self.children: dict[bytes, Node] = {}
        self.listing: Names | None = None
        self.probes = 0
        self.removed = False
        self.impure = False
        self.opaque = False
        self.redirect = b""
