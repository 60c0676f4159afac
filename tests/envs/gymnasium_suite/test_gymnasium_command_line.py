"""Gymnasium suites on the command line: code counts only where it is named there, and runs go on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mtrl import registry
from mtrl.cli.main import main
from mtrl.config.schema import parse_yaml
from mtrl.errors import BadInput

ENVIRONMENTS = '''
import gymnasium
from gymnasium.envs.registration import register

class Lamp(gymnasium.Env):
    """The reward is 1 while the light is on."""
    observation_space = gymnasium.spaces.Box(0, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(0, 1, 1).astype("float32"), {}

    def step(self, action):
        return self.np_random.uniform(0, 1, 1).astype("float32"), float(action), False, False, {}

register("Lamp-v0", entry_point=Lamp, max_episode_steps=10)
'''
WRAPPERS = """
import gymnasium

def doubled(env):
    return gymnasium.wrappers.TransformReward(env, lambda reward: 2 * reward)
"""
JAMMING = """
import gymnasium

class Jamming(gymnasium.Wrapper):
    def step(self, action):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps > 5:
            raise ValueError("jammed")
        return super().step(action)
"""
SUITE = ["--suite", "gym:Lamp-v0", "--suite.import", "lamps", "--suite.wrappers", "doubling:doubled"]
SHORT = [
    *("--run-dir", "run", "--total-env-steps", "80", "--num-envs", "4", "--num-workers", "1", "--eval-interval", "0"),
    *("--final-eval-episodes-per-task", "1", "--agent.learning-starts", "40", "--agent.batch-size", "16"),
]


def test_a_run_names_its_modules_and_goes_on_only_where_the_command_line_does_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lamps.py").write_text(ENVIRONMENTS)
    (tmp_path / "doubling.py").write_text(WRAPPERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["train", *SUITE, *SHORT]) == 0, capsys.readouterr().err
    config = YAML(typ="safe").load(tmp_path / "run" / "config.yaml")
    assert config["plugins"] == ["doubling", "lamps"]
    assert (config["suite"]["import_"], config["suite"]["wrappers"]) == (["lamps"], ["doubling:doubled"])
    monkeypatch.setattr(registry, "_trusted_modules", {})
    assert main(["eval", "run"]) == 2
    assert "needs the plug-in 'doubling', which is code that this command line" in capsys.readouterr().err
    arguments = ["eval", "run", "--plugin", "lamps", "--plugin", "doubling", "--num-workers", "0"]
    assert main([*arguments, "--episodes-per-task", "3"]) == 0
    shown = capsys.readouterr().out
    assert "Lamp-v0" in shown
    assert "protocol gymnasium" in shown


def test_a_fault_of_a_wrapper_is_one_line_and_its_traceback_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jamming.py").write_text(JAMMING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["train", "--suite", "gym:CartPole-v1", "--suite.wrappers", "jamming:Jamming", *SHORT]) == 4
    error = capsys.readouterr().err.splitlines()[-1]
    (trace,) = (tmp_path / "run" / "diagnostics").iterdir()
    said = f"Jamming ({tmp_path}/jamming.py:8) raised ValueError: jammed (traceback: run/diagnostics/{trace.name})"
    assert error.endswith(said), error
    assert f'File "{tmp_path}/jamming.py", line 8, in step' in trace.read_text()


@pytest.mark.parametrize("setting", ["import_: [lamps]", "wrappers: ['lamps:doubled']"])
def test_a_file_that_names_code_is_refused(setting: str) -> None:
    with pytest.raises(BadInput, match="needs the plug-in 'lamps', which is code that this command line does not name"):
        parse_yaml(f"suite:\n  name: gym:CartPole-v1\n  {setting}\n", "a file")


@pytest.mark.parametrize(
    ("flags", "fragment"),
    [
        (("--suite.wrappers", "no_such_module:f"), "plug-in module 'no_such_module' cannot be imported"),
        (("--suite.wrappers", "toy_environments:hlaf"), "has no 'hlaf' (did you mean 'half'?)"),
        (("--suite.wrappers", "toy_environments:not_a_function"), "'toy_environments:not_a_function' is no function"),
        (("--suite.wrappers", "toy_environments"), "'toy_environments' names no function"),
        (("--suite.import", "lamps.py"), "'lamps.py' is a file"),
        (("--suite.env-kwargs", "{g: [}"), "env_kwargs"),
        (("--suite.env-kwargs", "no_such_argument", "3"), "cannot be made"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(
    flags: tuple[str, ...], fragment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--suite", "gym:ToyTwo-v0", *flags, "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert fragment in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("max_torque", "1.5"), {"max_torque": 1.5}),
        (('{"g": 5, "Pendulum-v1": {"g": 9.5}}',), {"g": 5, "Pendulum-v1": {"g": 9.5}}),
        (("{g: 5.0}",), {"g": 5.0}),
    ],
)
def test_arguments_are_pairs_or_a_mapping(
    flags: tuple[str, ...], expected: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--suite", "gym:Pendulum-v1", "--suite.env-kwargs", *flags, "--print-config"]) == 0
    assert YAML(typ="safe").load(capsys.readouterr().out)["suite"]["env_kwargs"] == expected
