"""Which stored rows belong to which task: one queue of row ids per task. Shapes: N slots, M tasks, B batch."""

from __future__ import annotations

import numpy as np


class TaskIndex:
    """First-in first-out queues of 32-bit row ids, growing as needed."""

    ID_BYTES = 4

    def __init__(self, num_tasks: int):
        self._queues = [np.zeros(1024, np.int32) for _ in range(num_tasks)]
        self._heads = [0] * num_tasks
        self.sizes = np.zeros(num_tasks, np.int64)  # (M,) rows per task

    @property
    def num_bytes(self) -> int:
        return sum(queue.nbytes for queue in self._queues)

    def append(self, first_id: int, task_ids: np.ndarray) -> None:
        """Row ids first_id .. first_id + N - 1 belong to `task_ids` (N,); a negative task id is left out."""
        for task, slots in _slots_by_task(task_ids):
            count = len(slots)
            queue, head, size = self._queues[task], self._heads[task], int(self.sizes[task])
            if size + count > len(queue):
                queue = self._grow(task, size + count)
                head = 0
            start = (head + size) % len(queue)
            if start + count <= len(queue):
                queue[start : start + count] = first_id + slots
            else:
                queue[(start + np.arange(count)) % len(queue)] = first_id + slots
            self.sizes[task] += count

    def retire(self, task_ids: np.ndarray) -> None:
        """Forgets the oldest rows, which belonged to `task_ids` (N,)."""
        for task, slots in _slots_by_task(task_ids):
            self._heads[task] = (self._heads[task] + len(slots)) % len(self._queues[task])
            self.sizes[task] -= len(slots)

    def draw(self, counts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """counts[i] row ids of task i, uniform with replacement, in task order: (B,) int64."""
        uniform = generator.random(int(counts.sum()))
        ids = np.empty(len(uniform), np.int64)
        start = 0
        for task in np.flatnonzero(counts):
            stop = start + counts[task]
            queue = self._queues[task]
            places = (uniform[start:stop] * self.sizes[task]).astype(np.int64) + self._heads[task]
            ids[start:stop] = queue[places % len(queue)]
            start = stop
        return ids

    def clear(self) -> None:
        self._heads = [0] * len(self._queues)
        self.sizes[:] = 0

    def _grow(self, task: int, needed: int) -> np.ndarray:
        old, head, size = self._queues[task], self._heads[task], int(self.sizes[task])
        # By half: at the worst 6 bytes a row, and the copies stay rare.
        queue = np.zeros(max(needed, len(old) * 3 // 2), np.int32)
        queue[:size] = old[(head + np.arange(size)) % len(old)]
        self._queues[task], self._heads[task] = queue, 0
        return queue


def _slots_by_task(task_ids: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Slots of every task present, ascending; a loop over tasks present, not over rows."""
    order = np.argsort(task_ids, kind="stable")
    ordered = task_ids[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return [
        (int(ordered[start]), slots)
        for start, slots in zip(starts, np.split(order, starts[1:]), strict=True)
        if ordered[start] >= 0
    ]
