"""One queue of row ids per task. Shapes: N slots, M tasks."""

from __future__ import annotations

from collections import deque

import numpy as np

from mtrl.buffer.task_index import TaskIndex
from mtrl.seeding import stream


def held(index: TaskIndex, num_tasks: int) -> list[set[int]]:
    """The ids of each task, by drawing far more often than there are."""
    generator = stream(1, "held")
    return [
        set(index.draw(np.eye(num_tasks, dtype=np.int64)[task] * 60 * int(size), generator).tolist())
        for task, size in enumerate(index.sizes)
    ]


def test_rows_leave_in_the_order_they_came_however_tasks_change() -> None:
    num_tasks, num_envs = 3, 5
    index, generator = TaskIndex(num_tasks), stream(1, "tasks")
    rows: deque[tuple[int, np.ndarray]] = deque()
    for row in range(600):
        tasks = generator.integers(-1, num_tasks, size=num_envs)
        index.append(row * num_envs, tasks)
        rows.append((row * num_envs, tasks))
        while len(rows) > 40 + 30 * (row % 3):
            index.retire(rows.popleft()[1])
        if row % 60 == 0:
            expected = [
                {first + slot for first, tasks in rows for slot in np.flatnonzero(tasks == task)} for task in range(3)
            ]
            assert held(index, num_tasks) == expected
            assert index.sizes.tolist() == [len(ids) for ids in expected]


def test_a_queue_grows_while_it_wraps_around() -> None:
    index = TaskIndex(1)
    tasks = np.zeros(10, np.int64)
    for row in range(90):
        index.append(10 * row, tasks)
    for _ in range(80):
        index.retire(tasks)
    for row in range(90, 300):  # passes the end of the first array, then outgrows it
        index.append(10 * row, tasks)
    assert held(index, 1) == [set(range(800, 3000))]


def test_a_slot_that_rests_belongs_to_no_task() -> None:
    index = TaskIndex(2)
    index.append(0, np.array([-1, 1, -1, -1]))
    assert index.sizes.tolist() == [0, 1]
    assert held(index, 2) == [set(), {1}]


def test_draws_are_uniform_within_a_task() -> None:
    index = TaskIndex(2)
    for row in range(50):
        index.append(2 * row, np.array([0, row % 2]))
    ids = index.draw(np.array([75_000, 0]), stream(1, "draws"))
    counts = np.unique(ids, return_counts=True)[1]
    assert len(counts) == index.sizes[0] == 75
    # Chi squared of 74 degrees of freedom: 74 +- 12.
    assert ((counts - 1000) ** 2 / 1000).sum() < 74 + 5 * 12.2


def test_drawing_depends_on_what_is_held_and_not_on_how() -> None:
    direct, travelled = TaskIndex(1), TaskIndex(1)
    tasks = np.zeros(7, np.int64)
    for row in range(400):
        travelled.append(7 * row, tasks)
        if row % 4 == 3:
            travelled.retire(tasks)
    for row in range(100, 400):
        direct.append(7 * row, tasks)
    counts = np.array([500])
    assert np.array_equal(direct.draw(counts, stream(1, "x")), travelled.draw(counts, stream(1, "x")))
