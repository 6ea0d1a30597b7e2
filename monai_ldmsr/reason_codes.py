"""Why a source was refused or skipped: the codes of reports, summaries and manifests."""

from __future__ import annotations

from enum import Enum

__all__ = ["ReasonCode"]


class ReasonCode(str, Enum):
    """Why a series was refused or skipped; the value is the same word as the name.

    Each carries its ``meaning`` and the ``remedy``; ``docs/reason_codes.md`` is made from them.
    """

    meaning: str
    remedy: str

    def __new__(cls, value: str, meaning: str, remedy: str) -> ReasonCode:
        """Make a member that looks itself up by ``value`` alone."""
        code = str.__new__(cls, value)
        code._value_, code.meaning, code.remedy = value, meaning, remedy
        return code

    NOT_AN_IMAGE = (
        "NOT_AN_IMAGE",
        "The file is not an image: another kind of file, or a DICOM object without pixels (report, plan, DICOMDIR).",
        "Nothing, if it was not meant to be super-resolved.",
    )
    UNSUPPORTED_SOP_CLASS = (
        "UNSUPPORTED_SOP_CLASS",
        "The DICOM image is of a class that is not read, such as a secondary capture.",
        "Export the original CT, MR or PET images.",
    )
    UNSUPPORTED_MODALITY = (
        "UNSUPPORTED_MODALITY",
        "The image is neither CT, MR nor PET, or its class and Modality contradict each other.",
        "Nothing, or repair (0008,0060).",
    )
    UNSUPPORTED_PIXELS = (
        "UNSUPPORTED_PIXELS",
        "Colour, palette, complex or 32-bit pixels, pixel attributes that do not fit together, or values that single "
        "precision cannot work with.",
        "Export grey values of 8 or 16 bits, or scale them.",
    )
    UNSUPPORTED_DIMENSIONS = (
        "UNSUPPORTED_DIMENSIONS",
        "Not one 2D or 3D volume: a mosaic, five dimensions, four in a NRRD or MetaImage file (volumes of NIfTI, "
        "Analyze and MGH files are read one by one), or several series or volumes where one is needed.",
        "Split it into one file or folder a volume.",
    )
    LOCALIZER = (
        "LOCALIZER",
        "A localizer (scout) image, which is for planning.",
        "Nothing.",
    )
    LABEL_MAP = (
        "LABEL_MAP",
        "A label map or segmentation: its values are names of regions, not grey values, and values between two of them "
        "would be regions that nobody drew.",
        "Resample it with nearest neighbour, for instance to the grid of its image's result.",
    )
    NO_GREY_VALUES = (
        "NO_GREY_VALUES",
        "The file says that its values are no grey values of an image: vectors, statistics, matrices, points.",
        "Give the image that they were made from.",
    )
    PHASE_IMAGE = (
        "PHASE_IMAGE",
        "A phase image of MR: its values are angles, which wrap around, and no value between two sides of a wrap is "
        "right.",
        "Give the magnitude image.",
    )
    OWN_RESULT = (
        "OWN_RESULT",
        "A series that this software made.",
        "Use the series that it was made from.",
    )
    OUT_OF_RANGE = (
        "OUT_OF_RANGE",
        "The image lies outside of what the model was trained for: a phantom, a photograph, another kind of image, one "
        "that was cut to a window, interpolated or super-resolved before, or pixels of a size that it has not seen.",
        "Give the images as they were scanned, or use --force, which marks the result; and do not trust it.",
    )
    NO_GEOMETRY = (
        "NO_GEOMETRY",
        "Position, orientation or spacing is missing, impossible, contradictory or in an unknown unit in at least one "
        "image.",
        "Fetch the series again from where it was acquired; repair a volume file's header.",
    )
    TOO_FEW_SLICES = (
        "TOO_FEW_SLICES",
        "New slices were asked for, and the volume has fewer than three, so that little is known between them.",
        "Super-resolve it within slices alone.",
    )
    TARGET_SPACING = (
        "TARGET_SPACING",
        "New slices were asked for that lie no closer than the acquired ones, or more than eight times closer.",
        "Give another slice spacing, or super-resolve within slices alone.",
    )
    SLICE_THICKNESS = (
        "SLICE_THICKNESS",
        "New slices were asked for between slices that are more than three times as thick as they lie apart.",
        "Repair Slice Thickness or give it, or super-resolve within slices alone.",
    )
    IRREGULAR_SPACING = (
        "IRREGULAR_SPACING",
        "New slices were asked for between slices that lie unevenly, or are shifted against each other.",
        "Resample the series evenly, or super-resolve it within slices alone.",
    )
    MISSING_SLICE = (
        "MISSING_SLICE",
        "New slices were asked for in a stack where an image is missing.",
        "Fetch the series again, or super-resolve it within slices alone.",
    )
    GANTRY_TILT = (
        "GANTRY_TILT",
        "New slices were asked for in a stack that is tilted: its slices are not stacked along their normal.",
        "Resample the series without tilt, or super-resolve it within slices alone.",
    )
    SINGULAR_GEOMETRY = (
        "SINGULAR_GEOMETRY",
        "The affine of the file is not finite, or its axes do not span space.",
        "Repair the file's header.",
    )
    DUPLICATE_POSITION = (
        "DUPLICATE_POSITION",
        "Several images stand at one position, and no attribute distinguishes volumes.",
        "Remove the images that do not belong to the volume.",
    )
    DUPLICATE_UID_CONFLICT = (
        "DUPLICATE_UID_CONFLICT",
        "Two files have one SOP Instance UID and different content.",
        "Remove the wrong one.",
    )
    MIXED_MATRIX = (
        "MIXED_MATRIX",
        "Files that were given as one volume differ in matrix, orientation or pixel spacing.",
        "Let the software find the series itself.",
    )
    MONOCHROME1 = (
        "MONOCHROME1",
        "A CT or PET image that shows low values bright, which these do not use.",
        "Export it as MONOCHROME2.",
    )
    BAD_RESCALE = (
        "BAD_RESCALE",
        "Stored values have no certain meaning: slope or intercept missing, zero, no number or beyond single precision,"
        " a lookup table, CT not in HU, PET without or with several units.",
        "Export rescaled values, or repair the header.",
    )
    TRUNCATED_PIXELS = (
        "TRUNCATED_PIXELS",
        "A file ends within its header or pixels.",
        "Fetch the series again.",
    )
    UNDECODABLE_PIXELS = (
        "UNDECODABLE_PIXELS",
        "Pixels cannot be decoded, or are not as many as the header says. The slice is never left out: the "
        "series is refused.",
        "Fetch the series again, or export it uncompressed.",
    )
    MISSING_CODEC = (
        "MISSING_CODEC",
        "The transfer syntax, or the compression of a volume file, needs a decoder that is not installed.",
        "pip install monai_ldmsr[codecs]; for .nii.zst pip install monai_ldmsr[zstd]",
    )
    TOO_LARGE = (
        "TOO_LARGE",
        "The header claims, or the data would inflate to, more than the limit.",
        "Check that the file is what it should be; then split it.",
    )
    NOT_FINITE = (
        "NOT_FINITE",
        "Voxels are NaN or infinite.",
        "Replace them.",
    )
    UNREADABLE_FILE = (
        "UNREADABLE_FILE",
        "The file is damaged: empty, cut short, of another kind than its name says, with a wrong checksum, or "
        "longer than its header says.",
        "Fetch, copy or convert it again.",
    )
    NO_SUCH_SOURCE = (
        "NO_SUCH_SOURCE",
        "The source does not exist.",
        "Check the path.",
    )
    EMPTY_SOURCE = (
        "EMPTY_SOURCE",
        "The source folder holds no file.",
        "Check the path.",
    )
    NOTHING_CHOSEN = (
        "NOTHING_CHOSEN",
        "--series, --include and --exclude choose none of the series and volumes that were found.",
        "See what there is with --dry-run.",
    )
    BAD_SETTINGS = (
        "BAD_SETTINGS",
        "An argument is outside what is possible.",
        "See the message, or ldmsr run --help.",
    )
    BAD_WEIGHTS = (
        "BAD_WEIGHTS",
        "Model weights are missing, altered or of another network.",
        "Install the bundle again.",
    )
    GATE_FAILED = (
        "GATE_FAILED",
        "A training stage did not reach what the next one needs.",
        "Give it more time or data.",
    )
    CANNOT_WRITE = (
        "CANNOT_WRITE",
        "The result cannot be written (no space left, permission denied). Nothing half-written is left.",
        "Check space, permissions, and that the folder holds nothing else.",
    )
    INTERNAL_ERROR = (
        "INTERNAL_ERROR",
        "An error of this software. The other sources went on.",
        "Run again with --log-level debug and report it.",
    )
    # Of the sources of a batch:
    MISSING_FILE = (
        "MISSING_FILE",
        "A DICOMDIR lists images of the series that are not there, cannot be read or lie outside its folder. The "
        "series is refused, since a part of it would look like the whole.",
        "Copy the medium again, or remove the DICOMDIR if the images were left out on purpose.",
    )
    BAD_DICOMDIR = (
        "BAD_DICOMDIR",
        "A DICOMDIR is damaged or has no readable records. The files of its folder are worked on all the same, but "
        "nothing says whether they are complete.",
        "Copy the medium again, or remove the DICOMDIR.",
    )
    UNSAFE_ARCHIVE = (
        "UNSAFE_ARCHIVE",
        "A zip archive holds names that lead out of it, links, devices or one name twice. Nothing of it is unpacked.",
        "Make it again from plain files.",
    )
    ENCRYPTED_ARCHIVE = (
        "ENCRYPTED_ARCHIVE",
        "A zip archive is encrypted, as a whole or in part. Nothing of it is unpacked.",
        "Unpack it with its password, and give the folder.",
    )
    NESTED_ARCHIVE = (
        "NESTED_ARCHIVE",
        "A zip archive within a zip archive is not opened.",
        "Unpack the outer one.",
    )
    DUPLICATE_SERIES = (
        "DUPLICATE_SERIES",
        "The same series stands in another place too, with the same content. It is worked on once.",
        "Nothing.",
    )
    # Of a batch:
    OUT_OF_MEMORY = (
        "OUT_OF_MEMORY",
        "Out of memory: the computer or its GPU has too little for the series.",
        "Run it on a larger machine, or with a smaller factor.",
    )
    MEMORY_LIMIT = (
        "MEMORY_LIMIT",
        "The series needs more memory than --memory allows, even slice by slice with its volumes in files. It was not "
        "begun.",
        "Raise --memory, or use a smaller factor.",
    )
    WORKER_DIED = (
        "WORKER_DIED",
        "The process that worked on the series ended, even with nothing else to do: killed for its memory, or crashed.",
        "Check the system's log and memory; then run again with --retry.",
    )
    CLUSTER_LOST = (
        "CLUSTER_LOST",
        "The scheduler of the workers on other machines can no longer be reached.",
        "Start it again, then the same command: it goes on where it was.",
    )
    # Of a PACS:
    PACS_UNREACHABLE = (
        "PACS_UNREACHABLE",
        "The connection to the PACS was refused, timed out or was lost before the work was done.",
        "Check address, port and network. A delivery is tried again by itself; a fetch goes on when run again.",
    )
    PACS_REJECTED = (
        "PACS_REJECTED",
        "The PACS answers but refuses access: an AE title that it does not know, wrong credentials, a certificate "
        "that one side does not trust, or too many connections.",
        "Register the AE title, address and port there; check credentials and certificates.",
    )
    PACS_NOT_NEGOTIATED = (
        "PACS_NOT_NEGOTIATED",
        "The PACS does not take the SOP class, or not in a transfer syntax that the images can be converted to without "
        "loss.",
        "Allow the SOP class and transfer syntax there.",
    )
    PACS_REFUSED = (
        "PACS_REFUSED",
        "The PACS answered with a failure; its status stands in the message.",
        "Look up the status in the PACS's conformance statement.",
    )
    PACS_OUT_OF_RESOURCES = (
        "PACS_OUT_OF_RESOURCES",
        "The PACS is out of space or too busy (status A7xx; HTTP 429, 503 or 507).",
        "Free space there. A delivery is tried again by itself.",
    )
    PACS_WARNING = (
        "PACS_WARNING",
        "The PACS keeps the images, but with a warning: it changed or left out attributes (status B0xx). That counts "
        "as not delivered, since what it holds is not what was sent.",
        "Let the PACS keep the attributes; then deliver again.",
    )
    PACS_INCOMPLETE = (
        "PACS_INCOMPLETE",
        "A series did not come whole: fewer images than the PACS lists, an association that was aborted, or an image "
        "that was refused. Nothing of it is worked on.",
        "Send or fetch the whole series again.",
    )
    PACS_DISK_FULL = (
        "PACS_DISK_FULL",
        "An image was refused (status A700) because less disk space than the limit would be left.",
        "Free disk space; the sender tries again, or send the series again.",
    )

    # Of a MONAI Label server:
    SERVER_BUSY = (
        "SERVER_BUSY",
        "The server worked on other images for longer than a request waits.",
        "Ask again later.",
    )
