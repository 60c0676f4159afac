"""Training runs: the loop, and how a run begins, resumes and ends. Shapes: N slots, M tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtrl.agent import Agent, refuse_wrong_action
from mtrl.aggregation import aggregators
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.checkpoints.checkpoint import Checkpoint
from mtrl.checkpoints.files import require_free_space
from mtrl.checkpoints.state_tree import state_bytes
from mtrl.checkpoints.store import CheckpointStore
from mtrl.config.schema import RunConfig, dump_yaml, parse_yaml, resumed
from mtrl.data_parallel.learning import learning
from mtrl.data_parallel.ranks import WORLD, agreed
from mtrl.env.scores import reference_returns
from mtrl.env.suite import Suite
from mtrl.errors import BadInput, Diverged, MtrlError, RankFailure, WorkerFailure
from mtrl.evaluation.evaluator import EvaluationStopped, Evaluator
from mtrl.faults import WrongResult, named_plugin_faults
from mtrl.loggers.chosen import chosen_callbacks, chosen_loggers, make_callbacks, make_loggers
from mtrl.loggers.console import say, success_table
from mtrl.loggers.json_lines import RunDirectoryLogger
from mtrl.loggers.live_table import LiveTable
from mtrl.loggers.metric_logger import LoggedRun, MetricLogger
from mtrl.networks.size import num_parameters
from mtrl.optim.cpu import acting_threads
from mtrl.optim.matmul_backend import choose_matmul_backend
from mtrl.optim.memory import refusals_named
from mtrl.optim.torch_defaults import torch_defaults
from mtrl.runs.metadata import program_facts
from mtrl.runs.run_directory import RunDirectory
from mtrl.scheduling import task_weights
from mtrl.training.build import (
    build_agent,
    build_scheduler,
    build_suite,
    build_train_state,
    choose_device,
    num_workers,
    require_room,
)
from mtrl.training.callbacks import CheckpointCallback, EvaluationCallback, MetricsCallback
from mtrl.training.interruption import Interruption
from mtrl.training.restore import (
    checkpoint_store,
    refuse_another_suite,
    refuse_other_inputs,
    restore,
    suite_facts,
)
from mtrl.training.train_state import TrainState
from mtrl.training.videos import VideoCallback, refuse_videos
from mtrl.training.warm_start import warm_start
from mtrl.types import ActionStep, Metrics, Progress, TaskWeights


def training_loop(state: TrainState, total_env_steps: int) -> Iterator[Progress]:
    """Lets the agent learn after every `agent.rollout_steps` vector steps; yields after each, with nothing in flight.

    env_steps counts steps of single environments: one vector step adds `envs.num_envs`. An agent that learns from
    replay does so while the environments step, on what is stored by then. A rollout that the end of training cuts off
    is not learned from.
    """
    agent, envs, buffer, scheduler = state.agent, state.envs, state.buffer, state.scheduler
    weights = task_weights(scheduler, envs.spec.num_tasks)
    if state.observation is None:
        envs.set_task_weights(weights.shares)
        state.observation = envs.reset()
    while state.env_steps < total_env_steps:
        state.in_step = True
        metrics: Metrics = {}
        ends_rollout = (state.vector_steps + 1) % agent.rollout_steps == 0
        with acting_threads(envs.spec.observation_space.shape):
            action_step = _act(agent, state.observation, envs.task_ids)
        envs.send(action_step.action)
        if ends_rollout and agent.learns_from_replay and buffer.num_rows:
            metrics = _update(agent, buffer, weights)
        step = envs.recv()
        buffer.add(state.observation, action_step, step)
        agent.on_env_step(step)
        if ends_rollout and not agent.learns_from_replay:
            metrics = _update(agent, buffer, weights)
            buffer.clear()
        state.observation = step.observation
        state.vector_steps += 1
        state.env_steps += envs.num_envs
        state.num_updates += bool(metrics)
        if metrics:
            of_groups = [group.task_weights() for group in agent.groups().values()]
            state.metric_means.add({name: value for own in (metrics, *of_groups) for name, value in own.items()})
        state.recent.on_episodes(step.episodes)
        scheduler.on_episodes(step.episodes)
        weights = task_weights(scheduler, envs.spec.num_tasks)
        envs.set_task_weights(weights.shares)
        state.in_step = False
        yield Progress(state.env_steps, state.vector_steps, metrics, step.episodes)


def _act(agent: Agent, observation: np.ndarray, task_ids: np.ndarray) -> ActionStep:
    action_step = agent.act(observation, task_ids, explore=True)
    if not isinstance(action_step, ActionStep) or action_step.extras.keys() < agent.extras.keys():
        raise WrongResult(f"returned {action_step} from act, expected an ActionStep with extras {list(agent.extras)}")
    refuse_wrong_action(agent, action_step.action, len(task_ids))
    return action_step


def _update(agent: Agent, buffer: RolloutBuffer, weights: TaskWeights) -> Metrics:
    with learning():
        metrics = agent.update(buffer, weights)
    if not isinstance(metrics, dict):
        raise WrongResult(f"returned {type(metrics).__name__} from update, expected a dict of metrics")
    for name, value in metrics.items():
        if not isinstance(value, Tensor):
            found = type(value).__name__
            raise WrongResult(f"returned the metric {name!r} that is a {found} from update, expected a tensor")
        if value.dim() and len(value) != agent.spec.num_tasks:
            raise WrongResult(
                f"returned the metric {name!r} of shape {tuple(value.shape)} from update, expected a number or "
                f"{agent.spec.num_tasks} rows, one per task"
            )
    for group in agent.groups().values():
        group.check()
    return metrics


@named_plugin_faults()
@torch_defaults()
def train(config: RunConfig, run_dir: Path, *, overwrite: bool = False, loggers: Sequence[MetricLogger] = ()) -> int:
    """A new run, reported to `loggers` too; returns the exit code. Raises MtrlError."""
    with agreed(), named_plugin_faults():
        device = prepare_process(config)
        suite = build_suite(config.suite, config.settings.seed)
        refuse_wrong_loggers(config)
        # These may refuse the suite, or not fit the memory: not after there is a run directory.
        build_scheduler(config, suite)
        agent = build_agent(config, suite, device)
        refuse_ended_annealing(agent, config.settings.total_env_steps)
        require_room(config, agent)
        if config.settings.cuda_graphs:
            refuse_cuda_graphs(agent)
        if config.settings.video_interval:
            refuse_videos(suite)
        if config.settings.warm_start is not None:
            taken = warm_start(agent, config.settings.warm_start)
            if WORLD.rank == 0:
                say(str(taken))
        run = RunDirectory.create(run_dir, overwrite=overwrite) if WORLD.rank == 0 else None
    if run is None:
        return _follow(config, suite, agent, None)
    with run:
        run.write_config(dump_yaml(config))
        return _run(config, suite, agent, run, checkpoint_store(run, config, suite, device), None, loggers)


@named_plugin_faults()
@torch_defaults()
def resume(
    run_dir: Path, changes: Mapping[str, Any], plugins: Sequence[str] = (), loggers: Sequence[MetricLogger] = ()
) -> int:
    """Continues a run from its last checkpoint; returns the exit code. Raises MtrlError."""
    with agreed():
        run = RunDirectory.resume(run_dir) if WORLD.rank == 0 else RunDirectory.open(run_dir)
    with run:
        with agreed(), named_plugin_faults():
            config = resumed(parse_yaml(run.config(), str(run.path / "config.yaml"), plugins=plugins), changes)
            device = prepare_process(config)
            suite = build_suite(config.suite, config.settings.seed)
            refuse_wrong_loggers(config)
            store = checkpoint_store(run, config, suite, device)
            checkpoint = store.load("latest")
            refuse_another_suite(checkpoint, suite)
            end = config.settings.total_env_steps
            if end < checkpoint.step:
                raise BadInput(
                    f"total_env_steps: {end} is not allowed; {run.path} is at {checkpoint.step} env steps already"
                )
            for change in store.version_changes(checkpoint):
                now = "a resume is exact with the same ones only"
                say(f"the checkpoint was written with other versions: {change}; {now}")
            agent = build_agent(config, suite, device)
            refuse_other_inputs(checkpoint, agent)
            refuse_ended_annealing(agent, end)
            require_room(config, agent)
        if WORLD.rank > 0:
            return _follow(config, suite, agent, checkpoint)
        run.truncate_after(checkpoint.step, end)
        store.discard_after(checkpoint.step)
        run.write_config(dump_yaml(config))
        return _run(config, suite, agent, run, store, checkpoint, loggers)


def prepare_process(config: RunConfig) -> torch.device:
    """Sets torch's threads and matmul backend; returns the device. Raises BadInput."""
    settings = config.settings
    device = choose_device(settings.device)
    if settings.cuda_graphs and WORLD.size > 1:
        raise BadInput("cuda_graphs cannot be combined with torchrun; leave it out or say --no-cuda-graphs")
    if settings.cuda_graphs and device.type != "cuda":
        raise BadInput("cuda_graphs needs a GPU, and none is used; leave it out or say --no-cuda-graphs")
    choose_matmul_backend()
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    return device


def refuse_wrong_loggers(config: RunConfig) -> None:
    """Raises BadInput for loggers and callbacks that are unknown, or whose settings or packages are not right."""
    chosen_loggers(config.settings)
    chosen_callbacks(config.settings)


def refuse_ended_annealing(agent: Agent, total_env_steps: int) -> None:
    """Raises BadInput if the agent's learning rate, as it is set, is 0 before the run ends."""
    end = agent.learns_until
    if end is not None and end < total_env_steps:
        raise BadInput(
            f"agent.annealing_steps: {end} is not allowed; nothing would be learned from then to total_env_steps "
            f"{total_env_steps}: give it as many, or null for a constant learning rate"
        )


def refuse_cuda_graphs(agent: Agent) -> None:
    """Raises BadInput if a CUDA graph cannot hold the updates of a parameter group."""
    for name, group in agent.groups().items():
        if group.needs_per_task_gradients:
            raise BadInput(f"cuda_graphs: updates of the {name} need per-task gradients and cannot be captured")
        if not group.aggregator.capturable:
            chosen = aggregators.name_of(type(group.aggregator))
            raise BadInput(f"cuda_graphs: the aggregator {chosen!r} of the {name} cannot be captured")


def _run(
    config: RunConfig,
    suite: Suite,
    agent: Agent,
    run: RunDirectory,
    store: CheckpointStore,
    checkpoint: Checkpoint | None,
    own_loggers: Sequence[MetricLogger],
) -> int:
    settings = config.settings
    run.write_meta(
        {
            **program_facts(suite.packages),
            **suite_facts(suite.spec),
            # With the mean returns of eval.csv, these give every normalised score.
            "reference_returns": reference_returns(suite.spec.tasks),
            "score": suite.spec.score,
            "num_parameters": num_parameters(agent),
            "device": str(agent.device),
            "status": "running",
            "exit_code": None,
        }
    )
    room = refusals_named("the sizes of this run")
    with _status(run), named_plugin_faults(), room, ExitStack() as stack:
        interruption = stack.enter_context(Interruption(settings.max_hours))
        with agreed(), named_plugin_faults():
            state = build_train_state(config, suite, agent)
            stack.callback(state.envs.close)
            if checkpoint is not None:
                restore(state, checkpoint)
        require_free_space(run.path, state_bytes(state.state()) + state.buffer.num_bytes)
        evaluator = stack.enter_context(Evaluator(suite, settings.seed, num_workers(config), settings.worker_timeout))
        logged = LoggedRun(run.path, dump_yaml(config), None if checkpoint is None else checkpoint.step)
        loggers: list[MetricLogger] = [RunDirectoryLogger(run)]
        # Before the table, which has the terminal for itself; each is closed also if the next one cannot start.
        for made in make_loggers(chosen_loggers(settings), logged):
            stack.callback(made.close)
            loggers.append(made)
        about = _about(config, agent, run)
        table = LiveTable(suite.spec.task_names, settings.total_env_steps, score=suite.spec.score, about=about)
        stack.enter_context(table)
        for last in (table, *own_loggers, *make_callbacks(chosen_callbacks(settings), logged)):
            stack.callback(last.close)
            loggers.append(last)
        evaluation = EvaluationCallback(
            run, state, store, evaluator, interruption, loggers, settings.eval_interval, settings.eval_episodes_per_task
        )
        videos = VideoCallback(run, state, suite, settings.seed, settings.video_interval, interruption, [table])
        metrics = MetricsCallback(
            run,
            state,
            loggers,
            settings.log_interval,
            settings.total_env_steps,
            lambda: evaluation.seconds + videos.seconds,
            settings.conflict_interval,
        )
        checkpoints = CheckpointCallback(run, state, store, loggers, settings.checkpoint_interval)
        try:
            # An evaluation that a signal cut short is made up for before the run goes on.
            evaluation.evaluate_if_due(state.env_steps)
            for progress in training_loop(state, settings.total_env_steps) if not interruption.agreed() else ():
                for callback in (metrics, evaluation, videos, checkpoints):
                    callback(progress)
                if interruption.agreed():
                    break
        except WorkerFailure:
            # The broken step was not stored, but the agent has acted for it, and may have learned.
            if state.env_steps:
                checkpoints.save()
            raise
        checkpoints.save()
        result = None
        if state.env_steps >= settings.total_env_steps and settings.final_eval_episodes_per_task:
            with suppress(EvaluationStopped):
                result = evaluation.evaluate_finally(state.env_steps, settings.final_eval_episodes_per_task)
        table.stop()
        if result is not None:
            success_table(result, f"{run.path}, last checkpoint (step {state.env_steps})")
        folder = quote(str(run.path))
        again = folder + "".join(f" --plugin {module}" for module in config.plugins)
        # Hours that are over after the final evaluation stop nothing.
        complete = interruption.exit_code == 0 and (result is not None or not interruption)
        if complete:
            say(f"trained for {state.env_steps} env steps; checkpoints and curves: {folder}; next: mtrl eval {again}")
        else:
            say(f"stopped ({interruption.reason}) at {state.env_steps} env steps; go on: mtrl train --resume {again}")
        run.set_status("done" if complete else "interrupted", interruption.exit_code)
        return interruption.exit_code


def _follow(config: RunConfig, suite: Suite, agent: Agent, checkpoint: Checkpoint | None) -> int:
    """The run on a rank other than 0, which learns as rank 0 does and writes nothing; returns the exit code."""
    settings = config.settings
    with Interruption(settings.max_hours) as interruption, ExitStack() as stack:
        with agreed(), named_plugin_faults():
            state = build_train_state(config, suite, agent)
            stack.callback(state.envs.close)
            if checkpoint is not None:
                restore(state, checkpoint)
        try:
            for _ in training_loop(state, settings.total_env_steps) if not interruption.agreed() else ():
                if interruption.agreed():
                    break
        except (Diverged, WorkerFailure, RankFailure) as error:
            error.reported = True  # by rank 0, where the same is raised
            raise
        return interruption.exit_code


def _about(config: RunConfig, agent: Agent, run: RunDirectory) -> str:
    """What is trained where, for a person."""
    spec, size = agent.spec, num_parameters(agent)
    settings = config.settings
    preset = f"preset {settings.preset}, " if settings.preset else ""
    return (
        f"{spec.name} ({spec.num_tasks} task{'s' if spec.num_tasks > 1 else ''}), {config.agent.name}, "
        f"{preset}{settings.total_env_steps:,} env steps, "
        f"{config.architecture.name} with {size:,} parameters, {agent.device}, {run.path}"
    )


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
