"""Nothing in the packages can run code that came out of a file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ("mtrl", "agents", "envs")

BANNED_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "runpy", "code"}
BANNED_CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
BANNED_ATTRIBUTES = {
    "torch.load", "torch.jit.load", "torch.package", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.Loader",
    "yaml.UnsafeLoader", "yaml.FullLoader", "numpy.fromfile", "os.system", "os.popen", "np.fromfile",
    "torch.hub", "pandas.read_pickle",
}  # fmt: skip
BANNED_KEYWORDS = {("allow_pickle", True), ("shell", True), ("weights_only", False)}

PICKLES_OF_OUR_OWN = {
    # An environment factory, handed by the trainer to a worker that it has just started.
    ("envs/workers/process_group.py", "dumps"),
    ("envs/workers/worker.py", "loads"),
    # The official Meta-World task objects hold their goal as a pickle; both ends are in one process.
    ("envs/metaworld/slot_env.py", "dumps"),
    ("envs/metaworld/official.py", "loads"),
}
"""Pickles that are never a file, by file and function."""

IMPORTERS = {
    "mtrl/registry.py",  # what the command line named
    "mtrl/config/schema.py",  # a table of our own modules
    "mtrl/cli/main.py",  # the modules of the verbs
    "envs/__init__.py",  # our own modules
}
"""Files that may import by name."""


def dotted(node: ast.expr) -> str:
    """`a.b.c` for an attribute chain."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def violations(tree: ast.AST, name: str) -> Iterator[str]:
    """What the file called `name`, relative to the project, may not do."""
    for node in ast.walk(tree):
        place = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for module in modules:
                allowed = module == "pickle" and isinstance(node, ast.Import) and name in dict(PICKLES_OF_OUR_OWN)
                if module.split(".")[0] in BANNED_MODULES and not allowed:
                    yield f"{place} imports {module}"
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if f"{node.module}.{alias.name}" in BANNED_ATTRIBUTES:
                        yield f"{place} imports {node.module}.{alias.name}"
        elif isinstance(node, ast.Attribute):
            chain = dotted(node)
            if chain.startswith("pickle.") and (name, chain.removeprefix("pickle.")) not in PICKLES_OF_OUR_OWN:
                yield f"{place} uses {chain}"
            if chain in BANNED_ATTRIBUTES:
                yield f"{place} uses {chain}"
            if node.attr == "import_module" and name not in IMPORTERS:
                yield f"{place} imports by name"
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in BANNED_CALLS:
                yield f"{place} calls {node.func.id}"
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if (keyword.arg, value) in BANNED_KEYWORDS:
                    yield f"{place} passes {keyword.arg}={value}"


def test_no_file_of_the_packages_can_run_code_from_data() -> None:
    found = []
    for package in PACKAGES:
        files = sorted((PROJECT / package).rglob("*.py"))
        assert files or package == "agents"
        for path in files:
            found += violations(ast.parse(path.read_text()), path.relative_to(PROJECT).as_posix())
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "import yaml\nyaml.load('x', yaml.SafeLoader)",
        "eval('1')",
        "exec('1')",
        "__import__('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import importlib\nimportlib.import_module('x')",
        "import subprocess\nsubprocess.run('x', shell=True)",
    ],
)
def test_the_search_finds_what_it_bans(source: str) -> None:
    assert list(violations(ast.parse(source), "mtrl/new.py"))


def test_an_allowed_file_may_use_what_it_was_allowed_and_no_more() -> None:
    assert not list(violations(ast.parse("import pickle\npickle.dumps(1)"), "envs/workers/process_group.py"))
    assert list(violations(ast.parse("import pickle\npickle.loads(b'')"), "envs/workers/process_group.py"))
    assert not list(violations(ast.parse("agent.eval()\nyaml.safe_load('x')"), "mtrl/new.py"))
