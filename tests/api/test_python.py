"""`mtrl.train`, `mtrl.Run`, `mtrl.make_env` and `mtrl.load` as a program or a notebook calls them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mtrl
from mtrl import registry
from mtrl.config.schema import resolve_config
from mtrl.errors import BadInput
from mtrl.faults import PluginFault
from mtrl.loggers import Callback
from mtrl.networks import PolicyArchitecture
from mtrl.optim.matmul_backend import SETTING
from mtrl.training import run as training
from mtrl.training.interruption import Interruption
from tests.cli.commands import call
from tests.fresh_process import run_fresh
from tests.training.tiny_runs import differences, final_state, tiny_config

SMALL: dict[str, Any] = {
    "suite": "point-mass",
    "architecture": {"name": "mlp", "width": 16, "depth": 1},
    "agent": {"name": "sac", "batch_size": 8, "learning_starts": 80},
    "num_envs": 8,
    "num_workers": 0,
    "torch_threads": 1,
    "total_env_steps": 240,
    "log_interval": 80,
    "eval_interval": 120,
    "eval_episodes_per_task": 2,
    "final_eval_episodes_per_task": 2,
    "checkpoint_interval": 120,
}


class Linear(PolicyArchitecture):
    """One linear layer."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        bias: bool = True  # whether it has a bias

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.layer = nn.Linear(in_features, out_features, bias=config.bias)

    def forward(self, features: Tensor, task_ids: Tensor) -> Tensor:
        return self.layer(features)


class Broken(Linear):
    def forward(self, features: Tensor, task_ids: Tensor) -> Tensor:
        raise LookupError("no layer")


class Meddling(Callback):
    """Changes what a program has set."""

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        torch.set_num_threads(2)
        os.environ["MTRL_TEST"] = "1"
        os.environ.pop("MTRL_TEST_KEPT", None)
        warnings.simplefilter("always")


@pytest.fixture(autouse=True)
def _nothing_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_trusted_modules", {})
    monkeypatch.setattr(sys, "path", [*sys.path])


def state_of_the_process() -> dict[str, Any]:
    """What a library has to leave alone."""
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "matmul": SETTING.fp32_precision,
        "torch generator": torch.random.get_rng_state().tolist(),
        "numpy generator": np.random.get_state()[1].tolist(),  # type: ignore[index, union-attr]
        "warnings": list(warnings.filters),
        "signals": {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)},
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "path": [*sys.path],
        "stdout": getattr(sys.stdout, "errors", None),
    }


def test_a_run_is_trained_resumed_evaluated_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = mtrl.train(**SMALL, run_dir=tmp_path / "run")
    assert run.path == tmp_path / "run"
    assert run.metrics()["env_steps"][-1] == 240
    assert mtrl.load_metrics(run).keys() == run.metrics().keys()
    assert run.policy.predict([0.1, 0.2], 0).shape == (2,)
    np.testing.assert_array_equal(mtrl.load(run).predict([0.1, 0.2], 0), run.policy.predict([0.1, 0.2], 0))
    result = run.evaluate(episodes_per_task=3, num_workers=0)
    assert result.returns.shape == (4, 3)
    assert (run.path / "eval.json").is_file()
    longer = run.resume(total_env_steps=320)
    assert longer.policy.env_steps == 320
    assert longer.config.settings.total_env_steps == 320
    # Ctrl-C in an evaluation.
    monkeypatch.setattr(
        Interruption, "_signal", property(lambda self: signal.SIGINT, lambda self, number: None), raising=False
    )
    with pytest.raises(KeyboardInterrupt):
        longer.evaluate(episodes_per_task=1, num_workers=0)
    assert call("eval", str(run.path), "--num-workers", "0").code == 130


@pytest.mark.slow
def test_it_trains_the_bits_that_the_command_line_trains(tmp_path: Path) -> None:
    mtrl.train(**SMALL, run_dir=tmp_path / "python")
    command = [sys.executable, "-m", "mtrl", "train", "--config", "python/config.yaml", "--run-dir", "command"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=600)
    one, other = (final_state(tmp_path / name)["state"]["agent"] for name in ("python", "command"))
    assert differences(one, other) == []
    assert (tmp_path / "python/config.yaml").read_text() == (tmp_path / "command/config.yaml").read_text()


def test_the_process_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTRL_TEST_KEPT", "1")
    matmul = SETTING.fp32_precision
    SETTING.fp32_precision = "none"
    torch.set_num_threads(3)
    try:
        before = state_of_the_process()
        run = mtrl.train(**SMALL, run_dir=tmp_path / "run", callback=[Meddling])
        assert state_of_the_process() == before
        run.resume(total_env_steps=320)
        run.evaluate(episodes_per_task=1, num_workers=0)
        mtrl.load(run).predict([0.1, 0.2], 0)
        mtrl.make_env("point-mass").close()
        with pytest.raises(BadInput):
            mtrl.train(**SMALL | {"agent": "ppo", "cuda_graphs": True, "device": "cpu"})
        assert state_of_the_process() == before
        torch.get_float32_matmul_precision()  # raises where torch's two interfaces to precision were mixed
    finally:
        torch.set_num_threads(1)
        SETTING.fp32_precision = matmul


def test_it_trains_in_a_thread(tmp_path: Path) -> None:
    found: list[mtrl.Run] = []
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: found.append(mtrl.train(**SMALL, run_dir=tmp_path / "run")))
    thread.start()
    thread.join()
    assert found[0].policy.env_steps == 240
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"agent": {"name": "sac", "lr": 1e-3}}, "unknown key 'agent.lr' (did you mean 'learning_rate'?)"),
        ({"lr": 1e-3}, "unknown key 'lr' (did you mean 'agent.learning_rate'?)"),
        ({"steps": 3}, "unknown key 'steps' (did you mean 'total_env_steps'?)"),
        ({"agent": "SAC"}, "unknown agent 'SAC' (did you mean 'sac'?)"),
        ({"suite": "MT10"}, "unknown suite 'MT10' (did you mean 'mt10'?)"),
        ({"seed": "1"}, "seed: '1' is not allowed; must be an integer"),
        ({"seed": object()}, "settings: Object of type object is not JSON serializable"),
        ({"architecture": 3}, "architecture: 3 is not allowed"),
        ({"architecture": int}, "architecture 'builtins:int'"),
        ({"architecture": "elsewhere:Net"}, "plug-in module 'elsewhere' cannot be imported"),
        (
            {"config": {"architecture": "elsewhere:Net"}, "architecture": {}},
            "code that this command line does not name",
        ),
        ({"auxiliary": ["reward"]}, "unknown auxiliary task 'reward'"),
        ({"preset": "slow"}, "preset: 'slow' is not allowed"),
        ({"config": "missing.yaml"}, "missing.yaml"),
        ({"plugins": ["missing_module"]}, "plug-in module 'missing_module' cannot be imported"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        mtrl.train(**SMALL | settings, run_dir=tmp_path / "run")
    assert message in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_numbers_of_numpy_tuples_and_paths_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noted(config: Any, run_dir: Path, **options: Any) -> int:
        seen.append(config)
        raise BadInput("enough")

    monkeypatch.setattr(training, "train", noted)
    with pytest.raises(BadInput, match="enough"):
        mtrl.train(**SMALL | {"seed": np.int64(7), "agent": {"name": "sac", "discount": np.float64(0.5)}})
    assert (seen[0].settings.seed, seen[0].agent.config.discount) == (7, 0.5)


def test_keywords_go_over_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("suite: point-mass\nseed: 3\nagent: {name: sac, discount: 0.5}\n")
    from mtrl.api.configuration import configuration

    expected = resolve_config({"suite": "point-mass", "seed": 4, "agent": {"name": "sac", "discount": 0.5}})
    assert configuration({"seed": 4}, tmp_path / "small.yaml") == expected
    assert configuration({"seed": 4}, {"suite": "point-mass", "agent": {"discount": 0.5}}) == expected


def test_a_class_can_be_given_as_itself(tmp_path: Path) -> None:
    chosen = {"architecture": {"name": Linear, "bias": False}}
    run = mtrl.train(**SMALL | chosen, run_dir=tmp_path / "run")
    assert run.config.architecture.name == f"{__name__}:Linear"
    assert run.config.architecture.config.bias is False
    registry._trusted_modules.clear()
    with pytest.raises(BadInput, match="--plugin"):
        mtrl.load(tmp_path / "run")
    assert mtrl.load(tmp_path / "run", plugins=[Linear]).predict([0.1, 0.2], 0).shape == (2,)
    assert mtrl.Run(tmp_path / "run", plugins=[Linear]).resume(total_env_steps=320).policy.env_steps == 320


def test_a_registered_class_has_its_name(tmp_path: Path) -> None:
    from mtrl.api.configuration import configuration
    from mtrl.networks import architectures

    film = architectures.get("film")
    assert configuration({"suite": "point-mass", "architecture": film}).architecture.name == "film"


def test_code_that_the_keywords_name_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mtrl.api.configuration import configuration

    text = f"from {__name__} import Linear\n\n\nclass Own(Linear):\n    pass\n"
    (tmp_path / "own_module.py").write_text(text)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    config = configuration({"suite": "point-mass", "architecture": {"name": "own_module:Own", "bias": False}})
    assert config.plugins == ("own_module",)
    registry._trusted_modules.clear()
    with pytest.raises(BadInput, match="code that this command line does not name"):
        configuration({}, {"suite": "point-mass", "architecture": "own_module:Own"})
    assert configuration({}, {"architecture": "own_module:Own"}, ["own_module"]).plugins == ("own_module",)
    with pytest.raises(BadInput, match="'no_such_module' cannot be imported"):
        configuration({"suite": {"name": "gym:CartPole-v1", "import_": ["no_such_module"]}})


def test_a_class_inside_a_function_is_refused(tmp_path: Path) -> None:
    class Hidden(Linear):
        pass

    with pytest.raises(BadInput, match="at the top level"):
        mtrl.train(**SMALL | {"architecture": Hidden}, run_dir=tmp_path / "run")


def test_a_fault_of_a_class_is_named_as_its_own(tmp_path: Path) -> None:
    with pytest.raises(PluginFault, match=r"Broken.*LookupError: no layer"):
        mtrl.train(**SMALL | {"architecture": Broken}, run_dir=tmp_path / "run")


SCRIPT = """
import os, signal, sys
import mtrl
from mtrl.loggers import Callback

class Signal(Callback):
    def on_metrics(self, row):
        os.kill(os.getpid(), signal.{signal})

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests to ignore it
try:
    mtrl.train(**{settings!r}, run_dir="run", callback=[Signal])
except BaseException as error:
    print(type(error).__name__, getattr(error, "code", None))
    sys.exit(3)
"""


@pytest.mark.parametrize(("name", "raised"), [("SIGINT", "KeyboardInterrupt None"), ("SIGTERM", "SystemExit 143")])
def test_a_signal_saves_the_run_and_stops_the_program(name: str, raised: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.format(signal=name, settings=SMALL))
    done = run_fresh("python", "script.py", folder=tmp_path, timeout=600)
    assert done.returncode == 3, done.stderr
    assert raised in done.stdout
    assert final_state(tmp_path / "run")["step"] < 240


NOTEBOOK_CLASS = """
from dataclasses import dataclass
from torch import nn
import mtrl
from mtrl.networks import PolicyArchitecture

class Own(PolicyArchitecture):
    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: int = 8

    def __init__(self, in_features, out_features, num_tasks, config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.layer = nn.Linear(in_features, out_features)

    def forward(self, features, task_ids):
        return self.layer(features)

run = mtrl.train(**{settings!r}, architecture=Own, run_dir="run")
print("step", run.policy.env_steps)
"""


def test_a_script_trains_a_class_of_its_own_and_the_command_line_says_where_it_is(tmp_path: Path) -> None:
    settings = {name: value for name, value in SMALL.items() if name != "architecture"} | {"num_workers": 1}
    (tmp_path / "script.py").write_text(NOTEBOOK_CLASS.format(settings=settings))
    done = run_fresh("python", "script.py", folder=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "step 240" in done.stdout
    evaluated = run_fresh("mtrl", "eval", "run", folder=tmp_path)
    assert evaluated.returncode == 2
    assert "class of the notebook or script that trained it" in evaluated.stderr


def test_environments_are_those_of_training() -> None:
    tiny_config()  # registers the suites
    with mtrl.make_env({"name": "point-mass"}, num_envs=8, seed=3) as envs:
        observation = envs.reset()
        assert (observation.shape, envs.task_ids.tolist()) == ((8, 2), [0, 0, 1, 1, 2, 2, 3, 3])
        assert envs.step(np.zeros((8, 2), np.float32)).reward.shape == (8,)
    with pytest.raises(BadInput, match="unknown suite"):
        mtrl.make_env("point-mas")
    with pytest.raises(BadInput, match="num_envs: 0"):
        mtrl.make_env("point-mass", num_envs=0)


USERS_FILE = """
from pathlib import Path

import numpy as np

import mtrl
from mtrl.errors import BadInput


def study(folder: Path) -> np.ndarray:
    run: mtrl.Run = mtrl.train(suite="mt3", agent={"name": "sac", "batch_size": 64}, run_dir=folder, seed=2)
    columns: dict[str, np.ndarray] = run.metrics()
    rates: np.ndarray = run.resume(total_env_steps=10).evaluate(episodes_per_task=2).success_rates
    with mtrl.make_env("mt3", num_envs=6) as envs:
        observation: np.ndarray = envs.reset()
    try:
        action: np.ndarray = mtrl.load(run, plugins=["film"]).predict(observation[0], "reach-v3")
    except BadInput:
        raise
    actions: np.ndarray = run.policy.predict(observation, [0, 1, 2])
    return np.concatenate([action, rates, columns["env_steps"], actions.flatten()])
"""


@pytest.mark.slow
def test_a_file_that_imports_the_library_passes_the_type_checker(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "study.py").write_text(USERS_FILE)
    (tmp_path / "wrong.py").write_text("import mtrl\n\nrun: int = mtrl.train(suite=3)\n")
    root = Path(mtrl.__file__).parents[1]
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-torch.*]\nfollow_imports = skip\n")  # most of the time is torch's
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--strict", "--cache-dir"]
    command += [str(root / ".mypy_cache" / "of-a-user"), "--follow-imports=silent"]
    results = [
        subprocess.run(
            [*command, name], cwd=tmp_path, env=os.environ | {"MYPYPATH": str(root)}, capture_output=True, text=True
        )
        for name in ("study.py", "wrong.py")
    ]
    assert results[0].returncode == 0, results[0].stdout + results[0].stderr
    assert "Incompatible types in assignment" in results[1].stdout
    assert 'Argument "suite"' in results[1].stdout
