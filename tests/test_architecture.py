"""The house: imports point one way, some rooms stay free of torch, and no name is one of MONAI's."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import monai
import pytest
from places import TESTS

import monai_ldmsr

PACKAGE = Path(monai_ldmsr.__file__).parent

#: Rooms in order; those of one line do not import each other (except as said in ALLOWED).
LAYERS = [
    {"_version", "reason_codes", "choices", "deprecation"},
    {"errors", "lazy_names"},
    {"allocator", "number_settings", "operators", "outcome", "storage"},
    {"geometry", "bundle_folder", "working_volumes"},
    {"degradation", "noise_level", "slice_plan"},
    {"io", "networks", "samplers", "losses", "metrics", "report"},
    {"settings"},
    {"bundle_config", "consistency", "reference", "run_progress", "run_summary", "uncertainty"},
    {"through_plane"},
    {"transforms", "inferers"},
    {"training_range"},
    {"training", "assessment", "range_check", "source_table", "case", "needs"},
    {"image_output", "map_output", "evaluation", "reformats"},
    {"stack_assessment"},
    {"report_output"},
    {"result_writer"},
    {"evaluator"},
    {"result_file", "work_plan"},
    {"workflow"},
    {"batch", "calibration", "export", "images", "through_plane_quality"},
    {"pacs"},
    {"label"},
    {"cli"},
    {"__main__"},
]

#: Within one layer: a super-resolver is networks driven by a sampler; losses look at the codec's DCT bands.
ALLOWED = {("networks", "samplers"), ("losses", "networks")}

TORCH_FREE = (
    "allocator",
    "batch",
    "bundle_folder",
    "choices",
    "deprecation",
    "errors",
    "geometry",
    "io",
    "needs",
    "operators",
    "outcome",
    "pacs",
    "reason_codes",
    "reference",
    "report",
    "run_summary",
    "settings",
    "slice_plan",
    "storage",
    "work_plan",
)

#: Which rooms import which package of others; those that every room may use are in EVERYWHERE.
OWNERS = {
    "PIL": {"evaluation", "report", "training"},
    "SimpleITK": {"evaluation", "io"},  # evaluation: the cubic spline of its rows
    "fastapi": {"label"},
    "filelock": {"label"},
    "highdicom": {"io"},
    "ignite": {"training"},
    "jinja2": {"evaluation", "report"},
    "matplotlib": {"evaluation"},
    "monailabel": {"cli", "label"},
    "nibabel": {"io"},
    "pydicom": {
        "io",
        "label",
        "pacs",
        "reference",
    },  # label: which of its modules MONAI Label lacks; reference: names of tags
    "pynetdicom": {"pacs"},
    "requests": {"label", "pacs"},
    "rich": {"cli"},
    "shtab": {"cli"},
    "starlette": {"label"},
    "yaml": {"cli", "networks"},  # cli: arguments of a network that are typed
}

#: Packages that any room may use.
EVERYWHERE = {"monai", "monai_ldmsr", "numpy", "torch", "typing_extensions"}


def modules() -> list[str]:
    return [name for _, name, _ in pkgutil.walk_packages([str(PACKAGE)], "monai_ldmsr.")]


def room(module: str) -> str:
    return module.split(".")[1]


def level(name: str) -> int:
    (found,) = [n for n, layer in enumerate(LAYERS) if name in layer]
    return found


def imported(module: str) -> set[str]:
    """Rooms that a module imports, at whatever depth of its code."""
    path = PACKAGE.parent / Path(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{module} has a relative import"
        found |= {room(name) for name in names if name.startswith("monai_ldmsr.")}
    return found


def test_packages_of_others_have_owners() -> None:
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imported_packages(path) - EVERYWHERE - set(sys.stdlib_module_names):
            found.setdefault(name, set()).add(here)
    assert found == OWNERS


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("module", modules())
def test_imports_point_one_way(module: str) -> None:
    here = room(module)
    for other in imported(module) - {here}:
        fine = level(other) < level(here) or (here, other) in ALLOWED
        assert fine, f"{module} imports {other}, which does not lie below it"


@pytest.mark.parametrize("name", TORCH_FREE)
def test_rooms_free_of_torch(name: str) -> None:
    code = f"import monai_ldmsr.{name}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_starts_without_torch_and_pydicom() -> None:
    code = "import monai_ldmsr.cli, sys; sys.exit(bool({'torch', 'pydicom'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_the_storage_room_replaces_files() -> None:
    """What is written whole or not at all is written there, so that all of it is synced, cleared and reported alike."""
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "storage":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("os.replace", "os.rename", "os.fsync", "fcntl.flock", "hashlib.file_digest"), (
                path.name
            )
            text = node.value if isinstance(node, ast.Constant) else ""
            assert not (isinstance(text, str) and text.endswith(".part")), path.name


def test_only_the_cli_prints() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "cli":
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        assert not any(isinstance(c.func, ast.Name) and c.func.id == "print" for c in calls), path.name


def test_one_module_reads_bundles() -> None:
    for path in PACKAGE.rglob("*.py"):
        nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        reads = any((n.module or "").startswith("monai.bundle") for n in nodes)
        assert reads == (path.name == "bundle_config.py"), path.name


def test_files_and_functions_stay_short() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) < 400, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = (node.end_lineno or 0) - node.body[0].lineno
                assert body < 60, f"{path.name}: {node.name}"


def test_public_names_are_importable_and_sorted() -> None:
    assert list(monai_ldmsr.__all__) == sorted(monai_ldmsr.__all__)
    for name in monai_ldmsr.__all__:
        assert getattr(monai_ldmsr, name) is not None
    with pytest.raises(AttributeError, match="no attribute"):
        monai_ldmsr.nothing  # noqa: B018


def test_no_public_name_is_that_of_a_module_beside_it() -> None:
    """Where names are imported when they are first used, the module would be found in its place."""
    for package in {module.rpartition(".")[0] for module in modules()}:
        inside = {module.rpartition(".")[2] for module in modules() if module.rpartition(".")[0] == package}
        names = {
            alias.name
            for node in ast.walk(ast.parse((PACKAGE.parent / Path(*package.split(".")) / "__init__.py").read_text()))
            if isinstance(node, ast.ImportFrom) and node.module != package
            for alias in node.names
        }
        assert names & inside <= {"lazy_names"}, package


def test_no_class_or_function_has_a_name_of_monai() -> None:
    """MONAI's config parser would take ours for its own."""
    theirs = set()
    for _, name, _ in pkgutil.walk_packages(monai.__path__, "monai."):
        if any(part in name for part in (".apps.", "monai.apps", "test")):
            continue
        try:
            members = inspect.getmembers(importlib.import_module(name))
        except Exception:  # an optional dependency of MONAI that is not here
            continue
        made = [(key, member) for key, member in members if inspect.isclass(member) or inspect.isfunction(member)]
        theirs |= {key for key, member in made if member.__module__.startswith("monai.")}
    assert len(theirs) > 1000
    for module in modules():
        try:
            loaded = importlib.import_module(module)
        except ModuleNotFoundError:
            if room(module) != "label":  # MONAI Label has an environment of its own
                raise
            continue
        for name in getattr(loaded, "__all__", []):
            member = getattr(loaded, name)
            if (inspect.isclass(member) or inspect.isfunction(member)) and member.__module__.startswith("monai_ldmsr"):
                assert name not in theirs, f"{module}.{name}"


def test_tests_replace_nothing_private() -> None:
    """What a test must change has a seam: an argument, a public name, or one of the standard library."""
    allowed = {"pynetdicom._config.STORE_SEND_CHUNKED_DATASET"}  # the one switch that sends a file as it is
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".setattr"):
                texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                names = {text for text in texts if isinstance(text, str)} - allowed
                private = [name for name in names if re.search(r"(^|\.)_(?!_)", name)]
                assert not private, f"{path.name}:{node.lineno} replaces {private}"
