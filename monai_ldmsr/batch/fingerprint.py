"""By what is known that a result is still what these settings would make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from monai_ldmsr._version import __version__
from monai_ldmsr.bundle_folder import bundle_info
from monai_ldmsr.io.written_files import FileMark
from monai_ldmsr.settings import WorkSettings

__all__ = ["images_digest", "settings_fingerprint"]


def settings_fingerprint(settings: WorkSettings) -> str:
    """Digest of weights, network, settings and version of this software.

    Raises:
        SettingsError: there is no such bundle.
        WeightsError: its metadata does not name the weights.
    """
    info = bundle_info(settings.bundle)
    said = settings.changing("voxels", "headers")
    said["device"] = (settings.device or "").split(":")[0]  # which GPU it was makes no difference
    said["config"] = hashlib.sha256((info.folder / "configs" / "inference.yaml").read_bytes()).hexdigest()
    said |= {"weights": info.weights_sha256, "bundle": info.version, "version": __version__}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def images_digest(files: Mapping[str, FileMark]) -> str:
    """Digest of the voxels' files of a result: the report, which holds durations, may differ without harm."""
    images = sorted((name, mark.sha256) for name, mark in files.items() if not name.startswith("report."))
    return hashlib.sha256(json.dumps(images).encode()).hexdigest()[:16]
