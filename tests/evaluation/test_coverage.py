"""Calibration by patients, and what it promised of others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from odd_run import NearestNeighbour, nearest_bundle
from torch import Tensor

from monai_ldmsr.cli import main
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.evaluation.calibrating import calibration_of, coverage_figures
from monai_ldmsr.evaluation.coverage import MULTIPLIERS, THRESHOLDS, TOLERANCES, CoverageCounts, CoverageMeasurement
from monai_ldmsr.evaluation.progress import EvaluationSteps
from monai_ldmsr.geometry import Factors
from monai_ldmsr.networks import upsample_bicubic
from monai_ldmsr.training.volumes import TrainingVolume
from monai_ldmsr.transforms.intensity import IntensityMap
from monai_ldmsr.uncertainty import load_calibration


class Bicubic:
    """A network that expects the same error everywhere."""

    factors = Factors(2, 2)

    def __call__(self, slices: Tensor, modality: str | None = None, noise: float | None = None) -> Tensor:
        return upsample_bicubic(slices, 2)

    def describe(self, modality: str | None = None, noise: float | None = None) -> Mapping[str, Any]:
        return {}

    def estimates(
        self,
        slices: Tensor,
        modality: str | None = None,
        noise: float | None = None,
        dials: Sequence[float] | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        image = self(slices)
        return [(image.clone(), torch.full_like(image, 0.02)) for _ in dials or (0.0,)]


def patient(n: int, modality: str = "MR") -> TrainingVolume:
    """Noise, more of it in some patients than in others."""
    random = np.random.default_rng(n)
    image = (500 + random.normal(0, 10 * np.exp(random.normal(0, 0.3)), (48, 40))).astype(np.float32)
    return TrainingVolume(
        f"{modality}{n}", modality, f"p{n}", (image,), IntensityMap((0.0, 1000.0), (-1.0, 1.0)), False
    )


def measured(volumes: Sequence[TrainingVolume]) -> Any:
    measurement = CoverageMeasurement(volumes, Bicubic(), 2, 1, noise_grey=(0.0,))
    return {2: measurement.run(EvaluationSteps(volumes, measurement.n_pixels(), None))}


def test_intervals_hold_on_patients_that_were_never_used() -> None:
    calibration = calibration_of(measured([patient(n) for n in range(20)]), "ab", {}, {})
    found = coverage_figures(measured([patient(n) for n in range(100, 140)]), calibration)["MR"]
    for figures in found.values():
        assert 0.87 <= figures["foreground"] <= 0.95
        assert figures["patients"] == 40
        assert figures["least"] <= figures["foreground"]
    # Of trusted voxels, few err by more than the tolerance, at every one that trusts any.
    counts = measured([patient(n) for n in range(100, 140)])[2]
    group = calibration.group("MR")
    trusts = 0
    for n, tolerance in enumerate(TOLERANCES):
        limit = group.trusted_error(2, tolerance)
        assert limit is not None
        if limit:
            place = int(np.searchsorted(THRESHOLDS, limit / tolerance * (1 - 1e-6)))
            wrong = [one.share_wrong(n)[place] for (_, _, dial), one in counts.items() if dial == 0.0]
            assert np.mean(wrong) <= 0.12
            trusts += 1
    assert trusts >= 2


def test_modalities_with_enough_patients_have_a_group_and_others_are_pooled() -> None:
    volumes = [*(patient(n, "CT") for n in range(9)), *(patient(n, "MR") for n in range(20, 26))]
    few = calibration_of(measured(volumes), "ab", {}, {})
    assert sorted(few.groups) == ["CT", "pooled"]
    assert few.group("MR").modalities == ["CT", "MR"]  # six are too few
    assert few.group("MR").n_patients == 15
    more = calibration_of(measured([*volumes, *(patient(n, "PT") for n in range(30, 34))]), "ab", {}, {})
    assert more.group("PT").modalities == ["MR", "PT"]
    assert more.group("CT").n_patients == 9
    with pytest.raises(SettingsError, match=r"measured: 8\."):
        calibration_of(measured([patient(n) for n in range(8)]), "ab", {}, {})
    again = calibration_of(measured(volumes), "ab", {}, {})
    assert again.digest == few.digest


def test_a_patient_who_errs_more_makes_intervals_wider() -> None:
    volumes = [patient(n) for n in range(15)]
    wild = replace(patient(99), slices=(patient(99).slices[0] * 1.0 + np.float32(300) * (patient(98).slices[0] > 500),))
    calm, wilder = (calibration_of(measured(some), "ab", {}, {}) for some in (volumes, [*volumes, wild]))
    assert (wilder.group("MR").multiplier(2, 0.0) or 0) > (calm.group("MR").multiplier(2, 0.0) or 0)


def test_counts_are_those_of_the_voxels() -> None:
    error, expected = torch.rand(1, 1, 50, 60), torch.rand(1, 1, 50, 60) * 0.5 + 0.1
    body, edges = torch.rand(1, 1, 50, 60) > 0.3, torch.rand(1, 1, 50, 60) > 0.9
    counts = CoverageCounts()
    counts.add(error, expected, 10.0, [body, edges, torch.ones_like(body)])
    for place in (100, 300, 400):
        for name, mask in {"foreground": body, "edges": edges, "all": torch.ones_like(body)}.items():
            outside = (error > MULTIPLIERS[place] * expected)[mask].float().mean()
            assert counts.outside(name)[place] == pytest.approx(float(outside), abs=1e-6)
    for n, place in ((5, 60), (6, 80), (7, 30)):
        trusted = (expected <= THRESHOLDS[place] * TOLERANCES[n] * 10.0) & body
        wrong = trusted & (error > TOLERANCES[n] * 10.0)
        assert counts.trusted[n, place] == int(trusted.sum())
        assert counts.wrong[n, place] == int(wrong.sum())


class ErringNeighbour(NearestNeighbour):
    """Repeats pixels, and expects the same error everywhere."""

    def estimates(  # type: ignore[override]
        self,
        slices: Tensor,
        modality: str | None = None,
        noise: float | None = None,
        dials: Sequence[float] | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        image = self(slices, modality, noise)
        return [(image.clone(), torch.full_like(image, 0.02)) for _ in dials or (0.0,)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Nine patients to calibrate on, and three to test on."""
    lines = ["file,split,modality,subject"]
    for n in range(12):
        name = f"v{n}.nii.gz"
        voxels = np.stack([patient(n).slices[0], patient(n + 50).slices[0]], axis=-1).round().astype(np.int16)
        (tmp_path / "data").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "data" / name)
        lines.append(f"{name},{'calibration' if n < 9 else 'test'},MR,s{n}")
    (tmp_path / "data" / "manifest.csv").write_text("\n".join(lines))
    return tmp_path / "data"


@pytest.mark.slow
def test_the_command_calibrates_a_bundle_for_its_weights_alone(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = nearest_bundle(tmp_path)
    assert main(["calibrate", str(data), "--bundle", str(bundle)]) == 1
    assert "expects no errors" in capsys.readouterr().err
    config = bundle / "configs" / "inference.yaml"
    parts = yaml.safe_load(config.read_text())
    parts["network_def"]["_target_"] = "test_coverage.ErringNeighbour"
    config.write_text(yaml.safe_dump(parts, sort_keys=False))
    assert main(["calibrate", str(data), "--bundle", str(bundle), "--test"]) == 1
    assert "has no calibration" in capsys.readouterr().err
    (bundle / "models").mkdir()
    assert main(["calibrate", str(data), "--bundle", str(bundle), "--slices", "1"]) == 0
    assert "MR x2 dial 0" in capsys.readouterr().out
    path = bundle / "models" / "calibration.json"
    first = path.read_bytes()
    assert main(["calibrate", str(data), "--bundle", str(bundle), "--slices", "1"]) == 0
    assert path.read_bytes() == first
    assert main(["calibrate", str(data), "--bundle", str(bundle), "--test"]) == 0
    assert "MR x4 dial 1" in capsys.readouterr().out

    def report(*more: str) -> Any:
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        given = ["run", str(data / "v11.nii.gz"), str(out), "--bundle", str(bundle), "--modality", "MR", *more]
        assert main(given) == 0
        return json.loads(next(out.glob("*/report.json")).read_text())

    found = report("--tolerance", "40")["trust"]
    assert found["expected_error"]["is_calibrated"]
    assert 0 <= found["expected_error"]["share_trusted"] <= 1
    assert "9 patients of MR" in found["calibration"]
    other = report("--consistency", "0.5")["trust"]
    assert not other["expected_error"]["is_calibrated"]
    assert report("--maps", "none")["trust"]["expected_error"] is None
    capsys.readouterr()
    path.write_text(first.decode().replace(json.loads(first)["weights_sha256"], "0" * 64))
    assert main(["run", str(data / "v11.nii.gz"), str(tmp_path / "o"), "--bundle", str(bundle)]) == 1
    assert "[BAD_WEIGHTS]" in capsys.readouterr().err
    assert load_calibration(path, "0" * 64) is not None


@pytest.mark.slow
def test_too_few_patients_leave_no_calibration(data: Path, tmp_path: Path) -> None:
    bundle = nearest_bundle(tmp_path)
    config = bundle / "configs" / "inference.yaml"
    config.write_text(config.read_text().replace("odd_run.NearestNeighbour", "test_coverage.ErringNeighbour"))
    manifest = data / "manifest.csv"
    manifest.write_text("\n".join(manifest.read_text().splitlines()[2:]).join(["file,split,modality,subject\n", ""]))
    assert main(["calibrate", str(data), "--bundle", str(bundle)]) == 1
    assert not (bundle / "models").exists()
