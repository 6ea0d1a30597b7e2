"""Odd input as one table: each row makes a source folder and says what a run must make of it; and makers for rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from dicom_fixtures import make_series, make_volumes
from pydicom import Dataset
from series_by_hand import rewrite

SHAPE = (20, 24, 5)
ALL = ("CT", "MR", "PT")
AXIAL = [1, 0, 0, 0, 1, 0]
Make = Callable[[Path], None]


@dataclass(frozen=True)
class OddInput:
    """One row.

    Args:
        name: of the row.
        make: writes the source into an empty folder.
        done: how many slices each result has, sorted.
        reasons: reason codes of what was skipped or failed, sorted.
        exit_code: of the run.
        warning: words that stand among the warnings of each result; empty when there must be no warning.
    """

    name: str
    make: Make
    done: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()
    exit_code: int = 0
    warning: str = ""


def series(modality: str, shape: tuple[int, int, int] = SHAPE, **overrides: Any) -> Make:
    return lambda folder: void(make_series(folder, modality, shape, **overrides))


def void(_: object) -> None:
    """Drop a value: a maker returns nothing."""


def volumes(modality: str, *overrides: dict[str, Any], shapes: tuple[tuple[int, int, int], ...] = ()) -> Make:
    """One series with one volume for each of ``overrides``, files side by side."""

    def make(folder: Path) -> None:
        each = [{"shape": shapes[n] if shapes else SHAPE, **one} for n, one in enumerate(overrides)]
        for n, made in enumerate(make_volumes(folder, modality, each)):
            for path in made.paths:
                path.rename(folder / f"{n}-{path.name}")
            made.paths[0].parent.rmdir()

    return make


def changed(modality: str, change: Callable[[Dataset], None], syntax: str | None = None, **overrides: Any) -> Make:
    """A clean series of which each data set was edited, or written in another transfer syntax."""

    def make(folder: Path) -> None:
        make_series(folder, modality, SHAPE, **overrides)
        rewrite(folder, change, syntax)

    return make


def damaged(modality: str, damage: Callable[[bytes], bytes], which: int = 2, **overrides: Any) -> Make:
    """A clean series of which the bytes of one file were altered."""

    def make(folder: Path) -> None:
        path = make_series(folder, modality, SHAPE, **overrides).paths[which]
        path.write_bytes(damage(path.read_bytes()))

    return make


def raw_decimal(keyword: str, value: bytes, which: int = 2) -> Make:
    """A decimal string that is no number, in one image."""

    def change(image: Dataset) -> None:
        if image.InstanceNumber == which:
            tag = image[keyword].tag
            image[tag] = pydicom.dataelem.RawDataElement(tag, "DS", len(value), value, 0, False, True)

    return changed("CT", change)


def refused(name: str, make: Make, reason: str, exit_code: int = 2) -> OddInput:
    return OddInput(name, make, reasons=(reason,), exit_code=exit_code)


def edited(image: Dataset, **values: Any) -> None:
    for keyword, value in values.items():
        setattr(image, keyword, value)


def beside(first: Make, second: Make) -> Make:
    def make(folder: Path) -> None:
        for name, part in (("a", first), ("b", second)):
            (folder / name).mkdir()
            part(folder / name)

    return make
