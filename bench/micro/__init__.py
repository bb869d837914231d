"""Micro benchmarks without a mount: the wire format and the union, one operation at a time."""
