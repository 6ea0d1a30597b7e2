"""The overlay ``networks_generative.yaml``: our bundle and weights on the networks of ``generative`` 0.2.3."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from generative_networks import needs_generative, one_thread
from independent_readers import read_by_simpleitk
from monai.bundle import ConfigParser
from monai.networks import nets
from places import ROOT
from series_by_hand import along_normal

from monai_ldmsr import super_resolve
from monai_ldmsr.bundle_folder import bundle_info, find_bundle
from monai_ldmsr.errors import WeightsError
from monai_ldmsr.networks import SuperResolver, load_into_generative, load_weights
from monai_ldmsr.storage import file_sha256

__all__ = ["one_thread"]

CONFIGS = ROOT / "bundles" / "ldm_sr" / "configs"
SAMPLES = ROOT / "sample_data"
WEIGHTS = ROOT / "bundles" / "ldm_sr" / "models" / "model.pt"

#: In model range, where 2 is the whole range; what rounding in another order gives is a hundredth of this.
TOLERANCE = 1e-4

pytestmark = [needs_generative, pytest.mark.usefixtures("one_thread")]


def network(*configs: str, **settings: object) -> SuperResolver:
    """Without weights."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in configs])
    parser.read_meta(str(CONFIGS / "metadata.json"))
    for key, value in settings.items():
        parser[key] = value
    built: SuperResolver = parser.get_parsed_content("network_def")
    return built.eval()


@pytest.fixture(scope="module")
def theirs() -> SuperResolver:
    return network("inference.yaml", "networks_generative.yaml", factor=4)


def test_networks_are_generative_s(theirs: SuperResolver) -> None:
    for part, name in (
        (theirs.generator.codec.autoencoder, "AutoencoderKL"),
        (theirs.generator.denoiser.unet, "DiffusionModelUNet"),
    ):
        assert type(part).__name__ == name
        assert type(part).__module__.startswith("generative.networks.nets.")
        assert not isinstance(part, getattr(nets, name))


def test_our_weights_give_the_same_slices(theirs: SuperResolver) -> None:
    ours = network("inference.yaml", factor=4)
    sha256 = load_weights(ours.generator, WEIGHTS)
    assert load_into_generative(theirs.generator, WEIGHTS, bundle_info(find_bundle("ldm_sr")).weights_sha256) == sha256
    torch.manual_seed(3)
    smooth = torch.nn.functional.interpolate(torch.randn(2, 1, 9, 12), size=(24, 32), mode="bicubic") / 2
    with torch.no_grad():
        expected, found = ours(smooth), theirs(smooth)
        bicubic = torch.nn.functional.interpolate(smooth, scale_factor=4, mode="bicubic")
    assert float((expected - bicubic).abs().max()) > 100 * TOLERANCE, "the networks add something"
    assert float((expected - found).abs().max()) < TOLERANCE


@pytest.mark.parametrize("content", ["altered", "missing", "left over", "shape", "other", "list"])
def test_other_weights_are_refused(content: str, theirs: SuperResolver, tmp_path: Path) -> None:
    state = torch.load(WEIGHTS, weights_only=True)
    name = "denoiser.unet.middle_block.attention.attn.to_q.weight"
    changed = {
        "altered": state,
        "missing": {key: value for key, value in state.items() if key != name},
        "left over": {**state, "more": torch.zeros(1)},
        "shape": {**state, name: state[name][:1]},
        "other": theirs.generator.state_dict(),
        "list": [1],
    }[content]
    torch.save(changed, tmp_path / "model.pt")
    sha256 = "0" * 64 if content == "altered" else file_sha256(tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="altered" if content == "altered" else "does not fit this network"):
        load_into_generative(theirs.generator, tmp_path / "model.pt", sha256)


@pytest.mark.slow
def test_the_bundle_runs_on_them(tmp_path: Path) -> None:
    """Real slices through the command: same place, voxels equal but for a unit here and there, UIDs of their own."""
    (tmp_path / "source" / "pet").mkdir(parents=True)
    images = (SAMPLES / "dicom" / "pet_fdg").glob("*.dcm")
    for path in sorted(images, key=lambda path: along_normal(pydicom.dcmread(path)))[6:8]:
        shutil.copy(path, tmp_path / "source" / "pet")
    brain = nibabel.load(SAMPLES / "nifti" / "mr_brain_t2_1mm_cc0.nii.gz")
    nibabel.save(brain.slicer[:, :, 8:10], tmp_path / "source" / "brain.nii.gz")
    files = [f"bundles/ldm_sr/configs/{name}.yaml" for name in ("inference", "networks_generative")]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files), "--device", "cpu"]
    places = ["--dataset_dir", str(tmp_path / "source"), "--output_dir", str(tmp_path / "theirs"), "--modality", "MR"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *places], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary = super_resolve(tmp_path / "source", tmp_path / "ours", modality="MR", device="cpu")
    assert [case.status for case in summary.cases] == ["done", "done"]
    for case in summary.cases:
        ours, theirs = (tmp_path / side / case.case for side in ("ours", "theirs"))
        check_reports(*(json.loads((folder / "report.json").read_text()) for folder in (ours, theirs)))
        (affine, voxels), (other_affine, others) = (read(folder) for folder in (ours, theirs))
        np.testing.assert_allclose(affine, other_affine, atol=1e-6)
        images = [pydicom.dcmread(path) for path in ours.glob("dicom/*.dcm")]
        unit = max((float(image.RescaleSlope) for image in images), default=1.0)
        # In stored units; slopes, which follow the largest value, may differ in their last digits.
        difference = np.abs(voxels.astype(np.float64) - others) / unit
        assert difference.max() < 1.01
        assert (difference > 0.01).mean() < 1e-3
        assert {i.SOPInstanceUID for i in images}.isdisjoint(
            pydicom.dcmread(path).SOPInstanceUID for path in theirs.glob("dicom/*.dcm")
        )


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    for path in folder.glob("*.nii.gz"):
        image = nibabel.load(path)
        return image.affine, np.asarray(image.dataobj)
    return read_by_simpleitk(folder / "dicom")


def check_reports(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """The same model and settings; only the count of weights knows those that generative never uses."""
    assert theirs["settings"] == {**ours["settings"], "networks": "generative"}
    unused = 160 * 160 + 160
    assert theirs["model"] == {**ours["model"], "n_parameters": ours["model"]["n_parameters"] + unused}
