"""The verbs `train`, `resume` and `evaluate`: builds the parts, drives the loop, and ends in good order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from mtrl.agent import Agent, seeded_construction
from mtrl.training.build import (
    build_agent,
    build_encoder,
    build_scheduler,
    build_train_state,
    build_world,
    choose_device,
    num_workers,
)
from mtrl.checkpoints.store import Checkpoint, CheckpointStore
from mtrl.config.schema import RunConfig, changed, dump_yaml, parse_yaml, with_suite
from mtrl.loggers.console import say, success_table
from mtrl.errors import BadInput, MtrlError, WorkerFailure
from mtrl.training.evaluator import EvaluationStopped, Evaluator
from mtrl.training.interruption import Interruption
from mtrl.loggers.live_table import LiveTable
from mtrl.training.load import TaskNames, load_trained
from mtrl.checkpoints.versions import dependency_versions, package_versions
from mtrl.optim.matmul_backend import TORCHS_CHOICE, choose_product_library
from mtrl.training.callbacks import CheckpointObserver, EvaluationObserver, MetricsObserver, suite_facts
from mtrl.runs.run_directory import RunDirectory
from mtrl.runs.metadata import program_facts
from mtrl.env.scores import reference_returns
from mtrl.checkpoints.state_tree import state_bytes
from mtrl.checkpoints.files import require_free_space
from mtrl.env.suite import SuiteType
from mtrl.loggers.tensorboard import TensorBoardSink
from mtrl.training.train_state import TrainState
from mtrl.training.trainer import train as training_loop
from mtrl.training.video import write_videos

SIMULATORS = ("metaworld", "mujoco", "ale-py")
"""Packages whose versions a checkpoint and meta.json record beside the suite's own dependencies."""


def train(config: RunConfig, run_dir: Path, *, overwrite: bool = False) -> int:
    """A new run; returns the exit code. Raises MtrlError."""
    device = choose_device(config.settings.device)
    if config.settings.cuda_graphs and device.type != "cuda":
        raise BadInput("cuda_graphs needs a GPU, and none is used; leave it out or say --no-cuda-graphs")
    choose_product_library()
    if config.settings.torch_threads:
        torch.set_num_threads(config.settings.torch_threads)
    world = build_world(config.suite, config.settings.seed)
    # These may refuse the suite: not after there is a run directory.
    build_scheduler(config, world)
    with seeded_construction(config.settings.seed, "check"):
        build_encoder(config, world)
    if config.settings.cuda_graphs:
        build_agent(config, world, device)
    with RunDirectory.create(run_dir, overwrite=overwrite) as run:
        run.write_config(dump_yaml(config))
        return _run(config, world, device, run, _store(run, config, device), resumed=None)


def resume(run_dir: Path, changes: Mapping[str, Any], plugins: Sequence[str] = ()) -> int:
    """Goes on with a run from its last checkpoint; returns the exit code. Raises MtrlError."""
    with RunDirectory.resume(run_dir) as run:
        config = changed(parse_yaml(run.config(), str(run.path / "config.yaml"), plugins=plugins), changes)
        device = choose_device(config.settings.device)
        choose_product_library()
        if config.settings.torch_threads:
            torch.set_num_threads(config.settings.torch_threads)
        store = _store(run, config, device)
        checkpoint = store.load("latest")
        world = build_world(config.suite, config.settings.seed)
        _refuse_another_suite(checkpoint, world)
        for change in store.version_changes(checkpoint):
            say(f"the checkpoint was written with other versions: {change}; a resume is exact with the same ones only")
        run.truncate_after(checkpoint.step)
        store.discard_after(checkpoint.step)
        run.write_config(dump_yaml(config))
        return _run(config, world, device, run, store, resumed=checkpoint)


def evaluate(
    run_dir: Path,
    *,
    checkpoint: str = "latest",
    episodes_per_task: int | None = None,
    suite: str | None = None,
    num_workers: int | None = None,
    seed: int | None = None,
    video: bool = False,
    plugins: Sequence[str] | None = None,
) -> int:
    """Plays the protocol with a checkpoint of a run and prints the success table; returns 0. Raises MtrlError."""
    choose_product_library()
    trained = load_trained(run_dir, checkpoint, plugins)
    config = trained.config
    if num_workers is not None:
        config = changed(config, {"num_workers": num_workers})
    if suite is not None:
        config = with_suite(config, suite)
    world = build_world(config.suite, config.settings.seed if seed is None else seed)
    agent: Agent = TaskNames(trained.agent, world.suite)
    with Interruption() as interruption, _evaluator(config, world) as evaluator:
        try:
            episodes = episodes_per_task or config.settings.final_eval_episodes_per_task or 50
            result = evaluator.evaluate(agent, episodes, lambda: bool(interruption))
        except EvaluationStopped:
            return interruption.exit_code
    success_table(result, f"{run_dir}, {trained.checkpoint}")
    if video:
        for path in write_videos(agent, world, Path(run_dir) / "videos"):
            say(str(path))
    return 0


def _run(
    config: RunConfig,
    world: SuiteType,
    device: torch.device,
    run: RunDirectory,
    store: CheckpointStore,
    resumed: Checkpoint | None,
) -> int:
    settings = config.settings
    run.write_meta(
        {
            **program_facts(SIMULATORS),
            **suite_facts(world.suite),
            # With the mean returns of eval.csv, these give every normalised score.
            "reference_returns": reference_returns(world.suite.tasks),
            "device": str(device),
            "status": "running",
            "exit_code": None,
        }
    )
    with _status(run), ExitStack() as stack:
        interruption = stack.enter_context(Interruption(settings.max_hours))
        state = build_train_state(config, world, device)
        stack.callback(state.envs.close)
        if resumed is not None:
            _restore(state, resumed, store)
        require_free_space(run.path, state_bytes(state.state()) + state.buffer.num_bytes)
        evaluator = stack.enter_context(_evaluator(config, world))
        curves = TensorBoardSink(run.tensorboard, None if resumed is None else resumed.step)
        stack.callback(curves.close)
        table = stack.enter_context(LiveTable(world.suite.task_names, settings.total_env_steps))
        log = MetricsObserver(run, state, settings.log_interval, table, curves)
        evaluation = EvaluationObserver(
            run,
            state,
            store,
            evaluator,
            interruption,
            table,
            curves,
            settings.eval_interval,
            settings.eval_episodes_per_task,
        )
        checkpoints = CheckpointObserver(run, state, store, settings.checkpoint_interval)
        try:
            # An evaluation that a signal cut short is made up for before the run goes on.
            evaluation.evaluate_if_due(state.env_steps)
            for progress in training_loop(state, settings.total_env_steps) if not interruption else ():
                log(progress)
                evaluation(progress)
                checkpoints(progress)
                if interruption:
                    break
        except WorkerFailure:
            # The broken step was never stored: what stands is the state before it.
            if state.env_steps:
                checkpoints.save()
            raise
        checkpoints.save()
        if state.env_steps >= settings.total_env_steps and settings.final_eval_episodes_per_task:
            try:
                result = evaluation.evaluate_finally(state.env_steps, settings.final_eval_episodes_per_task)
            except EvaluationStopped:
                result = None
            table.stop()
            if result is not None:
                success_table(result, f"{run.path}, last checkpoint (step {state.env_steps})")
        if interruption:
            table.stop()
            say(
                f"stopped ({interruption.reason}) at {state.env_steps} env steps; go on: mtrl train --resume {run.path}"
            )
        run.set_status("done", interruption.exit_code)
        return interruption.exit_code


def _refuse_another_suite(checkpoint: Checkpoint, world: SuiteType) -> None:
    """Raises BadInput if the checkpoint's tasks, goals, rewards or protocol are not those of `world`."""
    now, then = suite_facts(world.suite), dict(checkpoint.info)
    # Versions of packages are told apart by `version_changes`, which warns.
    fields = [(name, then.get(name), now[name]) for name in ("suite", "protocol", "tasks")]
    settings = then.get("settings", {})
    fields += [(name, settings.get(name), value) for name, value in now["settings"].items() if name not in SIMULATORS]
    for name, stored, value in fields:
        if stored != value:
            raise BadInput(f"checkpoint {checkpoint.path}: {name} is {stored!r}, not {value!r}")


def _restore(state: TrainState, checkpoint: Checkpoint, store: CheckpointStore) -> None:
    """Raises BadInput for a checkpoint of another configuration."""
    try:
        exact = state.load_state(checkpoint.state, checkpoint.chunks())
    except (KeyError, RuntimeError, ValueError, TypeError, IndexError) as error:
        raise BadInput(f"checkpoint {checkpoint.path} does not fit this configuration: {error}") from error
    if not state.envs.replays_exactly:
        say(f"this suite cannot replay the running episodes: resumed at step {checkpoint.step} with new ones")
    elif not exact:
        say(f"running episodes were not restored bit for bit: this resume of step {checkpoint.step} is not exact")


def _store(run: RunDirectory, config: RunConfig, device: torch.device) -> CheckpointStore:
    versions = {**dependency_versions(), **package_versions(SIMULATORS)}
    multiplies = choose_product_library()
    if device.type == "cpu" and multiplies != TORCHS_CHOICE:
        versions["matrix products"] = multiplies  # another library sums up in another order
    return CheckpointStore(run.checkpoints, keep=config.settings.keep_checkpoints, versions=versions)


def _evaluator(config: RunConfig, world: SuiteType) -> Evaluator:
    return Evaluator(world, config.settings.seed, num_workers(config), config.settings.worker_timeout)


@contextmanager
def _status(run: RunDirectory) -> Iterator[None]:
    """Notes in meta.json how a run failed."""
    try:
        yield
    except MtrlError as error:
        run.set_status("failed", error.exit_code)
        raise
    except Exception:
        run.set_status("failed", 70)
        raise
