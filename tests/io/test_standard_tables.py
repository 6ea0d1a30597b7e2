"""Attributes of type 1 and 2 of the derived images against the standard's own tables, as highdicom carries them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from dicom_fixtures import make_series
from dicom_validators import has_validators, run_dciodvfy
from odd_conformance import check_by_validators
from pydicom import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage
from series_by_hand import derive, read_images

from monai_ldmsr.io.derived_attributes import ATTRIBUTE_RULES, AttributeRule, Fate
from monai_ldmsr.io.dicom_header import text

CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
IODS, MODULES, ATTRIBUTES = (
    json.loads((files("highdicom") / "_standard" / f"{name}.json").read_text())
    for name in ("sop_class_iod_map", "iod_module_map", "module_attribute_map")
)

#: Not part of a derived image.
NO_PART = {"overlay-plane"}

POSITIONS = {
    "HFS": ("headfirst", "supine"), "HFP": ("headfirst", "prone"), "FFDL": ("feet-first", "left lateral decubitus"),
    "HFDR": ("headfirst", "right lateral decubitus"), "FFS": ("feet-first", "supine"),
}  # fmt: skip


def modules(modality: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Usage and attributes of each module of the class that a derived image may have."""
    for module in MODULES[IODS[CLASSES[modality]]]:
        if module["key"] not in NO_PART:
            yield module["usage"], ATTRIBUTES[module["key"]]


def rules(modality: str) -> dict[str, AttributeRule]:
    return {rule.keyword: rule for rule in ATTRIBUTE_RULES if modality in rule.modalities}


@pytest.mark.parametrize("modality", CLASSES)
def test_every_attribute_of_type_1_and_2_has_a_rule(modality: str) -> None:
    table, found = rules(modality), set()
    for _, attributes in modules(modality):
        for attribute in attributes:
            keyword, kind = attribute["keyword"], attribute["type"]
            if attribute["path"] or kind not in ("1", "2"):
                continue
            rule = table[keyword]
            assert rule.fate is not Fate.REMOVED, keyword
            if kind == "2" and rule.fate is Fate.KEPT:
                assert rule.type_2, keyword
                found.add(keyword)
    assert {keyword for keyword, rule in table.items() if rule.type_2} == found


@pytest.mark.parametrize("modality", CLASSES)
def test_what_the_class_wants_is_there_whatever_the_source_lacks(tmp_path: Path, modality: str) -> None:
    """All of type 2 taken out of a source: the result has them, empty; and nothing else is wanting in the result."""
    wanted = {
        a["keyword"]: a["type"]
        for usage, attributes in modules(modality)
        for a in attributes
        if usage == "M" and not a["path"] and a["type"] in ("1", "2")
    }
    needed_to_read = {"ImagePositionPatient", "PixelSpacing", "Units", "SeriesDate", "SeriesTime"}

    def strip(image: Dataset) -> None:
        for keyword, kind in wanted.items():
            if kind == "2" and keyword in image and keyword not in needed_to_read:
                delattr(image, keyword)
        if "PatientPosition" in image:
            del image.PatientPosition

    images = derive(tmp_path, modality, change=strip)
    for image in images:
        assert [keyword for keyword in wanted if keyword not in image] == []
    if has_validators():
        found = [run_dciodvfy(*(tmp_path / x).glob("*.dcm")) for x in ("result", "source")]
        assert found[0] <= found[1]
        assert not [line for line in found[0] if "Type 2 Required" in line]


@pytest.mark.parametrize("modality", CLASSES)
def test_new_sequences_hold_what_the_standard_wants(tmp_path: Path, modality: str) -> None:
    (image, *_) = derive(tmp_path, modality)
    for sequence in ("SourceImageSequence", "DerivationCodeSequence", "ContributingEquipmentSequence"):
        for path, item in items(image[sequence].value[-1], [sequence]):
            wanted = {
                attribute["keyword"]
                for _, attributes in modules(modality)
                for attribute in attributes
                if attribute["path"] == path and attribute["type"] in ("1", "2")
            }
            assert wanted or path[-1] == "PurposeOfReferenceCodeSequence" or path == ["DerivationCodeSequence"], path
            assert [keyword for keyword in wanted if keyword not in item] == []


def items(item: Dataset, path: list[str]) -> Iterator[tuple[list[str], Dataset]]:
    yield path, item
    for element in item:
        if element.VR == "SQ":
            for inner in element.value:
                yield from items(inner, [*path, element.keyword])


@pytest.mark.parametrize(
    ("modality", "given", "wanted"),
    [
        ("CT", {"ContrastBolusRoute": "IV"}, "ContrastBolusAgent"),
        ("MR", {"ClinicalTrialSponsorName": "S", "ClinicalTrialProtocolID": "P"}, "ClinicalTrialProtocolName"),
        ("PT", {"ClinicalTrialSeriesID": "1"}, "ClinicalTrialCoordinatingCenterName"),
        ("PT", {"HeartRate": 70}, "BeatRejectionFlag"),
    ],
)
def test_optional_modules_are_whole_or_not_there(
    tmp_path: Path, modality: str, given: dict[str, Any], wanted: str
) -> None:
    without = derive(tmp_path / "without", modality, **dict.fromkeys(given))
    assert all(wanted not in image for image in without)
    images = derive(tmp_path / "with", modality, **given)
    assert all(image[wanted].is_empty for image in images)


@pytest.mark.parametrize("position", [*POSITIONS, "LFP", "", None])
def test_pet_says_in_codes_what_patient_position_said(tmp_path: Path, position: str | None) -> None:
    gone = dict.fromkeys(("PatientOrientationCodeSequence", "PatientGantryRelationshipCodeSequence"))
    for image in derive(tmp_path, "PT", PatientPosition=position, **gone):
        if position in POSITIONS:
            (gantry,), (lying,) = image.PatientGantryRelationshipCodeSequence, image.PatientOrientationCodeSequence
            (modifier,) = lying.PatientOrientationModifierCodeSequence
            assert (lying.CodeMeaning, gantry.CodeMeaning, modifier.CodeMeaning) == ("recumbent", *POSITIONS[position])
            assert "PatientPosition" not in image
        elif position:
            assert image.PatientPosition == position
            assert "PatientOrientationCodeSequence" not in image
        else:
            assert list(image.PatientOrientationCodeSequence) == []
    check_by_validators(*(sorted((tmp_path / x).glob("*.dcm")) for x in ("result", "source")))


def test_codes_of_the_source_stay(tmp_path: Path) -> None:
    make_series(tmp_path / "made", "PT", (6, 8, 2))
    (source, *_) = read_images(tmp_path / "made")
    images = derive(tmp_path, "PT", PatientPosition="FFP")
    for image in images:
        assert image.PatientOrientationCodeSequence == source.PatientOrientationCodeSequence
        assert text(image, "PatientPosition") == ""
