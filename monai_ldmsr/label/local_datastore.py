"""MONAI Label's folder of volume files, safe to use from threads and processes that answer requests."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel

from monai_ldmsr.errors import ReasonCode, SettingsError, SourceError
from monai_ldmsr.storage import move, output_errors, replace_text, working_folder

__all__ = ["GuardedDatastore", "check_image_list"]

_log = logging.getLogger(__name__)

#: What MONAI Label knows of the images of a folder.
_LIST = "datastore_v2.json"


def check_image_list(studies: Path) -> None:
    """Refuse a folder whose list of images cannot be read.

    Raises:
        SettingsError: it is damaged.
    """
    path = studies / _LIST
    if path.exists():
        _read(path)


class GuardedDatastore(LocalDatastore):  # type: ignore[misc]  # MONAI Label carries no types
    """A ``LocalDatastore`` whose file watcher and requests do not meet in the middle of a change.

    The list of images is replaced as a whole, so a full disk or a power cut leaves the earlier one; what another
    process wrote into it is read before it is changed.

    Args:
        studies: the folder.
        named: those of ``LocalDatastore``.

    Raises:
        SettingsError: the list of images is damaged.
    """

    _datastore: LocalDatastoreModel

    def __init__(self, studies: str, **named: Any) -> None:
        # Keep other threads and other processes from the list; a thread takes the guard first, and then the lock.
        self._guard = threading.RLock()
        self._list_lock = FileLock(os.path.join(studies, ".lock"))
        self._list_stamp: tuple[int, ...] = ()
        super().__init__(studies, **named)
        if hasattr(self, "_handler"):
            # What another process stores is moved into place, which MONAI Label does not look for.
            self._handler.on_moved = self._on_any_event

    def add_linked(self, partial: Path, image: str, extension: str, links: Mapping[str, Mapping[str, Any]]) -> None:
        """Move a file into place as an image, and note what links it to others; all of it or nothing.

        The list is written first: an image that is seen has its links, also after a power cut.

        Args:
            partial: the whole file, on the datastore's disk.
            image: identifier.
            extension: extension of the file's name.
            links: image information to add, by image.

        Raises:
            SourceError: an image to link to is gone.
            OSError: it cannot be written.
        """
        name = self._filename(image, extension)
        with self._guard, self._list_lock:
            self._init_from_datastore_file()
            objects = self._datastore.objects
            if any(one not in objects for one in links if one != image):
                raise SourceError(
                    "The image was removed from the datastore while it was worked on.", ReasonCode.NO_SUCH_SOURCE
                )
            before = self._datastore.model_copy(deep=True)
            try:
                objects[image] = ImageLabelModel(
                    image=DataModel(info={"ts": int(time.time()), "name": name}, ext=extension)
                )
                for one, info in links.items():
                    objects[one].image.info.update(info)
                self._update_datastore_file()
                move((partial, Path(self._datastore.image_path()) / name))
            except BaseException:
                self._datastore = before
                self._update_datastore_file()
                raise

    def get_image_uri(self, image_id: str) -> str:
        """Path of an image; empty when there is none."""
        with self._guard:
            return str(super().get_image_uri(image_id))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Information of an image; empty when there is none."""
        with self._guard:
            return dict(super().get_image_info(image_id))

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to the information of an image."""
        with self._guard, self._list_lock:
            self._init_from_datastore_file()
            super().update_image_info(image_id, info)

    def list_images(self) -> list[str]:
        """Identifiers of all images."""
        with self._guard:
            return list(super().list_images())

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any] | None) -> str:
        """Copy a file into the datastore; it appears whole or not at all.

        Raises:
            SettingsError: the identifier is no plain name.
            OutputError: it cannot be stored.
        """
        own, extension = self._to_id(os.path.basename(image_filename))
        image = image_id or own
        if image != os.path.basename(image) or image.startswith(".") or not image.isprintable():
            raise SettingsError("image is not a valid name of an image: it is a path, hidden, or not printable.")
        with output_errors("The image"), working_folder(Path(self._datastore_path)) as folder:
            shutil.copyfile(image_filename, folder / "image")
            self.add_linked(folder / "image", image, extension, {image: image_info or {}})
        return image

    def save_label(self, *arguments: Any, **named: Any) -> str:
        """See ``LocalDatastore``."""
        with self._guard:
            self._init_from_datastore_file()
            return str(super().save_label(*arguments, **named))

    def read_again(self) -> None:
        """Take in what another process has written."""
        with self._guard:
            self._init_from_datastore_file()

    def _on_any_event(self, event: Any) -> None:
        with _watching():
            super()._on_any_event(event)

    def _on_modify_event(self, event: Any) -> None:
        with _watching():
            super()._on_modify_event(event)

    def _reconcile_datastore(self) -> None:
        with self._guard, self._list_lock:
            super()._reconcile_datastore()

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        path = Path(self._datastore_path) / _LIST
        with self._guard:
            stamp = _stamp(path)
            if stamp in ((), self._list_stamp):
                return
            try:
                self._datastore = _read(path)
            except SettingsError as error:
                if throw_exception:
                    raise
                _log.warning("%s Until then the list as it was read before is used.", error)
            else:
                self._datastore.base_path = self._datastore_path
            self._list_stamp = stamp

    def _update_datastore_file(self, lock: bool = True) -> None:
        path = Path(self._datastore_path) / _LIST
        text = json.dumps(self._datastore.model_dump(exclude={"base_path"}), indent=2, default=str)
        with self._guard, self._list_lock if lock else nullcontext():
            replace_text(path, text)
            self._list_stamp = _stamp(path)


def _read(path: Path) -> LocalDatastoreModel:
    try:
        return LocalDatastoreModel.model_validate_json(path.read_bytes())
    except ValueError:  # it quotes what it read
        raise SettingsError(
            f"{_LIST}, the list of images of the studies folder, is damaged. Repair or remove it: without it images "
            "are found again, but not what was recorded of them."
        ) from None


def _stamp(path: Path) -> tuple[int, ...]:
    """By what a version of the list is known; nothing where there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def _watching() -> Iterator[None]:
    """An error would end MONAI Label's file watcher for good."""
    try:
        yield
    except Exception as error:
        _log.warning("The studies folder cannot be searched (%s).", type(error).__name__)
