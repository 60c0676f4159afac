"""Aggregators of single parameter groups: in YAML, as flags, and in the agent that is built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import agents
import envs
from mtrl.config.schema import RunConfig, dump_yaml, parse_yaml, resolve_config
from mtrl.errors import BadInput
from mtrl.training.build import build_agent, build_suite
from mtrl.training.run import refuse_cuda_graphs
from tests.cli.commands import assert_refused, call

BASE: dict[str, Any] = {"suite": "point-mass", "architecture": {"name": "mlp", "width": 8, "depth": 1}}


@pytest.fixture(autouse=True)
def _registered() -> None:
    agents.register()
    envs.register()


def built(config: RunConfig) -> dict[str, str]:
    """Class names of the aggregators of the agent's groups."""
    agent = build_agent(config, build_suite(config.suite, 1), torch.device("cpu"))
    return {name: type(group.aggregator).__name__ for name, group in agent.groups().items()}


def refusal(*documents: dict[str, Any]) -> str:
    with pytest.raises(BadInput) as refused:
        built(resolve_config(BASE, *documents))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_one_aggregator_is_that_of_all_groups() -> None:
    assert built(resolve_config(BASE, {"aggregator": "pcgrad"})) == {"critic": "PCGrad", "actor": "PCGrad"}


def test_a_group_can_have_its_own_with_its_own_settings() -> None:
    config = resolve_config(BASE, {"aggregator": {"name": "mean", "critic": {"name": "dwa", "window": 7}}})
    assert built(config) == {"critic": "DynamicWeightAverage", "actor": "Mean"}
    assert config.group_aggregators["critic"].config.window == 7
    assert parse_yaml(dump_yaml(config)) == config
    assert "critic:\n    name: dwa\n" in dump_yaml(config)


def test_settings_of_a_group_without_a_name_change_those_of_the_common_one() -> None:
    config = resolve_config(
        {**BASE, "agent": "ppo", "aggregator": {"name": "dwa", "window": 7, "actor-critic": {"temperature": 3.0}}}
    )
    own = config.group_aggregators["actor-critic"]
    assert (own.name, own.config.window, own.config.temperature) == ("dwa", 7, 3.0)
    assert config.aggregator.config.temperature == 2.0


def test_later_layers_add_to_a_group_and_another_common_class_drops_it() -> None:
    file = {**BASE, "aggregator": {"name": "mean", "critic": {"name": "dwa", "window": 7}}}
    config = resolve_config(file, {"aggregator": {"critic": {"temperature": 1.0}}})
    assert config.group_aggregators["critic"].config.window == 7
    assert resolve_config(file, {"aggregator": {"critic": "mean"}}).group_aggregators["critic"].name == "mean"


def test_the_aggregator_of_all_groups_takes_the_place_of_those_in_a_file() -> None:
    file = {**BASE, "aggregator": {"name": "mean", "critic": {"name": "pcgrad"}}}
    for name in ("mean", "cagrad"):  # that of the file, and another
        assert not resolve_config(file, {"aggregator": {"name": name}}).group_aggregators
    both = resolve_config(file, {"aggregator": {"name": "mean", "actor": "famo"}})
    assert list(both.group_aggregators) == ["actor"]
    assert resolve_config(file, {"aggregator": "pcgrad"}).group_aggregators == {}


def test_an_unknown_group_is_one_line_with_the_groups_of_the_agent() -> None:
    message = refusal({"aggregator": {"name": "dwa", "citric": "mean"}})
    assert "unknown key 'aggregator.citric' (did you mean 'critic'?)" in message
    assert "parameter groups of 'sac': critic, actor; settings of 'dwa': temperature, window" in message
    assert "'ppo': actor-critic;" in refusal({"agent": "ppo", "aggregator": {"critic": "mean"}})


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (3, "aggregator.critic: 3 is not allowed; must be a name or a mapping with a name and settings"),
        ("dwaa", "unknown aggregator 'dwaa' (did you mean 'dwa'?)"),
        ({"name": "dwa", "window": 0}, "aggregator.critic.window: 0 is not allowed; must be an integer above 0"),
        ({"name": "dwa", "windows": 1}, "unknown key 'aggregator.critic.windows' (did you mean 'window'?)"),
    ],
)
def test_nonsense_for_a_group_is_one_line(own: Any, message: str) -> None:
    assert message in refusal({"aggregator": {"critic": own}})


def test_a_method_that_needs_positive_losses_is_refused_where_there_are_none_with_the_way_out() -> None:
    message = refusal({"aggregator": "dwa"})
    assert "aggregator 'dwa'" in message
    assert "parameter group 'actor'" in message
    assert "--aggregator dwa --aggregator.actor mean" in message
    way_out = resolve_config(BASE, {"aggregator": {"name": "dwa", "actor": "mean"}})
    assert built(way_out) == {"critic": "DynamicWeightAverage", "actor": "Mean"}
    assert built(resolve_config({**BASE, "agent": "ppo"}, {"aggregator": "dwa"})) == {
        "actor-critic": "DynamicWeightAverage"
    }


FLAGS = [
    *("train", "--suite", "point-mass", "--aggregator.actor", "mean"),
    *("--aggregator.critic", "dwa", "--aggregator.critic.window", "5"),
]


def test_flags_reach_every_group_and_its_settings(tmp_path: Path) -> None:
    printed = call(*FLAGS, "--print-config")
    assert printed.code == 0, printed.error
    config = parse_yaml(printed.out)
    assert {name: choice.name for name, choice in config.group_aggregators.items()} == {
        "critic": "dwa",
        "actor": "mean",
    }
    assert config.group_aggregators["critic"].config.window == 5
    (tmp_path / "run.yaml").write_text(printed.out)
    file = ("train", "--config", str(tmp_path / "run.yaml"))
    assert call(*file, "--print-config").out == printed.out
    changed = parse_yaml(call(*file, "--aggregator.critic.temperature", "4", "--print-config").out)
    assert changed.group_aggregators["critic"].config.window == 5
    assert changed.group_aggregators["critic"].config.temperature == 4


def test_help_has_the_flags_of_the_groups() -> None:
    shown = re.sub(r"\s+", " ", call(*FLAGS, "--help").out)
    assert "aggregator 'mean' (parameter groups of 'sac': critic, actor): --aggregator.critic NAME" in shown
    assert "aggregator.critic 'dwa':" in shown
    assert "--aggregator.critic.temperature FLOAT" in shown
    assert "--aggregator.actor NAME" in shown


def test_an_unknown_flag_of_a_group_names_the_groups() -> None:
    assert_refused(
        call("train", "--aggregator.citric", "dwa", "--print-config"),
        "unknown flag '--aggregator.citric'",
        "parameter groups of 'sac': critic, actor",
    )
    assert_refused(call("train", "--aggregator.critic", "dwaa", "--print-config"), "unknown aggregator 'dwaa'")
    assert_refused(
        call("train", "--agent", "ppo", "--aggregator.critic", "dwa", "--print-config"), "'ppo': actor-critic"
    )


def test_a_class_of_a_plug_in_can_be_that_of_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_mean_of_a_group.py").write_text(
        "from mtrl.aggregation import Mean\n\n\nclass Mine(Mean):\n    'Mine.'\n"
    )
    printed = call("train", "--aggregator.actor", "my_mean_of_a_group:Mine", "--print-config")
    assert printed.code == 0, printed.error
    assert 'name: "my_mean_of_a_group:Mine"' in printed.out
    assert "plugins: [my_mean_of_a_group]" in printed.out


def test_a_run_with_aggregators_of_groups_trains_and_resumes(tmp_path: Path) -> None:
    flags = (
        "--num-workers 0 --num-envs 4 --agent.learning-starts 20 --agent.batch-size 16 --final-eval-episodes-per-task 0"
    )
    run = str(tmp_path / "run")
    done = call(*FLAGS, *flags.split(), "--total-env-steps", "80", "--run-dir", run)
    assert done.code == 0, done.error
    assert call("train", "--resume", run, "--total-env-steps", "120").code == 0


@pytest.mark.parametrize(
    ("aggregator", "message"),
    [
        ({"name": "mean", "critic": "dwa"}, "the aggregator 'dwa' of the critic cannot be captured"),
        ({"name": "mean", "actor": "pcgrad"}, "updates of the actor need per-task gradients and cannot be captured"),
    ],
)
def test_cuda_graphs_hold_no_aggregator_with_a_state(aggregator: Any, message: str) -> None:
    config = resolve_config(BASE, {"aggregator": aggregator})
    agent = build_agent(config, build_suite(config.suite, 1), torch.device("cpu"))
    with pytest.raises(BadInput, match=message):
        refuse_cuda_graphs(agent)
