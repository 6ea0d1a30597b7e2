"""Make a small data set out of a large one, so that it can travel to a machine with an accelerator.

    python benchmarks/pack_dataset.py DATA PACKED --megabytes 56
    ldmsr train PACKED OUT --size large --budget 8m      # again with a longer budget to go on
    python benchmarks/calibrate_detail.py PACKED --bundle OUT/ldm_sr

PACKED holds evenly spread slices of every volume that can be trained on, as compressed int16 NIfTI, and a manifest.csv
with the splits of DATA. Near-isotropic volumes become three files, one a plane. Values are rounded to whole numbers, or
to 1/4096 of a volume's range where its unit is finer.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import nibabel
import numpy as np

from monai_ldmsr.errors import OutputError
from monai_ldmsr.geometry import spread_slices
from monai_ldmsr.io.volume_file import volume_case
from monai_ldmsr.training.discovery import MANIFEST, SPLITS
from monai_ldmsr.training.slices import FloatImage, TrainingVolume, load_training_volumes
from monai_ldmsr.transforms.source import MODALITIES

#: Thicker than any pixel, so that packed slices are not taken for an isotropic volume; in mm beside 1 mm pixels.
SLICE_MM = 5.0


def stacks(volume: TrainingVolume, count: int) -> list[np.ndarray]:
    """Slices of equal shape together, at most ``count`` of each, as (I, J, K) int16."""
    by_shape: dict[tuple[int, ...], list[FloatImage]] = {}
    for image in volume.slices:
        by_shape.setdefault(image.shape, []).append(image)
    return [
        to_int16(np.stack([images[n] for n in spread_slices(len(images), count)], axis=-1), volume.modality)
        for images in by_shape.values()
    ]


def to_int16(voxels: FloatImage, modality: str) -> np.ndarray:
    """Whole numbers: HU in CT, else of the unit, or of a 4096th of the range where that is finer or does not fit."""
    low, high = float(voxels.min()), float(voxels.max())
    if modality == "CT":
        voxels = voxels.clip(-3024, 32767)
    elif high - low < 512 or low < -32768 or high > 32767:
        voxels = (voxels - low) * (4095 / max(high - low, 1e-12))
    return np.rint(voxels).astype(np.int16)


def pack(volumes: dict[str, list[TrainingVolume]], packed: Path, count: int) -> int:
    """Write at most ``count`` slices of each volume and plane; return the size in bytes."""
    packed.mkdir(parents=True, exist_ok=True)
    lines, size = [["file", "modality", "subject", "split"]], 0
    for split, found in volumes.items():
        for n, volume in enumerate(found):
            for plane, voxels in enumerate(stacks(volume, count)):
                path = packed / f"{split}_{n:03d}_{volume_case(Path(volume.name))}_{plane}.nii.gz"
                nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, SLICE_MM, 1.0])), path)
                lines.append(
                    [path.name, volume.modality if volume.modality in MODALITIES else "", volume.subject, split]
                )
                size += path.stat().st_size
    with (packed / MANIFEST).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(lines)
    return size


def main() -> None:
    """Pack with fewer and fewer slices until it fits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("packed", type=Path, help="new folder")
    parser.add_argument("--megabytes", type=float, default=56.0)
    parser.add_argument("--slices", type=int, default=48, help="of a volume and plane, at most (default: 48)")
    arguments = parser.parse_args()
    if arguments.packed.exists():
        raise OutputError(f"'{arguments.packed.name}' exists already. Choose a new folder.")
    volumes = {split: load_training_volumes(arguments.data, split, halve_interpolated=False) for split in SPLITS}
    count = arguments.slices
    while (size := pack(volumes, arguments.packed, count)) > arguments.megabytes * 1e6 and count > 1:
        print(f"{count} slices a volume: {size / 1e6:.0f} MB, too much")
        for path in arguments.packed.iterdir():
            path.unlink()
        count = max(1, int(count * 0.95 * arguments.megabytes * 1e6 / size))
    print(f"{count} slices a volume and plane at most: {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
