"""What is public still, but goes: since which version, in which one, and what to use instead.

``docs/stability.md`` says what is public and how long it stays. Arguments and classes of modules that load torch may
also use MONAI's ``monai.utils.deprecated_arg`` and ``deprecated``, with ``version_val=__version__``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

__all__ = ["DEPRECATED", "Deprecation", "warn_of_deprecation"]


@dataclass(frozen=True)
class Deprecation:
    """One public name that goes.

    Args:
        since: version that began to warn.
        removed_in: version in which the name is gone.
        instead: what to use: a name that can be imported, an option, or a phrase.
    """

    since: str
    removed_in: str
    instead: str

    def message(self, name: str) -> str:
        """One sentence for whoever uses ``name``."""
        return (
            f"{name} is deprecated since version {self.since} and will be removed in {self.removed_in}. "
            f"Use {self.instead} instead."
        )


#: By what ``tests/public_names.txt`` calls them: ``monai_ldmsr.NAME``, ``ldmsr COMMAND --option``. An entry
#: ``monai_ldmsr.NAME`` is found under its new name; an option keeps its old spelling beside the new one in the parser.
DEPRECATED: dict[str, Deprecation] = {}


def warn_of_deprecation(name: str, deprecation: Deprecation | None = None, stacklevel: int = 2) -> None:
    """Warn whoever called what calls this.

    Args:
        name: what was used.
        deprecation: what becomes of it; by default its entry in :data:`DEPRECATED`.
        stacklevel: as in :func:`warnings.warn`, counted from the caller of this function.

    Raises:
        KeyError: nothing is said of ``name``.
    """
    said = DEPRECATED[name] if deprecation is None else deprecation
    warnings.warn(said.message(name), DeprecationWarning, stacklevel=stacklevel + 1)
