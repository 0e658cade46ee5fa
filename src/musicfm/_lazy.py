"""Public names of packages, imported when they are first used (PEP 562)."""

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def renamed(
    module: str, names: Mapping[str, str], get: Callable[[str], Any]
) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module whose old names still work, with a warning.

    Args:
        module: its ``__name__``.
        names: old names to new ones.
        get: gives what the module calls by a name.
    """

    def get_renamed(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        warnings.warn(
            f"{module}.{name} is now {names[name]}; the old name will be removed with the "
            "next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return get(names[name])

    return get_renamed


def lazy_names(
    package: str, homes: Mapping[str, str], old: Mapping[str, str] | None = None
) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose names are imported when they are first used.

    Args:
        package: its ``__name__``.
        homes: names to the modules of the package that define them.
        old: names that were replaced, to those of today; they still work, with a warning.
    """
    get_old = renamed(package, old or {}, lambda name: get(name))

    def get(name: str) -> Any:
        if name not in homes:
            return get_old(name)
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return get
