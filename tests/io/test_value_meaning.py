"""What says what stored values mean: it comes along where it stays true, and its loss is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_fixtures import make_series
from dicom_validators import has_validators, run_dciodvfy
from enhanced_fixtures import make_enhanced
from pydicom import Dataset
from series_by_hand import derive, read_images, rewrite, series_by_hand, write

from monai_ldmsr.io import read_dicom_series
from monai_ldmsr.io.value_meaning import PRIVATE_SCALES, lost_meaning


def mapping(slope: float) -> Dataset:
    """Item of Real World Value Mapping Sequence: stored values to 1/s, linear."""
    unit, item = Dataset(), Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "/s", "UCUM", "per second"
    item.LUTExplanation, item.LUTLabel, item.MeasurementUnitsCodeSequence = "R2*", "R2", [unit]
    item.add_new("RealWorldValueFirstValueMapped", "US", 0)
    item.add_new("RealWorldValueLastValueMapped", "US", 4095)
    item.RealWorldValueIntercept, item.RealWorldValueSlope = 0.5, slope
    return item


def read_and_derive(folder: Path, modality: str, change: Callable[[Dataset], None]) -> list[Dataset]:
    """As :func:`derive`, by the package's own reader, which drops what no result needs."""
    make_series(folder / "source", modality, (6, 8, 3), InstanceNumber=lambda k: k + 1)
    rewrite(folder / "source", change)
    return write(read_dicom_series(folder / "source"), folder / "result")


@pytest.mark.parametrize(("modality", "creator", "group", "elements"), [scale[:4] for scale in PRIVATE_SCALES])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_private_scales_come_along(
    tmp_path: Path, modality: str, creator: str, group: int, elements: tuple[int, ...], syntax: str
) -> None:
    """In whichever block they stand, of each image its own, as written; and nothing private but them."""

    def add(image: Dataset) -> None:
        image.private_block(group, "SOMEBODY ELSE", create=True).add_new(0, "LO", "free text")
        block = image.private_block(group, creator, create=True)
        for element in elements:
            vr = "DS" if modality == "PT" else "FL"
            block.add_new(element, vr, 0.125 * image.InstanceNumber + element)
        block.add_new(0x55, "LO", "free text")
        image.file_meta.TransferSyntaxUID = syntax

    images = read_and_derive(tmp_path, modality, add)
    for image, source in zip(images, read_images(tmp_path / "source"), strict=True):
        found = image.private_block(group, creator)
        assert found.block_start == 0x1000
        for element in elements:
            assert float(found[element].value) == 0.125 * source.InstanceNumber + element
        assert sum(element.tag.is_private for element in image) == 1 + len(elements)


def test_philips_counts_give_the_same_uptake(tmp_path: Path) -> None:
    """Units CNTS, whose SUV is the rescaled value times the private factor: of each block as of its source pixel."""

    def philips(image: Dataset) -> None:
        image.Units = "CNTS"
        image.private_block(0x7053, "Philips PET Private Group", create=True).add_new(0, "DS", "0.000731")

    suvs = []
    for images in (read_and_derive(tmp_path, "PT", philips), read_images(tmp_path / "source")):
        factors = [float(image.private_block(0x7053, "Philips PET Private Group")[0].value) for image in images]
        values = [image.pixel_array * image.RescaleSlope + image.RescaleIntercept for image in images]
        suvs.append(np.stack(values) * np.reshape(factors, (-1, 1, 1)))
    result, source = suvs
    np.testing.assert_allclose(result[:, ::2, ::2], source, atol=1e-4 * source.max())
    assert source.max() > 0


@pytest.mark.parametrize("value", ["Doe^Jane", "", "1\\2", "nan", "1e400"])
@pytest.mark.filterwarnings("ignore")
def test_private_scales_that_are_no_number_are_left_out_and_told(tmp_path: Path, value: str) -> None:
    def damage(image: Dataset) -> None:
        block = image.private_block(0x7053, "Philips PET Private Group", create=True)
        block.add_new(0, "DS", "0.5")
        block.add_new(9, "LO", value)

    images = read_and_derive(tmp_path, "PT", damage)
    assert all(0 in image.private_block(0x7053, "Philips PET Private Group") for image in images)
    assert not any(9 in image.private_block(0x7053, "Philips PET Private Group") for image in images)
    (warning,) = lost_meaning(read_dicom_series(tmp_path / "source").headers, "PT")
    assert warning.startswith("3 private elements of 'Philips PET Private Group'")
    assert "Doe" not in warning


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_real_world_values_stay_where_the_stored_scale_stays(tmp_path: Path, modality: str) -> None:
    def add(image: Dataset) -> None:
        image.RealWorldValueMappingSequence = [mapping(0.25), mapping(4.0)]

    images = derive(tmp_path, modality, change=add)
    for image, source in zip(images, read_images(tmp_path / "source"), strict=True):
        assert [item.RealWorldValueSlope for item in image.RealWorldValueMappingSequence] == [0.25, 4.0]
        assert image.RealWorldValueMappingSequence == source.RealWorldValueMappingSequence
        real = [x.pixel_array * 0.25 + 0.5 for x in (image, source)]
        assert np.array_equal(real[0][::2, ::2], real[1])
    assert lost_meaning(series_by_hand(tmp_path / "source").headers, modality) == []


def test_real_world_values_of_pet_are_told_of(tmp_path: Path) -> None:
    """The result's slope is another, so the mapping of stored values would lie."""

    def add(image: Dataset) -> None:
        image.RealWorldValueMappingSequence = [mapping(0.25)]

    assert not any("RealWorldValueMappingSequence" in image for image in derive(tmp_path, "PT", change=add))
    (warning,) = lost_meaning(series_by_hand(tmp_path / "source").headers, "PT")
    assert warning.startswith("3 images have a (0040,9096)")


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_the_window_stays(tmp_path: Path, modality: str) -> None:
    """It acts on rescaled values (PS3.3 C.11.2.1.2), which are the source's in PET as well."""
    images = derive(tmp_path, modality, WindowCenter=[40, 300], WindowWidth=[400, 1500])
    for image in images:
        assert (list(image.WindowCenter), list(image.WindowWidth)) == ([40, 300], [400, 1500])
    if has_validators():
        of_result, of_source = (run_dciodvfy(*(tmp_path / name).glob("*.dcm")) for name in ("result", "source"))
        assert of_result <= of_source


def test_an_enhanced_object_has_its_mapping_in_a_functional_group(tmp_path: Path) -> None:
    def each(groups: Dataset, _: int, k: int) -> None:
        groups.RealWorldValueMappingSequence = [mapping(k + 1.0)]

    make_enhanced(tmp_path / "a.dcm", each=each)
    for k, image in enumerate(write(read_dicom_series(tmp_path), tmp_path / "out")):
        assert [item.RealWorldValueSlope for item in image.RealWorldValueMappingSequence] == [k + 1.0]
