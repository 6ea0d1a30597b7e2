"""The arguments of a network of ``generative`` in a config file; nothing in it is executed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.networks.generative_names import GENERATIVE_NETWORKS

__all__ = ["read_generative_network"]

_TARGET = re.compile(rf"generative\.([a-z_.]+\.)?({'|'.join(GENERATIVE_NETWORKS)})")

#: A value in a value, or a reference to a reference, and so on; more is a circle.
_MAX_DEPTH = 20


def read_generative_network(path: str | Path, network_id: str | None = None) -> dict[str, Any]:
    """Read class and arguments of a network out of a YAML or JSON file, such as the config of a MONAI bundle.

    References (``@latent_channels``) are followed; MONAI's ``ConfigParser`` would also execute expressions, which a
    config from elsewhere should not do here.

    Args:
        path: the file; ``_target_`` and arguments at the top, or anywhere below.
        network_id: where, as ``autoencoder_def`` or ``train#network``; None takes the only network of ``generative``
            that the file has.

    Returns:
        ``_target_`` and the arguments.

    Raises:
        SettingsError: the file cannot be read, has no such network or several, or an argument is an expression.
    """
    name = Path(path).name
    config = _read(Path(path))
    places = dict(_networks(config))
    if network_id is not None:
        found = _value(config, network_id)
    elif len(places) == 1:
        (found,) = places.values()
    else:
        where = f": {', '.join(sorted(places))}. Say by --network-id which to take" if places else ""
        raise SettingsError(f"'{name}' has {len(places)} networks with a _target_ in generative.networks.nets{where}.")
    if not isinstance(found, Mapping) or "_target_" not in found:
        raise SettingsError(f"'{name}' has no network '{network_id}'. It has: {', '.join(sorted(places)) or 'none'}.")
    return {str(key): _resolved(value, config, str(key)) for key, value in found.items()}


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise SettingsError(
            f"The config '{path.name}' cannot be read as {'JSON' if path.suffix == '.json' else 'YAML'} "
            f"({type(error).__name__}). Check its name and content."
        ) from error


def _networks(config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every network of ``generative`` in a config, with its id."""
    waiting, seen = [("", config)], set()
    while waiting:
        place, item = waiting.pop()
        if not isinstance(item, Mapping | list) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Mapping) and _TARGET.fullmatch(str(item.get("_target_"))):
            yield place, item
        pairs = item.items() if isinstance(item, Mapping) else enumerate(item)
        waiting += [(f"{place}#{key}" if place else str(key), value) for key, value in pairs]


def _value(config: Any, place: str) -> Any:
    """What stands at an id of MONAI's form; None where nothing does."""
    for key in re.split(r"#|::", place):
        if isinstance(config, list) and key.isdigit() and int(key) < len(config):
            config = config[int(key)]
        elif isinstance(config, Mapping):
            config = config.get(key)
        else:
            return None
    return config


def _resolved(value: Any, config: Any, argument: str, depth: int = 0) -> Any:
    """The value with every reference in it followed."""
    if depth <= _MAX_DEPTH:
        if isinstance(value, list):
            return [_resolved(item, config, argument, depth + 1) for item in value]
        if isinstance(value, Mapping):
            return {key: _resolved(item, config, argument, depth + 1) for key, item in value.items()}
        if not isinstance(value, str) or value[:1] not in ("@", "$"):
            return value
        referenced = _value(config, value[1:]) if value[0] == "@" else None
        if referenced is not None and not isinstance(referenced, Mapping):
            return _resolved(referenced, config, argument, depth + 1)
    raise SettingsError(
        f"{argument} is '{value}', which is no reference to a value of the same file; expressions are not "
        "executed. Write the value itself."
    )
