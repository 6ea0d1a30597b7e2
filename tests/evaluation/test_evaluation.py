"""The table: rows lie on one grid, figures are what others compute, the files hold what was measured."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from generator_fixtures import Nearest
from PIL import Image
from places import SAMPLES
from scipy import ndimage

from monai_ldmsr.cli import main
from monai_ldmsr.cli.views import ShareView
from monai_ldmsr.degradation import DegradationOperator
from monai_ldmsr.errors import OutputError, SettingsError, SourceError
from monai_ldmsr.evaluation.figures import FIGURE_GOALS, FREQUENCIES, measure, radial_power
from monai_ldmsr.evaluation.labels import goal_phrase, label, mark
from monai_ldmsr.evaluation.pictures import Detail, draw_details, find_details, flattest_detail, sharpest_detail
from monai_ldmsr.evaluation.rows import ROW_DEFINITIONS, interpolate_bilinear, interpolate_bspline
from monai_ldmsr.evaluation.split_evaluation import NativeEvaluation, SplitEvaluation
from monai_ldmsr.evaluation.table import COLUMNS, NATIVE_COLUMNS, STRUCTURE_COLUMNS, EvaluationTable
from monai_ldmsr.evaluation.volumes import load_evaluation_volumes, shown_slices
from monai_ldmsr.metrics import NATIVE_GOALS, STRUCTURE_GOALS
from monai_ldmsr.networks import SRResNetGenerator, upsample_bicubic
from monai_ldmsr.training.volumes import TrainingVolume
from monai_ldmsr.transforms.intensity import fit_intensity_map


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
    for n_patients, (subject, value) in enumerate((("a", 1.0), ("b", 3.0), ("c", 2.0)), start=1):
        for n in range(50):
            about = {"volume": subject, "subject": subject, "modality": "MR", "slice": n, "row": "hr"}
            table.add(about, dict.fromkeys((*COLUMNS, *STRUCTURE_COLUMNS), value), np.ones(4))
        cell = table.as_dict()["rows"]["hr"]["psnr"]
        assert cell["n"] == 50 * n_patients
        assert (cell["ci95"] is None) == (n_patients < 3), "one or two patients say nothing of others"
    assert cell["mean"] == 2.0
    assert cell["ci95"] == [1.0, 3.0], "three patients cannot say more"


@pytest.mark.parametrize(
    ("goal", "value", "usual", "original", "expected"),
    [
        ("high", 31.0, 30.0, None, "better"),
        ("low", 31.0, 30.0, None, "worse"),
        ("0", -0.1, 0.2, None, "better"),
        ("near 1", 1.3, 1.0, None, "worse"),
        ("1 at most", 0.5, 0.7, None, ""),
        ("1 at most", 1.5, 0.7, None, "worse"),
        ("the original's", 80.0, 50.0, 100.0, "better"),
        ("the original's", 80.0, 50.0, None, ""),
        ("high", 30.01, 30.0, None, ""),
        ("high", None, 30.0, None, ""),
    ],
)
def test_marks_say_what_is_better(
    goal: str, value: float | None, usual: float, original: float | None, expected: str
) -> None:
    assert mark(goal, value, usual, original) == expected


def test_every_row_figure_and_goal_has_words() -> None:
    for name in (*ROW_DEFINITIONS, *COLUMNS, *STRUCTURE_COLUMNS, *NATIVE_COLUMNS):
        assert label(name) != name.replace("_", " "), name
    for goal in {**FIGURE_GOALS, **STRUCTURE_GOALS, **NATIVE_GOALS}.values():
        assert goal_phrase(goal)[0] in "\u2191\u2193\u2192"
        mark(goal, 1.0, 2.0, 3.0)


def test_the_page_names_rows_and_marks_what_is_better(tmp_path: Path) -> None:
    table = EvaluationTable({"factor": 2, "operator": "area"})
    for row, psnr in {"lr": 20.0, "bicubic": 30.0, "my_net": 33.0, "hr": math.nan}.items():
        about = {"volume": "v", "subject": "s", "modality": "MR", "slice": 0, "row": row}
        table.add(about, {**dict.fromkeys((*COLUMNS, *STRUCTURE_COLUMNS), 1.0), "psnr": psnr}, np.ones(4))
    table.write(tmp_path, {})
    page = (tmp_path / "table.html").read_text()
    for words in ("Bilinear", "Bicubic", "my net", "Original", "PSNR in dB", "\u2191 higher is better"):
        assert words in page
    assert page.count('title="better than bicubic"') == page.count('title="worse than bicubic"') == 2  # all, MR alone


def test_an_evaluation_says_how_far_it_is(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volumes = load_evaluation_volumes(folder)
    heard: list[tuple[str, float]] = []
    networks = {name: SRResNetGenerator(2, features=4, num_blocks=1) for name in ("srresnet", "ldm")}
    evaluation = SplitEvaluation(volumes, networks, 2, 1, max_examples=0, max_failures=0, native_side=96)
    evaluation.run(tmp_path / "out", lambda what, share: heard.append((what, share)))
    shares = [share for _, share in heard]
    assert shares == sorted(shares)
    assert (shares[0], heard[-1]) == (0.0, ("all volumes measured", 1.0))
    kinds = {(what.split(" (")[0], what.split(", ")[1], what.split(", ")[2]) for what, _ in heard[:-1]}
    measured = {kind[0] for kind in kinds}
    both = {
        (one, kind, row) for one in measured for kind in ("degraded", "as scanned") for row in ("SRResNet", "Diffusion")
    }
    assert kinds == both
    assert len(measured) == 2
    with ShareView(seconds=0) as view:
        for what, share in heard:
            view.update(what, share)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(heard)
    assert said[0].startswith("0 %, volume ")
    assert said[1].endswith(" left")


@pytest.mark.slow
def test_a_folder_without_manifest_gives_the_whole_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command, with the shipped weights: every row, every column, every file."""
    out = tmp_path / "out"
    assert main(["evaluate", str(folder), str(out), "--factor", "4", "--slices", "1", "--modality", "MR"]) == 0
    table = json.loads((out / "table.json").read_text())
    networks = ["srresnet", "srgan", "ldm_mean", "ldm_sample", "ldm"]
    assert list(table["rows"]) == ["lr", "bicubic", "bspline", *networks, "hr"]
    for rows in (table["rows"], table["by_modality"]["MR"]):
        for cells in rows.values():
            assert {"laplacian_variance", "fft", "psnr", "ssim", "ms_ssim", "nrmse"} <= set(cells)
            assert cells["fft"]["n"] == 2, "the slices of 30 pixels are too small"
    assert set(table["rows"]["lr"]) <= set(table["definitions"])
    _has_structure_and_native(table, out)
    low, sharp = (table["rows"][row]["laplacian_variance"]["mean"] for row in ("lr", "hr"))
    assert low < sharp
    assert table["spectrum_ratio"]["hr"] == pytest.approx([1.0] * len(FREQUENCIES))
    page = (out / "table.html").read_text()
    assert page.count("data:image/png;base64") == 6
    assert [page.count(f"<h2>{title}</h2>") for title in ("Structure", "Slices as scanned")] == [1, 1]
    assert (out / "failures.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in page + json.dumps(table)
    with (out / "per_slice.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 2 * 9
    with (out / "table.csv").open() as stream:
        lines = {(x["group"], x["row"], x["metric"]): x["mean"] for x in csv.DictReader(stream)}
    assert float(lines["MR", "ldm", "psnr"]) == pytest.approx(table["by_modality"]["MR"]["ldm"]["psnr"]["mean"])
    assert float(lines["all", "ldm", "comb"]) == pytest.approx(table["native"]["rows"]["ldm"]["comb"]["mean"])
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said if line[:1].isalpha()][:11:10] == ["degraded", "structure"]
    assert any(line.startswith("as scanned") and "kurtosis" in line for line in said)


def _has_structure_and_native(table: dict[str, Any], out: Path) -> None:
    """The same cells as the first table's; by patient; a definition and a goal for each column."""
    assert list(table["structure"]["rows"]) == list(table["rows"])
    assert list(table["native"]["rows"]) == ["bicubic", "srresnet", "srgan", "ldm_mean", "ldm_sample", "ldm"]
    assert (table["native"]["n_slices"], table["native"]["n_patients"]) == (2, 2)
    for name, columns in {"structure": STRUCTURE_COLUMNS, "native": NATIVE_COLUMNS}.items():
        for rows in (table[name]["rows"], table[name]["by_modality"]["MR"]):
            for cells in rows.values():
                assert tuple(cells) == columns
                assert all({"mean", "sd", "n", "ci95"} == set(cell) and cell["n"] == 2 for cell in cells.values())
        assert set(columns) <= set(table["definitions"])
        assert set(columns) <= set(table["goals"])
    hr, bicubic = (table["structure"]["rows"][row] for row in ("hr", "bicubic"))
    assert hr["edge_width"]["mean"] == hr["ring_correlation"]["mean"] == pytest.approx(1)
    assert bicubic["edge_width"]["mean"] > 1.3
    assert table["native"]["rows"]["bicubic"]["noise"]["mean"] == pytest.approx(1)
    with (out / "native_per_slice.csv").open() as stream:
        found = list(csv.DictReader(stream))
    assert [x["row"] for x in found] == 2 * list(table["native"]["rows"])
    assert "subject" not in found[0]
    assert (out / "native.png").read_bytes().startswith(b"\x89PNG")


def test_dicom_series_are_taken_and_patients_are_not_named() -> None:
    (volume,) = load_evaluation_volumes(SAMPLES / "dicom" / "mr_t1_sagittal")
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
    with pytest.raises(SettingsError, match="native_slices_per_volume is -1"):
        SplitEvaluation([], {}, 4, native_slices_per_volume=-1)
    with pytest.raises(SourceError, match="96 pixels"):
        SplitEvaluation([], {}, 4).run(tmp_path / "out")
    assert main(["evaluate", str(empty), str(tmp_path / "x")]) == 2


@pytest.mark.slow
def test_failures_are_the_slices_with_least_gain(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the network's own figures: those drawn are the worst of all in per_slice.csv."""
    drawn: dict[str, list[float]] = {}

    def find(images: dict[str, torch.Tensor], guide: str, label: str) -> list[Detail]:
        net, bicubic = (measure(images[row], images[guide])["psnr"] for row in ("net", "bicubic"))
        return [Detail(str(net - bicubic), {}, (0.0, 1.0))]

    def draw(details: list[Detail], path: Path) -> None:
        path.write_bytes(b"")
        drawn[path.name] = [float(detail.label) for detail in details if detail.label[-1].isdigit()]

    monkeypatch.setattr("monai_ldmsr.evaluation.split_evaluation.find_details", find)
    monkeypatch.setattr("monai_ldmsr.evaluation.split_evaluation.draw_details", draw)
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


@pytest.mark.slow
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


def volume(slices: list[np.ndarray], modality: str, name: str = "v") -> TrainingVolume:
    images = tuple(image.astype(np.float32) for image in slices)
    intensity = fit_intensity_map(torch.from_numpy(np.stack(images)), modality)
    return TrainingVolume(name, modality, name, images, intensity, False)


def test_native_slices_go_the_way_of_a_run() -> None:
    """By row names of any kind; scaled, super-resolved, unscaled, projected onto the source, clipped where it is."""
    image = np.abs(1000 * texture(97, 121))
    source = volume([image], "MR")
    networks = {"plain": Nearest(2), "a shift 0.3": Nearest(2, 0.3)}
    operator = DegradationOperator("area", 2)
    plain = torch.from_numpy(image.astype(np.float32)).repeat_interleave(2, 0).repeat_interleave(2, 1)
    for consistency in (1.0, 0.0):
        found = dict(NativeEvaluation([source], networks, operator, 1, consistency).results(source, 0))
        assert list(found) == ["bicubic", "plain", "a shift 0.3"]
        assert all(x.shape == (1, 1, 2 * 97, 2 * 121) for x in found.values())
        back = {name: source.intensity.inverse(x)[0, 0] for name, x in found.items()}
        assert torch.allclose(back["plain"], plain, atol=0.5)
        # What a shift of all pixels does to means is what the projection takes away, and nothing else does.
        means = torch.nn.functional.avg_pool2d(back["a shift 0.3"][None], 2)[0]
        assert torch.allclose(means, torch.from_numpy(image.astype(np.float32)), atol=0.5) == (consistency == 1.0)


@pytest.mark.parametrize(
    ("modality", "offset", "least"), [("MR", 0, 0), ("PT", 0, 0), ("CT", 0, -50), ("MR", -10, -60)]
)
def test_native_magnitudes_do_not_fall_below_zero(modality: str, offset: float, least: float) -> None:
    """As a run clips MR and PET without negative values; the projection onto a weight of 0 is left out."""

    class Darker(Nearest):
        def forward(self, *call: object) -> torch.Tensor:
            return source.intensity.forward(source.intensity.inverse(super().forward(*call)) - 50)  # type: ignore[arg-type]

    source = volume([np.abs(1000 * texture(96, 96)) + offset], modality)
    images = dict(
        NativeEvaluation([source], {"net": Darker(2)}, DegradationOperator("area", 2), 1, 0.0).results(source, 0)
    )
    lowest = float(source.intensity.inverse(images["net"]).min())
    assert lowest == pytest.approx(least, abs=2)


def test_slices_without_tissue_lower_n_and_nothing_else(tmp_path: Path) -> None:
    """Constant slices, and those of which no tile is tissue: figures that are not defined are left out, row by row."""
    constant, textured = np.full((96, 120), 40.0), 100 * texture(96, 120)
    volumes = [volume([constant], "CT", "a"), volume([textured], "CT", "b")]
    run = SplitEvaluation(volumes, {"net": Nearest(2)}, 2, 1, max_examples=4)
    table = run.run(tmp_path / "out").as_dict()
    assert {cells["comb"]["n"] for cells in table["native"]["rows"].values()} == {1}
    assert table["native"]["n_slices"] == 2
    assert table["structure"]["rows"]["net"]["ring_correlation"]["n"] == 1
    nothing = SplitEvaluation(volumes[:1], {"net": Nearest(2)}, 2, 1).run(tmp_path / "out").as_dict()
    assert nothing["native"]["rows"]["net"]["noise"] == {"mean": None, "sd": None, "n": 0, "ci95": None}


@pytest.mark.slow
def test_native_slices_can_be_left_out(folder: Path, tmp_path: Path) -> None:
    """An earlier evaluation's file does not stay beside a table that it does not belong to."""
    out = tmp_path / "out"
    volumes = load_evaluation_volumes(folder)
    SplitEvaluation(volumes, {}, 2, 1).run(out)
    assert (out / "native_per_slice.csv").is_file()
    table = SplitEvaluation(volumes, {}, 2, 1, native_slices_per_volume=0).run(out).as_dict()
    assert table["native"]["rows"] == {}
    assert not (out / "native_per_slice.csv").exists()
    assert "<h2>Slices as scanned</h2>" not in (out / "table.html").read_text()


def test_all_modalities_are_shown() -> None:
    textured = [texture(96, 96, k) for k in range(3)]
    volumes = [volume(textured, "CT", f"ct{n}") for n in range(20)] + [volume(textured, "PT", "pet")]
    shown = shown_slices(volumes, 3, 6)
    assert sorted({name[:2] for name, _ in shown}) == ["ct", "pe"]
    assert len(shown) == 4
    assert {number for _, number in shown} == {1}
    assert shown_slices(volumes, 3, 0) == set()


def test_details_show_flat_tissue_and_an_edge_in_one_window(tmp_path: Path) -> None:
    """The same pixels of all rows, in the window of the guide; pixels are repeated, and i runs to the right."""
    guide = torch.full((1, 1, 288, 384), -1.0)
    guide[..., 96:, :] = 0.2 + 0.1 * torch.tensor(texture(192, 384), dtype=torch.float32)
    guide[..., 192:, 96:192] = 0.2 + 0.01 * torch.tensor(texture(96, 96), dtype=torch.float32)
    guide[..., 100:180, 300:380:8] = 0.9
    assert flattest_detail(guide) == (192, 96)
    row, column = sharpest_detail(guide)
    assert 80 < row < 120
    assert 270 < column <= 288
    flat, edge = find_details({"source": guide, "net": guide + 0.5}, "source", "MR")
    assert (flat.label, edge.label) == ("MR, flat tissue", "MR, edge")
    assert torch.equal(flat.images["source"], guide[0, 0, 192:288, 96:192])
    assert flat.window[1] - flat.window[0] == pytest.approx(0.08, abs=0.03)
    assert edge.window[0] < 0 < 0.9 < edge.window[1]
    draw_details([flat, edge], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    first = sheet[48 : 48 + 288, :288]
    assert (first[::3, ::3] == first[2::3, 1::3]).all()
    low, high = flat.window
    expected = ((flat.images["source"].T - low) / (high - low) * 255).clamp(0, 255).numpy()
    assert np.abs(first[::3, ::3] - expected).max() < 1
    assert (sheet[48 : 48 + 288, 292 : 292 + 288] == 255).all(), "the same window, so brighter by 0.5"
    many = Detail("MR", {f"row{n}": flat.images["source"] for n in range(9)}, flat.window)
    draw_details([many], tmp_path / "wide.png")
    assert Image.open(tmp_path / "wide.png").width <= 1300, "what a page of 1400 pixels shows without shrinking it"
    none = find_details({"hr": torch.zeros(1, 1, 96, 96)}, "hr", "CT")
    assert [detail.label for detail in none] == ["CT, edge"]
