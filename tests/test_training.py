"""Training and evaluation run end to end on small made volumes, by their configs."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, run

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.networks import file_sha256, load_weights, save_weights
from monai_ldmsr.training import RandomPatches, TimeBudget, load_training_volumes
from monai_ldmsr.training.slices import high_frequency_share, read_manifest

CONFIGS = Path(__file__).parents[1] / "bundles" / "ldm_sr" / "configs"
SPLITS = {"a": "train", "b": "train", "c": "test"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients: MR, CT, and a small PET, textured so that nothing counts as interpolated."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    rows = []
    for subject, modality, size in (("a", "MR", 110), ("b", "CT", 100), ("b", "PT", 30), ("c", "MR", 100)):
        x, y = np.meshgrid(np.linspace(0, 20, size), np.linspace(0, 15, size), indexing="ij")
        volume = 500 * np.sin(x)[..., None] * np.cos(y)[..., None] + random.normal(0, 80, (size, size, 3))
        path = folder / f"{subject}_{modality}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(volume.astype(np.int16), np.diag([1, 1, 4.0, 1])), path)
        rows.append({"file": path.name, "modality": modality, "subject": subject, "split": SPLITS[subject]})
    write_manifest(folder, rows)
    return folder


def write_manifest(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=["file", "modality", "subject", "split"])
        writer.writeheader()
        writer.writerows(rows)


def run_config(name: str, data: Path, output: Path, **settings: object) -> None:
    run(
        config_file=[str(CONFIGS / "inference.yaml"), str(CONFIGS / f"{name}.yaml")],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        bundle_root=str(CONFIGS.parent),
        dataset_dir=str(data),
        output_dir=str(output),
        **settings,
    )


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained")
    run_config("train_autoencoder", data, output, budget_s=2, sizes=[[96, 2]])
    run_config("train_diffusion", data, output, budget_s=3, sizes=[[96, 2]])
    return output


def test_two_stages_give_weights_that_fit_the_bundle(trained: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "inference.yaml"))
    codec, denoiser = parser.get_parsed_content("codec"), parser.get_parsed_content("denoiser")
    load_weights(codec, trained / "codec.pt")
    load_weights(denoiser, trained / "denoiser.pt")
    assert bool((codec.latent_std != 1).any()), "statistics were not fitted"
    assert bool((codec.residual_std > 0).all())


def test_packed_weights_run_and_evaluate(trained: Path, data: Path, tmp_path: Path) -> None:
    run_config("pack", data, trained, codec_weights=str(trained / "codec.pt"), packed=str(tmp_path / "model.pt"))
    sha256 = file_sha256(tmp_path / "model.pt")
    run_config(
        "evaluate", data, tmp_path / "table", weights=str(tmp_path / "model.pt"), slices_per_volume=1,
        num_inference_steps=1, **{"_meta_::weights_sha256": sha256},
    )  # fmt: skip
    table = json.loads((tmp_path / "table" / "table.json").read_text())
    assert list(table["rows"]) == ["lr", "bicubic", "ldm", "hr"]
    assert set(table["by_modality"]) == {"MR"}
    assert "psnr" not in table["rows"]["hr"]
    assert table["rows"]["ldm"]["psnr"]["n"] == 1
    assert table["rows"]["lr"]["laplacian_variance"]["mean"] < table["rows"]["hr"]["laplacian_variance"]["mean"]
    assert table["settings"]["operator"] == "area"
    assert (tmp_path / "table" / "examples.png").stat().st_size > 1000
    with (tmp_path / "table" / "per_slice.csv").open() as stream:
        assert [row["row"] for row in csv.DictReader(stream)] == ["lr", "bicubic", "ldm", "hr"]


def test_patches_are_aligned_and_reproducible(data: Path) -> None:
    volumes = load_training_volumes(data, "train")
    assert {v.modality for v in volumes} == {"MR", "CT", "PT"}
    for seed in range(4):
        batch = RandomPatches(volumes, sizes=((96, 2),), area_share=1.0, seed=seed).draw()
        again = RandomPatches(volumes, sizes=((96, 2),), area_share=1.0, seed=seed).draw()
        assert all(torch.equal(batch[key], again[key]) for key in batch)
        assert batch["image"].shape == batch["label"].shape == (2, 1, 96, 96)
        # The interpolated patch lies over the sharp one, not half a pixel beside it.
        shifted = torch.roll(batch["label"], 2, dims=-1)
        inner = (..., slice(8, -8), slice(8, -8))
        here, there = ((batch["image"] - x)[inner].square().mean() for x in (batch["label"], shifted))
        assert float(here) < float(there)


def test_interpolated_volumes_are_found() -> None:
    random = np.random.default_rng(0)
    sharp = random.normal(size=(64, 64)).astype(np.float32)
    blurred = np.real(
        np.fft.ifft2(np.fft.fft2(sharp) * np.exp(-((np.hypot(*np.meshgrid(*[np.fft.fftfreq(64)] * 2)) / 0.1) ** 2)))
    )
    assert high_frequency_share(sharp) > 0.5
    assert high_frequency_share(blurred.astype(np.float32)) < 2e-3


def test_a_manifest_is_checked(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no manifest\.csv"):
        read_manifest(tmp_path, "train")
    rows = [
        {"file": f, "modality": "MR", "subject": "s", "split": split} for f, split in (("a", "train"), ("b", "test"))
    ]
    write_manifest(tmp_path, rows)
    with pytest.raises(SettingsError, match="more than one split"):
        read_manifest(tmp_path, "train")
    write_manifest(tmp_path, rows[:1])
    with pytest.raises(SettingsError, match="no entry in split 'test'"):
        read_manifest(tmp_path, "test")


def test_budget_ends_and_resumes() -> None:
    from ignite.engine import Engine

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
