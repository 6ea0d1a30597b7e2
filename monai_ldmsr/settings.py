"""Every setting of a super-resolution, described once.

A field of :class:`WorkSettings` is all there is to a setting outside of the bundle's config, where the top-level key of
its name holds its default. The command's option, the argument of :func:`~monai_ldmsr.super_resolve` and its check, what
MONAI Label's clients choose from and the part in fingerprints follow from it.
"""

from __future__ import annotations

import inspect
import os
import textwrap
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from monai_ldmsr.bundle_folder import DEFAULT_BUNDLE
from monai_ldmsr.choices import (
    FACTORS,
    MAPS,
    MAX_NOISE,
    MAX_SLICE_FACTOR,
    MIN_SLICE_FACTOR,
    MODALITIES,
    PRECISIONS,
    PROFILES,
)
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.io.series_labels import checked_description, checked_number
from monai_ldmsr.io.transfer_syntaxes import TRANSFER_SYNTAXES, checked_syntax
from monai_ldmsr.number_settings import byte_count, real_number, said, whole_number, yes_or_no
from monai_ldmsr.operators import OPERATORS
from monai_ldmsr.slice_plan import SliceTarget

__all__ = [
    "Setting",
    "WorkSettings",
    "check_maps",
    "check_slices",
    "checked",
    "described",
    "one_of",
    "phrase",
    "setting",
    "takes_settings",
]

Reader = Callable[[str, Any], Any]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Setting:
    """What there is to say of a setting beside its name, type and default (None takes the bundle's).

    Args:
        help: what it does, as a full phrase, with its range or its values where there are some.
        read: makes its value of what a user, a config or a client gave; takes name and value, raises ``SettingsError``.
        changes: voxels, the headers of DICOM results or what is written beside them,
            what of the computer is used to make them, or none of these.
        choices: all its values, where they can be listed.
        usual: what is taken where it is not given, in words.
        word: the name of its option and among clients of MONAI Label, where it is another one; "" for no option.
    """

    help: str
    read: Reader
    changes: Literal["voxels", "headers", "use", "nothing"] = "voxels"
    choices: Collection[Any] = ()
    usual: str = "the bundle's"
    word: str | None = None

    def option(self, name: str) -> str:
        """Option of the command for the setting of that name; "" where there is none."""
        return "" if self.word == "" else f"--{(self.word or name).replace('_', '-')}"


def _as_given(name: str, value: Any) -> Any:
    return value


def setting(default: Any, help: str, read: Reader = _as_given, **more: Any) -> Any:
    """A field of a dataclass of settings; ``more`` are further fields of :class:`Setting`."""
    return field(default=default, metadata={"setting": Setting(help, read, **more)})


def described(settings: type) -> dict[str, tuple[Setting, Any]]:
    """Each setting of a dataclass and its default, by name."""
    return {one.name: (one.metadata["setting"], one.default) for one in fields(settings)}


def one_of(choices: Collection[Any], read: Reader = _as_given) -> Reader:
    """Reads one of some values; in what form they may come, ``read`` says."""

    def chosen(name: str, value: Any) -> Any:
        try:
            found = read(name, value)
        except SettingsError:
            found = None
        if found not in list(choices):
            raise SettingsError(f"{name} is {said(value)}; choose one of {', '.join(map(str, choices))}.")
        return found

    return chosen


def _above_zero(name: str, value: Any) -> float:
    number = real_number(name, value)
    if number <= 0:
        raise SettingsError(f"{name} is {said(value)}; give a number above 0.")
    return number


def _if_true(name: str, value: Any) -> bool | None:
    # None for no: bundles whose networks make no new slices have no such key.
    return yes_or_no(name, value) or None


#: Beyond the machine's own, and so many, threads end a process rather than help it.
_MOST_THREADS = max(64, os.cpu_count() or 1)
_share = partial(real_number, low=0.0, high=1.0)


@dataclass(frozen=True)
class WorkSettings:
    """How volumes are super-resolved: arguments of :func:`~monai_ldmsr.super_resolve`, read and checked.

    Raises:
        SettingsError: one is outside what is possible.
    """

    factor: int = setting(
        None,
        "how many times finer each slice becomes in both directions; 1 leaves slices as they are, where new ones are "
        "made between them",
        one_of((1, *FACTORS), whole_number),
        choices=(1, *FACTORS),
        usual="2, or 1 where new slices are made",
    )
    num_inference_steps: int | None = setting(
        None, "how often the network runs for each slice", partial(whole_number, low=1), word="steps"
    )
    detail: float | None = setting(
        None, "from 0 (the mean: truest, smoothest) to 1 (a sample: sharpest, least certain)", _share
    )
    consistency: float | None = setting(
        None, "how strictly the result must agree with the source when it is degraded again, 0 to 1", _share
    )
    operator: str | None = setting(
        None, "how the source is assumed to have been blurred", one_of(OPERATORS), choices=OPERATORS
    )
    noise: float | None = setting(
        None,
        "standard deviation of the source's noise, in grey levels of 255 (5 HU are 1.3 in soft tissue of CT)",
        partial(real_number, low=0.0, high=MAX_NOISE),
        usual="estimated for each volume",
    )
    seed: int = setting(0, "seed of all random numbers: the same seed gives the same result", whole_number)
    modality: str | None = setting(
        None,
        "what volume files show, where neither their headers nor .json files say it; CT must be in HU",
        one_of(MODALITIES),
        choices=MODALITIES,
        usual="what the source says",
    )
    flat_detail: float | None = setting(
        None, "share of the detail, 0 to 1, where the source shows nothing but noise; edges get all of it", _share
    )
    maps: str = setting(
        "error",
        "maps beside the image: error is half the width of each voxel's interval, which 90 % of the body's voxels are "
        "meant to lie in; all is that, and what the network contradicted of the source",
        one_of(MAPS),
        changes="headers",
        choices=MAPS,
    )
    tolerance: float | None = setting(
        None,
        "error that is tolerated, in the source's unit (HU in CT): voxels of the body are marked as trusted so "
        "that one in ten of them errs by more",
        _above_zero,
        changes="headers",
        usual="no such mask",
    )
    force: bool = setting(
        False,
        "super-resolve what lies outside of what the model was trained for, too; report and DICOM headers say so",
        yes_or_no,
    )
    slice_spacing: float | None = setting(
        None,
        "distance in mm of new slices that are made along the stack; the nearest one that fills the stack is taken",
        _above_zero,
        usual="no new slices",
    )
    isotropic: bool = setting(
        False, "make new slices along the stack that lie as far apart as the result's pixels", _if_true
    )
    factor_slices: float | None = setting(
        None,
        f"how many times finer slices become along the stack, {MIN_SLICE_FACTOR} to {MAX_SLICE_FACTOR:g}, whole or not",
        partial(real_number, low=MIN_SLICE_FACTOR, high=MAX_SLICE_FACTOR),
        usual="no new slices",
    )
    profile: str | None = setting(
        None,
        "profile by which acquired slices are assumed to average, where new ones are made: box, as wide as a slice is "
        "thick, or gaussian, of that width at half height",
        one_of(PROFILES),
        choices=PROFILES,
    )
    slice_thickness: float | None = setting(
        None,
        "thickness in mm of the acquired slices, where new slices are made, whatever headers say",
        _above_zero,
        usual="what headers say, else the distance of slices",
    )
    device: str | None = setting(
        None,
        "torch device: cpu, cuda, cuda:1, ...; another processor may round a value here and there",
        changes="nothing",
        usual="CUDA when there is one",
    )
    precision: str | None = setting(
        None,
        "number format of convolutions; bfloat16 is faster where the processor has it, and rounds more (docs/speed.md)",
        one_of(PRECISIONS),
        choices=PRECISIONS,
    )
    threads: int | None = setting(
        None,
        "number of CPU threads that compute; a batch has one process that computes on each machine, and two threads "
        "more that read and write; another number may round a value here and there",
        partial(whole_number, low=1, high=_MOST_THREADS),
        changes="use",
        usual="torch's, most often one a core",
    )
    memory: int | None = setting(
        None,
        "main memory that a process should get by with, such as 8G: fewer slices are computed at once (which may round "
        "a value here and there), a batch holds fewer series, what does not fit lies in files, and what still needs "
        "more is refused; it is compared with an estimate, binds no system, and a GPU's own memory does not count",
        byte_count,
        changes="use",
        usual="70 % of what is free",
    )
    bundle: str | Path = setting(
        DEFAULT_BUNDLE, "name of a bundle that comes with the package, or a bundle's folder", changes="nothing"
    )
    limits: ReadLimits | None = setting(
        None,
        "the largest source that is read; larger ones, and files that only claim to be large, are refused",
        changes="nothing",
        usual="ReadLimits()",
        word="",
    )
    created: datetime | str | None = setting(
        None,
        "when results say that they were made (ISO 8601, UTC where no zone is given)",
        changes="nothing",
        usual="SOURCE_DATE_EPOCH, or now",
        word="",
    )
    series_number: int | None = setting(
        None,
        "Series Number of DICOM results; several volumes of one series count up from it",
        checked_number,
        changes="headers",
        usual="100 times the source's plus the factor, and more for new slices",
    )
    series_description: str | None = setting(
        None,
        "Series Description of DICOM results, followed by what distinguishes volumes of one series; ASCII without "
        "backslash, $, @ and %",
        checked_description,
        changes="headers",
        usual="'SR x2 (research)' and the source's",
    )
    transfer_syntax: str = setting(
        "explicit",
        "transfer syntax of DICOM results; all but explicit VR little endian compress, and none loses anything",
        checked_syntax,
        changes="headers",
        choices=TRANSFER_SYNTAXES,
    )
    dicom_form: str = setting(
        "classic",
        "form of DICOM results; classic is an object for each slice, enhanced is one Legacy Converted Enhanced object",
        one_of(("classic", "enhanced")),
        changes="headers",
        choices=("classic", "enhanced"),
    )
    structured_report: bool = setting(
        False,
        "write a Structured Report (TID 1500) with the report's figures beside each DICOM result",
        one_of((False, True)),
        changes="headers",
    )

    def changing(self, *what: str) -> dict[str, Any]:
        """Those that change voxels or headers, as ``Setting.changes`` has it, by name."""
        names = [name for name, (one, _) in described(type(self)).items() if one.changes in what]
        return {name: getattr(self, name) for name in names}

    def __post_init__(self) -> None:
        for name, value in checked(vars(self), type(self)).items():
            object.__setattr__(self, name, value)
        check_maps(self.maps, self.tolerance)
        object.__setattr__(self, "factor", self.factor or (1 if self.slices.is_wanted else 2))
        check_slices(vars(self))

    @property
    def slices(self) -> SliceTarget:
        """How fine slices are wanted."""
        return slice_target(vars(self))


def slice_target(settings: Mapping[str, Any]) -> SliceTarget:
    """How fine slices are wanted, of settings by name.

    Raises:
        SettingsError: several ways of saying it are given.
    """
    names = [one.name for one in fields(SliceTarget)]
    return SliceTarget(**{name: settings[name] for name in names if settings.get(name) is not None})


def check_slices(settings: Mapping[str, Any]) -> None:
    """Refuse settings of new slices that do not go together, or of which none says that there are any.

    Raises:
        SettingsError: which.
    """
    target = slice_target(settings)
    if target.is_wanted:
        return
    if settings.get("factor") == 1:
        raise SettingsError("factor is 1, and no new slices are made: give slice_spacing, isotropic or factor_slices.")
    useless = [name for name in ("profile", "slice_thickness") if settings.get(name) not in (None, "box")]
    if useless:
        raise SettingsError(
            f"{useless[0]} is of use where new slices are made: give slice_spacing, isotropic or factor_slices, too."
        )


def check_maps(maps: str, tolerance: float | None) -> None:
    """Refuse a tolerance where there is no expected error to compare it with.

    Raises:
        SettingsError: there is none.
    """
    if maps == "none" and tolerance is not None:
        raise SettingsError("tolerance marks voxels by their expected error; it does not go with maps none.")


def checked(given: Mapping[str, Any], settings: type = WorkSettings) -> dict[str, Any]:
    """Values by name, as their settings read them; None, and what is no setting, stays as it is.

    Raises:
        SettingsError: one is outside what is possible.

    Example:
        >>> checked({"factor": "2.0", "detail": None, "overshoot": 0.1})
        {'factor': 2, 'detail': None, 'overshoot': 0.1}
    """
    readers = {name: one.read for name, (one, _) in described(settings).items()}
    return {
        name: readers[name](name, value) if name in readers and value is not None else value
        for name, value in given.items()
    }


def takes_settings(function: Function) -> Function:
    """Show the settings, which ``function`` takes as ``**settings``, in its signature and under its ``Args:``."""
    stand_in = "    settings: all of ``WorkSettings``."
    shown = inspect.signature(function)
    kept = [one for one in shown.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    added = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
        for one in fields(WorkSettings)
    ]
    function.__signature__ = shown.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    lines = [
        textwrap.fill(f"{name}: {phrase(one, default)}.", 112, initial_indent="    ", subsequent_indent="        ")
        for name, (one, default) in described(WorkSettings).items()
    ]
    function.__doc__ = inspect.cleandoc(function.__doc__ or "").replace(stand_in, "\n".join(lines))
    return function


def phrase(one: Setting, default: Any) -> str:
    """What a setting does, its values and what is taken where it is not given."""
    values = f": {', '.join(map(str, one.choices))}" if one.choices else ""
    return f"{one.help}{values} (default: {one.usual if default is None else default})"
