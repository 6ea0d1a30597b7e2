"""The outputs beside the image: maps of a number for each voxel, in the form of the source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath

from monai_ldmsr.case import ComputedCase, WrittenOutput
from monai_ldmsr.io import DicomSeries
from monai_ldmsr.io.derived_objects import DerivedImages, ObjectKind, own_concept
from monai_ldmsr.io.image_kind import MAPS_FOLDER
from monai_ldmsr.io.map_files import map_file_name, write_map_file
from monai_ldmsr.io.parametric_map import write_parametric_map
from monai_ldmsr.io.trust_mask import write_trust_mask
from monai_ldmsr.io.written_files import check_pixels, check_volume

__all__ = ["MAP_FILES", "MapOutput", "map_outputs"]

#: Names of the files of maps by what they are, in words.
MAP_FILES = {"expected error map": "error", "trust mask": "trusted", "contradiction map": "contradiction"}

#: By the kind of a map: what its output is called, what it is to readers of DICOM, and its meaning there.
_KINDS = {
    "expected_error": (
        "expected error map",
        ObjectKind("expected_error", 1, "Expected error"),
        "Half width of the interval that holds the true value",
    ),
    "trusted": (
        "trust mask",
        ObjectKind("trusted", 2, "Trusted"),
        "At most one in ten errs by more than the tolerance",
    ),
    "contradiction": (
        "contradiction map",
        ObjectKind("contradiction", 3, "Contradicted"),
        "What the network made less what was measured",
    ),
}

#: What those mean that rest on a calibration where there is none.
_NOT_CALIBRATED = {
    "expected_error": "Half width of a nominal interval, not calibrated",
    "trusted": "Interval no wider than the tolerance, not calibrated",
}


def map_outputs() -> Iterator[MapOutput]:
    """One output for each kind of map."""
    return map(MapOutput, _KINDS)


class MapOutput:
    """A map of one kind: an object in ``maps``, or a volume file beside that of the result.

    Args:
        kind: see :class:`~monai_ldmsr.case.ResultMap`.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.words, self._object, self._meaning = _KINDS[kind]

    def write(self, case: ComputedCase, folder: Path) -> WrittenOutput:
        """Write ``maps/<name>.dcm`` or ``<case>_<name>.nii.gz``; no file where the case has no such map."""
        found = next((one for one in case.maps if one.kind == self.kind), None)
        if found is None:
            return WrittenOutput(self.words, {})
        name, values = MAP_FILES[self.words], found.values[0].cpu().numpy()
        source, is_mask = case.source, self.kind == "trusted"
        if not isinstance(source, DicomSeries) or case.file_name:
            result = PurePath(case.file_name or f"{case.name}{getattr(source, 'extension', '')}")
            path = folder / map_file_name(name if case.file_name else f"{case.name}_{name}", result)
            write_map_file(source, values, found.grid, path, is_mask)
            return WrittenOutput(self.words, {path.name: check_volume})
        path = folder / MAPS_FOLDER / f"{name}.dcm"
        images = DerivedImages.below(folder / "dicom")
        meaning = self._meaning if found.is_calibrated else _NOT_CALIBRATED.get(self.kind, self._meaning)
        concept = own_concept(self.kind.upper(), meaning)
        if is_mask:
            write_trust_mask(source, images, values > 0, found.grid, self._object, concept, meaning, path)
            paths = [path]
        else:
            paths = write_parametric_map(source, images, values, found.grid, self._object, concept, path)
        return WrittenOutput(self.words, {one.relative_to(folder).as_posix(): check_pixels for one in paths})
