"""docs/speed.md says what was measured and what follows from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from benchmarks import speed
from benchmarks.department import NIGHT_S, SERIES, STUDIES, Rates, Study, totals
from benchmarks.speed_page import page
from monai_ldmsr.needs import MemoryBudget, disk_bytes, map_bytes, memory_bytes, scratch_bytes

MACHINE = {
    **{"date": "2026-01-31", "device": "CPU", "processor": "a processor", "cores": 4, "threads": 2},
    **{"instructions": "AVX2", "memory_gb": 16.0, "python": "3.11", "torch": "2.13", "load_before": 0.1},
}


def row(key: str, seconds: float, **more: Any) -> dict[str, Any]:
    spread = {"median": seconds, "least": 0.9 * seconds, "greatest": 1.1 * seconds, "repeats": 5}
    said = {"key": key, "name": f"way {key}", "is_whole": True, "note": "", "parameters": 2_500_000, "peak_mb": 321.0}
    return {**said, "seconds": spread, "gflop": 10 * seconds, **more}


def networks(device: str = "CPU", faster: float = 1.0) -> dict[str, Any]:
    sizes = []
    for side in (256, 1024):
        times = {"bicubic": 0.001, "srgan": 0.1, "mean": 0.2, "dial": 0.4}
        rows = [row(key, seconds * (side / 256) ** 2 / faster) for key, seconds in times.items()]
        lost = {"key": "monai_decode", "name": "decode", "note": "", "not_measured": "needs more memory than 1.0 GB"}
        rows = speed.compared(speed.extrapolated([*rows, row("monai_step", 1.0), lost]), 20.0)
        sizes.append({"size": side, "convolution_gflop_per_s": 20.0, "rows": rows})
    return {"machine": {**MACHINE, "device": device}, "factor": 4, "sizes": sizes}


def run(slices: int, factor: int, **more: Any) -> dict[str, Any]:
    pixels = slices * (512 * factor) ** 2 / 1e6
    once = {"imports": 3.0, "network and weights": 1.0, "network": 5.0}
    seconds = {**once, "read": 1.0, "write images": 0.1 * pixels, "write maps": 0.2 * pixels, "rest": 0.5}
    return {
        **{"slices": slices, "factor": factor, "network": "real", "threads": 2, "total_s": sum(seconds.values())},
        **{"cpu_s": 9.0, "seconds": seconds, "seconds_in_other_threads": {}, "not_found": [], "peak_mb": 1000.0},
        **{"peak_anonymous_mb": 700.0, "peak_by_phase": {}, "disk_mb": {"images": 30.0, "maps": 6.0}},
        **{"needs": {"memory_mb": 1200.0, "disk_mb": 40.0}, "network_batches": [[1, 1.5], [1, 1.0], [2, 1.0]]},
        **more,
    }


def pipeline() -> dict[str, Any]:
    few = run(4, 4)
    expected = {
        "network": "fast",
        "network_s_from_a_run_of_slices": 4,
        "network_s_expected": 62.5,
        "total_s_expected": 777.0,
    }
    return {
        "machine": MACHINE,
        "size": 512,
        "network": "fast",
        "runs": [few, run(25, 4, **expected), run(50, 2, network_batches=[[1, 1.5], [2, 1.6], [2, 1.4]])],
    }


def batches() -> dict[str, Any]:
    def ran(way: str, workers: int, rate: float) -> dict[str, Any]:
        said = {"way": way, "workers": workers, "threads_a_worker": 1, "cores": 4, "is_oversubscribed": workers > 4}
        return {**said, "series_an_hour": rate, "series_s_median": 9.0, "start_up_s": 4.0, "cores_used": 1.5}

    runs = [ran("one process", 1, 100.0), ran("Dask", 2, 150.0), ran("Dask", 8, 120.0)]
    return {"machine": MACHINE, "series": 12, "slices": 8, "size": 256, "factor": 2, "runs": runs}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in (("networks", networks()), ("pipeline", pipeline()), ("batch", batches())):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_page_is_as_made_from_what_was_measured() -> None:
    there, made = ROOT / "docs" / "speed.md", ROOT / "docs" / "speed"
    if not list(made.glob("*.json")):
        assert not there.exists(), "docs/speed.md is of nothing that was measured: remove it"
        return
    assert there.read_text(encoding="utf-8") == page(made), "docs/speed.md is stale: python -m benchmarks.speed_page"


def test_all_sections_are_there(folder: Path) -> None:
    found = page(folder)
    titles = re.findall(r"^## (.*)$", found, re.M)
    assert titles == [
        *("Networks, a slice at a time, on a CPU", "Whole runs", "Batches", "Typical studies"),
        f"On paper: {SERIES:,} series a night",
    ]
    assert "| way mean | 0.200 (0.180 to 0.220) | 2.00 x | 200 x | 2.00 | 50% | 2.50 million | 321 |" in found
    assert "| decode | not measured: needs more memory than 1.0 GB |" in found
    assert "At 1024 x 1024 the mean takes 2.00 times as long as SRGAN, and mean and sample 4.00 times." in found
    assert "| 25 | 4 | 4.00 | 1.00 | 62.5 * |" in found
    assert "| Dask | 2 | 1 | 150 | 9.00 | 4.00 | 1.50 |" in found
    assert "8 workers are more than the 4 cores" in found
    assert "2 Dask workers of 1 thread on each (1.50 times the rate, as of the small series above)" in found
    assert "| GPUs | not measured |" in found
    for part in re.split(r"^##+ ", found, flags=re.M)[1:]:
        assert len({line.count(" | ") for line in part.splitlines() if line.startswith("|")}) <= 1, part


def test_only_what_was_measured_is_there(folder: Path) -> None:
    for name in ("networks", "batch"):
        (folder / f"{name}.json").unlink()
    assert re.findall(r"^## (.*)$", page(folder), re.M) == ["Whole runs"]
    (folder / "pipeline.json").unlink()
    assert "##" not in page(folder)


def test_gpus_are_reckoned_with_where_they_were_measured(folder: Path) -> None:
    (folder / "networks_gpu.json").write_text(json.dumps(networks("a GPU", faster=100)))
    found = page(folder)
    assert "## Networks, a slice at a time, on a GPU" in found
    assert "or GPUs (a GPU) for the networks alone" in found
    assert "GPUs | not measured" not in found


def test_needs_are_the_packages_own_and_times_follow_from_the_measured() -> None:
    rates = Rates(networks(), pipeline())
    study = Study("a head", "CT", (512, 512, 30), 2)
    need = rates.need(study)
    assert need.network_s == pytest.approx(0.7 * 30)  # a slice of the whole run after its first batches
    assert need.other_s == pytest.approx((0.3 + 1.5 / 52.4288) * 0.512**2 * 4 * 30)  # of one run, so in proportion
    assert need.memory == memory_bytes(study.size, 2, 2)
    assert need.disk == disk_bytes(study.size, 2, map_bytes("error", None, 2))
    assert need.source == 512 * 512 * 30 * 2 + 30 * 8192
    assert need.memory_with_files == MemoryBudget(1).needed(study.size, 2) < need.memory
    assert need.scratch == scratch_bytes(study.size, 2)
    fine = rates.need(Study("a chest", "MR", (512, 512, 30), 4))
    assert fine.other_s == pytest.approx(1.5 + 0.3 * 0.512**2 * 16 * 30)  # a line through two runs
    assert fine.network_s == pytest.approx(0.5 * 2 * 30)  # a sample takes twice as long in the table
    small = rates.need(Study("a hand", "CT", (128, 128, 30), 2))
    assert small.network_s == pytest.approx(0.7 * 30 / 16)  # as the table has smaller sizes


def test_whole_runs_say_nothing_of_networks_on_a_gpu() -> None:
    study = Study("a head", "CT", (512, 512, 30), 2)
    on_gpu = Rates(networks("a GPU", faster=100), pipeline()).network_s(study)
    assert on_gpu == pytest.approx(0.2 / 100 / 0.256**2 * 0.512**2 * 4 * 30)


def test_a_night_is_made_of_the_studies_by_their_shares() -> None:
    rates = Rates(networks(), pipeline())
    needs = {study: rates.need(study) for study in STUDIES}
    whole = totals(needs, 100)
    assert whole.network_s == pytest.approx(sum(100 * study.share * one.network_s for study, one in needs.items()))
    assert whole.memory == max(one.memory for study, one in needs.items() if study.share)
    assert sum(study.share for study in STUDIES) == pytest.approx(1)
    assert NIGHT_S == 12 * 3600
    with pytest.raises(ValueError, match="add up"):
        totals({STUDIES[0]: needs[STUDIES[0]]})


def test_other_ways_and_an_earlier_version_stand_on_the_page(tmp_path: Path) -> None:
    of = {"clock": 50.0, "processors": 80.0, "super_resolve": 37.0, "write": 2.0}
    half = {name: value / 2 for name, value in of.items()}
    rows = [
        {"source": "ct", "factor": 2, "seconds": {"earlier": of, "this": half}, "times_faster": dict.fromkeys(of, 2)}
    ]
    (tmp_path / "side_by_side.json").write_text(json.dumps({"earlier": "0.6.0", "rows": rows}))
    ways = [
        {"way": "torch", "seconds": 3.0, "ready_s": 5.0, "difference": 0.0},
        {"way": "kept memory", "seconds": 2.0, "ready_s": 5.0, "difference": 0.0},
        {"way": "ONNX Runtime", "seconds": 2.5, "ready_s": 5.0, "difference": 1e-6},
        {"way": "OpenVINO", "not_measured": "it is not installed"},
    ]
    formats = {"float32": 80.0, "bfloat16": 800.0, "int8": 40.0, "to int8 and back": 30.0}
    (tmp_path / "engines.json").write_text(json.dumps({"pixels": 1024, "ways": ways, "formats": formats}))
    text = page(tmp_path)
    assert "## Beside version 0.6.0" in text
    assert "| | | **times faster** | 2.00 | 2.00 | 2.00 | 2.00 |" in text
    assert "map of its errors" not in text
    assert "| OpenVINO | not measured: it is not installed | | |" in text
    assert "int8 40.0 ms" in text
    assert "`--precision bfloat16` would take 10.0 times as long" in text
    assert "huge pages" not in text
    assert "ready" in text.split("## What was tried")[1]
    assert "No other engine is faster" in text
    ways[2]["seconds"] = 1.0
    (tmp_path / "engines.json").write_text(json.dumps({"pixels": 1024, "ways": ways, "formats": formats}))
    assert "No other engine is faster" not in page(tmp_path)


def test_new_slices_stand_on_the_page(tmp_path: Path) -> None:
    shapes = {"source_shape": [100, 100, 10], "result_shape": [200, 200, 50]}
    row = {
        "source": "pet",
        "factor": 2,
        "factor_slices": 5,
        "seconds": {"clock": 30.0, "super_resolve": 20.0},
        **shapes,
    }
    (tmp_path / "new_slices.json").write_text(json.dumps({"machine": MACHINE, "rows": [row]}))
    assert "| pet | 100 x 100 x 10 | 2 | 5 | 200 x 200 x 50 | 30.0 | 20.0 | 10.0 |" in page(tmp_path)


def test_whole_numbers_and_launches_stand_on_the_page(tmp_path: Path) -> None:
    row = {"way": "decoders, 7 bits", "dial": 0.0, "modality": "CT", "slices": 12}
    row |= {"psnr_before_db": 32.591, "psnr_after_db": 32.536, "apart_mean": 0.497, "apart_p99": 1.634}
    found = {"factor": 4, "rows": [row], "whole": {"seconds": {"float32": 3.0, "int8": 2.4}, "pixels": 1024}}
    (tmp_path / "quantized.json").write_text(json.dumps(found))
    counted = {"dial": 0.5, "side": 256, "batch": 16, "operations": 1000, "gflop": 600.0}
    (tmp_path / "launches.json").write_text(json.dumps({"rows": [counted]}))
    text = page(tmp_path)
    assert "| decoders, 7 bits | 0 | CT | 12 | 32.59 | 32.54 | 0.50 | 1.63 |" in text
    assert "2.40 s for a slice of 1024 x 1024, in float32 3.00 s (1.25 times as long)" in text
    assert "| 0.5 | 256 x 256 | 16 | 1,000 | 600 | 60.0 |" in text
    found["whole"] = {"not_measured": "NNCF and OpenVINO are not installed"}
    (tmp_path / "quantized.json").write_text(json.dumps(found))
    assert "not quantized: NNCF" in page(tmp_path)
