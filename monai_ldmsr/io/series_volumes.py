"""From the images of one DICOM series to its volumes: copies, grids, frames of reference, localizers among them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io.image_kind import LOCALIZER
from monai_ldmsr.io.series_grouping import SPLIT_BY, SeriesFiles, SeriesImage, case_digest
from monai_ldmsr.io.series_labels import VolumeTraits, label_volumes
from monai_ldmsr.io.slice_stack import Stations
from monai_ldmsr.io.stack_parts import (
    VolumePart,
    differences,
    is_parallel,
    parallel_parts,
    partition,
    planes_of,
    volume_parts,
)

__all__ = ["LeftOut", "volumes_of"]

#: Compares two files of one SOP Instance UID.
SameContent = Callable[[Path, Path], bool]

#: Images of a series that make no volume: why, what a person reads, and the files that hold them.
LeftOut = tuple[ReasonCode, str, tuple[Path, ...]]

#: What of ``SeriesImage.grid`` only says whose images these are.
_OWNERS = {
    -2: "(0010,0020) 'Patient ID'",
    1: "(0020,0052) 'Frame of Reference UID'",
    -1: "(0020,000D) 'Study Instance UID'",
}

#: Images of one patient each are never taken for one volume: its result would bear the name of one of them.
_PATIENT = -2

#: A series that a description calls a localizer is one where it has no more images than these, or several planes.
_FEW_NAMED = 3

#: A series of several planes of no more images each may be a localizer that nothing names.
_FEW_UNSURE = 10

#: As few images across a main volume of so many times more are its localizer.
_FEW_ACROSS, _MAIN_IS_MORE = 3, 3

#: An image no further than this many slice distances from a volume may be its next slice.
_NEXT = 1.5

#: Cosine between normals of planes that lie across each other.
_ACROSS = 0.7


def volumes_of(
    images: list[SeriesImage], damaged_folders: Counter[Path], same: SameContent
) -> tuple[list[SeriesFiles], list[LeftOut]]:
    """Split the images of one series into volumes.

    Args:
        images: all of the series, in the order of their files.
        damaged_folders: how many files of a folder could not be read, for a warning.
        same: whether two files hold the same; asked only of files with one SOP Instance UID.

    Returns:
        The volumes, and the images of which none was made: those with a ``skip``, and all when one SOP Instance UID has
        two contents.
    """
    odd = [image for image in images if image.skip]
    left_out = [_left_out(alike, *alike[0].skip) for alike in partition(odd, lambda image: image.skip) if alike[0].skip]
    images = [image for image in images if not image.skip]
    if not images:
        return [], left_out
    try:
        images, n_copies = _without_copies(images, same)
    except SourceError as error:
        return [], [*left_out, _left_out(images, error.reason, str(error))]
    warnings = []
    if n_copies:
        warnings.append(f"{n_copies} files are identical copies of others (same SOP Instance UID): left out.")
    n_damaged = sum(damaged_folders[folder] for folder in {image.path.parent for image in images})
    if n_damaged:
        warnings.append(f"{n_damaged} DICOM files of the same folder cannot be read. An image may be missing.")
    if any(image.plane is None for image in images):
        # Grouping by a plane that some images lack would drop them silently; reading refuses the whole.
        return [_series_files(VolumePart(images, warnings=tuple(warnings)))], left_out
    grids: list[VolumePart] = []
    for on_grid in partition(images, lambda image: (image.grid[0], *image.grid[2:-2])):
        for parallel in parallel_parts(on_grid):
            try:
                grids += _owned(VolumePart(parallel, warnings=tuple(warnings)))
            except SourceError as error:
                left_out.append(_left_out(parallel, error.reason, str(error)))
    kept = _without_localizers(grids, left_out)
    parts = [_lacking(part, odd) for grid in kept for part in _volumes_on(grid, len(kept))]
    return _labelled([_series_files(part) for part in parts], parts), left_out


def _left_out(images: list[SeriesImage], reason: ReasonCode, message: str) -> LeftOut:
    return reason, message, tuple(dict.fromkeys(image.path for image in images))


def _owned(part: VolumePart) -> list[VolumePart]:
    """Parallel images of one matrix by frame of reference, study and patient.

    Raises:
        SourceError: ``NO_GEOMETRY`` when some images, but not all, have a frame of reference or study of their own, or
            any has a patient of its own.
    """
    parts = [part]
    for at, name in _OWNERS.items():
        parts = [split for owned in parts for split in _by_owner(owned, at, name)]
    return parts


def _by_owner(part: VolumePart, at: int, name: str) -> list[VolumePart]:
    found = partition(part.images, lambda image: image.grid[at])
    n_alone = sum(len(images) == 1 for images in found)
    n_unsaid = sum(not image.grid[at] for image in part.images)
    if len(found) == 1:
        return [part]
    if len(found) == 2 and n_unsaid:
        warning = (
            f"{name} is missing in {n_unsaid} of {len(part.images)} images: that of the others is taken for theirs."
        )
        return [part.warned(warning)]
    is_new_at_each_place = _stand_alone(part, found)
    if not n_alone and not is_new_at_each_place:
        return [replace(part, images=images) for images in found]
    if is_new_at_each_place and at != _PATIENT:
        warning = (
            f"{name} has {len(found)} values in {len(part.images)} images of the series, each at one place alone, as "
            "careless de-identification makes it: by all else the images belong together, and are taken to."
        )
        return [part.warned(warning)]
    raise SourceError(
        f"{name} has {len(found)} values in {len(part.images)} parallel images of one series, {n_alone} of them in one "
        "image alone, so it is uncertain which images belong together. Repair it, or put each volume into a series of "
        "its own.",
        ReasonCode.NO_GEOMETRY,
    )


def _stand_alone(part: VolumePart, found: list[list[SeriesImage]]) -> bool:
    """Whether each value of an identifier is that of one place: of one image, or of echoes that stand there."""
    stations = Stations(planes_of(part.images))
    at = dict(zip((id(image) for image in part.images), stations.of_image.tolist(), strict=True))
    places = [{at[id(image)] for image in images} for images in found]
    is_each_image = all(len(images) == 1 for images in found)
    return is_each_image or (all(len(place) == 1 for place in places) and len(set.union(*places)) == len(found))


def _without_localizers(grids: list[VolumePart], left_out: list[LeftOut]) -> list[VolumePart]:
    """The grids that are not surely localizers; those that may be one have a warning."""
    if not grids:
        return []
    main = max(grids, key=lambda grid: len(grid.images))
    several_planes = any(_lie_across(grid, main) for grid in grids)
    kept: list[VolumePart] = []
    for grid in grids:
        is_few = len(grid.images) <= _FEW_NAMED or several_planes
        # A CT is not taken in another plane; of MR and PET the few may be reconstructions.
        is_topogram = grid.images[0].modality == "CT" and _is_aside(grid, main) and _lie_across(grid, main)
        if (_is_named(grid) and is_few) or is_topogram:
            left_out.append(_left_out(grid.images, ReasonCode.LOCALIZER, LOCALIZER))
        else:
            kept.append(grid)
    several_planes = any(_lie_across(grid, main) for grid in kept) and len(main.images) <= _FEW_UNSURE
    return [_with_localizer_warning(grid, main, several_planes) for grid in kept]


def _with_localizer_warning(grid: VolumePart, main: VolumePart, several_planes: bool) -> VolumePart:
    """The grid, with a warning where it may be a localizer."""
    if grid.images[0].modality == "PT":
        return grid
    if _is_named(grid):
        why = "a description of the series says so"
    elif _is_aside(grid, main) and (len(grid.images) == 1 or _lie_across(grid, main)):
        why = "few images stand beside a volume"
    elif several_planes:
        why = "the series has few images in several planes"
    else:
        return grid
    return grid.warned(f"This may be a localizer (scout): {why}.")


def _is_named(grid: VolumePart) -> bool:
    return all(image.named_localizer for image in grid.images)


def _is_aside(grid: VolumePart, main: VolumePart) -> bool:
    """Few images beside many."""
    n, n_main = len(grid.images), len(main.images)
    return n <= _FEW_ACROSS < n_main and n_main >= _MAIN_IS_MORE * n


def _lie_across(grid: VolumePart, main: VolumePart) -> bool:
    first, second = (planes_of(part.images)[0].normal for part in (grid, main))
    return abs(float(first @ second)) < _ACROSS


def _volumes_on(grid: VolumePart, n_grids: int) -> list[VolumePart]:
    found = []
    for part in volume_parts(VolumePart(grid.images)):
        added = []
        if part.labels:
            names = ", ".join(SPLIT_BY.get(keyword, keyword) for keyword, _ in part.labels)
            added.append(f"The series holds several volumes; this is one of them, distinguished by {names}.")
        if n_grids > 1:
            added.append(
                f"The images of the series lie on several grids or belong to several studies ({n_grids} groups): this "
                "is one of them; nothing is resampled."
            )
        signed = {image.value("ComplexImageComponent") for image in part.images} & {"REAL", "IMAGINARY"}
        if signed:
            added.append(
                f"Of a complex MR image the {' and '.join(sorted(signed)).lower()} part: its values have a sign, and "
                "it is super-resolved as it is."
            )
        found.append(replace(part, warnings=(*grid.warnings, *differences(part.images), *part.warnings, *added)))
    return found


def _lacking(part: VolumePart, odd: list[SeriesImage]) -> VolumePart:
    """The volume, with a warning where images were left out that stand between or next to its own slices."""
    first, planes = part.images[0], planes_of(part.images)
    alone = Stations(planes)
    # A lone image has no distance of its own; of a gap, the thickness may be less than the distance.
    near_mm = max(alone.spacing_mm, planes[0].thickness_mm) * _NEXT
    missing: list[SeriesImage] = []
    for image in odd:
        if image.plane is None or image.grid[1:4] != first.grid[1:4] or not is_parallel(planes[0], image.plane):
            continue
        along = float(planes[0].normal @ image.plane.position_mm)
        is_next = alone.positions_mm[0] - near_mm <= along <= alone.positions_mm[-1] + near_mm
        if is_next and np.abs(alone.positions_mm - along).min() > alone.tolerance_mm:
            missing.append(image)
    reasons = ", ".join(sorted({image.skip[0].value for image in missing if image.skip}))
    if not missing:
        return part
    warning = (
        f"{len(missing)} images of the same series stand between or next to the slices of the volume and were left out "
        f"({reasons}; the summary says why): slices may be missing."
    )
    return part.warned(warning)


def _without_copies(images: list[SeriesImage], same: SameContent) -> tuple[list[SeriesImage], int]:
    kept: list[SeriesImage] = []
    by_uid: dict[str, Path] = {}
    copies: set[Path] = set()
    for image in images:
        first = by_uid.setdefault(image.uid, image.path) if image.uid else image.path
        if first == image.path:
            kept.append(image)
        elif image.path in copies or same(first, image.path):
            copies.add(image.path)
        else:
            raise SourceError(
                "Two files have the same SOP Instance UID and different content, so one of them is wrong. "
                "Remove the wrong one.",
                ReasonCode.DUPLICATE_UID_CONFLICT,
            )
    return kept, len(copies)


def _series_files(part: VolumePart) -> SeriesFiles:
    first = _first(part)
    plane = [] if first.plane is None else [f"{round(number, 2) + 0.0:.2f}" for number in first.plane.cosines]
    uids = [] if first.series else sorted(image.identity for image in part.images)
    places = sorted((image.path, image.frame) for image in part.images)
    return SeriesFiles(
        case=case_digest(first.series, *first.grid, *plane, *(value for _, value in part.labels), *uids),
        modality=first.modality,
        paths=tuple(path for path, _ in places),
        warnings=part.warnings,
        frames=tuple(frame for _, frame in places) if any(frame for _, frame in places) else (),
        matrix=(_count(first.grid[3]), _count(first.grid[2])),
    )


def _count(said: str) -> int:
    """Number of rows or columns; 0 where a header gives none, which its reader refuses."""
    return int(said) if re.fullmatch(r"[0-9]{1,5}", said) else 0


def _labelled(volumes: list[SeriesFiles], parts: list[VolumePart]) -> list[SeriesFiles]:
    """Give the volumes of a series numbers and labels, and names of their own where they had one in common."""
    labels = label_volumes([_traits(part) for part in parts])
    n_of_name = Counter(volume.case for volume in volumes)
    labelled = []
    for volume, part, (number, label) in zip(volumes, parts, labels, strict=True):
        # By an image and not by their order: whatever else the series comes to hold, the name stays the volume's.
        identity = min(image.identity for image in part.images)
        case = volume.case if n_of_name[volume.case] == 1 else case_digest(volume.case, identity)
        labelled.append(replace(volume, case=case, volume=number, label=label))
    return labelled


def _traits(part: VolumePart) -> VolumeTraits:
    first = _first(part)
    assert first.plane is not None
    numbers = [round(number, 2) + 0.0 for number in (*first.plane.cosines, *first.plane.pixel_spacing_mm)]
    identity = min(image.identity for image in part.images)
    grid = (*first.grid[:-2], *numbers)
    return VolumeTraits("".join(first.grid[-2:]), grid, first.plane.cosines, dict(part.labels), identity)


def _first(part: VolumePart) -> SeriesImage:
    """The same image whatever the files are called, where the images differ in their owners."""
    return min(part.images, key=lambda image: (image.grid, image.path, image.frame))
