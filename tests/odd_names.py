"""Odd names and identities as rows of the same table as :mod:`odd_inputs`."""

from __future__ import annotations

import shutil
from pathlib import Path

from dicom_fixtures import make_series
from odd_inputs import SHAPE, OddInput, series, volumes
from odd_volumes import nifti


def without_uid_twice(folder: Path) -> None:
    """The same series in two folders, and nothing that holds the copies together."""
    make_series(folder / "a", "CT", SHAPE, SeriesInstanceUID=None)
    shutil.copytree(folder / "a", folder / "b")


def without_uid_altered(folder: Path) -> None:
    """Two series of the same SOP Instance UIDs in two folders: one of them is wrong."""
    without_uid_twice(folder)
    for path in (folder / "b").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def list_beside(folder: Path) -> None:
    """A list of sources that is no source itself: it lies in a folder."""
    series("MR")(folder)
    (folder / "list.txt").write_text("\n".join(path.name for path in folder.iterdir()))


NAME_ROWS = (
    OddInput("CT copy without Series Instance UID", without_uid_twice, (5,), ("DUPLICATE_SERIES",)),
    OddInput(
        "CT two contents without Series Instance UID",
        without_uid_altered,
        reasons=("DUPLICATE_UID_CONFLICT",),
        exit_code=2,
    ),
    OddInput("MR beside a list of it", list_beside, (5,), ("NOT_AN_IMAGE",)),
    OddInput("nifti named in three scripts", nifti("Schädel 脳 Мозг.nii"), (5,)),
    OddInput("nifti named by signs alone", nifti("??.nii"), (5,)),
    OddInput("nifti of a long name", nifti(f"sub-{'0' * 200}_T1w.nii.gz"), (5,)),
    OddInput(
        "MR volumes told apart by spacings alike but for rounding",
        volumes("MR", {"PixelSpacing": [0.701, 0.901]}, {"PixelSpacing": [0.7035, 0.901]}),
        (5, 5),
        warning="several grids",
    ),
)
