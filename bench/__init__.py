"""The benchmark suite of the repository: `compare` on mounts, `micro` without any."""
