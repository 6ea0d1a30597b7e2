"""Each example of docs/extending.md is all that its change takes; those of docs/python.md and docs/export.md run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from generator_fixtures import make_generator
from places import ROOT

from monai_ldmsr import operators
from monai_ldmsr.bundle_folder import find_bundle
from monai_ldmsr.cli import main
from monai_ldmsr.degradation import DegradationOperator
from monai_ldmsr.networks import SuperResolver
from monai_ldmsr.samplers import posterior_mean
from monai_ldmsr.settings import WorkSettings

GUIDE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def example(title: str) -> str:
    found = re.search(rf"## {title}\n.*?```python\n(.*?)```", GUIDE, re.DOTALL)
    assert found, title
    return found.group(1)


def executed(title: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType(f"guide_{title.replace(' ', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(example(title), vars(module))
    return module


def test_a_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = executed("A sampler", monkeypatch).HeunFlow(4, 0.7)
    goal, calls = torch.full((1, 1, 2, 2), 3.0), []

    def velocity(state: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        calls.append(float(timesteps[0]))
        return goal - 0.7 * noise  # the straight path of this pair

    noise = torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    mean = posterior_mean(lambda state, timesteps: goal, goal)
    torch.testing.assert_close(sampler(velocity, mean, noise), goal)
    assert len(calls) + 1 == sampler.evaluations
    resolver = SuperResolver(make_generator(), sampler).eval()
    with torch.no_grad():
        assert resolver(torch.rand(1, 1, 12, 16)).shape == (1, 1, 24, 32)
    assert resolver.describe().items() >= {"sampler": "heun", "num_inference_steps": 4, "start_noise": 0.7}.items()
    assert resolver.describe()["evaluations_per_slice"] == 8


def test_a_degradation(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(operators.OPERATORS)
    try:
        executed("A degradation", monkeypatch)
        assert WorkSettings(operator="triangle").operator == "triangle"
        coarse = DegradationOperator("triangle", 2)(torch.ones(1, 1, 8, 12))
        torch.testing.assert_close(coarse, torch.ones(1, 1, 4, 6))
        with torch.no_grad():
            seen = [
                SuperResolver(make_generator(), operator=name, noise=1.0).eval() for name in ("triangle", "gaussian")
            ]
            images = [resolver(torch.ones(1, 1, 12, 16)) for resolver in seen]
        torch.testing.assert_close(*images)
    finally:
        operators.OPERATORS.clear()
        operators.OPERATORS.update(before)


def config_of(title: str) -> dict[str, Any]:
    """What a section says that stands in the config, with its module under its name here."""
    found = re.search(rf"## {title}\n.*?```yaml\n(.*?)```", GUIDE, re.DOTALL)
    return yaml.safe_load(found[1].replace("your_module", f"guide_{title[2:]}")) if found else {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "bundle"), [("A sampler", "ldm_sr"), ("A network", "srgan_sr"), ("A metric", "srgan_sr")]
)
def test_it_reaches_the_report(title: str, bundle: str, tmp_path: Path) -> None:
    """A run of a small volume in a process of its own, with a copy of a bundle that has what the page says."""
    shutil.copytree(find_bundle(bundle), tmp_path / "my_bundle")
    config = tmp_path / "my_bundle" / "configs" / "inference.yaml"
    lines = {**yaml.safe_load(config.read_text()), **config_of(title)}
    if title == "A network":
        del lines["weights"], lines["weights_sha256"]
    config.write_text(yaml.safe_dump(lines, sort_keys=False))
    (tmp_path / f"guide_{title[2:]}.py").write_text(example(title))
    values = np.random.default_rng(0).integers(0, 900, (40, 44, 1)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "v.nii.gz")
    code = f"""
import guide_{title[2:]}
from monai_ldmsr import super_resolve
more = {{"detail": 1, "num_inference_steps": 3}} if {bundle == "ldm_sr"} else {{}}
summary = super_resolve("v.nii.gz", "out", bundle="my_bundle", modality="MR", device="cpu", force=True, **more)
assert summary.exit_code == 0, summary
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (tmp_path / "out").glob("*/report.json")
    report, page = json.loads(path.read_text()), path.with_suffix(".html").read_text()
    if title == "A sampler":
        assert report["settings"].items() >= {"sampler": "heun", "num_inference_steps": 3, "start_noise": 0.2}.items()
        assert report["trust"]["expected_error"]["is_calibrated"] is False
    elif title == "A network":
        assert report["settings"]["interpolation"] == "bicubic"
        assert (report["factors"], report["seed"], report["outputs"][0]["kind"]) == ([2, 2, 1], None, "volume file")
    else:
        rows = {row: report["metrics"][row]["others"]["gradient"] for row in ("source", "bicubic", "result")}
        assert 0 < rows["source"] < rows["result"]
        assert "Mean length of the gradient" in report["definitions"]["gradient"]
        assert "Mean length of the gradient" in page


def test_a_class_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(find_bundle("srgan_sr"), tmp_path / "my_bundle")
    config = tmp_path / "my_bundle" / "configs" / "inference.yaml"
    config.write_text(config.read_text().replace("monai_ldmsr.networks.SRResNetGenerator", "your_module.Network"))
    nibabel.save(nibabel.Nifti1Image(np.zeros((40, 44, 1), np.int16), np.eye(4)), tmp_path / "v.nii.gz")
    given = ["run", str(tmp_path / "v.nii.gz"), str(tmp_path / "out"), "--bundle", str(tmp_path / "my_bundle")]
    assert main(given) == 1
    assert "names 'your_module.Network', which cannot be imported" in capsys.readouterr().err


def test_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows from it is held by test_settings.py."""
    more = executed("A setting", monkeypatch).More
    assert more(overshoot="0.5").overshoot == 0.5


PYTHON_PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "prints"),
    [
        ("Folders and files", ["done"]),
        ("An image in memory", ["(96, 112, 2) (192, 224, 2)", "torch.Size([192, 224, 2])"]),
        ("In a chain of MONAI's transforms", [""]),
        ("The network in an inferer of one's own", ["torch.Size([1, 1, 274, 384]) torch.Size([1, 1, 548, 768])"]),
        ("The sharpness metrics in an evaluator of one's own", ["'psnr': "]),
    ],
)
def test_the_page_of_python_runs(title: str, prints: list[str], tmp_path: Path) -> None:
    """Each example alone, in a folder that has the sample data."""
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    section = re.search(rf"## {title}\n(.*?)(?=\n## |\Z)", PYTHON_PAGE, re.DOTALL)
    assert section
    examples = re.findall(r"```python\n(.*?)```", section.group(1), re.DOTALL)
    assert len(examples) == len(prints)
    for code, expected in zip(examples, prints, strict=True):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert expected in done.stdout
    if title.startswith("In a chain"):
        (saved,) = (tmp_path / "output").rglob("*_sr.nii.gz")
        assert nibabel.load(saved).shape == (192, 224, 16)


@pytest.mark.slow
def test_the_example_of_the_page_of_export_runs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="pip install monai_ldmsr[onnx]")
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["(2, 1, 180, 150) True True"]
