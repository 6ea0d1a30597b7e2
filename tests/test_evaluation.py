"""The table: rows lie on one grid, figures are what others compute, the files hold what was measured."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from monai_ldmsr.cli import main
from monai_ldmsr.errors import OutputError, SettingsError, SourceError
from monai_ldmsr.evaluation import SplitEvaluation, interpolate_bilinear, interpolate_bspline, measure
from monai_ldmsr.evaluation.figures import FREQUENCIES, radial_power
from monai_ldmsr.evaluation.table import EvaluationTable
from monai_ldmsr.evaluation.volumes import load_evaluation_volumes
from monai_ldmsr.networks import SRResNetGenerator, upsample_bicubic

BUNDLES = Path(__file__).parents[1] / "bundles"
SAMPLE = Path(__file__).parents[1] / "sample_data"


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width))
    return ndimage.gaussian_filter(noise, 1.0) * 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    for n, size in enumerate((100, 120, 30)):
        volume = np.stack([1000 + 200 * texture(size, size + 4, 10 * n + k) for k in range(3)], axis=-1)
        nibabel.save(nibabel.Nifti1Image(volume.astype(np.int16), np.diag([1, 1, 4.0, 1])), data / f"v{n}.nii.gz")
    return data


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("method", [interpolate_bilinear, interpolate_bspline, upsample_bicubic])
def test_interpolations_keep_the_place(method: object, factor: int) -> None:
    """A ramp over the target's pixel centres comes back as it was, away from the border; half a pixel would show."""
    rows, columns = np.meshgrid(np.arange(16), np.arange(20), indexing="ij")
    centre = (factor - 1) / 2
    low = torch.tensor(3.0 * (rows * factor + centre) + 2.0 * (columns * factor + centre), dtype=torch.float32)
    found = method(low[None, None], factor)[0, 0]  # type: ignore[operator]
    fine_rows, fine_columns = np.meshgrid(np.arange(16 * factor), np.arange(20 * factor), indexing="ij")
    expected = torch.tensor(3.0 * fine_rows + 2.0 * fine_columns, dtype=torch.float32)
    inner = slice(6 * factor, -6 * factor)
    difference = (found - expected)[inner, inner]
    # Half a pixel would shift the mean by 1 or more; bicubic with a = -0.75 bends a ramp, but does not shift it.
    assert abs(float(difference.mean())) < 0.05
    assert float(difference.abs().max()) < 0.5 * factor


def test_figures_agree_with_their_definitions() -> None:
    reference = torch.tensor(texture(180, 200), dtype=torch.float32)[None, None].clamp(-1, 1)
    image = torch.tensor(ndimage.gaussian_filter(reference[0, 0].numpy(), 0.8))[None, None]
    found = measure(image, reference)
    grey, truth = (((x[0, 0].double() + 1) * 127.5).round().numpy() for x in (image, reference))
    error = np.sqrt(((grey - truth) ** 2).mean())
    assert found["psnr"] == pytest.approx(20 * math.log10(255 / error), abs=1e-3)
    assert found["nrmse"] == pytest.approx(error / (truth.max() - truth.min()), rel=1e-4)
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0.0]])
    assert found["laplacian_variance"] == pytest.approx(ndimage.convolve(grey, kernel, mode="mirror").var(), rel=1e-4)
    assert found["laplacian_variance_minus_hr"] < 0
    assert found["fft_minus_hr"] < 0
    assert 0 < found["ssim"] < found["ms_ssim"] < 1
    same = measure(reference, reference)
    assert math.isnan(same["psnr"])
    assert same["ssim"] == pytest.approx(1)
    assert same["fft_minus_hr"] == 0
    assert math.isnan(measure(image[..., :100], reference[..., :100])["ms_ssim"])


def test_foreground_figures_leave_out_the_air() -> None:
    image = -torch.ones(1, 1, 128, 128)
    image[..., 32:96, 32:96] = torch.tensor(0.3 * texture(64, 64), dtype=torch.float32)
    found = measure(image, image)
    assert found["laplacian_variance_foreground"] > 2 * found["laplacian_variance"]
    assert math.isnan(measure(-torch.ones(1, 1, 96, 96), -torch.ones(1, 1, 96, 96))["fft_foreground"])


def test_radial_power_finds_a_wave_in_its_ring() -> None:
    wave = 0.5 * torch.sin(2 * math.pi * 0.3 * torch.arange(128.0)).expand(1, 1, 96, 128)
    power = radial_power(wave)
    assert FREQUENCIES[int(power.argmax())] == pytest.approx(0.3, abs=0.02)


def test_intervals_follow_patients_not_slices() -> None:
    table = EvaluationTable({}, seed=1)
    for subject, value in (("a", 1.0), ("b", 3.0)):
        for n in range(50):
            about = {"volume": subject, "subject": subject, "modality": "MR", "slice": n, "row": "hr"}
            table.add(about, dict.fromkeys(_columns(), value), np.ones(4))
    cell = table.as_dict()["rows"]["hr"]["psnr"]
    assert (cell["mean"], cell["n"]) == (2.0, 100)
    assert cell["ci95"] == [1.0, 3.0], "two patients cannot say more"


def _columns() -> tuple[str, ...]:
    from monai_ldmsr.evaluation.table import COLUMNS

    return COLUMNS


def test_a_folder_without_manifest_gives_the_whole_table(folder: Path, tmp_path: Path) -> None:
    """By the command, with the shipped weights: every row, every column, every file."""
    out = tmp_path / "out"
    assert main(["evaluate", str(folder), str(out), "--factor", "4", "--slices", "1", "--modality", "MR"]) == 0
    table = json.loads((out / "table.json").read_text())
    assert list(table["rows"]) == ["lr", "bicubic", "bspline", "srresnet", "srgan", "ldm", "hr"]
    for rows in (table["rows"], table["by_modality"]["MR"]):
        for cells in rows.values():
            assert {"laplacian_variance", "fft", "psnr", "ssim", "ms_ssim", "nrmse"} <= set(cells)
            assert cells["fft"]["n"] == 2, "the slices of 30 pixels are too small"
    assert set(table["rows"]["lr"]) <= set(table["definitions"])
    low, sharp = (table["rows"][row]["laplacian_variance"]["mean"] for row in ("lr", "hr"))
    assert low < sharp
    assert table["spectrum_ratio"]["hr"] == pytest.approx([1.0] * len(FREQUENCIES))
    page = (out / "table.html").read_text()
    assert page.count("data:image/png;base64") == 3
    assert (out / "failures.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in page + json.dumps(table)
    with (out / "per_slice.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 2 * 7
    with (out / "table.csv").open() as stream:
        lines = {(x["group"], x["row"], x["metric"]): x["mean"] for x in csv.DictReader(stream)}
    assert float(lines["MR", "ldm", "psnr"]) == pytest.approx(table["by_modality"]["MR"]["ldm"]["psnr"]["mean"])


def test_dicom_series_are_taken_and_patients_are_not_named() -> None:
    (volume,) = load_evaluation_volumes(SAMPLE / "dicom" / "mr_t1_sagittal")
    assert volume.modality == "MR"
    assert len(volume.slices) == 16
    assert len(volume.subject) == 12
    assert int(volume.subject, 16) >= 0


def test_a_split_without_manifest_is_that_of_training(folder: Path) -> None:
    """Each patient is in one split, and what was trained on is not measured."""
    by_split = {split: load_evaluation_volumes(folder, split, "PT") for split in ("train", "calibration", "test")}
    names = [volume.name for volumes in by_split.values() for volume in volumes]
    assert sorted(names) == ["v0.nii.gz", "v1.nii.gz", "v2.nii.gz"]
    assert {volume.modality for volumes in by_split.values() for volume in volumes} == {"PT"}
    assert len(load_evaluation_volumes(folder)) == 3


def test_bad_input_is_said_before_time_is_spent(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SourceError):
        load_evaluation_volumes(empty)
    with pytest.raises(SourceError, match="does not exist"):
        load_evaluation_volumes(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="choose one of train, calibration, test, all"):
        load_evaluation_volumes(folder, split="validation")
    with pytest.raises(SettingsError, match="operator"):
        SplitEvaluation([], {}, 4, operator="median")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError):
        SplitEvaluation([], {}, 4).run(blocked)
    with pytest.raises(SourceError, match="96 pixels"):
        SplitEvaluation([], {}, 4).run(tmp_path / "out")
    assert main(["evaluate", str(empty), str(tmp_path / "x")]) == 2


def test_failures_are_the_slices_with_least_gain(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the network's own figures: those drawn are the worst of all in per_slice.csv."""
    drawn: dict[str, list[float]] = {}

    def draw(examples: list[dict[str, torch.Tensor]], path: Path) -> None:
        path.write_bytes(b"")
        drawn[path.name] = [
            measure(images["net"], images["hr"])["psnr"] - measure(images["bicubic"], images["hr"])["psnr"]
            for images in examples
        ]

    monkeypatch.setattr("monai_ldmsr.evaluation.split_evaluation.draw_examples", draw)
    volumes = load_evaluation_volumes(folder)
    network = SRResNetGenerator(2, features=8, num_blocks=1)
    torch.nn.init.normal_(network.tail[-1].weight, std=0.01)
    SplitEvaluation(volumes, {"net": network}, 2, 3, max_failures=2).run(tmp_path / "out")
    with (tmp_path / "out" / "per_slice.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    psnr = {(r["volume"], r["slice"], r["row"]): float(r["psnr"]) for r in rows if r["row"] in ("net", "bicubic")}
    gains = sorted(psnr[v, s, "net"] - psnr[v, s, "bicubic"] for v, s, row in psnr if row == "net")
    assert len(gains) == 6
    assert drawn["failures.png"] == pytest.approx(gains[:2], abs=1e-6)


def test_noise_lowers_the_figures_and_is_the_same_each_time(folder: Path, tmp_path: Path) -> None:
    volumes = load_evaluation_volumes(folder, modality="MR")
    psnr = [
        SplitEvaluation(volumes, {}, 2, 1, noise_grey=noise)
        .run(tmp_path / "out")
        .as_dict()["rows"]["lr"]["psnr"]["mean"]
        for noise in (0.0, 20.0, 20.0)
    ]
    # Bilinear interpolation by 2 keeps 25/64 of the noise's power.
    assert psnr[1] == pytest.approx(-10 * math.log10(10 ** (-psnr[0] / 10) + 400 * 25 / 64 / 255**2), abs=0.4)
    assert psnr[1] == psnr[2]
    with pytest.raises(SettingsError, match="noise_grey is -1"):
        SplitEvaluation([], {}, 2, noise_grey=-1)


@pytest.mark.parametrize("operator", ["area", "gaussian", "kspace"])
def test_operators_keep_the_place(folder: Path, tmp_path: Path, operator: str) -> None:
    volumes = load_evaluation_volumes(folder)
    network = SRResNetGenerator(2, features=8, num_blocks=1)
    run = SplitEvaluation(volumes, {"srresnet": network}, 2, 1, operator, consistency=0.0)
    rows = run.run(tmp_path / "out").as_dict()["rows"]
    assert rows["bicubic"]["psnr"]["mean"] > 18
    assert rows["srresnet"]["psnr"]["mean"] == pytest.approx(rows["bicubic"]["psnr"]["mean"], abs=0.3)
