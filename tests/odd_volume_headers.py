"""Volume files by what their names, headers and JSON files say of them, as rows of the table of odd input."""

from __future__ import annotations

import numpy as np
from odd_inputs import Make, OddInput, refused
from odd_volume_kinds import beside, both, regions, with_lines
from odd_volumes import SHAPE, done, nifti, values


def sparse(n: int = 1) -> np.ndarray:
    """A mask of lesions of one voxel each, with up to ``n`` labels."""
    i, j, _ = np.indices(SHAPE)
    return ((i % 6 == 5) & (j % 6 == 5)) * (1 + i // 6 % n).astype("u1")


def many(dtype: str) -> np.ndarray:
    """More regions than an image of few grey levels has."""
    i, j, _ = np.indices(SHAPE)
    return (i // 3 * 7 + j // 3).astype(dtype)


def _labels() -> list[OddInput]:
    needle = np.zeros(SHAPE, "u1")
    needle[:, 10], needle[:, 15] = 1, 2
    one_hot = np.stack([regions() == n for n in (1, 2, 99)], axis=3).astype("u1")
    outside = np.where(regions() == 0, -1000, regions())
    grey, alike = "its values are not", "whole numbers that fill regions"
    return [
        refused("nifti sparse mask named so", nifti("microbleeds_mask.nii.gz", sparse()), "LABEL_MAP"),
        refused("nifti seeds named so", nifti("seeds_label.nii.gz", sparse(3)), "LABEL_MAP"),
        refused("nifti lines named as labels", nifti("needle_label.nii.gz", needle), "LABEL_MAP"),
        refused("nifti empty labels named so", nifti("empty_dseg.nii.gz", needle * 0), "LABEL_MAP"),
        refused("nifti full mask named so", nifti("full_mask.nii.gz", needle * 0 + 1), "LABEL_MAP"),
        refused("nifti labels with -1000 around", nifti("x_dseg.nii.gz", outside), "LABEL_MAP"),
        refused("nifti many labels named so", nifti("x_dseg.nii.gz", many("<i2")), "LABEL_MAP"),
        refused("nrrd labels of a text", with_lines("v.nrrd", b"content: ROI labels", voxels=regions()), "LABEL_MAP"),
        OddInput("nifti one mask a volume", nifti("onehot_mask.nii.gz", one_hot), (), ("LABEL_MAP",) * 3, 2),
        done("nifti image named as a mask", nifti("v_mask.nii.gz", values("<f4")), grey),
        done("nifti labels by values, as floats", nifti("liver_gt.nii.gz", regions(dtype="<f4")), alike),
        done("nifti many labels by values", nifti("regions.nii.gz", many("u1")), alike),
        done("nifti sparse mask by values", nifti("lesions.nii.gz", sparse()), alike),
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


VOLUME_HEADER_ROWS = (*_labels(), *_sidecars())
