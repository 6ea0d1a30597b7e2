"""``ldmsr train``: all stages on tiny made volumes; and training by two processes."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from metadata_schema import write_schema
from monai.bundle import verify_metadata
from places import BUNDLES
from volume_files import textured, write_manifest

from monai_ldmsr import workflow
from monai_ldmsr.cli import main
from monai_ldmsr.networks import save_weights
from monai_ldmsr.storage import file_sha256
from monai_ldmsr.training.loss_log import read_losses
from monai_ldmsr.training.volumes import SPLITS

#: Few small patches, a picture and a checkpoint early; what a codec is worth after seconds depends on the machine.
FAST = {"sizes": [[96, 1]], "checkpoints::interval_s": 0}
SMALL = {**FAST, "pictures::interval_s": 0}
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
    command = ["train", str(data), str(output), "--budget", "200s", "--device", "cpu", "--seed", "3", "--size", "large"]
    command += ["--bundle", str(bundles / "ldm_sr"), "--name", "brain"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "stage 1 of 5: autoencoder" in said
    for name, files in {"brain": ["model"], "brain_srgan": ["model", "srresnet"]}.items():
        meta = json.loads((output / name / "configs" / "metadata.json").read_text())
        for file in files:
            key = "weights_sha256" if file == "model" else f"{file}_sha256"
            assert meta[key] == file_sha256(output / name / "models" / f"{file}.pt")
    check_own_bundle(output / "brain")
    unet = workflow.load_network(output / "brain").generator.denoiser.unet
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
    assert json.loads((output / "brain" / "configs" / "metadata.json").read_text())["version"] == "0.2.0"
    assert "goes on from adversarial_checkpoint_iteration=" in said
    assert (work / "codec.pt").stat().st_mtime_ns == times["codec.pt"]


def check_own_bundle(bundle: Path) -> None:
    """Name, version, card and figures are its own; nothing that the shipped card claims of its weights is there."""
    meta = json.loads((bundle / "configs" / "metadata.json").read_text())
    shipped = json.loads((BUNDLES / "ldm_sr" / "configs" / "metadata.json").read_text())
    assert (meta["name"], meta["version"], list(meta["changelog"])) == (bundle.name, "0.1.0", ["0.1.0"])
    assert all(meta[key] != shipped[key] for key in ("authors", "copyright", "data_source", "eval_metrics"))
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(write_schema(bundle.parent)))
    card = (bundle / "docs" / "README.md").read_text()
    table = json.loads((bundle.parent / "evaluation" / "table.json").read_text())
    figure = table["rows"]["ldm"]["psnr"]["mean"]
    assert meta["eval_metrics"]["test_factor_4_psnr_ldm"] == round(figure, 3)
    assert f"| ldm | {figure:.4g} |" in card
    assert "one patient neither trained on" in card
    assert "too few patients for an interval" in card
    assert "MR; train 1 volume of 1 patient, calibration 1 volume of 1 patient" in card
    assert "Licence and origin" in (bundle / "docs" / "data_license.txt").read_text()
    assert not re.search("H100|TCGA|patient0", card), "the shipped card's training and data, or a file's name"


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
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_training_goes_on(data: Path, tmp_path: Path, number: signal.Signals) -> None:
    """By the command, as it is shipped but for the size of patches and the time between checkpoints."""
    code = f"""
import functools, sys
from monai_ldmsr import workflow
from monai_ldmsr.cli import main
workflow.train = functools.partial(workflow.train, overrides={{"autoencoder": {{"sizes": [[96, 1]],
    "checkpoints::interval_s": 2}}}})
sys.exit(main(["train", {str(data)!r}, {str(tmp_path / "out")!r}, "--budget", sys.argv[1], "--device", "cpu",
    "--stages", "autoencoder"]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    work = tmp_path / "out" / "training"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "600s"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.monotonic() + 240
    while not list(work.glob("autoencoder_checkpoint_iteration=*.pt")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert "stopped by SIGTERM; the same command goes on" in err
        assert "Traceback" not in err
    assert "autoencoder, step 1: " in err
    assert "stage 1 of 1: autoencoder" in out
    assert not (work / "codec.pt").exists()
    before = read_losses(work / "autoencoder.csv")
    assert before
    assert before[0]["step"] == "1"
    (found,) = work.glob("autoencoder_checkpoint_iteration=*.pt")
    saved_s = torch.load(found, weights_only=True)["budget"]["used_s"]
    assert float(before[-1]["used_s"]) - saved_s < 30, "it lost more than the time between two checkpoints"
    used_s = json.loads((work / "clock.json").read_text())["used_s"]
    again = subprocess.run(
        [sys.executable, "-c", code, f"{used_s + 30:.0f}s"], capture_output=True, text=True, env=environment, check=True
    )
    assert f"goes on from {found.name}" in again.stdout
    assert (work / "codec.pt").is_file()
    after = read_losses(work / "autoencoder.csv")[len(before) :]
    assert saved_s <= float(after[0]["used_s"]) < saved_s + 30


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
        "--budget#log_s", "0", *extra,
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
