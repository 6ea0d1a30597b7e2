"""Who is a patient, by path, header or list; and the list of splits that a training writes and takes."""

from __future__ import annotations

import csv
import logging
import shutil
from pathlib import Path, PurePath

import pytest
from dicom_fixtures import make_series
from volume_files import textured

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.io.limits import DEFAULT_LIMITS
from monai_ldmsr.training.discovery import assigned_entries, find_entries
from monai_ldmsr.training.patients import is_label, patients_by_path
from monai_ldmsr.training.split_file import write_split

#: Volumes of a dataset by patient, as a person reads their names.
LAYOUTS = {
    "flat": [["patient01_study1", "patient01_study2_T1W", "Patient-1 later"], ["patient02_study1"]],
    "BIDS": [["sub-01_ses-1_T1w", "sub-01_ses-2_T1w"], ["sub-02_ses-1_T1w"], ["sub-A7_T1w"]],
    "BIDS tree": [
        ["sub-01/ses-1/anat/sub-01_ses-1_T1w", "sub-01/ses-2/anat/sub-01_ses-2_T1w", "derivatives/x/sub-01/sub-01_T1w"],
        ["sub-02/ses-1/anat/sub-02_ses-1_T1w"],
    ],
    "nnU-Net": [
        ["imagesTr/la_003_0000", "imagesTr/la_003_0001"],
        ["imagesTr/la_004_0000"],
        ["imagesTs/la_010_0000"],
    ],
    "nnU-Net dataset": [["Dataset007_P/imagesTr/p_00_0000", "Dataset007_P/imagesTr/p_00_0001"],
                        ["Dataset007_P/imagesTr/p_01_0000"]],
    "two datasets": [["Dataset1_A/imagesTr/A_001_0000"], ["Dataset2_B/imagesTr/B_001_0000"]],
    "folders": [["smith/t1", "smith/later/t2", "smith_post/t1"], ["jones/t1"]],
    "one folder around all": [["all/smith/t1"], ["all/jones/t1"]],
    "numbered folders": [["BraTS2021_00001/BraTS2021_00001_t1", "BraTS2021_00001/x"], ["BraTS2021_00002/y"]],
    "splits and visits": [["train/UP-00001_11_T1", "val/UP-00001_21_T1"], ["test/UP-00002_11_T1"]],
    "sequences": [["IXI-T1/IXI002-Guys-0828-T1", "IXI-T2/IXI002-Guys-0828-T2"], ["IXI-T1/IXI012-HH-1211-T1"]],
    "unknown folders": [["groupx/HH123", "groupy/HH123"], ["groupz/HH124"]],
    "dates": [["smith_20200101", "smith_2021-02-03", "smith"], ["jones_20200101"]],
    "counts": [["smith_1", "smith_2"], ["jones_1"], ["miller_1"]],
    "numbers": [["volume-0"], ["volume-1"], ["volume-2"]],
    "sites": [["TCGA-02-0001"], ["TCGA-02-0002"], ["TCGA-03-0002"]],
    # In doubt one patient.
    "letters": [["HH123_a", "HH123_b", "HH123_c"]],
    "counted": [["HH123_1", "HH123_2", "HH123_3"]],
    "scans": [["scan1", "scan2", "scan3"]],
    "words": [["smith_pre", "smith_post", "smith_late"]],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_patients_are_as_a_person_reads_them(layout: str) -> None:
    paths = [(PurePath(f"{name}.nii.gz"), n) for n, names in enumerate(LAYOUTS[layout]) for name in names]
    found = patients_by_path([(path, True) for path, _ in paths])
    pairs = {(n, one.key) for (_, n), one in zip(paths, found, strict=True)}
    assert len(pairs) == len({key for _, key in pairs}) == len(LAYOUTS[layout]), sorted(pairs)
    backwards = patients_by_path([(path, True) for path, _ in reversed(paths)])
    assert backwards[::-1] == found


def test_labels_are_no_images() -> None:
    labels = (
        "labelsTr/la_003.nii.gz",
        "x/masks/a.nii",
        "sub-01/anat/sub-01_T1w_dseg.nii.gz",
        "a_seg.nii.gz",
        "mask.nii",
    )
    assert all(is_label(PurePath(path)) for path in labels)
    assert not any(
        is_label(PurePath(path)) for path in ("imagesTr/la_003_0000.nii.gz", "label_study/a.nii", "seg01.nii")
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four patients with two volumes each in nnU-Net's folders, their labels, and two DICOM patients."""
    data = tmp_path / "data"
    for n in range(4):
        for channel in range(2):
            textured(data / "imagesTr" / f"la_{n:03d}_{channel:04d}.nii.gz", (40, 40, 1), n)
        textured(data / "labelsTr" / f"la_{n:03d}.nii.gz", (40, 40, 1), n)
    for n in range(2):
        make_series(data / "dicom" / f"visit{n}", "MR", (32, 32, 2))
    make_series(data / "dicom" / "HH777", "MR", (32, 32, 2), PatientID="")
    return data


def test_a_folder_is_split_by_patient_and_its_list_says_so(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    entries = assigned_entries(folder, DEFAULT_LIMITS)
    assert "4 files are left out: folder or name says labels" in caplog.text
    assert sorted({entry.place for entry in entries if "Tr" not in entry.place}) == [
        "dicom/HH777", "dicom/visit0", "dicom/visit1",
    ]  # fmt: skip
    assert len({entry.subject for entry in entries}) == 5, "beside one DICOM patient a series without ID is that one's"
    file = folder.parent / "out" / "split.csv"
    write_split(file, entries)
    assert file.stat().st_mode & 0o077 == 0
    assert assigned_entries(folder, DEFAULT_LIMITS, file) == entries
    shutil.copy(file, folder / "manifest.csv")
    as_manifest = {entry.place: entry.split for entry in find_entries(folder, "all")}
    assert as_manifest == {entry.place: entry.split for entry in entries}


def edited(file: Path, change: str, to: str) -> Path:
    copy = file.with_name("mine.csv")
    text = file.read_text()
    assert change in text
    copy.write_text(text.replace(change, to, 1))
    return copy


def test_an_edited_list_is_taken_or_refused(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = folder.parent / "split.csv"
    write_split(file, assigned_entries(folder, DEFAULT_LIMITS))
    with file.open() as stream:
        (row,) = [row for row in csv.DictReader(stream) if row["file"] == "imagesTr/la_002_0001.nii.gz"]
    line = ",".join(row.values())
    other = "test" if row["split"] == "train" else "train"
    moved = line.replace(f",{row['split']},", f",{other},")
    with pytest.raises(SettingsError, match=r"1 of 5 subjects of mine\.csv are in more than one split"):
        find_entries(folder, "train", split_file=edited(file, line, moved))
    with pytest.raises(SettingsError, match=r"mine\.csv names 'la_009\.nii', which is no volume of the dataset folder"):
        find_entries(folder, "train", split_file=edited(file, row["file"], "imagesTr/la_009.nii"))
    with pytest.raises(SettingsError, match="names 1 files twice"):
        find_entries(folder, "train", split_file=edited(file, line, f"{line}\n{line}"))
    with pytest.raises(SettingsError, match="has split 'dev'"):
        find_entries(folder, "train", split_file=edited(file, line, line.replace(row["split"], "dev")))
    with pytest.raises(SettingsError, match="no column split"):
        find_entries(folder, "train", split_file=edited(file, ",split,", ",part,"))
    with pytest.raises(SettingsError, match=r"'none\.csv' does not exist"):
        find_entries(folder, "train", split_file=folder / "none.csv")
    # A person may know better whose a volume is; what the list leaves out is named and left out.
    own = moved.replace(f",{row['subject']},", ",somebody,")
    assert {e.place for e in find_entries(folder, other, split_file=edited(file, line, own))} >= {row["file"]}
    with caplog.at_level(logging.WARNING):
        left = find_entries(folder, "all", split_file=edited(file, f"{line}\n", ""))
    assert "'la_002_0001.nii.gz' is not in mine.csv and is left out" in caplog.text
    assert row["file"] not in {entry.place for entry in left}
