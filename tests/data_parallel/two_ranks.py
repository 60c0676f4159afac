"""Ranks of a data-parallel run as forked children of this process, which torchrun would start as processes."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

import agents
import envs
from mtrl.data_parallel.ranks import joined
from mtrl.errors import MtrlError
from tests.training.tiny_runs import Fault, meet_at

agents.register()
envs.register()

SECONDS = 120
"""After which a rank that hangs is killed."""


def in_ranks(
    action: Callable[[], int],
    words: Path,
    *,
    size: int = 2,
    faulty: int = 1,
    at_progress: int | None = None,
    fault: int | Fault = signal.SIGKILL,
) -> list[int]:
    """Runs `action` on ranks, one of which meets a fault at its n-th Progress; returns their exit statuses.

    A negative status is the signal that ended a rank. `words` gets what ranks report of errors, a line each.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    sys.stdout.flush()
    words.write_text("")
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            code = 70
            try:
                signal.alarm(SECONDS)
                torch.set_num_threads(1)  # those of the parent are not here, and a product would wait for them
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
                if rank or size == 1:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                if rank == faulty and at_progress is not None:
                    meet_at(at_progress, fault)
                with joined():
                    code = action()
            except MtrlError as error:
                code = error.exit_code
                if not error.reported:
                    with words.open("a") as file:
                        file.write(f"{error}\n")
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
