"""Public names of a package that are imported when they are first used, so that their dependencies may be missing."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from monai_ldmsr.deprecation import DEPRECATED, warn_of_deprecation

__all__ = ["lazy_names"]


def lazy_names(package: str, file: str) -> Callable[[str], Any]:
    """A module's ``__getattr__`` (PEP 562), which finds what the module imports below ``if TYPE_CHECKING:``.

    A name that :data:`~monai_ldmsr.deprecation.DEPRECATED` has is found under its new one, with a warning.

    A package that uses it defines no ``__dir__``: MONAI's config parser looks at every name that one lists, and so
    would import all of them.

    Args:
        package: the module's ``__name__``.
        file: the module's ``__file__``; its source must be there, as it is wherever packages are installed from wheels.

    Example:
        >>> import monai_ldmsr
        >>> find = lazy_names("monai_ldmsr", monai_ldmsr.__file__)
        >>> find("LdmsrError").__name__
        'LdmsrError'
    """
    imports = [node for node in ast.walk(ast.parse(Path(file).read_bytes())) if isinstance(node, ast.ImportFrom)]
    modules = {alias.name: node.module or "" for node in imports for alias in node.names}

    def find(name: str) -> Any:
        old = f"{package}.{name}"
        if old in DEPRECATED:
            warn_of_deprecation(old)
            module, _, new = DEPRECATED[old].instead.rpartition(".")
            return getattr(import_module(module), new)
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    return find
