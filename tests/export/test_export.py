"""Exported policies act as their agents do, and their folder says what they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from torch import Tensor, nn

import mtrl
from agents.distillation.teachers import load_teacher
from mtrl import registry
from mtrl.agent import Agent
from mtrl.config.schema import RunConfig
from mtrl.errors import BadInput
from mtrl.export.program import FORMATS, DeterministicPolicy, random_inputs, refuse_differences
from mtrl.networks import PolicyArchitecture, architectures
from mtrl.training.build import build_agent, build_suite
from tests.cli.commands import assert_refused, call
from tests.export.hub_stand_in import TOKEN, hub
from tests.fresh_process import run_fresh
from tests.training.tiny_runs import tiny_config

ONNX_IN_SHORT = ("film", "routing", "separate")
"""Architectures that the short tests export to ONNX; the full ones export all."""


class ChoosesByValues(PolicyArchitecture):
    """Has no graph: which layer is used depends on the values."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.layer = nn.Linear(in_features, out_features)

    def forward(self, features: Tensor, task_ids: Tensor) -> Tensor:
        return self.layer(features) if float(features.sum()) > 0 else self.layer(-features)


class Linear(ChoosesByValues):
    def forward(self, features: Tensor, task_ids: Tensor) -> Tensor:
        return self.layer(features)


@pytest.fixture(autouse=True)
def _nothing_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_trusted_modules", {})


def new_agent(config: RunConfig) -> Agent:
    """An agent whose last layers are far from zero, so that actions differ."""
    agent = build_agent(config, build_suite(config.suite, 1), torch.device("cpu"))
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    agent.use_last_weights()
    return agent.eval()


def export_and_compare(config: RunConfig, kind: str) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    agent = new_agent(config)
    policy = DeterministicPolicy(agent, config.agent.name)
    _, write, load = FORMATS[kind]
    exported = load(write(policy, agent.spec, config.architecture.name), policy)
    refuse_differences(exported, agent, seed=3)
    observation, task_ids = random_inputs(agent.spec, 4)
    assert len(np.unique(exported(observation, task_ids), axis=0)) > 1
    with pytest.raises(BadInput, match="differs from the agent"):
        refuse_differences(lambda rows, tasks: exported(rows, (tasks + 1) % 4), agent, seed=3)


tiny_config()  # registers the classes


def narrow(name: str) -> dict[str, Any]:
    """An architecture with narrow layers."""
    names = [field.name for field in fields(architectures.get(name).Config)]  # type: ignore[attr-defined]
    return {"name": name} | {size: 24 for size in names if size.endswith(("width", "_size"))}


@pytest.mark.parametrize("name", sorted(architectures.names()))
def test_every_architecture_is_exported_to_torch(name: str) -> None:
    export_and_compare(tiny_config(architecture=narrow(name)), "torch")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ONNX_IN_SHORT else pytest.mark.full)
        for name in sorted(architectures.names())
    ],
)
def test_every_architecture_is_exported_to_onnx(name: str) -> None:
    export_and_compare(tiny_config(architecture=narrow(name), agent={"name": "ppo"}), "onnx")


def test_normalized_observations_are_part_of_the_graph() -> None:
    config = tiny_config(encoder="normalized")
    agent = new_agent(config)
    moments = next(module for module in agent.modules() if type(module).__name__ == "ObservationMoments")
    moments.add(torch.tensor([[3.0, 4.0], [5.0, 8.0]]))  # type: ignore[operator]
    moments.refresh()  # type: ignore[operator]
    policy = DeterministicPolicy(agent, "sac")
    _, write, load = FORMATS["torch"]
    refuse_differences(load(write(policy, agent.spec, "mlp"), policy), agent, seed=3)


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_the_common_policy_of_distral_is_exported(kind: str) -> None:
    config = tiny_config(policy="distral", agent={"name": "ppo"}, architecture={"name": "separate", "width": 16})
    agent = new_agent(config)
    agent.play_part("common")
    policy = DeterministicPolicy(agent, "ppo")
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    _, write, load = FORMATS[kind]
    exported = load(write(policy, agent.spec, "separate"), policy)
    refuse_differences(exported, agent, seed=3)
    observation, task_ids = random_inputs(agent.spec, 4)
    np.testing.assert_array_equal(exported(observation, task_ids), exported(observation, 0 * task_ids))


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_pixels_and_masked_actions_are_exported(kind: str) -> None:
    pytest.importorskip("ale_py")
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    config = tiny_config(suite="atari:pong,breakout", agent={"name": "ppo"}, encoder="nature", num_envs=2)
    agent = new_agent(config)
    policy = DeterministicPolicy(agent, "ppo")
    _, write, load = FORMATS[kind]
    exported = load(write(policy, agent.spec, "mlp"), policy)
    refuse_differences(exported, agent, seed=3)
    observation, task_ids = random_inputs(agent.spec, 4)
    assert observation.dtype == np.uint8
    actions = exported(observation, task_ids)
    assert agent.spec.action_mask is None or agent.spec.action_mask[task_ids, actions].all()


def test_an_architecture_without_a_graph_is_refused_by_name() -> None:
    name = f"{__name__}:ChoosesByValues"
    registry.trust_class(ChoosesByValues)
    agent = new_agent(tiny_config(architecture=name))
    for kind in ("torch", "onnx"):
        if kind == "onnx":
            pytest.importorskip("onnxscript")
        with pytest.raises(BadInput, match=rf"architecture '{name}' cannot be exported as {kind}"):
            FORMATS[kind][1](DeterministicPolicy(agent, "sac"), agent.spec, name)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    agent = new_agent(tiny_config())
    with pytest.raises(BadInput, match=r"pip install 'mtrl-suite\[onnx\]'"):
        FORMATS["onnx"][1](DeterministicPolicy(agent, "sac"), agent.spec, "mlp")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> mtrl.Run:
    """A trained run with a final evaluation."""
    return trained(tmp_path_factory.mktemp("runs") / "reacher")


def trained(run_dir: Path, seed: int = 1) -> mtrl.Run:
    return mtrl.train(
        suite="point-mass",
        architecture={"name": "mlp", "width": 16, "depth": 1},
        agent={"name": "sac", "batch_size": 8, "learning_starts": 80},
        num_workers=0,
        torch_threads=1,
        total_env_steps=160,
        eval_interval=0,
        final_eval_episodes_per_task=2,
        seed=seed,
        run_dir=run_dir,
    )


def front_matter(folder: Path) -> dict[str, Any]:
    return YAML(typ="safe").load((folder / "README.md").read_text().split("---\n")[1])


def test_a_run_becomes_a_folder_with_a_card(run: mtrl.Run, tmp_path: Path) -> None:
    done = call("export", str(run.path), "--output", str(tmp_path / "policy"), "--license", "cc-by-4.0")
    assert done.code == 0, done.error
    assert sorted(path.name for path in (tmp_path / "policy").iterdir()) == [
        *("README.md", "config.yaml", "policy.json", "policy.pt2"),
    ]
    program = torch.export.load(tmp_path / "policy" / "policy.pt2").module()
    action = program(torch.tensor([[0.1, 0.2]]), torch.tensor([2])).numpy()
    np.testing.assert_allclose(action[0], run.policy.predict([0.1, 0.2], 2), atol=1e-6)

    text, matter = (tmp_path / "policy" / "README.md").read_text(), front_matter(tmp_path / "policy")
    assert (matter["license"], matter["library_name"]) == ("cc-by-4.0", "mtrl-suite")
    results = matter["model-index"][0]["results"]
    assert [result["dataset"]["config"] for result in results] == list(run.policy.spec.task_names)
    rows = [row for row in csv_rows(run.path / "eval.csv") if row["kind"] == "final"]
    assert results[0]["metrics"][0]["value"] == pytest.approx(float(rows[0]["mean_return"]), abs=1e-3)
    assert "mtrl train --config config.yaml" in text
    assert str(run.path.parent) not in text
    about = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert about["inputs"]["observation"] == {"shape": [2], "dtype": "float32"}


def csv_rows(path: Path) -> list[dict[str, str]]:
    import csv

    return list(csv.DictReader(path.read_text().splitlines()))


def test_exported_weights_are_played_like_their_run(run: mtrl.Run, tmp_path: Path) -> None:
    folder = run.export(output=str(tmp_path / "policy"), format="weights")
    assert "mtrl.load" in (folder / "README.md").read_text()
    played = mtrl.load(folder)
    assert (played.checkpoint, played.env_steps) == ("step 160", 160)
    observation, task_ids = random_inputs(played.spec, 4)
    np.testing.assert_array_equal(played.predict(observation, task_ids), run.policy.predict(observation, task_ids))
    teacher = load_teacher(str(folder), played.spec, "latest", torch.device("cpu"))
    assert teacher.spec.task_names == played.spec.task_names
    done = call("eval", str(folder), "--episodes-per-task", "2", "--num-workers", "0")
    assert done.code == 0, done.error
    assert json.loads((folder / "eval.json").read_text())["checkpoint"] == "step 160"

    assert_refused(call("eval", str(folder), "--checkpoint", "best"), "is an exported policy: it has no other")
    (folder / "policy.safetensors").write_bytes(b"\0" + (folder / "policy.safetensors").read_bytes()[1:])
    assert_refused(call("eval", str(folder)), "is damaged")
    (folder / "policy.safetensors").unlink()
    assert_refused(call("eval", str(folder)), "mtrl export --format weights")
    (folder / "policy.json").write_text("[]")
    assert_refused(call("eval", str(folder)), "policy.json is not what an export writes")


def test_scores_are_those_of_the_exported_checkpoint(run: mtrl.Run, tmp_path: Path) -> None:
    # The final evaluation is of the averaged weights: it says nothing of the last ones.
    folder = run.export(output=str(tmp_path / "last"), weights="last")
    assert "model-index" not in front_matter(folder)
    assert "Not evaluated" in (folder / "README.md").read_text()
    result = run.evaluate(episodes_per_task=3, num_workers=0, weights="last")
    folder = run.export(output=str(tmp_path / "last"), weights="last")
    assert "with 3 episodes per task" in (folder / "README.md").read_text()
    shown = front_matter(folder)["model-index"][0]["results"][0]["metrics"][0]["value"]
    assert shown == pytest.approx(float(result.mean_returns[0]), abs=1e-3)
    stored = json.loads((folder / "eval.json").read_text())
    assert "run" not in stored
    (run.path / "eval.json").write_text(json.dumps(stored | {"episodes": {"goal-0.8-0.8": 3}}))
    with pytest.raises(BadInput, match=r"eval\.json is not what mtrl eval writes"):
        run.export(output=str(folder), weights="last")
    (run.path / "eval.json").unlink()


def test_scores_are_of_the_runs_seed_and_of_no_fewer_episodes_than_its_own(run: mtrl.Run, tmp_path: Path) -> None:
    def is_in_card(**settings: Any) -> bool:
        """Whether the card has the scores of an evaluation with these settings, and not the run's own."""
        if settings:
            run.evaluate(num_workers=0, **settings)
        folder = run.export(output=str(tmp_path / "policy"), format="weights")
        kept = (folder / "eval.json").is_file()
        assert f"with {3 if kept else 2} episodes per task" in (folder / "README.md").read_text()
        return kept

    assert is_in_card(episodes_per_task=3)
    stored = json.loads((run.path / "eval.json").read_text())
    (run.path / "eval.json").write_text(json.dumps(stored | {"settings": stored["settings"] | {"starts": 1}}))
    assert not is_in_card()
    assert not is_in_card(episodes_per_task=3, seed=99)
    assert not is_in_card(episodes_per_task=1)
    assert not is_in_card(episodes_per_task=3, weights="last")
    (run.path / "eval.json").unlink()


@pytest.mark.slow
def test_another_format_of_the_same_checkpoint_stays_and_that_of_another_goes(run: mtrl.Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    folder = run.export(output=str(tmp_path / "policy"))
    run.export(output=str(folder), format="onnx")
    assert {"policy.pt2", "policy.onnx"} <= {path.name for path in folder.iterdir()}
    assert "onnxruntime" in (folder / "README.md").read_text()
    run.export(output=str(folder), format="onnx", weights="last")
    assert "policy.pt2" not in {path.name for path in folder.iterdir()}
    assert "torch.export.load" not in (folder / "README.md").read_text()


def test_the_policy_of_another_run_is_neither_kept_beside_the_new_one_nor_pushed(run: mtrl.Run, tmp_path: Path) -> None:
    other = trained(tmp_path / "other", seed=2)
    folder = run.export(output=str(other.path / "export"), format="weights")
    assert_refused(call("push", str(other.path), "--repo-id", "someone/reacher"), "the run has another step 160")
    other.export()
    assert {path.name for path in folder.glob("policy.*")} == {"policy.pt2", "policy.json"}
    other.export(format="weights")
    assert {path.name for path in folder.glob("policy.*")} == {"policy.pt2", "policy.json", "policy.safetensors"}
    about = json.loads((mtrl.Run(folder).export(output=str(tmp_path / "again")) / "policy.json").read_text())
    assert about["checkpoint_sha256"] == json.loads((folder / "policy.json").read_text())["checkpoint_sha256"]


def test_wrong_exports_are_refused_and_leave_nothing(run: mtrl.Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    path = str(run.path)
    assert_refused(call("export", path, "--output", str(tmp_path / "mine")), "is not empty and no export")
    assert_refused(call("export", path, "--format", "tflite"), "format: 'tflite' is not allowed", "'onnx'")
    assert_refused(call("export", path, "--checkpoint", "bst"), "did you mean 'best'")
    assert_refused(call("export", path, "--checkpoint", "7"), "7")
    assert_refused(call("export", path, "--policy-part", "common"), "has no parts")
    assert_refused(call("export", str(tmp_path)), "config.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def push(*arguments: str, address: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """`mtrl push` in a process of its own: the hub's address is read when the library is imported."""
    environment = os.environ | {"HF_ENDPOINT": address, "HF_TOKEN": token, "HF_HUB_DISABLE_TELEMETRY": "1"}
    return run_fresh("mtrl", "push", *arguments, folder=Path.cwd(), environment=environment, timeout=600)


@pytest.mark.slow
def test_a_run_is_pushed_to_the_hub(run: mtrl.Run) -> None:
    pytest.importorskip("huggingface_hub")
    with hub() as there:
        refused = push(str(run.path), "--repo-id", "someone/reacher", address=there.address, token="hf_wrong")
        assert refused.returncode == 2
        assert "hf auth login" in refused.stderr
        (run.path / "export" / "notes.txt").write_text("not for the hub")
        done = push(str(run.path), "--repo-id", "someone/reacher", "--private", address=there.address)
        assert done.returncode == 0, done.stderr
        assert f"{there.address}/someone/reacher" in done.stdout
    assert "private" in json.dumps(there.created[0])
    assert sorted(there.files) == ["README.md", "config.yaml", "policy.json", "policy.pt2"]
    assert there.files["policy.pt2"] == (run.path / "export" / "policy.pt2").read_bytes()
    gone = push(str(run.path), "--repo-id", "someone/reacher", address=there.address)
    assert gone.returncode == 5
    assert "cannot be reached" in gone.stderr
    about = json.loads((run.path / "export" / "policy.json").read_text())
    (run.path / "export" / "policy.json").write_text(json.dumps(about | {"env_steps": 80}))
    assert_refused(call("push", str(run.path), "--repo-id", "someone/reacher"), "is of step 80", "step 160")


def test_a_push_without_a_name_is_refused(run: mtrl.Run) -> None:
    assert_refused(call("push", str(run.path)), "--repo-id is needed")


def test_the_hub_reads_the_card(run: mtrl.Run, tmp_path: Path) -> None:
    hub_library = pytest.importorskip("huggingface_hub")
    folder = run.export(output=str(tmp_path / "policy"))
    card = hub_library.ModelCard.load(folder / "README.md")
    assert card.data.license == "mit"
    assert {result.dataset_config for result in card.data.eval_results} == set(run.policy.spec.task_names)
