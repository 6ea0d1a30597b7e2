"""MONAI Label's folder of volume files, safe to use from the threads that answer requests."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore

__all__ = ["GuardedDatastore"]


class GuardedDatastore(LocalDatastore):  # type: ignore[misc]  # MONAI Label carries no types
    """A ``LocalDatastore`` whose file watcher and requests do not meet in the middle of a change.

    Args:
        arguments: those of ``LocalDatastore``.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._guard = threading.RLock()
        super().__init__(*arguments, **named)

    def add_linked(self, partial: Path, image: str, extension: str, links: Mapping[str, Mapping[str, Any]]) -> None:
        """Move a file into place as a new image, and note what links it to others; all of it or nothing.

        Args:
            partial: the whole file, on the datastore's disk.
            image: identifier.
            extension: of the file.
            links: image information to add, by image.

        Raises:
            OSError: it cannot be written.
        """
        name = self._filename(image, extension)
        final = Path(self._datastore.image_path()) / name
        with self._guard:
            self._init_from_datastore_file()
            before = {one: dict(entry.image.info) for one, entry in self._datastore.objects.items() if one in links}
            try:
                os.replace(partial, final)
                self._datastore.objects[image] = ImageLabelModel(
                    image=DataModel(info={"ts": int(time.time()), "name": name}, ext=extension)
                )
                for one, info in links.items():
                    self._datastore.objects[one].image.info.update(info)
                self._update_datastore_file()
            except BaseException:
                final.unlink(missing_ok=True)
                self._datastore.objects.pop(image, None)
                for one, info in before.items():
                    self._datastore.objects[one].image.info = info
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
        with self._guard:
            super().update_image_info(image_id, info)

    def list_images(self) -> list[str]:
        """Identifiers of all images."""
        with self._guard:
            return list(super().list_images())

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Copy a file into the datastore."""
        with self._guard:
            return str(super().add_image(image_id, image_filename, image_info))

    def _reconcile_datastore(self) -> None:
        with self._guard:
            super()._reconcile_datastore()

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        with self._guard:
            super()._init_from_datastore_file(throw_exception)
