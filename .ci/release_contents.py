"""What a wheel and an sdist hold: ``python .ci/release_contents.py WHEEL SDIST``."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: A wheel has the weights of both bundles; more than this is something that got in.
MOST_MEGABYTES = 30


def names_of(path: Path) -> set[str]:
    """Names within, without the folder that an sdist has at its top, and of a bundle's files as they lie installed."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {re.sub(r"^[^/]+\.data/data/share/monai_ldmsr/", "", name) for name in wheel.namelist()}
    with tarfile.open(path) as sdist:
        return {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}


def committed() -> set[str]:
    """What of the checkout belongs into both."""
    package = {path.relative_to(ROOT) for path in (ROOT / "monai_ldmsr").rglob("*.py")}
    package |= {path.relative_to(ROOT) for path in (ROOT / "monai_ldmsr").rglob("templates/*.html")}
    bundles = {
        path.relative_to(ROOT)
        for name in ("ldm_sr", "srgan_sr")
        for pattern in ("LICENSE", "configs/*", "docs/*", "models/*")
        for path in (ROOT / "bundles" / name).glob(pattern)
        if path.is_file()
    }
    return {path.as_posix() for path in package | bundles} | {"monai_ldmsr/py.typed"}


def complaints(path: Path) -> list[str]:
    """What is missing, what does not belong there, and whether it is too large."""
    names = names_of(path)
    found = [f"{name} is missing" for name in sorted(committed() - names)]
    wanted = ["pyproject.toml", "CHANGELOG.md", "CITATION.cff", "constraints.txt"] if path.suffix != ".whl" else []
    found += [f"{name} is missing" for name in ["LICENSE", *wanted] if not any(n.endswith(name) for n in names)]
    strange = re.compile(r"(^|/)(tests|benchmarks|sample_data|__pycache__|\.venv)/|\.pyc$|app_folder/(logs|model|bin)/")
    found += [f"{name} does not belong there" for name in sorted(names) if strange.search(name)]
    megabytes = path.stat().st_size / 1e6
    if megabytes > MOST_MEGABYTES:
        found.append(f"it has {megabytes:.0f} MB, more than {MOST_MEGABYTES}")
    print(f"{path.name}: {len(names)} files, {megabytes:.1f} MB")
    return [f"{path.name}: {text}" for text in found]


if __name__ == "__main__":
    problems = [text for argument in sys.argv[1:] for text in complaints(Path(argument))]
    sys.exit("\n".join(problems) or 0)
