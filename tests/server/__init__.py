"""The front end on its own: a fake core under it, sometimes a fake kernel above it, sometimes the real one."""
