"""nnbuild: neural networks as ordinary source files of microcontroller firmware.

Importing this package imports nothing heavy: the SCons tool lives inside it and must load in milliseconds.
"""

__version__ = "0.1.0"
