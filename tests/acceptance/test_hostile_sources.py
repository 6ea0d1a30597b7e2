"""Small files that claim, inflate or decode to much are refused before they do, in bounded memory; hostile names."""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_bytes import elements, nested, raw_element
from dicom_fixtures import make_series
from enhanced_fixtures import make_enhanced
from half_run import HalfEvaluator, run_half
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from monai_ldmsr import super_resolve
from monai_ldmsr.errors import CorruptSourceError, OutputError, ReasonCode, SettingsError, SourceError
from monai_ldmsr.image_output import BundleModel, HeaderTexts
from monai_ldmsr.io import ReadLimits, dicom_file, find_dicom_series, read_dicom_series, read_volume_file
from monai_ldmsr.io.codestream import check_frame
from monai_ldmsr.result_writer import ResultWriter

#: Address space that reading may take beyond what the imports took.
ROOM_BYTES = 700 * 2**20

READER = """
import json, resource, sys, time
from pathlib import Path
from monai_ldmsr.errors import LdmsrError
from monai_ldmsr.io import SeriesFiles, find_sources, read_dicom_series, read_volume_file

def reason(path):
    try:
        found, skipped = find_sources(path)
        for item in found:
            read = read_dicom_series if isinstance(item.source, SeriesFiles) else read_volume_file
            read(item.source)
        return [item.reason.value for item in skipped] or ["done"]
    except LdmsrError as error:
        return [error.reason.value]

reason(Path(sys.argv[1], "sound"))  # decoders load on first use
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
said = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = time.process_time()
    said[path.name] = [*reason(path), time.process_time() - start]
print(json.dumps(said))
"""


def one_slice(folder: Path, **overrides: object) -> Path:
    return make_series(folder, "CT", (8, 9, 1), baggage=False, **overrides).paths[0]


def compressed(path: Path, syntax: pydicom.uid.UID) -> tuple[pydicom.Dataset, bytes]:
    dataset = pydicom.dcmread(path)
    dataset.compress(syntax, generate_instance_uid=False)
    return dataset, next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))


def jpeg_ls_bombs(place: Path) -> None:
    """3 kB of JPEG-LS that say 274 MB; and slices that are within the limit one by one, but not together."""
    for name, side, n_slices in (("one", 11700, 1), ("together", 8000, 20)):
        for path in make_series(place / f"jpegls {name}", "CT", (8, 9, n_slices), baggage=False).paths:
            dataset, frame = compressed(path, JPEGLSLossless)
            at = frame.index(b"\xff\xf7")
            frame = frame[: at + 5] + struct.pack(">HH", side, side) + frame[at + 9 :]
            dataset.PixelData = pydicom.encaps.encapsulate([frame])
            dataset.Rows = dataset.Columns = side
            dataset.save_as(path, overwrite=True)


def rle_bomb(place: Path) -> None:
    """Runs of zeros, 64 times as long as their code, for an image of 72 pixels."""
    path = one_slice(place / "rle")
    dataset, _ = compressed(path, RLELossless)
    runs = b"\x81\x00" * 2**23
    header = struct.pack("<16I", 2, 64, 64 + len(runs), *[0] * 13)
    dataset.PixelData = pydicom.encaps.encapsulate([header + runs + runs])
    dataset.save_as(path, overwrite=True)


def deflated_bombs(place: Path) -> None:
    """1 MB that inflate to 1 GB before the pixels: with and without preamble, and behind a lying group length."""
    path = one_slice(place / "deflated")
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    pydicom.dcmwrite(path, dataset)
    data = path.read_bytes()
    at = max(element.end for element in elements(data) if element.tag >> 16 == 2 and element.end < len(data))
    body = zlib.decompress(data[at:], -zlib.MAX_WBITS)
    compressor = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    size = 2**30
    bomb = compressor.compress(raw_element(0x00071010, "OB", b"", size))
    bomb += b"".join(compressor.compress(bytes(2**24)) for _ in range(size // 2**24))
    bomb += compressor.compress(body) + compressor.flush()
    path.write_bytes(data[:at] + bomb)
    for name in ("bare deflated", "lying deflated"):
        (place / name).mkdir()
    (place / "bare deflated" / "x").write_bytes(data[132:at] + bomb)
    harmless = zlib.compress(body, wbits=-zlib.MAX_WBITS)
    length = raw_element(0x00020000, "UL", struct.pack("<I", at - 144 + len(bomb)))
    assert data[132:144] == raw_element(0x00020000, "UL", struct.pack("<I", at - 144))
    (place / "lying deflated" / "x").write_bytes(data[:132] + length + data[144:at] + bomb + harmless)


def header_bombs(place: Path) -> None:
    data = one_slice(place / "long element").read_bytes()
    found = {element.tag: element for element in elements(data)}
    at = found[0x00100010].at
    with (place / "long element" / "IM0000.dcm").open("wb") as stream:  # 3 GB of nothing on disk
        stream.write(data[:at] + raw_element(0x00090010, "UN", b"", 3 * 2**30))
        stream.truncate(at + 12 + 3 * 2**30)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    for name, inserted in {
        "many items": raw_element(0x00081115, "SQ", item * 2_000_000),
        "many items undefined": raw_element(0x00081115, "SQ", item * 1_900_000, 0xFFFFFFFF),
        "nested": nested(20_000),
        "claimed length": raw_element(0x00090010, "UN", b"ab", 0xFFFFFFFE),
    }.items():
        (place / name).mkdir()
        (place / name / "x").write_bytes(data[:at] + inserted + data[at:])


def volume_bombs(place: Path) -> None:
    for name in ("huge nifti", "gzip nifti", "extension nifti", "meta image", "gzip nrrd"):
        (place / name).mkdir()
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header["magic"], header["vox_offset"] = b"n+1", 352
    header["dim"] = [3, 32767, 32767, 32767, 1, 1, 1, 1]
    (place / "huge nifti" / "v.nii").write_bytes(header.binaryblock + bytes(40))
    header["dim"][1:4] = 1000
    (place / "gzip nifti" / "v.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(2**24), 1))
    header["dim"][1:4], header["vox_offset"] = 4, 2**30
    extension = header.binaryblock + b"\1\0\0\0" + struct.pack("<II", 2**30 - 352, 6)
    with gzip.open(place / "extension nifti" / "v.nii.gz", "wb", 1) as stream:
        stream.write(extension)
        for _ in range(64):
            stream.write(bytes(2**24))
    fields = "ObjectType = Image\nNDims = 3\nCompressedData = True\nDimSize = 40000 40000 1\nElementType = MET_SHORT\n"
    (place / "meta image" / "v.mha").write_text(fields + "ElementDataFile = LOCAL\nx")
    nrrd = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 40000 40000 1\nendian: little\nencoding: gzip\n\n"
    (place / "gzip nrrd" / "v.nrrd").write_bytes(nrrd + gzip.compress(bytes(2**20)))


@pytest.mark.slow
def test_bombs_are_refused_in_bounded_memory_and_time(tmp_path: Path) -> None:
    one_slice(tmp_path / "sound")
    for make in (jpeg_ls_bombs, rle_bomb, deflated_bombs, header_bombs, volume_bombs):
        make(tmp_path)
    command = [sys.executable, "-c", READER, str(tmp_path), str(ROOM_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert {name: reasons[:-1] for name, reasons in said.items()} == {
        "sound": ["done"],
        "jpegls one": ["TOO_LARGE"],
        "jpegls together": ["TOO_LARGE"],
        "rle": ["UNDECODABLE_PIXELS"],
        "deflated": ["TOO_LARGE"],
        "bare deflated": ["TOO_LARGE"],
        "lying deflated": ["TOO_LARGE"],
        "long element": ["TOO_LARGE"],
        "many items": ["TOO_LARGE"],
        "many items undefined": ["TOO_LARGE"],
        "nested": ["UNREADABLE_FILE"],
        "claimed length": ["UNREADABLE_FILE"],
        "huge nifti": ["TOO_LARGE"],
        "gzip nifti": ["TOO_LARGE"],
        "extension nifti": ["TOO_LARGE"],
        "meta image": ["TOO_LARGE"],
        "gzip nrrd": ["TOO_LARGE"],
    }
    assert max(reasons[-1] for reasons in said.values()) < 10


def test_pydicom_never_inflates_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where it takes the file meta information for another than we do."""
    path = one_slice(tmp_path)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    pydicom.dcmwrite(path, dataset)
    assert read_dicom_series(tmp_path).voxels.shape == (9, 8, 1)
    monkeypatch.setattr(dicom_file, "read_dataset", lambda *_, **__: pydicom.Dataset())
    with pytest.raises(CorruptSourceError, match="file meta information"):
        dicom_file.read_dicom_file(path)


def test_limits_are_arguments(tmp_path: Path) -> None:
    path = one_slice(tmp_path)
    n_bytes = path.stat().st_size
    for limits, reason in (
        ({}, None),
        ({"header_bytes": n_bytes}, None),
        ({"header_bytes": n_bytes // 4}, ReasonCode.TOO_LARGE),
        ({"header_reads": 40}, ReasonCode.TOO_LARGE),
        ({"expansion": 1, "expansion_from_bytes": 1}, None),
    ):
        if reason is None:
            assert read_dicom_series(tmp_path, ReadLimits(**limits)).voxels.shape == (9, 8, 1)
            continue
        with pytest.raises(SourceError, match="raise ReadLimits") as caught:
            read_dicom_series(tmp_path, ReadLimits(**limits))
        assert caught.value.reason is reason
    with pytest.raises(SettingsError, match="slice_bytes"):
        ReadLimits(slice_bytes=0)


@pytest.mark.parametrize("n_frames", [3200, 6000])
def test_headers_of_a_long_fmri_are_within_the_limits(n_frames: int) -> None:
    """Measured: about 340 reads and 4 kB of header a frame, whose 64 x 64 pixels take 4 kB compressed."""
    limits = ReadLimits().for_dicom_file(n_frames * 8000)
    assert limits.header_reads > 340 * n_frames
    assert limits.header_bytes > 4000 * n_frames


def test_reads_of_a_header_are_bounded_for_a_file_of_any_size() -> None:
    """A read takes up to 18 microseconds and 0.25 kB: a minute and 1 GB are never exceeded."""
    limits = ReadLimits().for_dicom_file(2**40)
    assert limits.header_reads * 18e-6 < 60
    assert limits.header_reads * 250 < 2**30
    assert limits.header_bytes < 2**28
    assert ReadLimits().for_dicom_file(2**20).header_reads * 18e-6 < 10


def test_limits_of_a_header_grow_with_its_file(tmp_path: Path) -> None:
    """Many frames have many headers; a small file of as many elements has no such right."""
    path = tmp_path / "object.dcm"
    for side, n_volumes in ((16, 0), (256, 1)):
        make_enhanced(path, "MR", (side, side, 40))
        found, skipped = find_dicom_series(tmp_path, ReadLimits(header_bytes=2000))
        assert len(found) == n_volumes
        assert [item.reason for item in skipped] == [ReasonCode.TOO_LARGE] * (1 - n_volumes)


def test_a_file_beyond_the_limits_is_listed_as_failed_and_warned_of(tmp_path: Path) -> None:
    make_series(tmp_path, "CT", (8, 9, 3), ImageComments=lambda k: "c" * (9000 if k == 1 else 2))
    [found], [skipped] = find_dicom_series(tmp_path, ReadLimits(header_bytes=6000))
    assert len(found.paths) == 2
    assert "cannot be read" in found.warnings[0]
    assert (skipped.reason, skipped.n_files) == (ReasonCode.TOO_LARGE, 1)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_a_codestream_must_tell_the_size_of_the_header(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    path = make_series(tmp_path, "CT", (34, 33, 1), baggage=False).paths[0]
    _, frame = compressed(path, syntax)
    check_frame(frame, syntax, (34, 33), 2244)
    n_components = frame.index(b"\xff\xf7") + 9 if syntax == JPEGLSLossless else 41
    fill = frame[:2] + b"\xff" * 3 + frame[2:]
    if syntax == JPEGLSLossless:
        check_frame(fill, syntax, (34, 33), 2244)  # fill bytes before a marker are legal
    for bad, shape in (
        (frame, (33, 34)),
        (frame[:n_components] + b"\x03" + frame[n_components + 1 :], (34, 33)),
        (frame[:8], (34, 33)),
        (b"\0" * 64 + frame, (34, 33)),
        (b"\xff\xd8\xff\xfe\0\x40" + b"\xff\x4f\xff\x51" * 15 + frame[2:], (33, 34)),
    ):
        with pytest.raises((ValueError, IndexError)):
            check_frame(bad, syntax, shape, 2244)


@pytest.mark.parametrize("extension", [".mhd", ".nrrd"])
@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../v.raw", "LIST", "v%03d.raw 1 3 1", "link.raw", "pipe", "gone.raw", "LIST 2"),
        "http://127.0.0.1/v.raw",
    ],
)
def test_voxels_in_another_file_must_lie_beside_the_header(tmp_path: Path, extension: str, name: str) -> None:
    (tmp_path / "in").mkdir()
    for path in (tmp_path / "v.raw", tmp_path / "in" / "v.raw"):
        path.write_bytes(bytes(48))
    (tmp_path / "in" / "link.raw").symlink_to(tmp_path / "v.raw")
    os.mkfifo(tmp_path / "in" / "pipe")
    meta = "ObjectType = Image\nNDims = 3\nDimSize = 2 3 4\nElementType = MET_SHORT\nElementDataFile = {}\n"
    nrrd = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 3 4\nendian: little\nencoding: raw\ndata file: {}\n"
    path = tmp_path / "in" / f"v{extension}"
    text = meta if extension == ".mhd" else nrrd
    path.write_text(text.format("v.raw"))
    assert read_volume_file(path).voxels.shape == (2, 3, 4)
    path.write_text(text.format(name))
    with pytest.raises(SourceError, match=r"cannot be read|own folder") as caught:
        read_volume_file(path)
    assert caught.value.reason is ReasonCode.UNREADABLE_FILE
    assert "passwd" not in str(caught.value)


def test_a_volume_file_of_another_format_is_not_guessed(tmp_path: Path) -> None:
    """ITK would read any of its formats under any name; a DICOM file would come without our checks."""
    data = one_slice(tmp_path / "in").read_bytes()
    for name in ("v.nrrd", "v.mha", "v.nii"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError) as caught:
            read_volume_file(tmp_path / name)
        assert caught.value.reason is ReasonCode.UNREADABLE_FILE


NAMES = ["../../x", "/etc/x", "a\nb", "1.2\0.3", "$exec('x')", "@seed", "x" * 3000, "2.25." + "1" * 90, "..", ""]


@pytest.mark.parametrize("name", NAMES)
def test_uids_of_any_form_name_no_file(tmp_path: Path, name: str) -> None:
    """All files lie where they belong, under names of safe letters, whatever UIDs and texts say."""
    keywords = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    texts = ("SeriesDescription", "PatientName", "PatientID", "StudyID", "ProtocolName")
    made = make_series(tmp_path / "in", "MR", (8, 9, 1), baggage=False)
    data = made.paths[0].read_bytes()
    for element in reversed(elements(data)):
        keyword = pydicom.datadict.keyword_for_tag(element.tag)
        if keyword in keywords + texts:
            value = name.encode() + b"\0" * (len(name) % 2)
            vr = data[element.at + 4 : element.at + 6].decode()
            data = data[: element.at] + raw_element(element.tag, vr, value) + data[element.end :]
    statuses = run_half({"in.dcm": data}, tmp_path / "run")
    assert [status for status, _ in statuses] == ["done"]
    output = tmp_path / "run" / "output"
    for path in output.rglob("*"):
        assert re.fullmatch(r"[0-9a-f]{12}|IM0001\.dcm|summary\.json", path.name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "run"]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["output", "source"]
    [result] = output.glob("*/IM0001.dcm")
    assert pydicom.dcmread(result).SeriesInstanceUID.startswith("2.25.")


def test_names_of_volume_files_stay_apart_and_inside(tmp_path: Path) -> None:
    good = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([1, 1, 2, 1])).to_bytes()
    names = ("a", "A", "a-2", "a.b", "_", "$(touch x)", "a\nb", "summary.json", "é", os.fsdecode(b"\xff\xfe"))
    files = {f"{name}.nii": good for name in names}
    assert {status for status, _ in run_half(files, tmp_path)} == {"done"}
    folders = [path.name for path in (tmp_path / "output").iterdir() if path.is_dir()]
    assert len({name.lower() for name in folders}) == len(files)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,70}", name) and not name.startswith(".") for name in folders)
    assert (tmp_path / "output" / "summary.json").is_file()


@pytest.mark.parametrize("case", ["../x", "/tmp/x", "..", "", "a/b", "a\0b"])
def test_a_case_never_leads_out_of_the_output(tmp_path: Path, case: str) -> None:
    writer = ResultWriter(BundleModel("b", "1", "0" * 64), None, {}, "cpu", HeaderTexts())
    with pytest.raises(OutputError, match="leads out"):
        writer.write({}, case, tmp_path / "out", (0.0, 0.0, 0.0), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"Rows": 9, "Columns": 8}, {"RescaleSlope": 2}, {"SOPInstanceUID": "1.2.3"}, None])
def test_a_file_that_changes_between_header_and_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object] | None
) -> None:
    made = make_series(tmp_path, "CT", (8, 9, 3))
    from monai_ldmsr.io import dicom_series

    original = dicom_series.stored_pixels

    def changing(path: Path, *arguments: object) -> object:
        if path == made.paths[1]:
            if change is None:
                path.unlink()
            else:
                dataset = pydicom.dcmread(path)
                dataset.update({pydicom.tag.Tag(key): pydicom.DataElement(pydicom.tag.Tag(key), dataset[key].VR, value)
                                for key, value in change.items()})  # fmt: skip
                dataset.save_as(path, overwrite=True)
        return original(path, *arguments)

    monkeypatch.setattr(dicom_series, "stored_pixels", changing)
    with pytest.raises(SourceError) as caught:
        read_dicom_series(tmp_path)
    assert caught.value.reason is ReasonCode.UNREADABLE_FILE
    assert "Image 2 of 3" in str(caught.value)


def test_a_series_replaced_after_discovery_is_refused(tmp_path: Path) -> None:
    made = make_series(tmp_path, "CT", (8, 9, 3))
    [files], _ = find_dicom_series(tmp_path)
    other = make_series(tmp_path / "other", "MR", (8, 9, 3))
    other.paths[0].rename(made.paths[2])
    with pytest.raises(SourceError, match="no CT images any more"):
        read_dicom_series(files)


def test_thousands_of_private_elements_are_read_and_left_behind(tmp_path: Path) -> None:
    data = one_slice(tmp_path).read_bytes()
    at = next(element.at for element in elements(data) if element.tag == 0x00100010)
    private = b"".join(raw_element(0x00090000 + group, "LO", b"MAKER ") for group in range(0x10, 0x100)) + b"".join(
        raw_element(0x00091000 + n, "LO", b"value ") for n in range(0x1000, 0x5000)
    )
    (tmp_path / "IM0000.dcm").write_bytes(data[:at] + private + data[at:])
    series = read_dicom_series(tmp_path)
    assert not [element for element in series.headers[0] if element.tag.is_private]


def test_a_summary_tells_of_files_that_no_series_came_of(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "x").write_bytes(one_slice(tmp_path / "made").read_bytes()[:150])
    evaluator = HalfEvaluator(tmp_path / "source", tmp_path / "output")
    assert evaluator.run().exit_code == 4
    assert [case.reason for case in evaluator.summary.cases] == ["UNREADABLE_FILE"]


def test_the_limits_of_a_run_reach_discovery_and_reading(tmp_path: Path) -> None:
    make_series(tmp_path / "in", "CT", (8, 9, 2))
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 8, 3), np.int16), np.eye(4)), tmp_path / "in" / "v.nii")
    for limits in (ReadLimits(voxels=143), ReadLimits(header_bytes=300)):
        summary = super_resolve(tmp_path / "in", tmp_path / "out", device="cpu", limits=limits)
        assert {case.reason for case in summary.cases} == {"TOO_LARGE"}
        assert {case.status for case in summary.cases} == {"failed"}
        assert (summary.exit_code, len(summary.cases)) == (2, 2)
