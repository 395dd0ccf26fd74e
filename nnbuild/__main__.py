"""`python -m nnbuild`."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  NNPYTHON may name a Python that cannot read the rest
    version = ".".join(str(number) for number in sys.version_info[:2])
    sys.exit(f"{sys.executable}: Python {version} is too old for nnbuild; hint: take 3.11 or newer")

from nnbuild.cli import main

sys.exit(main())
