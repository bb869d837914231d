"""Layouts and numbers against the compiler and the header of this machine, and the table against itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from struct import Struct

import pytest

from unionfs.server import handlers
from unionfs.wire import kernel, structs, table

HEADER = Path("/usr/include/linux/fuse.h")

# What the header of an old system may not have yet: checked against sizes known from the kernel's source.
NEWER = {
    "fuse_statx": 256, "fuse_statx_in": 24, "fuse_statx_out": 288,
    "fuse_backing_map": 16, "fuse_copy_file_range_out": 8,
}  # fmt: skip
# Structures of ours that are the head of the kernel's: the rest is packed separately.
HEADS = {"fuse_entry_out": 88, "fuse_attr_out": 88, "fuse_statx_out": 256}

LAYOUTS = {name: s for name, s in vars(structs).items() if isinstance(s, Struct) and name.startswith("fuse_")}
NUMBERS = {
    name: value for name, value in vars(kernel).items() if isinstance(value, int) and not name.startswith("STATX_")
}


def full_size(name: str) -> int:
    return LAYOUTS[name].size + HEADS.get(name, 0)


@pytest.mark.parametrize("name", sorted(NEWER))
def test_sizes_known_from_the_source(name: str) -> None:
    assert full_size(name) == NEWER[name]


@pytest.mark.skipif(not HEADER.exists() or not shutil.which("gcc"), reason="needs gcc and linux/fuse.h")
def test_sizes_and_numbers_agree_with_the_header(tmp_path: Path) -> None:
    """A program prints what the compiler makes of every structure and number of ours the header has."""
    text = HEADER.read_text()
    known_structs = [n for n in LAYOUTS if re.search(rf"struct {n} \{{", text)]
    known_numbers = [n for n in NUMBERS if re.search(rf"\b{n}\b", text)]
    assert len(known_structs) > 40
    assert len(known_numbers) > 100
    lines = [f'printf("{n} %zu\\n", sizeof(struct {n}));' for n in known_structs]
    lines += [f'printf("{n} %llu\\n", (unsigned long long)({n}));' for n in known_numbers]
    source = tmp_path / "sizes.c"
    source.write_text(
        "#include <stdio.h>\n#include <sys/ioctl.h>\n#include <linux/fuse.h>\n"
        "int main(void) {" + "\n".join(lines) + "return 0; }"
    )
    subprocess.run(["gcc", "-w", "-o", tmp_path / "sizes", source], check=True)
    output = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True).stdout
    found = {name: int(value) for name, value in (line.split() for line in output.splitlines())}
    ours = {n: full_size(n) for n in known_structs} | {n: NUMBERS[n] for n in known_numbers}
    version = found.pop("FUSE_KERNEL_MINOR_VERSION")
    del ours["FUSE_KERNEL_MINOR_VERSION"]
    for name, value in ours.items():
        # flags at bit 31 of an int are negative in C
        assert found[name] & 0xFFFFFFFFFFFFFFFF == value, f"{name} in a header of 7.{version}"


def test_the_table_is_consistent() -> None:
    opcodes = [row[0] for row in table.ROWS]
    assert len(set(opcodes)) == len(opcodes)
    assert opcodes == sorted(opcodes)
    named = {v: n for n, v in NUMBERS.items() if re.fullmatch(r"FUSE_[A-Z0-9_]+", n)}
    for opcode, name, _struct, _strings, _decode, handler, _reply, since in table.ROWS:
        assert getattr(kernel, f"FUSE_{name}") == opcode, named
        assert since <= kernel.FUSE_KERNEL_MINOR_VERSION
        assert not handler or callable(handlers.HANDLERS[opcode])
