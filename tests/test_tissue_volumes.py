"""The downstream benchmark: which volumes it takes, and how it compares labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tissue_volumes import compare, t1_brains


def test_dice_and_bias_are_those_of_the_labels() -> None:
    reference = np.zeros((10, 10, 10), np.uint8)
    reference[2:8, 2:8, 2:8] = 2
    reference[4:6, 4:6, 4:6] = 3
    labels = reference.copy()
    labels[2] = 0
    found = compare(labels, reference)
    assert found["white matter dice"] == 1
    assert found["white matter bias, %"] == 0
    assert found["brain bias, %"] == pytest.approx(-100 / 6)
    assert found["brain dice"] == pytest.approx(2 * 180 / (180 + 216))
    assert found["grey matter dice"] == pytest.approx(2 * 172 / (172 + 208))


def test_only_near_isotropic_t1_brains_of_the_split_are_taken(tmp_path: Path) -> None:
    lines = ["file,modality,body,split,spacing_mm", "a_T1.nii.gz,MR,brain (face visible),test,1.0x1.0x1.1"]
    lines += [
        "b_T1.nii.gz,MR,brain,test,1.0x1.0x3.0",
        "c_T2.nii.gz,MR,brain,test,1x1x1",
        "d_T1.nii.gz,MR,knee,test,1x1x1",
    ]
    lines += ["e_T1.nii.gz,MR,brain,train,1x1x1"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    assert t1_brains(tmp_path, "test") == [tmp_path / "a_T1.nii.gz"]
