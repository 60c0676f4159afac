"""What a run is made of: registered classes by name, their settings, and the settings of the run itself.

Settings of a class are its nested `Config`, a frozen dataclass with a default and a trailing comment for every field;
the comment is the help text of the flag, so it states the unit. A range is part of the type, and YAML, flags and
presets honour it alike:

    from pydantic import Field, PositiveInt

    @dataclass(frozen=True, kw_only=True)
    class Config:
        batch_size: PositiveInt = 1280  # transitions per update
        discount: Annotated[float, Field(ge=0, le=1)] = 0.99  # per env step
        optimizer: Literal["adam", "sgd"] = "adam"  # of every group
        max_grad_norm: PositiveFloat | None = None  # global norm per group; None: no clipping

`PositiveInt`, `NonNegativeInt`, `PositiveFloat` and `NonNegativeFloat` are pydantic's own. What depends on two fields
is checked in `__post_init__` by raising ValueError. NaN and infinities are refused everywhere.

A parameter group of the agent may have an aggregator of its own: `aggregator: {name: mean, critic: {name: pcgrad}}`.
Settings of a group without a name change those of the common one.

Auxiliary tasks are a list: `auxiliary: [{name: reward-prediction, coefficient: 0.5}, pixel-control]`. A mapping without
names, `auxiliary: {reward-prediction: {coefficient: 0.5}}`, changes settings of tasks that are chosen.

Precedence: defaults of the classes < presets of suite and architecture for the agent < YAML < flags. Settings belong to
a class: a layer that chooses another class for a group drops the settings that lower layers had for it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from mtrl.config.validation import SYNONYMS, field_types, plain, refuse_unknown, shown, validated, validated_values
from mtrl.config.yaml_io import dump_mapping, load_mapping
from mtrl.env.suite import find_suite
from mtrl.errors import BadInput
from mtrl.registry import ClassName, Registry, modules_named, nearest, trusted_modules
from mtrl.types import Precision


class ConfigGroup(NamedTuple):
    """One choice among the classes of a registry."""

    name: str  # its key in YAML and its flag
    module: str
    registry_name: str
    default: str

    @property
    def registry(self) -> Registry[Any]:
        return getattr(importlib.import_module(self.module), self.registry_name)

    def find(self, name: str) -> type:
        """The class called `name`. Raises BadInput with the known names."""
        return find_suite(name) if self.name == "suite" else self.registry.get(name)


CONFIG_GROUPS = (
    ConfigGroup("suite", "mtrl.env.suite", "suites", "mt10"),
    ConfigGroup("agent", "mtrl.agent", "agent_types", "sac"),
    ConfigGroup("architecture", "mtrl.networks", "architectures", "multi-head"),
    ConfigGroup("policy", "mtrl.policies", "policies", "single"),
    ConfigGroup("encoder", "mtrl.encoders", "encoders", "identity"),
    ConfigGroup("aggregator", "mtrl.aggregation", "aggregators", "mean"),
    ConfigGroup("scheduler", "mtrl.scheduling", "schedulers", "uniform"),
    ConfigGroup("normalizer", "mtrl.normalization", "normalizers", "none"),
)


GROUP_BY_NAME = {group.name: group for group in CONFIG_GROUPS}

AUXILIARY = ConfigGroup("auxiliary", "mtrl.auxiliary", "auxiliary_tasks", "")
"""Of which any number is chosen."""
REGISTRY_GROUPS = (*CONFIG_GROUPS, AUXILIARY)


@dataclass(frozen=True)
class Choice:
    """A registered class by name, and its settings."""

    name: str
    config: Any  # instance of the class's Config


Setting = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of the run itself: top-level flags and top-level keys."""

    preset: str | None = (
        None  # named settings of the suite, such as published or fast, which your own override; None: the first
    )
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] = 1  # of every random stream of the run
    total_env_steps: PositiveInt = 1_000_000  # steps of single environments in the whole run
    num_envs: PositiveInt | None = None  # environment slots; None: one per task
    num_workers: NonNegativeInt | None = None  # environment processes; 0: in this process, None: one per core
    device: Literal["auto", "cpu", "cuda"] = "auto"  # where networks live; auto: cuda if there is one
    cuda_graphs: bool = False  # record a GPU's work of an update once and replay it; with aggregators such as mean only
    precision: Precision = "float32"  # of products in networks; bfloat16 is faster where the hardware has it
    torch_threads: PositiveInt | None = None  # threads of one matrix product; None: torch's choice. Changes last bits
    eval_interval: NonNegativeInt = 100_000  # env steps between evaluations in training; 0: none
    eval_episodes_per_task: PositiveInt = 10  # episodes per task in an evaluation in training
    final_eval_episodes_per_task: NonNegativeInt = 50  # episodes per task at the end; 0: no final evaluation
    checkpoint_interval: PositiveInt = 50_000  # env steps between checkpoints; one is written at the end in any case
    keep_checkpoints: PositiveInt = 2  # how many of the last ones to keep, the best not counted
    log_interval: PositiveInt = 5_000  # env steps between rows of metrics.jsonl
    logger: tuple[ClassName, ...] = ("tensorboard",)  # see mtrl list loggers; none; or MODULE:Class
    logger_settings: dict[str, Setting] = dataclasses.field(default_factory=dict)  # LOGGER.SETTING VALUE, ...
    callback: tuple[ClassName, ...] = ()  # MODULE:Class, of the base class mtrl.loggers.Callback
    callback_settings: dict[str, Setting] = dataclasses.field(default_factory=dict)  # MODULE:Class.SETTING VALUE
    conflict_interval: NonNegativeInt = 0  # env steps between measurements of how task gradients conflict; 0: none
    video_interval: NonNegativeInt = 0  # env steps between videos of the policy, one episode of each task; 0: none
    max_hours: PositiveFloat | None = None  # hours until the run saves and stops; None: no limit
    warm_start: str | None = None  # run whose last checkpoint gives the weights that fit by name and shape
    check_plugins: bool = True  # before training, the contracts of classes named MODULE:Class
    worker_timeout: PositiveFloat = 60.0  # seconds without an answer after which a worker counts as hung


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run is built from; equal configurations reproduce each other."""

    suite: Choice
    agent: Choice
    architecture: Choice
    policy: Choice
    encoder: Choice
    aggregator: Choice
    scheduler: Choice
    normalizer: Choice
    settings: RunSettings
    plugins: tuple[str, ...] = ()  # modules that a command line has to name (--plugin) before this can be used
    group_aggregators: Mapping[str, Choice] = dataclasses.field(default_factory=dict)  # by parameter group
    auxiliary: Mapping[str, Choice] = dataclasses.field(default_factory=dict)  # by name without module, in order

    def choices(self) -> Iterator[tuple[ConfigGroup, Choice]]:
        """The groups in order, each with what was chosen."""
        for group in CONFIG_GROUPS:
            yield group, getattr(self, group.name)

    def keyed_choices(self) -> Iterator[tuple[str, ConfigGroup, Choice]]:
        """The choices with their keys: after the groups `aggregator.critic` and `auxiliary.reward-prediction`."""
        for group, choice in self.choices():
            yield group.name, group, choice
        for name, choice in self.group_aggregators.items():
            yield f"aggregator.{name}", GROUP_BY_NAME["aggregator"], choice
        for name, choice in self.auxiliary.items():
            yield f"{AUXILIARY.name}.{name}", AUXILIARY, choice


def resolve_config(*documents: Mapping[str, Any], plugins: Sequence[str] | None = None) -> RunConfig:
    """The configuration that nested mappings describe, later ones overriding earlier ones.

    A document holds what YAML holds: `{"suite": "mt3", "agent": {"name": "sac", "batch_size": 64}, "seed": 2}`.
    `plugins` are the modules that this command line names; None stands for every trusted module. Raises BadInput.
    """
    documents = tuple(_checked(document) for document in documents)
    trusted = set(trusted_modules()) | set(plugins or ())
    needed = set(plugins or ()).union(*(_plugins(document, trusted) for document in documents))
    suite_name, agent_name = (_merged(group, documents).name for group in CONFIG_GROUPS[:2])
    preset = _preset(suite_name, agent_name, documents)
    # A preset belongs to this suite and this agent, so its settings for them are settings of their classes.
    for group, name in ("suite", suite_name), ("agent", agent_name):
        preset[group] = {**preset.get(group, {}), "name": name}
    architecture = GROUP_BY_NAME["architecture"]
    published = architecture.find(_merged(architecture, (preset, *documents)).name)
    published_preset = _checked(getattr(published, "preset", lambda agent: {})(agent_name))
    layers = (preset, published_preset, *documents)
    apart = parameter_groups(agent_name)
    merged = {
        group.name: _merged(group, layers, apart if group.name == "aggregator" else (), num_presets=2)
        for group in CONFIG_GROUPS
    }
    common = merged["aggregator"]
    _refuse_unknown_group(common, agent_name)
    # The last layer is the name that is in effect, for a document that says `preset: null`.
    settings = {
        key: value
        for layer in (*layers, {"preset": preset["preset"]})
        for key, value in layer.items()
        if key in field_types(RunSettings)
    }
    choices = {
        group.name: Choice(name, validated(config_class(group, name), values, f"{group.name}."))
        for group in CONFIG_GROUPS
        for name, values, _ in [merged[group.name]]
    }
    kind, start = GROUP_BY_NAME["aggregator"], {"aggregator": {"name": common.name, **common.values}}
    own = {name: _merged(kind, [start, *documents]) for name, documents in common.apart.items()}
    group_aggregators = {
        name: Choice(chosen.name, validated(config_class(kind, chosen.name), chosen.values, f"aggregator.{name}."))
        for name, chosen in own.items()
    }
    auxiliary = _auxiliary(layers)
    names = [chosen.name for chosen in (*merged.values(), *own.values())]
    names += [chosen.name for chosen in auxiliary.values()]
    needed |= {name.partition(":")[0] for name in names} & trusted
    configs = [choice.config for choice in (*choices.values(), *group_aggregators.values(), *auxiliary.values())]
    checked = validated(RunSettings, settings, "")
    code = [module for config in (*configs, checked) for module in named_modules(type(config), vars(config))]
    needed |= set(_plugins({"plugins": code}, trusted))
    return RunConfig(
        **choices,
        settings=checked,
        plugins=tuple(sorted(needed)),
        group_aggregators=group_aggregators,
        auxiliary=auxiliary,
    )


def _preset(suite_name: str, agent_name: str, documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of the preset that the documents name, or of the first; its name among them. Raises BadInput."""
    presets = find_suite(suite_name).presets(suite_name, agent_name)
    named = [document["preset"] for document in documents if document.get("preset") is not None]
    name = named[-1] if named else next(iter(presets), None)
    if name is None:
        return {"preset": None}
    if not isinstance(name, str) or name not in presets:
        known = f"must be one of {', '.join(presets)}" if presets else "the suite has none for this agent"
        hint = nearest(name, presets) if isinstance(name, str) else ""
        raise BadInput(f"preset: {shown(name)} is not allowed for {suite_name!r} with {agent_name!r}; {known}{hint}")
    return {**_checked(presets[name]), "preset": name}


def named_modules(cls: type, values: Mapping[str, Any]) -> list[str]:
    """The modules that settings of the class `cls` name as code (`mtrl.registry.CodeName`), in order."""
    types = field_types(cls)
    return [module for name, value in values.items() if name in types for module in modules_named(types[name], value)]


def chosen_suite(*documents: Mapping[str, Any]) -> str:
    """The name of the suite that the documents choose, found before any class is known. Raises BadInput."""
    checked = [_checked(document).get("suite", {}) for document in documents]
    return next((group["name"] for group in reversed(checked) if "name" in group), CONFIG_GROUPS[0].default)


def parse_yaml(text: str, source: str = "config.yaml", plugins: Sequence[str] | None = None) -> RunConfig:
    """The configuration in a YAML text, complete or in part. Raises BadInput; imports nothing the text names."""
    return resolve_config(load_mapping(text, source), plugins=plugins)


def dump_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML that `parse_yaml` reads back equal, every setting written out."""
    command = "".join(f" --plugin {module}" for module in config.plugins)
    document: dict[str, Any] = {
        group.name: {"name": choice.name, **plain(choice.config)} for group, choice in config.choices()
    }
    for name, choice in config.group_aggregators.items():
        document["aggregator"][name] = {"name": choice.name, **plain(choice.config)}
    document[AUXILIARY.name] = [{"name": choice.name, **plain(choice.config)} for choice in config.auxiliary.values()]
    document |= plain(config.settings)
    document["plugins"] = list(config.plugins)
    return f"# mtrl train --config THIS_FILE{command}\n{dump_mapping(document)}"


def changed(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """`config` with other top-level settings, for instance `{"total_env_steps": 2_000_000}`. Raises BadInput."""
    settings = dataclasses.replace(config.settings, **validated_values(RunSettings, values, ""))
    return dataclasses.replace(config, settings=settings)


def resumed(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """`changed` for a run that goes on, without settings of loggers that are not chosen any more. Raises BadInput."""
    config = changed(config, values)
    if "logger" in values and "logger_settings" not in values:
        settings = config.settings
        kept = {key: own for key, own in settings.logger_settings.items() if key.rpartition(".")[0] in settings.logger}
        config = changed(config, {"logger_settings": kept})
    return config


def with_suite(config: RunConfig, name: str) -> RunConfig:
    """`config` on another suite, whose settings are kept if it is of the same family. Raises BadInput."""
    group = CONFIG_GROUPS[0]
    if find_suite(name) is find_suite(config.suite.name):
        return dataclasses.replace(config, suite=Choice(name, config.suite.config))
    return dataclasses.replace(config, suite=Choice(name, config_class(group, name)()))


def config_class(group: ConfigGroup, name: str) -> type:
    """The `Config` of a registered class. Raises BadInput if it has none that can be used."""
    cls = group.find(name)
    config = getattr(cls, "Config", None)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        raise BadInput(f"{group.name} {name!r}: {cls.__module__}.{cls.__qualname__} has no nested dataclass Config")
    for field in dataclasses.fields(config):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise BadInput(
                f"{group.name} {name!r}: the setting {field.name!r} of {cls.__qualname__}.Config has no default"
            )
    return config


def parameter_groups(agent_name: str) -> tuple[str, ...]:
    """The parameter groups of an agent that can have an aggregator of their own. Raises BadInput."""
    return tuple(getattr(GROUP_BY_NAME["agent"].find(agent_name), "group_gauges", ()))


class _Merged(NamedTuple):
    name: str
    values: dict[str, Any]
    apart: dict[str, list[dict[str, Any]]]  # by key, a layer for each document


def _merged(
    group: ConfigGroup, layers: Sequence[Mapping[str, Any]], apart: Sequence[str] = (), num_presets: int = 0
) -> _Merged:
    """The name in effect after all layers, and the settings that belong to its class.

    apart: keys that are no settings; their values are collected in documents like the layers. num_presets: so many
    layers, the first ones, lie under the others, even where one in between names another class.
    """
    name, values, found = group.default, dict[str, Any](), dict[str, list[dict[str, Any]]]()
    presets = list[tuple[str, dict[str, Any]]]()
    for layer in layers:
        own = dict(layer.get(group.name, {}))
        if "name" in own:
            found = {}  # the class of all, also where a layer below has another for a part
        chosen = own.pop("name", name)
        if chosen != name and group.find(chosen) is not _find_default(group, name):
            values, found = {}, {}
        name = chosen
        for key in own.keys() & set(apart):
            found.setdefault(key, []).append({group.name: _as_mapping(own.pop(key), f"{group.name}.{key}")})
        values |= own
        if len(presets) < num_presets:
            presets.append((name, own))
    cls = group.find(name)
    for chosen, own in reversed(presets):
        if _find_default(group, chosen) is cls:
            values = own | values
    return _Merged(name, values, {key: found[key] for key in apart if key in found})


def _refuse_unknown_group(aggregator: _Merged, agent_name: str) -> None:
    """Raises BadInput for a key of the aggregator that is neither a setting nor a parameter group of the agent."""
    settings = field_types(config_class(GROUP_BY_NAME["aggregator"], aggregator.name))
    groups = parameter_groups(agent_name)
    for key in aggregator.values.keys() - settings.keys() if groups else ():
        raise BadInput(
            f"unknown key {shown(f'aggregator.{key}')}{nearest(key, [*groups, *settings])}; parameter groups of "
            f"{agent_name!r}: {', '.join(groups)}; settings of {aggregator.name!r}: {', '.join(settings) or 'none'}"
        )


def short_name(name: str) -> str:
    """The name of a class without its module, by which a list of them is told apart: no dot is in it."""
    return name.rpartition(":")[2]


def _auxiliary(layers: Sequence[Mapping[str, Any]]) -> dict[str, Choice]:
    """The auxiliary tasks in effect after all layers: a layer with names replaces the list. Raises BadInput."""
    names: dict[str, str] = {}
    values: dict[str, dict[str, Any]] = {}
    for layer in layers:
        own = dict(layer.get(AUXILIARY.name, {}))
        if "name" in own:
            names = own.pop("name")
            values = {key: kept for key, kept in values.items() if key in names}
        for key, settings in own.items():
            if key not in names:
                chosen = f"those chosen: {', '.join(names)}" if names else "none is chosen"
                raise BadInput(f"{AUXILIARY.name}.{key}: not among the auxiliary tasks{nearest(key, names)}; {chosen}")
            values[key] = values.get(key, {}) | settings
    return {
        key: Choice(name, validated(config_class(AUXILIARY, name), values.get(key, {}), f"{AUXILIARY.name}.{key}."))
        for key, name in names.items()
    }


def _as_list(value: Any) -> dict[str, Any]:
    """Auxiliary tasks in a document as `{"name": {SHORT: NAME}, SHORT: settings}`. Raises BadInput."""
    key = AUXILIARY.name
    result = dict(value) if isinstance(value, Mapping) else {"name": value}
    chosen = result.pop("name", None)
    settings = {name: _as_settings(own, f"{key}.{name}") for name, own in result.items()}
    if chosen is None and "name" not in (value if isinstance(value, Mapping) else {"name": value}):
        return settings
    names: dict[str, str] = {}
    for item in [chosen] if isinstance(chosen, str) else chosen if isinstance(chosen, list | tuple) else [None]:
        if not isinstance(item, str | Mapping):
            raise BadInput(f"{key}: {shown(value)} is not allowed; must be a list of names, or of mappings with a name")
        own = _as_mapping(item, key)
        if "name" not in own:
            raise BadInput(f"{key}: {shown(item)} has no name")
        name = own.pop("name")
        short = short_name(name)
        if short in names:
            raise BadInput(f"{key}: {short!r} is there twice; each auxiliary task counts once")
        names[short] = name
        if own:
            settings[short] = own | settings.get(short, {})
    return {"name": names, **settings}


def _as_settings(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise BadInput(f"{key}: {shown(value)} is not allowed; must be a mapping of settings")
    return dict(value)


def _as_mapping(value: Any, key: str) -> dict[str, Any]:
    """A choice in a document as a mapping with a name of the right type, if it has one. Raises BadInput."""
    value = {"name": value} if isinstance(value, str) else value
    if not isinstance(value, Mapping) or not isinstance(value.get("name", ""), str):
        raise BadInput(f"{key}: {shown(value)} is not allowed; must be a name or a mapping with a name and settings")
    return dict(value)


def _find_default(group: ConfigGroup, name: str) -> type | None:
    """The class called `name`, or None: the default of a group may come from a package that is not installed."""
    try:
        return group.find(name)
    except BadInput:
        return None


def _checked(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document whose top-level keys are known and whose groups are mappings with a name of the right type."""
    for key in [key for key in document if key not in _top_level_keys()]:
        name = SYNONYMS.get(key, key)
        for group in (GROUP_BY_NAME["agent"], GROUP_BY_NAME["architecture"]):
            if any(name in field_types(config_class(group, known)) for known in group.registry.names()):
                raise BadInput(f"unknown key {shown(key)} (did you mean '{group.name}.{name}'?)")
    refuse_unknown(document, _top_level_keys(), "")
    result = dict(document)
    for group in CONFIG_GROUPS:
        if group.name in document:
            result[group.name] = _as_mapping(document[group.name], group.name)
    if AUXILIARY.name in document:
        result[AUXILIARY.name] = _as_list(document[AUXILIARY.name])
    return result


@functools.cache
def _top_level_keys() -> tuple[str, ...]:
    return (*(group.name for group in REGISTRY_GROUPS), *field_types(RunSettings), "plugins")


def _plugins(document: Mapping[str, Any], trusted: set[str]) -> list[str]:
    """The plug-ins a document records. Raises BadInput for one that the command line did not name."""
    named = document.get("plugins", [])
    if not isinstance(named, list | tuple) or not all(isinstance(module, str) for module in named):
        raise BadInput(f"plugins: {shown(named)} is not allowed; must be a list of module names")
    for module in named:
        if module == "__main__" not in trusted:
            raise BadInput(
                "the configuration needs a class of the notebook or script that trained it; use the run there: "
                "mtrl.Run(RUN_DIR, plugins=[CLASS]) or mtrl.load(RUN_DIR, plugins=[CLASS])"
            )
        if module not in trusted:
            raise BadInput(
                f"the configuration needs the plug-in {shown(module)}, which is code that this command line does not "
                f"name; add --plugin {module}{nearest(module, trusted)}"
            )
    return list(named)
