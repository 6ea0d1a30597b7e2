"""Lesions put into originals, degraded and super-resolved: what is kept of them, what is lost, and what is invented."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from monai_ldmsr.evaluation.bumps import SURROGATE, count_bumps, with_noise
from monai_ldmsr.evaluation.pictures import Detail, cut_detail
from monai_ldmsr.evaluation.progress import EvaluationSteps
from monai_ldmsr.evaluation.summaries import Record, summarised_groups
from monai_ldmsr.evaluation.trust_part import TrustPart
from monai_ldmsr.evaluation.volumes import measured_slices
from monai_ldmsr.metrics.native import flattest_tiles
from monai_ldmsr.noise_level import volume_noise
from monai_ldmsr.training.volumes import TrainingVolume

__all__ = ["CONTRASTS", "DIAMETERS", "LesionSite", "LesionTest", "disc", "half_height_width", "lesion_figures"]

#: Diameters in source pixels; contrasts in standard deviations of the flat place.
DIAMETERS = (1, 2, 4, 8)
CONTRASTS = (0.5, 1.0, 2.0, 3.0, 5.0)

#: Sides in source pixels of the flat place, and of what is super-resolved around it.
_TILE, _CROP = 8, 24

#: A lesion is seen where its score exceeds this quantile of the scores of places without one.
_SEEN = 0.95

#: Lesions whose difference keeps less than this share of the contrast have no size.
_LEAST_CONTRAST = 0.1

#: Of each modality a lesion of each of these diameters is drawn: the first of this contrast, or that of the greatest.
_DRAWN_DIAMETERS, _DRAWN_CONTRAST = (1, 2), 3.0


@dataclass(frozen=True)
class LesionSite:
    """A flat place of a slice, with and without lesions.

    Args:
        volume: what it is of.
        number: its slice.
        high: (1 + lesions, 1, H, W) in the source's unit; the first without a lesion.
        discs: (lesions, H, W) from 0 to 1.
        amplitudes: what was added of each disc, in the source's unit.
        lesions: diameter in source pixels, and contrast.
        sigma: standard deviation of the flat place.
        noise: noise of the whole degraded slice, in grey levels.
    """

    volume: TrainingVolume
    number: int
    high: Tensor
    discs: Tensor
    amplitudes: list[float]
    lesions: list[tuple[int, float]]
    sigma: float
    noise: float


@dataclass(repr=False)
class LesionTest(TrustPart):
    """A lesion of each diameter, and none, in the flattest place of each measured slice."""

    name: ClassVar[str] = "lesions"
    title: ClassVar[str] = "Lesions"
    explanation: ClassVar[str] = (
        "Round lesions put into flat tissue of the original, which is then degraded and super-resolved. "
        f"Diameters {', '.join(map(str, DIAMETERS))} source pixels, contrasts {', '.join(map(str, CONTRASTS))} "
        "standard deviations of the tissue, bright and dark."
    )
    definitions: ClassVar[Mapping[str, str]] = {
        "contrast_kept": "Mean of (result with lesion minus result without) where the lesion is more than half of its "
        "height, over the same of the originals.",
        "size_kept": "Full width at half height of the mean radial profile of that difference, over the original's; "
        f"where {_LEAST_CONTRAST:g} of the contrast is kept.",
        "detectability": "Area under the ROC curve of a matched filter (the lesion minus the mean of itself and of the "
        "tissue up to a source pixel around it) between places with lesions and all without one, of the same diameter.",
        "lost": f"Share of the lesions seen in the original that are not seen in the result. Seen: score above the "
        f"{100 * _SEEN:.0f}th percentile of the row's places without lesions, of the same diameter.",
        "bumps": "Blobs as wide as half a source pixel, or a whole one, beyond 3 standard deviations of the original "
        "(difference of Gaussians) in flat tissue, where the original has none of 1.5; per 1000 source pixels. Bicubic "
        "and noise shows how many are chance.",
    }
    goals: ClassVar[Mapping[str, str]] = {
        "contrast_kept": "1",
        "size_kept": "1",
        "detectability": "the original's",
        "lost": "low",
        "bumps": "low",
    }

    drawn: dict[tuple[str, int], tuple[float, Detail]] = field(default_factory=dict, init=False)

    def n_pixels(self) -> int:
        """Of all crops, if each slice has a flat place."""
        n_slices = sum(len(measured_slices(volume, self.slices_per_volume)) for volume in self.volumes)
        return n_slices * (1 + len(DIAMETERS)) * (_CROP * self.factor) ** 2

    def run(self, steps: EvaluationSteps) -> None:
        """Super-resolve all sites, and score them together."""
        for site in self._sites():
            images = dict(self.rows(self.operator(site.high), site.volume, steps, site.noise))
            images["hr"] = site.high
            self._draw(site, images)
            self._count_bumps(site, images)
            for row, image in images.items():
                for n, (diameter, contrast) in enumerate(site.lesions):
                    figures = lesion_figures(image[n + 1, 0] - image[0, 0], site.discs[n], site.amplitudes[n])
                    about = {"diameter": diameter, "contrast": contrast, "lesion": (site.volume.name, site.number, n)}
                    scores = _scores(image[n + 1, 0], image[0, 0], site, n, self.factor)
                    self.add(site.volume, site.number, row, {**about, **figures, **scores, "bumps": math.nan})
        _judge([record for record in self.records if "diameter" in record])

    def sheet(self) -> Sequence[Detail]:
        """Small lesions of each modality."""
        return [self.drawn[key][1] for key in sorted(self.drawn)]

    def as_dict(self) -> dict[str, Any]:
        """With the figures of each diameter and of each contrast."""
        lesions = [record for record in self.records if "diameter" in record]
        columns = [name for name in self.definitions if name != "bumps"]

        def by(key: str) -> dict[str, Any]:
            values = sorted({record[key] for record in lesions})
            groups = {str(value): [record for record in lesions if record[key] == value] for value in values}
            return {name: summarised_groups(chosen, columns, self.seed)["rows"] for name, chosen in groups.items()}

        return {**super().as_dict(), "by_diameter": by("diameter"), "by_contrast": by("contrast")}

    def _sites(self) -> Iterator[LesionSite]:
        random, number = np.random.default_rng(self.seed), 0
        tile, margin = _TILE * self.factor, (_CROP - _TILE) // 2 * self.factor
        for volume in self.volumes:
            for n in measured_slices(volume, self.slices_per_volume):
                image = torch.from_numpy(np.ascontiguousarray(volume.slices[n]))[None, None]
                inner = volume.intensity.forward(image)[..., margin:-margin, margin:-margin]
                for corner in flattest_tiles(inner, tile, 1):
                    # Of the whole slice: in so small a part it cannot be measured.
                    noise = volume_noise(volume.intensity.forward(self.operator(image))[..., None])
                    rows, columns = (slice(start, start + tile + 2 * margin) for start in corner)
                    made = self._lesions(image[0, 0, rows, columns], margin, number, random)
                    yield LesionSite(volume, n, *made, noise)
                    number += 1

    def _lesions(
        self, plain: Tensor, margin: int, number: int, random: np.random.Generator
    ) -> tuple[Tensor, Tensor, list[float], list[tuple[int, float]], float]:
        """One of each diameter; contrasts, brightness and places within a source pixel change from site to site."""
        flat = plain[margin:-margin, margin:-margin].double()
        sigma, level, middle = float(flat.std()), float(flat.mean()), plain.shape[0] / 2
        crops, discs, amplitudes, lesions = [plain], [], [], []
        for n, diameter in enumerate(DIAMETERS):
            contrast = CONTRASTS[(number + n) % len(CONTRASTS)]
            # Dark in every other place, but not where values below 0 would come of it that the scanner cannot have.
            is_dark = (number + n) % 2 == 1 and (float(plain.min()) < 0 or level > 2 * contrast * sigma)
            shift = random.uniform(-self.factor / 2, self.factor / 2, 2)
            place = (middle + float(shift[0]), middle + float(shift[1]))
            shape = disc(plain.shape, place, diameter * self.factor)
            amplitude = (-1.0 if is_dark else 1.0) * contrast * sigma
            discs.append(shape)
            amplitudes.append(amplitude)
            lesions.append((diameter, contrast))
            crops.append((plain.double() + amplitude * shape).to(plain.dtype))
        return torch.stack(crops)[:, None], torch.stack(discs), amplitudes, lesions, sigma

    def _count_bumps(self, site: LesionSite, images: Mapping[str, Tensor]) -> None:
        """Of what has no lesion."""
        plain = {row: image[0, 0] for row, image in images.items()}
        noisy = with_noise(plain["bicubic"], plain["hr"], self.seed + site.number)
        plain = {"bicubic": plain["bicubic"], SURROGATE: noisy, **plain}
        for row, image in plain.items():
            empty = dict.fromkeys(self.definitions, math.nan)
            self.add(site.volume, site.number, row, {**empty, "bumps": count_bumps(image, plain["hr"], self.factor)})

    def _draw(self, site: LesionSite, images: Mapping[str, Tensor]) -> None:
        for n, (diameter, contrast) in enumerate(site.lesions):
            key = site.volume.modality, diameter
            drawn = self.drawn[key][0] if key in self.drawn else 0.0
            if diameter not in _DRAWN_DIAMETERS or drawn >= min(contrast, _DRAWN_CONTRAST):
                continue
            scaled = {row: site.volume.intensity.forward(image[n + 1 : n + 2]) for row, image in images.items()}
            kind = "bright" if site.amplitudes[n] > 0 else "dark"
            width = f"{diameter} source pixel{'s' if diameter > 1 else ''}"
            says = f"{site.volume.modality}, {kind} lesion of {width}, {contrast:g} standard deviations, in the middle"
            self.drawn[key] = contrast, cut_detail(scaled, "hr", (0, 0), says)


def disc(shape: Sequence[int], centre: tuple[float, float], diameter: float) -> Tensor:
    """A round lesion (H, W) from 0 to 1 whose edge is half as high at its diameter; places of pixels are their middle.

    Example:
        >>> round(float(disc((32, 32), (16.0, 16.0), 8.0).sum() / (torch.pi * 16)), 1)
        1.0
    """
    rows, columns = (torch.arange(size, dtype=torch.double) + 0.5 for size in shape)
    distance = torch.hypot(rows[:, None] - centre[0], columns - centre[1])
    return torch.sigmoid((diameter / 2 - distance) / 0.4)


def lesion_figures(difference: Tensor, shape: Tensor, amplitude: float) -> dict[str, float]:
    """``contrast_kept`` and ``size_kept`` of a difference (H, W) with and without a lesion.

    Args:
        difference: result with the lesion minus result without, in the source's unit.
        shape: the lesion from 0 to 1.
        amplitude: what was added of it.
    """
    found, core = difference.double() / amplitude, shape > 0.5 * float(shape.max())
    kept = float(found[core].mean() / shape[core].mean())
    if kept < _LEAST_CONTRAST:
        return {"contrast_kept": kept, "size_kept": math.nan}
    return {"contrast_kept": kept, "size_kept": half_height_width(found, shape) / half_height_width(shape, shape)}


def half_height_width(image: Tensor, shape: Tensor) -> float:
    """Full width at half height of the mean radial profile of an image (H, W) around a lesion's centre of mass."""
    rows, columns = (torch.arange(size, dtype=torch.double) for size in shape.shape)
    centre = [
        float((shape.sum(dim=1 - axis) * place).sum() / shape.sum()) for axis, place in enumerate((rows, columns))
    ]
    distance = torch.hypot(rows[:, None] - centre[0], columns - centre[1]).flatten()
    near = distance < min(shape.shape) // 2
    distance, ring, values = distance[near], distance[near].long(), image.double().flatten()[near]
    total = torch.zeros((2, int(ring.max()) + 1), dtype=torch.double)
    radius, profile = total.index_add(1, ring, torch.stack([distance, values])) / torch.bincount(ring)
    start = int(profile[: max(1, len(profile) // 2)].argmax())
    half = float(profile[start]) / 2
    below = (profile[start:] < half).nonzero().flatten()
    if half <= 0 or not len(below):
        return math.nan
    n = start + int(below[0])
    share = (profile[n - 1] - half) / (profile[n - 1] - profile[n])
    return 2 * float(radius[n - 1] + share * (radius[n] - radius[n - 1]))


def _scores(image: Tensor, plain: Tensor, site: LesionSite, n: int, factor: int) -> dict[str, float]:
    """Contrasts that a matched filter finds with and without the lesion, in units of the place's own deviation."""
    shape = site.discs[n]
    rows, columns = shape.shape
    near = disc((rows, columns), _centre(shape), 2 * (math.sqrt(float(shape.sum()) / math.pi) + factor)) > 0.5
    template = torch.where(near, shape - shape[near].mean(), 0.0)
    template = template * (math.copysign(1.0, site.amplitudes[n]) / float((template * shape).sum()) / site.sigma)
    return {
        "score": float((image.double() * template).sum()),
        "score_without": float((plain.double() * template).sum()),
    }


def _centre(shape: Tensor) -> tuple[float, float]:
    rows, columns = (torch.arange(size, dtype=torch.double) + 0.5 for size in shape.shape)
    total = shape.sum()
    return float((shape.sum(dim=1) * rows).sum() / total), float((shape.sum(dim=0) * columns).sum() / total)


def _judge(records: Sequence[Record]) -> None:
    """Add ``detectability`` and ``lost`` to records, which hold the scores of all rows."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record["row"], record["diameter"]), []).append(record)
    seen: dict[tuple[str, Any], bool] = {}
    for (row, _), group in groups.items():
        without = np.array([record["score_without"] for record in group])
        least = float(np.quantile(without, _SEEN))
        for record in group:
            score = record["score"]
            # The mean of these shares over lesions is the area under the curve.
            record["detectability"] = float((without < score).mean() + 0.5 * (without == score).mean())
            seen[row, record["lesion"]] = score > least
    for record in records:
        is_seen = seen[record["row"], record["lesion"]]
        record["lost"] = float(not is_seen) if seen["hr", record["lesion"]] else math.nan
