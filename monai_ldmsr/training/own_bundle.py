"""The bundles of a training: configs of the bundle that was trained, and a name, card and figures of their own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ldmsr.bundle_folder import CALIBRATION_FILE, PLANES_FILE, RANGE_FILE
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.storage import file_sha256, output_errors, replace_text, replaced_files

__all__ = ["OWN_BUNDLE", "OwnBundle", "check_name"]

#: Name of a trained model's bundle unless another is given.
OWN_BUNDLE = "ldm_sr_custom"

#: Rows of the evaluation's table and their columns that the card shows.
_COLUMNS = ("psnr", "ms_ssim", "laplacian_variance", "fft")

_UNKNOWN = "not stated; whoever trained the weights adds it"

_CARD = """\
# {name}: super-resolution of MR, CT and PET slices, trained by its user

**For research only, not for diagnosis.** Detail below the source's resolution is estimated from the images that the
model was trained on; it may be wrong. These weights were trained by `ldmsr train` on volumes of its user. Nobody else
has checked them, and no figure of the bundle whose configs they use (`{origin}`) holds for them.

    ldmsr run SRC OUT --bundle {name}    # or the path of this folder

## Training

{about}

The dial's defaults (`default_detail` in `configs/inference.yaml`) are those of `{origin}`, not chosen for these
weights. Nor are expected errors calibrated for them: `ldmsr calibrate DATA --bundle {name}` does that, on patients of
the calibration split.

## Figures on the test split

{figures}

## Licence and data

Configs: see `LICENSE`. Licence and origin of the data that the weights were trained on: {unknown}, here and in
`data_license.txt`, before the weights are passed on.
"""


@dataclass(frozen=True)
class OwnBundle:
    """A bundle that a training makes.

    Args:
        source: bundle folder whose configs were run.
        target: made or replaced file by file; its name is the bundle's.
        about: what a person should know of the training, line by line; no names of files or patients.
    """

    source: Path
    target: Path
    about: Sequence[str]

    def write(self, weights: Mapping[str, Path]) -> None:
        """Write configs, licence, weights, and metadata and card without figures.

        Other weights than those that an earlier training has left there count as the next version.

        Args:
            weights: name without extension (``model`` first) to file.

        Raises:
            OutputError: it cannot be written.
        """
        with output_errors(f"The bundle '{self.target.name}'", "Free disk space, or choose another folder."):
            earlier = self._metadata(self.target)
            shutil.copytree(self.source / "configs", self.target / "configs", dirs_exist_ok=True)
            if (self.source / "LICENSE").is_file():
                shutil.copy2(self.source / "LICENSE", self.target / "LICENSE")
            (self.target / "models").mkdir(exist_ok=True)
            for name, path in weights.items():
                with replaced_files(self.target / "models" / f"{name}.pt") as (partial,):
                    shutil.copyfile(path, partial)
            (self.target / "docs").mkdir(exist_ok=True)
            hashes = {
                "weights_sha256" if name == "model" else f"{name}_sha256": file_sha256(
                    self.target / "models" / f"{name}.pt"
                )
                for name in weights
            }
            self._write_metadata({**self._metadata(self.source), **self._own(hashes, earlier), **hashes})
            if earlier.get("weights_sha256") != hashes.get("weights_sha256"):
                # What was promised of other weights does not hold for these.
                for name in (CALIBRATION_FILE, RANGE_FILE, PLANES_FILE):
                    (self.target / "models" / name).unlink(missing_ok=True)
            replace_text(
                self.target / "docs" / "data_license.txt", f"Licence and origin of the training data: {_UNKNOWN}.\n"
            )
            self._write_card("Not evaluated yet: `ldmsr evaluate DATA OUT --bundle` with the path of this folder.")

    def describe(self, table: Mapping[str, Any]) -> None:
        """Add the figures of the evaluation on the test split to metadata and card.

        Args:
            table: what ``EvaluationTable.as_dict`` gives.

        Raises:
            OutputError: it cannot be written.
        """
        factor = table["settings"]["factor"]
        figures = {
            f"test_factor_{factor}_{column}_{row}": round(cells[column]["mean"], 3)
            for row, cells in table["rows"].items()
            for column in _COLUMNS
            if cells[column]["mean"] is not None
        }
        with output_errors(f"The bundle '{self.target.name}'", "Free disk space, or choose another folder."):
            self._write_metadata({**self._metadata(self.target), "eval_metrics": figures})
            self._write_card(_figures(table))

    def _metadata(self, folder: Path) -> dict[str, Any]:
        path = folder / "configs" / "metadata.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found

    def _own(self, hashes: Mapping[str, str], earlier: Mapping[str, Any]) -> dict[str, Any]:
        """What the metadata say of this training, in place of what the source's say of theirs."""
        version, changelog = str(earlier.get("version", "0.1.0")), dict(earlier.get("changelog", {}))
        if earlier and any(earlier.get(key) != sha256 for key, sha256 in hashes.items()):
            major, minor, *_ = version.split(".")
            version = f"{major}.{int(minor) + 1}.0"
        return {
            "name": self.target.name,
            "version": version,
            "changelog": {version: f"trained by its user: {'; '.join(self.about)}", **changelog},
            "authors": _UNKNOWN,
            "copyright": f"weights: {_UNKNOWN}; configs: Copyright (c) monai_ldmsr authors",
            "data_source": f"volumes of the user who ran ldmsr train; licence: {_UNKNOWN}",
            "eval_metrics": {},
            "planes_sha256": None,  # of a planes.pt that its user may add
        }

    def _write_metadata(self, meta: Mapping[str, Any]) -> None:
        replace_text(self.target / "configs" / "metadata.json", json.dumps(meta, indent=4) + "\n")

    def _write_card(self, figures: str) -> None:
        about = "\n".join(f"- {line}" for line in self.about)
        names = {"name": self.target.name, "origin": self.source.name, "unknown": _UNKNOWN}
        replace_text(self.target / "docs" / "README.md", _CARD.format(about=about, figures=figures, **names))


def check_name(name: str) -> str:
    """Name of a bundle: letters, digits, ``_``, ``-`` and ``.``.

    Raises:
        SettingsError: it holds something else.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise SettingsError(f"The name of the bundle is '{name}'; give up to 64 letters, digits, '_', '-' and '.'.")
    return name


def _figures(table: Mapping[str, Any]) -> str:
    """The table as text, with intervals where there are enough patients."""
    n, settings = table["n_patients"], table["settings"]
    patients = "one patient" if n == 1 else f"{n} patients"
    interval = "the 95 % interval over patients in brackets" if n > 2 else "too few patients for an interval"
    how = f"Factor {settings['factor']}, operator {settings['operator']}"
    lines = [
        f"{how}: {table['n_slices']} degraded slices of {patients} neither trained on nor calibrated by;",
        f"means over slices, {interval}. Definitions and slices as scanned are in",
        "the evaluation's `table.html`. Rows `srresnet` and `srgan` are baselines trained on the same volumes.",
        "",
        "| row | PSNR in dB | MS-SSIM | Laplacian variance | FFT score |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row, cells in table["rows"].items():
        lines.append(f"| {row} | " + " | ".join(_cell(cells[column]) for column in _COLUMNS) + " |")
    return "\n".join(lines)


def _cell(cell: Mapping[str, Any]) -> str:
    if cell["mean"] is None:
        return "-"
    bounds = cell["ci95"]
    return f"{cell['mean']:.4g}" + (f" ({bounds[0]:.4g} to {bounds[1]:.4g})" if bounds else "")
