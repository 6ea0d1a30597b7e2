"""What made a result, as a DICOM header says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from monai_ldmsr.geometry import Factors

__all__ = ["Derivation"]


@dataclass(frozen=True)
class Derivation:
    """What made the result; reaches the DICOM header, so it holds no patient data.

    Args:
        factor: how many times finer the result is, as ``Factors.of`` takes it.
        method: name of the method, for example ``"conditional latent diffusion super-resolution"``.
        software_version: version of this package.
        weights_sha256: identity of the model, 64 hexadecimal digits.
        seed: seed of the random numbers; None where none are drawn.
        settings: everything else that changes the result, by name.
        made_at: time of the result, with its time zone; now when None. Has no part in the UIDs.
        series_number: Series Number of the result, from which several volumes of a series count up; None: the usual.
        series_description: Series Description of the result, without what distinguishes volumes; None: the usual.
    """

    factor: Factors | int
    method: str
    software_version: str
    weights_sha256: str
    seed: int | None
    settings: Mapping[str, str | int | float] = field(default_factory=dict)
    made_at: datetime | None = None
    series_number: int | None = None
    series_description: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", Factors.of(self.factor))

    @property
    def factors(self) -> Factors:
        """The factor along each axis."""
        return Factors.of(self.factor)
