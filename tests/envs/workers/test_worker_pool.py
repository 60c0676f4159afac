"""The worker pool: the same trajectories for any number of workers, exact resume, and every fault named."""

from __future__ import annotations

import gc
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from counting_suite import counting_suite
from faulty_slots import (
    CountingSlot,
    FaultyFactory,
    NoObservationSlot,
    ReportingSlot,
    SlowSlot,
    UnmakeableSlot,
)

from envs.workers import child_process
from envs.workers.pool import WorkerPool
from envs.workers.process_group import ProcessGroup
from envs.workers.slots import BEGIN, SlotArrays, SlotLayout, SlotRunner
from envs.workers.worker import ask_for_batch_scheduling
from mtrl.env.episodes import ListedEpisodes, RandomEpisodes
from mtrl.errors import BadInput, WorkerFailure
from mtrl.faults import WrongResult
from mtrl.types import EnvStep
from tests.runs.forked import in_child

NUM_ENVS = 5


def make_pool(
    make_env: Callable[[], Any] = CountingSlot,
    *,
    num_envs: int = NUM_ENVS,
    num_workers: int = 2,
    discrete: bool = False,
    timeout: float = 30.0,
) -> WorkerPool:
    suite = counting_suite(discrete=discrete)
    episodes = RandomEpisodes(suite, num_envs, seed=1)
    return WorkerPool(suite, num_envs, episodes, make_env, num_workers=num_workers, worker_timeout=timeout)


def slot_layout(observation_shape: tuple[int, ...] = (4,), observation_dtype: str = "float32") -> SlotLayout:
    return SlotLayout(
        num_slots=1,
        num_workers=1,
        observation_shape=observation_shape,
        observation_dtype=observation_dtype,
        action_shape=(2,),
        action_dtype="float32",
    )


def actions(steps: int, *, num_envs: int = NUM_ENVS, discrete: bool = False) -> np.ndarray:
    rng = np.random.default_rng(0)
    if discrete:
        return rng.integers(3, size=(steps, num_envs))
    return rng.uniform(-1, 1, (steps, num_envs, 2)).astype(np.float32)


def play(pool: WorkerPool, steps: np.ndarray) -> list[EnvStep]:
    """Steps with changing task weights, so that slots change tasks."""
    played = []
    for number, action in enumerate(steps):
        pool.set_task_weights(np.array([1.0, 1 + number % 3, 0.5]))
        played.append(pool.step(action))
    return played


def assert_equal_steps(left: list[EnvStep], right: list[EnvStep]) -> None:
    for one, other in zip(left, right, strict=True):
        for name in ("task_ids", "observation", "reward", "terminated", "truncated", "final_observation"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        assert one.episodes == other.episodes


def children() -> set[int]:
    """Processes below this one, the server that forks them aside."""
    running = psutil.Process().children(recursive=True)
    return {child.pid for child in running if child.status() != psutil.STATUS_ZOMBIE and child.ppid() != os.getpid()}


def shared_memory() -> set[str]:
    """Files of shared memory, without the folder that the tests of checkpoints have there and run beside these."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("checkpoints-")}


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No process, descriptor or file of shared memory more than before."""
    make_pool().reset()  # the server that forks workers runs from here on
    gc.collect()
    processes, descriptors = children(), len(os.listdir("/proc/self/fd"))
    shared = shared_memory()
    yield
    gc.collect()  # an exception that a test holds keeps its pool alive
    assert children() <= processes
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert shared_memory() <= shared


# Trajectories.


@pytest.mark.parametrize("discrete", [False, True])
def test_trajectories_do_not_depend_on_the_number_of_workers(discrete: bool) -> None:
    steps = actions(40, discrete=discrete)
    with make_pool(num_workers=0, discrete=discrete) as pool:
        first, expected = pool.reset(), play(pool, steps)
    assert len({episode.task for step in expected for episode in step.episodes}) == 3
    for num_workers in (1, 2, 3):
        with make_pool(num_workers=num_workers, discrete=discrete) as pool:
            np.testing.assert_array_equal(pool.reset(), first)
            assert_equal_steps(play(pool, steps), expected)


def test_an_ended_episode_gives_its_last_observation_and_the_next_ones_first() -> None:
    with make_pool() as pool:
        pool.reset()
        played = play(pool, actions(20))
    ends = 0
    for step in played:
        for episode in step.episodes:
            ends += 1
            assert step.final_observation[episode.slot, :3].tolist() == [
                episode.task,
                episode.variation,
                episode.length,
            ]
            assert step.observation[episode.slot, 2:].tolist() == [0, 0]
            assert step.terminated[episode.slot] == (episode.variation == 3 and episode.length == 2)
        going_on = ~(step.terminated | step.truncated)
        np.testing.assert_array_equal(step.observation[going_on], step.final_observation[going_on])
    assert ends > 10


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_slot_without_a_next_episode_rests(num_workers: int) -> None:
    suite = counting_suite()
    episodes = ListedEpisodes([[(0, 0)], [(1, 1), (0, 2)], []])
    with WorkerPool(suite, 3, episodes, CountingSlot, num_workers=num_workers) as pool:
        pool.reset()
        steps = [pool.step(np.ones((3, 2), np.float32)) for _ in range(9)]
        assert pool.task_ids.tolist() == [-1, -1, -1]
    ended = [(episode.slot, episode.task, episode.variation) for step in steps for episode in step.episodes]
    assert ended == [(0, 0, 0), (1, 1, 1), (1, 0, 2)]
    assert steps[3].task_ids.tolist() == [-1, 1, -1]


def test_environments_play_again_with_other_episodes() -> None:
    suite = counting_suite()
    with WorkerPool(suite, 2, ListedEpisodes([[(0, 0)], [(1, 1)]]), CountingSlot, num_workers=2) as pool:
        pool.reset()
        pool.step(np.ones((2, 2), np.float32))
        pool.episodes = ListedEpisodes([[(2, 1)], []])
        observation = pool.reset()
        assert pool.task_ids.tolist() == [2, -1]
        assert observation[0].tolist() == [2, 1, 0, 0]


@pytest.mark.parametrize(("before", "after"), [(2, 0), (0, 3)])
def test_a_resumed_pool_goes_on_in_the_middle_of_its_episodes(before: int, after: int) -> None:
    steps = actions(60)
    with make_pool(num_workers=before) as pool:
        pool.reset()
        observation = play(pool, steps[:31])[-1].observation
        state = pool.state()
        expected = play(pool, steps[31:])
    with make_pool(num_workers=after) as pool:
        np.testing.assert_array_equal(pool.load_state(state), observation)
        assert_equal_steps(play(pool, steps[31:]), expected)


def test_a_replay_that_ends_early_is_refused() -> None:
    with make_pool(FaultyFactory("none", task=9)) as pool:
        pool.reset()
        state = pool.state()
        state["lengths"][:] = 6
        state["actions"] = np.zeros((NUM_ENVS, 6, 2), np.float32)
        with pytest.raises(BadInput, match=r"task count-\d: a stored episode ends after \d env steps"):
            pool.load_state(state)


def test_a_worker_has_one_thread_and_no_copy_of_the_main_process() -> None:
    def check() -> None:
        with make_pool(ReportingSlot, num_workers=3) as pool:
            pool.reset()
            process, threads, heavy, _ = pool.step(actions(1)[0]).final_observation.T
        assert len(set(process)) == 3
        assert os.getpid() not in process
        assert set(threads) == {1}
        assert set(heavy) == {0}

    # In a child, whose server of workers is new: an earlier test may have had this process's import a simulator.
    status, said = in_child(check)
    assert status == 0, said


# Faults.


HERE = r"FaultySlot \(.*/faulty_slots\.py:\d+\)"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise", f": {HERE} raised LookupError: the drawer is stuck"),
        ("sys.exit", f": {HERE} raised SystemExit: 0"),
        ("memory", f": {HERE} raised MemoryError"),
        ("shape", rf": {HERE} returned an observation of shape \(1,\) from step, expected \(4,\)"),
        ("SIGKILL", " was killed by SIGKILL"),
        ("SIGSEGV", " was killed by SIGSEGV"),
        ("_exit", " exited with code 0"),
    ],
)
@pytest.mark.usefixtures("nothing_left")
def test_a_failed_worker_is_named_without_waiting_for_the_timeout(fault: str, said: str) -> None:
    action = np.zeros((3, 2), np.float32)
    with make_pool(FaultyFactory(fault), num_envs=3, timeout=10_000.0) as pool:
        pool.reset()
        pool.step(action)
        before = pool.state()
        with pytest.raises(WorkerFailure) as raised:
            pool.step(action)
        line, _, traceback = str(raised.value).partition("\n")
        assert re.fullmatch(rf"environment worker 1 \(pid \d+\) at task count-5 in slot 1{said}", line)
        assert ("faulty_slots.py" in traceback) == (fault in ("raise", "sys.exit", "memory", "SIGSEGV"))
        # The broken step never happened: what a checkpoint would hold is as before it.
        np.testing.assert_equal(pool.state(), before)
        with pytest.raises(WorkerFailure, match="count-5"):
            pool.recv()


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise", "raised LookupError: the drawer is stuck"),
        ("sys.exit", "raised SystemExit: 0"),
        ("None", "returned None from step, expected a SlotStep"),
        ("pair", "returned a tuple from step, expected a SlotStep"),
        ("observation None", "returned None as the observation of step, expected an array"),
        ("list", "returned a list as the observation of step, expected an array"),
        ("shape", r"returned an observation of shape \(1,\) from step, expected \(4,\)"),
        ("dtype", "returned an observation of dtype complex128 from step, expected float32"),
        ("reward", "returned None as the reward of step, expected a number"),
    ],
)
def test_an_environment_that_breaks_its_interface_is_named_with_class_file_and_line(
    fault: str, said: str, num_workers: int
) -> None:
    with make_pool(FaultyFactory(fault), num_envs=3, num_workers=num_workers) as pool:
        pool.reset()
        with pytest.raises(WorkerFailure, match=rf"^environment .*: {HERE} {said}\n"):
            play(pool, actions(2, num_envs=3))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("make_env", "said"),
    [
        (NoObservationSlot, r"NoObservationSlot \(.*:\d+\) returned None as the observation of begin"),
        (UnmakeableSlot, r"before its first task: UnmakeableSlot \(.*:\d+\) raised FileNotFoundError: no level"),
        (os.getcwd, "getcwd|raised AttributeError"),  # a factory of something else
    ],
)
def test_an_environment_that_cannot_begin_is_named(make_env: Callable[[], Any], said: str, num_workers: int) -> None:
    with make_pool(make_env, num_workers=num_workers) as pool, pytest.raises(WorkerFailure, match=said):
        pool.reset()


def test_an_observation_of_another_kind_of_number_does_not_wrap_around() -> None:
    layout = slot_layout(observation_dtype="uint8")
    runner = SlotRunner(SlotArrays(layout, bytearray(layout.num_bytes)), [0], 0, CountingSlot)
    with pytest.raises(WrongResult, match="dtype float64 from begin, expected uint8"):
        runner.run(BEGIN)


@pytest.mark.parametrize(("fault", "in_reset"), [("hang", True), ("hang", False), ("sleep", False)])
@pytest.mark.usefixtures("nothing_left")
def test_a_hung_worker_is_named_after_the_timeout(fault: str, in_reset: bool) -> None:
    with make_pool(FaultyFactory(fault, in_reset=in_reset), timeout=1.5) as pool:
        pool.reset()
        started = time.monotonic()
        with pytest.raises(WorkerFailure) as raised:
            play(pool, actions(30))
        assert time.monotonic() - started > 1.5
    line, _, stack = str(raised.value).partition("\n")
    assert line.endswith("did not answer for 1.5 s")
    assert "at task count-5 in slot" in line
    assert "faulty_slots.py" in stack


@pytest.mark.usefixtures("nothing_left")
def test_a_worker_killed_between_steps_is_named_at_the_next() -> None:
    with make_pool(ReportingSlot) as pool:
        pool.reset()
        workers = pool.step(actions(1)[0]).final_observation[:, 0].astype(int)
        os.kill(workers[0], signal.SIGKILL)
        time.sleep(0.1)
        with pytest.raises(WorkerFailure, match=rf"pid {workers[0]}\) after task count-\d in slot 4 was killed by SIG"):
            pool.step(actions(1)[0])


@pytest.mark.usefixtures("nothing_left")
def test_workers_leave_signals_to_the_main_process() -> None:
    with make_pool(ReportingSlot) as pool:
        pool.reset()
        workers = set(pool.step(actions(1)[0]).final_observation[:, 0].astype(int))
        servers = {psutil.Process(worker).ppid() for worker in workers}
        for process in workers | servers:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(process, number)
        time.sleep(0.1)
        play(pool, actions(10))


@pytest.mark.usefixtures("nothing_left")
def test_a_forked_copy_of_the_process_starts_workers_of_its_own() -> None:
    with make_pool(num_workers=1) as pool:
        pool.reset()

        def play_again() -> None:
            with make_pool(num_workers=1) as again:
                again.reset()

        status, output = in_child(play_again)
        assert status == 0, output
        pool.step(actions(1)[0])


def test_slow_steps_that_go_on_are_no_hang() -> None:
    with make_pool(SlowSlot, num_workers=1, timeout=0.6) as pool:
        pool.reset()
        pool.step(actions(1)[0])  # five slots, one second


# What the system refuses.


def test_batch_scheduling_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    ask_for_batch_scheduling()
    monkeypatch.delattr(os, "sched_setscheduler")  # as on macOS
    ask_for_batch_scheduling()


def one_line(error: WorkerFailure, said: str) -> None:
    assert "\n" not in str(error)
    assert re.search(said, str(error)), error


def test_a_limit_of_open_files_is_one_line() -> None:
    def check() -> None:
        make_pool().reset()  # the server runs
        soft = len(os.listdir("/proc/self/fd")) + 3
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
        with pytest.raises(WorkerFailure) as raised:
            make_pool().reset()
        one_line(raised.value, rf"^the system refuses .*: Too many open files \(limits here: open files {soft}, ")

    status, said = in_child(check)
    assert status == 0, said


def test_a_limit_of_address_space_is_one_line() -> None:
    def check() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
        with pytest.raises(WorkerFailure) as raised:
            ProcessGroup(slot_layout(observation_shape=(2**35,)), CountingSlot, ["count-3"], timeout=30)
        one_line(raised.value, "the system refuses shared memory for workers: Cannot allocate memory")

    status, said = in_child(check)
    assert status == 0, said


def test_a_limit_of_processes_is_one_line_and_nothing_is_printed(tmp_path: Path) -> None:
    # The server imports this module, and can fork no more.
    (tmp_path / "no_more_processes.py").write_text(
        "import os\ndef fork():\n    raise BlockingIOError(11, 'Resource temporarily unavailable')\nos.fork = fork\n"
    )
    result = start_pool_in_script(
        tmp_path, "from envs.workers.child_process import warm_up\nwarm_up(['no_more_processes'])"
    )
    assert result.stdout.startswith("WorkerFailure: the system refuses a process: the process that forks workers has")
    assert (result.stdout.count("\n"), result.stderr) == (1, "")


def test_threads_that_start_a_server_together_leave_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> None:
        entered.set()
        time.sleep(0.1)  # until the other thread is on its way

    entered = threading.Event()
    monkeypatch.setattr(forkserver, "ensure_running", start)
    before = (dict(os.environ), sys.path[:], sys.modules["__main__"])
    first, second = (threading.Thread(target=child_process.warm_up) for _ in range(2))
    first.start()
    assert entered.wait(10)
    second.start()
    first.join()
    second.join()
    assert (dict(os.environ), sys.path[:], sys.modules["__main__"]) == before


def test_a_long_temporary_folder_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / (100 * "x")
    folder.mkdir()
    result = start_pool_in_script(tmp_path, "", TMPDIR=str(folder))
    assert (result.stdout, result.stderr) == ("stepped\n", "")


def start_pool_in_script(folder: Path, first: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that does `first`, then steps a pool and prints "stepped" or why it cannot."""
    here = Path(__file__)
    path = folder / "script.py"
    path.write_text(
        f"import sys\nsys.path[:0] = [{str(here.parent)!r}, {str(here.parents[3])!r}]\n{first}\n"
        "import numpy as np\nfrom counting_suite import counting_suite\nfrom faulty_slots import CountingSlot\n"
        "from envs.workers.pool import WorkerPool\nfrom mtrl.env.episodes import RandomEpisodes\n"
        "from mtrl.errors import WorkerFailure\n"
        "suite = counting_suite()\n"
        "try:\n"
        "    with WorkerPool(suite, 2, RandomEpisodes(suite, 2, 1), CountingSlot, num_workers=2) as pool:\n"
        "        pool.reset()\n        pool.step(np.zeros((2, 2), np.float32))\n    print('stepped')\n"
        "except WorkerFailure as failure:\n    print(f'WorkerFailure: {failure}')\n"
    )
    return subprocess.run(
        [sys.executable, path],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=folder,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_closed_pool_refuses_to_step(num_workers: int) -> None:
    pool = make_pool(num_workers=num_workers)
    pool.reset()
    pool.close()
    pool.close()
    with pytest.raises(WorkerFailure, match="closed"):
        pool.step(actions(1)[0])


# The main process dies, or forgets.

SCRIPT = """
import os, signal, sys, time
sys.path[:0] = [{tests!r}, {root!r}]
import numpy as np
from counting_suite import counting_suite
from faulty_slots import *
from envs.workers.pool import WorkerPool
from mtrl.env.episodes import RandomEpisodes

suite = counting_suite()
pool = WorkerPool(suite, 4, RandomEpisodes(suite, 4, 1), {factory}, num_workers=2)
pool.reset()
print(*[worker.process.pid for worker in pool._group._workers], flush=True)
{rest}
"""


def run_script(folder: Path, factory: str, rest: str) -> tuple[subprocess.CompletedProcess[str], set[int]]:
    """Runs a main script without a `__main__` guard; returns how it ended and which workers it had."""
    here = Path(__file__)
    script = SCRIPT.format(
        tests=str(here.parent), root=str(here.parents[3]), factory=factory, rest=textwrap.dedent(rest)
    )
    path = folder / "script.py"
    path.write_text(script)
    result = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=30, cwd=folder)
    return result, set(map(int, result.stdout.split()))


def is_running(pid: int) -> bool:
    """False for a process that has ended too, though nobody has taken note of that yet."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(processes: set[int], seconds: float) -> set[int]:
    """The processes that still run after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        processes = {pid for pid in processes if is_running(pid)}
        if not processes:
            break
        time.sleep(0.02)
    return processes


def test_workers_end_with_a_killed_trainer_even_out_of_an_endless_loop(tmp_path: Path) -> None:
    shared = shared_memory()
    result, workers = run_script(
        tmp_path,
        "FaultyFactory('hang', task=0)",
        """
        pool.step(np.zeros((4, 2), np.float32))
        pool.send(np.zeros((4, 2), np.float32))
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert len(workers) == 2
    assert wait_until_gone(workers, seconds=5) == set()
    assert shared_memory() <= shared


def test_a_script_that_forgets_to_close_ends_and_leaves_nothing(tmp_path: Path) -> None:
    result, workers = run_script(tmp_path, "CountingSlot", "pool.step(np.zeros((4, 2), np.float32))")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert len(workers) == 2
    assert wait_until_gone(workers, seconds=5) == set()


def test_a_world_of_the_main_script_is_played_too(tmp_path: Path) -> None:
    path = tmp_path / "main_suite.py"
    here = Path(__file__)
    path.write_text(
        f"import sys\nsys.path[:0] = [{str(here.parent)!r}, {str(here.parents[3])!r}]\n"
        "import numpy as np\nfrom counting_suite import counting_suite\nfrom faulty_slots import *\n"
        "from envs.workers.pool import WorkerPool\nfrom mtrl.env.episodes import RandomEpisodes\n"
        "class Mine(CountingSlot):\n    pass\n"
        "if __name__ == '__main__':\n"
        "    suite = counting_suite()\n"
        "    with WorkerPool(suite, 2, RandomEpisodes(suite, 2, 1), Mine, num_workers=2) as pool:\n"
        "        pool.reset()\n        print(pool.step(np.zeros((2, 2), np.float32)).reward)\n"
    )
    result = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "[0. 0.]\n"), result.stderr
