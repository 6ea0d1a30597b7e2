"""The registry of volume formats: a format is one object, and nobody outside its room knows an extension."""

from __future__ import annotations

import ast
import re
from pathlib import Path, PurePath

import nibabel as nib
import numpy as np
import pytest

import monai_ldmsr
from monai_ldmsr.errors import SettingsError, SourceError
from monai_ldmsr.geometry import Factors
from monai_ldmsr.io import ReadLimits, find_sources, formats, read_volume_file, write_volume_file
from monai_ldmsr.io.formats import (
    CLIENT_EXTENSIONS,
    EXTENSIONS,
    FORMATS,
    format_of,
    header_beside,
    inspect_file,
    is_voxels_alone,
    stem,
    voxels_beside,
)
from monai_ldmsr.io.written_files import verified_files

PACKAGE = Path(monai_ldmsr.__file__).parent
AFFINE = np.array([[0.0, 0.0, 2.0, 7.0], [-0.7, 0.0, 0.0, 8.0], [0.0, 0.8, 0.0, -9.0], [0.0, 0.0, 0.0, 1.0]])


def test_no_extension_has_two_formats() -> None:
    assert len(set(EXTENSIONS)) == len(EXTENSIONS)
    assert set(CLIENT_EXTENSIONS) <= set(EXTENSIONS)
    assert all(format_of(PurePath(f"A.b{extension.upper()}")) in FORMATS for extension in EXTENSIONS)
    assert format_of(PurePath("a.dcm")) is None
    assert stem(PurePath("a.b.NII.GZ")) == "a.b"


def test_nobody_else_names_an_extension() -> None:
    """Prose may; what decides by a name may not."""
    voxels = [ending for each in FORMATS if each.pair for ending in each.pair]
    own = re.compile(rf".*({'|'.join(map(re.escape, [*EXTENSIONS, *(f'.{end}' for end in voxels)]))})", re.DOTALL)
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "formats":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            text = node.value if isinstance(node, ast.Constant) else ""
            assert not (isinstance(text, str) and own.fullmatch(text)), f"{path.name}: {text!r}"


def test_pairs_are_known_by_name(tmp_path: Path) -> None:
    assert (voxels_beside("A.HDR.gz"), voxels_beside("a.nii"), voxels_beside("a.txt")) == ("A.IMG.gz", "", "")
    assert is_voxels_alone("a.img.gz")
    assert not is_voxels_alone("a.hdr")
    (tmp_path / "a.img").touch()
    assert header_beside(tmp_path / "a.img") is None
    (tmp_path / "a.hdr").touch()
    assert header_beside(tmp_path / "a.img") == tmp_path / "a.hdr"


@pytest.mark.parametrize("extension", [".mgh", ".mgz"])
@pytest.mark.parametrize("dtype", ["i2", "u1", "f4", "i4"])
def test_mgh_is_written_back_as_it_was_read(tmp_path: Path, extension: str, dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 200, (6, 5, 4)).astype(dtype)
    nib.save(nib.MGHImage(values, AFFINE.astype(np.float32)), tmp_path / f"a{extension}")
    source = read_volume_file(tmp_path / f"a{extension}")
    assert source.extension == extension
    np.testing.assert_allclose(source.geometry.affine, AFFINE, atol=1e-5)
    np.testing.assert_array_equal(source.voxels, values)
    doubled = source.voxels.repeat(2, 0).repeat(2, 1)
    (tmp_path / "out").mkdir()
    write_volume_file(source, doubled, Factors(2, 2), tmp_path / "out" / f"b{extension}", "Research use only")
    written = nib.load(tmp_path / "out" / f"b{extension}")
    assert written.get_data_dtype().newbyteorder("=") == np.dtype(dtype)
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), doubled)
    np.testing.assert_allclose(written.affine, source.geometry.upsampled((2, 2, 1)).affine, atol=1e-4)
    assert list(verified_files(tmp_path / "out")) == [f"b{extension}"]


def test_results_have_the_format_of_their_source(tmp_path: Path) -> None:
    nib.save(nib.MGHImage(np.ones((4, 4, 4), np.int16), np.eye(4)), tmp_path / "a.mgz")
    source = read_volume_file(tmp_path / "a.mgz")
    with pytest.raises(SettingsError, match=r"\.mgz source is written as \.mgz"):
        write_volume_file(source, source.voxels, Factors(2, 2), tmp_path / "b.nii", "")
    with pytest.raises(SourceError, match="Not a volume file"):
        inspect_file(tmp_path / "a.txt", ReadLimits())


def test_the_format_of_the_guide_is_all_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/extending.md: found, read, written back and verified."""
    guide = (PACKAGE.parent / "docs" / "extending.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(\"\"\"NumPy's .*?)```", guide, re.DOTALL)
    room: dict[str, object] = {}
    exec(code, room)
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, room["NpyFormat"]()))
    values = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    np.save(tmp_path / "a.npy", values)
    found, skipped = find_sources(tmp_path)
    assert ([one.source for one in found], skipped) == ([tmp_path / "a.npy"], [])
    source = read_volume_file(tmp_path / "a.npy")
    np.testing.assert_array_equal(source.voxels, values)
    (tmp_path / "out").mkdir()
    write_volume_file(source, source.voxels.repeat(2, 0).repeat(2, 1), Factors(2, 2), tmp_path / "out" / "b.npy", "")
    assert np.load(tmp_path / "out" / "b.npy").shape == (10, 8, 3)
    assert list(verified_files(tmp_path / "out")) == ["b.npy"]
    (tmp_path / "a.npy").write_bytes(b"text")
    with pytest.raises(SourceError, match="cannot be read"):
        read_volume_file(tmp_path / "a.npy")
