from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_fixtures import MARKER, MARKER_ID, make_series
from enhanced_fixtures import item
from odd_dicom import big_endian
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from series_by_hand import (
    DERIVATION,
    derive,
    made_by_hand,
    raw_bytes,
    read_images,
    repeated,
    rewrite,
    series_by_hand,
    write,
)

from monai_ldmsr.io.derived_attributes import ATTRIBUTE_RULES, Fate, kept_keywords
from monai_ldmsr.io.derived_series import write_derived_series

# The table


def test_every_rule_names_an_attribute_and_none_contradicts_another() -> None:
    named = [r for r in ATTRIBUTE_RULES if "," not in r.keyword]
    assert [r.keyword for r in named if tag_for_keyword(r.keyword) is None] == []
    pairs = [(r.keyword, modality) for r in ATTRIBUTE_RULES for modality in r.modalities]
    assert len(pairs) == len(set(pairs))
    assert all(r.note for r in ATTRIBUTE_RULES if r.fate is not Fate.KEPT)


@pytest.mark.parametrize(
    ("modality", "iod", "beyond"),
    [
        ("CT", "ct-image", set()),
        (
            "MR",
            "mr-image",
            {
                *("RescaleIntercept", "RescaleSlope", "RescaleType"),
                *("DiffusionBValue", "DiffusionDirectionality", "DiffusionGradientOrientation"),
            },
        ),
        ("PT", "positron-emission-tomography-image", set()),
    ],
)
def test_kept_attributes_belong_to_the_modules_of_the_iod(modality: str, iod: str, beyond: set[str]) -> None:
    standard = Path(highdicom.__file__).parent / "_standard"
    modules = json.loads((standard / "iod_module_map.json").read_text())[iod]
    attributes = json.loads((standard / "module_attribute_map.json").read_text())
    allowed = {a["keyword"] for m in modules for a in attributes[m["key"]] if not a["path"]}
    retired_but_identifying = {"OtherPatientIDs", "EthnicGroup"}
    assert kept_keywords(modality) - allowed == beyond | retired_but_identifying


def test_each_kept_attribute_reaches_the_result_and_no_other_does(tmp_path: Path) -> None:
    strangers = {"ReasonForStudy": "x", "PixelAspectRatio": [1, 2], "InstanceCreatorUID": "1.2.3"}
    kin = {"PerformedProcedureStepID": "p", "InstitutionName": "Hospital", "GantryDetectorTilt": 21.8}
    images = derive(tmp_path, **strangers, **kin)
    source = read_images(tmp_path / "source")[0]
    kept = kept_keywords("CT")
    for element in source:
        if element.keyword in kept:
            assert images[0][element.tag] == element, element.keyword
    has_rule = {r.keyword for r in ATTRIBUTE_RULES if "CT" in r.modalities and r.fate is not Fate.REMOVED}
    assert {e.keyword for e in images[0]} <= has_rule
    assert images[0].PatientName == MARKER
    assert images[0].PatientID == MARKER_ID


# Identity


def test_uids_are_version_5_uuids_stable_for_a_derivation_and_new_for_any_other(tmp_path: Path) -> None:
    series = made_by_hand(tmp_path / "source", "CT", (6, 8, 3))
    turned = dict(reversed(DERIVATION.settings.items()))
    derivations = {
        "first": DERIVATION,
        "again": DERIVATION,
        "turned": replace(DERIVATION, settings=turned),
        "seed": replace(DERIVATION, seed=8),
        "weights": replace(DERIVATION, weights_sha256="cd" * 32),
        "settings": replace(DERIVATION, settings={**DERIVATION.settings, "steps": 21}),
    }
    written = {
        name: write_derived_series(series, repeated(series.voxels), tmp_path / name, derivation)
        for name, derivation in derivations.items()
    }
    uids = {
        name: (w.series_instance_uid, *(pydicom.dcmread(p).SOPInstanceUID for p in w.paths))
        for name, w in written.items()
    }
    assert uids["first"] == uids["again"] == uids["turned"]
    assert len({uid for name in uids for uid in uids[name]}) == 4 * 4
    for uid in uids["first"]:
        assert len(uid) <= 64
        assert uid.startswith("2.25.")
        assert uuid.UUID(int=int(uid.removeprefix("2.25."))).version == 5


def test_series_description_and_number(tmp_path: Path) -> None:
    image = derive(tmp_path / "a")[0]
    assert image.SeriesDescription == "SR x2 (research) Phantom CT"
    assert image.SeriesNumber == 302
    image = derive(tmp_path / "b", SeriesDescription="d" * 64, SeriesNumber=None)[0]
    assert image.SeriesDescription == "SR x2 (research) " + "d" * 47
    assert image.SeriesNumber == 9002
    image = derive(tmp_path / "c", SeriesDescription=None, SeriesNumber=2**31 - 1)[0]
    assert image.SeriesDescription == "SR x2 (research)"
    assert image.SeriesNumber == 9002


@pytest.mark.parametrize(
    ("modality", "stored", "expected"),
    [
        ("CT", ["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "SECONDARY", "AXIAL"]),
        ("CT", ["ORIGINAL", "PRIMARY", "AXIAL", "HELIX"], ["DERIVED", "SECONDARY", "AXIAL", "HELIX"]),
        ("CT", ["DERIVED", "SECONDARY"], ["DERIVED", "SECONDARY", "AXIAL"]),
        ("MR", ["ORIGINAL", "PRIMARY", "M", "SE"], ["DERIVED", "SECONDARY", "M", "SE"]),
        ("MR", ["DERIVED", "SECONDARY"], ["DERIVED", "SECONDARY", "OTHER"]),
        ("MR", "ORIGINAL", ["DERIVED", "SECONDARY", "OTHER"]),
        ("MR", None, ["DERIVED", "SECONDARY", "OTHER"]),
        ("PT", ["ORIGINAL", "PRIMARY"], ["DERIVED", "PRIMARY"]),
    ],
)
def test_image_type(tmp_path: Path, modality: str, stored, expected: list[str]) -> None:
    assert list(derive(tmp_path, modality, ImageType=stored)[0].ImageType) == expected


def test_the_mark_stands_in_codes_and_in_words(tmp_path: Path) -> None:
    image = derive(tmp_path)[0]
    assert image.ContentQualification == "RESEARCH"
    assert image.DerivationCodeSequence[0].CodeValue == "113085"
    (equipment,) = image.ContributingEquipmentSequence
    assert equipment.Manufacturer == "monai_ldmsr"
    assert equipment.ManufacturerModelName == "ldmsr"
    assert equipment.SoftwareVersions == "0.1.0"
    assert equipment.DeviceUID.startswith("2.25.")
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    for text in (equipment.ContributionDescription, image.ImageComments, image.DerivationDescription):
        assert "Research only, not for diagnosis" in text
    for part in ("x2", "nearest neighbour", "abab", "seed 7", "guidance=1.5, sampler=ddim, steps=20"):
        assert part in image.DerivationDescription
    assert "SyntheticData" not in image


def test_history_is_appended_to(tmp_path: Path) -> None:
    def add_history(image: Dataset) -> None:
        step = item(CodeValue="113072", CodingSchemeDesignator="DCM", CodeMeaning="Multiplanar reformatting")
        machine = item(Manufacturer="Other", PurposeOfReferenceCodeSequence=step)
        machine[0].private_block(0x0029, "SECRET", create=True).add_new(1, "LO", MARKER)
        image.DerivationCodeSequence, image.ContributingEquipmentSequence = step, machine
        image.DerivationDescription, image.ImageComments, image.SyntheticData = "e" * 1000, "earlier", "YES"

    image = derive(tmp_path, change=add_history)[0]
    assert [item.CodeValue for item in image.DerivationCodeSequence] == ["113072", "113085"]
    machines = image.ContributingEquipmentSequence
    assert [item.Manufacturer for item in machines] == ["Other", "monai_ldmsr"]
    assert not [element for element in image.iterall() if element.tag.is_private]
    assert len(image.DerivationDescription) == 1024
    assert image.DerivationDescription.startswith("eee")
    assert image.DerivationDescription.endswith("Research only, not for diagnosis.")
    assert image.ImageComments.endswith("earlier")
    assert image.SyntheticData == "YES"


def test_long_settings_stay_within_the_limit(tmp_path: Path) -> None:
    derivation = replace(DERIVATION, settings={f"name_{n}": "grün" * 20 for n in range(40)})
    assert len(derive(tmp_path, derivation=derivation)[0].DerivationDescription) == 1024


# Time


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_series_time_is_new_but_kept_in_pet(tmp_path: Path, modality: str) -> None:
    images = derive(tmp_path, modality)
    today = {f"{datetime.now() - timedelta(days=d):%Y%m%d}" for d in (0, 1)}
    for image in images:
        assert image.ContentDate in today
        assert image.AcquisitionTime == "101630"
        if modality == "PT":
            assert (image.SeriesDate, image.SeriesTime) == ("20240102", "101600")
        else:
            assert image.SeriesDate in today
    assert len({image.SeriesTime for image in images}) == 1


def test_new_times_are_in_the_time_zone_of_the_source(tmp_path: Path) -> None:
    image = derive(tmp_path, TimezoneOffsetFromUTC="+1145")[0]
    found = datetime.strptime(image.ContentDate + image.ContentTime, "%Y%m%d%H%M%S.%f")
    expected = datetime.now(timezone(timedelta(hours=11, minutes=45))).replace(tzinfo=None)
    assert abs((expected - found).total_seconds()) < 60
    assert image.TimezoneOffsetFromUTC == "+1145"


# Text as the source holds it


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        (b"ISO_IR 100", "Müller^Jörg".encode("latin-1")),
        (b"ISO_IR 192", "Wang^XiaoDong=王^小东".encode()),
        (b"\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
        (b"ISO_IR 144", b"\xbb\xee\xda\x63\x65\xdc\xd1\x79\x70\xd3"),
        (None, "Müller^Jörg".encode("latin-1")),  # against the standard, and common
        (b"ISO_IR 100", b"\xff\xfe\x80 broken"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_names_keep_their_bytes(tmp_path: Path, character_set: bytes | None, name: bytes) -> None:
    placeholder = b"N" * len(name)

    def mark(image: Dataset) -> None:
        image.PatientName = image.InstitutionName = placeholder.decode()
        image.OtherPatientIDsSequence = item(PatientID=placeholder.decode(), TypeOfPatientID="TEXT")
        image.SpecificCharacterSet = "Z" * 16 if character_set else None
        if not character_set:
            del image.SpecificCharacterSet

    make_series(tmp_path / "source", "CT", (6, 8, 3))
    rewrite(tmp_path / "source", mark)
    for path in (tmp_path / "source").glob("*.dcm"):
        content = path.read_bytes().replace(placeholder, name)
        path.write_bytes(content.replace(b"Z" * 16, (character_set or b"").ljust(16)))
    (image, *_) = write(series_by_hand(tmp_path / "source"), tmp_path / "result")
    assert raw_bytes(image, "PatientName") == name.rstrip()
    assert raw_bytes(image, "InstitutionName") == name.rstrip()
    assert raw_bytes(image.OtherPatientIDsSequence[0], "PatientID") == name.rstrip()
    assert ("SpecificCharacterSet" in image) == (character_set is not None)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_numbers_survive_another_encoding_of_the_source(tmp_path: Path, syntax: str) -> None:
    make_series(tmp_path / "source", "CT", (6, 8, 3), PixelPaddingValue=5, PregnancyStatus=4)

    def add_numbers(image: Dataset) -> None:
        image.RevolutionTime = 0.5
        if syntax == ExplicitVRBigEndian:
            big_endian(image)

    rewrite(tmp_path / "source", add_numbers, syntax)
    (image, *_) = write(series_by_hand(tmp_path / "source"), tmp_path / "result")
    assert image.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert (image.PixelPaddingValue, image.PregnancyStatus, image.RevolutionTime) == (5, 4, 0.5)
    np.testing.assert_array_equal(image.pixel_array[::2, ::2], read_images(tmp_path / "source")[0].pixel_array)


# Order


@pytest.mark.parametrize(
    ("stored", "written"),
    [
        ([7, 8, 9], [1, 2, 3]),
        ([9, 8, 7], [3, 2, 1]),
        ([9, 7, 8], [1, 2, 3]),
        ([9, 9, 9], [1, 2, 3]),
        ([9, None, 7], [1, 2, 3]),
    ],
    ids=["rising", "falling", "mixed", "equal", "one empty"],
)
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_both_series_scroll_alike_in_a_viewer_that_sorts_by_instance_number(
    tmp_path: Path, modality: str, stored: list[int | None], written: list[int]
) -> None:
    images = derive(tmp_path, modality, InstanceNumber=lambda k: stored[k])
    assert [image.InstanceNumber for image in images] == written
    if modality == "PT":
        assert [image.ImageIndex for image in images] == written


def test_an_instance_number_that_is_no_number_changes_nothing(tmp_path: Path) -> None:
    def spoil(image: Dataset) -> None:
        image[0x00200013] = pydicom.DataElement(0x00200013, "LO", "x")

    assert [image.InstanceNumber for image in derive(tmp_path, "MR", spoil)] == [1, 2, 3]
