"""A dataset that travels: packed into few files, read by torch and NumPy alone, refused when damaged."""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from places import BUNDLES
from volume_files import textured, write_manifest

from monai_ldmsr.cli import main
from monai_ldmsr.errors import CorruptSourceError, OutputError, SettingsError, SourceError
from monai_ldmsr.evaluation.volumes import load_evaluation_volumes, why_not_measured
from monai_ldmsr.training import load_training_volumes
from monai_ldmsr.training.packed import INDEX, check_packed, index_text, is_packed, load_packed
from monai_ldmsr.training.packing import pack_dataset, write_packed
from monai_ldmsr.training.plan import TrainingPlan
from monai_ldmsr.training.slice_choice import SizedVolume, fitting_counts, level_shares
from monai_ldmsr.training.slice_codec import decode_slices, encode_slices, quantisation_step
from monai_ldmsr.training.training_data import TrainingData
from monai_ldmsr.training.volumes import SPLITS, TrainingVolume
from monai_ldmsr.transforms.intensity import CT_KNOTS_HU, IntensityMap

BUNDLE = BUNDLES / "ldm_sr"

#: einops is not among them: MONAI's attention, which the middle of its U-Net always has, needs it.
MISSING = ("SimpleITK", "pydicom", "highdicom", "nibabel", "matplotlib", "jinja2", "PIL", "rich", "fire", "scipy")

#: Run first in a process of its own: these packages cannot be imported there.
BARE = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {MISSING}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""


def made_slices(count: int, side: int = 64, amplitude: float = 500.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    x, y = np.meshgrid(np.linspace(0, 9, side), np.linspace(0, 7, side), indexing="ij")
    random = np.random.default_rng(seed)
    clean = amplitude * np.sin(x) * np.cos(y)
    return tuple((clean + random.normal(0, amplitude / 6, clean.shape)).astype(np.float32) for _ in range(count))


def made_volume(
    modality: str = "MR", count: int = 4, side: int = 64, seed: int = 0, halved: bool = False
) -> TrainingVolume:
    slices = made_slices(count, side, seed=seed)
    intensity = IntensityMap((-431.7, 512.25), (-1.0, 1.0), 0.3)
    if modality == "CT":
        slices = tuple(np.rint(image) for image in slices)
        intensity = IntensityMap(*zip(*CT_KNOTS_HU, strict=True))
    return TrainingVolume(f"{modality}_{seed}.nii.gz", modality, f"subject{seed}", slices, intensity, halved)


def made_dataset(folder: Path, manifest: bool = True) -> Path:
    """Three patients, MR and CT, one volume a split."""
    rows = []
    for n, (split, modality) in enumerate(zip(SPLITS, ("MR", "CT", "MR"), strict=True)):
        path = textured(folder / f"patient_{n}.nii.gz", (128, 128, 3), n, (9, 7))
        rows.append({"file": path.name, "split": split, "modality": modality, "subject": f"s{n}"})
    if manifest:
        write_manifest(folder, rows)
    return folder


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    folder = tmp_path / "packed"
    volumes = {split: [made_volume(seed=n), made_volume("CT", seed=10 + n)] for n, split in enumerate(SPLITS)}
    write_packed(volumes, folder, part_megabytes=0.03)
    assert len(list(folder.glob("part-*.bin"))) > 3
    return folder


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 7), (2, 9, 1), (5, 24, 31), (1, 64, 24)])
def test_the_codec_loses_nothing(shape: tuple[int, int, int]) -> None:
    random = np.random.default_rng(0)
    for top in (1, 100, 2**15, 2**24):
        images = random.integers(-top, top, shape, endpoint=True).astype(np.int32)
        assert np.array_equal(decode_slices(encode_slices(images), shape), images)


def test_the_codec_refuses_what_is_not_whole() -> None:
    planes = encode_slices(np.arange(64, dtype=np.int32).reshape(1, 8, 8) ** 2)
    for wrong in ([planes[0][:-3], *planes[1:]], [b"", *planes[1:]], [b"\xff" * 40, *planes[1:]]):
        with pytest.raises(CorruptSourceError, match="cannot be decompressed"):
            decode_slices(wrong, (1, 8, 8))
    with pytest.raises(CorruptSourceError, match="cannot be decompressed"):
        decode_slices(planes, (1, 8, 7))
    assert isinstance(planes[0], bytes)
    assert not planes[0].startswith(lzma.compress(b"")[:6]), "raw, without a container"


def test_ct_comes_back_exactly_and_mr_within_half_a_step(tmp_path: Path) -> None:
    mr, ct = made_volume("MR", halved=True), made_volume("CT", seed=1)
    pet = replace(mr, name="pet", modality="PT", slices=tuple(image / 1000 for image in mr.slices))
    pet = replace(pet, intensity=IntensityMap((0.0, 0.4), (-1.0, 1.0)))
    odd = replace(ct, name="metal", slices=(ct.slices[0].copy(), *made_slices(1, 40)))
    odd.slices[0][0, :3] = (-3024, 3071, 30000)
    write_packed({"train": [mr, ct, pet, odd]}, tmp_path / "p")
    found = load_packed(tmp_path / "p", "train")
    for volume, original in zip(found, (mr, ct, pet, odd), strict=True):
        assert replace(volume, slices=()) == replace(original, slices=())
        assert [image.shape for image in volume.slices] == [image.shape for image in original.slices]
        assert all(image.dtype == np.float32 for image in volume.slices)
    assert all(np.array_equal(a, b) for a, b in zip(found[1].slices, ct.slices, strict=True))
    assert found[3].slices[0][0, :3].tolist() == [-1024, 3071, 30000]
    for volume, original in ((found[0], mr), (found[2], pet)):
        low, high = original.intensity.values
        half_step = (high - low) / 1023 / 2
        worst = max(abs(a - b).max() for a, b in zip(volume.slices, original.slices, strict=True))
        assert half_step / 2 < worst <= half_step * 1.001


def test_whole_numbers_and_quarters_stay_exact_where_ten_bits_are_finer() -> None:
    whole = tuple(np.rint(image) for image in made_slices(2))
    assert quantisation_step(whole, "MR", IntensityMap((0.0, 500.0), (-1.0, 1.0))) == 1.0
    assert quantisation_step(whole, "MR", IntensityMap((0.0, 1500.0), (-1.0, 1.0))) == 1.0
    assert quantisation_step(whole, "MR", IntensityMap((0.0, 5000.0), (-1.0, 1.0))) == 4.0
    quarters = tuple(image / 4 for image in whole)
    assert quantisation_step(quarters, "MR", IntensityMap((0.0, 300.0), (-1.0, 1.0))) == 0.25
    assert quantisation_step(made_slices(1), "CT", IntensityMap(*zip(*CT_KNOTS_HU, strict=True))) == 1.0


def test_splits_are_kept(packed: Path) -> None:
    assert is_packed(packed)
    for n, split in enumerate(SPLITS):
        check_packed(packed, split)
        found = load_training_volumes(packed, split)
        assert [volume.subject for volume in found] == [f"subject{n}", f"subject{10 + n}"]
    assert len(load_training_volumes(packed, "all")) == 6
    assert load_training_volumes(packed, None) == []
    with pytest.raises(SettingsError, match="split is 'validation'"):
        load_packed(packed, "validation")


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    write_packed({"train": [made_volume()]}, tmp_path / "p")
    with pytest.raises(SettingsError, match=r"no split 'test' \(it has train\)"):
        load_training_volumes(tmp_path / "p", "test")
    assert len(load_evaluation_volumes(tmp_path / "p")) == 1
    plan = TrainingPlan(BUNDLE, TrainingData(tmp_path / "p"), tmp_path / "out", 0, None, "small", {})
    with pytest.raises(SettingsError, match="no split 'calibration'"):
        plan.read_data()


def test_a_training_needs_no_test_split(tmp_path: Path) -> None:
    write_packed({"train": [made_volume()], "calibration": [made_volume(seed=1)]}, tmp_path / "p")
    plan = TrainingPlan(BUNDLE, TrainingData(tmp_path / "p"), tmp_path / "out", 0, None, "small", {})
    assert {split: len(found) for split, found in plan.read_data().items()} == {"train": 1, "calibration": 1}
    assert why_not_measured(tmp_path / "p") == "the packed dataset has no split 'test'"


def test_damage_is_refused(packed: Path) -> None:
    part = packed / "part-000.bin"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    told = rf"has {len(whole) - 1} bytes in 'part-000.bin', but {len(whole)} were"
    with pytest.raises(CorruptSourceError, match=told):
        load_packed(packed, "train")
    assert len(load_packed(packed, "test")) == 2, "what lies in other parts can be read"
    part.write_bytes(whole[:99] + bytes([whole[99] ^ 1]) + whole[100:])
    with pytest.raises(CorruptSourceError, match=r"other bytes in 'part-000\.bin' than were written"):
        check_packed(packed, "train")
    part.unlink()
    with pytest.raises(CorruptSourceError, match=r"lacks 'part-000\.bin'") as caught:
        load_packed(packed, "all")
    assert str(packed.parent) not in str(caught.value)


def test_a_damaged_index_is_refused(packed: Path) -> None:
    index = packed / INDEX
    text = index.read_text()
    for wrong in (text[:-200], text.replace('"step": 1.0', '"step": 2.0', 1)):
        index.write_text(wrong)
        assert is_packed(packed)
        with pytest.raises(CorruptSourceError, match=r"has an index\.json that"):
            load_training_volumes(packed, "train")
    index.write_text(text.replace('"version": 1', '"version": 7'))
    with pytest.raises(SourceError, match="has version 7 of its format, but this software reads version 1"):
        load_training_volumes(packed, "train")
    index.unlink()
    assert not is_packed(packed)
    with pytest.raises(SourceError, match=r"holds no index\.json"):
        load_packed(packed, "train")


@pytest.mark.parametrize(
    "wrong", [{"offset": -5}, {"offset": 10**9}, {"shape": [1, 2]}, {"shape": [10**6] * 3}, {"part": 99}, {"planes": 3}]
)
def test_an_index_that_makes_no_sense_is_refused(packed: Path, wrong: dict[str, object]) -> None:
    content = json.loads((packed / INDEX).read_text())
    content["volumes"][0]["blocks"][0].update(wrong)
    (packed / INDEX).write_text(index_text(content["parts"], content["volumes"]))
    with pytest.raises(CorruptSourceError, match=r"The packed dataset|Slices of the packed"):
        load_packed(packed, "train")


def test_no_part_lies_elsewhere(packed: Path, tmp_path: Path) -> None:
    content = json.loads((packed / INDEX).read_text())
    (tmp_path / "elsewhere.bin").write_bytes((packed / "part-000.bin").read_bytes())
    content["parts"][0]["file"] = "../elsewhere.bin"
    (packed / INDEX).write_text(index_text(content["parts"], content["volumes"]))
    with pytest.raises(CorruptSourceError, match=r"lacks 'elsewhere\.bin'"):
        load_packed(packed, "train")


def test_the_goal_and_the_parts_are_kept(tmp_path: Path) -> None:
    large = [made_volume("MR", 30, seed=n) for n in range(3)]
    small = [made_volume("CT", 3, seed=10 + n) for n in range(3)]
    whole = write_packed({"train": [*large, *small]}, tmp_path / "whole", part_megabytes=0.1)
    assert whole.n_slices == whole.of_slices == 99
    for goal in (0.75, 0.3):
        folder = tmp_path / f"part{goal}"
        size = write_packed({"train": [*large, *small]}, folder, megabytes=goal * whole.n_bytes / 1e6)
        assert 0.7 * goal * whole.n_bytes < size.n_bytes <= goal * whole.n_bytes
        assert size.n_bytes == sum(path.stat().st_size for path in folder.iterdir())
        counts = [len(volume.slices) for volume in load_packed(folder, "train")]
        assert counts[3:] == [3, 3, 3], "CT is scarce and stays"
        assert max(counts[:3]) - min(counts[:3]) <= 2
    assert max(path.stat().st_size for path in (tmp_path / "whole").glob("part-*")) <= 1e5
    few = write_packed({"train": large}, tmp_path / "few", slices=2)
    assert few.n_slices == 6
    wrongs = [
        ({"megabytes": 0.001}, "do not fit in 0.001 MB"),
        ({"part_megabytes": 0.001}, "A slice takes"),
        ({"slices": 0}, "slices is 0; give"),
    ]
    for wrong, message in wrongs:
        with pytest.raises(SettingsError, match=message):
            write_packed({"train": large}, tmp_path / "none", **wrong)
    assert not (tmp_path / "none").exists()
    assert not list(tmp_path.glob(".*")), "nothing half-written is left"


def test_the_largest_give_way_first() -> None:
    assert level_shares([10, 40, 50], 70) == [10, 30, 30]
    volumes = [SizedVolume(("train", "MR"), n, 10.0) for n in (50, 40, 5)]
    volumes += [SizedVolume(("train", "CT"), 10, 20.0), SizedVolume(("test", "MR"), 10, 10.0)]
    assert fitting_counts(volumes, 10**6) == [50, 40, 5, 10, 10]
    assert fitting_counts(volumes, 625) == [16, 16, 5, 10, 5]
    assert fitting_counts(volumes, 0) == [1] * 5


def test_the_command_packs_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, folder = made_dataset(tmp_path / "data"), tmp_path / "packed"
    assert main(["pack", str(data), str(folder), "--slices", "2"]) == 0
    assert "6 of 9 slices of 3 volumes" in capsys.readouterr().out
    assert [volume.name for volume in load_packed(folder, "all")] == [f"patient_{n}.nii.gz" for n in range(3)]
    volumes, original = load_packed(folder, "calibration"), load_training_volumes(data, "calibration", False)
    assert volumes[0].intensity == original[0].intensity
    assert np.array_equal(volumes[0].slices[0], original[0].slices[0].clip(-1024))
    assert all(str(tmp_path).encode() not in path.read_bytes() for path in folder.iterdir())
    assert main(["pack", str(data), str(folder)]) == 7
    assert "exists already" in capsys.readouterr().err
    assert main(["pack", str(folder), str(tmp_path / "again")]) == 1
    assert "is packed already" in capsys.readouterr().err
    assert main(["pack", str(data), str(tmp_path / "train"), "--splits", "train"]) == 0
    assert {volume["split"] for volume in json.loads((tmp_path / "train" / INDEX).read_text())["volumes"]} == {"train"}


def test_file_names_may_tell_patients(tmp_path: Path) -> None:
    pack_dataset(made_dataset(tmp_path / "data", manifest=False), tmp_path / "packed", modality="MR")
    assert all(b"patient" not in path.read_bytes() for path in (tmp_path / "packed").iterdir())
    assert len({volume.name for volume in load_packed(tmp_path / "packed", "all")}) == 3


def test_an_unreadable_volume_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = made_dataset(tmp_path / "data")
    (data / "patient_2.nii.gz").write_bytes(b"no image")
    assert main(["pack", str(data), str(tmp_path / "packed")]) == 4
    said = capsys.readouterr().err
    assert "'patient_2.nii.gz'" in said
    assert str(tmp_path) not in said
    assert not (tmp_path / "packed").exists()


def test_only_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_packed({"train": [made_volume()]}, tmp_path / "empty")
    assert is_packed(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(OutputError, match="'full' exists already"):
        write_packed({"train": [made_volume()]}, tmp_path / "full")


def run_bare(code: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", BARE + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False)


@pytest.mark.slow
def test_what_trains_is_imported_without_readers_of_images() -> None:
    names = (
        "cli", "training", "training.packed", "networks", "workflow", "transforms.intensity", "metrics", "degradation",
        "losses",
    )  # fmt: skip
    code = "\n".join(f"import monai_ldmsr.{name}" for name in names)
    done = run_bare(f"{code}\nfor name in monai_ldmsr.training.__all__:\n  name == 'find_entries' or "
                    "getattr(monai_ldmsr.training, name)", 120)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_training_runs_without_readers_of_images(tmp_path: Path) -> None:
    volumes = {split: [made_volume(side=128, seed=n)] for n, split in enumerate(SPLITS)}
    write_packed(volumes, tmp_path / "packed")
    code = f"""
import functools
from monai_ldmsr import workflow
from monai_ldmsr.cli import main
fast = {{"sizes": [[96, 1]], "checkpoints::interval_s": 0}}
small = {{**fast, "pictures::interval_s": 0}}
stages = {{"autoencoder": fast, "diffusion": fast, "adversarial": small, "srresnet": small, "srgan": small}}
workflow.train = functools.partial(workflow.train, overrides=stages)
sys.exit(main(["train", {str(tmp_path / "packed")!r}, {str(tmp_path / "out")!r}, "--budget", "8s", "--device", "cpu"]))
"""
    done = run_bare(code, 300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "No validation pictures are drawn: Pillow is not installed." in done.stderr
    assert "evaluation: none; that takes" in done.stdout
    assert (tmp_path / "out" / "ldm_sr_custom" / "models" / "model.pt").is_file()
    assert (tmp_path / "out" / "ldm_sr_custom_srgan" / "models" / "model.pt").is_file()
