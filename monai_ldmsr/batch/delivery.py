"""Where results go once they are whole: the seam between the batch and a PACS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Delivery", "DeliveryOutcome"]


@dataclass(frozen=True)
class DeliveryOutcome:
    """What became of one attempt to deliver a result.

    Args:
        n_sent: instances that the destination has taken for certain.
        n_instances: instances of the result.
        reason: code of :class:`~monai_ldmsr.errors.ReasonCode` where not all were taken.
        message: one sentence for a person; no patient attribute.
        permanent: another attempt would end alike, so there is none.
    """

    n_sent: int
    n_instances: int
    reason: str = ""
    message: str = ""
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
