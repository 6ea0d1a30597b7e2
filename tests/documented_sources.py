"""A folder in which commands of the documentation run as they stand: what they name is there, and small.

``sample_data`` has the names of the whole one, with the middle of each slice alone; other sources are cut from it.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import SimpleITK
import torch
import yaml
from documented import Command
from generative_networks import CASES, save_checkpoint
from places import BUNDLES, ROOT, SAMPLES
from pydicom.uid import ExplicitVRLittleEndian
from volume_files import textured

#: Of each series, the part that is left: first row and column, and how many. Smaller parts of the CT are refused as
#: unlike what the model was trained on.
PARTS = {"ct_abdomen": (60, 300, 96, 96), "mr_t1_sagittal": (168, 117, 48, 40), "pet_fdg": (40, 44, 48, 40)}
SLICES = 3

#: How many thick slices the series of MR is thinned to, which new slices can be laid between.
THICK = 4

#: Ends of names that are volume files.
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")


def small_samples(folder: Path) -> Path:
    """``sample_data`` with small slices, and few of them; beside it ``thick``, a series for a command's ``SRC``."""
    for series in sorted((SAMPLES / "dicom").iterdir()):
        paths = sorted(series.glob("*.dcm"), key=lambda path: int(pydicom.dcmread(path).InstanceNumber))
        start = (len(paths) - SLICES) // 2
        for path in paths[start : start + SLICES]:
            crop_image(path, folder / "dicom" / series.name / path.name, PARTS[series.name])
        if series.name == "mr_t1_sagittal":
            for path in paths[:: len(paths) // THICK][:SLICES]:
                crop_image(path, folder.parent / "thick" / path.name, PARTS[series.name], len(paths) // THICK)
    for path in (SAMPLES / "nifti").iterdir():
        image = nibabel.load(path)
        (folder / "nifti").mkdir(parents=True, exist_ok=True)
        nibabel.save(image.slicer[24:72, 36:76, 6 : 6 + SLICES], folder / "nifti" / path.name)
    return folder


def crop_image(path: Path, to: Path, part: tuple[int, int, int, int], thicker: int = 1) -> None:
    """Write a part of an image, where it was in the patient."""
    image, (row, column, rows, columns) = pydicom.dcmread(path), part
    pixels = image.pixel_array[row : row + rows, column : column + columns]
    cosines, spacing = np.array(image.ImageOrientationPatient, float), [float(value) for value in image.PixelSpacing]
    corner = np.array(image.ImagePositionPatient, float)
    corner += cosines[:3] * column * spacing[1] + cosines[3:] * row * spacing[0]
    image.ImagePositionPatient = [f"{value:.8f}"[:16] for value in corner]
    image.SliceThickness = f"{thicker * float(image.SliceThickness):.6f}"
    if "SpacingBetweenSlices" in image:
        image.SpacingBetweenSlices = f"{thicker * float(image.SpacingBetweenSlices):.6f}"
    image.Rows, image.Columns = rows, columns
    image.PixelData = pixels.astype("<i2" if image.PixelRepresentation else "<u2").tobytes()
    image["PixelData"].VR = "OW"
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    to.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(to, enforce_file_format=True)


def small_data(folder: Path) -> Path:
    """A data set: a patient to train on, nine to calibrate on, and one to test on."""
    rows = []
    for n, split in enumerate(["train", "test", *["calibration"] * 9]):
        # What is evaluated and trained on has 96 pixels at least; for a calibration fewer will do.
        shape = (100, 104, 2 if split == "train" else 1) if n < 3 else (40, 44, 1)
        path = textured(folder / f"p{n:02d}.nii.gz", shape, n)
        rows.append({"file": path.name, "split": split, "modality": "MR", "subject": f"s{n}"})
    for name in ("manifest.csv", "../my_split.csv"):
        with (folder / name).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder


class Place:
    """A folder with what the repository has that commands name, and what a command needs beside it."""

    def __init__(self, folder: Path, samples: Path, data: Path, tree: Path = ROOT) -> None:
        self.folder, self._samples, self._data = folder, samples, data
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bundles").symlink_to(tree / "bundles")
        (folder / "sample_data").symlink_to(samples)

    def prepare(self, given: argparse.Namespace, command: Command) -> None:
        """Make what the arguments of a command name as its input."""
        verb = command.arguments[0]
        source = getattr(given, "source", None)
        if verb == "import-generative":
            self._old_weights(given)
        elif verb == "train" and str(source) == "PACKED":
            self._packed(self.folder / source)
        elif verb in ("evaluate", "train", "calibrate", "pack") and not (self.folder / source).exists():
            (self.folder / source).symlink_to(self._data)
        elif verb in ("run", "batch") and not getattr(given, "status", False):
            self.source(source)
        if getattr(given, "split", None) and str(given.split).endswith(".csv"):
            shutil.copy(self._data.parent / "my_split.csv", self.folder / given.split)
        bundle = self.folder / str(getattr(given, "bundle", ""))
        if "/" in str(getattr(given, "bundle", "")) and not bundle.exists():  # one that a training made
            shutil.copytree(BUNDLES / "ldm_sr", bundle)

    def source(self, path: Path) -> None:
        """A volume file where a name says so, a list where it ends in ``.txt``, else a folder with a series."""
        there = self.folder / path
        if there.exists():
            return
        assert path.parts[0] != "sample_data", f"{path} is not among the small sample data: see small_samples"
        there.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith(VOLUME_SUFFIXES):
            (sample,) = (self._samples / "nifti").iterdir()
            if path.name.endswith((".nii", ".nii.gz")):
                nibabel.save(nibabel.load(sample), there)
            else:
                SimpleITK.WriteImage(SimpleITK.ReadImage(str(sample)), str(there))
            there.with_name(path.name.split(".")[0] + ".json").write_text(json.dumps({"Modality": "MR"}))
        elif path.suffix == ".txt":
            there.write_text(f"{self._samples / 'dicom' / 'mr_t1_sagittal'}\n")
        else:
            there.mkdir()
            shutil.copytree(self._data.parent / "thick", there / "series")

    def _old_weights(self, given: argparse.Namespace) -> None:
        network = CASES["codec"]
        save_checkpoint(network, self.folder / given.source)
        (self.folder / given.network).write_text(yaml.safe_dump(network))

    def _packed(self, folder: Path) -> None:
        from monai_ldmsr.training.packing import pack_dataset

        torch.manual_seed(0)
        pack_dataset(self._data, folder, splits=["train"])
