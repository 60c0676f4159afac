"""The navigation of the documentation site; `make docs` builds it and refuses broken links."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
SITE = tomllib.loads((PROJECT / "zensical.toml").read_text())["project"]


def pages(entry: Any) -> Iterator[str]:
    """The files of a part of the navigation."""
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry.values() if isinstance(entry, dict) else entry:
            yield from pages(inner)


def test_every_page_is_in_the_navigation_once() -> None:
    found = sorted(pages(SITE["nav"]))
    own = [path.relative_to(PROJECT).as_posix() for path in PROJECT.glob("docs/*.md")]
    others = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/results/README.md"]
    others.append("benchmarks/results/NOTEBOOK.md")
    assert found == sorted([*own, *others]), "each page of docs/ has one line in zensical.toml"


def test_nothing_is_fetched_from_elsewhere() -> None:
    assert SITE["theme"]["font"] is False
