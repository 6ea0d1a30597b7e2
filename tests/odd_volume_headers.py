"""Volume files by what their names, headers and JSON files say of them, as rows of the table of odd input."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from odd_inputs import Make, OddInput, refused
from odd_volume_makers import beside, both, pair, regions, with_lines
from odd_volumes import SHAPE, done, field, image_file, nifti, values


def _labels() -> list[OddInput]:
    one_hot = np.stack([regions() == n for n in (1, 2, 99)], axis=3).astype("u1")
    return [
        refused("nrrd labels of a text", with_lines("v.nrrd", b"content: ROI labels", voxels=regions()), "LABEL_MAP"),
        OddInput("nifti one mask a volume", nifti("onehot_mask.nii.gz", one_hot), (), ("LABEL_MAP",) * 3, 2),
    ]


def told(name: str, **content: object) -> Make:
    """An image with a JSON file of that content beside it."""
    return both(nifti(name), beside(f"{name.split('.')[0]}.json", content))


def _sidecars() -> list[OddInput]:
    phases = (
        ["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"],
        ["ORIGINAL\\PRIMARY\\P_SE"],
        "ORIGINAL\\PRIMARY\\P\\ND",
        "['ORIGINAL', 'PRIMARY', 'P']",
        "ORIGINAL, PRIMARY, velocity map",
        "ORIGINAL_PRIMARY_P_ND",
        "P",
    )
    magnitudes = (["ORIGINAL", "PRIMARY", "M", "P"], r"ORIGINAL\PRIMARY\M_FFE\P", r"DERIVED\PRIMARY\PROJECTION IMAGE")
    no_texts = (["CT"], 5, None)
    bad_types = (5, {"2": "P"}, [["P"]], ["ORIGINAL", 5], None)
    bad_units = (5, "KCNTS", ["BQML"], None)
    no_term = ("SECRETMOD", "CT; rm -rf /", "\u00e9" * 9, "Doe John", "x" * 9000)
    unused = "nothing that DICOM knows, so it was not used"
    return [
        *(
            refused(f"sidecar of a phase {n}", told("v.nii.gz", Modality="MR", ImageType=image_type), "PHASE_IMAGE")
            for n, image_type in enumerate(phases)
        ),
        *(
            done(f"sidecar of a magnitude {n}", told("v.nii.gz", Modality="MR", ImageType=image_type))
            for n, image_type in enumerate(magnitudes)
        ),
        refused("sidecar of a phase of no modality", told("v.nii", Modality="ABC", ImageType="P"), "PHASE_IMAGE"),
        *(done(f"sidecar image type {n}", told("v.nii", ImageType=x), unused) for n, x in enumerate(bad_types)),
        *(done(f"sidecar units {n}", told("v.nii", Modality="PT", Units=x), unused) for n, x in enumerate(bad_units)),
        *(done(f"sidecar modality {n}", told("v.nii", Modality=x), "no defined term") for n, x in enumerate(no_term)),
        *(done(f"sidecar modality of type {n}", told("v.nii", Modality=x), unused) for n, x in enumerate(no_texts)),
        done("sidecar a folder", both(nifti(), lambda folder: (folder / "v.json").mkdir())),
        done("sidecar of too long a name", nifti(f"{'v' * 251}.nii")),
        done("nrrd modality of no term", with_lines("v.nrrd", b"modality:=SECRETMOD"), "given as no defined term:"),
        done("mha modality of no term", with_lines("v.mha", b"Modality = MET_MOD_JOHN"), "given as no defined term:"),
        done("mha modality of another", with_lines("v.mha", b"Modality = MET_MOD_NM"), "given as NM, which no model"),
    ]


def sizes(name: str = "v.nii", axes: str = "ijk", codes: tuple[int, int] = (0, 1), voxels: Any = None) -> Make:
    """A voxel size of 0 along axes."""

    def patch(content: bytearray) -> None:
        for axis in axes:
            struct.pack_into("<f", content, 80 + 4 * "ijk".index(axis), 0.0)

    return nifti(name, voxels, codes=codes, patch=patch)


def _places() -> list[OddInput]:
    return [
        *(refused(f"nifti size 0 of {n}, qform only", sizes(axes=n), "NO_GEOMETRY") for n in ("i", "j", "k", "ij")),
        refused("nifti size 0 and no place", sizes("v.nii.gz", codes=(0, 0)), "NO_GEOMETRY"),
        refused("nifti size NaN, qform only", nifti(codes=(0, 1), patch=field((80, "<f"), math.nan)), "NO_GEOMETRY"),
        done("nifti size 0 beside sform", sizes(codes=(1, 0))),
        done("nifti size 0 beside sform and qform", sizes(codes=(1, 1)), "the result has sform alone"),
        OddInput("nifti size 0 of one slice", sizes(axes="k", voxels=values()[:, :, :1]), (1,)),
        refused("analyze of size 0", both(pair(image_class=nib.AnalyzeImage), flat), "NO_GEOMETRY"),
    ]


def flat(folder: Path) -> None:
    """A pair whose header gives a voxel size of 0."""
    content = bytearray((folder / "v.hdr").read_bytes())
    struct.pack_into("<f", content, 84, 0.0)
    (folder / "v.hdr").write_bytes(content)


def kinds(*of: str, shape: tuple[int, ...] = SHAPE) -> Make:
    """A NRRD file that says what its axes are."""
    head = f"NRRD0005\ntype: short\ndimension: {len(shape)}\nsizes: {' '.join(map(str, shape))}\n"
    head += f"kinds: {' '.join(of)}\nendian: little\nencoding: raw\n"

    def make(folder: Path) -> None:
        voxels = np.random.default_rng(0).integers(0, 999, shape, "<i2")
        (folder / "v.nrrd").write_bytes(head.encode() + b"\n" + voxels.tobytes())

    return make


def in_space(*of: str) -> Make:
    """Likewise, with a place in space for each of three axes."""

    def make(folder: Path) -> None:
        image_file("v.nrrd")(folder)
        content = (folder / "v.nrrd").read_bytes()
        said = f"kinds: {' '.join(of)}".encode()
        (folder / "v.nrrd").write_bytes(content.replace(b"kinds: domain domain domain", said))

    return make


def _kinds() -> list[OddInput]:
    reasons = {
        **dict.fromkeys(("list", "time"), "UNSUPPORTED_DIMENSIONS"),
        **dict.fromkeys(("complex", "RGB-color"), "UNSUPPORTED_PIXELS"),
        **dict.fromkeys(("vector", "point", "3D-symmetric-matrix", "covariant-vector"), "NO_GREY_VALUES"),
    }
    d = "domain"
    return [
        *(refused(f"nrrd axis of kind {kind}", in_space(d, d, kind), code) for kind, code in reasons.items()),
        refused("nrrd first axis a list", in_space("list", d, d), "UNSUPPORTED_DIMENSIONS"),
        refused("nrrd channels", kinds("vector", d, d, d, shape=(3, *SHAPE)), "UNSUPPORTED_PIXELS"),
        refused("nrrd vectors", kinds("covariant-vector", d, d, d, shape=(3, *SHAPE)), "NO_GREY_VALUES"),
        refused("nrrd colours", kinds("RGB-color", d, d, d, shape=(3, *SHAPE)), "UNSUPPORTED_PIXELS"),
        refused("nrrd list of volumes", kinds(d, d, d, "list", shape=(*SHAPE, 3)), "UNSUPPORTED_DIMENSIONS"),
        refused("nrrd kind of no standard", in_space(d, d, "foo"), "UNREADABLE_FILE", 4),
        done("nrrd kinds of space", in_space("space", "space", "space")),
        done("nrrd kinds not known", in_space("???", "none", "???")),
    ]


VOLUME_HEADER_ROWS = (*_labels(), *_sidecars(), *_places(), *_kinds())
