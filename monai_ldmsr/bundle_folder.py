"""Where bundles lie, and what their metadata say."""

from __future__ import annotations

import json
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from monai_ldmsr.errors import SettingsError, WeightsError

__all__ = [
    "BASELINES",
    "CALIBRATION_FILE",
    "DEFAULT_BUNDLE",
    "PLANES_FILE",
    "RANGE_FILE",
    "BundleInfo",
    "available_bundles",
    "bundle_info",
    "find_bundle",
    "read_beside_weights",
    "running_bundle",
    "weights_sha256",
]

#: Names of the bundles of the latent diffusion model and of SRResNet and SRGAN.
DEFAULT_BUNDLE, BASELINES = "ldm_sr", "srgan_sr"

#: Name of a bundle's calibration, beside its weights.
CALIBRATION_FILE = "calibration.json"

#: Name of what its weights were trained for, likewise.
RANGE_FILE = "training_range.json"

#: Name of what planes across slices have of their own beside its weights.
PLANES_FILE = "planes.pt"


@dataclass(frozen=True)
class BundleInfo:
    """What a bundle says about itself, and whether its weights are those it names."""

    name: str
    version: str
    description: str
    weights_sha256: str
    folder: Path


def find_bundle(bundle: str | Path) -> Path:
    """Folder of a bundle: as given, beside the package (a checkout), or where the package's data was installed.

    Raises:
        SettingsError: there is none.
    """
    candidates = [Path(bundle)]
    if Path(bundle).name == str(bundle):
        candidates = [root / bundle for root in _bundle_roots()] + candidates
    for candidate in candidates:
        if (candidate / "configs" / "metadata.json").is_file():
            return candidate
    raise SettingsError(f"The bundle '{Path(bundle).name}' (a folder with configs/metadata.json) was not found.")


def running_bundle(bundle_root: str | Path, name: str) -> Path:
    """Folder of the bundle whose config runs: ``bundle_root`` if it is one, else :func:`find_bundle` of its name.

    Raises:
        SettingsError: there is none.
    """
    is_bundle = (Path(bundle_root) / "configs" / "metadata.json").is_file()
    return Path(bundle_root) if is_bundle else find_bundle(name)


def bundle_info(bundle: str | Path = DEFAULT_BUNDLE) -> BundleInfo:
    """Read a bundle's metadata.

    Raises:
        SettingsError: there is no such bundle.
        WeightsError: its metadata does not name the weights.
    """
    folder = find_bundle(bundle)
    name, version, description, sha256 = _metadata(folder, "name", "version", "description", "weights_sha256")
    return BundleInfo(name, version, description, sha256, folder)


def available_bundles() -> list[BundleInfo]:
    """Bundles that come with the package."""
    folders = {
        folder.parents[1].name: folder.parents[1]
        for root in reversed(_bundle_roots())
        for folder in sorted(root.glob("*/configs/metadata.json"))
    }
    return [bundle_info(folder) for _, folder in sorted(folders.items())]


def _bundle_roots() -> list[Path]:
    checkout = Path(__file__).resolve().parents[1] / "bundles"
    installed = [Path(root) / "share" / "monai_ldmsr" / "bundles" for root in (sysconfig.get_path("data"), sys.prefix)]
    return [checkout, *installed]


class _OfWeights(Protocol):
    @property
    def weights_sha256(self) -> str: ...


Found = TypeVar("Found", bound=_OfWeights)


def read_beside_weights(
    path: str | Path, weights_sha256: str, read: Callable[[dict[str, Any]], Found], without: str
) -> Found | None:
    """What ``ldmsr calibrate`` wrote beside a bundle's weights, for these alone; None where there is no such file.

    Args:
        path: the file, a JSON object.
        weights_sha256: hash of the weights that it must belong to; empty where none were loaded, which have none.
        read: makes of its content what it says; raises ``ValueError``, ``TypeError``, ``KeyError`` or
            ``AttributeError`` where that is damaged.
        without: what becomes of a bundle that has none, for the message.

    Raises:
        WeightsError: it is damaged, or was made for other weights.
    """
    if not weights_sha256:
        return None
    name = Path(path).name
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        text = ""
    try:
        found = read(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"The bundle's {name} is damaged. Install the bundle again, run ldmsr calibrate, or remove it."
        ) from error
    if found.weights_sha256 != weights_sha256:
        raise WeightsError(
            f"The bundle's {name} was made for weights {found.weights_sha256[:12]}, but the bundle has "
            f"{weights_sha256[:12]}. Run ldmsr calibrate, or remove the file: then {without}."
        )
    return found


def weights_sha256(folder: Path, weights: str) -> str:
    """What a bundle's metadata says of one of its weights files.

    Args:
        folder: the bundle's.
        weights: file name without extension, other than ``model``.

    Raises:
        WeightsError: they say nothing of it.
    """
    (sha256,) = _metadata(folder, f"{weights}_sha256")
    return sha256


def _metadata(folder: Path, *names: str) -> list[str]:
    meta = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    try:
        return [meta[name] for name in names]
    except KeyError as error:
        raise WeightsError(f"The bundle's metadata.json has no {error}. Restore the bundle.") from error
