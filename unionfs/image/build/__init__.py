"""Building images from Dockerfiles.

dockerfile   text → instructions
words        quoting and $VARIABLES in them
ignore       .dockerignore
tree         a stack of layers as a tree to read and write by path, without a mount
copying      COPY and ADD
state        what the instructions have made of the image so far
cache        steps done before
builder      one after the other
"""
