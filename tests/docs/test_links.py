"""Relative links of the README and the pages point to files and headings that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
DOCUMENTS = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/results/README.md"),
    *(f"docs/{path.name}" for path in PROJECT.glob("docs/*.md")),
]


def anchors(path: Path) -> set[str]:
    """Anchors of the headings of a page: lower case, hyphens for spaces, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_every_relative_link_points_to_a_file_and_a_heading(name: str) -> None:
    page = PROJECT / name
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if not link.startswith("http")]
    broken = []
    for link in links:
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


def test_every_page_and_picture_is_linked() -> None:
    text = "".join((PROJECT / name).read_text() for name in DOCUMENTS)
    files = [path for path in (PROJECT / "docs").rglob("*") if path.suffix in (".md", ".png", ".svg")]
    assert [path.name for path in files if f"{path.name})" not in text and f"{path.name}#" not in text] == []
