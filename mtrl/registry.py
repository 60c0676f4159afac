"""Registries of plug-in classes, and the rules by which names turn into code.

A decorator at the class registers it under a name; the entry-point group `mtrl.plugins` names functions that import a
package's modules. A name `module:Class` imports code, so it counts only where a user typed the module on the command
line: as the name itself or as `--plugin MODULE`. A configuration or checkpoint never makes anything be imported.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, get_args, get_origin

from mtrl.errors import BadInput

T = TypeVar("T")

PLUGIN_GROUP = "mtrl.plugins"

_OUR_PACKAGES = {"mtrl", "agents", "envs", "benchmarks"}
PACKAGES_FOLDER = str(Path(__file__).absolute().parents[1])
"""Where `mtrl` was found, and `agents` and `envs` beside it."""

MAX_LISTED = 240
"""Characters of a list of names in an error."""


class NamesCode(NamedTuple):
    """Marks the type of a setting that names code."""

    registered: bool = False  # whether a name without a colon is that of a registered class


ClassName = Annotated[str, NamesCode(registered=True)]
"""Type of a setting that names a class of a registry, or `MODULE:CLASS`; code as a `CodeName` is."""
CodeName = Annotated[str, NamesCode()]
"""Type of a setting `MODULE` or `MODULE:NAME`, alone or in a tuple.

Typed as a flag it is imported, as `--plugin MODULE` is. In a file it counts only beside `--plugin MODULE`.
"""

_trusted_modules: dict[str, Any] = {}
"""Modules that the command line (or a test) named; only these are looked into for `module:Class`."""
_class_modules: set[str] = set()
"""Modules whose classes are registered, or were chosen as `module:Class`."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known name, or nothing."""
    by_lower_case = {own.lower(): own for own in known}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return f" (did you mean {by_lower_case[close[0]]!r}?)" if close else ""


def listed(known: Iterable[str], command: str = "") -> str:
    """`known: a, b, c`; of a long list the first few, and the command that shows all."""
    names = list(known)
    if len(text := ", ".join(names)) <= MAX_LISTED:
        return f"known: {text or 'none'}"
    shown = f"; {command} shows all" if command else ""
    return f"known: {', '.join(names[:5])} and {len(names) - 5} more{shown}"


class Registry(Generic[T]):
    """Classes of one kind by name, in the order of their registration."""

    def __init__(self, kind: str, base: type):
        self.kind = kind
        self.base = base
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator. Raises ValueError if another class holds the name, TypeError for a class of another kind."""

        def decorator(cls: type[T]) -> type[T]:
            if wrong := self._wrong_kind(cls):
                raise TypeError(f"{self.kind} {name!r}: {wrong}")
            held = self._classes.get(name)
            if held is not None and (held.__module__, held.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(
                    f"{self.kind} {name!r} is registered already, by {held.__module__}.{held.__qualname__}"
                )
            self._classes[name] = cls
            _class_modules.add(cls.__module__)
            return cls

        return decorator

    def get(self, name: str) -> type[T]:
        """The class called `name`, or `module:Class` of a trusted module. Raises BadInput otherwise."""
        if name in self._classes:
            return self._classes[name]
        module_name, colon, class_name = name.partition(":")
        if colon:
            if module_name not in _trusted_modules:
                raise BadInput(
                    f"{self.kind} {name!r} is code that this command line does not name; add --plugin {module_name}"
                )
            cls = getattr(_trusted_modules[module_name], class_name, None)
            if not class_name:
                raise BadInput(f"{self.kind} {name!r} names no class; write {name}Class")
            if not isinstance(cls, type):
                raise BadInput(f"{self.kind} {name!r}: module {module_name!r} has no class {class_name!r}")
            if wrong := self._wrong_kind(cls):
                raise BadInput(f"{self.kind} {name!r}: {wrong}")
            _class_modules.add(cls.__module__)
            return cls
        _refuse_file(name, "MODULE:Class")
        code = f"; a class of the module {name!r} is {name}:Class" if name in _trusted_modules else ""
        raise BadInput(
            f"unknown {self.kind} {name!r}{nearest(name, self._classes)}; {listed(sorted(self._classes))}; or "
            f"MODULE:Class of your own{code}"
        )

    def _wrong_kind(self, cls: type) -> str:
        """Why `cls` cannot be of this registry; nothing if it can."""
        if issubclass(cls, self.base):
            return ""
        bases = ", ".join(base.__qualname__ for base in cls.__bases__)
        return f"{cls.__module__}.{cls.__qualname__} is no {self.base.__qualname__} (its base is {bases})"

    def name_of(self, cls: type) -> str:
        """The name `cls` is registered under, or its `module:Class`."""
        for name, held in self._classes.items():
            if held is cls:
                return name
        return f"{cls.__module__}:{cls.__qualname__}"

    def names(self) -> list[str]:
        return list(self._classes)

    def classes(self) -> list[type[T]]:
        return list(self._classes.values())

    def items(self) -> Iterator[tuple[str, type[T]]]:
        return iter(self._classes.items())

    def __contains__(self, name: object) -> bool:
        return name in self._classes


def trust_module(module_name: str) -> None:
    """Imports a module that the user named on the command line; the current folder is searched too.

    Raises BadInput if it cannot be imported, or its `register` fails.
    """
    _refuse_file(module_name, "--plugin MODULE or MODULE:Class")
    if module_name in _trusted_modules and _trusted_modules[module_name] is sys.modules.get(module_name):
        return  # such as the module of a class that a program handed over
    try:
        if (folder := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, folder)
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a script without a guard may exit when it is imported
        raise BadInput(f"plug-in module {module_name!r} cannot be imported: {type(error).__name__}: {error}") from error
    _trusted_modules[module_name] = module
    hook = getattr(module, "register", None)
    package = str(getattr(hook, "__module__", None)).partition(".")[0]
    if callable(hook) and package == module_name.partition(".")[0]:  # not another library's, which was imported there
        call_hook(hook, module_name)


def trust_class(cls: type) -> str:
    """`MODULE:Class` of a class that a program hands over: its module counts as named. Raises BadInput.

    The class must be found in its module under its name, at the top level of a file, or in a notebook.
    """
    module = sys.modules.get(cls.__module__)
    if getattr(module, cls.__qualname__, None) is not cls:
        raise BadInput(
            f"class {cls.__qualname__!r} is not at the top level of {cls.__module__!r} under this name: move it there"
        )
    _trusted_modules[cls.__module__] = module
    return f"{cls.__module__}:{cls.__qualname__}"


def trusted_function(name: str) -> Any:
    """The function `MODULE:FUNCTION`, or class. Raises BadInput if the command line did not name the module."""
    module_name, _, attribute = name.partition(":")
    if module_name not in _trusted_modules:
        raise BadInput(f"{name!r} is code that this command line does not name; add --plugin {module_name}")
    module = _trusted_modules[module_name]
    if not attribute:
        raise BadInput(f"{name!r} names no function; write {name}:FUNCTION")
    if not hasattr(module, attribute):
        raise BadInput(f"{name!r}: module {module_name!r} has no {attribute!r}{nearest(attribute, dir(module))}")
    if not callable(function := getattr(module, attribute)):
        raise BadInput(f"{name!r} is no function")
    return function


def modules_named(annotation: Any, value: Any) -> list[str]:
    """The modules that the value of a setting names, in order: none unless its type is marked as naming code."""
    if get_origin(annotation) is tuple:
        return [module for own in value for module in modules_named(get_args(annotation)[0], own)]
    marks = get_args(annotation) if get_origin(annotation) is Annotated and isinstance(value, str) else ()
    codes = [mark for mark in marks if isinstance(mark, NamesCode) and (":" in value or not mark.registered)]
    return [value.partition(":")[0]] if codes else []


def _refuse_file(name: str, form: str) -> None:
    """Raises BadInput if `name` is that of a file, which a shell completes where a module is meant."""
    path = Path(name)
    if path.suffix == ".py" or path.name not in (name, ""):
        raise BadInput(f"{name!r} is a file; from its folder, write {form.replace('MODULE', path.stem)}")


def call_hook(hook: Callable[[], None], plugin: str) -> None:
    """Raises BadInput if the hook of the plug-in raises anything."""
    try:
        hook()
    except (Exception, SystemExit) as error:
        raise BadInput(f"the register() of plug-in {plugin!r} fails: {type(error).__name__}: {error}") from error


def trusted_modules() -> tuple[str, ...]:
    """Names of the modules that the command line named, sorted."""
    return tuple(sorted(_trusted_modules))


def plugin_packages() -> set[str]:
    """Packages that the plug-ins known so far come from, or single modules; the suite's own left out."""
    names = {module.rpartition(".")[0] or module for module in _class_modules.union(_trusted_modules)}
    return {name for name in names if name.partition(".")[0] not in _OUR_PACKAGES}


def discover_plugins() -> None:
    """Calls every installed `mtrl.plugins` hook. Raises BadInput with the file found if one is not what it claims."""
    for _ in plugins_one_by_one():
        pass


def plugins_one_by_one() -> Iterator[str]:
    """Calls the installed hooks as `discover_plugins` does, and yields the name of each after its call.

    The suites of `envs` come first: they need no torch.
    """
    entries = importlib.metadata.entry_points(group=PLUGIN_GROUP)
    for entry in sorted(entries, key=lambda entry: (entry.name != "envs", entry.name)):
        try:
            with own_packages_first():
                hook = entry.load()
        except (Exception, SystemExit) as error:
            raise BadInput(
                f"plug-in {entry.value!r} cannot be loaded ({error}); {_where_found(entry.module)}"
            ) from error
        call_hook(hook, entry.value)
        yield entry.name


@contextmanager
def own_packages_first() -> Iterator[None]:
    """Imports find `agents` and `envs` beside `mtrl`, whatever folders of these names lie beside the user's script."""
    before = sys.path[:]
    sys.path.insert(0, PACKAGES_FOLDER)
    try:
        yield
    finally:
        sys.path[:] = before


def _where_found(name: str) -> str:
    """What stands for the module `name`, and what to do about it."""
    module = sys.modules.get(name)
    if module is None:
        return f"no module {name!r} was found"
    found = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "built in")
    return f"the module imported as {name!r} is {found}; if that is yours, give it another name"
