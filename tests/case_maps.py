"""A case with maps that were made by hand, written as any other, and the same by a bundle of a command's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from odd_run import nearest_bundle

from monai_ldmsr.case import ResultMap
from monai_ldmsr.geometry import Factors
from monai_ldmsr.result_writer import WrittenCase
from monai_ldmsr.settings import WorkSettings
from monai_ldmsr.workflow import open_evaluator


class MapsMadeByHand:
    """A step of a config's postprocessing: an error that grows with the gradient, where it is small, and waves."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        result, source = data["pred"].as_tensor()[0], data["source"]
        error = 1 + torch.stack(torch.gradient(result, dim=(0, 1))).norm(dim=0)
        waves = 10 * torch.sin(torch.arange(source.voxels.size)).reshape(source.geometry.shape)
        made = (
            ResultMap("expected_error", error[None], Factors.of(2)),
            ResultMap("trusted", (error < 20)[None].float(), Factors.of(2)),
            ResultMap("contradiction", waves[None], Factors.of(1)),
        )
        return {**data, "maps": made}


def mapped_bundle(parent: Path) -> Path:
    """The bundle of ``nearest_bundle`` whose results have maps."""
    folder = nearest_bundle(parent)
    config = folder / "configs" / "inference.yaml"
    parts = yaml.safe_load(config.read_text())
    parts["postprocessing"]["transforms"].append({"_target_": "case_maps.MapsMadeByHand"})
    config.write_text(yaml.safe_dump(parts, sort_keys=False))
    return folder


def write_with_maps(
    source: Path, output: Path, bundle: Path, **settings: Any
) -> tuple[dict[str, Any], WrittenCase, Path]:
    """What was computed of the one source, what was written, and its folder."""
    evaluator = open_evaluator(source, output, WorkSettings(bundle=bundle, device="cpu", **settings))
    (one,) = evaluator.dataset.found
    data, times, described = evaluator.compute(one.source)
    return data, evaluator.writer.write(data, one.name, output, times, described), output / one.name
