"""Volume files of more kinds as rows of the table of odd input."""

from __future__ import annotations

import gzip
import struct

import nibabel as nib
from odd_inputs import OddInput, refused
from odd_volume_makers import (
    ELSEWHERE,
    beside,
    bomb,
    both,
    capitals,
    cut,
    detached,
    longer,
    mgh,
    pair,
    regions,
    squeeze,
    with_lines,
    without,
    zstandard,
)
from odd_volumes import (
    IN_4D,
    done,
    field,
    four_volumes,
    image_file,
    nifti,
    renamed,
    values,
)

HAS_ZSTD = bool(nib.openers.HAVE_ZSTD) if hasattr(nib.openers, "HAVE_ZSTD") else nib._compression.HAVE_ZSTD
_INTENT, _UNITS, _QUATERNION = (68, "<h"), (123, "<B"), (256, "<3f")


def _labels() -> list[OddInput]:
    rows = [refused(f"nifti intent {n}", nifti(patch=field(_INTENT, n)), "LABEL_MAP") for n in (1002, 1003)]
    rows += [
        refused(f"nifti intent {n}", nifti("v.nii.gz", patch=field(_INTENT, n)), "NO_GREY_VALUES")
        for n in (2, 5, 24, 1004, 1005, 1006, 1007, 1008, 1009, 1010, 2002, 2003, 2004, 2005, 2006)
    ]
    rows += [done(f"nifti intent {n}", nifti(patch=field(_INTENT, n))) for n in (1001, 1011, 2001, 77)]
    segment = b"Segment0_ID:=Segment_1"
    table = struct.pack(">2i", 1, 3) + b"\0" * 40
    named = "is one of label maps, but its values are not"
    return [
        *rows,
        refused(
            "nifti 5D vectors", nifti(voxels=four_volumes()[..., None, :], patch=field(_INTENT, 1007)), "NO_GREY_VALUES"
        ),
        refused("nrrd named .seg.nrrd", image_file("v.seg.nrrd"), "LABEL_MAP"),
        refused("nrrd with segments", with_lines("v.nrrd", segment), "LABEL_MAP"),
        refused("mha with segments", with_lines("v.mha", b"Segment0_ID = Segment_1"), "LABEL_MAP"),
        refused("mgz of labels", mgh(patch=lambda c: struct.pack_into(">i", c, 0, 257)), "LABEL_MAP"),
        refused("mgz of a warp", mgh(patch=lambda c: struct.pack_into(">i", c, 0, 769)), "NO_GREY_VALUES"),
        refused("mgz with a table of colours", mgh(footer=table), "LABEL_MAP"),
        refused(
            "mgz with a table of colours behind a command",
            mgh(footer=struct.pack(">iq", 3, 5) + b"mri_x" + table),
            "LABEL_MAP",
        ),
        refused("nifti labels named so", nifti("sub-01_dseg.nii.gz", regions()), "LABEL_MAP"),
        refused("mgz labels named so", mgh("aseg.mgz", regions(20)), "LABEL_MAP"),
        refused("nrrd labels named so", image_file("Label.nrrd", regions()), "LABEL_MAP"),
        refused(
            "nrrd labels said so", with_lines("v.nrrd", b"content: segmentation of it", voxels=regions()), "LABEL_MAP"
        ),
        done("nifti image named as labels", nifti("v_seg.nii.gz"), named),
        done("nifti labels by values", nifti("v.nii.gz", regions()), "whole numbers that fill regions"),
        done("mgz mask by values", mgh(voxels=regions(2, "u1")), "whole numbers that fill regions"),
        refused("nifti label map by its sidecar", both(nifti(), beside("v.json", {"Modality": "SEG"})), "LABEL_MAP"),
        refused(
            "nifti phase image",
            both(nifti(), beside("v.json", {"Modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]})),
            "PHASE_IMAGE",
        ),
        done("nifti named as phase image", nifti("t2_ph.nii.gz"), "phase images"),
    ]


def _places() -> list[OddInput]:
    return [
        done("nifti scanner qform and MNI sform", nifti(qform=ELSEWHERE, codes=(4, 1)), "sform and qform disagree"),
        done("nifti unit of no standard", nifti(patch=field(_UNITS, 5)), "none of NIfTI's"),
        done("nifti qform no rotation beside sform", nifti(patch=field(_QUATERNION, 3.0, 4.0, 5.0)), "no rotation"),
        refused("nifti qform no rotation", nifti(codes=(0, 1), patch=field(_QUATERNION, 3.0, 4.0, 5.0)), "NO_GEOMETRY"),
        done("mgz without place", mgh(patch=lambda c: struct.pack_into(">h", c, 28, 0)), "gives no place"),
    ]


def _modalities() -> list[OddInput]:
    ignored = "so nothing of it was used"
    bad = {
        "no JSON": b"{Modality: CT}",
        "binary": bytes(range(256)),
        "a list": ["CT"],
        "a number": 5,
        "nested": b"[" * 10**5,
        "huge": b'{"Modality": "CT", "x": "' + b"x" * 2**21 + b'"}',
        "numbers without end": b'{"Modality": ' + b"9" * 5000 + b"}",
        "empty": b"",
    }
    return [
        *(done(f"sidecar {name}", both(nifti(), beside("v.json", text)), ignored) for name, text in bad.items()),
        done("sidecar without modality", both(nifti("v.nii.gz"), beside("v.json", {"EchoTime": 0.1}))),
        done("sidecar of ultrasound", both(nifti(), beside("v.json", {"Modality": "US"})), "given as US"),
    ]


def _text_headers() -> list[OddInput]:
    names = (b"type", b"space", b"encoding", b"sizes", b"data file")
    remarks = [name + b":=x" for name in names]
    long = b"x" * 300
    return [
        done("mha long remark", with_lines("v.mha", b"Foo = " + long)),
        done("mha very long remark", with_lines("v.mha", b"Foo = " + b"x" * 10**5)),
        done("mha long comment", with_lines("v.mha", b"Comment = " + long)),
        done("mha long name", with_lines("v.mha", b"Name = " + long, b"Color = 1 0 0 1" + b" 1" * 300)),
        done("mha long name of a remark", with_lines("v.mha", long * 5 + b" = x")),
        done("mha remarks twice", with_lines("v.mha", b"Foo = a", b"Foo = b", b"Comment = c", b"Comment = d")),
        done("mha remarks as of nrrd", with_lines("v.mha", *remarks)),
        done("mhd long remark", both(detached("v.mhd", "v.raw"), longer("v.mhd"))),
        done("nrrd remarks named as fields", with_lines("v.nrrd", *remarks, *remarks)),
        done("nrrd remark with equals signs", with_lines("v.nrrd", b"a=b:=c=d", b"type=short:=x")),
        done("nrrd long texts", with_lines("v.nrrd", b"x:=" + b"y" * 10**6, b"# " + long, b"content: " + long)),
        refused("mha field twice", with_lines("v.mha", b"DimSize = 2 2 2"), "UNREADABLE_FILE", 4),
        refused("nrrd field twice", with_lines("v.nrrd", b"type: short"), "UNREADABLE_FILE", 4),
        refused("nrrd unknown field", with_lines("v.nrrd", b"foo: short"), "UNREADABLE_FILE", 4),
        refused("mha plainly text", beside("v.mha", b"text " * 99), "UNREADABLE_FILE", 4),
    ]


def _formats() -> list[OddInput]:
    zst = renamed("v.nii.zst", zstandard)
    huge = lambda c: struct.pack_into(">4i", c, 4, 32767, 32767, 32767, 1)  # noqa: E731 (a patch)
    rows = [
        done("nifti pair", pair()),
        done("nifti pair gzipped", pair("v.hdr.gz")),
        done("nifti-2 pair", pair(image_class=nib.Nifti2Pair)),
        done("nifti pair in capitals", both(pair(), capitals)),
        OddInput("nifti pair 4D", pair(voxels=four_volumes()), (5,) * 4, warning=IN_4D),
        done("analyze", pair(image_class=nib.AnalyzeImage), "Analyze files do not say where"),
        refused("hdr alone", without(pair(), "v.img"), "NOT_AN_IMAGE"),
        refused("img alone", without(pair(), "v.hdr"), "NOT_AN_IMAGE"),
        refused(
            "hdr of another kind",
            both(beside("v.hdr", b"ENVI\nsamples = 3\n"), beside("v.img", b"1" * 99)),
            "NOT_AN_IMAGE",
        ),
        refused("hdr empty", both(pair(), beside("v.hdr", b"")), "UNREADABLE_FILE", 4),
        refused("img truncated", both(pair(), lambda f: cut(f / "v.img")), "UNREADABLE_FILE", 4),
        done("mgz", mgh()),
        done("mgh", mgh("v.mgh")),
        done("mgh float", mgh("v.mgh", values("<f4"))),
        OddInput("mgz 4D", mgh(voxels=four_volumes()), (5,) * 4, warning=IN_4D),
        refused("mgh truncated", mgh("v.mgh", patch=lambda c: c[:-100]), "UNREADABLE_FILE", 4),
        refused("mgz one row too few", mgh(patch=lambda c: struct.pack_into(">i", c, 8, 19)), "UNREADABLE_FILE", 4),
        refused("mgz 32767 cubed", mgh(patch=huge), "TOO_LARGE"),
        refused("mgz of zeros that claims much", mgh("v.mgz", patch=lambda c: bomb(c)), "TOO_LARGE"),
        refused("mgz text", renamed("v.mgz", lambda c: gzip.compress(b"text " * 99)), "UNREADABLE_FILE", 4),
        done("nhdr", detached("v.nhdr", "v.raw")),
        done("mhd", detached("v.mhd", "v.raw")),
        done("mhd voxels with a space in their name", detached("v.mhd", "a scan.raw")),
        done("nhdr voxels with a space in their name", detached("v.nhdr", "a scan.raw")),
        refused("nhdr voxels elsewhere", detached("v.nhdr", "/etc/passwd"), "UNREADABLE_FILE"),
        refused("nii.zst plain", renamed("v.nii.zst", bytes), "UNREADABLE_FILE", 4),
        refused("mgz plain", both(mgh("v.mgh"), lambda f: (f / "v.mgh").rename(f / "v.mgz")), "UNREADABLE_FILE", 4),
        refused("nrrd gzipped", both(image_file("v.nrrd"), lambda f: squeeze(f / "v.nrrd")), "UNREADABLE_FILE", 4),
    ]
    if not HAS_ZSTD:
        return [*rows, refused("nii.zst without its decoder", zst, "MISSING_CODEC")]
    return [
        *rows,
        done("nii.zst", zst),
        refused("nii.zst truncated", renamed("v.nii.zst", lambda c: zstandard(c)[:-50]), "UNREADABLE_FILE", 4),
        refused(
            "nii.zst truncated, then compressed",
            renamed("v.nii.zst", lambda c: zstandard(c[:-50])),
            "UNREADABLE_FILE",
            4,
        ),
    ]


VOLUME_KIND_ROWS = (*_labels(), *_places(), *_modalities(), *_text_headers(), *_formats())
