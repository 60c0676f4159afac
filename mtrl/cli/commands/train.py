"""`mtrl train`: a new run, or `--resume` of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mtrl.api.configuration import default_run_dir
from mtrl.api.operations import RESUME_SETTINGS, plugins_of, resume, train
from mtrl.api.plugins import import_plugins, trust_modules_of
from mtrl.cli.flags import FlagParser, hyphenated
from mtrl.config.schema import (
    AUXILIARY,
    CONFIG_GROUPS,
    GROUP_BY_NAME,
    RunConfig,
    RunSettings,
    chosen_suite,
    config_class,
    dump_yaml,
    named_modules,
    parameter_groups,
    resolve_config,
)
from mtrl.config.validation import field_types
from mtrl.config.yaml_io import load_mapping, read_text
from mtrl.data_parallel.torchrun import launched, refuse_torchrun
from mtrl.errors import BadInput
from mtrl.faults import named_plugin_faults
from mtrl.registry import trust_module

COMMON_GROUPS = ("suite", "agent", "architecture")
COMMON_SETTINGS = ("preset", "total_env_steps", "seed", "device")


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code. Raises MtrlError."""
    if not launched():
        return _command(arguments)()

    from mtrl.data_parallel.ranks import WORLD, agreed, joined
    from mtrl.loggers.console import silence_stdout

    with joined():
        if WORLD.rank > 0:
            silence_stdout()
        with agreed(), named_plugin_faults():
            command = _command(arguments)
        return command()


def _command(arguments: Sequence[str]) -> Callable[[], int]:
    """What the command line asks for. Raises MtrlError."""
    given = _first_pass(arguments)
    if "resume" in given:
        return _resume(arguments, given.get("plugin", []))
    file = given.get("config")
    document = load_mapping(read_text(Path(file)), file) if file is not None else {}
    names = {name: given[name] for name in (*GROUP_BY_NAME, "preset") if name in given}
    auxiliary = {AUXILIARY.name: given[AUXILIARY.name]} if AUXILIARY.name in given else {}
    only_asks = not {"--help", "-h", "--print-config"}.isdisjoint(hyphenated(arguments))
    warm_up = None if only_asks else chosen_suite(document, names)
    plugins = import_plugins(given.get("plugin", []), names, warm_up)
    trust_modules_of([(AUXILIARY.name, name) for name in auxiliary.get(AUXILIARY.name, ())], plugins)
    own = _group_aggregators(arguments, resolve_config(document, names, plugins=plugins).agent.name)
    trust_modules_of([("aggregator", choice["name"]) for choice in own.values() if "name" in choice], plugins)
    base = resolve_config(document, names, auxiliary, {"aggregator": own}, plugins=plugins)
    flags = _parser(base).parse(arguments)
    names_of_flags = ("run_dir", "match_params", "overwrite", "print_config", "seeds", "jobs")
    command = {name: flags.pop(name, None) for name in names_of_flags}
    if command["seeds"] is not None and "seed" in flags:
        raise BadInput("--seed cannot be combined with --seeds")
    if command["jobs"] is not None and command["seeds"] is None:
        raise BadInput("--jobs needs --seeds")
    settings = {name: value for name, value in flags.items() if name not in ("config", "plugin")}
    given_code = [(config_class(group, choice.name), settings.get(group.name, {})) for group, choice in base.choices()]
    for cls, values in (*given_code, (RunSettings, settings)):
        for module in named_modules(cls, values):
            trust_module(module)
            plugins.append(module)
    config = resolve_config(document, settings, plugins=plugins)
    if command["match_params"] is not None:
        if "width" in settings.get("architecture", {}):
            raise BadInput("--architecture.width cannot be combined with --match-params, which sets it")
        from mtrl.cli.match_params import with_parameters_of

        # As a run with the other architecture would have it, its preset's settings included.
        other = {**settings, "architecture": {"name": command["match_params"]}}
        config = with_parameters_of(config, resolve_config(document, other, plugins=plugins))
    if command["print_config"]:
        print(dump_yaml(config), end="")
        return lambda: 0

    run_dir = None if command["run_dir"] is None else Path(command["run_dir"])
    if command["seeds"] is not None:
        from mtrl.launch.seeds import train_seeds

        refuse_torchrun("--seeds")
        folder = default_run_dir(config, with_seed=False) if run_dir is None else run_dir
        jobs = 1 if command["jobs"] is None else command["jobs"]
        return partial(train_seeds, config, folder, command["seeds"], jobs, overwrite=bool(command["overwrite"]))

    return partial(train, config, run_dir or default_run_dir(config), overwrite=bool(command["overwrite"]))


def _resume(arguments: Sequence[str], modules: Sequence[str]) -> Callable[[], int]:
    """The rest of a run, from its last checkpoint."""
    parser = FlagParser("train --resume", "Continue a run.", unknown="{flag} cannot be combined with --resume")
    parser.add_flag("--resume", "the run to continue, or with --seeds the folder of several", metavar="RUN_DIR")
    _add_seeds(parser)
    parser.add_settings(RunSettings, RunSettings(), only=RESUME_SETTINGS)
    parser.add_plugin_flag()
    changes = parser.parse(arguments)
    run_dir = Path(changes.pop("resume"))
    changes.pop("plugin", None)
    seeds, jobs = changes.pop("seeds", None), changes.pop("jobs", None)
    if seeds is not None:
        from mtrl.launch.seeds import SEEDS, resume_seeds

        refuse_torchrun("--seeds")
        config = resolve_config(
            load_mapping(read_text(run_dir / SEEDS), str(run_dir / SEEDS)), plugins=import_plugins(modules)
        )
        return partial(resume_seeds, config, run_dir, seeds, 1 if jobs is None else jobs, changes)
    if jobs is not None:
        raise BadInput("--jobs needs --seeds")
    plugins = plugins_of(run_dir, changes, modules, warm_up=True)
    return partial(resume, run_dir, changes, plugins)


def _first_pass(arguments: Sequence[str]) -> dict[str, Any]:
    """The flags that decide which other flags there are."""
    single = [*GROUP_BY_NAME, "preset", "config", "resume"]
    return _given(arguments, single) | _given(arguments, [AUXILIARY.name], nargs="*")


def _group_aggregators(arguments: Sequence[str], agent: str) -> dict[str, dict[str, str]]:
    """The parameter groups of an agent that have flags of their own: what they say of the aggregator's name."""
    keys = {name: f"aggregator.{name}" for name in parameter_groups(agent)}
    given, flags = _given(arguments, list(keys.values())), hyphenated(arguments)
    named = {name: {"name": given[key]} for name, key in keys.items() if key in given}
    return {name: {} for name, key in keys.items() if any(flag.startswith(f"--{key}.") for flag in flags)} | named


def _given(arguments: Sequence[str], names: Sequence[str], **options: Any) -> dict[str, Any]:
    """The flags of these names, and `plugin`, that are given; all others are passed over."""
    parser = FlagParser("train", add_help=False)
    for name in names:
        parser.add_flag(f"--{name}", "", **options)
    parser.add_plugin_flag()
    return vars(parser.parse_known_args(hyphenated(arguments))[0])


def _parser(base: RunConfig) -> FlagParser:
    """All flags; the defaults are those of the configuration without them."""
    parser = FlagParser(
        "train",
        "Train an agent on a suite of tasks. The settings listed are those of the chosen classes.",
        usage="mtrl train [flags]",
    )
    common = parser.add_argument_group("common")
    _add_class_flags(parser, base, common, [group.name for group in CONFIG_GROUPS if group.name in COMMON_GROUPS])
    parser.add_settings(RunSettings, base.settings, common, only=COMMON_SETTINGS)
    parser.add_flag("--config", "YAML file of settings; flags override it", common, metavar="FILE")
    parser.add_flag("--run-dir", "[default: runs/SUITE-AGENT-ARCHITECTURE-seedN]", common, metavar="DIR")
    parser.add_flag("--resume", "continue that run instead", common, metavar="RUN_DIR")
    classes = parser.add_argument_group("other classes")
    _add_class_flags(parser, base, classes, [group.name for group in CONFIG_GROUPS if group.name not in COMMON_GROUPS])
    known = f"any of {', '.join(AUXILIARY.registry.names())}; or MODULE:Class; several are added up"
    chosen = " ".join(choice.name for choice in base.auxiliary.values()) or "none"
    text = f"{known} [default: {chosen}]"
    parser.add_flag(f"--{AUXILIARY.name}", text, classes, dest=f"{AUXILIARY.name}.name", nargs="*", metavar="NAME")
    run = parser.add_argument_group("run")
    _add_seeds(parser, run)
    parser.add_settings(RunSettings, base.settings, run, only=set(field_types(RunSettings)) - set(COMMON_SETTINGS))
    parser.add_flag("--overwrite", "replace the run in the run directory", run, action="store_true")
    parser.add_flag("--print-config", "print the resolved settings as YAML and exit", run, action="store_true")
    matched = "widen the architecture mlp until the agent is as large as with that one"
    parser.add_flag("--match-params", matched, run, metavar="ARCHITECTURE")
    parser.add_plugin_flag(run)
    names = parameter_groups(base.agent.name)
    for key, group, choice in base.keyed_choices():
        of_groups = f" (parameter groups of {base.agent.name!r}: {', '.join(names)})" if key == "aggregator" else ""
        title = parser.add_argument_group(f"{key} {choice.name!r}{of_groups if names else ''}")
        if key == "aggregator":
            for name in names:
                text = f"the one of the parameter group {name!r} [default: {choice.name}]"
                parser.add_flag(f"--{key}.{name}", text, title, dest=f"{key}.{name}.name", metavar="NAME")
        parser.add_settings(config_class(group, choice.name), choice.config, title, key)
    return parser


def _add_seeds(parser: FlagParser, group: Any = None) -> None:
    """Flags of several runs."""
    text = "train with each of these seeds, in RUN_DIR/seed-N; a report at the end"
    parser.add_flag("--seeds", text, group, nargs="+", type=int, metavar="SEED")
    parser.add_flag("--jobs", "how many seeds at a time [default: 1]", group, type=int, metavar="N")


def _add_class_flags(parser: FlagParser, base: RunConfig, group: Any, names: Sequence[str]) -> None:
    for kind, choice in base.choices():
        if kind.name in names:
            known = "see mtrl list suites" if kind.name == "suite" else ", ".join(kind.registry.names())
            text = f"{known}; or MODULE:Class [default: {choice.name}]"
            parser.add_flag(f"--{kind.name}", text, group, dest=f"{kind.name}.name", metavar="NAME")
