"""The command line of `mtrl train`: which classes it chooses, and the flags of exactly these classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from mtrl.cli.flags import flag_types, named_values, parse_flags
from mtrl.config.schema import RunConfig, RunSettings, config_class, resolve_config
from mtrl.config.validation import plain, validated
from mtrl.errors import BadInput
from mtrl.registry import nearest

_arg = tyro.conf.arg

_FILES = [
    ("config", Annotated[Path | None, _arg(metavar="FILE", help="YAML file; flags override it")], None),
    ("resume", Annotated[Path | None, _arg(metavar="RUN_DIR", help="continue that run instead")], None),
    ("run_dir", Annotated[Path | None, _arg(metavar="DIR", help="None: runs/SUITE-AGENT-ARCHITECTURE-seedN")], None),
    (
        "match_params",
        Annotated[
            str | None, _arg(metavar="ARCHITECTURE", help="widen the mlp until the agent is as large as with that one")
        ],
        None,
    ),
    (
        "overwrite",
        Annotated[bool, tyro.conf.FlagCreatePairsOff, _arg(help="replace a run in the run directory")],
        False,
    ),
    (
        "print_config",
        Annotated[bool, tyro.conf.FlagCreatePairsOff, _arg(help="print the resolved YAML and exit")],
        False,
    ),
    (
        "plugin",
        Annotated[
            tuple[str, ...],
            tyro.conf.UseAppendAction,
            _arg(metavar="MODULE", help="module to import; its classes are then known as MODULE:Class"),
        ],
        (),
    ),
]


@dataclass(frozen=True)
class TrainRequest:
    """What a command line asks for."""

    config: RunConfig
    run_dir: Path
    overwrite: bool
    print_config: bool


@dataclass(frozen=True, kw_only=True)
class ResumeFlags:
    """Continue a run from its last checkpoint. Everything else stays as config.yaml of the run has it."""

    resume: Annotated[Path, _arg(metavar="RUN_DIR")]  # the run to continue
    total_env_steps: PositiveInt | None = None  # new end of the run, env steps since its start; None: as before
    max_hours: PositiveFloat | None = None  # hours until the run saves and stops; None: as before
    num_workers: NonNegativeInt | None = None  # environment processes; None: as before
    worker_timeout: PositiveFloat | None = None  # seconds without an answer after which a worker counts as hung
    device: Literal["auto", "cpu", "cuda"] | None = None  # another device continues in distribution, not bit for bit
    plugin: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, _arg(metavar="MODULE")] = ()  # module to import


def parse_train(
    arguments: Sequence[str], document: Mapping[str, Any], names: Mapping[str, str], plugins: Sequence[str]
) -> TrainRequest:
    """The run that `document` (the YAML file) and the flags describe; `names` are the classes that flags choose.

    Prints the help and raises SystemExit for `--help`. Raises BadInput.
    """
    base = resolve_config(document, {part: {"name": name} for part, name in names.items()}, plugins=plugins)
    cls = _flags_of(base)
    chosen = {part.name: choice.name for part, choice in base.choices()}
    flags: Any = parse_flags(cls, arguments, command="train", chosen=chosen)
    parts = {part.name: {"name": choice.name, **plain(getattr(flags, part.name))} for part, choice in base.choices()}
    config = resolve_config({**parts, **plain(flags.settings), "plugins": list(base.plugins)}, plugins=base.plugins)
    if flags.match_params is not None:
        from mtrl.cli.match_params import with_parameters_of  # builds networks, which few commands need

        if named_values(arguments, ["architecture.width"])["architecture.width"]:
            raise BadInput("--architecture.width cannot be combined with --match-params, which sets it")
        config = with_parameters_of(config, flags.match_params)
    return TrainRequest(config, flags.run_dir or default_run_dir(config), flags.overwrite, flags.print_config)


def parse_resume(arguments: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """The run to continue and the settings to change. Raises BadInput for a flag that would change the run."""
    allowed = flag_types(ResumeFlags)
    for argument in arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in allowed and flag != "--help":
            others = ", ".join(sorted(set(allowed) - {"--resume"}))
            raise BadInput(f"{flag} cannot be combined with --resume{nearest(flag, allowed)}; only {others} can")
    flags: Any = parse_flags(ResumeFlags, arguments, command="train --resume")
    values = {
        key: value for key, value in plain(flags).items() if key not in ("resume", "plugin") and value is not None
    }
    validated(RunSettings, values, "")
    return flags.resume, values


def default_run_dir(config: RunConfig) -> Path:
    """`runs/SUITE-AGENT-ARCHITECTURE-seedN`, with nothing in it that a file system or shell trips over."""
    names = (config.suite.name, config.agent.name, config.architecture.name)
    name = "-".join(["".join(c if c.isalnum() or c in "-." else "-" for c in name)[:60] for name in names])
    return Path("runs") / f"{name}-seed{config.settings.seed}"


def _flags_of(base: RunConfig) -> type[Any]:
    """One dataclass of all the flags, whose defaults are the configuration so far."""
    fields: list[Any] = [(name, kind, dataclasses.field(default=value)) for name, kind, value in _FILES]
    fields.append(("settings", Annotated[RunSettings, tyro.conf.OmitArgPrefixes, _arg(name="")], base.settings))
    for part, choice in base.choices():
        known = "see mtrl list suites" if part.name == "suite" else ", ".join(part.registry.names())
        name = _arg(name=part.name, metavar="NAME", help=f"{known}; or MODULE:Class")
        fields.append((f"{part.name}_name", Annotated[str, name], choice.name))
    for part, choice in base.choices():
        group = _arg(name=part.name, help=f"Settings of {part.name} {choice.name}.")
        kind: Any = config_class(part, choice.name)
        default = dataclasses.field(default_factory=lambda config=choice.config: config)  # type: ignore[misc]
        fields.append((part.name, Annotated[kind, group], default))
    cls = dataclasses.make_dataclass("Train", fields, kw_only=True, frozen=True)
    cls.__doc__ = "Train an agent on a suite. The flags are those of the classes chosen; choose others to see theirs."
    return cls
