"""Compare a volume with what the model was trained for, before it is super-resolved."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from monai_ldmsr.choices import FACTORS
from monai_ldmsr.degradation import AreaOperator
from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.geometry import spread_slices
from monai_ldmsr.io import DicomSeries, VolumeFile
from monai_ldmsr.networks import SliceNetwork, SuperResolver, upsample_bicubic
from monai_ldmsr.noise_level import volume_noise
from monai_ldmsr.training_range import N_SLICES, TrainingRange, VolumeFigures, volume_figures
from monai_ldmsr.transforms.intensity import IntensityMap
from monai_ldmsr.transforms.source import project_volume
from monai_ldmsr.working_volumes import plain

__all__ = ["RangeCheck", "forced_warning", "given_back_db"]

#: Dials with which an earlier result may have been made.
_DIALS = (0.0, 0.5, 1.0)

#: Sides of slices that are looked at for an earlier result: least, and greatest of the part that is.
_LEAST_SIDE, _MOST_SIDE = 32, 1024

#: Side of the part that is looked at first, and by how many dB the mean alone must give it back to look further.
_FIRST_SIDE, _FIRST_DB = 256, 3.0


_OTHER_NETWORK = (
    "The network is not of the kind that the bundle's weights are for, so that the volume was not compared with what "
    "they were trained for."
)


def forced_warning(outside: str) -> str:
    """The warning of a result whose source lies outside, by its setting ``choices.FORCED``; empty without one."""
    return f"FORCED: the volume lies outside of what the model was trained for: {outside}." if outside else ""


class RangeCheck:
    """Refuse volumes that are unlike those that the model was trained on.

    Args:
        training_range: what the weights were trained for; None refuses nothing, and says so.
        network: the network that volumes are for; its codec sees them. Volumes for one of another kind are compared
            with nothing.
        force: refuse nothing.
    """

    def __init__(self, training_range: TrainingRange | None, network: SliceNetwork, force: bool = False) -> None:
        self.training_range = training_range
        self.network = network
        self.force = force

    def __call__(
        self, source: DicomSeries | VolumeFile, scaled: Tensor, intensity: IntensityMap
    ) -> tuple[tuple[str, ...], str]:
        """Look at a volume.

        Args:
            source: what was read.
            scaled: (1, I, J, K) in model range.
            intensity: its map to model range.

        Returns:
            What is unusual, for the report; and of that what was overridden, empty where nothing was.

        Raises:
            SourceError: ``OUT_OF_RANGE``, with what was found and what the training had.
        """
        if self.training_range is None:
            return ("What the model was trained for is not known, so that nothing was compared with it.",), ""
        if not isinstance(self.network, SuperResolver):
            return (_OTHER_NETWORK,), ""
        figures = self._figures(self.network, source, scaled, intensity)
        findings = self.training_range.findings(source.modality, figures)
        far = [one.text for one in findings if one.refuses]
        if far and not self.force:
            raise SourceError(
                f"The volume lies outside of what the model was trained for (in brackets): {'; '.join(far)}. "
                "Super-resolve it with --force (in Python force=True), and do not trust the result.",
                ReasonCode.OUT_OF_RANGE,
            )
        near = [one.text for one in findings if not one.refuses]
        said = [f"The volume is unusual for the model (usual in brackets): {'; '.join(near)}."] if near else []
        if far:
            said.insert(0, forced_warning("; ".join(far)))
        return tuple(said), "; ".join(far)

    @staticmethod
    @torch.inference_mode()
    def _figures(
        network: SuperResolver, source: DicomSeries | VolumeFile, scaled: Tensor, intensity: IntensityMap
    ) -> VolumeFigures:
        rows, columns, gap = source.geometry.spacing_mm
        places = spread_slices(scaled.shape[-1], N_SLICES)
        slices = [intensity.inverse(plain(scaled)[None, ..., k]) for k in places]
        places_mm = [k * gap for k in places]
        device = next(network.parameters()).device

        def encode(image: Tensor) -> Tensor:
            return network.generator.codec.encode(image.to(device))

        given_back = given_back_db(network, slices, intensity, source.modality, places_mm[len(slices) // 2])
        return volume_figures(slices, intensity, source.modality, (rows, columns), encode, given_back)


@torch.inference_mode()
def given_back_db(
    network: SuperResolver, slices: Sequence[Tensor], intensity: IntensityMap, modality: str, place_mm: float = 0.0
) -> float:
    """By how much better than bicubic the network gives back the middle one of some slices, averaged over blocks.

    What the network made itself it gives back nearly exactly. Over its factors, and dials of 0, 0.5 and 1; 0 for slices
    that are too small.

    Args:
        network: made an earlier result, perhaps.
        slices: (1, 1, h, w) in the source's unit.
        intensity: the volume's map to model range.
        modality: DICOM's term.
        place_mm: how far the middle one is from the first slice of its volume.
    """
    if min(slices[0].shape[-2:]) < _LEAST_SIDE:
        return 0.0
    found = []
    for factor in FACTORS:
        resolver = SuperResolver(
            network.generator,
            network.sampler,
            factor,
            modality=modality,
            seed=network.seed,
            correlation_mm=network.correlation_mm,
        )
        gain = _gain_db(resolver, slices, intensity, _FIRST_SIDE, (0.0,), place_mm)
        if gain > _FIRST_DB:  # a sample is given back only by the noise of a whole slice
            gain = _gain_db(resolver, slices, intensity, _MOST_SIDE, _DIALS, place_mm)
        found.append(gain)
    return max(found)


def _gain_db(
    resolver: SuperResolver,
    slices: Sequence[Tensor],
    intensity: IntensityMap,
    side: int,
    dials: Sequence[float],
    place_mm: float,
) -> float:
    """By how many dB the best dial brings the middle slice back better than bicubic."""
    factor = round(resolver.factors.i)
    height, width = (min(n, side) // factor * factor for n in slices[0].shape[-2:])
    sources = [AreaOperator(factor)(image[..., :height, :width]) for image in slices]
    goal, low = slices[len(slices) // 2][..., :height, :width], sources[len(slices) // 2]
    noise = volume_noise(intensity.forward(torch.stack(sources, dim=-1)[0]))
    scaled = intensity.forward(low).to(next(resolver.parameters()).device)
    mean, _, sample = resolver.predict(scaled, noise, with_sample=max(dials) > 0, places_mm=[place_mm])
    assert mean is not None

    def error(image: Tensor) -> float:
        return float((intensity.forward(image) - intensity.forward(goal)).square().mean()) + 1e-12

    errors = []
    for dial in dials:
        found = intensity.inverse((mean if sample is None else mean + dial * (sample - mean)).to(goal))
        project_volume(found[0].unsqueeze(-1), low[0].unsqueeze(-1), factor)
        errors.append(error(found))
    bicubic = intensity.inverse(upsample_bicubic(intensity.forward(low), factor))
    return 10 * math.log10(error(bicubic) / min(errors))
