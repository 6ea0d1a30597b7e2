"""Where results go once they are whole: the seam between the batch and a PACS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from monai_ldmsr.outcome import Outcome

__all__ = ["Delivery", "DeliveryOutcome"]


@dataclass(frozen=True, kw_only=True)
class DeliveryOutcome(Outcome):
    """What became of one attempt to deliver a result: ``done`` where the destination has answered for all of it.

    Args:
        n_sent: instances that the destination has taken for certain.
        n_instances: instances of the result.
        permanent: another attempt would end alike, so there is none.
    """

    n_sent: int = 0
    n_instances: int = 0
    permanent: bool = False

    @property
    def complete(self) -> bool:
        """Whether every instance was taken; a result without instances is never delivered."""
        return self.n_instances > 0 and self.n_sent == self.n_instances


class Delivery(Protocol):
    """A destination of results."""

    @property
    def name(self) -> str:
        """What the ledger and messages call it; no secret."""

    def deliver(self, folder: Path) -> DeliveryOutcome:
        """Send the derived images below a result folder; sending the same again must do no harm.

        Never raises. It may block: it is called in a thread of its own.
        """
