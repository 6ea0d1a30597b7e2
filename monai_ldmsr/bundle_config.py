"""Bundle configs: opened, checked, written. The only owner of ``monai.bundle``."""

from __future__ import annotations

import difflib
import inspect
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.properties import InferProperties, TrainProperties
from monai.utils import BundlePropertyConfig

from monai_ldmsr.bundle_folder import find_bundle
from monai_ldmsr.errors import LdmsrError, ReasonCode, SettingsError, causes
from monai_ldmsr.settings import WorkSettings, check_maps, check_slices, checked, described
from monai_ldmsr.storage import replaced_files

__all__ = [
    "changed_settings",
    "check_config",
    "checked_for_config",
    "config_keys",
    "merge_configs",
    "open_workflow",
    "unwrapped",
]

#: Keys that MONAI reads though nothing refers to them.
_MONAI_KEYS = {"run", "initialize", "finalize", "imports", "_meta_", "save_execute_config"}


def config_keys(bundle: str | Path) -> set[str]:
    """Keys of a bundle's config: those of ``WorkSettings`` that are among them are the settings of its network."""
    return set(ConfigParser.load_config_file(find_bundle(bundle) / "configs" / "inference.yaml"))


def changed_settings(bundle: str | Path, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Which settings differ from what ``inference.yaml`` of a bundle's folder says; for configs.

    Args:
        bundle: the bundle's folder.
        given: settings as they are used, by their top-level keys. Where ``default_x`` gives values by modality, they
            stand for an ``x`` of None.

    Returns:
        By name, what is ``used`` and what is the ``bundle``'s own: a value, or values by modality.
    """
    file = Path(bundle) / "configs" / "inference.yaml"
    own = ConfigParser.load_config_file(file) if file.is_file() else {}
    plain = {name: own[name] for name in given if name in own and not str(own[name]).startswith(("$", "@", "%"))}
    used, usual = checked({name: given[name] for name in plain}), checked(plain)
    found = {}
    for name in plain:
        if name.startswith("default_"):
            continue
        now, before = (
            values.get(f"default_{name}") if values[name] is None else values[name] for values in (used, usual)
        )
        if now != before:
            found[name] = {"used": now, "bundle": before}
    return found


def merge_configs(configs: Path, name: str, *overlays: str) -> None:
    """Write overlays into a config, so that it alone says all; its comments go."""
    merged = ConfigParser.load_config_files([configs / f"{part}.yaml" for part in (name, *overlays)])
    with replaced_files(configs / f"{name}.yaml") as (partial,):
        ConfigParser.export_config_file(merged, partial, fmt="yaml", sort_keys=False)


def open_workflow(folder: Path, *overlays: str, workflow_type: str = "inference", **overrides: Any) -> ConfigWorkflow:
    """A bundle's ``inference.yaml`` with other configs of the bundle laid over it, and values over these."""
    overrides = checked_for_config(overrides)
    configs = folder / "configs"
    with warnings.catch_warnings(), _quiet(logging.getLogger("monai.bundle.workflows")):
        # The config is our own; MONAI warns about any, and about the logging that we leave to the caller.
        warnings.simplefilter("ignore", UserWarning)
        workflow = ConfigWorkflow(
            workflow_type=workflow_type,
            config_file=[str(configs / f"{name}.yaml") for name in ("inference", *overlays)],
            meta_file=str(configs / "metadata.json"),
            logging_file=False,
            bundle_root=folder,
            **overrides,
        )
        try:
            workflow.initialize()
        except SystemExit as refusal:
            raise SettingsError(str(refusal).removesuffix(f" [{ReasonCode.BAD_SETTINGS.value}]")) from None
    return workflow


def checked_for_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings among config values as they are read; only these and a device's name may enter a config as text."""
    found = checked(given)
    try:
        torch.empty(0, device=torch.device(found.get("device", "cpu")))
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(
            f"The device '{found['device']}' is not available here. Use cpu, or cuda where there is one."
        ) from error
    return found


def check_config() -> None:
    """Refuse wrong settings, and overrides of keys that are not there; in each config's ``initialize``.

    MONAI adds an override of any name to the config, and what nothing refers to changes nothing: ``--factr 4`` would go
    unnoticed. What a config calls is given no view of it, so the workflow is looked for among the callers.

    Raises:
        SystemExit: with the message alone, since MONAI wraps exceptions into others of its own.
    """
    above = (info.frame.f_locals.get("self") for info in inspect.stack(context=0))
    workflow = next(found for found in above if isinstance(found, ConfigWorkflow))
    config = workflow.parser.config
    try:
        _refuse_unused(config, workflow.config_root_path, {workflow.run_id, workflow.init_id, workflow.final_id})
        checked_for_config({key: value for key, value in config.items() if not str(value).startswith(("$", "@", "%"))})
        check_maps(config.get("maps", "error"), config.get("tolerance"))
        check_slices(config)
    except SettingsError as error:
        raise SystemExit(f"{error} [{error.reason.value}]") from None


def _refuse_unused(config: Mapping[str, Any], configs: Path, run: set[str]) -> None:
    of_monai = {one[BundlePropertyConfig.ID] for one in (*InferProperties.values(), *TrainProperties.values())}
    roots = {re.split("#|::", name)[0] for name in of_monai | run} | _MONAI_KEYS
    used = _reached(config, roots)
    settings = described(WorkSettings)
    # What changes no voxel is anyone's to give; and None asks for what the bundle does. What is used is not its affair.
    free = {name for name in settings if settings[name][0].changes != "voxels" or config.get(name) is None}
    free -= {name for name in settings if settings[name][0].changes == "use"}
    # What holds wherever nothing does it: without draws, the same seed gives the same; without limits, none is kept to.
    free |= {"seed", "force"}
    known = roots | used | free
    unused = config.keys() - known
    # What an overlay or another override left without a use is as a file says it.
    in_files = set[str]()
    for path in configs.glob("*.yaml") if unused else ():
        laid = ConfigParser.load_config_file(path)
        unused -= {key for key, value in laid.items() if config.get(key) == value}
        in_files |= laid.keys()
    for key in sorted(unused):
        if key in settings:
            own = ", ".join(name for name in settings if name in config.keys() - unused - free)
            raise SettingsError(f"Nothing in this bundle's config uses '{key}'; its settings are {own}.")
        near = [] if key in in_files else difflib.get_close_matches(key, known & config.keys(), 1)
        advice = f"did you mean {near[0]}?" if near else "leave it away."
        raise SettingsError(f"Nothing in this bundle's config uses '{key}'; {advice}")


def _reached(config: Mapping[str, Any], roots: set[str]) -> set[str]:
    """Keys that the roots refer to, themselves or through others."""
    found, todo = set[str](), roots & config.keys()
    while todo:
        new = _references(config[todo.pop()]) - found
        found |= new
        todo |= new & config.keys()
    return found


def _references(part: Any) -> set[str]:
    """Keys that a part of a config refers to; to be reported as changed is no use of a setting."""
    if isinstance(part, Mapping):
        is_report = part.get("_target_") == f"{changed_settings.__module__}.{changed_settings.__name__}"
        part = [] if is_report else list(part.values())
    if isinstance(part, list):
        return set[str]().union(*map(_references, part))
    return set(re.findall(r"@(\w+)", str(part)))


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def unwrapped() -> Iterator[None]:
    """MONAI wraps what a constructor raises in a RuntimeError; let our own errors through as they are.

    Raises:
        SettingsError: the config names a class or function that is not there.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        named = re.fullmatch(r"Cannot locate class or function path: '(.*)'\.", str(error))
        if named is None:
            raise
        raise SettingsError(
            f"The bundle's config names '{named[1]}', which cannot be imported. Check its name, and that the folder of "
            "its module is on Python's path (PYTHONPATH)."
        ) from None
    except RuntimeError as error:
        own = next((one for one in causes(error) if isinstance(one, LdmsrError)), None)
        if own is None:
            raise
        raise own from None
