"""The FUSE kernel protocol, 7.31 to 7.45, as values: bytes in, values out and back. No I/O, stdlib only."""
