"""The settings of a run, checked before anything is built or read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from monai_ldmsr.degradation import operator_place
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.io.series_labels import check_description, check_number
from monai_ldmsr.networks import FACTORS
from monai_ldmsr.noise_level import MAX_NOISE
from monai_ldmsr.number_settings import real_number, whole_number
from monai_ldmsr.transforms.intensity import check_modality

__all__ = ["checked_settings"]


def checked_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, with numbers as numbers; only these and a device's name may enter a config.

    Raises:
        SettingsError: one is outside what is possible.
    """
    checked = dict(given)
    for key in {"factor", "num_inference_steps", "seed", "series_number"} & checked.keys():
        checked[key] = whole_number(key, checked[key])
    for key, high in (("detail", 1.0), ("consistency", 1.0), ("noise", MAX_NOISE)):
        if key in checked:
            checked[key] = real_number(key, checked[key], 0.0, high)
    if checked.get("factor", FACTORS[0]) not in FACTORS:
        raise SettingsError(f"factor is {checked['factor']}, but this model super-resolves by 2, 3 or 4.")
    check_number(checked.get("series_number"))
    check_description(checked.get("series_description"))
    check_modality(checked.get("modality"))
    operator_place(checked.get("operator", "area"))
    _check_device(checked.get("device", "cpu"))
    return checked


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=torch.device(name))
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(
            f"The device '{name}' is not available here. Use cpu, or cuda where there is one."
        ) from error
