"""Figures of trust: what is put in is found again, what is invented is counted, and the files hold it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from generator_fixtures import Nearest
from scipy import ndimage
from torch import Tensor

from monai_ldmsr.cli import main
from monai_ldmsr.degradation import DegradationOperator, repeat_blocks
from monai_ldmsr.evaluation.bumps import count_bumps, with_noise
from monai_ldmsr.evaluation.coherence import SliceCoherence
from monai_ldmsr.evaluation.duration import EvaluationCost
from monai_ldmsr.evaluation.intervals import IntervalCoverage
from monai_ldmsr.evaluation.labels import goal_phrase, label, mark
from monai_ldmsr.evaluation.lesions import DIAMETERS, LesionTest, disc, half_height_width, lesion_figures
from monai_ldmsr.evaluation.progress import EvaluationSteps
from monai_ldmsr.evaluation.rows import projected
from monai_ldmsr.evaluation.slice_trust import RegionMeans, ScannedCorrelation
from monai_ldmsr.evaluation.split_evaluation import SplitEvaluation
from monai_ldmsr.evaluation.trust import PARTS
from monai_ldmsr.evaluation.uptake import HotSpotUptake, hot_spots
from monai_ldmsr.evaluation.volumes import measured_slices
from monai_ldmsr.networks import upsample_bicubic
from monai_ldmsr.training.volumes import TrainingVolume
from monai_ldmsr.transforms.intensity import fit_intensity_map
from monai_ldmsr.uncertainty import CalibratedGroup, Calibration

AREA = DegradationOperator("area", 2)
SILENT = EvaluationSteps((), 0, None)


def noisy(side: int = 128, seed: int = 0, level: float = 600.0) -> np.ndarray:
    """Bright tissue with grain, and air around it."""
    grain = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), 1.0)
    image = level + 60 * grain
    image[:8] = image[:, :8] = 5 + grain[:8, :8].mean()
    return image


def volume(slices: list[np.ndarray], modality: str = "MR", name: str = "v") -> TrainingVolume:
    images = tuple(image.astype(np.float32) for image in slices)
    return TrainingVolume(
        name, modality, name, images, fit_intensity_map(torch.from_numpy(np.stack(images)), modality), False
    )


class Bicubic(Nearest):
    """Interpolates, and adds a field of its own to each slice of a call."""

    def __init__(self, factor: int, field: float = 0.0, moving: bool = False) -> None:
        super().__init__(factor)
        self.field, self.moving = field, moving

    def forward(self, slices: Tensor, modality: str | None = None, noise: float | None = None) -> Tensor:
        plain = upsample_bicubic(slices, self.factors.in_plane)
        seed = int(1e6 * float(slices.abs().sum())) % 2**31 if self.moving else 0
        shape = plain.shape if self.moving else (1, *plain.shape[1:])
        return plain + self.field * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Forgetful(Bicubic):
    """Sets everything to the mean of its 8 x 8 source pixels: small lesions are gone."""

    def forward(self, slices: Tensor, *call: object) -> Tensor:
        small = torch.nn.functional.avg_pool2d(slices, 8)
        return repeat_blocks(repeat_blocks(small, 8), self.factors.in_plane)


def test_a_lesion_has_its_diameter_and_its_contrast() -> None:
    for diameter in (4.0, 8.0, 32.0):
        shape = disc((96, 96), (48.3, 47.6), diameter)
        assert float(shape.sum()) == pytest.approx(math.pi * (diameter**2 / 4 + (0.4 * math.pi) ** 2 / 3), rel=0.02)
        assert half_height_width(shape, shape) == pytest.approx(diameter, abs=0.8)
        assert lesion_figures(-3.0 * shape, shape, -3.0) == pytest.approx({"contrast_kept": 1.0, "size_kept": 1.0})
        assert lesion_figures(-1.5 * shape, shape, -3.0)["contrast_kept"] == pytest.approx(0.5)
    shape = disc((96, 96), (48.0, 48.0), 8.0)
    blurred = torch.from_numpy(ndimage.gaussian_filter(shape.numpy(), 4.0))
    found = lesion_figures(blurred, shape, 1.0)
    assert 0.2 < found["contrast_kept"] < 0.8
    assert 1.2 < found["size_kept"] < 2.5
    assert math.isnan(lesion_figures(0.01 * shape, shape, 1.0)["size_kept"]), "what is gone has no size"


def lesions(**networks: Nearest) -> LesionTest:
    volumes = [volume([noisy(seed=10 * n + k) for k in range(3)], name=f"v{n}") for n in range(4)]
    part = LesionTest(volumes, networks, AREA, 3, consistency=0.0)
    part.run(SILENT)
    return part


def test_lesions_are_kept_by_interpolation_and_lost_by_what_forgets_them() -> None:
    part = lesions(plain=Bicubic(2), forgets=Forgetful(2))
    rows = part.as_dict()["rows"]
    assert list(rows) == ["bicubic", "bicubic_noise", "plain", "forgets", "hr"]
    assert [rows["hr"][key]["mean"] for key in ("contrast_kept", "size_kept")] == pytest.approx([1, 1], abs=1e-3)
    assert rows["hr"]["lost"]["mean"] == 0
    assert rows["hr"]["bumps"]["mean"] == 0
    for key in ("contrast_kept", "detectability", "lost"):
        assert rows["plain"][key]["mean"] == pytest.approx(rows["bicubic"][key]["mean"], abs=1e-3)
    assert rows["forgets"]["contrast_kept"]["mean"] < 0.6 * rows["bicubic"]["contrast_kept"]["mean"]
    assert rows["forgets"]["lost"]["mean"] > rows["bicubic"]["lost"]["mean"] + 0.1
    assert rows["hr"]["contrast_kept"]["n"] == 4 * 3 * len(DIAMETERS)
    found = part.as_dict()
    assert list(found["by_diameter"]) == [str(d) for d in DIAMETERS]
    kept = [found["by_diameter"][str(d)]["bicubic"]["contrast_kept"]["mean"] for d in DIAMETERS]
    assert kept == sorted(kept), "the larger, the more is kept"
    assert found["by_contrast"]["5.0"]["hr"]["detectability"]["mean"] > 0.95
    assert 0.5 < found["by_contrast"]["0.5"]["hr"]["detectability"]["mean"] < 1


def test_lesions_are_the_same_each_time() -> None:
    first, second = (lesions(net=Bicubic(2, 0.02)).as_dict() for _ in range(2))
    assert json.dumps(first) == json.dumps(second)


def test_the_area_under_the_curve_is_that_of_all_pairs() -> None:
    part = lesions(net=Bicubic(2))
    records = [r for r in part.records if r["row"] == "net" and r.get("diameter") == 1]
    pairs = [float(a["score"] > b["score_without"]) for a in records for b in records]
    assert np.mean([r["detectability"] for r in records]) == pytest.approx(np.mean(pairs))


def test_bumps_are_counted_once_and_only_where_they_are_invented() -> None:
    original = torch.from_numpy(noisy(96)[-96:]).float()
    flat = original[8:, 8:]
    flat = torch.cat([flat, flat.flip(0)])[:96, :88]
    assert count_bumps(flat, flat, 4) == 0
    changed = flat.double() + 200 * disc(flat.shape, (40.0, 40.0), 4.0) - 200 * disc(flat.shape, (60.0, 56.0), 4.0)
    area = (96 - 2 * 32) * (88 - 2 * 29) / 16
    assert count_bumps(changed, flat, 4) == pytest.approx(2000 / area, rel=0.05)
    assert math.isnan(count_bumps(flat, torch.zeros_like(flat), 4))


def test_noise_in_place_of_structure_has_its_power() -> None:
    original = torch.from_numpy(noisy(104)[8:, 8:]).float()
    plain = torch.from_numpy(ndimage.gaussian_filter(original.numpy(), 2.0))
    made = with_noise(plain, original, 3)
    inner = (slice(16, -16), slice(16, -16))
    missing, added = (original - plain)[inner], (made - plain)[inner]
    assert float(added.std()) == pytest.approx(float(missing.std()), rel=0.02)
    assert abs(float(torch.corrcoef(torch.stack([added.flatten(), missing.flatten()]))[0, 1])) < 0.2
    assert torch.equal(made, with_noise(plain, original, 3))


def coherence(network: Nearest, slices: list[np.ndarray]) -> dict[str, float]:
    part = SliceCoherence([volume(slices)], {"net": network}, AREA, consistency=0.0)
    part.run(SILENT)
    assert part.n_pixels() == sum(min(192, s.shape[0]) * min(192, s.shape[1]) for s in slices[:3])
    return {f"{r['row']} {key}": r[key] for r in part.records for key in ("flicker", "frozen")}


def test_frozen_and_flickering_detail_are_distinguished() -> None:
    slices = [noisy(seed=k) for k in range(3)]
    frozen, moving = coherence(Bicubic(2, 0.1), slices), coherence(Bicubic(2, 0.1, moving=True), slices)
    assert frozen["hr flicker"] == moving["hr flicker"] == 1
    assert abs(frozen["hr frozen"]) < 0.2
    assert frozen["net frozen"] > 0.8, "less than 1 where the range of the source cuts it"
    assert abs(moving["net frozen"]) < 0.2
    assert frozen["net flicker"] < frozen["bicubic flicker"] + 0.02
    assert moving["net flicker"] > frozen["net flicker"] + 0.2
    assert math.isnan(frozen["bicubic frozen"])


def test_a_volume_of_one_slice_has_no_neighbours() -> None:
    part = SliceCoherence([volume([noisy()]), volume([noisy(60), noisy(60)])], {}, AREA)
    part.run(SILENT)
    assert (part.records, part.n_pixels()) == ([], 0)


def test_hot_spots_keep_their_uptake_only_where_they_do() -> None:
    image = np.full((40, 44), 100.0)
    for row, column, height in ((12, 14, 900.0), (28, 30, 600.0)):
        image += height * np.exp(-((np.arange(40)[:, None] - row) ** 2 + (np.arange(44) - column) ** 2) / 18)
    pet, body = volume([image] * 3, "PT"), volume([noisy()])
    part = HotSpotUptake([pet, body], {"plain": Bicubic(2), "brighter": Nearest(2, 0.2)}, AREA, consistency=0.0)
    part.run(SILENT)
    rows = part.as_dict()["rows"]
    assert rows["hr"]["uptake"]["mean"] == rows["hr"]["uptake_kept"]["mean"] == 1
    assert rows["hr"]["uptake"]["n"] == 3 * 2, "the two spots of each slice of the PET alone"
    assert rows["plain"]["uptake"]["mean"] == pytest.approx(1, abs=0.03)
    assert rows["brighter"]["uptake_kept"]["mean"] == 0
    assert rows["brighter"]["uptake_peak"]["mean"] > 1.05
    assert hot_spots(torch.zeros(1, 1, 8, 8)) == []


def see(part: ScannedCorrelation | RegionMeans, source: TrainingVolume, change: np.ndarray) -> dict[str, float]:
    original = torch.from_numpy(source.slices[0])[None, None]
    images = {"hr": original, "net": original + torch.from_numpy(change).float()[None, None]}
    images["lr"] = images["bicubic"] = original
    part.see(source, 0, {row: source.intensity.forward(image) for row, image in images.items()})
    rows = part.as_dict()["rows"]
    assert set(rows) == {"bicubic", "net", "hr"}
    return {row: cells[next(iter(cells))]["mean"] for row, cells in rows.items()}


def test_a_slice_in_which_something_moved_is_flagged_and_drawn() -> None:
    source = volume([noisy(192)])
    change = np.zeros((192, 192))
    change[48:96, 48:96] = 400 * ndimage.gaussian_filter(np.random.default_rng(5).normal(size=(48, 48)), 2.5) * 4
    part = ScannedCorrelation([source], {"net": Nearest(2)}, AREA)
    found = see(part, source, change)
    assert found["hr"] == found["bicubic"] == 0
    assert 0 < found["net"] <= 4 / 16
    (detail,) = part.sheet()
    assert set(detail.images) == {"bicubic", "net", "hr"}
    curve = part.as_dict()["curve"]
    shares = curve["flagged"]["MR"]["net"]
    assert shares == sorted(shares)
    assert shares[curve["cycles_a_pixel"].index(0.16)] == found["net"]


def test_means_of_regions_are_compared() -> None:
    source = volume([noisy(128)])
    checkers = np.where(np.indices((128, 128)).sum(axis=0) % 2, 50.0, -50.0)
    assert see(RegionMeans([source], {}, AREA), source, checkers)["net"] < 0.1
    shifted = see(RegionMeans([source], {}, AREA), source, np.full((128, 128), 20.0))
    assert shifted["net"] == pytest.approx(100 * 20 / source.slices[0].std(), rel=0.05)


class Expecting(Bicubic):
    """Expects the same error everywhere, in model range."""

    def __init__(self, error: float) -> None:
        super().__init__(2)
        self.error = error

    def estimates(self, slices: Tensor, *call: object) -> list[tuple[Tensor, Tensor]]:
        made = self(slices, *call)
        return [(made, torch.full_like(made, self.error))]


@pytest.mark.parametrize("multiplier", [None, 1.0])
def test_the_share_outside_of_intervals_is_that_of_their_width(multiplier: float | None) -> None:
    """By hand, in the middle of the slice; rows without intervals are left out."""
    source = volume([noisy(240)])
    networks = {"net": Expecting(0.01), "sure": Expecting(1e-6), "careful": Expecting(9.0), "other": Bicubic(2)}
    group = CalibratedGroup(["CT"], 20, {"2": {"0": multiplier or 0}}, {}, {}, {})
    calibration = Calibration("", {}, {"pooled": group}, {}) if multiplier else None
    part = IntervalCoverage([source], networks, AREA, 1, 0.0, calibration=calibration)
    part.run(SILENT)
    found = {record["row"]: record["outside"] for record in part.records}
    assert list(found) == ["net", "sure", "careful"]
    assert found["sure"] > 0.95
    assert found["careful"] == 0
    high = torch.from_numpy(source.slices[0])[None, None, 24:216, 24:216]
    plain = upsample_bicubic(source.intensity.forward(AREA(high)), 2)
    result = projected(plain, AREA(high), source, AREA, 0.0)
    half = 0.01 * (multiplier or math.log(10)) * (source.intensity.values[-1] - source.intensity.values[0]) / 2
    body = source.intensity.forward(high) > -0.8
    assert found["net"] == pytest.approx(float(((result - high).abs() > half)[body].double().mean()), abs=0.02)
    assert 0.002 < found["net"] < 0.9


def test_every_figure_of_trust_has_words() -> None:
    columns = [name for part in PARTS for name in part.definitions]
    assert len(columns) == len(set(columns))
    for part in PARTS:
        assert set(part.goals) == set(part.definitions)
        for name, goal in part.goals.items():
            assert label(name) != name.replace("_", " "), name
            assert goal_phrase(goal)[0] in "\u2191\u2193\u2192"
            mark(goal, 1.0, 2.0, 3.0)


def test_the_files_hold_trust_and_forget_it_when_it_is_left_out(tmp_path: Path) -> None:
    volumes = [volume([noisy(seed=k) for k in range(2)]), volume([np.full((96, 96), 7.0)], name="constant")]
    heard: list[float] = []
    evaluation = SplitEvaluation(volumes, {"ldm": Bicubic(2)}, 2, 1, native_slices_per_volume=1, trust=True)
    evaluation.run(tmp_path, lambda _, share: heard.append(share))
    assert heard == sorted(heard)
    assert heard[-1] == 1
    trust = json.loads((tmp_path / "trust.json").read_text())
    assert list(trust["parts"]) == [*(part.name for part in PARTS), "native"]
    for part in trust["parts"].values():
        assert set(part["columns"]) <= set(trust["definitions"])
        assert set(part["columns"]) <= set(trust["goals"])
        for rows in (part["rows"], *part["by_modality"].values()):
            assert all(set(cells) == set(part["columns"]) for cells in rows.values())
    assert trust["parts"]["uptake"]["rows"] == {}
    assert trust["parts"]["native"]["rows"]["ldm"]["noise"]["mean"] == pytest.approx(1, abs=0.05)
    assert trust["settings"]["trust"]
    assert "research" in trust["notice"]
    page = (tmp_path / "table.html").read_text()
    assert page.count("<h2>Trust</h2>") == 1
    assert "<h3>Lesions</h3>" in page
    assert "<h3>Uptake in PET</h3>" not in page
    assert (tmp_path / "lesions.png").read_bytes().startswith(b"\x89PNG")
    SplitEvaluation(volumes, {}, 2, 1).run(tmp_path)
    assert not (tmp_path / "trust.json").exists()
    assert "<h2>Trust</h2>" not in (tmp_path / "table.html").read_text()


def test_time_for_trust_is_kept() -> None:
    cost = EvaluationCost(1.0, 1e-6, 2)
    volumes = [volume([noisy(seed=k) for k in range(3)])]
    with_trust, without = (cost.seconds(volumes, 2, 0, trust) for trust in (True, False))
    assert with_trust > without + 0.99 * 1.3e-6 * (
        len(measured_slices(volumes[0], 2)) * (5 * 48**2 + 128**2) + 3 * 128**2
    )


@pytest.mark.slow
def test_the_command_measures_trust_unless_it_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import nibabel

    data = tmp_path / "data"
    data.mkdir()
    stack = np.stack([noisy(seed=k) for k in range(3)], axis=-1).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(stack, np.diag([1, 1, 4.0, 1])), data / "v.nii.gz")
    command = [
        "evaluate",
        str(data),
        str(tmp_path / "out"),
        "--slices",
        "1",
        "--native-slices",
        "0",
        "--modality",
        "MR",
    ]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "AUC" in said
    trust = json.loads((tmp_path / "out" / "trust.json").read_text())
    rows = trust["parts"]["lesions"]["rows"]
    assert list(rows) == ["bicubic", "bicubic_noise", "srresnet", "srgan", "ldm_mean", "ldm_sample", "ldm", "hr"]
    assert main([*command, "--no-trust"]) == 0
    assert "AUC" not in capsys.readouterr().out
    assert not (tmp_path / "out" / "trust.json").exists()
