"""The bundles as MONAI and its model zoo know them: properties, metadata, networks, and runs from their own folders."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import jsonschema
import nibabel
import numpy as np
import pytest
import torch
from generative_networks import needs_generative
from metadata_schema import SCHEMA, write_schema
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
from places import BUNDLES, ROOT

from monai_ldmsr import __version__
from monai_ldmsr.bundle_folder import running_bundle
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.workflow import load_super_resolver

BUNDLE = BUNDLES / "ldm_sr"
NAMES = ("ldm_sr", "srgan_sr")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    x, y, z = np.meshgrid(np.linspace(0, 6, 36), np.linspace(0, 4, 28), np.arange(2), indexing="ij")
    voxels = 800 + 300 * np.sin(x + 0.2 * z) * np.cos(y) + np.random.default_rng(0).normal(0, 20, x.shape)
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.int16), np.diag([1, 1, 4.0, 1])), folder / "volume.nii")
    return folder


def workflow(folder: Path, *configs: str, **settings: object) -> ConfigWorkflow:
    """As ``python -m monai.bundle run`` makes it in the folder of the bundle."""
    made = ConfigWorkflow(
        workflow_type="inference",
        config_file=[f"configs/{name}.yaml" for name in configs],
        logging_file=False,
        device="cpu",
        **settings,
    )
    made.initialize()
    return made


@pytest.mark.parametrize("name", NAMES)
def test_metadata_are_as_the_schema_has_them(name: str, tmp_path: Path) -> None:
    path = BUNDLES / name / "configs" / "metadata.json"
    verify_metadata(meta_file=str(path), filepath=str(write_schema(tmp_path)))
    meta = json.loads(path.read_text())
    del meta["network_data_format"]["inputs"]["image"]["value_range"]
    with pytest.raises(jsonschema.ValidationError, match="value_range"):
        jsonschema.validate(meta, SCHEMA)
    assert (meta["name"], meta["version"]) == (name, next(iter(meta["changelog"])))
    assert meta["required_packages_version"]["monai_ldmsr"] == __version__


@pytest.mark.parametrize(
    ("name", "configs"),
    [
        ("ldm_sr", ["inference"]),
        ("ldm_sr", ["inference", "evaluate"]),
        ("ldm_sr", ["inference", "large"]),
        ("ldm_sr", ["inference", "large", "pack"]),
        pytest.param("ldm_sr", ["inference", "networks_generative"], marks=needs_generative),
        ("ldm_sr", ["inference", "ddpm"]),
        ("srgan_sr", ["inference"]),
        ("srgan_sr", ["inference", "evaluate"]),
    ],
)
def test_configs_have_what_monai_asks_for(
    name: str, configs: list[str], data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the training configs, ``test_training`` asks this when it runs them."""
    monkeypatch.chdir(BUNDLES / name)
    # Weights of that size, or of that method, do not come with the bundle.
    settings = {"loaded_sha256": ""} if {"large", "ddpm"} & set(configs) else {}
    made = workflow(
        BUNDLES / name, *configs, dataset_dir=str(data), output_dir=str(tmp_path), initialize=[], **settings
    )
    assert made.check_properties() == []
    assert str(made.bundle_root) == "."


@pytest.mark.parametrize("name", NAMES)
def test_networks_give_what_the_metadata_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BUNDLES / name)
    meta, config = "configs/metadata.json", "configs/inference.yaml"
    verify_net_in_out(net_id="network_def", meta_file=meta, config_file=config, device="cpu", any=32)


def test_a_bundle_runs_from_its_own_folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after ``monai.bundle download``: in any place, under any name."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(BUNDLES / "srgan_sr", folder)
    monkeypatch.chdir(folder)
    made = workflow(folder, "inference", dataset_dir=str(data), output_dir=str(tmp_path / "out"))
    made.run()
    made.finalize()
    assert len(list(tmp_path.glob("out/volume-*/*_sr.nii"))) == 1
    (folder / "models" / "model.pt").write_bytes(b"altered")
    with pytest.raises(RuntimeError, match="load_weights"):
        workflow(folder, "inference").parser.get_parsed_content("loaded_sha256")


def test_where_no_bundle_is_the_one_of_the_package_runs(tmp_path: Path) -> None:
    assert running_bundle(BUNDLE, "srgan_sr") == BUNDLE
    assert running_bundle(tmp_path, "srgan_sr").samefile(BUNDLES / "srgan_sr")
    with pytest.raises(SettingsError, match=r"The bundle 'nothing' .* was not found"):
        running_bundle(tmp_path, "nothing")


def test_bundles_are_complete_and_small() -> None:
    """Each has its own licence and logging, since each is downloaded alone."""
    for name in ("LICENSE", "configs/logging.conf", "docs/data_license.txt"):
        assert len({(BUNDLES / bundle / name).read_bytes() for bundle in NAMES}) == 1
    assert (BUNDLE / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    for bundle in NAMES:
        assert (BUNDLES / bundle / "docs" / "README.md").is_file()
        assert sum(path.stat().st_size for path in (BUNDLES / bundle).rglob("*") if path.is_file()) < 20e6


def test_the_weights_file_fits_the_network_of_the_bundle() -> None:
    """As MONAI's convention has it; its label server loads it so, and goes on with what it had when names differ."""
    network, _ = load_super_resolver()
    weights = torch.load(BUNDLE / "models" / "model.pt", weights_only=True)
    assert weights.keys() == network.state_dict().keys()
    for value in network.parameters():
        value.data.zero_()
    network.load_state_dict(weights)
    assert all(torch.equal(value.to(weights[name]), weights[name]) for name, value in network.state_dict().items())


def test_config_holds_no_program() -> None:
    for path in BUNDLES.glob("*/configs/*.yaml"):
        for line in path.read_text().splitlines():
            for expression in re.findall(r"\$[^,}\]]*", line.split("#")[0]):
                assert len(expression) <= 100
                assert not re.search(r"\blambda\b|\bfor\b|open\(", expression), f"{path.name}: {expression}"
