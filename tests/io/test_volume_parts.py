"""What lies beside a volume file: its voxels, a JSON file that tells its modality; found, packed, and never obeyed."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from batch_runs import batch, in_this_process, outcomes
from batch_searches import Searches, prints
from dicom_fixtures import make_series
from odd_inputs import Make
from odd_run import run
from odd_volume_makers import beside, both, capitals, detached, mgh, pair, regions, with_lines, zstandard
from odd_volumes import four_volumes, image_file, nifti, renamed, values

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io import ReadLimits, find_dicom_series, find_sources, on_disk, read_volume_file
from monai_ldmsr.io.volume_file import VolumeFile
from monai_ldmsr.transforms import ReadSourced

__all__ = ["in_this_process"]

HU = np.where(values() > 1400, values() - 1000, -1024).astype(np.int16)


def volume_of(folder: Path, make: Make, modality: str | None = None, **said: Any) -> VolumeFile:
    """The volume of a file, with a JSON file beside it of what is ``said``."""
    folder.mkdir(exist_ok=True)
    make(folder)
    (path,) = (path for path in folder.iterdir() if path.suffix != ".json")
    if said:
        (folder / f"{path.name.split('.')[0]}.json").write_text(json.dumps(said))
    source: VolumeFile = ReadSourced("image", modality)({"image": path})["source"]
    return source


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_a_sidecar_tells_the_modality_as_its_user_would(tmp_path: Path, name: str) -> None:
    padded = HU.copy()
    padded[:3] = -3024
    make = nifti(name, padded)
    said = volume_of(tmp_path / "a", make, Modality="CT", PatientName="MARKER")
    stated = volume_of(tmp_path / "b", make, "CT")
    assert (said.modality, said.warnings) == (stated.modality, stated.warnings)
    assert said.padding is not None
    np.testing.assert_array_equal(said.padding, padded == -3024)
    assert "MARKER" not in repr(said)
    assert not any("--modality" in warning for warning in said.warnings)


def test_what_its_user_states_wins_and_a_contradiction_is_warned_of(tmp_path: Path) -> None:
    volume = volume_of(tmp_path / "a", nifti(), "MR", Modality="CT")
    assert volume.modality == "MR"
    assert any("stated as MR" in warning and "says CT" in warning for warning in volume.warnings)
    assert volume_of(tmp_path / "b", nifti(), "CT", Modality="CT").warnings == ()


@pytest.mark.parametrize(
    ("said", "unit"),
    [("BQML", "BQML"), ("Bq/mL", "BQML"), ("GML", "GML"), ("banana", "stored"), (["BQML"], "stored"), (7, "stored")],
)
def test_units_of_pet_are_taken_from_the_sidecar(tmp_path: Path, said: object, unit: str) -> None:
    volume = volume_of(tmp_path / "a", nifti(), Modality="PT", Units=said)
    assert (volume.modality, volume.unit) == ("PT", unit)
    assert any("'Units' in the .json file" in text for text in volume.warnings) is (unit == "stored")
    assert volume_of(tmp_path / "b", nifti(), Modality="MR", Units="BQML").unit == "stored"


@pytest.mark.parametrize(
    "make",
    [
        with_lines("v.mha", b"Modality = MET_MOD_CT"),
        with_lines("v.mha", b"0008|0060 = CT "),
        with_lines("v.nrrd", b"modality:=CT"),
        with_lines("v.nrrd", b"0008|0060:=CT"),
    ],
)
def test_a_text_header_tells_the_modality(tmp_path: Path, make: Make) -> None:
    assert volume_of(tmp_path / "a", make).modality == "CT"
    assert volume_of(tmp_path / "b", make, Modality="MR").modality == "MR", "dcm2niix knows better"


def test_hounsfield_units_are_pointed_at_and_never_assumed(tmp_path: Path) -> None:
    volume = volume_of(tmp_path / "a", nifti(voxels=HU))
    (warning,) = volume.warnings
    assert volume.modality == "unknown"
    assert "look like Hounsfield units" in warning
    assert "--modality CT" in warning
    for n, other in enumerate((values(), values() - 3000, HU + np.float32(0.3), HU)):
        warned = volume_of(tmp_path / f"{n}", nifti(voxels=other.astype("<f4"))).warnings
        assert ["Hounsfield" in text for text in warned] == [n == 3]


def test_the_command_line_says_what_the_report_warns_of(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    nifti("v.nii.gz")(tmp_path / "in")
    assert run(tmp_path / "in", tmp_path / "out", bundle)[0] == 0
    assert "warning: The modality is not known" in capsys.readouterr().out


def test_no_word_for_a_modality_reaches_any_output(
    tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for n, make in enumerate((image_file("0.nrrd"), with_lines("1.mha", b"Modality = MARKER"))):
        make(tmp_path / "in")
        beside(f"{n}.json", {"Modality": "Marker", "Units": "MARKER", "ImageType": "MARKER"})(tmp_path / "in")
    (tmp_path / "in" / "1.json").unlink()
    with_lines("2.nrrd", b"modality:=MARKER", b"0008|0060:=marker")(tmp_path / "in")
    code, cases = run(tmp_path / "in", tmp_path / "out", bundle)
    assert (code, len(cases)) == (0, 3)
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(b"marker" in text.lower() for text in (*written, "".join(capfd.readouterr()).encode()))


def test_a_sidecar_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text('{"Modality": "CT"}')
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "v.json").symlink_to(tmp_path / "out.json")
    nifti()(tmp_path / "in")
    assert read_volume_file(tmp_path / "in" / "v.nii").modality == "unknown"


def test_labels_in_a_folder_of_labels(tmp_path: Path) -> None:
    for name, reason in (("labelsTr", ReasonCode.LABEL_MAP), ("imagesTr", None)):
        (tmp_path / name).mkdir()
        nifti("case.nii.gz", regions())(tmp_path / name)
        assert reason_of(tmp_path / name / "case.nii.gz") is reason
    nifti("image.nii.gz")(tmp_path / "labelsTr")
    assert any("label maps" in text for text in read_volume_file(tmp_path / "labelsTr" / "image.nii.gz").warnings)


def reason_of(path: Path, limits: ReadLimits | None = None) -> ReasonCode | None:
    try:
        read_volume_file(path, limits or ReadLimits())
    except SourceError as error:
        return error.reason
    return None


@pytest.mark.parametrize(
    ("make", "name", "remedy"),
    [
        (nifti("v.nii"), "v.nii.gz", "Rename it to .nii."),
        (nifti("v.nii.gz"), "v.nii", "Rename it to .nii.gz."),
        (renamed("v.nii", zstandard), "v.nii.gz", "Rename it to .nii.zst."),
        (mgh("v.mgh"), "v.mgz", "Rename it to .mgh."),
        (mgh("v.mgz"), "v.mgh", "Rename it to .mgz."),
        (image_file("v.nrrd"), "v.mha", "another kind of file"),
        (nifti("v.nii"), "v.nrrd", "another kind of file"),
        (nifti("v.nii"), "v.hdr", "Rename the file to .nii."),
        (image_file("v.nrrd"), "v.nii", "another kind of file"),
    ],
)
def test_a_wrong_name_is_told_from_damage(tmp_path: Path, make: Make, name: str, remedy: str) -> None:
    make(tmp_path)
    (path,) = tmp_path.iterdir()
    path.rename(tmp_path / name)
    if name == "v.hdr":
        (tmp_path / "v.img").write_bytes(b"x")
    with pytest.raises(SourceError) as caught:
        read_volume_file(tmp_path / name)
    assert caught.value.reason is ReasonCode.UNREADABLE_FILE
    assert remedy in str(caught.value)
    assert "is cut short" not in str(caught.value)


def test_remarks_of_any_length_leave_the_voxels_as_they_are(tmp_path: Path) -> None:
    for n, squeezed in enumerate((True, False)):
        folder = tmp_path / f"a % {n}"
        folder.mkdir()
        with_lines("v.mha", b"Foo = " + b"x" * 50000, b"Name = " + b"y" * 2000)(folder)
        image_file("w.mha")(folder)
        if not squeezed:
            import SimpleITK as sitk  # noqa: N813

            sitk.WriteImage(sitk.ReadImage(str(folder / "w.mha")), str(folder / "w.mha"), False)
            content = (folder / "w.mha").read_bytes()
            (folder / "v.mha").write_bytes(content.replace(b"DimSize", b"Foo = " + b"x" * 50000 + b"\nDimSize", 1))
        long, short = read_volume_file(folder / "v.mha"), read_volume_file(folder / "w.mha")
        np.testing.assert_array_equal(long.voxels, short.voxels)
        np.testing.assert_array_equal(long.geometry.affine, short.geometry.affine)


SETS: dict[str, tuple[Make, str]] = {
    "pair": (pair(), ".img"),
    "pair in capitals": (both(pair(), capitals), ".IMG"),
    "pair gzipped": (pair("v.hdr.gz"), ".img.gz"),
    "analyze": (pair(image_class=nib.AnalyzeImage), ".img"),
    "mhd": (detached("v.mhd", "v.raw"), ".raw"),
    "nhdr": (detached("v.nhdr", "v.raw"), ".raw"),
    "sidecar": (both(nifti("v.nii.gz"), beside("v.json", {"Modality": "MR"})), ".json"),
}


@pytest.mark.parametrize("name", SETS)
def test_the_files_of_a_volume_are_one_source(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    SETS[name][0](tmp_path / "in")
    [found], skipped = find_sources(tmp_path / "in")
    path = found.source
    assert skipped == []
    for file in (tmp_path / "in").iterdir():
        if file == path or file.suffix.lower() == ".img":
            [alone], skipped = find_sources(file)
            assert (alone.name, alone.source, skipped) == (found.name, path, [])
            np.testing.assert_array_equal(ReadSourced("image")({"image": str(file)})["source"].voxels, values())
    assert len(Searches(path, tmp_path / "w").find()[0]) == 1
    np.testing.assert_array_equal(read_volume_file(path).voxels, values())
    assert name != "sidecar" or read_volume_file(path).modality == "MR"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", SETS)
def test_a_batch_takes_the_files_of_a_volume_together(tmp_path: Path, name: str, packed: bool) -> None:
    make, second = SETS[name]
    (tmp_path / "made").mkdir()
    (tmp_path / "s").mkdir()
    make(tmp_path / "made")

    def place() -> None:
        if packed:
            with zipfile.ZipFile(tmp_path / "s" / "v.zip", "w") as archive:
                for path in (tmp_path / "made").iterdir():
                    archive.write(path, f"deep/{path.name}")
        else:
            shutil.copytree(tmp_path / "made", tmp_path / "s", dirs_exist_ok=True)

    place()
    searches = Searches(tmp_path / "s", tmp_path / "w")
    units, skipped = searches.find()
    assert skipped == []
    ((unit, found),) = units.items()
    with on_disk(found.source) as source:
        volume = read_volume_file(source)
        np.testing.assert_array_equal(volume.voxels, values())
        assert name != "sidecar" or volume.modality == "MR"
    (path,) = (path for path in (tmp_path / "made").iterdir() if path.name.endswith(second))
    path.write_bytes(path.read_bytes() + b" ")
    place()
    again, _ = searches.find()
    assert unit not in again, "a name goes by all files of a volume"
    assert set(prints(again).values()).isdisjoint(prints(units).values())


@pytest.mark.parametrize("packed", [False, True])
def test_a_batch_counts_the_volumes_of_a_pair(tmp_path: Path, packed: bool) -> None:
    (tmp_path / "s").mkdir()
    pair(voxels=four_volumes())(tmp_path / "s")
    if packed:
        (tmp_path / "s").rename(tmp_path / "made")
        shutil.make_archive(str(tmp_path / "s" / "v"), "zip", tmp_path / "made")
    units, skipped = Searches(tmp_path / "s", tmp_path / "w").find()
    assert skipped == []
    assert [name.rsplit("-", 1)[1] for name in sorted(units)] == ["vol0001", "vol0002", "vol0003", "vol0004"]
    for n, name in enumerate(sorted(units)):
        with on_disk(units[name].source) as source:
            np.testing.assert_array_equal(read_volume_file(source).voxels, four_volumes()[..., n])


@pytest.mark.usefixtures("in_this_process")
def test_the_batch_command_works_on_them(tmp_path: Path, bundle: Path) -> None:
    for name in ("pair", "mhd", "sidecar"):
        folder = tmp_path / "in" / name
        folder.mkdir(parents=True)
        SETS[name][0](folder)
    (tmp_path / "other").mkdir()
    pair(voxels=values()[::-1])(tmp_path / "other")
    shutil.make_archive(str(tmp_path / "in" / "packed"), "zip", tmp_path / "other")
    mgh()(tmp_path / "in" / "pair")
    assert batch(tmp_path / "in", tmp_path / "out", bundle) == 0
    assert [status for status, _ in outcomes(tmp_path / "out").values()] == ["done"] * 5
    doubled = values().repeat(2, axis=0).repeat(2, axis=1)
    results = [np.asarray(nib.load(path).dataobj) for path in tmp_path.glob("out/*/*_sr.hdr")]
    assert len(results) == 2
    assert any(np.array_equal(result, doubled) for result in results)
    assert any(np.array_equal(result, doubled[::-1]) for result in results)


def test_an_image_that_a_header_names_for_its_voxels_is_still_found(tmp_path: Path) -> None:
    """Else a header beside a series could make a slice vanish."""
    make_series(tmp_path, "CT", (16, 18, 3))
    (tmp_path / "made" / "in").mkdir(parents=True)
    detached("v.mhd", "IM0001.dcm")(tmp_path / "made" / "in")
    shutil.move(tmp_path / "made" / "in" / "v.mhd", tmp_path / "v.mhd")
    (series,) = find_dicom_series(tmp_path)[0]
    assert len(series.paths) == 3


@pytest.mark.parametrize("kind", ["absolute", "above", "link"])
def test_a_pair_is_never_read_outside_its_folder(tmp_path: Path, kind: str) -> None:
    (tmp_path / "out").mkdir()
    pair()(tmp_path / "out")
    (tmp_path / "in").mkdir()
    shutil.copy(tmp_path / "out" / "v.hdr", tmp_path / "in" / "v.hdr")
    if kind == "link":
        (tmp_path / "in" / "v.img").symlink_to(tmp_path / "out" / "v.img")
    assert reason_of(tmp_path / "in" / "v.hdr") is ReasonCode.NOT_AN_IMAGE


LIMITED = {
    **{name: SETS[name][0] for name in ("pair", "pair gzipped", "analyze", "nhdr")},
    "mgz": mgh(),
    "mgh": mgh("v.mgh"),
}


@pytest.mark.parametrize("name", LIMITED)
def test_limits_hold_for_each_format(tmp_path: Path, name: str) -> None:
    LIMITED[name](tmp_path)
    (path,) = (path for path in tmp_path.iterdir() if path.suffix != ".raw" and ".img" not in path.name)
    assert reason_of(path) is None
    assert reason_of(path, ReadLimits(voxels=100)) is ReasonCode.TOO_LARGE
    assert reason_of(path, ReadLimits(expansion=1, expansion_from_bytes=100)) in (
        (ReasonCode.TOO_LARGE,) if path.name.endswith(("gz", ".nhdr")) else (None,)
    )
