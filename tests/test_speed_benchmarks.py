"""The programs that measure speed, memory and disk: what they compute of what they measured, and small runs of them."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import batch, launches, pipeline, quantized, speed
from benchmarks.made_series import make_ct_series
from benchmarks.pipeline import Sample
from benchmarks.pipeline_child import FastNetwork, Phases, instrument, record_batches
from benchmarks.speed_rows import Row, made_slice
from monai_ldmsr import load_super_resolver
from monai_ldmsr.geometry import Factors
from monai_ldmsr.inferers import VolumeInferer
from monai_ldmsr.io import find_dicom_series, read_dicom_series
from monai_ldmsr.io.source_size import SourceSize
from monai_ldmsr.needs import usual_batch


def row_of(call: Any) -> Row:
    return Row("one", "a stand-in", lambda _: (call, 3))


def measured(call: Any, repeats: int = 2, limit_s: float = 60, limit_mb: float = 500) -> dict[str, Any]:
    return speed.measured(row_of(call), made_slice(16), "cpu", repeats, limit_s, limit_mb)


def test_a_row_is_timed_and_its_operations_are_counted() -> None:
    layer = torch.nn.Conv2d(1, 8, 3, padding=1)
    found = measured(layer, repeats=3)
    assert found["seconds"]["repeats"] == 3
    assert found["seconds"]["least"] <= found["seconds"]["median"] <= found["seconds"]["greatest"]
    assert found["gflop"] == pytest.approx(2 * 8 * 9 * 16 * 16 / 1e9)
    assert (found["parameters"], found["key"]) == (3, "one")
    assert found["peak_mb"] > 50


def test_what_takes_too_long_is_not_measured() -> None:
    def endless(image: torch.Tensor) -> None:
        while True:
            image + 1

    assert measured(endless, limit_s=0.2)["not_measured"] == "one call takes more than 0.2 s"


def test_where_there_is_no_time_for_another_call_the_first_counts() -> None:
    found = measured(lambda _: time.sleep(0.3), repeats=5, limit_s=0.5)
    assert found["seconds"]["repeats"] == 1
    assert found["seconds"]["median"] >= 0.3


def test_what_needs_too_much_memory_is_not_measured() -> None:
    assert measured(lambda _: torch.empty(2**31), limit_mb=1024)["not_measured"] == "needs more memory than 1.0 GB"
    assert torch.empty(2**28).numel() == 2**28  # allowed again


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        measured(lambda image: image.reshape(3, 3))


def timed(key: str, seconds: float, gflop: float, parameters: int = 1) -> dict[str, Any]:
    spread = {"median": seconds, "least": seconds, "greatest": seconds, "repeats": 1}
    said = {"key": key, "name": key, "is_whole": True, "note": "", "peak_mb": 10.0}
    return {**said, "seconds": spread, "gflop": gflop, "parameters": parameters}


def test_rows_of_more_steps_follow_from_the_time_of_a_step() -> None:
    plain = timed("srgan", 2, 8), timed("codec", 1, 4, 5), timed("ddpm50", 11, 104, 7)
    found = speed.extrapolated([*plain, timed("monai_step", 3, 30, 11), timed("monai_decode", 20, 200, 13)])
    assert [one["key"] for one in found] == [
        *("srgan", "srresnet", "codec", "ddpm50", "ddpm1000", "monai_step", "monai_decode", "monai1000")
    ]
    known = {one["key"]: one for one in found}
    assert known["srresnet"]["seconds"] == known["srgan"]["seconds"]
    assert known["ddpm1000"]["seconds"]["median"] == pytest.approx(1 + 1000 * 0.2)
    assert known["ddpm1000"]["gflop"] == pytest.approx(4 + 1000 * 2)
    assert known["ddpm1000"]["parameters"] == 7
    assert known["monai1000"]["seconds"]["median"] == 3020
    assert known["monai1000"]["parameters"] == 24
    assert known["monai1000"]["is_extrapolated"]


def test_what_follows_from_a_row_that_was_not_measured_is_not_known() -> None:
    failed = {"key": "monai_decode", "name": "decode", "not_measured": "needs more memory than 1 GB"}
    found = speed.extrapolated([timed("monai_step", 3, 30), failed])
    assert found[-1]["not_measured"] == "a part of it: needs more memory than 1 GB"
    assert "times_srgan" not in speed.compared(found, 100.0)[-1]


def test_rows_are_compared() -> None:
    found = speed.compared([timed("bicubic", 0.5, 0), timed("srgan", 2, 100), timed("mean", 3, 240)], 160.0)
    assert [one["times_srgan"] for one in found] == [0.25, 1, 1.5]
    assert found[2]["times_bicubic"] == 6
    assert (found[2]["gflop_per_s"], found[2]["share_of_convolution"]) == (80, 0.5)


def test_a_run_of_the_speed_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speed.main(["--sizes", "64", "--repeats", "1", "--only", "bicubic", "--output", str(tmp_path / "a" / "n.json")])
    found = json.loads((tmp_path / "a" / "n.json").read_text())
    (here,) = found["sizes"]
    assert [one["key"] for one in here["rows"]] == ["bicubic"]
    assert here["convolution_gflop_per_s"] > 0
    assert found["machine"]["torch"] == torch.__version__
    assert "bicubic" in capsys.readouterr().out


@pytest.mark.slow
def test_the_bundles_are_called_as_runs_call_them(tmp_path: Path) -> None:
    arguments = ["--sizes", "64", "--repeats", "1", "--only", "srgan", "mean", "dial", "codec", "ddpm50"]
    speed.main([*arguments, "--output", str(tmp_path / "n.json")])
    rows = {one["key"]: one for one in json.loads((tmp_path / "n.json").read_text())["sizes"][0]["rows"]}
    assert len(rows) == 7
    assert not [key for key, one in rows.items() if "not_measured" in one]
    assert rows["dial"]["gflop"] > 1.5 * rows["mean"]["gflop"]
    assert rows["ddpm1000"]["gflop"] > 15 * rows["ddpm50"]["gflop"]


def test_the_made_series_is_valid_and_no_two_slices_are_alike(tmp_path: Path) -> None:
    make_ct_series(tmp_path / "fine", 17, 256)
    make_ct_series(tmp_path / "coarse", 17, 64, seed=1)
    fine, coarse = (read_dicom_series(find_dicom_series(tmp_path / name)[0][0]) for name in ("fine", "coarse"))
    assert (fine.geometry.shape, coarse.geometry.shape) == ((256, 256, 17), (64, 64, 17))
    assert fine.geometry.spacing_mm == pytest.approx((1.71875, 1.71875, 5))
    assert coarse.geometry.spacing_mm == pytest.approx((6.875, 6.875, 5))
    faces = [one.geometry.affine @ [-0.5, -0.5, 0, 1] for one in (fine, coarse)]
    assert np.allclose(*faces, atol=2e-3)
    slices = [fine.voxels[..., k] for k in range(17)]
    assert not [k for k in range(16) for other in slices[k + 1 :] if np.array_equal(slices[k], other)]
    with pytest.raises(ValueError, match="whole part"):
        make_ct_series(tmp_path / "odd", 1, 100)


def test_a_phase_within_another_is_taken_out_of_it() -> None:
    phases = Phases()
    inner = phases.timed("inner", lambda: time.sleep(0.05))
    with phases.phase("outer"):
        inner()
        inner()
    other = threading.Thread(target=inner)
    other.start()
    other.join()
    assert 0.1 <= phases.seconds["inner"] < 0.5
    assert phases.seconds["outer"] < 0.05
    assert list(phases.beside) == ["inner"]
    assert [name for name, _, _ in phases.spans] == ["inner", "inner", "outer", "inner"]


class ReadSourced:
    def __call__(self, data: int) -> int:
        return data + 1


class ImageOutput:
    def write(self, data: int) -> int:
        return 2 * data


def test_what_a_bundle_configured_is_timed_by_its_class() -> None:
    reading, writing = SimpleNamespace(transforms=(ReadSourced(),)), ImageOutput()
    evaluator = SimpleNamespace(
        dataset=SimpleNamespace(transform=reading),
        postprocessing=SimpleNamespace(transforms=()),
        range_check=lambda data: data,
        inferer=SimpleNamespace(),  # one without `estimate`
        writer=SimpleNamespace(outputs=[writing], report=SimpleNamespace(write=lambda: None)),
    )
    phases = Phases()
    instrument(evaluator, phases)
    assert (reading.transforms[0](1), writing.write(4), evaluator.range_check(5)) == (2, 8, 5)
    assert set(phases.seconds) == {"read", "write images", "check range"}
    assert phases.missing == ["network"]


def test_in_place_of_a_network_comes_bicubic_interpolation_after_its_largest_batch() -> None:
    asked: list[int] = []
    network = SimpleNamespace(factors=Factors.of(2), takes_places=True, describe=lambda *known: {"detail": known[1]})
    network.estimates = lambda slices, *known, **places: asked.append(len(slices))
    fast = FastNetwork(network)
    ((result, error),) = fast.estimates(made_slice(8), "CT", 1.0, places_mm=[0.0])
    for n in (3, 2, 3):
        fast.estimates(made_slice(8).expand(n, 1, 8, 8), "CT", 1.0)
    assert asked == [1, 3]
    assert result.shape == error.shape == (1, 1, 16, 16)
    assert (error > 0).all()
    assert fast.describe("CT", 0.5) == {"detail": 0.5}
    assert fast.takes_places


def test_memory_is_given_by_phase() -> None:
    samples = [Sample(1.0, 100, 60), Sample(2.0, 300, 50), Sample(3.0, 200, 90)]
    found = pipeline.peaks_by_phase(samples, [("read", 0.5, 2.5), ("write", 2.6, 4.0), ("quick", 2.1, 2.2)])
    assert found == {
        "read": {"resident_mb": 300, "anonymous_mb": 60},
        "write": {"resident_mb": 200, "anonymous_mb": 90},
    }


def test_the_network_of_a_fast_run_is_taken_from_another_slice_for_slice() -> None:
    few = {"slices": 9, "network_batches": [[1, 5.0], [2, 6.0], [2, 4.0], [2, 3.0], [2, 5.0]]}
    assert pipeline.network_time(few) == (5, 2)  # 3 s more than its slice takes the first batch, 2 the next
    found = pipeline.with_network({"slices": 50, "total_s": 30.0, "seconds": {"network": 5.0}}, few)
    assert (found["network_s_expected"], found["total_s_expected"]) == (105, 130)
    assert found["network_s_from_a_run_of_slices"] == 9


def test_a_run_of_few_batches_has_nothing_that_is_paid_once() -> None:
    assert pipeline.network_time({"network_batches": [[1, 5.0], [2, 4.0]]}) == (0, 3.5)


def test_batches_of_a_network_are_noted() -> None:
    network = SimpleNamespace(estimates=lambda slices, *known, **places: (known, places))
    batches = record_batches(network)
    assert network.estimates([1, 2], "CT", places_mm=[0.0]) == (("CT",), {"places_mm": [0.0]})
    ((slices, seconds),) = batches
    assert slices == 2
    assert 0 <= seconds < 10


def test_disk_is_given_by_kind(tmp_path: Path) -> None:
    for name, size in (("dicom/1.dcm", 2), ("dicom/2.dcm", 2), ("maps/error.dcm", 1), ("report.html", 3), ("x", 1)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"0" * 2**20 * size)
    assert pipeline.disk_by_kind(tmp_path) == {"images": 4, "maps": 1, "report": 3, "others": 1}


def test_the_usual_batch_is_that_of_the_inferer() -> None:
    inferer = VolumeInferer()
    assert usual_batch(SourceSize((8, 8, 100), 2), 2) == inferer.describe()["batch_size"]
    side = int(inferer.max_batch_pixels**0.5)
    assert usual_batch(SourceSize((side, side, 100), 2), 1) == 1
    assert usual_batch(SourceSize((8, 8, 3), 2), 2) == 3


@pytest.mark.slow
def test_all_phases_of_a_run_are_found(tmp_path: Path) -> None:
    output = tmp_path / "p.json"
    arguments = ["--slices", "3", "--network-slices", "2", "--factors", "2", "--size", "64", "--network", "fast"]
    pipeline.main([*arguments, "--output", str(output)])
    real, fast = json.loads(output.read_text())["runs"]
    for one in (real, fast):
        assert one["not_found"] == []
        written = {"write images", "write maps", "write report", "read back"}
        assert {"imports", "network and weights", "read", "network", "project", *written} <= one["seconds"].keys()
        assert sum(one["seconds"].values()) == pytest.approx(one["total_s"], rel=0.05)
        assert one["peak_mb"] >= one["peak_anonymous_mb"] > 100
        assert one["disk_mb"].keys() == {"images", "maps", "report"}
    assert fast["network_s_from_a_run_of_slices"] == 2


def test_a_batch_is_rated_from_the_begin_of_its_first_series() -> None:
    found = batch.rates([(110.0, 6.0), (114.0, 7.0), (122.0, 8.0)], start=100.0)
    assert found["start_up_s"] == 4
    assert found["series_s_median"] == 7
    assert found["series_an_hour"] == 3600 * 3 / 18


def test_workers_share_the_cores() -> None:
    assert [batch.threads_of(n, 8) for n in (0, 1, 2, 3, 16)] == [8, 8, 4, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("1",)], ids=["alone", "dask"])
def test_a_batch_is_measured(tmp_path: Path, workers: tuple[str, ...]) -> None:
    arguments = ["--series", "1", "--slices", "1", "--size", "64", "--output", str(tmp_path / "b.json"), "--workers"]
    batch.main([*arguments, *workers])
    runs = json.loads((tmp_path / "b.json").read_text())["runs"]
    assert [one["way"] for one in runs] == ["one process", *(["Dask"] if workers else [])]
    for one in runs:
        assert one["series_an_hour"] > 1
        assert one["total_s"] > one["start_up_s"] > 0
        assert one["cores_used"] > 0


def test_rounded_layers_err_by_their_steps_and_are_left_as_they_were() -> None:
    torch.manual_seed(0)
    network, _ = load_super_resolver(factor=4)
    names = quantized.decoders_of(network.generator)
    assert len(names) == 14
    assert {name.split(".")[0] for name in names} == {"mean_decoder", "sample_decoder"}
    layer = torch.nn.Conv2d(4, 4, 1, bias=False)
    before, image = layer.weight.detach().clone(), torch.rand(1, 4, 32, 32) * 2 - 1
    layers = {"layer": layer}
    with torch.no_grad():
        ranges = quantized.ranges_of(layers, lambda: layer(image))
        low, high = ranges["layer"]
        assert -1.0 <= low < -0.99
        assert 0.99 < high <= 1.0
        exact, errors = layer(image), []
        for bits in (8, 6):
            with quantized.rounded(layers, ranges, bits):
                errors.append(float((layer(image) - exact).abs().mean()))
        assert 0 < errors[0] < 4 * (2 / 255) * float(before.abs().max())
        assert 2 < errors[1] / errors[0] < 8
    assert torch.equal(layer.weight, before)
    assert not layer._forward_pre_hooks


def test_rows_of_rounding_have_the_figures_of_each_modality() -> None:
    truth = torch.zeros(1, 1, 8, 8)
    given = [quantized.Sample(modality, truth, truth) for modality in ("MR", "CT", "MR")]
    ct, mr = quantized.rows_of("a way", 0.5, given, [truth + 0.02] * 3, [truth + 0.2] * 3)
    assert (ct["modality"], ct["slices"], mr["modality"], mr["slices"]) == ("CT", 1, "MR", 2)
    assert ct["psnr_before_db"] == pytest.approx(40.0, abs=1e-4)
    assert mr["psnr_after_db"] == pytest.approx(20.0, abs=1e-4)
    assert mr["apart_mean"] == pytest.approx(0.18 * 127.5, rel=1e-4)


@pytest.mark.slow
def test_a_batch_launches_as_many_operations_whatever_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches, "SIDES", (128, 256))
    monkeypatch.setattr(launches, "BATCHES", (2, 4))
    rows = launches.rows()
    for dial in (0.0, 0.5):
        of = [row for row in rows if row["dial"] == dial]
        assert len({row["operations"] for row in of}) == 1
        assert of[0]["gflop"] * 2 == pytest.approx(of[1]["gflop"], rel=1e-6)
    assert rows[-1]["operations"] > 1.5 * rows[0]["operations"]
