"""`python -m nnbuild`."""

import sys

from nnbuild.cli import main

sys.exit(main())
