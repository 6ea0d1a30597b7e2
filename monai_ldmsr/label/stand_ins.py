"""Two modules that MONAI Label's requirements import and that are not there, or do not load, beside what we need.

- ``pydicom_seg`` imports ``pydicom._storage_sopclass_uids``, which pydicom 3 no longer has (MONAILabel#1841). Its names
  are in ``pydicom.uid``.
- ``torchvision`` built for CUDA does not load beside torch for the CPU: two operators are not registered then. Nothing
  here calls them, so they are declared without a body.

``python -m monai_ldmsr.label.stand_ins`` makes every interpreter of its environment call :func:`install` when it
starts; that costs nothing until one of the modules is imported.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["install", "install_at_start"]

_SOP_CLASSES = "pydicom._storage_sopclass_uids"
_OPERATORS = ("nms", "qnms")


class _SopClasses(Loader):
    """Fills the module with the names of ``pydicom.uid``."""

    def exec_module(self, module: ModuleType) -> None:
        from pydicom import uid

        vars(module).update({name: value for name, value in vars(uid).items() if not name.startswith("__")})


class _Finder(MetaPathFinder):
    """Asked before the import system's own finders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == _SOP_CLASSES and PathFinder.find_spec(fullname, path) is None:
            return spec_from_loader(fullname, _SopClasses())
        if fullname == "torchvision":
            _declare_operators()
        return None


def _declare_operators() -> None:
    """Declare torchvision's operators where its own library, which defines them, cannot be loaded."""
    torch: Any = import_module("torch")
    spec = PathFinder.find_spec("torchvision")
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    for path in (path for folder in folders for path in Path(folder).glob("_C.*")):
        try:
            torch.ops.load_library(str(path))
        except OSError:
            library = torch.library.Library("torchvision", "FRAGMENT")
            for name in _OPERATORS:
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _kept.append(library)


#: A library's definitions end with it.
_kept: list[object] = []


def install() -> None:
    """Let this interpreter find the stand-ins; a second call changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def install_at_start() -> Path:
    """Make each interpreter of this environment call :func:`install`, and return the file that does it."""
    path = Path(sysconfig.get_paths()["purelib"]) / "zz_monai_ldmsr_label.pth"
    path.write_text("import monai_ldmsr.label.stand_ins; monai_ldmsr.label.stand_ins.install()\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    install_at_start()
