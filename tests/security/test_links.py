"""Inode numbers come from marks that anyone who made the layers could write; they must not make two files one."""

from __future__ import annotations

import os
from pathlib import Path

from unionfs.layer import verbs
from unionfs.union import Config, Union
from unionfs.union.marks import pack_origin


def test_a_spoofed_origin_confuses_no_hard_links(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    for side, content in (("lower", "public"), ("upper", "secret")):
        (tmp_path / side / f"{side}1").write_text(content)
        os.link(tmp_path / side / f"{side}1", tmp_path / side / f"{side}2")
    root = os.open(tmp_path / "lower", os.O_PATH)
    kind, handle = verbs.handle(root, b"lower1")
    os.close(root)
    os.setxattr(tmp_path / "upper", "trusted.overlay.impure", b"y")
    for uuid in (bytes(16), b"u" * 16):
        os.setxattr(tmp_path / "upper/upper1", "trusted.overlay.origin", pack_origin(kind, handle, uuid))
        union = Union(Config(lower=[bytes(tmp_path / "lower")], upper=bytes(tmp_path / "upper"),
                             work=bytes(tmp_path / "work")))
        try:
            with union.lock:
                for first, second in ((b"lower1", b"upper1"), (b"upper2", b"lower2")):
                    nodes = [found[0] for name in (first, second) if (found := union.lookup(union.root, name))]
                    assert nodes[0] is not nodes[1]
                    for node, label in zip(nodes, (first, second), strict=True):
                        file = union.open(node, os.O_RDONLY)
                        assert os.pread(file.fileno(), 10, 0) == (b"public" if b"lower" in label else b"secret")
                        union.release(file)
        finally:
            union.close()
