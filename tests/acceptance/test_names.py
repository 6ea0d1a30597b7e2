"""Names of results: they follow from the source alone, in a run as in a batch, and never change their owner."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from batch_runs import resolve
from batch_searches import Searches, write_nifti
from dicom_fixtures import make_series, make_volumes
from odd_inputs import volumes
from odd_run import run
from odd_volumes import nifti, values

from monai_ldmsr.io import find_dicom_series, find_sources
from monai_ldmsr.io.case_names import NAMINGS
from monai_ldmsr.io.readable_names import readable

SHAPE = (8, 9, 3)


def names_in_run(source: Path, naming: str | None = None) -> dict[str, list[str]]:
    """Names of results, and reasons of what is left out."""
    found, skipped = find_sources(source, names=naming)
    return {"named": sorted(one.name for one in found), "left out": sorted(item.reason.value for item in skipped)}


def names_in_batch(source: Path, work_dir: Path, naming: str | None = None) -> dict[str, list[str]]:
    searches = Searches(source, work_dir)
    units, skipped = searches.find(names=naming)
    assert searches.find(names=naming)[0].keys() == units.keys()
    assert naming != "hash" or not re.search(r"imaging|time|detached", str(searches.memory)), "no stem is remembered"
    return {"named": sorted(units), "left out": sorted(item.reason.value for item in skipped)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Series in folders, copies, one name for two contents, 4D, and voxels in a second file."""
    folder = tmp_path / "source"
    make_series(folder / "Ärzte" / "t1", "MR", SHAPE)
    volumes("MR", {"EchoTime": 10}, {"EchoTime": 30})(folder / "Ärzte")
    make_series(folder / "n", "CT", SHAPE, SeriesInstanceUID=None)
    shutil.copytree(folder / "n", folder / "m")
    write_nifti(folder / "case_1" / "imaging.nii.gz", value=1)
    write_nifti(folder / "case_2" / "imaging.nii.gz", value=2)
    write_nifti(folder / "copy" / "imaging.nii.gz", value=1)
    write_nifti(folder / "time.nii", n_volumes=2)
    for place, value in (("p", 0), ("q", 9)):
        (folder / place).mkdir()
        image = SimpleITK.GetImageFromArray(np.full((2, 3, 4), value, np.int16))
        SimpleITK.WriteImage(image, str(folder / place / "detached.mhd"))
    return folder


@pytest.mark.parametrize("naming", [None, *NAMINGS])
def test_a_batch_names_as_a_run_does(source: Path, tmp_path: Path, naming: str | None) -> None:
    found = names_in_run(source, naming)
    assert found == names_in_batch(source, tmp_path / "w", naming)
    n_copies = 1 if naming == "path" else 2
    # 3 of DICOM with one copy, two files named alike, 4D, two detached; by path a copy has a name of its own
    assert len(found["named"]) == 4 + 2 + 2 + 2 + (2 - n_copies)
    assert found["left out"].count("DUPLICATE_SERIES") == n_copies
    assert all(re.search(r"(^|-)[0-9a-f]{12}(-vol000[12])?$", name) for name in found["named"])


def test_what_stands_before_the_digits(source: Path) -> None:
    def words(naming: str) -> set[str]:
        return {re.sub(r"-?[0-9a-f]{12}.*", "", name) for name in names_in_run(source, naming)["named"]}

    assert words("hash") == {""}
    assert words("stem") == {"t1", "Arzte", "m", "imaging", "time", "detached"}
    assert {"Arzte_t1", "case_2_imaging", "copy_imaging", "p_detached", "time"} < words("path")


def test_names_depend_on_no_other_source_and_on_no_beginning(source: Path) -> None:
    """Each source found alone, from wherever the search begins, has the name that it has among all others."""
    together = set(names_in_run(source)["named"])
    alone = set()
    for folder in source.iterdir():
        alone |= set(names_in_run(folder)["named"])
    assert alone == together
    assert names_in_run(source / "case_1" / "imaging.nii.gz")["named"][0] in together
    (source / "case_2").rename(source / "0 first")
    assert set(names_in_run(source)["named"]) == together


def test_a_result_stays_with_its_source(tmp_path: Path, bundle: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    (folder / "case_2").mkdir(parents=True)
    nifti("imaging.nii.gz", values())(folder / "case_2")
    _, [first] = run(folder, output, bundle)
    (folder / "case_1").mkdir()
    nifti("imaging.nii.gz", values() + 7)(folder / "case_1")
    code, cases = run(folder, output, bundle)
    assert code == 0
    paths = {case["case"]: next((output / case["case"]).glob("*_sr.nii.gz")) for case in cases}
    made = {name: np.asarray(nibabel.load(path).dataobj) for name, path in paths.items()}
    assert len(made) == 2
    for name, image in made.items():
        truth = values() if name == first["case"] else values() + 7
        np.testing.assert_array_equal(image, truth.repeat(2, axis=0).repeat(2, axis=1))


def test_series_without_any_uid_are_told_apart_by_their_headers(tmp_path: Path) -> None:
    """Files of two patients that are called alike, of which no identifier is left."""
    emptied = {"SeriesInstanceUID": None, "StudyInstanceUID": None, "PatientID": None}
    for place, position in (("a", 0.0), ("b", 40.0)):
        made = make_series(
            tmp_path / "s" / place, "CT", SHAPE, **emptied, positions_mm=[position + k for k in range(3)]
        )
        for path in made.paths:
            image = pydicom.dcmread(path)
            del image.SOPInstanceUID, image.file_meta.MediaStorageSOPInstanceUID
            image.save_as(path, enforce_file_format=False)
    found = names_in_run(tmp_path / "s")
    assert (len(found["named"]), found["left out"]) == (2, [])
    assert found == names_in_batch(tmp_path / "s", tmp_path / "w")
    assert {names_in_run(tmp_path / "s" / place)["named"][0] for place in "ab"} == set(found["named"])


def test_volumes_that_would_share_a_name_keep_it_in_any_order(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    volumes("MR", {"PixelSpacing": [0.701, 0.9]}, {"PixelSpacing": [0.7035, 0.9]})(folder)

    def named() -> dict[str, float]:
        found, _ = find_dicom_series(folder)
        return {series.case: float(pydicom.dcmread(series.paths[0]).PixelSpacing[0]) for series in found}

    first = named()
    assert len(first) == 2
    for path in sorted(folder.glob("0-*")):
        path.rename(path.with_name(f"9{path.name}"))
    assert named() == first


def test_the_result_of_another_source_is_never_replaced(tmp_path: Path, bundle: Path) -> None:
    """Two series of one Series Instance UID, found at different times."""
    make_volumes(tmp_path, "MR", [{}, {"ImageComments": "another"}], shape=SHAPE)
    _, [first] = run(tmp_path / "00", tmp_path / "out", bundle)
    before = {path: path.read_bytes() for path in (tmp_path / "out" / first["case"]).rglob("*") if path.is_file()}
    code, [refused] = run(tmp_path / "01", tmp_path / "out", bundle)
    assert (code, refused["case"], refused["reason"]) == (7, first["case"], "CANNOT_WRITE")
    assert "another source" in refused["message"]
    assert {path: path.read_bytes() for path in before} == before


def test_a_series_that_has_grown_replaces_its_result(tmp_path: Path, bundle: Path) -> None:
    made = make_series(tmp_path / "a", "MR", (8, 9, 4))
    last = made.paths[-1].rename(tmp_path / "later.dcm")
    _, [first] = run(tmp_path / "a", tmp_path / "out", bundle)
    last.rename(made.paths[-1])
    code, [again] = run(tmp_path / "a", tmp_path / "out", bundle)
    assert (code, again["case"]) == (0, first["case"])
    assert len(list((tmp_path / "out" / first["case"] / "dicom").iterdir())) == 4


def test_names_are_an_option(tmp_path: Path, bundle: Path) -> None:
    nifti("Who is this.nii")(tmp_path)
    output = tmp_path / "out"
    assert resolve(tmp_path / "Who is this.nii", output, bundle, "--names", "hash") == 0
    [name] = [path.name for path in output.iterdir() if path.is_dir()]
    assert re.fullmatch("[0-9a-f]{12}", name)
    for path in output.rglob("*"):
        assert "Who" not in path.name
        assert not path.is_file() or not re.search(rb"Who.is", path.read_bytes()), path.name
    assert json.loads((output / "summary.json").read_text())["series"][0]["case"] == name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Schädel (2)", "Schadel_2"),
        ("Größe ÆØÅ", "Grosse_AeOA"),
        ("Мозг Щ", "Mozg_Shch"),
        ("Εγκέφαλος", "Egkefalos"),
        ("のう", "nou"),
        ("뇌", "noe"),
        ("脳", "u8133"),
        ("\u0041\u030a", "A"),
        ("\udcff\udcfe", ""),
        ("../..", ""),
        ("-rf", "rf"),
        ("a\nb\0c", "a_b_c"),
        ("a\u202eb", "a_b"),
        ("$(touch x)", "touch_x"),
    ],
)
def test_any_text_becomes_readable_letters(text: str, told: str) -> None:
    assert readable(text) == told


def test_long_names_keep_both_ends() -> None:
    name = readable(f"sub-017_ses-03_{'x' * 300}_acq-highres_T1w")
    assert len(name) == 48
    assert name.startswith("sub-017_ses-03")
    assert name.endswith("acq-highres_T1w")


def test_copies_that_are_not_the_same_source_are_not_taken_for_one(tmp_path: Path, bundle: Path) -> None:
    """One has a JSON file beside it, one another extension: a copy may not stand for what it says more, or less."""
    for name in ("a", "b", "c"):
        (tmp_path / "in" / name).mkdir(parents=True)
        nifti("scan.nii.gz")(tmp_path / "in" / name)
    (tmp_path / "in" / "b" / "scan.json").write_text('{"Modality": "MR"}')
    (tmp_path / "in" / "c" / "scan.nii.gz").rename(tmp_path / "in" / "c" / "scan.nii")  # misnamed: it is refused
    code, cases = run(tmp_path / "in", tmp_path / "out", bundle)
    assert sorted(case["status"] for case in cases) == ["done", "done", "failed"]
    reports = [json.loads((tmp_path / "out" / c["case"] / "report.json").read_text()) for c in cases if not c["reason"]]
    assert sorted(report["modality"] for report in reports) == ["MR", "unknown"]
    assert code == 8


def test_a_copy_among_label_maps_does_not_stand_for_the_image(tmp_path: Path, bundle: Path) -> None:
    few = (values() > 1000).astype(np.uint8)
    for name in ("labelsTr", "scans"):
        (tmp_path / "in" / name).mkdir(parents=True)
        nifti("phantom.nii.gz", few)(tmp_path / "in" / name)
    _, cases = run(tmp_path / "in", tmp_path / "out", bundle)
    assert sorted(case["reason"] for case in cases) == ["", "LABEL_MAP"]
