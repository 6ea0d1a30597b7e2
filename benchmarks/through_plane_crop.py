"""Beside another program: thick slices of a crop for it, and its file and ours compared with the original.

    python benchmarks/through_plane_crop.py prepare VOLUME OUT --thickness 4 --gap 0 --sides 64 64 64
    run-eclare --in-fpath OUT/thick.nii.gz --out-dir OUT/eclare --relative-slice-profile-type rect  # or any other
    ldmsr run OUT/thick.nii.gz OUT/ours.nii.gz --factor 1 --slice-spacing 1 --slice-thickness 4 --modality MR --force
    python benchmarks/through_plane_crop.py compare OUT THEIRS.nii.gz OUT/ours.nii.gz

The middle of a near-isotropic volume is averaged along its last axis; thick.nii.gz and original.nii.gz lie in the
patient where that was. A small crop is unlike the whole images of training, hence --force. Files are brought onto the
original's grid by cubic B-splines, wherever their slices lie, and printed are PSNR and SSIM of each, and of a cubic
B-spline of the thick slices; a voxel at each face is left out, and what any of several files does not cover.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813  # as SimpleITK's own documentation
from torch import from_numpy

from monai_ldmsr.evaluation.figures import measure
from monai_ldmsr.evaluation.stacks import ThickSlices
from monai_ldmsr.transforms.intensity import fit_intensity_map


def main() -> None:
    """Prepare or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(required=True)
    first = steps.add_parser("prepare")
    first.add_argument("volume", type=Path)
    first.add_argument("output", type=Path)
    first.add_argument("--thickness", type=float, default=4.0)
    first.add_argument("--gap", type=float, default=0.0)
    first.add_argument("--sides", type=int, nargs=3, default=(64, 64, 64))
    first.set_defaults(step=lambda a: prepare(a.volume, a.output, ThickSlices(a.thickness, a.gap), tuple(a.sides)))
    second = steps.add_parser("compare")
    second.add_argument("prepared", type=Path)
    second.add_argument("files", type=Path, nargs="+")
    second.set_defaults(step=lambda a: show(compare(a.prepared, a.files)))
    arguments = parser.parse_args()
    arguments.step(arguments)


def prepare(volume: Path, output: Path, thick: ThickSlices, sides: tuple[int, ...]) -> None:
    """Write the middle of a volume and thick slices of it."""
    image = nibabel.load(volume)
    starts = [max(0, (size - side) // 2) for size, side in zip(image.shape, sides, strict=True)]
    box = tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
    voxels = np.asarray(image.dataobj, np.float32)[box]
    spacing = float(np.linalg.norm(image.affine[:3, 2]))
    plan = thick.plan(voxels.shape[2], spacing)
    if plan is None:
        raise SystemExit(f"Slices of {thick} do not fit {voxels.shape[2]} voxels of {spacing:g} mm.")
    starts[2] += (voxels.shape[2] - plan.places.number) // 2
    shift = starts[2] - max(0, (image.shape[2] - sides[2]) // 2)
    original = voxels[..., shift : shift + plan.places.number]
    fine = image.affine.copy()
    fine[:3, 3] += fine[:3, :3] @ np.array(starts)
    coarse = fine.copy()
    coarse[:3, 2] *= 1 / plan.places.step
    # The centre of the first thick slice, in the original's slices.
    coarse[:3, 3] += fine[:3, 2] * (-plan.places.first / plan.places.step)
    output.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(original, fine), output / "original.nii.gz")
    averaged = (original @ plan.averaging.T).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(averaged, coarse), output / "thick.nii.gz")


def compare(prepared: Path, files: list[Path]) -> dict[str, dict[str, float]]:
    """PSNR and SSIM of each file, over what all of them cover."""
    reference = _read(prepared / "original.nii.gz")
    truth = _array(reference)
    names = {"B-spline": prepared / "thick.nii.gz", **{file.name: file for file in files}}
    found = {name: _onto(_read(path), reference) for name, path in names.items()}
    inside = np.all([np.isfinite(one) for name, one in found.items()], axis=0)
    kept = [np.flatnonzero(inside.any(axis=tuple(set(range(3)) - {axis}))) for axis in range(3)]
    box = tuple(slice(ends[0] + 1, ends[-1]) for ends in kept)
    intensity = fit_intensity_map(from_numpy(truth), "MR")
    result = {}
    for name, one in found.items():
        pairs = [(one[box][:, n], truth[box][:, n]) for n in range(truth[box].shape[1])]
        figures = [measure(*(intensity.forward(from_numpy(x.copy()))[None, None] for x in pair)) for pair in pairs]
        squared = [10 ** (-figure["psnr"] / 10) for figure in figures]
        result[name] = {
            "psnr": -10 * float(np.log10(np.mean(squared))),
            "ssim": float(np.mean([figure["ssim"] for figure in figures])),
        }
    return result


def show(found: dict[str, dict[str, float]]) -> None:
    """Print a line for each file."""
    for name, figures in found.items():
        print(f"{name:32}" + "".join(f"{key} {value:8.4f}  " for key, value in figures.items()))


def _read(path: Path) -> sitk.Image:
    return sitk.ReadImage(str(path), sitk.sitkFloat32)


def _onto(image: sitk.Image, reference: sitk.Image) -> npt.NDArray[np.float32]:
    """On the original's grid, axes as its own; NaN outside of the file."""
    return _array(sitk.Resample(image, reference, sitk.Transform(), sitk.sitkBSpline, float("nan")))


def _array(image: sitk.Image) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(sitk.GetArrayFromImage(image).transpose(2, 1, 0))


if __name__ == "__main__":
    main()
