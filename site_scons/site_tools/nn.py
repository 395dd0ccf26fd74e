"""The SCons tool `nn` of this checkout, for projects that have nnbuild as a git submodule.

Link to `site_scons` from beside your SConstruct, or run scons with `--site-dir`. Its manual is nnbuild/scons/nn.py.
"""

import os
import sys

_CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
if _CHECKOUT not in sys.path:
    sys.path.insert(0, _CHECKOUT)

from nnbuild.scons.nn import exists, generate  # noqa: E402

__all__ = ["exists", "generate"]
