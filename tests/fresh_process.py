"""Python processes without the seconds that torch takes to import: forks of one that has imported it.

What they do is what `python` or `mtrl` does in a process of its own, and nothing of this project or of pytest is
imported before. Tests of the start itself start a real process.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SERVER = """
import gc, json, os, runpy, signal, sys
import filelock, gymnasium, numpy, pydantic, rich.console, ruamel.yaml, safetensors.torch
import torch, torch.utils.tensorboard
torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # which imports more
gc.freeze()  # or each fork would copy what it collects in the end

def execute(command, folder, environment, timeout, outputs):
    null = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((null, *(os.open(path, os.O_WRONLY) for path in outputs))):
        os.dup2(descriptor, number)
    os.closerange(3, 64)
    signal.alarm(timeout)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    program, *arguments = command
    if program == "mtrl":
        sys.argv, sys.path[0] = command, os.path.dirname(sys.executable)
        from mtrl.cli.main import main
        sys.exit(main())
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.abspath(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")

for line in sys.stdin:
    child = os.fork()
    if not child:
        execute(**json.loads(line))
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@functools.cache
def _server() -> subprocess.Popen[str]:
    """One of each process of pytest; it ends with its standard input."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SERVER]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run_fresh(
    *command: str, folder: Path, environment: dict[str, str] | None = None, timeout: int = 300
) -> subprocess.CompletedProcess[str]:
    """Runs `mtrl ...`, `python -c CODE ...`, `python -m MODULE ...` or `python FILE ...` in `folder`.

    After `timeout` seconds a signal ends it. `environment` is that of this process if it is None.
    """
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as error:
        request = {
            "command": command,
            "folder": str(folder),
            "environment": dict(os.environ) if environment is None else environment,
            "timeout": timeout,
            "outputs": [out.name, error.name],
        }
        print(json.dumps(request), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(command, code, out.read().decode(), error.read().decode())
