"""The commands of `python -m nnbuild`, one module each (`import_` for `import`, which Python keeps for itself)."""
