"""The commands of `python -m nnbuild`, one module each (`import_.py` for `import`, ...)."""
