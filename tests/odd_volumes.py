"""Odd volume files as rows of the same table as :mod:`odd_inputs`."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
from dicom_fixtures import oblique_orientation
from odd_inputs import Make, OddInput, refused

SHAPE = (24, 20, 5)
SPACING_MM = (0.9, 0.7, 2.5)
_COSINES = np.array(oblique_orientation())
AFFINE = np.eye(4)
AFFINE[:3, :3] = np.stack([_COSINES[:3], -_COSINES[3:], np.cross(_COSINES[:3], _COSINES[3:])], axis=1) * SPACING_MM
AFFINE[:3, 3] = (12, -30, 7)
SHEARED = AFFINE @ np.array([[1, 0.2, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])

#: Where fields of the NIfTI-1 header begin, and their types.
_DIM, _BITPIX, _PIXDIM, _SLOPE, _SROW_X = (40, "<8h"), (70, "<2h"), (76, "<8f"), (112, "<2f"), (280, "<4f")


def values(dtype: str = "<i2") -> np.ndarray:
    i, j, k = np.indices(SHAPE)
    return (1000 + 30 * i - 20 * j + 50 * k + 300 * ((i > 15) & (j < 6))).astype(dtype)


def nifti(
    name: str = "v.nii",
    voxels: np.ndarray | None = None,
    affine: np.ndarray = AFFINE,
    qform: np.ndarray | None = None,
    codes: tuple[int, int] = (1, 1),
    patch: Callable[[bytearray], Any] | None = None,
) -> Make:
    """A NIfTI file by nibabel, then ``patch`` on its bytes (before gzip)."""

    def make(folder: Path) -> None:
        image = nib.Nifti1Image(values() if voxels is None else voxels, affine)
        image.set_sform(affine, codes[0])
        if codes[1]:
            image.set_qform(affine if qform is None else qform, codes[1], strip_shears=True)
        content = bytearray(image.to_bytes())
        if patch is not None:
            content = patch(content) or content
        (folder / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)

    return make


def field(place: tuple[int, str], *numbers: float) -> Callable[[bytearray], None]:
    return lambda content: struct.pack_into(place[1], content, place[0], *numbers)


def negative_pixdim(content: bytearray) -> None:
    struct.pack_into("<3f", content, _PIXDIM[0] + 4, *(-s for s in SPACING_MM))


def wrong_checksum(folder: Path) -> None:
    """One voxel altered in the gzip file: only its checksum tells."""
    nifti("v.nii")(folder)
    content = bytearray(gzip.compress((folder / "v.nii").read_bytes(), compresslevel=0, mtime=0))
    content[len(content) // 2] ^= 0x40
    (folder / "v.nii").unlink()
    (folder / "v.nii.gz").write_bytes(content)


def renamed(name: str, content: Callable[[bytes], bytes]) -> Make:
    def make(folder: Path) -> None:
        nifti("v.nii")(folder)
        data = content((folder / "v.nii").read_bytes())
        (folder / "v.nii").unlink()
        (folder / name).write_bytes(data)

    return make


def with_bad(value: float) -> np.ndarray:
    voxels = values("<f4")
    voxels[3, 4, 2] = value
    return voxels


def four_volumes(dtype: str = "<i2") -> np.ndarray:
    """No two volumes alike, and none in the order of its values."""
    return np.stack([values(dtype) * np.array(n, dtype) for n in (2, 4, 1, 3)], axis=3)


def with_bad_volume() -> np.ndarray:
    volumes = four_volumes("<f4")
    volumes[3, 4, 2, 1] = np.nan
    return volumes


def image_file(name: str, voxels: np.ndarray | None = None) -> Make:
    def make(folder: Path) -> None:
        image = sitk.GetImageFromArray((values() if voxels is None else voxels).T)
        lps = np.diag([-1.0, -1, 1]) @ AFFINE[:3, :3]
        image.SetOrigin([-AFFINE[0, 3], -AFFINE[1, 3], AFFINE[2, 3]])
        image.SetSpacing(SPACING_MM)
        image.SetDirection((lps / SPACING_MM).ravel().tolist())
        sitk.WriteImage(image, str(folder / name), useCompression=True)

    return make


def flipped(name: str, back: int) -> Make:
    """One bit of the compressed voxels altered."""

    def make(folder: Path) -> None:
        image_file(name)(folder)
        content = bytearray((folder / name).read_bytes())
        content[-back] ^= 0x10
        (folder / name).write_bytes(content)

    return make


def done(name: str, make: Make, warning: str = "") -> OddInput:
    return OddInput(name, make, (5,), warning=warning)


IN_4D = "The file holds 4 volumes (4D)"

VOLUME_ROWS: tuple[OddInput, ...] = (
    done("nifti clean", nifti()),
    done("nifti gzipped", nifti("v.nii.gz")),
    done("nifti no codes", nifti(codes=(0, 0)), "Neither sform nor qform"),
    done("nifti qform only", nifti(codes=(0, 1))),
    done("nifti sheared", nifti(affine=SHEARED, codes=(1, 0))),
    done("nifti slope 0.5", nifti(patch=field(_SLOPE, 0.5, -10.0))),
    done("nifti negative pixdim with sform", nifti(codes=(1, 0), patch=negative_pixdim)),
    done("nifti negative pixdim with qform", nifti(codes=(0, 1), patch=negative_pixdim), "without its sign"),
    done("nifti float", nifti(voxels=values("<f4"))),
    done("nifti one volume in 4D", nifti(voxels=values()[..., None])),
    done("nrrd clean", image_file("v.nrrd")),
    done("mha clean", image_file("v.mha")),
    refused("nifti singular", nifti(patch=field(_SROW_X, 0.0, 0.0, 0.0, 0.0)), "SINGULAR_GEOMETRY"),
    refused("nifti sform NaN", nifti(patch=field(_SROW_X, *[float("nan")] * 4)), "SINGULAR_GEOMETRY"),
    refused("nifti NaN", nifti(voxels=with_bad(np.nan)), "NOT_FINITE", 4),
    refused("nifti Inf", nifti("v.nii.gz", with_bad(np.inf)), "NOT_FINITE", 4),
    refused("nifti beyond float32", nifti(voxels=values("<f8") * 1e300), "UNSUPPORTED_PIXELS"),
    OddInput("nifti 4D", nifti(voxels=four_volumes()), (5,) * 4, warning=IN_4D),
    OddInput("nifti 4D gzipped", nifti("v.nii.gz", four_volumes(">i2")), (5,) * 4, warning=IN_4D),
    OddInput(
        "nifti 4D slope 0.5", nifti(voxels=four_volumes(), patch=field(_SLOPE, 0.5, -10.0)), (5,) * 4, warning=IN_4D
    ),
    OddInput("nifti 2D and time", nifti(voxels=four_volumes()[:, :, 2:3]), (1,) * 4, warning=IN_4D),
    OddInput(
        "nifti 4D NaN in one volume", nifti("v.nii.gz", with_bad_volume()), (5,) * 3, ("NOT_FINITE",), 8, warning=IN_4D
    ),
    refused("nifti 4D truncated", nifti(voxels=four_volumes(), patch=lambda c: c[:-100]), "UNREADABLE_FILE", 4),
    refused("nifti.gz 4D truncated", nifti("v.nii.gz", four_volumes(), patch=lambda c: c[:-100]), "UNREADABLE_FILE", 4),
    refused(
        "nifti 4D one volume too few",
        nifti(voxels=four_volumes(), patch=field(_DIM, 4, *SHAPE, 3, 1, 1, 1)),
        "UNREADABLE_FILE",
        4,
    ),
    refused("nifti 32767 volumes", nifti("v.nii.gz", patch=field(_DIM, 4, *SHAPE, 32767, 1, 1, 1)), "TOO_LARGE"),
    refused("nifti 5D", nifti(voxels=four_volumes()[..., None, :]), "UNSUPPORTED_DIMENSIONS"),
    refused("nifti complex", nifti(voxels=values("<c8")), "UNSUPPORTED_PIXELS"),
    refused("nifti truncated", nifti(patch=lambda content: content[:-100]), "UNREADABLE_FILE", 4),
    refused("nifti cut in the header", nifti(patch=lambda content: content[:200]), "UNREADABLE_FILE", 4),
    refused("nifti truncated, then gzipped", nifti("v.nii.gz", patch=lambda c: c[:-100]), "UNREADABLE_FILE", 4),
    refused(
        "nifti gzipped, then truncated", renamed("v.nii.gz", lambda c: gzip.compress(c)[:-30]), "UNREADABLE_FILE", 4
    ),
    refused("nifti gzip called .nii", renamed("v.nii", gzip.compress), "UNREADABLE_FILE", 4),
    refused("nifti plain called .nii.gz", renamed("v.nii.gz", bytes), "UNREADABLE_FILE", 4),
    refused("nifti wrong checksum", wrong_checksum, "UNREADABLE_FILE", 4),
    refused("nifti one row too few", nifti(patch=field(_DIM, 3, 23, 20, 5, 1, 1, 1, 1)), "UNREADABLE_FILE", 4),
    refused("nifti half the bits", nifti("v.nii.gz", patch=field(_BITPIX, 2, 8)), "UNREADABLE_FILE", 4),
    refused("nifti 0 bytes", renamed("v.nii", lambda content: b""), "UNREADABLE_FILE", 4),
    refused("nifti.gz 0 bytes", renamed("v.nii.gz", lambda content: b""), "UNREADABLE_FILE", 4),
    refused("nifti 32767 cubed", nifti(patch=field(_DIM, 3, 32767, 32767, 32767, 1, 1, 1, 1)), "TOO_LARGE"),
    refused(
        "nifti.gz 32767 cubed", nifti("v.nii.gz", patch=field(_DIM, 3, 32767, 32767, 32767, 1, 1, 1, 1)), "TOO_LARGE"
    ),
    refused("nifti text", renamed("v.nii", lambda content: b"text " * 99), "UNREADABLE_FILE", 4),
    refused("nrrd altered", flipped("v.nrrd", 40), "UNREADABLE_FILE", 4),
    refused("mha altered", flipped("v.mha", 40), "UNREADABLE_FILE", 4),
)
