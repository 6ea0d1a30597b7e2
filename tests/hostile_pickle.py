"""A program that looks like data until somebody unpickles it."""

from __future__ import annotations

import os
from pathlib import Path


class Program:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)
