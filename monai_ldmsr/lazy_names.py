"""Public names of a package that are imported when they are first used, so that their dependencies may be missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` (PEP 562).

    A package that uses it defines no ``__dir__``: MONAI's config parser looks at every name that one lists, and so
    would import all of them.

    Args:
        package: the module's ``__name__``.
        homes: public names by the module of the package that defines them.

    Example:
        >>> find = lazy_names("monai_ldmsr", {"errors": ["LdmsrError"]})
        >>> find("LdmsrError").__name__
        'LdmsrError'
    """
    modules = {name: module for module, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return find
