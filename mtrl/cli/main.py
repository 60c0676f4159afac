"""The command `mtrl`: finds the plug-ins, turns flags into a validated request, and hands it to `mtrl.training.run`.

This module imports nothing heavy; a verb imports what it needs when it is called. Whatever goes wrong leaves as one
line on stderr and a documented exit code: 0 done, 2 bad input, 3 diverged, 4 worker failure, 5 storage, 70 a bug of
ours, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtrl import __version__
from mtrl.errors import BadInput, MtrlError
from mtrl.optim.allocator import keep_freed_memory
from mtrl.registry import nearest, plugins_one_by_one, trust_module

HELP = f"""\
mtrl {__version__}: multi-task reinforcement learning

  mtrl train   train an agent on a suite of tasks, or continue a run
  mtrl eval    success rate per task of a trained agent, by the suite's protocol
  mtrl list    what can be chosen: suites, agents, architectures, ...
  mtrl doctor  what is installed here, and what is missing

  mtrl train --suite mt10 --agent sac --architecture multi-head --total-env-steps 2000000 --run-dir runs/a
  mtrl train --config FILE.yaml --seed 2      flags override the file
  mtrl train --resume runs/a                  from the last checkpoint
  mtrl eval runs/a --episodes-per-task 50

mtrl VERB --help lists the flags of a verb; for train, those of the classes chosen.
"""

MAX_LINE = 300
"""Characters of the one line that says what went wrong."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; nothing is raised."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    keep_freed_memory()
    try:
        code = _run_verb(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except SystemExit as stopped:  # the help has been printed
        return 0 if stopped.code is None else stopped.code if isinstance(stopped.code, int) else 70
    except BrokenPipeError:
        # The reader (`mtrl list | head`) has what it wanted; the interpreter must not flush into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except MtrlError as error:
        _complain(str(error))
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        _complain(f"a bug of ours, the traceback is above: {type(error).__name__}: {error}")
        return 70


def _run_verb(arguments: Sequence[str]) -> int:
    verbs: dict[str, Callable[[Sequence[str]], int]] = {
        "train": train,
        "eval": evaluate,
        "list": list_classes,
        "doctor": doctor,
    }
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(HELP, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"mtrl-suite {__version__}")
        return 0
    if arguments[0] not in verbs:
        raise BadInput(f"unknown verb {arguments[0]!r}{nearest(arguments[0], verbs)}; known: {', '.join(verbs)}")
    return verbs[arguments[0]](arguments[1:])


def train(arguments: Sequence[str]) -> int:
    """`mtrl train`: a new run, or `--resume` of one."""
    from mtrl.cli.flags import named_values
    from mtrl.cli.train_flags import parse_train
    from mtrl.config.schema import PARTS, chosen_suite, dump_yaml
    from mtrl.config.yaml_io import load_mapping, read_text

    given = named_values(arguments, [part.name for part in PARTS] + ["config", "resume", "plugin"])
    if given["resume"]:
        return _resume(arguments, given["plugin"])
    document = load_mapping(read_text(Path(given["config"][-1])), given["config"][-1]) if given["config"] else {}
    names = {part.name: given[part.name][-1] for part in PARTS if given[part.name]}
    suite = chosen_suite(document, names)
    only_asks = not {"--help", "-h", "--print-config", "--print_config"}.isdisjoint(arguments)
    plugins = _import_plugins(given["plugin"], names, warm_up=None if only_asks else suite)
    request = parse_train(arguments, document, names, plugins)
    if request.print_config:
        print(dump_yaml(request.config), end="")
        return 0
    _refuse_existing(request.run_dir, request.overwrite)

    from mtrl import run

    with _report_in(request.run_dir):
        return run.train(request.config, request.run_dir, overwrite=request.overwrite)


def _resume(arguments: Sequence[str], modules: Sequence[str]) -> int:
    from mtrl.cli.train_flags import parse_resume
    from mtrl.config.schema import changed, chosen_suite, resolve_config

    run_dir, changes = parse_resume(arguments)
    document = _document_of(run_dir)
    plugins = _import_plugins(modules, warm_up=chosen_suite(document))
    changed(resolve_config(document, plugins=plugins), changes)

    from mtrl import run

    with _report_in(run_dir):
        return run.resume(run_dir, changes, plugins)


def evaluate(arguments: Sequence[str]) -> int:
    """`mtrl eval`: success rate per task of a run's checkpoint."""
    from mtrl.cli.eval_flags import parse_evaluate
    from mtrl.config.schema import chosen_suite, resolve_config
    from mtrl.env.suite import find_suite

    request = parse_evaluate(arguments)
    document = _document_of(request.run)
    names = {"suite": request.suite} if request.suite else {}
    plugins = _import_plugins(request.plugin, names, warm_up=chosen_suite(document, names))
    resolve_config(document, plugins=plugins)
    if request.suite:
        find_suite(request.suite)

    from mtrl import run

    with _report_in(request.run):
        return run.evaluate(
            request.run,
            checkpoint=request.checkpoint,
            episodes_per_task=request.episodes_per_task,
            suite=request.suite,
            num_workers=request.num_workers,
            seed=request.seed,
            video=request.video,
            plugins=plugins,
        )


def list_classes(arguments: Sequence[str]) -> int:
    """`mtrl list`: the registered classes of one kind, or of all."""
    from mtrl.cli.listing import parse_list, print_listing

    request = parse_list(arguments)
    _import_plugins(request.plugin)
    print_listing(request.kind)
    return 0


def doctor(arguments: Sequence[str]) -> int:
    """`mtrl doctor`: the state of this installation."""
    from mtrl.cli.doctor import parse_doctor, print_diagnosis

    print_diagnosis(parse_doctor(arguments).plugin)
    return 0


def _document_of(run_dir: Path) -> dict[str, Any]:
    """What config.yaml of an existing run holds. Raises BadInput."""
    from mtrl.config.yaml_io import load_mapping, read_text

    path = run_dir / "config.yaml"
    if not os.path.isdir(run_dir):
        raise BadInput(f"{run_dir}: there is no such run directory")
    if not os.path.lexists(path):
        raise BadInput(f"{run_dir}: not a run directory (it has no config.yaml)")
    return load_mapping(read_text(path), str(path))


def _import_plugins(
    modules: Sequence[str], names: Mapping[str, str] | None = None, warm_up: str | None = None
) -> list[str]:
    """Imports installed plug-ins, `modules`, and the modules of `names` written as `module:Class`.

    Returns what the command line named. The suite called `warm_up` is told to start what takes long as soon as it is
    known, which is before anything imports torch.
    """
    for _ in plugins_one_by_one():
        _warm_up(warm_up)
    named = list(dict.fromkeys(modules))
    for module in named:
        trust_module(module)
    for part, name in (names or {}).items():
        module, colon, _ = name.partition(":")
        if colon and module not in named and not _is_registered(part, name):
            trust_module(module)
            named.append(module)
    _warm_up(warm_up)
    return named


def _warm_up(suite: str | None) -> None:
    from mtrl.env.suite import suites

    for family in suites.classes():
        if suite is not None and family.accepts(suite):
            family.warm_up()


def _is_registered(part: str, name: str) -> bool:
    """Whether a name with a colon is a registered one, such as the suite `metaworld:reach-v3`."""
    from mtrl.config.schema import PARTS
    from mtrl.env.suite import suites

    if part == "suite":
        return name.partition(":")[0] in suites or any(family.accepts(name) for family in suites.classes())
    return any(name in known.registry for known in PARTS if known.name == part)


def _refuse_existing(run_dir: Path, overwrite: bool) -> None:
    """Raises BadInput unless a run may be written to `run_dir`."""
    try:
        entries = set(os.listdir(run_dir))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise BadInput(f"{run_dir}: cannot be a run directory: {getattr(error, 'strerror', None) or error}") from error
    if entries and "config.yaml" not in entries:
        raise BadInput(f"{run_dir} holds other files and no run (no config.yaml); name another with --run-dir")
    if entries and not overwrite:
        raise BadInput(f"{run_dir} holds a run; add --overwrite to replace it, or --resume {run_dir} to continue it")


class _Bug(MtrlError):
    """An exception nobody expected."""


@contextmanager
def _report_in(run_dir: Path) -> Iterator[None]:
    """Writes the traceback of an unexpected exception to a file of the run directory, if there is one."""
    try:
        yield
    except (MtrlError, BrokenPipeError):
        raise
    except Exception as error:
        path = run_dir / "diagnostics" / f"traceback-{time.strftime('%Y%m%d-%H%M%S')}.txt"
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_text(traceback.format_exc())
        except OSError:
            raise error from None
        raise _Bug(f"a bug of ours, the traceback is in {path}: {type(error).__name__}: {error}") from error


def _complain(message: str) -> None:
    """One line on stderr: no control characters, bounded length."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in f"error: {message}")
    print(line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 4]} ...", file=sys.stderr)
