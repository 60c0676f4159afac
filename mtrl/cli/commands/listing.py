"""`mtrl list`: the registered classes with their settings, and the tasks of a suite."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
from rich import box
from rich.table import Table
from rich.text import Text

from mtrl.api.plugins import import_plugins
from mtrl.cli.flags import FlagParser, hyphenated
from mtrl.config.schema import CONFIG_GROUPS, REGISTRY_GROUPS, ConfigGroup, config_class, named_modules, resolve_config
from mtrl.config.validation import plain, shown
from mtrl.env.suite import Suite, suites
from mtrl.errors import BadInput
from mtrl.loggers.chosen import LOGGER
from mtrl.loggers.console import make_console
from mtrl.registry import nearest, trust_module

MAX_TASKS = 4
"""Of a suite that a list of suites names."""

_SIZED_ON = "MT10 (39 features, 8 outputs, 10 tasks)"
_MT10 = {"in_features": 39, "out_features": 8, "num_tasks": 10}

_PLURALS = {"policy": "policies", "auxiliary": "auxiliaries"}
KINDS = {_PLURALS.get(group.name, f"{group.name}s"): group for group in (*REGISTRY_GROUPS, LOGGER)}


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code. Raises BadInput."""
    parser = FlagParser("list", "List what can be chosen. mtrl train --agent NAME --help explains each setting.")
    known = ", ".join([*KINDS, "tasks"])
    parser.add_argument("kind", metavar="KIND", nargs="?", help=known)
    parser.add_argument(
        "tasks_of", metavar="SUITE", nargs="?", help="of the tasks, with settings such as --suite.goals"
    )
    parser.add_plugin_flag()
    without_help = [argument for argument in hyphenated(arguments) if argument not in ("-h", "--help")]
    first = vars(parser.parse_known_args(without_help)[0])
    kind, suite = first.get("kind"), first.get("tasks_of")
    if kind != "tasks" or suite is None:
        parser.parse_known_args(hyphenated(arguments))  # prints the help if it is asked for; that of a suite has more
    if kind is not None and kind not in (*KINDS, "tasks"):
        raise BadInput(f"unknown kind {shown(kind)}{nearest(kind, [*KINDS, 'tasks'])}; known: {known}")
    if suite is not None and kind != "tasks":
        raise BadInput(f"unexpected argument {shown(suite)}")
    if kind == "tasks" and suite is None:
        raise BadInput("a suite is missing: mtrl list tasks SUITE")
    import_plugins(first.get("plugin", []), {"suite": suite} if suite else None)
    if suite:
        cls = config_class(CONFIG_GROUPS[0], suite)
        parser.add_settings(cls, cls(), parser.add_argument_group(f"suite {suite!r}"), prefix="suite")
    settings = parser.parse(arguments).get("suite", {})
    for module in named_modules(cls, settings) if suite else ():
        trust_module(module)
    tables = [_tasks(suite, settings)] if suite else [_classes(name, kind) for name in KINDS if kind in (None, name)]
    console = make_console()
    for table in tables:
        console.print(table)
    return 0


def titled_table(title: str) -> Table:
    """A table without columns, in the style of every list."""
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


def _tasks(suite: str, settings: Mapping[str, Any]) -> Table:
    """The tasks of a suite, with its default settings where there are no others. Raises BadInput."""
    choice = resolve_config({}, {"suite": {"name": suite, **settings}}).suite
    spec = CONFIG_GROUPS[0].find(suite)(suite, choice.config, 1).spec
    table = titled_table(f"tasks of {suite}")
    for column in ("index", "task", "steps per episode", "variations"):
        table.add_column(column, style="cyan" if column == "task" else "")
    for task in spec.tasks:
        variations = "unlimited" if task.num_variations is None else str(task.num_variations)
        table.add_row(str(task.index), Text(task.name), str(task.max_episode_steps), variations)
    table.caption = f"{spec.num_tasks} tasks; observations {spec.observation_space.shape}; actions {spec.action_space}"
    table.caption_justify = "left"
    return table


def _classes(title: str, asked: str | None) -> Table:
    """The classes of one kind; architectures asked for alone come with their sizes, which take seconds."""
    group = KINDS[title]
    if asked == "suites":
        return _outlined_suites()
    sizes = _sizes() if asked == "architectures" else None
    table = titled_table(title)
    table.add_column("name", style="cyan", no_wrap=True)
    table.add_column("what it is")
    table.add_column("settings")
    if sizes is not None:
        table.add_column("parameters", justify="right")
        table.add_column("MFLOP", justify="right")
        table.caption = f"Sizes of the actor on {_SIZED_ON}; million operations of matmuls per observation."
        table.caption_justify = "left"
    for row in _suites() if group.name == "suite" else _rows(group):
        table.add_row(*(Text(cell) for cell in (*row, *(sizes or {}).get(row[0], ()))))
    return table


def _sizes() -> Mapping[str, tuple[str, str]]:
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


def _rows(group: ConfigGroup) -> Iterator[tuple[str, str, str]]:
    for name, cls in group.registry.items():
        groups = ", ".join(getattr(cls, "group_gauges", ()))
        text = (cls.__doc__ or "").strip().partition("\n")[0]
        yield name, f"{text} Parameter groups: {groups}." if groups else text, _settings(cls)


def _suites() -> Iterator[tuple[str, str, str]]:
    """Every suite by name; the settings stand at the first of a class, which they are common to."""
    for cls in suites.classes():
        settings = _settings(cls)
        for name, text in cls.suite_names.items():
            yield name, text, settings
            settings = ""


def _outlined_suites() -> Table:
    """Every suite with its tasks and spaces."""
    table = titled_table("suites")
    table.add_column("name", style="cyan", no_wrap=True)
    for column in ("what it is", "tasks", "observations", "actions"):
        table.add_column(column)
    for cls in suites.classes():
        for name, text in cls.suite_names.items():
            table.add_row(*map(Text, (name, text, *_outline(cls, name))))
    table.caption = "mtrl list tasks SUITE names all tasks, mtrl train --suite SUITE --help the settings."
    table.caption_justify = "left"
    return table


def _outline(cls: type[Suite], name: str) -> tuple[str, str, str]:
    """Tasks and spaces of a suite, as far as there is room; nothing of a pattern such as `mt1-TASK`."""
    try:
        names, observations, actions = cls.outline(name)
    except BadInput:
        return "", "", ""
    except Exception as error:  # anybody's code
        return f"({type(error).__name__}: {error})", "", ""
    more = f" and {len(names) - MAX_TASKS} more" if len(names) > MAX_TASKS else ""
    return f"{len(names)}: {', '.join(names[:MAX_TASKS])}{more}", _sizes_of(observations), _sizes_of(actions)


def _sizes_of(space: gym.spaces.Box | gym.spaces.Discrete) -> str:
    return f"one of {space.n}" if isinstance(space, gym.spaces.Discrete) else f"{space.shape} {space.dtype}"


def _settings(cls: type) -> str:
    config: Any = getattr(cls, "Config", None)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        return "(has no dataclass Config)"
    try:
        values = plain(config())
    except (TypeError, ValueError) as error:
        return f"(Config cannot be made: {error})"
    return "\n".join(f"{name} = {'none' if value is None else value}" for name, value in values.items())
