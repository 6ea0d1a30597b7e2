"""Write a number for each voxel of a result, or of its source, as a float Parametric Map beside the derived series."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from highdicom import PlanePositionSequence, VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.sr import CodedConcept
from pydicom import Dataset

from monai_ldmsr.errors import OutputError
from monai_ldmsr.geometry import ResultGrid
from monai_ldmsr.io.derived_header import RESEARCH_MARK
from monai_ldmsr.io.derived_objects import (
    DerivedImages,
    ObjectKind,
    as_sources,
    identity,
    places,
    quietly_made,
    unit_code,
    write_deflated,
)
from monai_ldmsr.io.dicom_series import DicomSeries

__all__ = ["rounded", "write_parametric_map"]

#: Bits of a value behind its first one that are kept: what is known of an error is far less exact, and files become a
#: fourth as large.
_KEPT_BITS, _MANTISSA_BITS = 6, 23

#: Of pixels in one object, whose length has 32 bits.
_MOST_BYTES = 2**32 - 2

#: Values that the window is chosen by, at most.
_MOST_SHOWN = 2**24

#: Share of the values below the white of the window.
_SHOWN = 99.5


def rounded(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Values rounded away from 0 to 7 significant bits, by a 64th at most, so that they compress: no error shrinks.

    Example:
        >>> rounded(np.array([0.1, -100.3, 0.0, 64.0], np.float32)).tolist()
        [0.1015625, -101.0, 0.0, 64.0]
    """
    rest = (1 << (_MANTISSA_BITS - _KEPT_BITS)) - 1
    bits = np.asarray(values, np.float32, order="C").view(np.uint32)
    return ((bits + np.uint32(rest)) & np.uint32(~rest & 0xFFFFFFFF)).view(np.float32)


class _Frames(Sequence[npt.NDArray[np.float32]]):
    """Slices of a volume (I, J, K) as (rows, columns), rounded when they are asked for."""

    def __init__(self, values: npt.NDArray[np.float32], order: Sequence[int]) -> None:
        self._values, self._order = values, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, n: Any) -> Any:
        return rounded(self._values[:, :, self._order[n]].T)


def write_parametric_map(
    series: DicomSeries,
    images: DerivedImages,
    values: npt.NDArray[np.float32],
    grid: ResultGrid,
    kind: ObjectKind,
    quantity: CodedConcept,
    path: Path,
) -> list[Path]:
    """Write ``values`` as one object of a frame for each slice; as several, where one cannot be so long.

    Args:
        series: the source.
        images: the derived images, to which the object refers; and to the source, where it has its grid.
        values: (I, J, K) on ``grid``, in the source's unit.
        grid: how it lies on that of the source.
        kind: what it is.
        quantity: the same, coded.
        path: file to write; others get a number behind its name.

    Returns:
        The files.

    Raises:
        OutputError: a value is not finite, or an object cannot be made or written.
    """
    frames, references = _Frames(values, range(values.shape[2])), list(images.headers)
    if grid == ResultGrid.of(1):
        references = as_sources(images, series)
    # Mapping and window are those of the whole volume in each object of it.
    digest, low, high = _surveyed(frames)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise OutputError(f"The {kind.words.lower()} holds values that are not finite, so no result is written.")
    shown = _shown(values)
    mapping = RealWorldValueMapping(
        kind.name.upper()[:16], quantity.meaning, unit_code(series.unit), (low, high), slope=1.0, intercept=0.0,
        quantity_definition=quantity,
    )  # fmt: skip
    window = VOILUTTransformation(0.0 if low < 0 else shown / 2, 2 * shown if low < 0 else shown)
    placed = places(series, grid)
    step, paths = max(1, _MOST_BYTES // frames[0].nbytes), []
    for number, start in enumerate(range(0, len(frames), step), start=1):
        positions = placed["plane_positions"][start : start + step]
        with quietly_made(kind.words.lower()):
            # Of one pixel, so that highdicom makes no copies of the voxels: they follow when the file is written.
            made = ParametricMap(
                references,
                np.zeros((len(positions), 1, 1), np.float32),
                **identity(images, kind, digest, number),
                contains_recognizable_visual_features=False,
                real_world_value_mappings=[mapping],
                voi_lut_transformations=[window],
                content_description=f"{kind.words}. {RESEARCH_MARK}"[:64],
                content_label=kind.name.upper()[:16],
                further_source_images=list(images.headers) if references[0] is not images.first else None,
                **{**placed, "plane_positions": positions},
            )
            order = [start + k for k in _order(made, positions)]
            del made.FloatPixelData
            made.Rows, made.Columns = frames[0].shape
            for item in _sources_of(made):
                item.SpatialLocationsPreserved = "YES"
            paths.append(path if number == 1 else path.with_stem(f"{path.stem}{number}"))
            write_deflated(made, images, paths[-1], _Frames(values, order))
    return paths


def _surveyed(frames: Iterable[npt.NDArray[np.float32]]) -> tuple[str, float, float]:
    """Digest of all frames, and their least and greatest value: no finite numbers where not all values are."""
    digest, low, high = hashlib.sha256(), math.inf, -math.inf
    for frame in frames:
        digest.update(frame.data)
        low, high = np.minimum(low, frame.min()), np.maximum(high, frame.max())  # of which NaN comes through
    return digest.hexdigest(), float(low), float(high)


def _order(made: Dataset, positions: Sequence[PlanePositionSequence]) -> list[int]:
    """Which of the given positions each frame has: highdicom sorts them."""
    given = [tuple(one[0].ImagePositionPatient) for one in positions]
    return [
        given.index(tuple(frame.PlanePositionSequence[0].ImagePositionPatient))
        for frame in made.PerFrameFunctionalGroupsSequence
    ]


def _sources_of(made: Dataset) -> Iterator[Dataset]:
    for frame in made.PerFrameFunctionalGroupsSequence:
        for derivation in frame.get("DerivationImageSequence", []):
            yield from derivation.SourceImageSequence


def _shown(values: npt.NDArray[np.float32]) -> float:
    """What is white, of a few slices: less than the greatest value, which is that of a few voxels."""
    few = values[:, :, :: max(1, values.shape[2] // 16)]
    step = math.ceil(math.sqrt(few.size / _MOST_SHOWN))
    few = np.abs(few[::step, ::step])
    return float(np.percentile(few, _SHOWN)) or float(few.max()) or 1.0
