"""What a client may ask for: the options of a request, checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monai_ldmsr.batch.unit import WorkSettings
from monai_ldmsr.bundle_folder import bundle_info
from monai_ldmsr.degradation import OPERATORS
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.io.series_grouping import case_digest
from monai_ldmsr.networks import FACTORS
from monai_ldmsr.number_settings import real_number, whole_number

__all__ = ["offered_options", "requested_name", "requested_settings", "settings_digest"]


#: Where it is computed, what is merely refused, and what no client can ask for.
_WITHOUT_EFFECT = ("device", "bundle", "limits", "series_number", "series_description")


def offered_options() -> dict[str, Any]:
    """What clients show: lists to choose from, of which the first is what they send unasked; "" is the bundle's."""
    return {
        "factor": list(FACTORS),
        "steps": "",
        "seed": 0,
        "detail": "",
        "consistency": "",
        "operator": list(OPERATORS),
        "noise": "",
        "modality": ["", "CT", "MR", "PT"],
    }


def requested_settings(
    request: Mapping[str, Any], bundle: str | Path, device: str | None, limits: ReadLimits | None = None
) -> WorkSettings:
    """Read the options of a request; ``steps`` is another word for ``num_inference_steps``.

    A client may send back what :func:`offered_options` sent it: a list means its first value, numbers may come as text,
    and "" asks for the bundle's.

    Args:
        request: options by name, among others that are not looked at.
        bundle: whose network it is.
        device: torch device; None takes CUDA when there is one.
        limits: the largest image that is read; no client chooses them.

    Raises:
        SettingsError: a value is of another type, or there is no such factor. What else is not possible is refused when
            the network is built.
    """
    named = {"num_inference_steps": request.get("steps"), **request}
    values = {name: _first(named.get(name)) for name in _READERS}
    chosen = {name: _READERS[name](name, value) for name, value in values.items() if value not in (None, "")}
    if chosen.get("factor", 2) not in FACTORS:
        raise SettingsError(f"factor is {chosen['factor']}, but this model super-resolves by 2, 3 or 4.")
    return WorkSettings(**chosen, bundle=bundle, device=device, limits=limits)


def requested_name(request: Mapping[str, Any], name: str) -> str:
    """A word of a request that is no option of the network: ``image``, ``model``, ``device``; empty when there is none.

    Raises:
        SettingsError: it is no text.
    """
    value = _first(request.get(name))
    if not isinstance(value, str | None):
        raise SettingsError(f"{name} is no text.")
    return value or ""


def settings_digest(settings: WorkSettings, *more: str) -> str:
    """Ten hexadecimal digits of settings, weights and what else a result depends on, but not where it is computed."""
    given = {name: value for name, value in asdict(settings).items() if name not in _WITHOUT_EFFECT}
    weights = bundle_info(settings.bundle).weights_sha256
    return case_digest(json.dumps([given, *more, weights], sort_keys=True), digits=10)


def _first(value: Any) -> Any:
    return (value[0] if value else None) if isinstance(value, list) else value


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.isalnum() or len(value) > 20:
        raise SettingsError(f"{name} is no word that can be used.")
    return value


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "factor": whole_number,
    "num_inference_steps": whole_number,
    "detail": real_number,
    "consistency": real_number,
    "operator": _word,
    "noise": real_number,
    "seed": whole_number,
    "modality": _word,
}
