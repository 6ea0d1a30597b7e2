"""What becomes of each attribute of a source image in the derived one: one table, an allow-list.

The table follows the modules of the CT, MR and PET Image IODs (PS3.3 A.3, A.4, A.21). An attribute without a
rule, private ones among them, does not reach the result. Documentation is made from :data:`ATTRIBUTE_RULES`.

Modules and types stand in highdicom's tables too, and tests hold these equal to them. They are not read from there: it
is 22 MB of JSON in a private folder, and takes 0.9 s and some 100 MB in each process that writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache

from monai_ldmsr.choices import MODALITIES

__all__ = ["ATTRIBUTE_RULES", "AttributeRule", "Fate", "empty_when_missing", "kept_keywords", "of_one_slice"]


class Fate(str, Enum):
    """What becomes of an attribute."""

    KEPT = "kept"
    NEW = "new"
    RECOMPUTED = "recomputed"
    REMOVED = "removed"


@dataclass(frozen=True)
class AttributeRule:
    """The fate of one attribute.

    Args:
        keyword: DICOM keyword, or for groups without one a range of tags such as ``(60xx,eeee)``.
        module: module of PS3.3 that it belongs to.
        modalities: those of ``CT``, ``MR``, ``PT`` that the rule is for.
        fate: what becomes of it.
        note: how, or why.
        type_2: whether the IOD wants it present, if need be empty.
    """

    keyword: str
    module: str
    modalities: tuple[str, ...]
    fate: Fate
    note: str = ""
    type_2: bool = False


_ALL = MODALITIES
_CT_MR = ("CT", "MR")

#: By module and modalities, keywords kept as they are. ``/2`` marks type 2: added empty where missing.
_KEPT: dict[tuple[str, tuple[str, ...]], str] = {
    ("Patient", _ALL): """
        ReferencedPatientSequence PatientName/2 PatientID/2 IssuerOfPatientID TypeOfPatientID
        IssuerOfPatientIDQualifiersSequence SourcePatientGroupIdentificationSequence
        GroupOfPatientsIdentificationSequence PatientBirthDate/2 PatientBirthTime PatientBirthDateInAlternativeCalendar
        PatientDeathDateInAlternativeCalendar PatientAlternativeCalendar PatientSex/2 QualityControlSubject
        StrainDescription StrainNomenclature StrainStockSequence StrainAdditionalInformation StrainCodeSequence
        GeneticModificationsSequence OtherPatientNames OtherPatientIDsSequence OtherPatientIDs
        ReferencedPatientPhotoSequence EthnicGroup EthnicGroupCodeSequence PatientSpeciesDescription
        PatientSpeciesCodeSequence PatientBreedDescription PatientBreedCodeSequence BreedRegistrationSequence
        ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization PatientComments PatientIdentityRemoved
        DeidentificationMethod DeidentificationMethodCodeSequence""",
    ("Clinical Trial Subject", _ALL): """
        ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName/2 IssuerOfClinicalTrialProtocolID
        OtherClinicalTrialProtocolIDsSequence ClinicalTrialSiteID/2 ClinicalTrialSiteName/2 IssuerOfClinicalTrialSiteID
        ClinicalTrialSubjectID IssuerOfClinicalTrialSubjectID ClinicalTrialSubjectReadingID
        IssuerOfClinicalTrialSubjectReadingID ClinicalTrialProtocolEthicsCommitteeName
        ClinicalTrialProtocolEthicsCommitteeApprovalNumber""",
    ("General Study", _ALL): """
        StudyDate/2 StudyTime/2 AccessionNumber/2 IssuerOfAccessionNumberSequence ReferringPhysicianName/2
        ReferringPhysicianIdentificationSequence ConsultingPhysicianName ConsultingPhysicianIdentificationSequence
        StudyDescription ProcedureCodeSequence PhysiciansOfRecord PhysiciansOfRecordIdentificationSequence
        NameOfPhysiciansReadingStudy PhysiciansReadingStudyIdentificationSequence ReferencedStudySequence
        StudyInstanceUID StudyID/2 RequestingService RequestingServiceCodeSequence
        ReasonForPerformedProcedureCodeSequence""",
    ("Patient Study", _ALL): """
        AdmittingDiagnosesDescription AdmittingDiagnosesCodeSequence PatientAge PatientSize PatientSizeCodeSequence
        PatientBodyMassIndex MeasuredAPDimension MeasuredLateralDimension PatientWeight MedicalAlerts Allergies
        Occupation SmokingStatus AdditionalPatientHistory PregnancyStatus LastMenstrualDate PatientSexNeutered
        ReasonForVisit ReasonForVisitCodeSequence AdmissionID IssuerOfAdmissionIDSequence ServiceEpisodeID
        ServiceEpisodeDescription IssuerOfServiceEpisodeIDSequence PatientState""",
    ("Clinical Trial Study", _ALL): """
        ClinicalTrialTimePointID/2 ClinicalTrialTimePointDescription LongitudinalTemporalOffsetFromEvent
        LongitudinalTemporalEventType ClinicalTrialTimePointTypeCodeSequence IssuerOfClinicalTrialTimePointID
        ConsentForClinicalTrialUseSequence""",
    ("General Series", _ALL): """
        Modality PerformingPhysicianName PerformingPhysicianIdentificationSequence OperatorsName
        OperatorIdentificationSequence AnatomicalOrientationType BodyPartExamined ProtocolName Laterality
        RequestAttributesSequence TreatmentSessionUID""",
    ("Clinical Trial Series", _ALL): """
        ClinicalTrialCoordinatingCenterName/2 ClinicalTrialSeriesID ClinicalTrialSeriesDescription
        IssuerOfClinicalTrialSeriesID""",
    ("Frame of Reference", _ALL): "FrameOfReferenceUID PositionReferenceIndicator/2",
    ("Synchronization", ("CT", "PT")): """
        TriggerSourceOrType SynchronizationTrigger SynchronizationChannel AcquisitionTimeSynchronized TimeSource
        TimeDistributionProtocol SynchronizationFrameOfReferenceUID""",
    ("General Equipment", _ALL): """
        Manufacturer/2 InstitutionName InstitutionAddress StationName InstitutionalDepartmentName
        InstitutionalDepartmentTypeCodeSequence ManufacturerModelName DeviceSerialNumber DeviceUID GantryID UDISequence
        ManufacturerDeviceClassUID SoftwareVersions SpatialResolution DateOfLastCalibration TimeOfLastCalibration
        DateOfManufacture DateOfInstallation""",
    ("General Acquisition", _ALL): """
        AcquisitionUID AcquisitionDateTime IrradiationEventUID AcquisitionDuration ImagesInAcquisition""",
    ("General Acquisition", ("CT",)): "AcquisitionNumber/2 AcquisitionDate AcquisitionTime",
    ("General Acquisition", ("MR",)): "AcquisitionNumber AcquisitionDate AcquisitionTime",
    ("General Acquisition", ("PT",)): "AcquisitionNumber AcquisitionDate/2 AcquisitionTime/2",
    ("General Image", _ALL): """
        AnatomicRegionSequence PrimaryAnatomicStructureSequence PatientOrientation ImageLaterality QualityControlImage
        BurnedInAnnotation RecognizableVisualFeatures LossyImageCompression LossyImageCompressionRatio
        LossyImageCompressionMethod PresentationLUTShape ViewCodeSequence SliceProgressionDirection IsocenterPosition
        EquipmentFrameOfReferenceUID""",
    ("General Image", _CT_MR): "RealWorldValueMappingSequence",
    ("General Reference", _ALL): "ReferencedImageSequence",
    ("Image Plane", _ALL): "SliceThickness/2 SpacingBetweenSlices ImageOrientationPatient SliceLocation",
    ("Image Pixel", _ALL): "SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored PixelRepresentation",
    ("Image Pixel", _CT_MR): "PixelPaddingValue PixelPaddingRangeLimit",
    ("VOI LUT", _ALL): "WindowCenter WindowWidth WindowCenterWidthExplanation VOILUTFunction",
    ("SOP Common", _ALL): """
        SpecificCharacterSet CodingSchemeIdentificationSequence ContextGroupIdentificationSequence
        MappingResourceIdentificationSequence TimezoneOffsetFromUTC LongitudinalTemporalInformationModified""",
    ("Device", _ALL): "DeviceSequence",
    ("Specimen", _ALL): """
        ContainerIdentifier IssuerOfTheContainerIdentifierSequence/2 AlternateContainerIdentifierSequence
        ContainerTypeCodeSequence/2 ContainerDescription ContainerComponentSequence SpecimenDescriptionSequence""",
    ("Enhanced Patient Orientation", _CT_MR): "PatientOrientationCodeSequence PatientEquipmentRelationshipCodeSequence",
    ("Contrast/Bolus", _CT_MR): """
        ContrastBolusAgent/2 ContrastBolusAgentSequence ContrastBolusAdministrationRouteSequence ContrastBolusRoute
        ContrastBolusVolume ContrastBolusStartTime ContrastBolusStopTime ContrastBolusTotalDose ContrastFlowRate
        ContrastFlowDuration ContrastBolusIngredient ContrastBolusIngredientConcentration""",
    ("CT Image", ("CT",)): """
        ScanOptions KVP/2 DataCollectionDiameter ReconstructionDiameter DistanceSourceToDetector DistanceSourceToPatient
        GantryDetectorTilt TableHeight RotationDirection ExposureTime XRayTubeCurrent Exposure ExposureInuAs
        ImageAndFluoroscopyAreaDoseProduct FilterType GeneratorPower FocalSpots ConvolutionKernel
        WaterEquivalentDiameter WaterEquivalentDiameterCalculationMethodCodeSequence FilterMaterial RevolutionTime
        SingleCollimationWidth TotalCollimationWidth TableSpeed TableFeedPerRotation SpiralPitchFactor
        DataCollectionCenterPatient ReconstructionTargetCenterPatient ExposureModulationType CTDIvol
        CTDIPhantomTypeCodeSequence CalciumScoringMassFactorPatient CalciumScoringMassFactorDevice EnergyWeightingFactor
        CTAdditionalXRaySourceSequence MultienergyCTAcquisition RescaleIntercept RescaleSlope RescaleType
        ScanStartPositionSequence ScanStopPositionSequence ScanArcType DetectorPositioningType
        MultienergyCTAcquisitionSequence MultienergyCTProcessingSequence MultienergyCTCharacteristicsSequence""",
    ("MR Image", ("MR",)): """
        ScanningSequence SequenceVariant ScanOptions/2 MRAcquisitionType/2 SequenceName AngioFlag RepetitionTime
        EchoTime/2 InversionTime NumberOfAverages ImagingFrequency ImagedNucleus EchoNumbers MagneticFieldStrength
        NumberOfPhaseEncodingSteps EchoTrainLength/2 PercentSampling PercentPhaseFieldOfView PixelBandwidth TriggerTime
        NominalInterval BeatRejectionFlag LowRRValue HighRRValue IntervalsAcquired IntervalsRejected PVCRejection
        SkipBeats HeartRate CardiacNumberOfImages TriggerWindow ReconstructionDiameter ReceiveCoilName TransmitCoilName
        AcquisitionMatrix InPlanePhaseEncodingDirection FlipAngle VariableFlipAngleFlag SAR dBdt B1rms
        TemporalPositionIdentifier NumberOfTemporalPositions TemporalResolution""",
    # written into classic MR by scanners, and needed to read it
    ("beyond the MR Image IOD", ("MR",)): """
        RescaleIntercept RescaleSlope RescaleType DiffusionBValue DiffusionDirectionality
        DiffusionGradientOrientation""",
    ("PET Series", ("PT",)): """
        SeriesDate SeriesTime AcquisitionTerminationCondition AcquisitionStartCondition AcquisitionStartConditionData
        AcquisitionTerminationConditionData ReconstructionDiameter GantryDetectorTilt GantryDetectorSlew
        FieldOfViewShape FieldOfViewDimensions CollimatorGridName CollimatorType/2 ConvolutionKernel CorrectedImage/2
        EnergyWindowRangeSequence TypeOfDetectorMotion ScanProgressionDirection SeriesType Units CountsSource
        ReprojectionMethod SUVType RandomsCorrectionMethod AttenuationCorrectionMethod DecayCorrection
        ReconstructionMethod DetectorLinesOfResponseUsed ScatterCorrectionMethod AxialAcceptance AxialMash
        TransverseMash DetectorElementSize CoincidenceWindowWidth SecondaryCountsType""",
    ("PET Isotope and Orientation", ("PT",)): """
        InterventionDrugInformationSequence RadiopharmaceuticalInformationSequence/2 PatientOrientationCodeSequence/2
        PatientGantryRelationshipCodeSequence/2""",
    ("PET Multi-gated Acquisition", ("PT",)): "CardiacFramingType BeatRejectionFlag/2 PVCRejection SkipBeats HeartRate",
    ("PET Image", ("PT",)): """
        TriggerTime NominalInterval FrameTime LowRRValue HighRRValue IntervalsAcquired IntervalsRejected
        ActualFrameDuration/2 FrameReferenceTime PrimaryPromptsCountsAccumulated SecondaryCountsAccumulated
        SliceSensitivityFactor DecayFactor DoseCalibrationFactor ScatterFractionFactor DeadTimeFactor""",
    ("Acquisition Context", ("PT",)): "AcquisitionContextSequence/2 AcquisitionContextDescription",
}

#: An image need not have them, but where it has one it wants the attributes of its type 2.
_OPTIONAL_MODULES = (
    "Clinical Trial Subject",
    "Clinical Trial Study",
    "Clinical Trial Series",
    "Specimen",
    "Contrast/Bolus",
    "PET Multi-gated Acquisition",
    "Acquisition Context",
)

#: (fate, modalities, module, keywords, how or why).
_CHANGED: tuple[tuple[Fate, tuple[str, ...], str, str, str], ...] = (
    (Fate.RECOMPUTED, _ALL, "SOP Common", "SOPClassUID", "that of the modality"),
    (Fate.NEW, _ALL, "SOP Common", "SOPInstanceUID", "2.25. + UUIDv5, see SeriesInstanceUID"),
    (Fate.NEW, _ALL, "General Series", "SeriesInstanceUID", "2.25. + UUIDv5 of source and derivation"),
    (Fate.NEW, _ALL, "General Series", "SeriesNumber", "see series_labels"),
    (
        Fate.NEW,
        _ALL,
        "General Series",
        "SeriesDescription",
        "'SR x2, 1 mm slices (research)' or '(research, forced)' and what distinguishes volumes, 64 letters; or given",
    ),
    (Fate.NEW, _CT_MR, "General Series", "SeriesDate SeriesTime", "when the result was made"),
    (Fate.NEW, _ALL, "SOP Common", "InstanceCreationDate InstanceCreationTime", "when the result was made"),
    (Fate.NEW, _ALL, "SOP Common", "ContentQualification", "RESEARCH"),
    (Fate.NEW, _ALL, "SOP Common", "ContributingEquipmentSequence", "software and weights, appended"),
    (Fate.NEW, _ALL, "General Image", "ContentDate ContentTime", "when the result was made"),
    (Fate.NEW, _ALL, "General Image", "ImageComments", "the research-only mark, before the source's"),
    (
        Fate.NEW,
        _ALL,
        "General Reference",
        "SourceImageSequence",
        "the source slice or frame, with purpose; of new slices all that one comes from",
    ),
    (Fate.NEW, _ALL, "General Reference", "DerivationCodeSequence", "spatial resampling, appended"),
    (Fate.NEW, _ALL, "General Reference", "DerivationDescription", "method and settings, appended"),
    (Fate.NEW, _ALL, "Image Pixel", "PixelData", "explicit VR little endian, or compressed without loss on request"),
    (Fate.RECOMPUTED, _ALL, "General Image", "InstanceNumber", "1 to n, upwards or downwards as the source's"),
    (Fate.RECOMPUTED, _CT_MR, "General Image", "ImageType", r"DERIVED\SECONDARY, further values kept"),
    (Fate.RECOMPUTED, ("PT",), "General Image", "ImageType", r"DERIVED\PRIMARY, further values kept"),
    (
        Fate.RECOMPUTED,
        _ALL,
        "Image Plane",
        "PixelSpacing",
        "divided by the factor; of new slices that of the first slice",
    ),
    (
        Fate.RECOMPUTED,
        _ALL,
        "Image Plane",
        "ImagePositionPatient",
        "moved by (1/factor - 1)/2 source pixels; of new slices along the normal, evenly",
    ),
    (Fate.RECOMPUTED, _ALL, "Image Pixel", "Rows Columns", "times the factor"),
    (Fate.RECOMPUTED, _ALL, "Image Pixel", "HighBit", "Bits Stored - 1"),
    (
        Fate.RECOMPUTED,
        _ALL,
        "Image Pixel",
        "SmallestImagePixelValue LargestImagePixelValue",
        "where the source has them",
    ),
    (Fate.RECOMPUTED, ("PT",), "PET Image", "RescaleIntercept", "0"),
    (Fate.RECOMPUTED, ("PT",), "PET Image", "RescaleSlope", "calculated again for each slice"),
    (Fate.RECOMPUTED, ("PT",), "PET Image", "ImageIndex", "as InstanceNumber"),
    (Fate.RECOMPUTED, ("PT",), "PET Series", "NumberOfSlices", "slices of the result"),
    (
        Fate.RECOMPUTED,
        ("PT",),
        "PET Series",
        "NumberOfTimeSlices NumberOfRRIntervals NumberOfTimeSlots",
        "1 in dynamic or gated series, left out in others",
    ),
    (
        Fate.RECOMPUTED,
        _ALL,
        "General Series",
        "PatientPosition",
        "kept, but not beside Patient Orientation Code Sequence",
    ),
    (Fate.RECOMPUTED, _ALL, "SOP Common", "SyntheticData", "YES where the source says YES, else left out"),
    (Fate.REMOVED, ("PT",), "Image Pixel", "PixelPaddingValue PixelPaddingRangeLimit", "the slope is new"),
    (Fate.REMOVED, _ALL, "VOI LUT", "VOILUTSequence", "made for the source's values"),
    (Fate.REMOVED, _ALL, "Modality LUT", "ModalityLUTSequence", "a source that has it is refused"),
    (Fate.REMOVED, ("PT",), "General Image", "RealWorldValueMappingSequence", "the slope is new; the report says so"),
    (Fate.REMOVED, _ALL, "General Image", "IconImageSequence", "shows the source"),
    (Fate.REMOVED, _ALL, "Image Pixel", "PixelAspectRatio", "Pixel Spacing says it"),
    (
        Fate.REMOVED,
        _ALL,
        "General Series",
        """PerformedProcedureStepStartDate PerformedProcedureStepStartTime PerformedProcedureStepEndDate
        PerformedProcedureStepEndTime PerformedProcedureStepID PerformedProcedureStepDescription
        PerformedProtocolCodeSequence ReferencedPerformedProcedureStepSequence
        CommentsOnThePerformedProcedureStep SeriesDescriptionCodeSequence RelatedSeriesSequence
        SmallestPixelValueInSeries LargestPixelValueInSeries""",
        "they describe the source series",
    ),
    (
        Fate.REMOVED,
        _ALL,
        "SOP Common",
        """InstanceCreatorUID SOPInstanceStatus SOPAuthorizationDateTime OriginalAttributesSequence
        EncryptedAttributesSequence MACParametersSequence DigitalSignaturesSequence""",
        "they vouch for the source object",
    ),
    (Fate.REMOVED, _ALL, "Curve (retired)", "(50xx,eeee)", "not part of the IODs"),
    (Fate.REMOVED, _ALL, "Overlay Plane", "(60xx,eeee)", "drawn on the source's pixels"),
    (
        Fate.REMOVED,
        _ALL,
        "private",
        "(odd,eeee)",
        "their meaning for a derived image is unknown; but (7053,xx00) and (7053,xx09) of 'Philips PET Private Group' "
        "and (2005,xx0D) and (2005,xx0E) of 'Philips MR Imaging DD 001' are kept: they scale values",
    ),
)


#: Kept attributes that speak of one acquired slice: of a new slice that comes from several they stay where these say
#: the same. ``/2`` marks those that are emptied in place of left out.
_OF_ONE_SLICE: dict[tuple[str, ...], str] = {
    _ALL: "AcquisitionUID IrradiationEventUID AcquisitionDuration IsocenterPosition",
    ("CT",): """
        ExposureTime XRayTubeCurrent Exposure ExposureInuAs ImageAndFluoroscopyAreaDoseProduct GeneratorPower CTDIvol
        WaterEquivalentDiameter WaterEquivalentDiameterCalculationMethodCodeSequence TableHeight TableSpeed
        DataCollectionCenterPatient ReconstructionTargetCenterPatient ScanStartPositionSequence
        ScanStopPositionSequence""",
    ("MR",): """
        TriggerTime/2 NominalInterval LowRRValue HighRRValue IntervalsAcquired IntervalsRejected HeartRate SAR dBdt
        B1rms""",
    ("PT",): """
        NominalInterval IntervalsAcquired IntervalsRejected PrimaryPromptsCountsAccumulated SecondaryCountsAccumulated
        SliceSensitivityFactor ScatterFractionFactor DeadTimeFactor""",
}

#: What becomes of other kept attributes where the result has slices of its own.
_OF_NEW_SLICES = {
    "SliceThickness": "of new slices their distance",
    "SpacingBetweenSlices": "of new slices their distance, in MR always",
    "SliceLocation": "of new slices theirs, or left out where the source's are no even row",
    "ImageOrientationPatient": "of new slices that of the first slice",
    **dict.fromkeys(
        ("AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime"),
        "of new slices the earliest of the slices that each comes from",
    ),
}


def _note(keyword: str, modalities: tuple[str, ...]) -> str:
    for of, keywords in _OF_ONE_SLICE.items():
        for entry in keywords.split() if set(of) & set(modalities) else ():
            if entry.partition("/")[0] == keyword:
                fate = "emptied" if entry.endswith("/2") else "left out"
                return f"of new slices {fate} where the slices that one comes from differ"
    return _OF_NEW_SLICES.get(keyword, "")


def _rules() -> Iterator[AttributeRule]:
    for (module, modalities), keywords in _KEPT.items():
        for entry in keywords.split():
            keyword, _, mark = entry.partition("/")
            yield AttributeRule(keyword, module, modalities, Fate.KEPT, _note(keyword, modalities), mark == "2")
    for fate, modalities, module, keywords, note in _CHANGED:
        for keyword in keywords.split():
            yield AttributeRule(keyword, module, modalities, fate, note)


#: Every attribute that has a rule; one rule for each keyword and modality.
ATTRIBUTE_RULES: tuple[AttributeRule, ...] = tuple(_rules())


@cache
def kept_keywords(modality: str) -> frozenset[str]:
    """Keywords that the derived image takes over from a source of ``modality`` as they are."""
    return frozenset(r.keyword for r in ATTRIBUTE_RULES if r.fate is Fate.KEPT and modality in r.modalities)


@cache
def of_one_slice(modality: str) -> tuple[tuple[str, bool], ...]:
    """Kept keywords that speak of one acquired slice, and whether they are emptied in place of left out."""
    found = " ".join(keywords for modalities, keywords in _OF_ONE_SLICE.items() if modality in modalities)
    return tuple((entry.partition("/")[0], entry.endswith("/2")) for entry in found.split())


@cache
def empty_when_missing(modality: str) -> tuple[tuple[str, frozenset[str]], ...]:
    """Keywords of type 2, added empty where a source of ``modality`` lacks them.

    With each goes what its module consists of, where the module is optional: without any of these, nothing is added.
    """
    rules = [rule for rule in ATTRIBUTE_RULES if modality in rule.modalities]
    modules = {rule.module: frozenset(r.keyword for r in rules if r.module == rule.module) for rule in rules}
    return tuple(
        (rule.keyword, modules[rule.module] if rule.module in _OPTIONAL_MODULES else frozenset())
        for rule in rules
        if rule.type_2
    )
