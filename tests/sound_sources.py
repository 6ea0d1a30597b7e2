"""Small sound sources of every kind that is read, as bytes; for the fuzz test and its long run."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import SimpleITK
from dicom_fixtures import make_series
from enhanced_fixtures import make_enhanced
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

#: Files of one source by name.
Files = dict[str, bytes]

#: JPEG 2000 with its five levels takes no side below 32.
SHAPE = (8, 9, 3)


@cache
def seeds() -> dict[str, Files]:
    """Sound sources, each read and written without complaint."""
    found: dict[str, Files] = {}
    with tempfile.TemporaryDirectory() as place:
        for modality in ("CT", "MR", "PT"):
            make_series(Path(place, modality), modality, SHAPE)
            found[modality] = _files(Path(place, modality))
        syntaxes = {
            "implicit": ImplicitVRLittleEndian,
            "big": ExplicitVRBigEndian,
            "deflated": DeflatedExplicitVRLittleEndian,
            "rle": RLELossless,
            "jpegls": JPEGLSLossless,
            "jpeg2000": JPEG2000Lossless,
        }
        for name, syntax in syntaxes.items():
            shape = SHAPE if syntax != JPEG2000Lossless else (34, 33, 3)
            for path in make_series(Path(place, name), "CT", shape).paths:
                _encode(path, syntax)
            found[name] = _files(Path(place, name))
        for modality in ("CT", "MR"):
            path = Path(place, f"enhanced-{modality}", "object.dcm")
            path.parent.mkdir()
            make_enhanced(path, modality, SHAPE)
            found[path.parent.name] = _files(path.parent)
        found["bare"] = {name: data[132:] for name, data in found["MR"].items()}
        voxels = (np.arange(8 * 9 * 3).reshape(8, 9, 3) * 3 % 200).astype(np.int16)
        affine = np.diag([0.9, -0.7, 2.5, 1])
        classes = {**dict.fromkeys((".nii", ".nii.gz"), nibabel.Nifti1Image), ".hdr": nibabel.Nifti1Pair}
        classes |= dict.fromkeys((".mgh", ".mgz"), nibabel.MGHImage)
        for extension in (*classes, ".nrrd", ".mha", ".mhd", ".nhdr"):
            path = Path(place, extension[1:], f"v{extension}")
            path.parent.mkdir()
            if extension in classes:
                nibabel.save(classes[extension](voxels, affine), path)
            else:
                is_whole = extension in (".nrrd", ".mha")
                SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels.T.copy()), str(path), is_whole)
            found[extension] = _files(path.parent)
    return found


def _files(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _encode(path: Path, syntax: pydicom.uid.UID) -> None:
    dataset = pydicom.dcmread(path)
    if syntax.is_compressed and not syntax.is_deflated:
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path, overwrite=True)
    else:
        # The overlay's bytes would have to be swapped too.
        for tag in [tag for tag, _ in dataset.items() if not syntax.is_little_endian and tag.group == 0x6000]:
            del dataset[tag]
        if not syntax.is_little_endian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(path, dataset)
