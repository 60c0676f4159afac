"""The order of the packages of `mtrl` in docs/architecture.md against the imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2]
LIBRARY = PROJECT / "mtrl"
TABLE = (PROJECT / "docs" / "architecture.md").read_text().split("| package | contents |")[1].split("\n\n")[0]
ORDER = [name.rstrip("/") for row in TABLE.splitlines() for name in re.findall(r"`([\w/]+)`", row.partition(" | ")[0])]
ENTRY_POINTS = ("__init__", "__main__")


def package_of(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imported_packages(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mtrl."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mtrl."))


def test_every_package_has_one_place_in_the_order() -> None:
    found = {package_of(path) for path in LIBRARY.rglob("*.py")} - {*ENTRY_POINTS}
    assert sorted(ORDER) == sorted(found)


def test_packages_import_only_from_those_above_them() -> None:
    wrong = [
        f"{path.relative_to(PROJECT)} imports {name}"
        for path in sorted(LIBRARY.rglob("*.py"))
        if package_of(path) not in ENTRY_POINTS
        for name in imported_packages(path)
        if ORDER.index(name) > ORDER.index(package_of(path))
    ]
    assert wrong == []
