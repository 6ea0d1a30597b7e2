"""Clean made enhanced CT and MR objects with known truth: frames of several volumes, in scrambled order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from dicom_fixtures import SPACING_MM, _code, _common, _ds, _set, new_uids, oblique_orientation, phantom, save
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import (
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    generate_uid,
)

#: Where functional groups are changed by a test: called with shared groups, each frame's groups, and the object.
Change = Callable[[Dataset, list[Dataset], Dataset], None]


@dataclass(frozen=True)
class MadeObject:
    """What :func:`make_enhanced` wrote."""

    path: Path
    volumes: list[npt.NDArray[np.float64]]  # each (columns, rows, slices), rescaled
    frames: list[list[int]]  # of each volume, the frame numbers in slice order
    origin_lps_mm: npt.NDArray[np.float64]
    direction_lps: npt.NDArray[np.float64]
    spacing_mm: tuple[float, float, float]


def item(**values: Any) -> list[Dataset]:
    """A sequence of one item."""
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return [dataset]


def _mr_top(ds: Dataset) -> None:
    ds.PulseSequenceName, ds.MRAcquisitionType, ds.EchoPulseSequence = "se2d1", "2D", "SPIN"
    ds.MultipleSpinEcho, ds.MultiPlanarExcitation, ds.PhaseContrast = "NO", "YES", "NO"
    ds.TimeOfFlightContrast, ds.SteadyStatePulseSequence = "NO", "NONE"
    ds.EchoPlanarPulseSequence, ds.SaturationRecovery, ds.SpectrallySelectedSuppression = "NO", "NO", "FAT"
    ds.OversamplingPhase, ds.GeometryOfKSpaceTraversal = "NONE", "RECTILINEAR"
    ds.RectilinearPhaseEncodeReordering, ds.SegmentedKSpaceTraversal = "LINEAR", "PARTIAL"
    ds.NumberOfKSpaceTrajectories = 1
    ds.ResonantNucleus, ds.MagneticFieldStrength, ds.KSpaceFiltering = "1H", 1.5, "NONE"
    ds.ApplicableSafetyStandardAgency = "IEC"
    ds.ComplexImageComponent, ds.AcquisitionContrast = "MAGNITUDE", "T2"


def _mr_shared(groups: Dataset) -> None:
    timing = item(RepetitionTime=2000, FlipAngle=90, EchoTrainLength=8, RFEchoTrainLength=8, GradientEchoTrainLength=0)
    timing[0].OperatingModeSequence = [
        *item(OperatingModeType="GRADIENT", OperatingMode="IEC_NORMAL"),
        *item(OperatingModeType="RF", OperatingMode="IEC_NORMAL"),
    ]
    timing[0].SpecificAbsorptionRateSequence = item(
        SpecificAbsorptionRateDefinition="IEC_HEAD", SpecificAbsorptionRateValue=0.25
    )
    timing[0].GradientOutputType, timing[0].GradientOutput = "DB_DT", 10.0
    groups.MRTimingAndRelatedParametersSequence = timing
    groups.MRFOVGeometrySequence = item(
        InPlanePhaseEncodingDirection="COLUMN",
        MRAcquisitionFrequencyEncodingSteps=24,
        MRAcquisitionPhaseEncodingStepsInPlane=20,
        PercentSampling=100,
        PercentPhaseFieldOfView=100,
    )
    groups.MRModifierSequence = item(
        InversionRecovery="YES",
        InversionTimes=150.0,
        FlowCompensation="NONE",
        Spoiling="NONE",
        T2Preparation="NO",
        SpectrallySelectedExcitation="NONE",
        SpatialPresaturation="NONE",
        PartialFourier="NO",
        ParallelAcquisition="NO",
    )
    groups.MRImagingModifierSequence = item(
        MagnetizationTransfer="NONE",
        BloodSignalNulling="NO",
        Tagging="NONE",
        TransmitterFrequency=63.87,
        PixelBandwidth=150,
    )
    groups.MRReceiveCoilSequence = item(
        ReceiveCoilName="HEAD", ReceiveCoilManufacturerName="", ReceiveCoilType="VOLUME", QuadratureReceiveCoil="YES"
    )
    groups.MRTransmitCoilSequence = item(
        TransmitCoilName="BODY", TransmitCoilManufacturerName="", TransmitCoilType="BODY"
    )
    groups.MRAveragesSequence = item(NumberOfAverages=2)


def _ct_shared(groups: Dataset) -> None:
    groups.CTAcquisitionTypeSequence = item(AcquisitionType="SPIRAL", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")
    groups.CTAcquisitionDetailsSequence = item(
        RotationDirection="CW",
        RevolutionTime=0.5,
        SingleCollimationWidth=0.6,
        TotalCollimationWidth=38.4,
        TableHeight=150,
        GantryDetectorTilt=0,
        DataCollectionDiameter=500,
    )
    groups.CTTableDynamicsSequence = item(TableSpeed=46.0, TableFeedPerRotation=23.0, SpiralPitchFactor=0.6)
    groups.CTGeometrySequence = item(DistanceSourceToDetector=1085.6, DistanceSourceToDataCollectionCenter=595.0)
    groups.CTReconstructionSequence = item(
        ReconstructionAlgorithm="FILTER_BACK_PROJ",
        ConvolutionKernel="B30",
        ConvolutionKernelGroup="SOFT_TISSUE",
        ReconstructionDiameter=250,
        ReconstructionAngle=360.0,
        ReconstructionPixelSpacing=[SPACING_MM[0], SPACING_MM[1]],
        ImageFilter="STANDARD",
    )
    groups.CTExposureSequence = item(
        ExposureTimeInms=500.0,
        XRayTubeCurrentInmA=200.25,
        ExposureInmAs=100.0,
        ExposureModulationType="NONE",
        CTDIvol=8.5,
        CTDIPhantomTypeCodeSequence=[_code("113691", "DCM", "IEC Body Dosimetry Phantom")],
    )
    groups.CTXRayDetailsSequence = item(KVP=120, FocalSpots=1.2, FilterType="FLAT", FilterMaterial="ALUMINUM")
    groups.CTPositionSequence = item(
        TablePosition=10.0,
        DataCollectionCenterPatient=[0.0, 0.0, 0.0],
        ReconstructionTargetCenterPatient=[0.0, 0.0, 0.0],
    )


def _top(modality: str, uids: dict[str, str], shape: tuple[int, int], n_frames: int) -> Dataset:
    ds = _common(modality, uids)
    for keyword in ("AcquisitionDate", "AcquisitionTime", "BodyPartExamined"):
        delattr(ds, keyword)
    ds.SOPClassUID = EnhancedMRImageStorage if modality == "MR" else EnhancedCTImageStorage
    ds.SOPInstanceUID, ds.InstanceNumber = generate_uid(), 1
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME" if modality == "CT" else "T2", "NONE"]
    ds.PixelPresentation, ds.VolumetricProperties, ds.VolumeBasedCalculationTechnique = "MONOCHROME", "VOLUME", "NONE"
    ds.ContentQualification, ds.BurnedInAnnotation, ds.LossyImageCompression = "PRODUCT", "NO", "00"
    ds.PresentationLUTShape, ds.AcquisitionContextSequence = "IDENTITY", []
    ds.AcquisitionDateTime, ds.AcquisitionDuration = "20240102101630", 60.0
    if modality == "MR":
        _mr_top(ds)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows, ds.Columns, ds.NumberOfFrames = *shape, n_frames
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    return ds


def _dimensions(ds: Dataset) -> None:
    uid = generate_uid()
    ds.DimensionOrganizationSequence = item(DimensionOrganizationUID=uid)
    ds.DimensionIndexSequence = []
    for pointer in ("StackID", "InStackPositionNumber", "TemporalPositionIndex"):
        ds.DimensionIndexSequence += item(
            DimensionOrganizationUID=uid,
            DimensionIndexPointer=Tag(pointer),
            FunctionalGroupPointer=Tag("FrameContentSequence"),
        )


def _frame_groups(modality: str, volume: int, k: int, position: npt.NDArray[np.float64], intercept: float) -> Dataset:
    groups = Dataset()
    content = item(
        StackID="1",
        InStackPositionNumber=k + 1,
        TemporalPositionIndex=volume + 1,
        FrameAcquisitionNumber=1,
        DimensionIndexValues=[1, k + 1, volume + 1],
        FrameAcquisitionDateTime=f"2024010210163{volume}.25",
        FrameReferenceDateTime=f"2024010210163{volume}.5",
        FrameAcquisitionDuration=1000.0,
    )
    groups.FrameContentSequence = content
    groups.PlanePositionSequence = item(ImagePositionPatient=[_ds(v) for v in position])
    # Another slope in each slice, so that frames taken for one another show.
    groups.PixelValueTransformationSequence = item(
        RescaleIntercept=intercept,
        RescaleSlope=_ds(1.0 if modality == "CT" else 0.5 * (k + 1)),
        RescaleType="HU" if modality == "CT" else "US",
    )
    return groups


def _shared_groups(modality: str, cosines: Sequence[float], spacing_mm: tuple[float, float, float]) -> Dataset:
    groups = Dataset()
    groups.PixelMeasuresSequence = item(
        PixelSpacing=[_ds(spacing_mm[0]), _ds(spacing_mm[1])], SliceThickness=_ds(spacing_mm[2])
    )
    groups.PlaneOrientationSequence = item(ImageOrientationPatient=[_ds(v) for v in cosines])
    groups.FrameVOILUTSequence = item(WindowCenter=40, WindowWidth=400)
    groups.FrameAnatomySequence = item(AnatomicRegionSequence=[_code("12738006", "SCT", "Brain")], FrameLaterality="U")
    kind = item(
        FrameType=["ORIGINAL", "PRIMARY", "VOLUME" if modality == "CT" else "T2", "NONE"],
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
    )
    if modality == "CT":
        groups.CTImageFrameTypeSequence = kind
        groups.IrradiationEventIdentificationSequence = item(IrradiationEventUID=generate_uid())
        _ct_shared(groups)
    else:
        kind[0].ComplexImageComponent, kind[0].AcquisitionContrast = "MAGNITUDE", "T2"
        groups.MRImageFrameTypeSequence = kind
        groups.MREchoSequence = item(EffectiveEchoTime=80.5)
        _mr_shared(groups)
    return groups


def make_enhanced(
    path: Path,
    modality: str = "MR",
    shape: tuple[int, int, int] = (20, 24, 4),
    n_volumes: int = 1,
    *,
    each: Callable[[Dataset, int, int], None] | None = None,
    change: Change | None = None,
    transfer_syntax: str = ExplicitVRLittleEndian,
    uids: dict[str, str] | None = None,
    **overrides: Any,
) -> MadeObject:
    """Write one clean enhanced object.

    Args:
        path: of the file.
        modality: ``"CT"`` or ``"MR"``.
        shape: (rows, columns, slices) of each volume.
        n_volumes: told apart by temporal position, and by what ``each`` does.
        each: changes the functional groups of one frame: (groups, volume from 0, slice from 0).
        change: changes shared groups, the frames' groups (in file order), and the object.
        transfer_syntax: uncompressed.
        uids: ``study``, ``series`` and ``frame`` to share.
        **overrides: top-level keyword to value, or to ``None`` (delete).
    """
    rows, columns, slices = shape
    cosines = np.array(oblique_orientation())
    normal = np.cross(cosines[:3], cosines[3:])
    origins = np.array([-31.25, 12.5, 40.75]) + np.arange(slices)[:, None] * SPACING_MM[2] * normal
    uids = {**new_uids(), **(uids or {})}
    ds = _top(modality, uids, (rows, columns), slices * n_volumes)
    _dimensions(ds)
    intercept = -1024.0 if modality == "CT" else 3.0
    stored = [np.rint((0.6 + 0.1 * v) * phantom(*shape) * 2000).astype("<u2") for v in range(n_volumes)]
    shared = _shared_groups(modality, cosines, SPACING_MM)
    order = np.random.default_rng(1).permutation(slices * n_volumes)
    groups, pixels = [], []
    for v, k in ((int(n) // slices, int(n) % slices) for n in order):
        frame = _frame_groups(modality, v, k, origins[k], intercept)
        if each is not None:
            each(frame, v, k)
        groups.append(frame)
        pixels.append(stored[v][:, :, k])
    if change is not None:
        change(shared, groups, ds)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], groups
    ds.PixelData = np.stack(pixels).astype(">u2" if transfer_syntax == ExplicitVRBigEndian else "<u2").tobytes()
    ds["PixelData"].VR = "OW"
    _set(ds, overrides, 0)
    save(ds, path, transfer_syntax)
    slopes = np.ones(slices) if modality == "CT" else 0.5 * np.arange(1, slices + 1)
    number = {int(n): at + 1 for at, n in enumerate(order)}
    return MadeObject(
        path=path,
        volumes=[(s * slopes + intercept).transpose(1, 0, 2) for s in stored],
        frames=[[number[v * slices + k] for k in range(slices)] for v in range(n_volumes)],
        origin_lps_mm=origins[0],
        direction_lps=np.stack([cosines[:3], cosines[3:], normal], axis=1),
        spacing_mm=(SPACING_MM[1], SPACING_MM[0], SPACING_MM[2]),
    )
