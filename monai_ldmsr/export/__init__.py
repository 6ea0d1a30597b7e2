"""A bundle's networks for other engines: as ONNX and as torch.export files, each proved equal."""

from __future__ import annotations

from monai_ldmsr.export.parts import PARTS, NetworkPart, TensorSpec
from monai_ldmsr.export.writing import DESCRIPTION_FILE, FORMATS, ExportSummary, export_networks, write_networks

__all__ = [
    "DESCRIPTION_FILE",
    "FORMATS",
    "PARTS",
    "ExportSummary",
    "NetworkPart",
    "TensorSpec",
    "export_networks",
    "write_networks",
]
