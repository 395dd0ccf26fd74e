"""Accept a build: keep its figures as the baseline that the growth of later builds is held against.

The file holds only what is compared, sorted, and is meant to be committed. Images that are not named keep their
figures.

    python -m nnbuild baseline size-baseline.json build/fw.elf=build/fw.size.json
"""

from __future__ import annotations

import argparse

from nnbuild.errors import ConfigError
from nnbuild.report import baseline, document


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `baseline`."""
    parser.add_argument("file", metavar="BASELINE.json", help="the file to write, or to add to")
    parser.add_argument("images", nargs="+", metavar="IMAGE=SIZE.json", help="an image's name, and its size report")


def run(arguments: argparse.Namespace) -> int:
    """Read the reports, write the baseline."""
    documents = {}
    for word in arguments.images:
        image, equals, path = word.rpartition("=")
        if not equals or not image:
            raise ConfigError(f"takes IMAGE=SIZE.json, not '{word}'", "baseline")
        documents[image] = document.read(path)
    baseline.accept(arguments.file, documents)
    print(f"{arguments.file}: accepted {', '.join(documents)}")
    return 0
