"""`mtrl relations`: how the tasks of a run are related, and which of them to train together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt
from rich.table import Table

from mtrl.api.plugins import import_plugins
from mtrl.checkpoints.files import printable, storage_faults
from mtrl.cli.flags import FlagParser
from mtrl.config.schema import chosen_suite, resolve_config
from mtrl.config.validation import validated
from mtrl.config.yaml_io import load_mapping
from mtrl.errors import BadInput
from mtrl.loggers.console import make_console, say
from mtrl.runs.run_directory import RunDirectory

if TYPE_CHECKING:  # they import torch, which takes long
    from mtrl.relations.relations_file import Relations
    from mtrl.relations.run_relations import MeasureSettings

NO_ZERO = ("rsa", "attribution", "fisher")
"""Measures without a value for a task that is trained alone."""


@dataclass(frozen=True, kw_only=True)
class RelationsSettings:
    """Settings of relations between tasks."""

    measure: Literal["cosine", "rsa", "attribution", "tag", "fisher", "transfer"] = "cosine"  # how they are measured
    output: str | None = None  # folder for relations.json and relations.png; None: relations/MEASURE in the first run
    checkpoint: str = "latest"  # latest, or the step of one that can be resumed
    groups: PositiveInt | None = None  # also divide the tasks into so many groups
    budget: PositiveInt | None = None  # also choose at most so many networks and their tasks; up to 12 tasks

    def __post_init__(self) -> None:
        if self.checkpoint != "latest" and not self.checkpoint.isdecimal():
            raise BadInput(f"checkpoint: {self.checkpoint!r} is not allowed; must be latest or a step")
        if self.budget and self.measure in NO_ZERO:
            raise BadInput(
                f"budget: {self.measure} does not say what a task gains by company; use cosine, tag or transfer, "
                "or --groups"
            )


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code. Raises MtrlError."""
    from mtrl.relations.run_relations import MeasureSettings

    parser = FlagParser("relations", "Measure how the tasks of a run are related, and which to train together.")
    help_text = "run directory; several are averaged (seeds of one suite), or, for transfer, compared"
    parser.add_argument("runs", metavar="RUN", nargs="+", help=help_text)
    parser.add_settings(RelationsSettings, RelationsSettings())
    amounts = parser.add_argument_group("data")
    parser.add_settings(MeasureSettings, MeasureSettings(), amounts)
    parser.add_plugin_flag()
    flags = parser.parse(arguments)
    paths, modules = [Path(path) for path in flags.pop("runs")], flags.pop("plugin", [])
    of_measure = {
        field.name: flags.pop(field.name) for field in dataclasses.fields(MeasureSettings) if field.name in flags
    }
    settings = validated(RelationsSettings, flags, "")
    amount = validated(MeasureSettings, of_measure, "")
    documents = [load_mapping(RunDirectory.open(path).config(), str(path / "config.yaml")) for path in paths]
    plugins = import_plugins(modules, {}, warm_up=chosen_suite(documents[0], {}))
    for document in documents:
        resolve_config(document, plugins=plugins)

    found = _transfer(paths) if settings.measure == "transfer" else _measured(paths, settings, amount, plugins)
    found = _with_choices(found, settings)
    folder = Path(settings.output) if settings.output else paths[0] / "relations" / settings.measure
    _show(found)
    say(str(found.write(folder)))
    _draw(found, folder)
    return 0


def _measured(
    paths: Sequence[Path], settings: RelationsSettings, amount: MeasureSettings, plugins: Sequence[str]
) -> Relations:
    """Mean and spread over the runs."""
    import numpy as np

    from mtrl.optim.torch_defaults import torch_defaults
    from mtrl.relations.continuation import continued
    from mtrl.relations.relations_file import Relations
    from mtrl.relations.run_relations import MEASURES

    first = _tasks_of(paths[0])
    for path in paths[1:]:
        if (other := _tasks_of(path)) != first:
            raise BadInput(
                f"{paths[0]} has the tasks {_named(first)} and {path} {_named(other)}; runs of one suite only"
            )
    found, about = [], []
    for path in paths:
        with torch_defaults(), continued(path, settings.checkpoint, plugins) as run:
            found.append(MEASURES[settings.measure](run, amount).double().cpu().numpy())
            about.append({"path": str(path), "seed": run.config.settings.seed, "env_steps": run.step})
            suite, tasks = run.spec.name, run.spec.task_names
    return Relations(
        measure=settings.measure,
        suite=suite,
        tasks=tasks,
        affinity=np.mean(found, axis=0),
        spread=np.std(found, axis=0) if len(found) > 1 else None,
        runs=about,
        settings=dataclasses.asdict(amount),
    )


def _tasks_of(path: Path) -> list[str]:
    tasks = RunDirectory.open(path).meta().get("tasks")
    return [*map(str, tasks)] if isinstance(tasks, list) else []


def _named(tasks: Sequence[str]) -> str:
    return printable(", ".join(tasks), 80)


def _transfer(paths: Sequence[Path]) -> Relations:
    """From the last evaluations of finished runs."""
    from mtrl.relations.relations_file import Relations
    from mtrl.relations.transfer import Result, transfer
    from mtrl.report.methods import NOT_OF_A_METHOD, differing
    from mtrl.report.runs import Run, read_runs, settings_text

    def compared(run: Run) -> tuple[str, ...]:
        settings = settings_text(run.meta, "seed_settings", "task_settings")
        return run.protocol.name, settings, run.protocol.score

    runs, left_out = read_runs([str(path) for path in paths])
    for line in left_out:
        say(f"left out: {line}")
    protocol = runs[0].protocol
    for run in runs[1:]:
        if compared(run) != compared(runs[0]):
            raise BadInput(
                f"{runs[0].path} was evaluated by {protocol.name} and {run.path} by {run.protocol.name}, or with other "
                "settings; scores of other protocols cannot be compared"
            )
    expected = {*NOT_OF_A_METHOD, "total_env_steps", "num_envs", "agent.batch_size"}
    settings = [{name: own for name, own in run.config.items() if name not in expected} for run in runs]
    if others := [name for name in differing(settings) if name != "suite.name"]:
        say(f"the runs differ in more than their tasks: {', '.join(others)}")
    results = [Result(dict(zip(run.protocol.tasks, run.scores.tolist(), strict=True)), run.env_steps) for run in runs]
    tasks, affinity, comparisons = transfer(results)
    return Relations(
        measure="transfer",
        suite=max(runs, key=lambda run: len(run.protocol.tasks)).protocol.suite,
        tasks=tasks,
        affinity=affinity,
        runs=[{"path": str(run.path), "seed": run.seed, "env_steps": run.env_steps} for run in runs],
        settings={"score": protocol.score},
        transfer=[{**dataclasses.asdict(own), "difference": own.difference} for own in comparisons],
    )


def _with_choices(found: Relations, settings: RelationsSettings) -> Relations:
    """The groups and networks that the settings ask for."""
    from mtrl.relations import choose_networks, groups

    def named(tasks: Sequence[int]) -> list[str]:
        return [found.tasks[task] for task in tasks]

    if settings.groups is not None:
        found = dataclasses.replace(found, groups=[named(own) for own in groups(found.affinity, settings.groups)])
    if settings.budget is not None:
        chosen, _ = choose_networks(found.affinity, settings.budget)
        networks = [{"trained_on": named(own.trained_on), "serves": named(own.serves)} for own in chosen]
        found = dataclasses.replace(found, networks=networks)
    return found


def _show(found: Relations) -> None:
    """The closest and the most distant pairs, the groups and networks, and what training together costs each task."""
    import numpy as np

    pairs = [
        (float(found.affinity[row, column]), f"{helper} -> {task}")
        for row, helper in enumerate(found.tasks)
        for column, task in enumerate(found.tasks)
        if row != column and np.isfinite(found.affinity[row, column])
    ]
    pairs.sort(reverse=True)
    for title, own in (("closest", pairs[:3]), ("most distant", pairs[:-4:-1] if len(pairs) > 3 else [])):
        if own:
            say(f"{title}: " + "; ".join(f"{name} {value:.3g}" for value, name in own))
    for index, tasks in enumerate(found.groups or (), start=1):
        say(f"group {index}: {','.join(tasks)}")
    for index, network in enumerate(found.networks or (), start=1):
        served, trained = ",".join(network["serves"]), ",".join(network["trained_on"])
        say(f"network {index}: train on {trained}" + (f", use for {served}" if served != trained else ""))
    if found.transfer:
        make_console().print(_transfer_table(found.transfer, str(found.settings["score"])))


def _transfer_table(rows: Sequence[Any], score: str) -> Table:
    table = Table(title=f"{score}, trained with others against alone", title_justify="left", box=None)
    for name in ("task", "with", "alone", "together", "difference", "seeds", "env steps per task"):
        table.add_column(name, justify="left" if name in ("task", "with") else "right")
    for row in rows:
        number = len(row["trained_with"])
        names = ", ".join(row["trained_with"]) if number < 3 else f"{number} others"
        seeds, steps = (" / ".join(f"{own:,}" for own in row[name]) for name in ("seeds", "env_steps_per_task"))
        means = (f"{row['alone']:.3f}", f"{row['together']:.3f}", f"{row['difference']:+.3f}")
        style = "red" if row["difference"] < 0 else None
        table.add_row(row["task"], names, *means, seeds, steps, style=style)
    return table


def _draw(found: Relations, folder: Path) -> None:
    try:
        from mtrl.report.figures import affinity
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mtrl"):
            raise
        say(f"the picture needs {error.name}; pip install 'mtrl-suite[report]'")
        return
    path = folder / "relations.png"
    with storage_faults(path):
        affinity(found).figure.savefig(path, dpi=150)
    say(str(path))
