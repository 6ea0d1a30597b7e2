"""A volume against what the model was trained for, before it is super-resolved."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from generator_fixtures import make_resolver
from places import SAMPLES
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io.memory_images import array_volume
from monai_ldmsr.networks import SliceNetwork, SRResNetGenerator
from monai_ldmsr.noise_level import volume_noise
from monai_ldmsr.range_check import RangeCheck, given_back_db
from monai_ldmsr.training_range import ModalityRange, TrainingRange
from monai_ldmsr.transforms.intensity import IntensityMap, fit_intensity_map
from monai_ldmsr.transforms.source import project_volume, volume_of
from monai_ldmsr.workflow import load_network

MR = IntensityMap((0.0, 1000.0), (-1.0, 1.0))
KNOWN = TrainingRange("", {"MR": ModalityRange(4, 4, (0.5, 1.0), (0.0, 10.0), 0.0, 0.0, None)})


def image(seed: int = 0, size: int = 96) -> Tensor:
    coarse = torch.rand(1, 1, size // 8, size // 8, generator=torch.Generator().manual_seed(seed)) * 900
    return functional.interpolate(coarse, size=size, mode="bicubic").clamp(min=0.0)


def looked_at(
    spacing_mm: float,
    force: bool = False,
    known: TrainingRange | None = KNOWN,
    network: SliceNetwork | None = None,
) -> tuple[tuple[str, ...], str]:
    voxels = torch.stack([image(n)[0, 0] for n in range(3)], dim=-1).numpy()
    source = array_volume(voxels, np.diag([spacing_mm, spacing_mm, 3.0, 1.0])).with_modality("MR")
    return RangeCheck(known, network or make_resolver(), force)(source, MR.forward(volume_of(source)), MR)


def test_an_ordinary_volume_has_nothing_said() -> None:
    assert looked_at(0.7) == ((), "")


def test_a_volume_outside_is_refused_with_value_and_range() -> None:
    with pytest.raises(SourceError, match=r"pixels have 0\.02 mm \(0\.5 to 1\).*--force") as refused:
        looked_at(0.02)
    assert refused.value.reason is ReasonCode.OUT_OF_RANGE


def test_volumes_for_a_network_of_another_kind_are_compared_with_nothing() -> None:
    warnings, overridden = looked_at(0.02, network=SRResNetGenerator(factor=2, features=8, num_blocks=1))
    assert ("not of the kind" in warnings[0], overridden) == (True, "")


def test_force_says_what_it_overrides() -> None:
    warnings, overridden = looked_at(0.02, force=True)
    assert warnings[0].startswith("FORCED: the volume lies outside")
    assert overridden == "its pixels have 0.02 mm (0.5 to 1)"
    assert looked_at(0.7, force=True) == ((), "")


def test_a_volume_a_little_outside_is_said_and_not_refused() -> None:
    warnings, overridden = looked_at(0.35)
    assert overridden == ""
    assert [("unusual" in one, "0.35 mm" in one) for one in warnings] == [(True, True)]


def test_without_a_range_nothing_is_refused_and_that_is_said() -> None:
    warnings, overridden = looked_at(0.0001, known=None)
    assert overridden == ""
    assert "not known" in warnings[0]


@pytest.fixture(scope="module")
def brain() -> tuple[Tensor, IntensityMap]:
    """A slice (1, 1, 96, 96) as scanned, on which the shipped network was not trained."""
    (path,) = (SAMPLES / "nifti").glob("*.nii.gz")
    voxels = torch.from_numpy(np.asarray(nibabel.load(path).dataobj, dtype=np.float32))  # type: ignore[attr-defined]
    return voxels[:96, :96, voxels.shape[2] // 2][None, None].contiguous(), fit_intensity_map(voxels, "MR")


@pytest.mark.parametrize(("factor", "dial"), [(2, 0.0), (2, 0.5), (3, 0.5)])
def test_what_the_network_made_it_gives_back(brain: tuple[Tensor, IntensityMap], factor: int, dial: float) -> None:
    """Rounded to whole numbers, at any place in its volume; an image of a scanner it does not."""
    (source, intensity), place = brain, 4.4
    network = load_network(factor=factor, detail=dial)
    with torch.no_grad():
        scaled = intensity.forward(source)
        made = intensity.inverse(network(scaled, "MR", volume_noise(scaled[..., None]), places_mm=[place]))
    project_volume(made[0].unsqueeze(-1), source[0].unsqueeze(-1), factor)
    own, other = (given_back_db(load_network(factor=4), [x], intensity, "MR", place) for x in (made.round(), source))
    assert other < 7.0
    assert own > 12.0
