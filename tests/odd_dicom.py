"""Odd DICOM input as rows of the table of :mod:`odd_inputs`.

The rows follow what other readers turn into a wrong volume in silence, and what a hospital's exports hold.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from dicom_fixtures import make_series, save
from enhanced_fixtures import item
from odd_inputs import (
    ALL,
    AXIAL,
    SHAPE,
    OddInput,
    beside,
    changed,
    damaged,
    edited,
    raw_decimal,
    refused,
    series,
    void,
    volumes,
)
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

STORAGE = "1.2.840.10008.5.1.4.1.1."
NO_IMAGE = ("NOT_AN_IMAGE", "without an image")


# Makers with a story


def big_endian(image: Dataset) -> None:
    image.PixelData = image.pixel_array.astype(image.pixel_array.dtype.newbyteorder(">")).tobytes()
    for tag in [e.tag for e in image if e.tag.group == 0x6000]:
        del image[tag]


def run_length_encoded(image: Dataset) -> None:
    image.compress(RLELossless, generate_instance_uid=False)


def video(image: Dataset) -> None:
    image.PixelData = pydicom.encaps.encapsulate([bytes(80)])


def broken_run_length(image: Dataset) -> None:
    run_length_encoded(image)
    if image.InstanceNumber == 5:
        image.PixelData = pydicom.encaps.encapsulate([b"\x00" * 80])


def overlay_in_high_bits(image: Dataset) -> None:
    image.PixelData = (image.pixel_array | 0x8000).tobytes()


def padded(image: Dataset) -> None:
    pixels = image.pixel_array.astype(np.int16)
    pixels[:4] = pixels[:, :3] = -3024 + 1024
    edited(image, PixelRepresentation=1, BitsStored=16, HighBit=15, RescaleIntercept=-1024)
    image.PixelData = pixels.astype("<i2").tobytes()
    image.add_new(0x00280120, "SS", -2000)


def twice(folder: Path, change: Callable[[Dataset], None] | None = None) -> None:
    """The third image once more under another name, as it is or altered."""
    path = make_series(folder, "CT", SHAPE).paths[2]
    image = pydicom.dcmread(path)
    if change is None:
        (folder / "again.dcm").write_bytes(path.read_bytes())
    else:
        change(image)
        save(image, folder / "again.dcm")


def one_wider_column(image: Dataset) -> None:
    """Columns of the header is one too few: read as it says, each row would slip by one more pixel."""
    image.Columns -= 1


def two_frames(image: Dataset) -> None:
    image.PixelData = image.PixelData * 2


def lookup_table(image: Dataset) -> None:
    table = struct.pack("<4H", 3, 2, 1, 0)
    image.ModalityLUTSequence = item(LUTDescriptor=[4, 0, 16], ModalityLUTType="US", LUTData=table)


def with_private() -> list[Dataset]:
    items = item(PatientID="X", TypeOfPatientID="TEXT")
    items[0].private_block(0x0029, "MADEUP PRIVATE", create=True).add_new(0x10, "LO", "secret")
    return items


def junk_and_index(folder: Path) -> None:
    (folder / "notes.txt").write_text("nothing to see")
    (folder / "zeros").write_bytes(bytes(4000))
    index = Dataset()
    index.SOPInstanceUID, index.SOPClassUID, index.FileSetID = "1.2.3", "1.2.840.10008.1.3.10", "X"
    index.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity, index.DirectoryRecordSequence = 0, Sequence()
    save(index, folder / "DICOMDIR")


def cut_before_pixels(content: bytes) -> bytes:
    return content[: content.index(b"\x28\x00\x10\x00US")]


#: Name of the row to Specific Character Set and a name in it.
CHARACTER_SETS: dict[str, tuple[str | list[str], str]] = {
    "name in Latin 1": ("ISO_IR 100", "M\u00fcller^J\u00f6rg"),
    "name in UTF-8": ("ISO_IR 192", "Wang^XiaoDong=\u738b^\u5c0f\u4e1c"),
    "name in JIS": (
        ["", "ISO 2022 IR 87"],
        "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046",
    ),
}


# The table


def _whole() -> Iterator[OddInput]:
    """What is odd and still read rightly."""
    five = (5,)
    for m in ALL:
        yield OddInput(f"{m} clean", series(m), five)
        yield OddInput(f"{m} gap", series(m, positions_mm=[0, 2.5, 5, 10, 12.5]), five, warning="may be missing")
        yield OddInput(f"{m} uneven", series(m, positions_mm=[0, 2.5, 5, 7.6, 10.4]), five, warning="uneven")
        yield OddInput(f"{m} acquired downwards", series(m, positions_mm=[10, 7.5, 5, 2.5, 0]), five)
        yield OddInput(f"{m} no frame of reference", series(m, FrameOfReferenceUID=None), five)
        yield OddInput(f"{m} no series UID", series(m, SeriesInstanceUID=""), five)
        yield OddInput(f"{m} instance numbers backwards", series(m, InstanceNumber=lambda k: 5 - k), five)
        yield OddInput(f"{m} instance numbers empty", series(m, InstanceNumber=""), five)
        yield OddInput(f"{m} instance numbers all 1", series(m, InstanceNumber=1), five)
        yield OddInput(f"{m} big endian", changed(m, big_endian, ExplicitVRBigEndian), five)
        yield OddInput(f"{m} implicit VR", changed(m, void, ImplicitVRLittleEndian), five)
        yield OddInput(f"{m} run length encoded", changed(m, run_length_encoded, RLELossless), five)
        yield OddInput(f"{m} one image", series(m, (20, 24, 1), NumberOfSlices=1), (1,))
        yield OddInput(f"{m} path in UIDs", series(m, SeriesInstanceUID="../../x", StudyInstanceUID="/tmp/x"), five)
        for what, (character_set, name) in CHARACTER_SETS.items():
            named = series(m, SpecificCharacterSet=character_set, PatientName=name, InstitutionName="")
            yield OddInput(f"{m} {what}", named, five)
        yield OddInput(f"{m} private tags in a sequence", series(m, OtherPatientIDsSequence=with_private()), five)
        extremes = series(m, SmallestImagePixelValue=0, LargestImagePixelValue=1)
        yield OddInput(f"{m} stale extremes", extremes, five)
    tilted = series("CT", orientation=AXIAL, ImagePositionPatient=lambda k: [0, 0.9 * k, 2.5 * k])
    yield OddInput("CT gantry tilt", tilted, five, warning="gantry tilt")
    jitter = series("MR", orientation=AXIAL, ImageOrientationPatient=lambda k: [1, k * 1e-4, 0, 0, 1, 0])
    yield OddInput("MR orientation jitter", jitter, five)
    yield OddInput("CT deflated", changed("CT", void, DeflatedExplicitVRLittleEndian), five)
    yield OddInput("CT padding -3024", changed("CT", padded), five)
    yield OddInput("CT slope of each slice", series("CT", RescaleSlope=lambda k: 1 + k), five)
    yield OddInput("MR negative slope", series("MR", RescaleSlope=-1, RescaleIntercept=1500), five)
    bits = series("MR", BitsStored=lambda k: 12 + k % 2, HighBit=lambda k: 11 + k % 2)
    yield OddInput("MR bits of each slice", bits, five)
    yield OddInput("MR overlay in high bits", changed("MR", overlay_in_high_bits), five, warning="outside Bits Stored")
    inverted = series("MR", PhotometricInterpretation="MONOCHROME1")
    yield OddInput("MR MONOCHROME1", inverted, five, warning="MONOCHROME1")
    yield OddInput("CT same image twice", twice, five, warning="identical copies")
    positive = series("CT", RescaleIntercept=0)
    yield OddInput("CT without negative values", positive, five, warning="below 0")
    yield OddInput("PT last image missing", series("PT", NumberOfSlices=6), five, warning="Number of Slices")


def _several() -> Iterator[OddInput]:
    """Several volumes in one folder or one series."""
    both, told = (5, 5), "distinguished by"
    yield OddInput("CT and MR in a folder", beside(series("CT"), series("MR")), both)
    yield OddInput("MR two echoes", volumes("MR", {"EchoTime": 10}, {"EchoTime": 30}), both, warning=told)
    diffusion = volumes("MR", {"DiffusionBValue": 0.0}, {"DiffusionBValue": 900.0})
    yield OddInput("MR diffusion", diffusion, both, warning=told)
    phases = volumes("MR", {"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2})
    yield OddInput("MR contrast phases", phases, both, warning=told)
    kernels = volumes("CT", {"ConvolutionKernel": "A"}, {"ConvolutionKernel": "B", "AcquisitionNumber": 2})
    yield OddInput("CT two kernels", kernels, both, warning=told)
    later = {"positions_mm": [0.02, 2.52, 5.02, 7.52, 10.02], "TemporalPositionIdentifier": 2}
    jittered = volumes("MR", {"TemporalPositionIdentifier": 1}, later)
    yield OddInput("MR phases with jittering positions", jittered, both, warning=told)
    frames = volumes("PT", {"FrameReferenceTime": 0}, {"FrameReferenceTime": 60000})
    yield OddInput("PT dynamic", frames, both, warning=told)
    smaller = volumes("CT", {}, {"positions_mm": [20, 22.5]}, shapes=(SHAPE, (20, 26, 2)))
    yield OddInput("CT two matrices in a series", smaller, (2, 5), warning="several grids")
    wider = series("CT", PixelSpacing=lambda k: [0.7, 0.9] if k < 4 else [0.8, 0.9])
    yield OddInput("CT last image of another spacing", wider, (1, 4), warning="several grids")


_CT_PT = ("CT", "PT")
#: Headers that have no right reading: modalities, attributes, the reason, and a word of its message.
REFUSED: dict[str, tuple[tuple[str, ...], dict[str, Any], str, str]] = {
    "no pixels": (ALL, {"PixelData": lambda k: None if k == 0 else bytes(960)}, "TRUNCATED_PIXELS", "1 of 5"),
    "no pixels later": (ALL, {"PixelData": lambda k: None if k == 1 else bytes(960)}, "TRUNCATED_PIXELS", "2 of 5"),
    "bits allocated wrong": (ALL, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "UNDECODABLE_PIXELS", "Image"),
    "huge matrix in a small file": (ALL, {"Rows": 65535, "Columns": 65535}, "TOO_LARGE", "limit"),
    "no ImagePositionPatient": (ALL, {"ImagePositionPatient": None}, "NO_GEOMETRY", "0020,0032"),
    "no ImageOrientationPatient": (ALL, {"ImageOrientationPatient": None}, "NO_GEOMETRY", "0020,0037"),
    "no PixelSpacing": (ALL, {"PixelSpacing": None}, "NO_GEOMETRY", "0028,0030"),
    "rows parallel to columns": (ALL, {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "NO_GEOMETRY", "5 of 5"),
    "slope 0": (ALL, {"RescaleSlope": "0", "RescaleIntercept": "0"}, "BAD_RESCALE", "5 of 5"),
    "bits that do not fit": (ALL, {"BitsStored": 17}, "UNSUPPORTED_PIXELS", "High Bit"),
    "no slope": (_CT_PT, {"RescaleSlope": None}, "BAD_RESCALE", "0028,1053"),
    "MONOCHROME1": (_CT_PT, {"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1", "MONOCHROME1"),
    "one position missing": (
        ("CT",), {"ImagePositionPatient": lambda k: None if k == 1 else [0, 0, k]}, "NO_GEOMETRY", "1 of 5 images",
    ),
    "pixels without width": (("CT",), {"PixelSpacing": [0.7, 0]}, "NO_GEOMETRY", "0028,0030"),
    "one intercept missing": (
        ("CT",), {"RescaleIntercept": lambda k: None if k == 4 else -1024}, "BAD_RESCALE", "1 of 5",
    ),
    "not in HU": (("CT",), {"RescaleType": "MGML"}, "BAD_RESCALE", "HU"),
    "no units": (("PT",), {"Units": None}, "BAD_RESCALE", "0054,1001"),
    "mixed units": (("PT",), {"Units": lambda k: "CNTS" if k == 2 else "BQML"}, "BAD_RESCALE", "same"),
}  # fmt: skip


def _refused() -> Iterator[OddInput]:
    """What has no right reading."""
    for m in ALL:
        yield refused(f"{m} duplicate position", series(m, positions_mm=[0, 2.5, 5, 5, 7.5]), "DUPLICATE_POSITION")
        yield refused(f"{m} truncated", damaged(m, lambda c: c[:-100]), "TRUNCATED_PIXELS", 4)
        yield refused(f"{m} cut within the header", damaged(m, cut_before_pixels, baggage=False), "TRUNCATED_PIXELS", 4)
        yield refused(f"{m} no decoder", changed(m, video, MPEG4HP41), "UNDECODABLE_PIXELS")
        yield refused(f"{m} undecodable", changed(m, broken_run_length, RLELossless), "UNDECODABLE_PIXELS", 4)
        yield refused(f"{m} one column too few", changed(m, one_wider_column), "UNDECODABLE_PIXELS", 4)
        yield refused(f"{m} two frames of pixels", changed(m, two_frames), "UNDECODABLE_PIXELS", 4)
        yield refused(f"{m} lookup table for values", changed(m, lookup_table), "BAD_RESCALE")
    for what, (modalities, overrides, reason, _) in REFUSED.items():
        exit_code = 4 if reason in ("TRUNCATED_PIXELS", "UNDECODABLE_PIXELS") else 2
        for m in modalities:
            yield refused(f"{m} {what}", series(m, **overrides), reason, exit_code)
    for value in (b"NaN ", b"inf ", b"abc "):
        yield refused(f"CT slope {value.decode().strip()}", raw_decimal("RescaleSlope", value), "BAD_RESCALE")
    yield refused("CT position NaN", raw_decimal("ImagePositionPatient", b"0\\NaN\\0 "), "NO_GEOMETRY")
    yield refused("CT one UID, two contents", partial(twice, change=two_frames), "DUPLICATE_UID_CONFLICT")


#: What is no image of these modalities: attributes, the reason, and words of its message.
SKIPPED: dict[str, tuple[dict[str, Any], str, str]] = {
    "structured report": ({"SOPClassUID": STORAGE + "88.22", "Modality": "SR", "Rows": None}, *NO_IMAGE),
    "presentation state": ({"SOPClassUID": STORAGE + "11.1", "Modality": "PR", "Rows": None}, *NO_IMAGE),
    "structure set": ({"SOPClassUID": STORAGE + "481.3", "Modality": "RTSTRUCT", "Rows": None}, *NO_IMAGE),
    "document": ({"SOPClassUID": STORAGE + "104.1", "Modality": "DOC", "Rows": None}, *NO_IMAGE),
    "dose": ({"SOPClassUID": STORAGE + "481.2", "Modality": "RTDOSE"}, "UNSUPPORTED_MODALITY", "modalities"),
    "ultrasound": ({"SOPClassUID": STORAGE + "6.1", "Modality": "US"}, "UNSUPPORTED_MODALITY", "modalities"),
    "class and modality disagree": ({"Modality": "MR"}, "UNSUPPORTED_MODALITY", "is CT.*says MR"),
    "segmentation": ({"SOPClassUID": STORAGE + "66.4"}, "UNSUPPORTED_SOP_CLASS", "Storage"),
    "secondary capture": ({"SOPClassUID": STORAGE + "7"}, "UNSUPPORTED_SOP_CLASS", "secondary capture"),
    "enhanced colour": ({"SOPClassUID": STORAGE + "4.3"}, "UNSUPPORTED_SOP_CLASS", "only enhanced CT and MR"),
    "enhanced PET": ({"SOPClassUID": STORAGE + "128.1"}, "UNSUPPORTED_SOP_CLASS", "single-frame"),
    "two frames": ({"NumberOfFrames": 2}, "UNSUPPORTED_SOP_CLASS", "multi-frame"),
    "localizer": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "LOCALIZER", "localizer"),
    "mosaic": ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "UNSUPPORTED_DIMENSIONS", "mosaic"),
    "colour": ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "UNSUPPORTED_PIXELS", "Colour"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "UNSUPPORTED_PIXELS", "palette"),
    "32 bits": ({"BitsAllocated": 32}, "UNSUPPORTED_PIXELS", "Bits Allocated"),
    "own result": ({"ContributingEquipmentSequence": item(Manufacturer="monai_ldmsr")}, "OWN_RESULT", "monai_ldmsr"),
}


def _skipped() -> Iterator[OddInput]:
    """What is no image series of these modalities, beside one that is."""
    for name, (overrides, reason, _) in SKIPPED.items():
        make = beside(series("MR", (20, 24, 2)), series("CT", (20, 24, 2), **overrides))
        yield OddInput(f"{name} beside MR", make, (2,), (reason,))
        yield OddInput(f"{name} alone", series("CT", (20, 24, 2), **overrides), (), (reason,), 2)
    junk = ("NOT_AN_IMAGE",)
    yield OddInput("junk and empty DICOMDIR beside MR", beside(series("MR"), junk_and_index), (5,), junk)
    yield OddInput("junk and empty DICOMDIR alone", junk_and_index, (), junk, 2)
    for name, damage in (
        ("emptied", lambda c: b""),
        ("zeroed", lambda c: bytes(len(c))),
        ("headless", lambda c: c[300:]),
    ):
        for which in (0, 4):
            make = damaged("CT", damage, which)
            yield OddInput(f"image {which} {name}", make, (4,), ("UNREADABLE_FILE",), 8, warning="cannot be read")
    yield refused(
        "all emptied", lambda folder: [p.write_bytes(b"") for p in make_series(folder).paths], "UNREADABLE_FILE", 4
    )


DICOM_ROWS: tuple[OddInput, ...] = (*_whole(), *_several(), *_refused(), *_skipped())
