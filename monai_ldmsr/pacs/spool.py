"""Series as they arrive on disk: what has come, by which association, and when a series is whole.

Below the spool's folder:

- ``receiving/<series>/settled/``: images of associations that ended well (or whose series was long quiet);
- ``receiving/<series>/unsettled/``: images of associations that are open, or that ended badly;
- ``ready/<series>/``: whole series, moved there at once; they wait to be worked on, also over a restart;
- ``handed_on/<series>.json``: hashes of what became ready, by which a series is known when it comes again.

A series with unconfirmed images is incomplete. An image is unconfirmed when its association was aborted, broke off, or
had another image of the series refused; it is no more when it comes again by one that ends well.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.pacs.instances import (
    InstanceHeader,
    dataset_sha256,
    instance_name,
    series_digest,
)
from monai_ldmsr.storage import clear_passing_files, move, output_errors, passing_name, replace_text

__all__ = ["DEFAULT_TIMES", "SeriesSpool", "SpoolTimes"]

_log = logging.getLogger(__name__)

_INCOMPLETE, _CANNOT_WRITE = ReasonCode.PACS_INCOMPLETE.value, ReasonCode.CANNOT_WRITE.value


@dataclass(frozen=True)
class SpoolTimes:
    """When a series counts as whole, and how long things are kept, in seconds.

    Args:
        quiet_s: since the last image, or the last end of an association, where all its associations ended well.
        open_quiet_s: since the last image, where an association that brought some is still open.
        incomplete_s: since the last image; an incomplete series that was not sent again is then removed.
        remember_s: how long a series that was handed on is known by its hashes.
    """

    quiet_s: float = 10.0
    open_quiet_s: float = 120.0
    incomplete_s: float = 7 * 86400.0
    remember_s: float = 90 * 86400.0


#: What is used where nothing else is said.
DEFAULT_TIMES = SpoolTimes()


@dataclass
class _Series:
    """Names of images on disk; hashes of them and of those that were handed on before."""

    settled: set[str]
    unsettled: set[str]
    handed_on: dict[str, str]
    hashes: dict[str, str] = field(default_factory=dict)
    last_activity: float = 0.0


@dataclass
class _Association:
    """What one association brought and is not settled, by series; and what was refused, with its series if known."""

    brought: dict[str, set[str]] = field(default_factory=dict)
    refused: dict[str, str | None] = field(default_factory=dict)
    is_released: bool = False

    def has_whole(self, series: str) -> bool:
        """Whether nothing was refused that is, or may be, of this series."""
        return not {None, series} & set(self.refused.values())


class SeriesSpool:
    """See the module.

    Args:
        folder: made when missing; one spool a folder.
        times: see :class:`SpoolTimes`.
        clock: seconds; in tests another.
    """

    def __init__(
        self, folder: Path, times: SpoolTimes = DEFAULT_TIMES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder, self.times = folder, times
        self.receiving, self.ready, self._records = folder / "receiving", folder / "ready", folder / "handed_on"
        self._clock = clock
        self._lock = threading.RLock()
        self._associations: dict[int, _Association] = {}
        with output_errors("The folder for received images"):
            for place in (self.receiving, self.ready, self._records):
                place.mkdir(parents=True, exist_ok=True)
            clear_passing_files(self.receiving)
        self._series = {path.name: self._loaded(path.name) for path in self.receiving.iterdir() if path.is_dir()}
        self._forget_old()
        for path in self.ready_series():
            self._record(path)

    def new_file(self, association: int, uid: str) -> Path:
        """Where an image is written before it belongs anywhere."""
        return passing_name(self.receiving / f"{association}-{instance_name(uid)}")

    def add(self, association: int, header: InstanceHeader, path: Path) -> ReasonCode | None:
        """Take a written image into its series: ``path`` is moved away, unless the image is there already.

        Returns:
            ``DUPLICATE_UID_CONFLICT`` when another content is known under its UID.
        """
        name, series_name = instance_name(header.uid), series_digest(header.study, header.series)
        sha256 = dataset_sha256(path)
        with self._lock:
            series = self._series.get(series_name) or self._loaded(series_name)
            if self._known_hash(series_name, series, name) not in (None, sha256):
                return ReasonCode.DUPLICATE_UID_CONFLICT
            self._series[series_name] = series
            series.last_activity = self._clock()
            series.hashes[name] = sha256
            if name not in series.settled | series.unsettled:
                unsettled = self.receiving / series_name / "unsettled"
                unsettled.mkdir(parents=True, exist_ok=True)
                move((path, unsettled / name))
                series.unsettled.add(name)
            if name in series.unsettled:
                self._association(association).brought.setdefault(series_name, set()).add(name)
            self._lift_refusals(name)
        return None

    def refused(self, association: int, uid: str, header: InstanceHeader | None = None) -> None:
        """Note that an image was not taken: what the association brought is unconfirmed until that image comes."""
        with self._lock:
            series = None if header is None else series_digest(header.study, header.series)
            self._association(association).refused[instance_name(uid)] = series

    def released(self, association: int) -> None:
        """Note that an association ended well."""
        with self._lock:
            self._association(association).is_released = True
            self._settle(association)

    def hand_on(self, open_associations: Callable[[], set[int]]) -> list[Path]:
        """Move the series that are whole to ``ready/``.

        Args:
            open_associations: gives the numbers of those that may still bring images.

        Returns:
            Their folders.
        """
        handed_on = []
        with self._lock:
            # Asked now: one that began since and has brought an image already must not count as ended.
            are_open = open_associations()
            for number in [n for n in self._associations if n not in are_open]:
                self._close(number)
            for name in list(self._series):
                idle_s = self._clock() - self._series[name].last_activity
                if idle_s < min(self.times.quiet_s, self.times.open_quiet_s):
                    continue
                try:
                    path = self._hand_on_if_whole(name, idle_s)
                    handed_on += [] if path is None else [path]
                except OSError as error:  # the others go on, and this one next time
                    _log.error("Series %s cannot be moved: %s [%s]", name, error.strerror, _CANNOT_WRITE)
            if handed_on:
                try:
                    self._forget_old()
                except OSError as error:
                    _log.error("Records of old series cannot be removed: %s [%s]", error.strerror, _CANNOT_WRITE)
        return handed_on

    def ready_series(self) -> list[Path]:
        """Folders of whole series that were not removed yet."""
        return sorted(path for path in self.ready.iterdir() if path.is_dir())

    def remove(self, path: Path) -> None:
        """Remove a folder of ``ready/`` whose series is done; the series stays known by its hashes."""
        with self._lock:
            shutil.rmtree(self.ready / path.name)

    @property
    def n_receiving(self) -> int:
        """Series that are not whole yet."""
        with self._lock:
            return len(self._series)

    def _association(self, number: int) -> _Association:
        return self._associations.setdefault(number, _Association())

    def _loaded(self, name: str) -> _Series:
        """What is on disk of a series; after a restart, what is unsettled came by associations that broke off."""
        settled, unsettled = (
            {path.name for path in (self.receiving / name / place).glob("*.dcm")} for place in ("settled", "unsettled")
        )
        try:
            record = json.loads((self._records / f"{name}.json").read_text())
        except (OSError, ValueError):
            record = {}
        return _Series(settled, unsettled, record, last_activity=self._clock())

    def _known_hash(self, series_name: str, series: _Series, name: str) -> str | None:
        if name not in series.hashes:
            for place, names in (("settled", series.settled), ("unsettled", series.unsettled)):
                if name in names:
                    series.hashes[name] = dataset_sha256(self.receiving / series_name / place / name)
        return series.hashes.get(name, series.handed_on.get(name))

    def _lift_refusals(self, name: str) -> None:
        """An image that was refused before has come now."""
        for number, association in self._associations.items():
            if association.refused.pop(name, "") != "" and association.is_released:
                self._settle(number)

    def _settle(self, number: int) -> None:
        """Settle what an association that ended well brought, of series of which nothing was refused."""
        association = self._associations[number]
        for series_name in list(association.brought):
            if association.has_whole(series_name):
                self._move_to_settled(series_name, association.brought.pop(series_name))

    def _move_to_settled(self, series_name: str, names: set[str]) -> None:
        series = self._series.get(series_name)
        if series is None:
            return
        folder = self.receiving / series_name
        (folder / "settled").mkdir(exist_ok=True)
        move(*((folder / "unsettled" / name, folder / "settled" / name) for name in names & series.unsettled))
        series.settled |= names & series.unsettled
        series.unsettled -= names
        series.last_activity = self._clock()

    def _close(self, number: int) -> None:
        association = self._associations[number]
        if association.is_released and association.brought:
            return  # waits for what was refused
        if not association.is_released and association.brought:
            _log.warning(
                "An association was aborted or lost; series %s waits until it is sent again whole [%s]",
                ", ".join(sorted(association.brought)),
                _INCOMPLETE,
            )
        del self._associations[number]

    def _hand_on_if_whole(self, name: str, idle_s: float) -> Path | None:
        series = self._series[name]
        # Those that are neither released nor closed are open.
        still_open = [found for found in self._associations.values() if not found.is_released]
        coming = {image for found in still_open for image in found.brought.get(name, ()) if found.has_whole(name)}
        if series.unsettled - coming:
            if idle_s >= self.times.incomplete_s:
                _log.warning("Series %s was never sent again whole: removed [%s]", name, _INCOMPLETE)
                self._drop(name)
            return None
        if idle_s < (self.times.open_quiet_s if coming else self.times.quiet_s):
            return None
        if coming:
            self._move_to_settled(name, set(series.unsettled))
        if series.settled <= set(series.handed_on):
            _log.info("Series %s came again, the same: not handed on twice", name)
            self._drop(name)
            return None
        if not self._complete_from_earlier(name, set(series.handed_on) - series.settled):
            return None
        return self._moved_to_ready(name)

    def _complete_from_earlier(self, name: str, missing: set[str]) -> bool:
        """Take images that were handed on before, and whose late companions have come, from where they still lie."""
        series, settled = self._series[name], self.receiving / name / "settled"
        generations = self._generations(name)
        for image in missing:
            for earlier in generations:
                with suppress(OSError):
                    os.link(earlier / image, settled / image)
                    series.settled.add(image)
                    break
            else:
                return False
        return True

    def _generations(self, name: str) -> list[Path]:
        return [path for path in self.ready_series() if path.name.split("-")[0] == name]

    def _moved_to_ready(self, name: str) -> Path:
        taken = {path.name for path in self._generations(name)}
        number = next(n for n in range(1, len(taken) + 2) if (name if n == 1 else f"{name}-{n}") not in taken)
        final = self.ready / (name if number == 1 else f"{name}-{number}")
        move((self.receiving / name / "settled", final))
        try:
            self._record(final, self._series[name].hashes)
        except OSError as error:  # it is made again at the next start
            _log.error("Series %s cannot be recorded: %s [%s]", name, error.strerror or error, _CANNOT_WRITE)
        _log.info("Series %s is whole: %d images", name, len(self._series[name].settled))
        self._drop(name)
        return final

    def _record(self, ready: Path, hashes: dict[str, str] | None = None) -> None:
        """Record what was handed on, unless it is recorded already."""
        path = self._records / f"{ready.name.split('-')[0]}.json"
        record = self._loaded(path.stem).handed_on
        files = {file.name: file for file in ready.glob("*.dcm")}
        if not set(files) <= set(record):
            found = {name: (hashes or {}).get(name) or dataset_sha256(file) for name, file in files.items()}
            replace_text(path, json.dumps({**record, **found}))

    def _forget_old(self) -> None:
        now = time.time()
        for old in self._records.glob("*.json"):
            if now - old.stat().st_mtime > self.times.remember_s:
                old.unlink()

    def _drop(self, name: str) -> None:
        shutil.rmtree(self.receiving / name, ignore_errors=True)
        del self._series[name]
        for association in self._associations.values():
            association.brought.pop(name, None)
