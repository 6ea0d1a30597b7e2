"""What the gallery shows: slices of sample data, and what the package makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.machine import ROOT
from monai_ldmsr import fit_intensity_map, read_dicom_series, super_resolve, volume_of
from monai_ldmsr.degradation import DegradationOperator
from monai_ldmsr.evaluation.rows import super_resolved
from monai_ldmsr.evaluation.stack_rows import StackRows
from monai_ldmsr.evaluation.stacks import SharpStack, StackVolume, ThickSlices
from monai_ldmsr.networks import upsample_bicubic
from monai_ldmsr.training.volumes import TrainingVolume
from monai_ldmsr.workflow import load_network

__all__ = ["FACTOR", "NATIVE", "UNITS", "Made", "Results", "Slice"]

FloatImage = npt.NDArray[np.floating]

#: Factor of everything that is shown; threads, of which another number may round a value here and there.
FACTOR, THREADS = 4, 2

#: Units as the pictures say them.
UNITS = {"MR": "signal", "CT": "HU", "PT": "Bq/ml"}

#: Settings of each dial; None takes the bundle's own.
DIALS: dict[str, float | None] = {"mean": 0.0, "shipped": None, "sample": 1.0}

#: Axis along which the MR volume is averaged, and the slice of it that shows the plane.
_STACK_AXIS, _PLANE = 1, 8


@dataclass(frozen=True)
class Slice:
    """One slice of the sample data.

    Args:
        name: of its picture.
        file: DICOM file in ``sample_data``.
        modality: DICOM's term.
        title: what it shows.
        dials: names of :data:`DIALS` that are shown.
    """

    name: str
    file: str
    modality: str
    title: str
    dials: tuple[str, ...]

    def command(self, dial: str, factor: int = FACTOR) -> str:
        """What a user would type for the same result."""
        setting = "" if DIALS[dial] is None else f" --detail {DIALS[dial]:g}"
        return f"ldmsr run sample_data/{self.file} output/{self.result(dial, factor)}.nii.gz --factor {factor}{setting}"

    def result(self, dial: str, factor: int = FACTOR) -> str:
        """Name of its result, without extension."""
        return f"{self.name}_{dial}" + ("" if factor == FACTOR else f"_x{factor}")


#: The middle slice of each DICOM series.
NATIVE = (
    Slice("mr", "dicom/mr_t1_sagittal/N2D_0192.dcm", "MR", "T1-weighted head MR", ("mean", "shipped", "sample")),
    Slice("ct", "dicom/ct_abdomen/1-17.dcm", "CT", "Contrast CT of the upper abdomen", ("mean", "sample")),
    Slice("pet", "dicom/pet_fdg/1-085.dcm", "PT", "FDG PET of the chest", ("mean", "sample")),
)


@dataclass(frozen=True, eq=False)
class Made:
    """A result and its expected error, (rows, columns) in the source's unit; the latter empty where there is none."""

    image: FloatImage
    error: FloatImage


_NO_ERROR = np.zeros((0, 0))


class Results:
    """Makes what is shown, each once, and finds again what lies in its folder.

    Args:
        folder: results as volume files; made when missing.
        crop: (rows, columns) of the middle of each slice that is used; None for all.
    """

    def __init__(self, folder: Path, crop: tuple[int, int] | None = None) -> None:
        self.folder, self.crop = folder, crop
        folder.mkdir(parents=True, exist_ok=True)

    @cache  # noqa: B019  # lives as long as the script
    def source(self, one: Slice) -> FloatImage:
        """(rows, columns) in the unit of the modality."""
        volume = volume_of(read_dicom_series(ROOT / "sample_data" / one.file))
        return self._cropped(volume[0, :, :, 0].T.contiguous().numpy())

    def bicubic(self, source: FloatImage, modality: str, factor: int = FACTOR) -> FloatImage:
        """Bicubic interpolation as evaluations have it, in model range."""
        plane = torch.from_numpy(np.ascontiguousarray(source, np.float32))[None, None]
        intensity = fit_intensity_map(plane, modality)
        return np.asarray(intensity.inverse(upsample_bicubic(intensity.forward(plane), factor))[0, 0].numpy())

    def native(self, one: Slice, dial: str, factor: int = FACTOR) -> Made:
        """The slice as scanned, super-resolved by the command of :meth:`Slice.command`."""
        source: Path | FloatImage = ROOT / "sample_data" / one.file if self.crop is None else self.source(one)
        spacing_mm = read_dicom_series(ROOT / "sample_data" / one.file).geometry.spacing_mm[0]
        return self._made(one.result(dial, factor), source, one.modality, DIALS[dial], factor, spacing_mm)

    @cache  # noqa: B019
    def degraded(self, one: Slice) -> tuple[FloatImage, dict[str, Made]]:
        """The original, as much of it as whole blocks fill, and what comes back of its averages."""
        whole = self.source(one)
        rows, columns = (n // FACTOR * FACTOR for n in whole.shape)
        original = np.ascontiguousarray(whole[:rows, :columns], np.float32)
        operator = DegradationOperator("area", FACTOR)
        low = operator(torch.from_numpy(original)[None, None])
        source = low[0, 0].numpy()
        found = {"Bicubic": Made(self.bicubic(source, one.modality), _NO_ERROR)}
        intensity = fit_intensity_map(low, one.modality)
        volume = TrainingVolume(one.name, one.modality, one.name, (source,), intensity, False)
        for label, weights in {"SRResNet": "srresnet", "SRGAN": "model"}.items():
            network = load_network("srgan_sr", weights, factor=FACTOR)
            with torch.inference_mode():
                made = super_resolved(network, low, volume, operator)[0, 0].numpy()
            found[label] = Made(made, _NO_ERROR)
        for label, dial in {"Mean": "mean", "Sample": "sample"}.items():
            found[label] = self._made(f"{one.name}_degraded_{dial}", source, one.modality, DIALS[dial])
        return original, found

    def through_plane(self) -> dict[str, FloatImage]:
        """The MR volume averaged along the rows' axis to slices four times as thick, brought back: one plane."""
        series = read_dicom_series((ROOT / "sample_data" / NATIVE[0].file).parent)
        voxels = volume_of(series).as_tensor()[0].float()
        thick = ThickSlices(FACTOR * series.geometry.spacing_mm[_STACK_AXIS])
        intensity = fit_intensity_map(voxels, "MR")
        volume = StackVolume("mr", "MR", "mr", voxels, series.geometry, intensity)
        stack = SharpStack.of(volume, _STACK_AXIS, thick)
        assert stack is not None
        kept = self.folder / "through_plane.npz"
        if not kept.is_file():
            network: Any = load_network("ldm_sr", factor=1, factor_slices=FACTOR)
            torch.set_num_threads(THREADS)
            with torch.inference_mode():
                made = {name: row[:, _PLANE].T.numpy() for name, row, _ in StackRows({"ldm": network}, {}).of(stack)}
            np.savez_compressed(kept, **made)
        with np.load(kept) as found:
            rows = {"Linear": "linear", "Cubic B-spline": "bspline", "ldmsr": "ldm", "Original": "hr"}
            blocks = stack.low[:, _PLANE].T.numpy().repeat(FACTOR, axis=0)
            return {"Thick slices": blocks, **{label: found[name] for label, name in rows.items()}}

    def _made(
        self,
        name: str,
        source: Path | FloatImage,
        modality: str,
        detail: float | None,
        factor: int = FACTOR,
        spacing_mm: float = 1.0,
    ) -> Made:
        """By way of a volume file, and its map beside it; of the spacing, the check of ranges alone makes use."""
        target = self.folder / f"{name}.nii.gz"
        if not target.is_file():
            if not isinstance(source, Path):
                image = nibabel.Nifti1Image(
                    np.asarray(source, np.float32).T[:, :, None], np.diag([spacing_mm] * 3 + [1.0])
                )
                source = self.folder / "source.nii"
                nibabel.save(image, source)
            settings: dict[str, Any] = {} if detail is None else {"detail": detail}
            more = {} if source.suffix == ".dcm" else {"modality": modality}
            summary = super_resolve(source, target, factor=factor, threads=THREADS, **more, **settings)
            if summary.exit_code:
                raise SystemExit(f"{name}: {summary.cases[0].message}")
        return Made(_plane(target), _plane(self.folder / f"{name}_error.nii.gz"))

    def _cropped(self, image: FloatImage) -> FloatImage:
        if self.crop is None:
            return image
        starts = [(n - wanted) // 2 for n, wanted in zip(image.shape, self.crop, strict=True)]
        return image[tuple(slice(at, at + n) for at, n in zip(starts, self.crop, strict=True))]


def _plane(path: Path) -> FloatImage:
    return np.asarray(nibabel.load(path).dataobj, np.float32)[:, :, 0].T
