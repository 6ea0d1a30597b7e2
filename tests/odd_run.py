"""A cheap run of the whole command, and the check of what it wrote by independent readers.

The bundle is a nearest neighbour, so each result must hold its source's values block by block; the
results are read by SimpleITK and nibabel, the sources by pydicom and nibabel.
"""

from __future__ import annotations

import gzip
import json
import re
import resource
import shutil
import time
from contextlib import suppress
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import yaml
from pydicom.uid import JPEGExtended12Bit
from torch import Tensor

from monai_ldmsr.bundle_folder import find_bundle
from monai_ldmsr.cli import main
from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.networks.super_resolver import SuperResolver

#: A run takes a fraction of these; the limits catch a reader that believes a hostile header.
TIME_LIMIT_S, MEMORY_LIMIT_MB = 20, 400


def nearest_bundle(parent: Path) -> Path:
    """The shipped configs with a nearest neighbour in the networks' place: there is nothing to build or to load."""
    folder = parent / "ldm_sr"
    shutil.copytree(find_bundle("ldm_sr") / "configs", folder / "configs")
    config = folder / "configs" / "inference.yaml"
    parts = yaml.safe_load(config.read_text())
    parts["generator"] = {"_target_": "torch.nn.Identity"}
    parts["network_def"]["_target_"] = "odd_run.NearestNeighbour"
    parts["range_check"] = None
    parts["loaded_sha256"] = "@_meta_::weights_sha256"
    parts["network_def"]["planes"] = None
    parts["planes_sha256"] = ""
    unused = (
        "latent_channels",
        "denoiser_channels",
        "denoiser_blocks",
        "codec",
        "denoiser",
        "planes",
        "weights",
        "training_range",
    )
    config.write_text(yaml.safe_dump({key: part for key, part in parts.items() if key not in unused}, sort_keys=False))
    return folder


class NearestNeighbour(SuperResolver):
    """What describes itself as the network does, and repeats pixels; it knows no errors."""

    estimates = None  # type: ignore[assignment]
    takes_places = False

    def forward(  # type: ignore[override]
        self, slices: Tensor, modality: str | None = None, noise: float | None = None
    ) -> Tensor:
        rows, columns = self.factors.in_plane
        return slices.repeat_interleave(int(rows), -2).repeat_interleave(int(columns), -1)


def run(
    source: Path,
    output: Path,
    bundle: Path,
    time_limit_s: float = TIME_LIMIT_S,
    memory_limit_mb: float = MEMORY_LIMIT_MB,
) -> tuple[int, list[dict[str, str]]]:
    """Exit code and entries of the summary, within the limits of time and memory; no pictures are drawn."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monai_ldmsr.report_output.slice_panels", lambda *_: [])
        code = main(["run", str(source), str(output), "--device", "cpu", "--bundle", str(bundle)])
    assert time.monotonic() - start < time_limit_s
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < memory_limit_mb * 1024
    return code, json.loads((output / "summary.json").read_text())["series"]


def check_output(output: Path, cases: list[dict[str, str]]) -> None:
    """The output holds the whole results and nothing else."""
    done = {case["case"] for case in cases if case["status"] == "done"}
    assert {path.name for path in output.iterdir()} == {"summary.json", *done}
    assert not list(output.rglob(".*")), "something half-written is left"
    for name in done:
        assert {"report.json", "report.html"} < {path.name for path in (output / name).iterdir()}
    for case in cases:
        assert case["reason"] in ({""} if case["status"] == "done" else {code.value for code in ReasonCode})
        assert case["reason"] != "INTERNAL_ERROR", case["message"]


def check_result(folder: Path, source: Path) -> int:
    """Compare each slice of a result with its source; returns the number of slices."""
    images = sorted(folder.glob("dicom/*.dcm"))
    if not images:
        (result,) = (path for path in folder.glob("*_sr.*") if is_whole(path))
        return check_volume(result, next(path for path in source.iterdir() if is_whole(path)))
    for path, of in zip(images, sources_of(images, source), strict=True):
        check_image(path, pydicom.dcmread(of, force=True))
    return len(images)


def sources_of(results: list[Path], source: Path) -> list[Path]:
    """Source file of each result, by the reference in it."""
    by_uid = {}
    for path in [source] if source.is_file() else sorted(source.rglob("*")):
        if path.suffix == ".gz":
            within = path.relative_to(source if source.is_dir() else source.parent)
            unpacked = results[0].parents[3] / "unpacked" / within.with_suffix("")
            unpacked.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError, EOFError):
                unpacked.write_bytes(gzip.decompress(path.read_bytes()))
            path = unpacked
        with suppress(Exception):
            image = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            by_uid[image.get("SOPInstanceUID") or image.file_meta.MediaStorageSOPInstanceUID] = path
    found = []
    for path in results:
        (reference,) = pydicom.dcmread(path, stop_before_pixels=True).SourceImageSequence
        found.append(by_uid[reference.ReferencedSOPInstanceUID])
    return found


def check_image(path: Path, source: pydicom.Dataset) -> None:
    """Outer corner, spacing, direction and values of one image, as SimpleITK sees it."""
    found = SimpleITK.ReadImage(str(path))
    values = SimpleITK.GetArrayFromImage(found)[0].astype(float)
    step = float(source.get("RescaleSlope", 1)), float(source.get("RescaleIntercept", 0))
    if source.PhotometricInterpretation == "MONOCHROME1":  # ITK inverts it
        values = pydicom.dcmread(path).pixel_array.astype(float)
    if source.file_meta.TransferSyntaxUID == JPEGExtended12Bit:  # which pydicom does not decode
        expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(source.filename))[0].astype(float)
    else:
        expected = source.pixel_array.astype(float) * step[0] + step[1]
    expected = expected.repeat(2, axis=0).repeat(2, axis=1)
    assert values.shape == expected.shape
    assert np.abs(values - expected).max() <= 0.51 * abs(step[0]) + 1e-6 * np.abs(expected).max()
    row_mm, column_mm = (float(value) for value in source.PixelSpacing)
    cosines = np.array(source.ImageOrientationPatient, float)
    corner = np.array(source.ImagePositionPatient, float) - (cosines[:3] * column_mm + cosines[3:] * row_mm) / 2
    assert found.GetSpacing()[:2] == pytest.approx((column_mm / 2, row_mm / 2), rel=1e-6)
    assert found.TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, 0)) == pytest.approx(tuple(corner), abs=1e-3)
    direction = np.array(found.GetDirection()).reshape(3, 3)[:, :2].T.ravel()
    assert direction == pytest.approx(cosines, abs=2e-3)


def is_whole(path: Path) -> bool:
    """Whether a file can be opened as a volume: not the second file of one."""
    return not path.name.lower().endswith((".json", ".img", ".img.gz", ".raw", ".zraw", ".raw.gz"))


def check_volume(result: Path, source: Path) -> int:
    """Outer corners and values of a volume file, by another reader than the one that wrote it where there is one.

    A result of a 4D file is that of the volume that its name numbers.
    """
    if not result.name.endswith((".nrrd", ".nhdr", ".mha", ".mhd")):
        original = nibabel.load(source)
        number = re.search(r"-vol(\d{4})_sr\.", result.name)
        volumes = np.asarray(original.dataobj, float).reshape(*original.shape[:3], -1)
        assert (number is None) == (volumes.shape[3] == 1)
        affine, voxels = original.affine, volumes[..., int(number.group(1)) - 1 if number else 0]
        image = nibabel.load(result)
        got_affine, got = image.affine, np.asarray(image.dataobj, float)
        is_itk = is_orthogonal(affine) and (
            result.name.endswith((".nii", ".nii.gz")) or type(image) is nibabel.Nifti1Pair
        )
        itk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(result))) if is_itk else got.T
        np.testing.assert_allclose(itk.T, got, rtol=1e-6)
    else:
        (affine, voxels), (got_affine, got) = (read_itk(path) for path in (source, result))
    np.testing.assert_allclose(got, voxels.repeat(2, axis=0).repeat(2, axis=1), atol=0.51, rtol=1e-6)
    np.testing.assert_allclose(got_affine[:3, :3], affine[:3, :3] @ np.diag([0.5, 0.5, 1]), atol=1e-5)
    corner = np.array([-0.5, -0.5, 0, 1])
    np.testing.assert_allclose(got_affine @ corner, affine @ corner, atol=1e-3)
    return int(got.shape[2])


def is_orthogonal(affine: np.ndarray) -> bool:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(directions.T @ directions, np.eye(3), atol=1e-3))


def read_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """What ITK makes of a file, without the remarks that it has no room for."""
    if path.suffix == ".mha":
        head, mark, voxels = path.read_bytes().partition(b"LOCAL\n")
        path = path.with_name(f"short-{path.name}")
        path.write_bytes(b"".join(line for line in head.splitlines(True) if len(line) < 250) + mark + voxels)
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine, SimpleITK.GetArrayFromImage(image).T.astype(float)
