"""Which volumes a training takes, from a manifest or from any folder; and what it refuses before time is spent."""

from __future__ import annotations

import logging
import shutil
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from dicom_fixtures import MARKER, MARKER_ID, make_series
from ignite.engine import Engine
from volume_files import textured, write_manifest

from monai_ldmsr.errors import OutputError, ReasonCode, SettingsError, SourceError, WeightsError
from monai_ldmsr.training import (
    SafeCheckpoints,
    ValidationPictures,
    check_disk_space,
    load_training_volumes,
    resume_training,
)
from monai_ldmsr.training.checkpoints import newest_checkpoint
from monai_ldmsr.training.discovery import find_entries, split_subjects
from monai_ldmsr.training.plan import parse_budget
from monai_ldmsr.training.volumes import SPLITS

make_volume = partial(textured, shape=(64, 60, 2), reach=(9, 9))


def test_any_folder_is_split_by_patient(tmp_path: Path) -> None:
    for n in range(4):
        make_volume(tmp_path / f"patient{n}" / "first.nii.gz", seed=n)
        make_volume(tmp_path / f"patient{n}" / "later" / "second.nii.gz", seed=n)
    make_volume(tmp_path / "alone.nii")
    make_series(tmp_path / "dicom" / "mr", "MR", (48, 40, 3))
    by_split = {split: find_entries(tmp_path, split) for split in SPLITS}
    assert all(by_split.values())
    everything = find_entries(tmp_path, "all")
    assert len(everything) == sum(map(len, by_split.values())) == 10
    subjects = {split: {entry.subject for entry in entries} for split, entries in by_split.items()}
    assert sum(map(len, subjects.values())) == len(set.union(*subjects.values())) == 6
    assert by_split == {split: find_entries(tmp_path, split) for split in SPLITS}
    assert not any(word in repr(everything) for word in ("patient0", MARKER, MARKER_ID)), "a patient is named"


def test_dicom_volumes_tell_their_modality(tmp_path: Path) -> None:
    make_series(tmp_path / "dicom" / "ct", "CT", (48, 40, 3))
    make_volume(tmp_path / "dicom" / "beside.nii.gz")
    entries = find_entries(tmp_path, "all")
    assert len({entry.subject for entry in entries}) == 1, "a file beside one patient's series is that patient's"
    volumes = load_training_volumes(tmp_path, "all")
    assert {volume.modality for volume in volumes} == {"CT", "unknown"}
    assert {len(volume.slices) for volume in volumes} == {2, 3}


@pytest.mark.parametrize("count", [3, 4, 10, 200])
def test_no_split_is_empty(count: int) -> None:
    splits = split_subjects([f"subject{n}" for n in range(count)])
    found = {split: list(splits.values()).count(split) for split in SPLITS}
    assert min(found.values()) >= 1
    assert found["train"] == max(found.values())
    if count == 200:
        assert 0.6 < found["train"] / count < 0.8
        more = split_subjects([f"subject{n}" for n in range(count + 50)])
        assert all(more[subject] == split for subject, split in splits.items()), "more patients moved others"


def test_too_few_patients_or_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no file"):
        find_entries(tmp_path, "train")
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(SourceError, match="no DICOM series and no volume file"):
        find_entries(tmp_path, "train")
    make_volume(tmp_path / "a.nii.gz")
    make_volume(tmp_path / "b.nii.gz")
    with pytest.raises(SettingsError, match="holds 2 patients, but 3 are needed"):
        find_entries(tmp_path, "train")
    with pytest.raises(SettingsError, match="split is 'validation'"):
        find_entries(tmp_path, "validation")


def test_a_manifest_needs_only_file_and_split(tmp_path: Path) -> None:
    make_volume(tmp_path / "p" / "a.nii.gz")
    make_series(tmp_path / "q" / "series", "MR", (48, 40, 3))
    write_manifest(tmp_path, [{"file": "p/a.nii.gz", "split": "train"}, {"file": "q/series", "split": "train"}])
    volumes = load_training_volumes(tmp_path, "train")
    assert [volume.modality for volume in volumes] == ["unknown", "MR"]
    assert len({volume.subject for volume in volumes}) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"file": "a", "modality": "MR"}], "no column split"),
        ([{"file": "a", "split": "dev"}], "Line 2 of manifest.csv has file 'a' and split 'dev'"),
        ([{"file": "/home/someone/a", "split": ""}], "has file 'a' and split ''"),
        ([{"file": "a", "split": "train", "modality": "US"}], "modality is 'US'"),
        ([{"file": f, "split": s, "subject": "x"} for f, s in (("a", "train"), ("b", "test"))], "more than one split"),
        ([{"file": f, "split": s} for f, s in (("p/a", "train"), ("p/b", "test"), ("q/c", "test"))], "1 of 2 subjects"),
        ([{"file": "a", "split": "test"}], "no entry in split 'train'"),
    ],
)
def test_a_manifest_is_checked(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    write_manifest(tmp_path, rows)
    with pytest.raises(SettingsError, match=message):
        find_entries(tmp_path, "train")


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    make_volume(tmp_path / "good.nii.gz")
    bad = np.zeros((64, 60, 2), np.float32)
    bad[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(bad, np.eye(4)), tmp_path / "bad.nii.gz")
    with pytest.raises(SourceError, match=r"'bad\.nii\.gz': 1 of 7680 voxels are NaN") as caught:
        load_training_volumes(tmp_path, "all")
    assert caught.value.reason is ReasonCode.NOT_FINITE
    assert str(tmp_path) not in str(caught.value)


def test_small_volumes_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_volume(tmp_path / "small.nii.gz", shape=(20, 64, 2))
    with pytest.raises(SourceError, match="No volume of split 'all' has a usable slice"):
        load_training_volumes(tmp_path, "all")
    make_volume(tmp_path / "large.nii.gz", shape=(24, 64, 2))
    with caplog.at_level(logging.WARNING):
        assert [volume.name for volume in load_training_volumes(tmp_path, "all")] == ["large.nii.gz"]
    assert "'small.nii.gz' is left out: its slices of 20 x 64 pixels have a side below 24." in caplog.text


def test_a_found_volume_that_cannot_be_used_is_left_out_but_a_listed_one_is_refused(tmp_path: Path) -> None:
    make_volume(tmp_path / "good.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros((30, 30, 2, 3), np.float32), np.eye(4)), tmp_path / "four.nii.gz")
    assert len(load_training_volumes(tmp_path, "all")) == 1
    write_manifest(tmp_path, [{"file": "four.nii.gz", "split": "train"}])
    with pytest.raises(SourceError, match=r"'four\.nii\.gz': The file holds 3 volumes"):
        load_training_volumes(tmp_path, "train")


def test_a_full_or_closed_disk_is_found_at_the_start(tmp_path: Path) -> None:
    check_disk_space(tmp_path / "new", needed_bytes=1)
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(OutputError, match="MB left, but training needs"):
        check_disk_space(tmp_path, needed_bytes=10**18)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        check_disk_space(tmp_path / "file")


def engine_at(iteration: int) -> Engine:
    engine = Engine(lambda *_: None)
    engine.state.iteration = iteration
    return engine


def test_the_last_checkpoint_survives_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = torch.nn.Linear(3, 2)
    saver = SafeCheckpoints(tmp_path, {"network": network}, "stage")
    saver.save(engine_at(5))
    (tmp_path / "other_checkpoint_iteration=9.pt").touch()

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(OutputError, match=r"iteration=6\.pt' cannot be written"):
            saver.save(engine_at(6))
    names = ["other_checkpoint_iteration=9.pt", "stage_checkpoint_iteration=5.pt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    # A resumed training counts anew: the newest is the one written last.
    saver.save(engine_at(2))
    newest = newest_checkpoint(tmp_path, "stage")
    assert newest is not None
    assert newest.name == "stage_checkpoint_iteration=2.pt"
    assert newest_checkpoint(tmp_path, "none") is None
    fresh = torch.nn.Linear(3, 2)
    resume_training(newest, {"network": fresh})
    assert torch.equal(fresh.weight, network.weight)


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    SafeCheckpoints(tmp_path, {"network": torch.nn.Linear(3, 2)}, "stage").save(engine_at(5))
    path = tmp_path / "stage_checkpoint_iteration=5.pt"
    with pytest.raises(WeightsError, match=r"'stage_checkpoint_iteration=5\.pt' does not fit"):
        resume_training(path, {"network": torch.nn.Linear(4, 2)})
    with pytest.raises(WeightsError, match="does not fit"):
        resume_training(path, {"critic": torch.nn.Linear(3, 2)})
    cut = tmp_path / "cut.pt"
    cut.write_bytes(path.read_bytes()[:300])
    with pytest.raises(WeightsError, match=r"'cut\.pt' is damaged"):
        resume_training(cut, {"network": torch.nn.Linear(3, 2)})
    torch.save({"network": Path("executed")}, cut)
    with pytest.raises(WeightsError, match="UnpicklingError"):
        resume_training(cut, {"network": torch.nn.Linear(3, 2)})
    with pytest.raises(WeightsError, match="does not exist"):
        resume_training(tmp_path / "none.pt", {})
    resume_training(None, {})


def test_pictures_are_drawn_and_never_stop_a_training(tmp_path: Path) -> None:
    make_volume(tmp_path / "data" / "a.nii.gz", shape=(130, 110, 3))
    make_volume(tmp_path / "data" / "b.nii.gz", shape=(50, 61, 3))
    volumes = load_training_volumes(tmp_path / "data", "all")
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.Upsample(scale_factor=4))
    handler = ValidationPictures(network, volumes, tmp_path / "pictures", "stage", interval_s=0)
    engine = Engine(lambda *_: None)
    handler.attach(engine)
    engine.run(range(5), max_epochs=1)
    assert [p.name for p in sorted((tmp_path / "pictures").iterdir())] == [f"stage_{n:07d}.png" for n in range(1, 6)]
    assert network.training
    shutil.rmtree(tmp_path / "pictures")
    (tmp_path / "pictures").touch()
    engine.run(range(5), max_epochs=1)
    ValidationPictures(network, [], tmp_path, "none", interval_s=0).attach(engine)


def test_budgets() -> None:
    assert [parse_budget(text) for text in ("90s", "30m", "2h", 7)] == [90, 1800, 7200, 7]
    for wrong in ("2", "h", "-1h", "0s", "2 days", "", 0, -3):
        with pytest.raises(SettingsError, match="give a time above zero"):
            parse_budget(wrong)
