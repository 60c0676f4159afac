"""The model card of an exported policy: README.md with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import gymnasium as gym

from mtrl.config.schema import RunConfig
from mtrl.config.yaml_io import dump_mapping
from mtrl.export.scores import TaskScore
from mtrl.types import SuiteSpec

PROJECT = "mtrl-suite"

_USE = {
    "policy.pt2": """\
```python
import torch

policy = torch.export.load("policy.pt2").module()
observation = torch.zeros(1, {shape}, dtype=torch.{dtype})
action = policy(observation, torch.tensor([0]))  # task 0: {first}
```
""",
    "policy.onnx": """\
```python
import numpy as np
import onnxruntime

policy = onnxruntime.InferenceSession("policy.onnx")
observation = np.zeros((1, {shape}), np.{dtype})
(action,) = policy.run(None, {{"observation": observation, "task_id": np.array([0])}})  # task 0: {first}
```
""",
    "policy.safetensors": """\
In the folder of this file, with {project} installed:

```console
$ mtrl eval . --video
```

```python
import mtrl
import numpy as np

action = mtrl.load(".").predict(np.zeros({shape}), "{first}")
```
""",
}


def model_card(
    name: str,
    config: RunConfig,
    spec: SuiteSpec,
    scores: Sequence[TaskScore],
    facts: dict[str, str],
    files: Collection[str],
    license: str,
) -> str:
    """The text of README.md.

    name: of the model. facts: lines of (what, value) about checkpoint and versions. files: the exported policies there.
    license: an identifier of the hub, such as mit.
    """
    shape = ", ".join(map(str, spec.observation_space.shape))
    first = {
        "project": PROJECT,
        "shape": shape,
        "dtype": str(spec.observation_space.dtype),
        "first": spec.task_names[0],
    }
    uses = "\n".join(_USE[file].format(**first) for file in _USE if file in files)
    tasks = "\n".join(f"| {index} | {task} |" for index, task in enumerate(spec.task_names))
    plugins = "".join(f" --plugin {module}" for module in config.plugins)
    about = "\n".join(f"| {what} | {value} |" for what, value in facts.items())
    return f"""\
---
{dump_mapping(_front_matter(name, config, spec, scores, license))}---

# {name}

A policy for the {spec.num_tasks} task{"s" if spec.num_tasks > 1 else ""} of `{spec.name}`, trained with {PROJECT}:
agent `{config.agent.name}`, architecture `{config.architecture.name}`, policy `{config.policy.name}`.

| | |
|---|---|
{about}

## Use

- Input `observation`: (rows, {shape}) {spec.observation_space.dtype}, as the suite gives it; any scaling is inside
- Input `task_id`: (rows,) int64
- Output `action`: {_action(spec)}, the deterministic action

{uses}
| task_id | task |
|---|---|
{tasks}

## Scores

{_scores(spec, scores)}

## Training

`config.yaml` has all settings. This trains the same policy:

```console
$ mtrl train --config config.yaml{plugins} --run-dir runs/{name}
```

Licence of this policy: {license}.
"""


def _front_matter(
    name: str, config: RunConfig, spec: SuiteSpec, scores: Sequence[TaskScore], license: str
) -> dict[str, Any]:
    results = []
    for score in scores:
        metrics = [{"type": "mean_reward", "name": "mean return", "value": round(score.mean_return, 4)}]
        if spec.score == "success":
            metrics.insert(0, {"type": "success_rate", "name": "success rate", "value": round(score.success_rate, 4)})
        task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
        dataset = {"type": _tag(spec.name), "name": f"{spec.name}: {score.task}", "config": score.task}
        results.append({"task": task, "dataset": dataset, "metrics": metrics})
    tags = ["reinforcement-learning", "deep-reinforcement-learning", "multi-task", _tag(spec.name), config.agent.name]
    matter: dict[str, Any] = {"library_name": PROJECT, "license": license, "pipeline_tag": "reinforcement-learning"}
    matter["tags"] = tags
    return matter | ({"model-index": [{"name": name, "results": results}]} if results else {})


def _tag(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-." else "-" for c in text)


def _action(spec: SuiteSpec) -> str:
    space = spec.action_space
    if isinstance(space, gym.spaces.Discrete):
        return f"(rows,) int64, one of {space.n}"
    return f"(rows, {', '.join(map(str, space.shape))}) float32 in [-1, 1]"


def _scores(spec: SuiteSpec, scores: Sequence[TaskScore]) -> str:
    if not scores:
        return "Not evaluated: this checkpoint has no evaluation by the full protocol (`mtrl eval`)."
    settings = ", ".join(f"{name} {value}" for name, value in spec.settings.items())
    how = "actions sampled from the policy" if spec.samples_policy else "the deterministic action"
    lines = [f"Protocol {spec.protocol} ({settings}) with {scores[0].episodes} episodes per task and {how}.", ""]
    rate = sum(score.success_rate for score in scores) / len(scores)
    return_ = sum(score.mean_return for score in scores) / len(scores)
    rows = [*scores, TaskScore(f"mean of {len(scores)}", 0, rate, return_)]
    if spec.score == "success":
        lines += ["| task | success rate | mean return |", "|---|---|---|"]
        lines += [f"| {row.task} | {row.success_rate:.3f} | {row.mean_return:.1f} |" for row in rows]
    else:
        lines += ["| task | mean return |", "|---|---|"]
        lines += [f"| {row.task} | {row.mean_return:.1f} |" for row in rows]
    return "\n".join(lines)
