"""`mtrl list`: the registered classes, what they are and their settings with defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich import box
from rich.table import Table
from rich.text import Text

from mtrl.cli.flags import parse_flags
from mtrl.config.schema import PARTS, Part
from mtrl.config.validation import plain, shown
from mtrl.env.suite import suites
from mtrl.errors import BadInput
from mtrl.loggers.console import make_console
from mtrl.registry import nearest

_SIZED_ON = "MT10 (39 features, 8 outputs, 10 tasks)"
_MT10 = {"in_features": 39, "out_features": 8, "num_tasks": 10}

KINDS = {("policies" if part.name == "policy" else f"{part.name}s"): part for part in PARTS}


@dataclass(frozen=True, kw_only=True)
class ListFlags:
    """List what can be chosen. `mtrl train --agent NAME --help` says what each setting means."""

    kind: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="KIND", help=", ".join(KINDS))] = None
    plugin: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="MODULE", help="to import")
    ] = ()


def parse_list(arguments: Sequence[str]) -> ListFlags:
    """The request on the command line. Prints the help and raises SystemExit for `--help`. Raises BadInput."""
    request = parse_flags(ListFlags, arguments, command="list")
    if request.kind is not None and request.kind not in KINDS:
        raise BadInput(f"unknown kind {shown(request.kind)}{nearest(request.kind, KINDS)}; known: {', '.join(KINDS)}")
    return request


def print_listing(kind: str | None) -> None:
    """Prints a table for one kind of class, or for each; architectures alone with their sizes, which take seconds."""
    console = make_console()
    for name, part in KINDS.items():
        if kind == name == "architectures":
            console.print(_table(name, part, _sizes()))
        elif kind in (None, name):
            console.print(_table(name, part))


def _table(title: str, part: Part, sizes: Mapping[str, tuple[str, str]] | None = None) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", style="cyan", no_wrap=True)
    table.add_column("what it is")
    table.add_column("settings")
    if sizes is not None:
        table.add_column("parameters", justify="right")
        table.add_column("MFLOP", justify="right")
        table.caption = f"Sizes of the actor on {_SIZED_ON}; million operations of matrix products per observation."
        table.caption_justify = "left"
    for row in _suites() if part.name == "suite" else _classes(part):
        table.add_row(*(Text(cell) for cell in (*row, *(sizes or {}).get(row[0], ()))))
    return table


def _sizes() -> dict[str, tuple[str, str]]:
    """Parameters and million operations of every architecture at its defaults; what cannot be made has none."""
    from mtrl.networks import architectures
    from mtrl.networks.size import measure_size

    sizes = {}
    for name, cls in architectures.items():
        try:
            size = measure_size(cls, cls.Config(), **_MT10)
        except Exception as error:  # anybody's code
            sizes[name] = (f"({type(error).__name__}: {error})", "")
        else:
            sizes[name] = (f"{size.num_parameters:,}", f"{size.flops / 1e6:.2f}")
    return sizes


def _classes(part: Part) -> Iterator[tuple[str, str, str]]:
    for name, cls in part.registry.items():
        yield name, _first_line(cls), _settings(cls)


def _suites() -> Iterator[tuple[str, str, str]]:
    """Every suite by name; the settings stand at the first of a family, which they are common to."""
    for family in suites.classes():
        settings = _settings(family)
        for name, text in family.suite_names.items():
            yield name, text, settings
            settings = ""


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


def _settings(cls: type) -> str:
    config: Any = getattr(cls, "Config", None)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        return "(has no dataclass Config)"
    try:
        values = plain(config())
    except (TypeError, ValueError) as error:
        return f"(Config cannot be made: {error})"
    return "\n".join(f"{name} = {'none' if value is None else value}" for name, value in values.items())
