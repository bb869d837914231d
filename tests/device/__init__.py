"""What touches /dev/fuse: mounting, unmounting, their errors, backing files."""
