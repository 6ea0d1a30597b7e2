"""Part the images of one grid into volumes: where positions repeat, or images of several acquisitions interleave."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_ldmsr.io.dicom_header import ImagePlane
from monai_ldmsr.io.series_grouping import ORDER_BY, SPLIT_BY, SeriesImage
from monai_ldmsr.io.slice_stack import Stations

__all__ = ["VolumePart", "differences", "is_parallel", "parallel_parts", "partition", "planes_of", "volume_parts"]

IntArray = npt.NDArray[np.int_]

#: Images whose direction cosines differ by no more, and whose Pixel Spacing by no more than twice this part of it, lie
#: on parallel, equal grids.
_PLANE_TOLERANCE = 1e-3

#: What makes another image of each place: alike in all images of a volume, or volumes may be mixed.
_ALIKE = (
    "EchoTime",
    "DiffusionBValue",
    "ImageType",
    "InversionTime",
    "KVP",
    "ConvolutionKernel",
    "ComplexImageComponent",
)

#: What surely makes another volume, though no position repeats; other attributes may differ between the slices that a
#: scanner takes first and those that it takes between them.
_CERTAIN = (*_ALIKE, "EchoNumbers", "TemporalPositionIdentifier", "DiffusionGradientOrientation")

#: A stack of which at least this part of the distances are one step is whole but for single images.
_NEARLY_WHOLE, _WHOLE = 0.5, 0.9

#: Of these, several values may belong to one volume.
_TIMES = ("TriggerTime", "FrameReferenceTime", "AcquisitionTime")

#: Images of the smallest stack of which the distance is certain; of fewer, the thickness decides.
_FEWEST = 3

#: Images of one place spread over less than this part of the slice distance: to one side, or to both of an even grid.
_NEAR, _NEAR_BOTH_SIDES = 0.25, 0.5

#: A stack that is coarser than the images together by more than this has others between its own.
_COARSER = 1.25


@dataclass(frozen=True)
class VolumePart:
    """Images that make one volume.

    Args:
        images: one image or more.
        labels: what distinguishes them from other volumes of the series: keywords (or words for an order) and values.
        warnings: what the parting had to decide.
    """

    images: list[SeriesImage]
    labels: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    def warned(self, warning: str) -> VolumePart:
        """The same with one more warning."""
        return replace(self, warnings=(*self.warnings, warning))


def volume_parts(part: VolumePart) -> list[VolumePart]:
    """Part parallel images of one grid until no position repeats, or nothing distinguishes them (reading then refuses).

    An attribute distinguishes volumes where each of its values has as many images at every position. Where none does,
    and every position has as many images, their order at each position does. Last come attributes of which a value
    lacks positions, makes a whole stack that overlaps others, or has its images near those of others.
    """
    stations = Stations(planes_of(part.images))
    # Order before what leaves gaps: times of whole seconds would make stacks of the slices that have one in common.
    for parted in (_complete, _ordered, _incomplete, _overlapping, _near):
        if found := parted(part, stations):
            break
    else:
        found = [part]
    return [split for child in found for split in (volume_parts(child) if len(found) > 1 else [child])]


def _complete(part: VolumePart, stations: Stations) -> list[VolumePart]:
    """Volumes by the first key of which each value has as many images at every position; nothing without repeats."""
    for keyword in SPLIT_BY if stations.most > 1 else ():
        children = _by_value(part, keyword)
        if 1 < len(children) <= stations.most and _are_even(part, keyword, stations.of_image):
            return children
    return []


def _are_even(part: VolumePart, keyword: str, place: IntArray) -> bool:
    """Whether each value of a key has as many images at each place, whole volumes then; ``place`` is each image's."""
    values = np.array([image.value(keyword) for image in part.images])
    counts = (np.bincount(place[values == value], minlength=place.max() + 1) for value in np.unique(values))
    return all(count.min() == count.max() for count in counts)


def _incomplete(part: VolumePart, stations: Stations) -> list[VolumePart]:
    """Volumes of which at least one has every position, and others lack some: by no time, which cuts slices apart."""
    for keyword in SPLIT_BY if stations.most > 1 else ():
        children = _by_value(part, keyword)
        if not 1 < len(children) <= stations.most or keyword in _TIMES:
            continue
        found = [Stations(planes_of(child.images)) for child in children]
        most = max(child.most for child in found)
        if most > (stations.most - 1 if keyword in _CERTAIN else 1):
            continue
        if max(len(s.counts) for s in found) == len(stations.counts):
            return children
    return []


def _overlapping(part: VolumePart, stations: Stations) -> list[VolumePart]:
    """Whole stacks that overlap, as volumes of their own or as the one that they surely or probably make."""
    for keyword, name in SPLIT_BY.items():
        children = _by_value(part, keyword)
        fewest = min(len(child.images) for child in children)
        if fewest < 2 or (keyword in _TIMES and len(children) > max(stations.most, 2)):
            continue
        found = [Stations(planes_of(child.images)) for child in children]
        most = max(stations.most - 1, 1) if keyword in _CERTAIN else 1
        if not _are_whole_and_overlap(found) or max(child.most for child in found) > most:
            continue
        between = [s.spacing_mm > _COARSER * stations.spacing_mm for s in found]
        is_one_stack = stations.most == 1 and stations.evenness() >= _WHOLE
        if is_one_stack and not any(between):
            continue  # one fills the gaps of the other
        is_certain = keyword in _CERTAIN and (fewest >= _FEWEST or not is_one_stack)
        if not any(between) or is_certain or not (is_one_stack or stations.most > 1):
            warning = f"The images of {len(children)} values of {name} make whole stacks that overlap, each a volume."
            return [child.warned(warning) for child in children]
        thick = [_thickness_mm(child.images) for child in children]
        thin = [
            (t, s.spacing_mm)
            for t, s, b in zip(thick, found, between, strict=True)
            if b and t <= np.sqrt(s.spacing_mm * stations.spacing_mm)
        ]
        if not thin:
            of_all = [(t, s.spacing_mm) for t, s, b in zip(thick, found, between, strict=True) if b]
            return [child.warned(_interleaved(name, stations, len(found), min(of_all), True)) for child in children]
        if is_one_stack:
            return [part.warned(_interleaved(name, stations, len(found), min(thin), False))]
    return []


def _near(part: VolumePart, stations: Stations) -> list[VolumePart]:
    """Volumes by the first key of which each value has as many images near every place, however uneven these are."""
    along = np.array([plane.position_mm for plane in planes_of(part.images)]) @ planes_of(part.images)[0].normal
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    for keyword in SPLIT_BY:
        children = _by_value(part, keyword)
        fewest = min(len(child.images) for child in children)
        if len(children) < 2 or fewest < 2:
            continue
        for n_places in (n for n in range(fewest, 1, -1) if all(len(child.images) % n == 0 for child in children)):
            cuts = np.sort(np.argsort(gaps)[::-1][: n_places - 1])
            place = np.empty(len(along), int)
            place[order] = np.searchsorted(cuts, np.arange(len(along)) - 0.5)
            if _are_near(along, place, keyword) and _are_even(part, keyword, place):
                warning = (
                    f"The images of {len(children)} values of {SPLIT_BY[keyword]} stand near each other, each a volume."
                )
                return [child.warned(warning) for child in children]
    return []


def _are_near(along: npt.NDArray[np.float64], place: IntArray, keyword: str) -> bool:
    """Whether the images of each place are nearer to each other than to those of others.

    A quarter of the slice distance to both sides of a place is left, to one side where a key is not certain: an
    acquisition that takes the slices between others stands at a half.
    """
    ends = [(along[place == n].min(), along[place == n].max()) for n in range(place.max() + 1)]
    distance = np.median(np.diff([(first + last) / 2 for first, last in ends]))
    spread = max(last - first for first, last in ends)
    return bool(spread < (_NEAR_BOTH_SIDES if keyword in _CERTAIN else _NEAR) * distance)


def _are_whole_and_overlap(found: Sequence[Stations]) -> bool:
    if len(found) < 2 or any(child.evenness() <= _NEARLY_WHOLE for child in found):
        return False
    ends = sorted((child.positions_mm[0], child.positions_mm[-1]) for child in found)
    return any(start <= end + found[0].tolerance_mm for (_, end), (start, _) in pairwise(ends))


def _interleaved(name: str, together: Stations, n_values: int, deciding: tuple[float, float], apart: bool) -> str:
    """``deciding`` are thickness and distance of the stack that decided."""
    thickness_mm, spacing_mm = deciding
    said = f"slices are {thickness_mm:.3g} mm thick" if thickness_mm else "nothing says how thick slices are"
    made = "are volumes of their own" if apart else "make one volume"
    which = "each" if apart else "in one of them"
    return (
        f"The images of {n_values} values of {name} interleave, {together.spacing_mm:.3g} mm apart together and "
        f"{spacing_mm:.3g} mm {which}. As {said} there, it was decided that they {made}."
    )


def _ordered(part: VolumePart, stations: Stations) -> list[VolumePart]:
    """Volumes by the order of the images at each position, where all have as many; nothing where they have not."""
    if stations.most == 1 or stations.counts.min() < stations.most:
        return []
    ranks = {name: found for n, name in enumerate(ORDER_BY) if (found := _ranks(part.images, stations, n))}
    if not ranks:
        return []
    name, rank = next(iter(ranks.items()))
    warning = (
        f"Nothing but the order of {name} at each of {len(stations.counts)} positions distinguishes {stations.most} "
        "images there: the first of each make one volume, the second another, and so on."
    )
    others = [other for other, found in ranks.items() if not _same_volumes(rank, found)]
    unsure = [f"The order by {', '.join(others)} would make other volumes: some may be mixed."] if others else []
    label = f"the order of {name} at each position"
    return [
        VolumePart(
            [image for image, at in zip(part.images, rank, strict=True) if at == n],
            (*part.labels, (label, str(n + 1))),
            (*part.warnings, warning, *unsure),
        )
        for n in range(stations.most)
    ]


def _ranks(images: list[SeriesImage], stations: Stations, by: int) -> list[int]:
    """Rank of each image at its position; empty where two of them are alike or one says nothing."""
    keys: list[Any] = [image.order_values[by] for image in images]
    if not all(key.strip("\\") for key in keys):
        return []
    if all(key.lstrip("-").isdecimal() for key in keys):
        keys = [int(key) for key in keys]
    at: dict[int, list[int]] = defaultdict(list)
    for n, station in enumerate(stations.of_image.tolist()):
        at[station].append(n)
    ranks = [0] * len(images)
    for members in at.values():
        if len({keys[n] for n in members}) < len(members):
            return []
        for rank, n in enumerate(sorted(members, key=lambda n: keys[n])):
            ranks[n] = rank
    return ranks


def _same_volumes(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether two rankings part alike, in whatever order of the volumes."""
    pairs = set(zip(first, second, strict=True))
    return len(pairs) == len(set(first))


def _by_value(part: VolumePart, keyword: str) -> list[VolumePart]:
    return [
        VolumePart(images, (*part.labels, (keyword, images[0].value(keyword))), part.warnings)
        for images in partition(part.images, lambda image: image.value(keyword))
    ]


def _thickness_mm(images: list[SeriesImage]) -> float:
    return float(np.median([plane.thickness_mm for plane in planes_of(images)]))


def planes_of(images: Sequence[SeriesImage]) -> list[ImagePlane]:
    """Where images are that all have a place."""
    return [image.plane for image in images if image.plane is not None]


def differences(images: list[SeriesImage]) -> list[str]:
    """Warn of images that stand at places of their own and show different things."""
    found = {SPLIT_BY[key]: len({image.value(key) for image in images}) for key in _ALIKE}
    varied = ", ".join(f"{name} ({n} values)" for name, n in found.items() if n > 1)
    return [f"The images of the volume differ in {varied}: several volumes may be mixed in it."] if varied else []


def partition(images: list[SeriesImage], key: Callable[[SeriesImage], Hashable]) -> list[list[SeriesImage]]:
    """Images by value of ``key``, in the order of the first of each."""
    parts: dict[Hashable, list[SeriesImage]] = defaultdict(list)
    for image in images:
        parts[key(image)].append(image)
    return list(parts.values())


def parallel_parts(images: list[SeriesImage]) -> list[list[SeriesImage]]:
    """Images by orientation and pixel spacing; scanners jitter in the last digits. All have a place."""
    parts: list[tuple[ImagePlane, list[SeriesImage]]] = []
    for image in images:
        assert image.plane is not None
        for first, part in parts:
            if is_parallel(first, image.plane):
                part.append(image)
                break
        else:
            parts.append((image.plane, [image]))
    return [part for _, part in parts]


def is_parallel(first: ImagePlane, second: ImagePlane, times: int = 1) -> bool:
    """Whether two images lie on parallel grids of one pixel spacing, within ``times`` the tolerance."""
    if (first.cosines, first.pixel_spacing_mm) == (second.cosines, second.pixel_spacing_mm):
        return True
    cosines = np.abs(np.subtract(first.cosines, second.cosines)).max()
    spacing = np.abs(np.subtract(first.pixel_spacing_mm, second.pixel_spacing_mm)).max() / min(first.pixel_spacing_mm)
    return bool(max(cosines, spacing / 2) <= times * _PLANE_TOLERANCE)
