"""``ldmsr train``: all stages on tiny made volumes; and training by two processes."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from places import BUNDLES
from volume_files import textured, write_manifest

from monai_ldmsr import workflow
from monai_ldmsr.cli import main
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.networks import save_weights
from monai_ldmsr.storage import file_sha256
from monai_ldmsr.training import plan
from monai_ldmsr.training.volumes import SPLITS

#: Few small patches, a picture and a checkpoint early; what a codec is worth after seconds depends on the machine.
FAST = {"sizes": [[96, 1]], "checkpoints::interval_s": 0}
SMALL = {**FAST, "pictures::interval": 1}
NETWORK = {"denoiser_channels": [16, 16, 16, 32], "denoiser_blocks": [2, 1, 1, 1]}
OVERRIDES = {
    "autoencoder": FAST,
    "diffusion": {**FAST, "gate_split": ""},
    "adversarial": {**SMALL, "gate_split": ""},
    **dict.fromkeys(("srresnet", "srgan"), SMALL),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients, one volume each, and a manifest."""
    folder = tmp_path_factory.mktemp("data")
    for n, split in enumerate(SPLITS):
        textured(folder / f"{split}.nii.gz", (128, 128, 3), n)
    write_manifest(folder, [{"file": f"{split}.nii.gz", "split": split, "modality": "MR"} for split in SPLITS])
    return folder


@pytest.mark.slow
def test_train_makes_bundles_and_resumes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workflow, "train", functools.partial(workflow.train, overrides=OVERRIDES))
    bundles, output = tmp_path / "bundles", tmp_path / "out"
    for name in ("ldm_sr", "srgan_sr"):
        shutil.copytree(BUNDLES / name / "configs", bundles / name / "configs")
    (bundles / "ldm_sr" / "configs" / "large.yaml").write_text(json.dumps(NETWORK))
    command = ["train", str(data), str(output), "--budget", "10s", "--device", "cpu", "--seed", "3", "--size", "large"]
    command += ["--bundle", str(bundles / "ldm_sr")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "stage 1 of 5: autoencoder" in said
    for name, files in {"ldm_sr": ["model"], "srgan_sr": ["model", "srresnet"]}.items():
        meta = json.loads((output / name / "configs" / "metadata.json").read_text())
        for file in files:
            key = "weights_sha256" if file == "model" else f"{file}_sha256"
            assert meta[key] == file_sha256(output / name / "models" / f"{file}.pt")
        assert meta["eval_metrics"] == {}
    unet = workflow.load_network(output / "ldm_sr").generator.denoiser.unet
    assert tuple(unet.block_out_channels) == tuple(NETWORK["denoiser_channels"]), "inference builds what was trained"
    assert set(json.loads((output / "evaluation" / "table.json").read_text())["rows"]) >= {"bicubic", "srgan", "ldm"}
    work = output / "training"
    drawn = {path.name.split("_")[0] for path in (work / "pictures").iterdir()}
    assert drawn == {"adversarial", "srresnet", "srgan"}
    # What is done is not done again; a stage that was cut off goes on from its checkpoint.
    times = {path.name: path.stat().st_mtime_ns for path in work.glob("*.pt")}
    (work / "generator.pt").unlink()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.count("is there already") == 4
    assert "goes on from adversarial_checkpoint_iteration=" in said
    assert (work / "codec.pt").stat().st_mtime_ns == times["codec.pt"]


@pytest.mark.slow
def test_train_splits_and_measures_without_a_manifest(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three loose files are three patients: one is trained on, one calibrates, one is measured."""
    loose = tmp_path / "loose"
    loose.mkdir()
    for path in data.glob("*.nii.gz"):
        shutil.copy(path, loose)
    ran: list[tuple[str, dict[str, object]]] = []
    run = plan.TrainingPlan.run

    def record(folder: Path, overlays: Sequence[str], settings: dict[str, object]) -> None:
        ran.append((overlays[-1], settings))

    monkeypatch.setattr(plan.TrainingPlan, "run", lambda self, _, say: run(self, record, say))
    monkeypatch.setattr(plan.TrainingPlan, "pack", lambda *_: (BUNDLES / "ldm_sr", BUNDLES / "srgan_sr"))
    workflow.train(loose, tmp_path / "out", budget="10s", device="cpu", modality="PT")
    assert [name for name, _ in ran] == [stage.config for stage in plan.STAGES]
    assert all(settings["modality"] == "PT" for _, settings in ran)
    table = json.loads((tmp_path / "out" / "evaluation" / "table.json").read_text())
    assert (table["n_patients"], list(table["by_modality"])) == (1, ["PT"])
    with pytest.raises(SettingsError, match="size is 'huge'"):
        workflow.train(loose, tmp_path / "out", size="huge")


@pytest.mark.slow
def test_a_codec_that_fails_the_gate_ends_the_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = workflow.load_network("ldm_sr").generator.codec
    codec.latent_std.fill_(100.0)
    codec.autoencoder.decoder.blocks[-1].conv.bias.data.fill_(0.5)
    save_weights(codec, tmp_path / "out" / "training" / "codec.pt")
    assert main(["train", str(data), str(tmp_path / "out"), "--budget", "60s", "--device", "cpu"]) == 8
    assert "[GATE_FAILED]" in capsys.readouterr().err
    assert not list((tmp_path / "out" / "training").glob("diffusion*"))


def test_train_refuses_before_it_starts(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(data), str(tmp_path), "--budget", "soon"]) == 1
    assert "give a time above zero" in capsys.readouterr().err
    assert main(["train", str(data), str(data / "out")]) == 1
    assert main(["train", str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert main(["train", str(data), str(tmp_path / "out"), "--bundle", "srgan_sr"]) == 1
    assert "has no training configs" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("bundle", "config"), [("ldm_sr", "train_diffusion"), ("srgan_sr", "train")])
def test_two_processes_train_one_network(data: Path, tmp_path: Path, bundle: str, config: str) -> None:
    configs = BUNDLES / bundle / "configs"
    if bundle == "ldm_sr":
        save_weights(workflow.load_network("ldm_sr").generator.codec, tmp_path / "codec.pt")
        extra = ["--denoiser_channels", "[16,16,16,32]", "--denoiser#unet#norm_num_groups", "8"]
    else:
        extra = ["--network_def#num_blocks", "1", "--network_def#features", "8"]
        from monai_ldmsr.networks import SRResNetGenerator

        save_weights(SRResNetGenerator(features=8, num_blocks=1), tmp_path / "srresnet.pt")
    files = [str(configs / f"{name}.yaml") for name in ("inference", config)]
    files.append(str(BUNDLES / "ldm_sr" / "configs" / "multi_gpu_train.yaml"))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        "-m", "monai.bundle", "run", "--config_file", str(files), "--dataset_dir", str(data),
        "--output_dir", str(tmp_path), "--budget_s", "4", "--sizes", "[[96,1]]", "--checkpoints#interval_s", "0",
        "--budget#log_every", "1", *extra,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    stage = "diffusion" if bundle == "ldm_sr" else "srgan"
    assert len(list(tmp_path.glob(f"{stage}_checkpoint_iteration=*.pt"))) == 1
    lines = (tmp_path / f"{stage}.csv").read_text().splitlines()
    steps = [int(line.split(",")[0]) for line in lines[1:]]
    assert steps == list(range(1, len(steps) + 1)), "two processes wrote"
    state = torch.load(tmp_path / ("denoiser.pt" if bundle == "ldm_sr" else "srgan.pt"), weights_only=True)
    assert not any(key.startswith("module.") for key in state)
