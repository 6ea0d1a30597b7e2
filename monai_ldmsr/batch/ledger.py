"""What was done, kept in SQLite beside the results: states, attempts, reasons, and marks of all outputs.

One process writes it, others may read it meanwhile. Each change is on disk before the next step is taken. It holds no
patient's attribute and no path: of sources only digests, of results the names that lie beside it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from monai_ldmsr.errors import CorruptSourceError, OutputError, ReasonCode, SourceError
from monai_ldmsr.io import SkippedItem
from monai_ldmsr.io.written_files import FileMark
from monai_ldmsr.outcome import Outcome
from monai_ldmsr.run_summary import CaseResult

__all__ = ["LEDGER_NAME", "Ledger", "LedgerUnit"]

LEDGER_NAME = "ledger.sqlite"

_VERSION = 1

_SCHEMA = """
CREATE TABLE units (
    unit TEXT PRIMARY KEY,
    source_fingerprint TEXT NOT NULL,
    settings_fingerprint TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'skipped', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    corrupt INTEGER NOT NULL DEFAULT 0,
    series_uid TEXT NOT NULL DEFAULT '',
    result_digest TEXT NOT NULL DEFAULT '',
    n_slices INTEGER NOT NULL DEFAULT 0,
    duration_s REAL NOT NULL DEFAULT 0,
    queued_at REAL, started_at REAL, ended_at REAL
);
CREATE TABLE outputs (
    unit TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL, mtime_ns INTEGER NOT NULL,
    PRIMARY KEY (unit, name)
) WITHOUT ROWID;
CREATE TABLE skipped (
    place INTEGER PRIMARY KEY, name TEXT NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL, n_files INTEGER NOT NULL
);
CREATE TABLE memory (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE deliveries (
    unit TEXT NOT NULL, destination TEXT NOT NULL, result_digest TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'sent', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0, next_at REAL NOT NULL DEFAULT 0,
    n_sent INTEGER NOT NULL DEFAULT 0, n_instances INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '', changed_at REAL,
    PRIMARY KEY (unit, destination)
) WITHOUT ROWID;
CREATE INDEX due ON deliveries (destination, state, next_at);
"""


@dataclass(frozen=True, kw_only=True)
class LedgerUnit(Outcome):
    """A row of the ledger."""

    unit: str
    source_fingerprint: str = ""
    settings_fingerprint: str = ""
    attempts: int = 0
    series_uid: str = ""
    result_digest: str = ""
    n_slices: int = 0
    duration_s: float = 0.0


_FIELDS = [field.name for field in fields(LedgerUnit)]
_COLUMNS = ", ".join("state" if name == "status" else name for name in _FIELDS)


class Ledger:
    """The ledger of an output folder.

    Args:
        output_dir: where the results lie.
        for_reading: nothing is written, as for a batch of another process.

    Raises:
        OutputError: it cannot be opened, is damaged, or of another version.
        SourceError: likewise, or there is none, when reading.
    """

    def __init__(self, output_dir: Path, *, for_reading: bool = False) -> None:
        path = output_dir / LEDGER_NAME
        if for_reading and not path.is_file():
            raise SourceError(
                "The folder holds no ledger of a batch. Give the output folder of 'ldmsr batch' or 'ldmsr serve'.",
                ReasonCode.NO_SUCH_SOURCE,
            )
        self._for_reading = for_reading
        with self._errors():
            self._database = _connected(path, for_reading)
            try:
                (version,) = self._database.execute("PRAGMA user_version").fetchone()
                if version == 0 and not for_reading:
                    self._database.execute("PRAGMA journal_mode = WAL")
                    self._database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
                    version = _VERSION
                self._database.execute("PRAGMA synchronous = FULL")
            except BaseException:
                self._database.close()
                raise
        if version != _VERSION:
            self._database.close()
            said = f"The ledger has version {version}, but this software reads {_VERSION}."
            if for_reading:
                raise SourceError(f"{said} Use the version that wrote it.", ReasonCode.UNREADABLE_FILE)
            raise OutputError(f"{said} Choose another output folder.")

    def close(self) -> None:
        """Fold the write-ahead log in and close."""
        self._database.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """All or nothing of what is written inside, and on disk at the end."""
        with self._errors():
            if self._database.in_transaction:  # within another one
                yield self._database
                return
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.rollback()
                raise
            self._database.commit()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if self._for_reading:
                raise CorruptSourceError(
                    f"The ledger cannot be read: {error}. Check permissions; if it is damaged, remove ledger.sqlite "
                    "and run the batch again.",
                    ReasonCode.UNREADABLE_FILE,
                ) from None
            raise OutputError(
                f"The ledger of the output folder cannot be used: {error}. Check free space and permissions; if it is "
                "damaged, remove it: all series are then done again."
            ) from None

    def patiently(self, action: Callable[[], None]) -> None:
        """Try again for a few seconds what cannot be written: a result that fills the disk is just being removed."""
        for pause_s in (0.1, 0.5, 1.0, 2.0, 4.0):
            try:
                return action()
            except OutputError:
                time.sleep(pause_s)
        action()

    def ask(self, question: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """All rows of an answer."""
        with self._errors():
            return self._database.execute(question, values).fetchall()

    def unit(self, name: str) -> LedgerUnit | None:
        """Row of a unit."""
        rows = self.ask(f"SELECT {_COLUMNS} FROM units WHERE unit = ?", (name,))
        return _unit(rows[0]) if rows else None

    def units(self) -> list[LedgerUnit]:
        """All rows, by name."""
        return [_unit(row) for row in self.ask(f"SELECT {_COLUMNS} FROM units ORDER BY unit")]

    def outputs(self, unit: str) -> dict[str, FileMark]:
        """Marks of a result's files."""
        rows = self.ask("SELECT name, size, sha256, mtime_ns FROM outputs WHERE unit = ?", (unit,))
        return {name: FileMark(size, sha256, mtime_ns) for name, size, sha256, mtime_ns in rows}

    def queue(self, unit: str, source_fingerprint: str, settings_fingerprint: str) -> None:
        """Note that a unit is to be worked on; attempts are counted from 0 when source or settings have changed."""
        with self.writing() as database:
            database.execute(
                "INSERT INTO units (unit, source_fingerprint, settings_fingerprint, state, queued_at) "
                "VALUES (:unit, :source, :settings, 'queued', :now) ON CONFLICT (unit) DO UPDATE SET "
                "state = 'queued', queued_at = :now, attempts = CASE WHEN (source_fingerprint, settings_fingerprint) "
                "= (:source, :settings) THEN attempts ELSE 0 END, source_fingerprint = :source, "
                "settings_fingerprint = :settings, reason = '', message = '', corrupt = 0",
                {"unit": unit, "source": source_fingerprint, "settings": settings_fingerprint, "now": time.time()},
            )

    def start(self, unit: str) -> None:
        """Note that a unit is being worked on."""
        with self.writing() as database:
            database.execute(
                "UPDATE units SET state = 'running', attempts = attempts + 1, started_at = ? WHERE unit = ?",
                (time.time(), unit),
            )

    def finish(self, result: CaseResult, source_fingerprint: str, result_digest: str) -> None:
        """Note what became of a unit. Marks of an earlier result stay when there is no new one: it still lies there."""
        with self.writing() as database:
            database.execute(
                "UPDATE units SET state = ?, reason = ?, message = ?, corrupt = ?, duration_s = ?, ended_at = ?, "
                "source_fingerprint = ? WHERE unit = ?",
                (
                    *(result.status, result.reason, result.message, result.corrupt, result.duration_s, time.time()),
                    *(source_fingerprint, result.case),
                ),
            )
            if result.status == "done":
                database.execute(
                    "UPDATE units SET series_uid = ?, n_slices = ?, result_digest = ? WHERE unit = ?",
                    (result.series_uid, result.n_slices, result_digest, result.case),
                )
                self.mark_outputs(result.case, result.files)

    def mark_outputs(self, unit: str, files: Mapping[str, FileMark]) -> None:
        """Replace the marks of a unit's outputs."""
        with self.writing() as database:
            database.execute("DELETE FROM outputs WHERE unit = ?", (unit,))
            rows = [(unit, name, mark.size, mark.sha256, mark.mtime_ns) for name, mark in files.items()]
            database.executemany("INSERT INTO outputs VALUES (?, ?, ?, ?, ?)", rows)

    def ended(self, before: float) -> list[str]:
        """Units that are done since before a time, in seconds since 1970."""
        return [unit for (unit,) in self.ask("SELECT unit FROM units WHERE state = 'done' AND ended_at < ?", (before,))]

    def forget(self, unit: str) -> None:
        """Remove all that is known of a unit."""
        with self.writing() as database:
            for table in ("units", "outputs", "deliveries"):
                database.execute(f"DELETE FROM {table} WHERE unit = ?", (unit,))

    def queue_running(self) -> None:
        """Note that what was being worked on is not, any longer."""
        with self.writing() as database:
            database.execute("UPDATE units SET state = 'queued' WHERE state = 'running'")

    def memory(self) -> dict[str, str]:
        """What is remembered of the last search, see :mod:`~monai_ldmsr.batch.search_memory`."""
        return dict(self.ask("SELECT key, value FROM memory"))

    def remember(self, rows: Mapping[str, str]) -> None:
        """Replace what is remembered of the last search."""
        with self.writing() as database:
            known = self.memory()
            database.executemany("DELETE FROM memory WHERE key = ?", [(key,) for key in known.keys() - rows.keys()])
            database.executemany("INSERT OR REPLACE INTO memory VALUES (?, ?)", rows.items() - known.items())

    def skipped(self) -> list[SkippedItem]:
        """What was left out when sources were last searched."""
        rows = self.ask("SELECT name, reason, message, n_files FROM skipped ORDER BY place")
        return [SkippedItem(name, ReasonCode[reason], message, n_files) for name, reason, message, n_files in rows]

    def skip(self, items: Iterable[SkippedItem]) -> None:
        """Replace what was left out."""
        rows = [(item.case, item.reason.value, item.message, item.n_files) for item in items]
        with self.writing() as database:
            database.execute("DELETE FROM skipped")
            database.executemany("INSERT INTO skipped (name, reason, message, n_files) VALUES (?, ?, ?, ?)", rows)


def _unit(row: tuple[Any, ...]) -> LedgerUnit:
    values = dict(zip(_FIELDS, row, strict=True))
    return LedgerUnit(**{**values, "corrupt": bool(values["corrupt"])})


def _connected(path: Path, for_reading: bool) -> sqlite3.Connection:
    if not for_reading:
        return sqlite3.connect(path, timeout=30, isolation_level=None)
    place = f"file:{quote(str(path.resolve()))}?mode=ro"
    # Where there is no log, nobody is writing, and SQLite need not leave an index of it behind. A folder that may not
    # be written takes none; then nobody writes the ledger either.
    ways = ("", "&immutable=1")
    for more in ways if path.with_name(f"{path.name}-wal").exists() else ways[::-1]:
        database = sqlite3.connect(place + more, timeout=30, isolation_level=None, uri=True)
        try:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return database
        except sqlite3.OperationalError:
            database.close()
    raise sqlite3.OperationalError("unable to open database file")
