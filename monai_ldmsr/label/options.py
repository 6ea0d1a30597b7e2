"""What a client may ask for: the options of a request, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_ldmsr.bundle_config import config_keys
from monai_ldmsr.bundle_folder import bundle_info
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.io.series_grouping import case_digest
from monai_ldmsr.settings import Setting, WorkSettings, described

__all__ = ["offered_options", "requested_name", "requested_settings", "settings_digest"]


def offered_options(bundle: str | Path) -> dict[str, Any]:
    """What clients show: lists to choose from, of which the first is what they send unasked; "" is the bundle's.

    Args:
        bundle: whose settings they are; what its network does not have is not offered.
    """
    options, of_bundle = {}, config_keys(bundle)
    for name, one, default in _offered():
        if name not in of_bundle:
            continue
        unasked = "" if default is None else default
        others = [choice for choice in one.choices if choice != unasked]
        options[one.word or name] = [unasked, *others] if others else unasked
    return options


def requested_settings(
    request: Mapping[str, Any], bundle: str | Path, device: str | None, limits: ReadLimits | None = None
) -> WorkSettings:
    """Read the options of a request, by the names of settings or of commands' options (``steps``).

    A client may send back what :func:`offered_options` sent it: a list means its first value, numbers may come as text,
    and "" asks for the bundle's.

    Args:
        request: options by name, among others that are not looked at.
        bundle: whose network it is.
        device: torch device; None takes CUDA when there is one.
        limits: the largest image that is read; no client chooses them.

    Raises:
        SettingsError: a value is outside what is possible.
    """
    values = {name: _first(request.get(name, request.get(one.word or name))) for name, one, _ in _offered()}
    chosen = {name: value for name, value in values.items() if value not in (None, "")}
    return WorkSettings(**chosen, bundle=bundle, device=device, limits=limits)


def _offered() -> list[tuple[str, Setting, Any]]:
    return [(name, one, default) for name, (one, default) in described(WorkSettings).items() if one.changes == "voxels"]


def requested_name(request: Mapping[str, Any], name: str) -> str:
    """A word of a request that is no option of the network: ``image``, ``model``, ``device``; empty when there is none.

    Raises:
        SettingsError: it is no text.
    """
    value = _first(request.get(name))
    if not isinstance(value, str | None):
        raise SettingsError(f"{name} is not a text.")
    return value or ""


def settings_digest(settings: WorkSettings, *more: str) -> str:
    """Ten hexadecimal digits of settings, weights and what else a result depends on, but not where it is computed."""
    given = settings.changing("voxels")
    weights = bundle_info(settings.bundle).weights_sha256
    return case_digest(json.dumps([given, *more, weights], sort_keys=True), digits=10)


def _first(value: Any) -> Any:
    return (value[0] if value else None) if isinstance(value, list) else value
