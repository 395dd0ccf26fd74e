"""The SCons side of nnbuild. Everything here imports the standard library, SCons and `nnbuild.config` only."""
