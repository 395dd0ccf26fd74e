"""Families of kernels that several operators name; the operators' own kernels stand beside them in `nnbuild/ops`."""
