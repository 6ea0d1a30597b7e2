"""Odd DICOM series as rows of the table: volumes of a series, small voxels, localizers, phase, identifiers."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jpeg_by_hand import compress
from odd_inputs import ALL, AXIAL, Make, OddInput, beside, changed, edited, refused, series, volumes
from pydicom import Dataset
from pydicom.uid import JPEGExtended12Bit, generate_uid
from series_by_hand import rewrite

HALF = [1.25, 3.75, 6.25, 8.75, 11.25]
ONE = (20, 24, 1)
TWO = ((20, 24, 5), (20, 24, 2))
CORONAL = [1, 0, 0, 0, 0, -1]


def _acquisitions() -> Iterator[OddInput]:
    """Acquisitions that share a series, and slices of one volume that only look so."""
    for key in ("AcquisitionNumber", "TemporalPositionIdentifier", "AcquisitionTime"):
        first, second = ({key: "1010"}, {key: "1020"}) if key == "AcquisitionTime" else ({key: 1}, {key: 2})
        for m in ("CT", "MR"):
            made = volumes(m, first, {**second, "positions_mm": HALF})
            yield OddInput(f"{m} half a spacing apart by {key}", made, (5, 5), warning="distinguished by")
        later = {**second, "positions_mm": [5, 7.5, 10, 12.5, 15]}
        yield OddInput(f"CT partly overlapping by {key}", volumes("CT", first, later), (5, 5), warning="overlap")
    third = volumes(
        "CT", {"AcquisitionNumber": 1}, {"AcquisitionNumber": 2, "positions_mm": [0.8, 3.3, 5.8, 8.3, 10.8]}
    )
    yield OddInput("CT a third of a spacing apart", third, (5, 5), warning="overlap")
    three = [{"AcquisitionNumber": n, "positions_mm": [n * 5 + 2.5 * k for k in range(5)]} for n in range(3)]
    yield OddInput("CT three overlapping slabs", volumes("CT", *three), (5, 5, 5), warning="overlap")
    short = volumes("CT", {"AcquisitionNumber": 1}, {"AcquisitionNumber": 2, "positions_mm": [10, 12.5]}, shapes=TWO)
    yield OddInput("CT second acquisition of two slices", short, (2, 5), warning="overlap")
    nine = (20, 24, 9)
    yield OddInput("CT acquisition of each slice", series("CT", AcquisitionNumber=lambda k: k + 1), (5,))
    yield OddInput("CT step and shoot", series("CT", nine, AcquisitionNumber=lambda k: 1 + k // 3), (9,))
    odd_even = series("MR", nine, AcquisitionNumber=lambda k: 1 + k % 2, AcquisitionTime=lambda k: f"1010{k % 2}0")
    yield OddInput("MR odd slices after even ones", odd_even, (9,), warning="make one volume")
    unsaid = {"SliceThickness": None, "SpacingBetweenSlices": None}
    odd_even = series("CT", nine, AcquisitionNumber=lambda k: 1 + k % 2, **unsaid)
    yield OddInput("CT interleaved of unknown thickness", odd_even, (9,), warning="nothing says how thick")
    filled = series("CT", nine, AcquisitionNumber=lambda k: 1 + (k in (3, 4, 5)))
    yield OddInput("CT second acquisition in a hole of the first", filled, (9,))


def _small() -> Iterator[OddInput]:
    for m in ALL:
        for spacing_mm in ((0.02, 0.03, 0.02), (0.0005, 0.0004, 0.003)):
            yield OddInput(f"{m} voxels of {spacing_mm[0]} mm", series(m, spacing_mm=spacing_mm), (5,))
    frames = [{"spacing_mm": (0.02, 0.03, 0.02), "FrameReferenceTime": n * 60000} for n in range(2)]
    yield OddInput("PT dynamic with voxels of 0.02 mm", volumes("PT", *frames), (5, 5), warning="distinguished by")
    near = [0.025, 0.47, 1.028, 1.474, 2.031]
    each = [{"spacing_mm": (0.1, 0.12, 0.5), "TemporalPositionIdentifier": 1}]
    each += [{**each[0], "TemporalPositionIdentifier": 2, "positions_mm": near}]
    yield OddInput("MR small repeats that jitter", volumes("MR", *each), (5, 5), warning="near each other")
    wider = series("CT", spacing_mm=(0.02, 0.03, 0.02), PixelSpacing=lambda k: [0.02, 0.03 if k < 4 else 0.0303])
    yield OddInput("CT last small image of another spacing", wider, (1, 4), warning="several grids")


def _ordered() -> Iterator[OddInput]:
    """Several images a position that only their order tells apart."""
    slow, fast = {"InstanceNumber": lambda k: 3 * k + 1}, {"InstanceNumber": lambda k: 3 * k + 3}
    by_number = volumes("MR", slow, fast, {"InstanceNumber": lambda k: 3 * k + 2})
    yield OddInput("MR volumes by Instance Number", by_number, (5, 5, 5), warning="order of Instance Number")
    each = [{"AcquisitionTime": lambda k, n=n: f"10{n}{k:02d}0", "InstanceNumber": 7} for n in (1, 2)]
    yield OddInput("MR volumes by Acquisition Time", volumes("MR", *each), (5, 5), warning="order of Acquisition Time")
    each = [{"ContentTime": lambda k, n=n: f"10{n}{k:02d}0.5", "InstanceNumber": None} for n in (1, 2)]
    yield OddInput("MR volumes by Content Time", volumes("MR", *each), (5, 5), warning="order of Content Time")
    mixed = volumes(
        "MR",
        {"AcquisitionTime": lambda k: f"10100{k}"},
        {"AcquisitionTime": lambda k: f"1020{k}0" if k else "100000", "InstanceNumber": lambda k: k + 6},
    )
    yield OddInput("MR orders that contradict each other", mixed, (5, 5), warning="some may be mixed")
    each = [
        {
            "AcquisitionTime": lambda k, t=t: f"1010{int(0.9 * t + 0.18 * k):02d}",
            "InstanceNumber": lambda k, t=t: 5 * t + k,
        }
        for t in range(6)
    ]
    yield OddInput("MR times of whole seconds", volumes("MR", *each), (5,) * 6, warning="order of Instance Number")
    less = volumes("MR", {}, {"InstanceNumber": lambda k: k + 6}, shapes=((20, 24, 5), (20, 24, 3)))
    yield refused("MR volumes of which one is not complete", less, "DUPLICATE_POSITION")
    yield refused("MR volumes without any order", volumes("MR", {}, {}), "DUPLICATE_POSITION")


def _owners() -> Iterator[OddInput]:
    """Identifiers that careless de-identification makes for each image."""
    for key in ("FrameOfReferenceUID", "StudyInstanceUID", "PatientID"):
        each = series("CT", **{key: lambda k: generate_uid(entropy_srcs=[f"{k}"])})
        if key == "PatientID":
            yield refused("CT Patient ID of each image", each, "NO_GEOMETRY")
        else:
            yield OddInput(f"CT {key} of each image", each, (5,), warning="de-identification")
        some = series("CT", **{key: lambda k: f"1.2.{max(k, 2)}"})
        echoes = volumes("MR", *({"EchoTime": t, key: lambda k: f"1.2.{k + 1}"} for t in (10, 20)))
        if key == "PatientID":
            yield refused("MR Patient ID of each place", echoes, "NO_GEOMETRY")
        else:
            yield OddInput(f"MR {key} of each place of two echoes", echoes, (5, 5), warning="de-identification")
        beside_good = beside(some, series("MR"))
        yield OddInput(f"CT {key} of some images beside MR", beside_good, (5,), ("NO_GEOMETRY",), 8)
        yield refused(f"CT {key} of some images", some, "NO_GEOMETRY")
        two = series("CT", (20, 24, 6), **{key: lambda k: f"1.2.{1 + k // 3}"})
        yield OddInput(f"CT two of {key}", two, (3, 3), warning="several grids")

    missing = series("CT", FrameOfReferenceUID=lambda k: "1.2.3" if k != 1 else None)
    yield OddInput("CT frame of reference missing in one image", missing, (5,), warning="is missing in 1 of 5")


def _odd_ones() -> Iterator[OddInput]:
    """One image of a series that is left out."""
    odd = {
        "of another Modality": ({"Modality": lambda k, at: "CT" if k == at else "MR"}, "UNSUPPORTED_MODALITY"),
        "of phase by Image Type": (
            {"ImageType": lambda k, at: ["ORIGINAL", "PRIMARY", "P" if k == at else "M"]},
            "PHASE_IMAGE",
        ),
        "of phase": ({"ComplexImageComponent": lambda k, at: "PHASE" if k == at else "MAGNITUDE"}, "PHASE_IMAGE"),
    }
    for name, (change, reason) in odd.items():
        for at in (0, 2, 4):
            made = series("MR", **{key: lambda k, v=value, at=at: v(k, at) for key, value in change.items()})
            yield OddInput(f"MR image {at} {name}", made, (4,), (reason,), warning="stand between or next to")


def _headers() -> Iterator[OddInput]:
    for kind in ("hu", "Hounsfield", " HU ", "Hounsfield Units", "H.U."):
        yield OddInput(f"CT Rescale Type {kind}", series("CT", RescaleType=kind), (5,))
    for m in ("CT", "MR"):
        yield OddInput(f"{m} JPEG of 12 bits", changed(m, compress, JPEGExtended12Bit), (5,))
    yield OddInput("CT Modality in small letters", series("CT", Modality="ct"), (5,))
    yield refused("CT class and MR modality", series("CT", Modality="MR"), "UNSUPPORTED_MODALITY")


def _localizers() -> Iterator[OddInput]:
    left_out = ("LOCALIZER",)
    for m in ("CT", "MR"):
        for word in ("SCOUT", "TOPOGRAM", "SURVEY", "CT_SOM5 TOP SCOUT"):
            typed = series(m, (20, 24, 2), ImageType=["ORIGINAL", "PRIMARY", word])
            yield OddInput(f"{m} Image Type {word}", beside(series(m), typed), (5,), left_out)
        for text in ("Topogram 0.6 T20s", "3-Plane Localizer", "AAHead_Scout_MPR", "Survey", "Surview", "3 pl loc"):
            named = series(m, ONE, SeriesDescription=text)
            yield OddInput(f"{m} described as {text}", beside(series(m), named), (5,), left_out)
        twelve = series(m, (20, 24, 12), SeriesDescription="AAHead_Scout_64ch")
        yield OddInput(f"{m} whole volume described as scout", twelve, (12,), warning="may be a localizer")
        across = volumes(m, {}, {"orientation": CORONAL}, shapes=((20, 24, 5), ONE))
        if m == "CT":
            yield OddInput("CT one image across a volume", across, (5,), left_out)
        else:
            yield OddInput("MR one image across a volume", across, (1, 5), warning="several grids")
        eight = (20, 24, 8)
        for text in ("MYELOMA SKELETAL SURVEY", "RT PLAN SCAN pelvis"):
            yield OddInput(f"{m} described as {text}", series(m, eight, SeriesDescription=text), (8,))
        protocol = series(m, eight, SeriesDescription="t2_tse_tra", ProtocolName="HEAD SURVEY")
        yield OddInput(f"{m} of the protocol HEAD SURVEY", protocol, (8,))
        bone = {"SeriesDescription": "BONE SURVEY low dose"}
        planes = volumes(m, bone, {**bone, "orientation": CORONAL}, shapes=((20, 24, 12), (20, 24, 6)))
        yield OddInput(f"{m} bone survey in two planes", planes, (6, 12), warning="several grids")
    post = volumes("MR", {"SeriesDescription": "T1 post"}, {"orientation": CORONAL}, shapes=((20, 24, 12), (20, 24, 3)))
    yield OddInput("MR three coronal images beside axial ones", post, (3, 12), warning="several grids")
    both = [{"orientation": plane, "SeriesDescription": "Survey"} for plane in (CORONAL, AXIAL)]
    planes = volumes("MR", *both, shapes=((20, 24, 12),) * 2)
    yield OddInput("MR survey in two planes", planes, (), left_out, 2)
    three = [{"orientation": plane} for plane in (CORONAL, AXIAL, [0, 1, 0, 0, 0, -1])]
    planes = volumes("MR", *three, shapes=((20, 24, 3),) * 3)
    yield OddInput("MR three planes of three images", planes, (3, 3, 3), warning="may be a localizer")
    larger = volumes("CT", {"SeriesDescription": "x"}, {"positions_mm": [30]}, shapes=((20, 24, 5), (40, 24, 1)))
    yield OddInput("CT one image of another size", larger, (1, 5), warning="several grids")
    protocol = series("CT", ProtocolName="PET/CT with topogram")
    yield OddInput("CT of a protocol with a topogram", protocol, (5,))
    for text in ("PET WB after topogram", "Survey"):
        yield OddInput(f"PT described as {text}", series("PT", SeriesDescription=text), (5,))


def _ge(kind: int) -> Any:
    def change(image: Dataset) -> None:
        image.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", kind)

    return change


def _complex() -> Iterator[OddInput]:
    """Parts of complex MR images."""
    type_of = {
        "Siemens": ["ORIGINAL", "PRIMARY", "P", "ND"],
        "Philips": ["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"],
        "Philips flow": ["ORIGINAL", "PRIMARY", "VELOCITY MAP", "P", "PCA"],
        "named": ["DERIVED", "PRIMARY", "PHASE"],
    }
    phases: dict[str, dict[str, Any]] = {name: {"ImageType": value} for name, value in type_of.items()}
    phases["by component"] = {"ComplexImageComponent": "PHASE"}
    phases["in radians"] = {"RescaleSlope": 0.001, "RescaleIntercept": -3.1, "RescaleType": "Radians"}
    phases["in degrees"] = {"RescaleSlope": 0.1, "RescaleIntercept": -180, "RescaleType": "degrees"}
    phases["in milliradians"] = {"RescaleSlope": 1, "RescaleIntercept": -3142, "RescaleType": "mrad"}
    for name, overrides in phases.items():
        made = volumes("MR", {"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, overrides)
        yield OddInput(f"MR phase {name} beside magnitude", made, (5,), ("PHASE_IMAGE",))
        yield refused(f"MR phase {name}", series("MR", **overrides), "PHASE_IMAGE")
    yield OddInput("MR phase of GE beside magnitude", _ge_parts(0, 1), (5,), ("PHASE_IMAGE",))
    yield OddInput("MR real and imaginary of GE", _ge_parts(2, 3), (5, 5), warning="complex MR image")
    for kind in ("R", "REAL", "IMAGINARY"):
        part = series("MR", ImageType=["ORIGINAL", "PRIMARY", kind])
        yield OddInput(f"MR {kind}", part, (5,), warning="complex MR image")
    for kind in ("PROJECTION IMAGE", "IN_PHASE", "PHASE_CONTRAST", "M"):
        yield OddInput(f"MR {kind} is no phase", series("MR", ImageType=["ORIGINAL", "PRIMARY", kind]), (5,))
    yield OddInput("CT P is no phase", series("CT", ImageType=["ORIGINAL", "PRIMARY", "AXIAL", "P"]), (5,))


def _ge_parts(*kinds: int) -> Make:
    """Volumes that only the private raw data type of GE tells apart."""

    def make(folder: Path) -> None:
        volumes("MR", *({"SeriesDescription": str(kind)} for kind in kinds))(folder)
        rewrite(folder, lambda image: (_ge(int(image.SeriesDescription))(image), edited(image, SeriesDescription="x")))

    return make


def zipped(make: Make, damage: Callable[[bytes], bytes] = lambda content: content) -> Make:
    """Each file in gzip, the first of them damaged."""

    def made(folder: Path) -> None:
        make(folder)
        for n, path in enumerate(sorted(folder.rglob("*.dcm"))):
            content = gzip.compress(path.read_bytes())
            path.with_name(f"{path.name}.gz").write_bytes(content if n else damage(content))
            path.unlink()

    return made


def _members(folder: Path) -> None:
    """Each file in gzip of several members, with zeros behind."""
    series("CT")(folder)
    for n, path in enumerate(sorted(folder.rglob("*.dcm"))):
        content, cut = path.read_bytes(), (900, 20, 1, 132, 1500)[n]
        parts = (content[:cut], b"", content[cut:])
        path.with_name(f"{path.name}.gz").write_bytes(b"".join(map(gzip.compress, parts)) + bytes(n))
        path.unlink()


def _something_else(folder: Path) -> None:
    with tarfile.open(folder / "all.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    (folder / "zeros.gz").write_bytes(b"\x1f\x8b" + bytes(400))


def _gzip() -> Iterator[OddInput]:
    for m in ALL:
        yield OddInput(f"{m} in gzip", zipped(series(m)), (5,))
    yield OddInput("CT in gzip of several members", _members, (5,))
    half = zipped(series("CT"), lambda c: gzip.compress(gzip.decompress(c)[:900]) + c[:200])
    yield OddInput("CT in gzip with a cut second member", half, (4,), ("UNREADABLE_FILE",), 8, warning="cannot be read")
    both = beside(zipped(series("CT")), zipped(series("MR")))
    yield OddInput("CT and MR in gzip in folders", both, (5, 5))
    other = beside(zipped(series("CT")), _something_else)
    yield OddInput("gzip of something else beside CT", other, (5,), ("NOT_AN_IMAGE",))
    for name, damage in (("cut short", lambda c: c[:-300]), ("altered", lambda c: c[:-8] + bytes(4) + c[-4:])):
        made = zipped(series("CT"), damage)
        yield OddInput(f"CT in gzip {name}", made, (4,), ("UNREADABLE_FILE",), 8, warning="cannot be read")
    bomb = zipped(series("CT", (20, 24, 1), PixelData=bytes(2**28), baggage=False))
    yield OddInput("CT in gzip that inflates to 256 MB", bomb, (), ("TOO_LARGE",), 2)


SERIES_ROWS: tuple[OddInput, ...] = (
    *(*_acquisitions(), *_small(), *_ordered(), *_owners(), *_odd_ones()),
    *(*_headers(), *_localizers(), *_complex(), *_gzip()),
)
