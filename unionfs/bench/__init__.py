"""Measuring mounts: engines, workloads and reports, shared by `unionfs bench` and the suite in `bench/`.

Nothing that serves a mount imports this package.
"""
