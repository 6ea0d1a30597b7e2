"""Series Number and Series Description of results: volumes of one series differ, by what the source alone says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pydicom
import pytest
from batch_runs import resolve
from batch_searches import Searches
from dicom_fixtures import make_series, make_volumes
from odd_inputs import volumes

from monai_ldmsr import super_resolve
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.io import SeriesFiles, find_dicom_series
from monai_ldmsr.io.series_labels import VolumeTraits, checked_description, checked_number, label_volumes


def headers(output: Path) -> dict[int, pydicom.Dataset]:
    """One image of each result, by Series Number."""
    images = [pydicom.dcmread(path / "IM0001.dcm") for path in output.glob("*/dicom")]
    found = {int(image.SeriesNumber): image for image in images}
    assert len(found) == len(images), "each has a number of its own"
    assert len({image.SeriesInstanceUID for image in images}) == len({image.SOPInstanceUID for image in images})
    assert len({image.SeriesDescription for image in images}) == len(images)
    assert all(len(image.SeriesDescription) <= 64 for image in images)
    return found


VOLUMES: dict[str, tuple[str, tuple[dict[str, Any], ...], list[str]]] = {
    "echoes": ("MR", ({"EchoTime": 30}, {"EchoTime": 2.46}, {"EchoTime": 10}), ["TE 2.46 ms", "TE 10 ms", "TE 30 ms"]),
    "b-values": ("MR", ({"DiffusionBValue": 1000.0}, {"DiffusionBValue": 0.0}), ["b 0", "b 1000"]),
    "b-value missing": ("MR", ({"DiffusionBValue": 1000.0}, {}), ["b 1000", "b none"]),
    "phases": ("MR", tuple({"TemporalPositionIdentifier": n} for n in (10, 9)), ["phase 9", "phase 10"]),
    "kinds": ("MR", tuple({"ImageType": ["ORIGINAL", "PRIMARY", x, "ND"]} for x in "RM"), ["M", "R"]),
    "kernels": ("CT", ({"ConvolutionKernel": "B70f"}, {"ConvolutionKernel": "B30f"}), ["kernel B30f", "kernel B70f"]),
    "energies": ("CT", ({"KVP": 140}, {"KVP": 80}), ["80 kV", "140 kV"]),
    "times": ("PT", ({"FrameReferenceTime": 60000}, {"FrameReferenceTime": 0}), ["time 0 ms", "time 60000 ms"]),
    "moments": ("MR", ({"AcquisitionTime": "110000"}, {"AcquisitionTime": "100000"}), ["time point 1", "time point 2"]),
    "matrices": ("CT", ({"PixelSpacing": [0.7, 0.9]}, {"PixelSpacing": [0.9, 0.9]}), ["grid 1", "grid 2"]),
    "planes": (
        "MR",
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}),
        ["axial", "sagittal"],
    ),
}


@pytest.mark.parametrize("kind", VOLUMES)
def test_volumes_of_a_series_differ(tmp_path: Path, bundle: Path, kind: str) -> None:
    modality, overrides, labels = VOLUMES[kind]
    volumes(modality, *overrides)(tmp_path / "in")
    assert resolve(tmp_path / "in", tmp_path / "out", bundle) == 0
    found = headers(tmp_path / "out")
    assert sorted(found) == [302001 + n for n in range(len(overrides))]
    said = {found[number].SeriesDescription for number in sorted(found)}
    assert said == {f"SR x2 (research) {label} Phantom {modality}" for label in labels}


def test_numbers_follow_from_the_source_alone(tmp_path: Path) -> None:
    """Other names and orders of files, another series beside it: in a run as in a batch."""
    volumes("MR", *({"EchoTime": time} for time in (30, 10, 20)))(tmp_path / "in")

    def told(source: Path) -> dict[str, tuple[int, str]]:
        in_a_run = {item.case: (item.volume, item.label) for item in find_dicom_series(source)[0]}
        searches = Searches(source, tmp_path / "w")
        for units, _ in (searches.find(), searches.find()):  # the second remembers
            files = [unit.source for unit in units.values()]
            assert {one.case: (one.volume, one.label) for one in files if isinstance(one, SeriesFiles)} == in_a_run
        return in_a_run

    first = told(tmp_path / "in")
    assert sorted(first.values()) == [(1, "TE 10 ms"), (2, "TE 20 ms"), (3, "TE 30 ms")]
    for n, path in enumerate(sorted((tmp_path / "in").iterdir(), reverse=True)):
        path.rename(path.with_name(f"renamed {n}"))
    make_series(tmp_path / "in" / "0", "MR", (8, 9, 3), EchoTime=5)
    again = told(tmp_path / "in")
    assert {name: again[name] for name in first} == first
    assert sorted(again.values())[0] == (0, "")


def test_patients_under_one_series_uid_are_not_counted_together(tmp_path: Path) -> None:
    make_volumes(tmp_path, "MR", [{"PatientID": patient} for patient in "AB"])
    found, _ = find_dicom_series(tmp_path)
    assert [(item.volume, item.label) for item in found] == [(0, ""), (0, "")]


def test_a_long_description_never_hides_what_tells_volumes_apart(tmp_path: Path, bundle: Path) -> None:
    volumes("MR", *({"EchoTime": time, "SeriesDescription": "d" * 64} for time in (10, 30)))(tmp_path / "in")
    assert resolve(tmp_path / "in", tmp_path / "out", bundle, "--series-description", "x" * 64) == 0
    said = sorted(image.SeriesDescription for image in headers(tmp_path / "out").values())
    assert said == [f"{'x' * 55} TE {time} ms" for time in (10, 30)]
    assert resolve(tmp_path / "in", tmp_path / "usual", bundle) == 0
    for image in headers(tmp_path / "usual").values():
        assert re.fullmatch(r"SR x2 \(research\) TE [13]0 ms d+", image.SeriesDescription)


def test_number_and_description_can_be_set(tmp_path: Path, bundle: Path) -> None:
    volumes("MR", {"EchoTime": 10}, {"EchoTime": 30})(tmp_path / "two")
    make_series(tmp_path / "one", "CT", (8, 9, 3))
    options = ("--series-number", 9000, "--series-description", "AI SR")
    for name in ("one", "two"):
        assert resolve(tmp_path / name, tmp_path / f"out {name}", bundle, *options) == 0
    found = headers(tmp_path / "out two")
    assert {n: image.SeriesDescription for n, image in found.items()} == {
        9000: "AI SR TE 10 ms",
        9001: "AI SR TE 30 ms",
    }
    [(number, image)] = headers(tmp_path / "out one").items()
    assert (number, image.SeriesDescription) == (9000, "AI SR")
    assert image.ContentQualification == "RESEARCH"
    super_resolve(tmp_path / "one", tmp_path / "usual", device="cpu", bundle=bundle)
    [usual] = headers(tmp_path / "usual").values()
    assert usual.SOPInstanceUID != image.SOPInstanceUID, "what stands under a UID stays the same"


@pytest.mark.parametrize("text", ["", "  ", "x" * 65, "Größe", "a\\b", "$print(1)", "@seed", "a\nb", 5])
def test_descriptions_that_not_every_study_can_hold_are_refused(tmp_path: Path, text: object) -> None:
    with pytest.raises(SettingsError, match="series_description"):
        checked_description("series_description", text)
    make_series(tmp_path / "in", "CT", (8, 9, 3))
    with pytest.raises(SettingsError, match="series_description"):
        super_resolve(tmp_path / "in", tmp_path / "out", device="cpu", series_description=text)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_numbers_that_no_header_can_hold_are_refused() -> None:
    for number in (-1, 2**31):
        with pytest.raises(SettingsError, match="series_number"):
            checked_number("series_number", number)


def test_labels_are_always_different() -> None:
    """Values that look the same, values of a kind that is not known, and terms that are no words."""
    same = [VolumeTraits("", (), values={"EchoTime": text}, uid=text) for text in ("10", "10.0", "10.00001")]
    odd = [VolumeTraits("", (), values={"Unknown": text}) for text in ("a", "b" * 99, "")]
    hostile = [VolumeTraits("", (), values={"ConvolutionKernel": text}) for text in ("x" * 80, "y\n\\z", "$(rm)")]
    for traits in (same, odd, hostile):
        found = label_volumes(traits)
        assert sorted(number for number, _ in found) == [1, 2, 3]
        assert len({label for _, label in found}) == 3
        assert all(re.fullmatch(r"[A-Za-z0-9 ._+-]{1,50}", label) for _, label in found)
