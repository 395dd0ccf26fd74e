"""The forms of a report that are files for people: `--html`, `--markdown`, and what they are compared with."""

from __future__ import annotations

import argparse

from nnbuild.files import write_text
from nnbuild.report import baseline, difference, document


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `size` and `report` share."""
    parser.add_argument("--html", metavar="FILE", help="write the report as one page that needs nothing else")
    parser.add_argument("--markdown", metavar="FILE", help="write the report for a comment on a pull request")
    parser.add_argument("--against", metavar="OLD.size.json", help="name what changed since that build")


def write(arguments: argparse.Namespace, found: document.Document) -> bool:
    """Write the files that are asked for; whether there were any. Nothing is imported for those that are not."""
    old = _old(arguments.against, found)
    if arguments.html:
        from nnbuild.report.page import as_html

        write_text(arguments.html, as_html(found, old))
    if arguments.markdown:
        from nnbuild.report.markdown import as_markdown

        write_text(arguments.markdown, as_markdown(found, old))
    return bool(arguments.html or arguments.markdown)


def _old(path: str | None, found: document.Document) -> difference.Earlier | None:
    """The build to compare with: a file, or else the baseline that the document carries."""
    if path:
        return difference.of_document(document.read(path))
    return baseline.earlier(found["baseline"]) if found["baseline"] else None
