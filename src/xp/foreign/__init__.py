"""Files from elsewhere: opened and checked here, within limits of size, in one module per kind of file.

A folder is data. Nothing in it runs, names a path outside, reaches a host, or costs more memory or disk than a stated
multiple of its own size. This is the lowest layer: the standard library, and numpy or pyarrow where they are needed.
"""
