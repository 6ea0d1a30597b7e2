"""Training and evaluation run end to end on small made volumes, by their configs."""

from __future__ import annotations

import csv
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser, ConfigWorkflow
from places import BUNDLES
from volume_files import textured, write_manifest

from monai_ldmsr.errors import TrainingError
from monai_ldmsr.metrics.latent import high_frequency_share
from monai_ldmsr.networks import SRResNetGenerator, load_plane_mean, load_weights, save_weights
from monai_ldmsr.storage import file_sha256
from monai_ldmsr.training import TimeBudget, check_codec

CONFIGS = BUNDLES / "ldm_sr" / "configs"
SPLITS = {"a": "train", "b": "train", "c": "test"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients: MR, CT, and a small PET, textured so that nothing counts as interpolated."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for subject, modality, size in (("a", "MR", 110), ("b", "CT", 100), ("b", "PT", 30), ("c", "MR", 100)):
        path = textured(folder / f"{subject}_{modality}.nii.gz", (size, size, 3), len(rows))
        rows.append({"file": path.name, "modality": modality, "subject": subject, "split": SPLITS[subject]})
    write_manifest(folder, rows)
    return folder


def run_config(name: str, data: Path, output: Path, bundle: Path = CONFIGS.parent, **settings: Any) -> None:
    """As the model zoo checks a workflow: all that MONAI asks of a training is there, and it runs."""
    workflow = ConfigWorkflow(
        workflow_type="train",
        config_file=[str(bundle / "configs" / f"{part}.yaml") for part in ("inference", *name.split("+"))],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        dataset_dir=str(data),
        output_dir=str(output),
        **settings,
    )
    workflow.initialize()
    if name != "pack":
        assert workflow.check_properties() == []
    workflow.run()
    workflow.finalize()


train_adversarially = partial(run_config, "train_adversarial", budget_s=2, sizes=[[96, 1]], gate_split="")


def logged(output: Path) -> list[dict[str, str]]:
    with (output / "adversarial.csv").open() as stream:
        return list(csv.DictReader(stream))


def built(key: str) -> Any:
    """A network of the bundle's config, without weights."""
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "inference.yaml"))
    return parser.get_parsed_content(key)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained")
    run_config("train_autoencoder", data, output, budget_s=2, sizes=[[96, 2]])
    run_config("train_diffusion", data, output, budget_s=3, sizes=[[96, 2]], gate_split="test")
    return output


@pytest.mark.slow
def test_two_stages_give_weights_that_fit_the_bundle(trained: Path) -> None:
    codec, denoiser = built("codec"), built("denoiser")
    load_weights(codec, trained / "codec.pt")
    load_weights(denoiser, trained / "denoiser.pt")
    assert bool((codec.latent_std != 1).any()), "statistics were not fitted"
    assert bool((codec.residual_std > 0).all())


@pytest.mark.slow
def test_adversarial_stage_packs_into_the_bundle(trained: Path, data: Path, tmp_path: Path) -> None:
    train_adversarially(data, trained, budget_s=3, sizes=[[96, 2]], picture_split="", **{"budget::log_s": 0})
    lines = logged(trained)
    assert {"step", "used_s", "learning_rate", "mean_loss", "scale_loss", "adversarial_loss"} <= set(lines[0])
    assert {"pixel_loss", "texture_loss", "artifact_loss", "critic_loss"} <= set(lines[0])
    run_config("pack", data, trained, packed=str(tmp_path / "model.pt"))
    generator = built("network_def").generator
    assert load_weights(generator, tmp_path / "model.pt") == file_sha256(tmp_path / "model.pt")
    packed = {key: value.clone() for key, value in generator.state_dict().items()}
    load_weights(generator, trained / "generator.pt")
    for key, value in generator.state_dict().items():
        torch.testing.assert_close(packed[key], value, atol=1e-3, rtol=1e-3)
    before = torch.load(trained / "denoiser.pt", weights_only=True)
    assert any(not torch.equal(before[key], value) for key, value in generator.denoiser.state_dict().items())
    codec = torch.load(trained / "codec.pt", weights_only=True)
    for key, value in generator.codec.state_dict().items():  # averaging the weights over time rounds them
        torch.testing.assert_close(codec[key], value, atol=1e-7, rtol=1e-5)


@pytest.mark.slow
def test_planes_across_slices_are_trained_beside_the_bundles_weights(data: Path, tmp_path: Path) -> None:
    name, small = "train_adversarial+train_planes", {"sizes": [[96, 2]], "checkpoint_s": 0}
    run_config(name, data, tmp_path, budget_s=3, **small)
    (checkpoint,) = tmp_path.glob("planes_checkpoint_iteration=*.pt")
    used_s = torch.load(checkpoint, weights_only=True)["budget"]["used_s"]
    assert used_s > 0
    run_config(name, data, tmp_path, budget_s=used_s + 2, checkpoint=str(checkpoint.rename(tmp_path / "a.pt")), **small)
    planes = built("planes")
    fresh = {key: value.clone() for key, value in planes.state_dict().items()}
    weights = file_sha256(CONFIGS.parent / "models" / "model.pt")
    assert load_plane_mean(planes, tmp_path / "planes.pt", weights), "it belongs to the bundle's weights"
    denoiser = built("denoiser").state_dict()
    assert {key.removeprefix("own.").replace("/", ".") for key in fresh if key.startswith("own.")} < set(denoiser)
    assert 2e6 < (tmp_path / "planes.pt").stat().st_size < 5.6e6


@pytest.mark.slow
def test_the_gate_stops_a_codec_that_blurs(trained: Path, data: Path) -> None:
    codec = built("codec")
    load_weights(codec, trained / "codec.pt")
    figures = check_codec(codec, str(data), "test")
    assert figures is not None
    assert figures.psnr_db > figures.psnr_bicubic_db + 8
    assert figures.laplacian_ratio == pytest.approx(1, abs=0.05)
    codec.basis[8:] = 0
    with pytest.raises(TrainingError, match="Train it longer"):
        check_codec(codec, str(data), "test")
    assert check_codec(codec, str(data), None) is None


@pytest.mark.slow
def test_baselines_train(data: Path, tmp_path: Path) -> None:
    bundle = CONFIGS.parents[1] / "srgan_sr"
    small = {"network_def::features": 8, "network_def::num_blocks": 1, "sizes": [[96, 2]], "picture_split": ""}
    run_config("train_srresnet", data, tmp_path, bundle, budget_s=2, **small)
    run_config("train", data, tmp_path, bundle, budget_s=2, **small)
    generators = [SRResNetGenerator(features=8, num_blocks=1) for _ in range(2)]
    for generator, name in zip(generators, ("srresnet", "srgan"), strict=True):
        load_weights(generator, tmp_path / f"{name}.pt")
    image = torch.rand(1, 1, 24, 24)
    assert not torch.equal(generators[0](image), generators[1](image))


@pytest.mark.slow
def test_plain_diffusion_trains_on_the_codec(trained: Path, data: Path) -> None:
    start = {"initial_weights": None, "denoiser_weights": str(trained / "denoiser.pt"), "budget::log_s": 0}
    run_config(
        "ddpm+train_diffusion+train_ddpm", data, trained, budget_s=3, sizes=[[96, 2]], gate_split="test", **start
    )
    with (trained / "noise.csv").open() as stream:
        assert {"step", "loss"} <= set(next(csv.DictReader(stream)))
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.yaml") for name in ("inference", "ddpm")])
    generator = parser.get_parsed_content("generator")
    load_weights(generator, trained / "ddpm.pt")
    codec, denoiser = (torch.load(trained / f"{name}.pt", weights_only=True) for name in ("codec", "denoiser"))
    for name, value in generator.codec.state_dict().items():
        torch.testing.assert_close(value, codec[name], msg=f"{name} was trained")
    assert any(not torch.equal(value, denoiser[name]) for name, value in generator.denoiser.state_dict().items())


@pytest.mark.slow
def test_plain_diffusion_begins_with_the_bundles_weights_and_runs(data: Path, tmp_path: Path) -> None:
    """One command trains it from what the bundle has, one runs it, one measures it."""
    run_config("ddpm+train_diffusion+train_ddpm", data, tmp_path, budget_s=1, sizes=[[96, 1]])
    given = {"weights": str(tmp_path / "ddpm.pt"), "num_inference_steps": 2, "device": "cpu"}
    for name, more in (("ddpm", {"force": True}), ("ddpm+evaluate+evaluate_ddpm", {"split": "test", "factor": 2})):
        output = tmp_path / name
        workflow = ConfigWorkflow(
            workflow_type="inference",
            config_file=[str(CONFIGS / f"{part}.yaml") for part in ("inference", *name.split("+"))],
            meta_file=str(CONFIGS / "metadata.json"),
            logging_file=False,
            dataset_dir=str(data / "c_MR.nii.gz" if name == "ddpm" else data),
            output_dir=str(output),
            **given,
            **more,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    report = json.loads(next((tmp_path / "ddpm").rglob("report.json")).read_text())
    assert report["settings"]["sampler"] == "DDIMScheduler"
    assert report["model"]["evaluations_per_slice"] == 2
    assert report["model"]["weights_sha256"] == file_sha256(tmp_path / "ddpm.pt")
    rows = json.loads((output / "table.json").read_text())["rows"]
    assert set(rows) == {"lr", "bicubic", "bspline", "plain_ldm", "hr"}


@pytest.mark.slow
def test_training_resumes_from_its_checkpoint(data: Path, trained: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.pt"
    train_adversarially(data, trained, picture_split="test", **{"checkpoint_s": 0, "pictures::interval_s": 0})
    (found,) = trained.glob("adversarial_checkpoint_iteration=*.pt")
    assert list((trained / "pictures").glob("adversarial_*.png"))
    found.rename(checkpoint)
    state = torch.load(checkpoint, weights_only=True)
    assert state["budget"]["used_s"] > 0
    (trained / "adversarial.csv").unlink(missing_ok=True)
    train_adversarially(data, trained, picture_split="", checkpoint=str(checkpoint), **{"budget::log_s": 0})
    assert float(logged(trained)[0]["used_s"]) > state["budget"]["used_s"], "the used time goes on"


def test_interpolated_volumes_are_found() -> None:
    random = np.random.default_rng(0)
    sharp = random.normal(size=(64, 64)).astype(np.float32)
    blurred = np.real(
        np.fft.ifft2(np.fft.fft2(sharp) * np.exp(-((np.hypot(*np.meshgrid(*[np.fft.fftfreq(64)] * 2)) / 0.1) ** 2)))
    )
    assert high_frequency_share(sharp) > 0.5
    assert high_frequency_share(blurred.astype(np.float32)) < 2e-3


def test_budget_ends_and_resumes() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    budget = TimeBudget(optimizer, budget_s=0.3, learning_rate=0.5)
    rates = []

    def step(engine: Engine, batch: object) -> dict[str, torch.Tensor]:
        rates.append(optimizer.param_groups[0]["lr"])
        time.sleep(0.02)
        return {"loss": torch.tensor(1.0)}

    engine = Engine(step)
    budget.attach(engine)
    engine.run(range(1000), max_epochs=1)
    assert 5 < len(rates) < 20
    assert max(rates) <= 0.5
    assert rates[-1] < 0.2 * max(rates)
    resumed = TimeBudget(optimizer, budget_s=0.3, learning_rate=0.5)
    resumed.load_state_dict(budget.state_dict())
    count = len(rates)
    engine = Engine(step)
    resumed.attach(engine)
    engine.run(range(1000), max_epochs=1)
    assert len(rates) - count <= 2


def test_save_is_atomic(tmp_path: Path) -> None:
    save_weights(torch.nn.Linear(2, 2), tmp_path / "w.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["w.pt"]
