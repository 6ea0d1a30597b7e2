"""MONAI's schema of a bundle's metadata, since no network is there to fetch it."""

from __future__ import annotations

import json
from pathlib import Path

TEXT, TABLE = {"type": "string"}, {"type": "object"}
TENSOR = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
    "properties": {
        **dict.fromkeys(("type", "format", "dtype"), TEXT),
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": TABLE,
    },
}
TENSORS = {"type": "object", "patternProperties": {".": TENSOR}}

#: What MONAI asks of ``metadata.json``, written from its meta_schema_20240725.json (the address is in the metadata).
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2019-09/schema",
    "type": "object",
    "required": [
        "schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
        "description", "authors", "copyright", "network_data_format",
    ],
    "properties": {
        **dict.fromkeys(
            ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors",
             "copyright", "data_source", "data_type", "image_classes", "label_classes", "pred_classes", "intended_use"),
            TEXT,
        ),
        **dict.fromkeys(("changelog", "required_packages_version", "eval_metrics", "supported_apps"), TABLE),
        "references": {"type": "array", "items": TEXT},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": TENSORS, "outputs": TENSORS},
        },
    },
}  # fmt: skip


def write_schema(folder: Path) -> Path:
    """The schema as a file, as ``monai.bundle.verify_metadata`` takes it."""
    path = folder / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    return path
