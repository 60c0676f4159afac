"""Configurations: layers of settings, strict values, and the rules of plug-ins."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field, PositiveFloat, PositiveInt

import agents
import envs
from mtrl import registry
from mtrl.agent import agent_types
from mtrl.config.schema import (
    CONFIG_GROUPS,
    GROUP_BY_NAME,
    RunConfig,
    RunSettings,
    changed,
    chosen_suite,
    config_class,
    dump_yaml,
    parse_yaml,
    resolve_config,
    with_suite,
)
from mtrl.config.yaml_io import load_mapping
from mtrl.env.suite import suites
from mtrl.errors import BadInput
from mtrl.networks import architectures


class Learner:
    """A learner of no use."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        batch_size: PositiveInt = 1280  # transitions per update
        discount: Annotated[float, Field(ge=0, le=1)] = 0.99  # per env step
        widths: tuple[PositiveInt, ...] = (400, 400)  # units
        optimizer: Literal["adam", "sgd"] = "adam"  # of every group
        max_grad_norm: PositiveFloat | None = None  # global norm
        tuned: bool = True  # whether temperatures are tuned
        learning_rate: PositiveFloat = 1e-3  # of the optimiser
        label: str = "plain"  # free text

        def __post_init__(self) -> None:
            if self.batch_size == 13:
                raise ValueError("batch_size 13 brings bad luck")


class OtherLearner:
    """Another one."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        batch_size: PositiveInt = 7  # transitions per update


class Wide:
    """An architecture of no use."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: PositiveInt = 1000  # units


class Suite:
    """A family with presets."""

    suite_names: ClassVar[dict[str, str]] = {"small": "a small one", "large": "a large one"}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        reward_function: Literal["v1", "v2"] = "v2"  # version

    @classmethod
    def accepts(cls, name: str) -> bool:
        return name in cls.suite_names

    @classmethod
    def suggestion(cls, name: str) -> str | None:
        return None

    @classmethod
    def presets(cls, name: str, agent: str) -> dict[str, dict[str, Any]]:
        if (name, agent) != ("large", "learner"):
            return {}
        agent_settings = {"batch_size": 77, "tuned": False}
        long = {"total_env_steps": 5000, "agent": agent_settings, "architecture": {"name": "wide"}}
        return {"long": long, "short": {"total_env_steps": 50}}


BASE = {"suite": "small", "agent": "learner"}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes above, known in this test only."""
    agents.register()
    envs.register()
    known = {
        agent_types: {"learner": Learner, "other": OtherLearner},
        architectures: {"wide": Wide},
        suites: {"test-suite": Suite},
    }
    for kind, classes in known.items():
        monkeypatch.setattr(kind, "_classes", {**kind._classes, **classes})
    monkeypatch.setattr(registry, "_trusted_modules", {})


def refusal(*documents: dict[str, Any], plugins: tuple[str, ...] = ()) -> str:
    with pytest.raises(BadInput) as refused:
        resolve_config(*documents, plugins=plugins)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_without_documents_the_defaults_are_the_announced_ones() -> None:
    config = resolve_config()
    names = [choice.name for _, choice in config.choices()]
    assert names == ["mt10", "sac", "multi-head", "single", "identity", "mean", "uniform", "none"]


def test_yaml_goes_over_the_preset_and_later_documents_over_yaml() -> None:
    assert resolve_config({**BASE, "suite": "large"}).agent.config.batch_size == 77
    file = {"suite": "large", "agent": {"name": "learner", "batch_size": 5}}
    config = resolve_config(file)
    assert (config.agent.config.batch_size, config.agent.config.tuned) == (5, False)
    assert (config.settings.total_env_steps, config.architecture.name) == (5000, "wide")
    config = resolve_config(file, {"agent": {"batch_size": 6}, "total_env_steps": 9})
    assert (config.agent.config.batch_size, config.settings.total_env_steps) == (6, 9)


def test_another_class_drops_the_settings_that_lower_layers_had_for_the_group() -> None:
    config = resolve_config({"suite": "large", "agent": "learner", "architecture": {"width": 3}}, {"agent": "other"})
    assert config.agent.config == OtherLearner.Config()
    # The preset is that of the agent in effect, so nothing of the learner's is left.
    assert (config.architecture.name, config.settings.total_env_steps) == ("multi-head", 1_000_000)
    config = resolve_config({"suite": "large", "agent": "learner"}, {"architecture": "multi-head"})
    assert config.architecture.config == config_class(CONFIG_GROUPS[2], "multi-head")()


def test_another_suite_of_the_same_family_keeps_the_settings_of_the_suite() -> None:
    file = {"suite": {"name": "small", "reward_function": "v1"}}
    assert resolve_config(file, {"suite": {"name": "large"}}).suite.config.reward_function == "v1"
    config = with_suite(resolve_config(file), "large")
    assert (config.suite.name, config.suite.config.reward_function) == ("large", "v1")
    assert with_suite(config, "point-mass").suite.config == config_class(CONFIG_GROUPS[0], "point-mass")()


def test_the_suite_is_found_before_any_class_is_known() -> None:
    assert chosen_suite({}) == "mt10"
    assert chosen_suite({"suite": {"name": "nowhere"}}) == "nowhere"
    assert chosen_suite({"suite": {"name": "nowhere"}}, {"suite": "elsewhere"}) == "elsewhere"


def test_a_resolved_configuration_reads_back_equal() -> None:
    document = {"suite": "large", "agent": {"name": "learner", "widths": [1, 2, 3], "discount": 1e-5, "label": "1e5"}}
    config = resolve_config(document, {"seed": 2**64 - 1, "max_hours": 0.1})
    text = dump_yaml(config)
    assert parse_yaml(text) == config
    assert dump_yaml(parse_yaml(text)) == text
    assert "widths: [1, 2, 3]\n" in text


def test_a_whole_number_with_an_exponent_is_an_integer() -> None:
    config = parse_yaml(
        "suite: small\nagent: {name: learner, batch_size: 1e3, learning_rate: 1e0}\ntotal_env_steps: 2e6"
    )
    assert (config.settings.total_env_steps, config.agent.config.batch_size) == (2_000_000, 1000)
    assert type(config.agent.config.learning_rate) is float
    with pytest.raises(BadInput, match=r"total_env_steps: 1\.5 is not allowed"):
        parse_yaml("suite: small\ntotal_env_steps: 1.5e0")


@pytest.mark.parametrize(
    "label", ["", "null", "1e5", "1_000", "yes", "a: b", "# no", "~", ".inf", "ünïcode", "a\tb\x07", "\u2028"]
)
def test_text_settings_survive_the_file(label: str) -> None:
    config = resolve_config(BASE, {"agent": {"label": label}})
    assert parse_yaml(dump_yaml(config)) == config


@pytest.mark.parametrize(
    ("document", "parts"),
    [
        ({"agnt": "sac"}, ["'agnt'", "did you mean 'agent'"]),
        ({"agent": "larner"}, ["'larner'", "did you mean 'learner'", "sac"]),
        ({"suite": "smal"}, ["'smal'", "did you mean 'small'"]),
        ({"agent": {"batch_sise": 3}}, ["'agent.batch_sise'", "did you mean 'batch_size'", "discount"]),
        ({"agent": {"batch_size": 0}}, ["agent.batch_size", "0 is not allowed", "an integer above 0"]),
        ({"agent": {"batch_size": 13}}, ["agent", "13 brings bad luck"]),
        ({"agent": {"batch_size": "3"}}, ["agent.batch_size", "'3'", "an integer"]),
        ({"agent": {"batch_size": 3.0}}, ["agent.batch_size", "3.0", "an integer"]),
        ({"agent": {"batch_size": 1.5}}, ["agent.batch_size", "1.5", "an integer"]),
        ({"agent": {"lr": 3}}, ["'agent.lr'", "did you mean 'learning_rate'"]),
        ({"agent": {"batch_size": True}}, ["agent.batch_size", "True", "an integer"]),
        ({"agent": {"batch_size": None}}, ["agent.batch_size", "None", "an integer"]),
        ({"agent": {"batch_size": {"a": 1}}}, ["agent.batch_size", "an integer"]),
        ({"agent": {"tuned": 1}}, ["agent.tuned", "true or false"]),
        ({"agent": {"discount": 1.5}}, ["agent.discount", "1.5", "at least 0 and at most 1"]),
        ({"agent": {"discount": float("nan")}}, ["agent.discount", "nan", "finite"]),
        ({"agent": {"max_grad_norm": float("inf")}}, ["agent.max_grad_norm", "inf", "finite number above 0 or null"]),
        ({"agent": {"optimizer": "adm"}}, ["agent.optimizer", "'adam', 'sgd'", "did you mean 'adam'"]),
        ({"agent": {"widths": [4, 0]}}, ["agent.widths", "[4, 0]", "a list, each an integer above 0"]),
        ({"agent": {"label": 3}}, ["agent.label", "3", "text"]),
        ({"agent": {"label": "\ud800"}}, ["agent"]),
        ({"agent": ["sac"]}, ["agent", "a name or a mapping"]),
        ({"agent": None}, ["agent", "a name or a mapping"]),
        ({"agent": {"name": 3}}, ["agent", "a name or a mapping"]),
        ({"seed": -1}, ["seed", "-1", "at least 0"]),
        ({"seed": 2**64}, ["seed", "at most 18446744073709551615"]),
        ({"device": "gpu"}, ["device", "'gpu'", "'auto', 'cpu', 'cuda'"]),
        ({"plugins": "module"}, ["plugins", "a list of module names"]),
    ],
)
def test_a_wrong_value_is_named_with_its_path_and_what_is_allowed(document: dict[str, Any], parts: list[str]) -> None:
    message = refusal(BASE, document)
    assert all(part in message for part in parts), message


@pytest.mark.slow
def test_every_preset_resolves_with_every_agent_and_architecture() -> None:
    for family in suites.classes():
        names = [name for name in family.suite_names if "TASK" not in name]  # no patterns
        for suite, agent in product(names, agent_types.names()):
            config = resolve_config({"suite": suite, "agent": agent})
            assert parse_yaml(dump_yaml(config)) == config
            for architecture in architectures.names():
                resolve_config({"suite": suite, "agent": agent}, {"architecture": architecture})


def test_a_preset_lies_under_a_file_that_names_another_class() -> None:
    file = {"suite": "mt10", "agent": {"name": "sac", "discount": 0.5}, "architecture": {"name": "mlp", "width": 9}}
    config = resolve_config(file, {"agent": "ppo", "architecture": "multi-head"})
    alone = resolve_config({"suite": "mt10", "agent": "ppo", "architecture": "multi-head"})
    assert (config.agent, config.architecture) == (alone.agent, alone.architecture)
    assert alone.agent.config.rollout_steps != config_class(GROUP_BY_NAME["agent"], "ppo")().rollout_steps


def test_settings_of_a_run_can_be_changed_within_their_ranges() -> None:
    config = resolve_config(BASE)
    assert changed(config, {"total_env_steps": 3}).settings == RunSettings(total_env_steps=3)
    for values in ({"total_env_steps": 0}, {"total_steps": 3}, {"max_hours": "long"}):
        with pytest.raises(BadInput):
            changed(config, values)


def test_a_class_without_usable_config_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoConfig:
        pass

    @dataclass
    class NoDefault:
        @dataclass
        class Config:
            width: int

    class Unresolved:
        @dataclass
        class Config:
            width: Missing = 3  # type: ignore[name-defined]  # noqa: F821

    classes = {"none": NoConfig, "no-default": NoDefault, "unresolved": Unresolved}
    monkeypatch.setattr(architectures, "_classes", {**architectures._classes, **classes})
    assert "no nested dataclass Config" in refusal(BASE, {"architecture": "none"})
    assert "'width'" in refusal(BASE, {"architecture": "no-default"})
    assert "'Missing'" in refusal(BASE, {"architecture": {"name": "unresolved", "width": 3}})


def test_a_file_never_makes_a_module_be_imported(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "canary_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for document in (
        {"plugins": ["canary_module"]},
        {"architecture": "canary_module:Tiny"},
        {"suite": "canary_module:W"},
    ):
        assert "add --plugin canary_module" in refusal(BASE, document)


def test_plugins_of_the_command_line_are_recorded(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny_module.py").write_text(
        "from dataclasses import dataclass\nfrom mtrl.networks import PolicyArchitecture\n"
        "class Tiny(PolicyArchitecture):\n    @dataclass(frozen=True)\n    class Config:\n        width: int = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    registry.trust_module("tiny_module")
    config = resolve_config(BASE, {"architecture": "tiny_module:Tiny"}, plugins=["tiny_module"])
    assert config.plugins == ("tiny_module",)
    assert parse_yaml(dump_yaml(config), plugins=["tiny_module"]) == config
    assert "--plugin tiny_module" in dump_yaml(config).splitlines()[0]
    # A notebook trusts modules itself; what the configuration uses of them is recorded all the same.
    assert resolve_config(BASE, {"architecture": "tiny_module:Tiny"}).plugins == ("tiny_module",)


# Fuzz: whatever a file holds, it is a valid configuration or one line of refusal.

WORDS = [
    *(group.name for group in CONFIG_GROUPS),
    *("seed", "total_env_steps", "num_envs", "device", "max_hours", "plugins", "name", "batch_size", "widths", "label"),
    *("learner", "sac", "small", "large", "mt10", "multi-head", "os:system", "", "1e6", "ñ", "\u202e", "a" * 300),
    *("\x1b[2J", "\ud800", "<<", "=", "null", "2026-01-01"),
]
VALUES = [0, 1, -1, 3, 2**70, 1e308, 0.5, float("nan"), float("-inf"), True, False, None, [], {}, [[]], [1, "a"]]
PIECES = [
    *("seed: ", "agent: ", "\n", "  ", "- ", "{", "}", "[", "]", ": ", ", ", "#", "&a ", "*a", "!!int ", "|"),
    *("'", '"', "\t", "---\n", "1", "%", "<<: "),
]


def random_value(generator: random.Random, depth: int = 0) -> Any:
    kind = generator.random()
    if kind < 0.3 and depth < 3:
        return {generator.choice(WORDS): random_value(generator, depth + 1) for _ in range(generator.randint(0, 4))}
    if kind < 0.4 and depth < 3:
        return [random_value(generator, depth + 1) for _ in range(generator.randint(0, 4))]
    return generator.choice(VALUES if kind < 0.7 else WORDS)


def random_text(generator: random.Random) -> str:
    """JSON of random settings (which is YAML too), one with a valid frame, or a heap of YAML's pieces."""
    kind = generator.random()
    if kind < 0.3:
        return "".join(generator.choice(PIECES + WORDS) for _ in range(generator.randint(1, 30)))
    document = {generator.choice(WORDS): random_value(generator) for _ in range(generator.randint(0, 5))}
    if kind < 0.7:
        frame: Any = load_mapping(dump_yaml(resolve_config(BASE)), "")
        target = frame if generator.random() < 0.5 else frame["agent"]
        target[generator.choice(list(target))] = random_value(generator)
        document = frame
    return json.dumps(document, ensure_ascii=generator.random() < 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.full)])
def test_any_file_is_a_configuration_or_one_line(count: int) -> None:
    generator = random.Random(count)
    accepted = 0
    for _ in range(count):
        text = random_text(generator)
        with suppress(BadInput):  # anything else is a failure
            config = parse_yaml(text, "file.yaml", plugins=())
            assert isinstance(config, RunConfig)
            assert parse_yaml(dump_yaml(config), plugins=()) == config, text
            accepted += 1
    assert count / 50 < accepted < count


def test_a_preset_is_chosen_by_name_and_the_first_one_otherwise() -> None:
    steps = {
        name: resolve_config({"suite": "large", "agent": "learner", "preset": name}).settings.total_env_steps
        for name in (None, "long", "short")
    }
    assert steps == {None: 5000, "long": 5000, "short": 50}
    config = resolve_config({**BASE, "suite": "large", "preset": "long"}, {"preset": "short", "seed": 7})
    assert (config.settings.preset, config.settings.seed, config.agent.config.batch_size) == ("short", 7, 1280)
    assert resolve_config({"suite": "large", "agent": "learner"}).settings.preset == "long"
    assert resolve_config({**BASE}).settings.preset is None


def test_a_preset_survives_the_file_that_records_it() -> None:
    config = resolve_config({**BASE, "suite": "large", "preset": "short"}, {"agent": {"batch_size": 3}})
    assert parse_yaml(dump_yaml(config)) == config


@pytest.mark.parametrize("name", ["shrt", 3])
def test_an_unknown_preset_is_refused_with_the_known_ones(name: Any) -> None:
    refused = refusal({"suite": "large", "agent": "learner", "preset": name})
    assert "preset" in refused
    assert "must be one of long, short" in refused


def test_a_preset_of_a_suite_without_any_is_refused() -> None:
    assert "the suite has none for this agent" in refusal({**BASE, "preset": "fast"})
