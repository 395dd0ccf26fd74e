"""The SCons side of nnbuild: it imports SCons, the standard library, and modules of nnbuild that need no more."""
