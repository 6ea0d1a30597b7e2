"""A setting is described once, and all that people, clients and records see of it follows."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from places import BUNDLES

import monai_ldmsr
from monai_ldmsr import settings, super_resolve
from monai_ldmsr.batch.engine import settings_fingerprint
from monai_ldmsr.bundle_config import changed_settings
from monai_ldmsr.bundle_folder import BundleInfo, available_bundles
from monai_ldmsr.choices import FACTORS, MODALITIES
from monai_ldmsr.cli import arguments, main
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.label import options
from monai_ldmsr.number_settings import byte_count, real_number
from monai_ldmsr.operators import OPERATORS
from monai_ldmsr.settings import WorkSettings, checked, described, setting
from monai_ldmsr.transforms import AddResultMapsd

PACKAGE = Path(monai_ldmsr.__file__).parent


@dataclass(frozen=True)
class More(WorkSettings):
    """One line more."""

    overshoot: float | None = setting(None, "how far a voxel may leave the range around it", real_number)


def test_adding_a_setting_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (settings, arguments, options):
        monkeypatch.setattr(module, "WorkSettings", More)
    # The command has an option, with its help, and reads it as every other.
    parser = arguments.Parser()
    arguments.add_model_options(parser)
    assert "how far a voxel may leave the range around it (default: the bundle's)" in " ".join(
        parser.format_help().split()
    )
    chosen = More(**arguments.model_settings(parser.parse_args(["--overshoot", "0.5"])))
    assert chosen.overshoot == 0.5
    with pytest.raises(SettingsError, match="overshoot is 'x'"):
        More(**arguments.model_settings(parser.parse_args(["--overshoot", "x"])))
    # MONAI Label's clients are offered it, and a digest tells its results from others.
    assert options.offered_options("ldm_sr")["overshoot"] == ""
    asked = options.requested_settings({"overshoot": "0.5"}, "ldm_sr", None)
    assert asked.changing("voxels")["overshoot"] == 0.5  # what fingerprints and digests are made of
    assert settings_fingerprint(asked) != settings_fingerprint(More())
    # Python has the argument.
    assert "overshoot" in inspect.signature(settings.takes_settings(lambda **settings: None)).parameters


def test_python_shows_every_setting() -> None:
    shown = inspect.signature(super_resolve).parameters
    for one in fields(WorkSettings):
        assert shown[one.name].default == one.default
        assert f"\n    {one.name}: " in (super_resolve.__doc__ or "")


def test_settings_are_read_alike_in_every_form() -> None:
    given = {"factor": "2.0", "num_inference_steps": 2.0, "detail": "0.5", "consistency": 1, "noise": "3"}
    assert WorkSettings(**given) == WorkSettings(2, 2, 0.5, 1.0, noise=3.0)  # type: ignore[arg-type]
    assert checked({**given, "another": "2.0"})["another"] == "2.0"
    with pytest.raises(TypeError, match="factr"):
        WorkSettings(factr=2)  # type: ignore[call-arg]


@pytest.mark.parametrize("info", available_bundles(), ids=lambda info: info.name)
def test_bundles_have_the_keys_of_settings(info: BundleInfo) -> None:
    """Where a bundle has no use for one, it has no such key; otherwise the names agree."""
    text = (info.folder / "configs" / "inference.yaml").read_text()
    found = {one for one in described(WorkSettings) if f"\n{one}:" in text}
    assert found >= {"factor", "consistency", "operator", "modality", "limits", "created", "series_number"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_list_of_choices_is_typed_twice(path: Path) -> None:
    lists = {tuple(map(str, values)) for values in (FACTORS, MODALITIES, OPERATORS)}
    owner = path.name in ("choices.py", "operators.py")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Tuple | ast.List | ast.Set) and not owner:
            values = [item.value for item in node.elts if isinstance(item, ast.Constant)]
            said = tuple(str(value) for value in values if value not in ("", None))
            assert said not in lists, f"{path.name}:{node.lineno} repeats {said}"


def test_a_tolerance_without_maps_is_refused() -> None:
    """By every way in: there is nothing to compare it with."""
    with pytest.raises(SettingsError, match="does not go with maps none"):
        WorkSettings(maps="none", tolerance=5.0)
    with pytest.raises(SettingsError, match="above 0"):
        WorkSettings(tolerance=0)
    with pytest.raises(SettingsError, match="does not go with maps none"):
        AddResultMapsd("pred", 2, maps="none", tolerance=5.0)


@pytest.mark.parametrize("command", ["run", "batch"])
def test_settings_that_do_not_go_together_leave_no_trace(command: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert main([command, str(tmp_path / "in"), str(tmp_path / "out"), "--tolerance", "5", "--maps", "none"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_settings_are_compared_with_the_bundles_own_by_modality() -> None:
    """A dial that is left open is the bundle's for the modality; what is an expression there is not compared."""
    dials = {"CT": 0.0, "MR": 0.5, "PT": 0.0}
    given = {"detail": None, "default_detail": dials, "noise": "3", "seed": 0, "weights": "mine.pt"}
    bundle = BUNDLES / "ldm_sr"
    assert changed_settings(bundle, given) == {"noise": {"used": 3.0, "bundle": None}}
    assert changed_settings(bundle, {**given, "noise": None, "detail": 0.5}) == {
        "detail": {"used": 0.5, "bundle": dials}
    }
    other = {**dials, "MR": 0.3}
    assert changed_settings(bundle, {**given, "noise": None, "default_detail": other}) == {
        "detail": {"used": other, "bundle": dials}
    }
    assert changed_settings(bundle / "missing", given) == {}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("8G", 2**33),
        ("1.5g", 3 * 2**29),
        ("2.3 GB", 2469606196),
        ("777.9MB", 815687271),
        ("8GiB", 2**33),
        (" 4096 ", 4096),
        ("0.5K", 512),
    ],
)
def test_sizes_are_read_as_messages_write_them(given: str, expected: int) -> None:
    assert byte_count("memory", given) == expected


@pytest.mark.parametrize("wrong", ["1.5", "0", "0.0G", "-1G", "G", "1e3", "1.5 X", "8GX", "nan", True, None])
def test_what_is_no_size_is_refused(wrong: object) -> None:
    with pytest.raises(SettingsError, match="memory is"):
        byte_count("memory", wrong)
