"""Brain tissue volumes downstream: what a segmentation makes of originals, and of degraded and super-resolved volumes.

    pip install deepbet dipy
    python benchmarks/tissue_volumes.py DATA OUT --factor 4
    python benchmarks/tissue_volumes.py DATA OUT --through-plane "4|1"

The brain is found by deepbet's network (MIT, weights in its package), its tissues by dipy's hidden Markov random field
(Zhang et al. 2001); each row has its own of both. No registry that can be installed from has weights of a network for
tissues. Measured are the near-isotropic T1 brains of a split of a folder with manifest.csv, each slice of the last axis
degraded and super-resolved; or, with --through-plane, averaged along the last axis to slices of that thickness and gap
in mm, and brought back. Writes OUT/tissue_volumes.json: Dice with the original's and volume minus the original's in
percent, for brain and each tissue.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import torch

from monai_ldmsr.degradation import DegradationOperator
from monai_ldmsr.evaluation.rows import super_resolved
from monai_ldmsr.evaluation.stack_rows import StackRows
from monai_ldmsr.evaluation.stacks import SharpStack, StackVolume, ThickSlices
from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.inferers import VolumeInferer
from monai_ldmsr.networks import upsample_bicubic
from monai_ldmsr.training.volumes import MANIFEST, TrainingVolume
from monai_ldmsr.transforms.intensity import fit_intensity_map
from monai_ldmsr.workflow import load_network

TISSUES = {"cerebrospinal fluid": 1, "grey matter": 2, "white matter": 3}

#: Greatest ratio of spacings of a near-isotropic volume.
_ISOTROPY = 1.15

#: Smoothness of the random field and its iterations, dipy's for T1.
_BETA, _ITERATIONS = 0.1, 20


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--through-plane", metavar="THICKNESS|GAP", type=thick_slices)
    parser.add_argument("--rows", nargs="+", help="rows of networks; all of them unless some are given")
    parser.add_argument("--split", default="test")
    parser.add_argument("--bundle", default="ldm_sr")
    parser.add_argument("--baselines", default="srgan_sr")
    arguments = parser.parse_args()
    paths = t1_brains(arguments.data, arguments.split)
    if arguments.through_plane:
        rows_of = stack_rows(arguments.bundle, arguments.baselines, arguments.rows)
        found = [measure_through_plane(path, rows_of, arguments.through_plane) for path in paths]
        about: dict[str, Any] = {"through_plane": str(arguments.through_plane)}
    else:
        networks = {
            "srresnet": load_network(arguments.baselines, "srresnet", factor=arguments.factor),
            "srgan": load_network(arguments.baselines, factor=arguments.factor),
            "ldm_mean": load_network(arguments.bundle, factor=arguments.factor, detail=0.0),
            "ldm": load_network(arguments.bundle, factor=arguments.factor),
            "ldm_sample": load_network(arguments.bundle, factor=arguments.factor, detail=1.0),
        }
        chosen = {name: one for name, one in networks.items() if not arguments.rows or name in arguments.rows}
        found = [measure(path, chosen, arguments.factor) for path in paths]
        about = {"factor": arguments.factor}
    if not found:
        parser.error(f"no near-isotropic T1 brain in split {arguments.split!r} of {MANIFEST}")
    rows = {row: {key: _mean([one[row][key] for one in found]) for key in found[0][row]} for row in found[0]}
    arguments.output.mkdir(parents=True, exist_ok=True)
    result = {**about, "n_volumes": len(found), "rows": rows}
    (arguments.output / "tissue_volumes.json").write_text(json.dumps(result, indent=2) + "\n")
    columns = list(next(iter(rows.values())))
    print(f"{'':12}" + "".join(f"{column:>28}" for column in columns))
    for row, figures in rows.items():
        print(f"{row:12}" + "".join(f"{figures[column]:28.3f}" for column in columns))


def t1_brains(data: Path, split: str) -> list[Path]:
    """Files of near-isotropic T1 brains, by the manifest."""
    with (data / MANIFEST).open(newline="", encoding="utf-8") as stream:
        entries = [entry for entry in csv.DictReader(stream) if entry["split"] == split and entry["modality"] == "MR"]
    found = []
    for entry in entries:
        spacing = [float(x) for x in entry["spacing_mm"].split("x")]
        is_t1 = "t1" in entry["file"].lower() and "brain" in entry["body"]
        if is_t1 and max(spacing) < _ISOTROPY * min(spacing):
            found.append(data / entry["file"])
    return found


def measure(path: Path, networks: Mapping[str, Any], factor: int) -> dict[str, dict[str, float]]:
    """Dice and volume bias of each row of one volume."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    voxels = np.asarray(image.dataobj, np.float32)
    rows, columns = (size // factor * factor for size in voxels.shape[:2])
    high = torch.from_numpy(np.ascontiguousarray(voxels[:rows, :columns].transpose(2, 0, 1)))[:, None]
    operator = DegradationOperator("area", factor)
    source = operator(high)
    slices = tuple(one[0].numpy() for one in source)
    volume = TrainingVolume("volume", "MR", "patient", slices, fit_intensity_map(high, "MR"), False)
    plain = upsample_bicubic(volume.intensity.forward(source), factor)
    reference = segment(high, image.affine)
    result = {"bicubic": compare(segment(volume.intensity.inverse(plain), image.affine), reference)}
    with torch.inference_mode():
        for name, network in networks.items():
            made = super_resolved(network, source, volume, operator, inferer=VolumeInferer())
            result[name] = compare(segment(made, image.affine), reference)
    return result


def thick_slices(text: str) -> ThickSlices:
    """Thickness and gap in mm, as ``4|1``.

    Example:
        >>> thick_slices("5|1.5")
        ThickSlices(thickness_mm=5.0, gap_mm=1.5)
    """
    thickness, _, gap = text.partition("|")
    return ThickSlices(float(thickness), float(gap or 0))


def stack_rows(bundle: str, baselines: str, rows: list[str] | None) -> StackRows:
    """What brings thick slices back: all networks, or those that are named."""
    dials = {"ldm_mean": 0.0, "ldm": None, "ldm_sample": 1.0}
    wanted = rows or ["srresnet", *dials]
    # Slices stay as they are, and new ones are made between them: how many, volumes say.
    how = {"factor": 1, "factor_slices": 2}
    planes = {name: load_network(bundle, detail=dial, **how) for name, dial in dials.items() if name in wanted}
    own = {n: load_network(baselines, "srresnet", factor=n) for n in (2, 3, 4)} if "srresnet" in wanted else {}
    return StackRows(planes, {"srresnet": own} if own else {})  # type: ignore[arg-type]


def measure_through_plane(path: Path, rows: StackRows, thick: ThickSlices) -> dict[str, dict[str, float]]:
    """Dice and volume bias of each row of one volume that is averaged along its last axis."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    voxels = torch.from_numpy(np.ascontiguousarray(image.dataobj, np.float32))
    geometry = VolumeGeometry(voxels.shape, image.affine)
    stack = SharpStack.of(
        StackVolume("volume", "MR", "patient", voxels, geometry, fit_intensity_map(voxels, "MR")), 2, thick
    )
    if stack is None:
        raise SystemExit(f"Slices of {thick} do not fit a volume.")
    reference = segment(stack.high.permute(2, 0, 1)[:, None], image.affine)
    with torch.inference_mode():
        return {
            name: compare(segment(made.permute(2, 0, 1)[:, None], image.affine), reference)
            for name, made, _ in rows.of(stack)
            if name != "hr"
        }


def segment(stack: torch.Tensor, affine: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Labels (I, J, K) of slices (K, 1, I, J): 0 outside the brain, and :data:`TISSUES`."""
    from deepbet.bet import BrainExtraction
    from dipy.segment.tissue import TissueClassifierHMRF

    voxels = stack[:, 0].permute(1, 2, 0).contiguous().numpy()
    brain, mask, _ = BrainExtraction(no_gpu=True).run(nibabel.Nifti1Image(voxels, affine))
    inside = np.asarray(mask.dataobj) > 0
    box = tuple(slice(max(0, ends.min() - 2), ends.max() + 3) for ends in np.nonzero(inside))
    tissue = np.where(inside, np.asarray(brain.dataobj), 0)[box]
    _, labels, _ = TissueClassifierHMRF(verbose=False).classify(tissue, len(TISSUES), _BETA, max_iter=_ITERATIONS)
    result = np.zeros(voxels.shape, np.uint8)
    result[box] = np.where(inside[box], by_brightness(labels, tissue), 0)
    return result


def by_brightness(labels: npt.NDArray[Any], voxels: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
    """Renumber labels by mean intensity, from 1 for the darkest, as :data:`TISSUES` are in T1; 0 stays background.

    Example:
        >>> by_brightness(np.array([0, 3, 3, 1]), np.array([9.0, 2.0, 4.0, 5.0]))
        array([0, 1, 1, 2], dtype=uint8)
    """
    order = sorted(set(np.unique(labels)) - {0}, key=lambda label: voxels[labels == label].mean())
    result = np.zeros(labels.shape, np.uint8)
    for rank, label in enumerate(order, start=1):
        result[labels == label] = rank
    return result


def compare(labels: npt.NDArray[np.uint8], reference: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Dice, and volume minus the reference's in percent, of the brain and of each tissue.

    Example:
        >>> compare(np.array([1, 2, 3, 3]), np.array([1, 2, 2, 3]))["grey matter bias, %"]
        -50.0
    """
    result = {}
    for name, label in {"brain": 0, **TISSUES}.items():
        mine, theirs = ((x == label) if label else (x > 0) for x in (labels, reference))
        result[f"{name} dice"] = float(2 * (mine & theirs).sum() / max(1, mine.sum() + theirs.sum()))
        result[f"{name} bias, %"] = float(100 * (mine.sum() / max(1, theirs.sum()) - 1))
    return result


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


if __name__ == "__main__":
    main()
