"""Patient Position of CT and MR in the codes by which PET says the same (PS3.3 C.7.3.1.1.2 and C.8.4.6)."""

from __future__ import annotations

from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.sr.codedict import codes

__all__ = ["set_pet_orientation"]

_GANTRY = {"HF": codes.SCT.Headfirst, "FF": codes.SCT.FeetFirst}
_LYING = {
    "S": codes.SCT.Supine,
    "P": codes.SCT.Prone,
    "DR": codes.SCT.RightLateralDecubitus,
    "DL": codes.SCT.LeftLateralDecubitus,
}


def set_pet_orientation(header: Dataset, position: str) -> None:
    """Say in codes how the patient lies, where a PET header does not and Patient Position does.

    Args:
        header: header of a PET image; Patient Position may not stand beside the codes, so it is left out then.
        position: such as ``"HFS"``; one that has no codes stays as it is, and the codes stay missing.
    """
    if header.get("PatientOrientationCodeSequence") or not position:
        return
    gantry, lying = _GANTRY.get(position[:2]), _LYING.get(position[2:])
    if gantry is None or lying is None:
        for keyword in ("PatientOrientationCodeSequence", "PatientGantryRelationshipCodeSequence"):
            if not header.get(keyword) and keyword in header:
                delattr(header, keyword)
        header.PatientPosition = position
        return
    recumbent = CodedConcept.from_code(codes.SCT.Recumbent)
    recumbent.PatientOrientationModifierCodeSequence = [CodedConcept.from_code(lying)]
    header.PatientOrientationCodeSequence = [recumbent]
    if not header.get("PatientGantryRelationshipCodeSequence"):
        header.PatientGantryRelationshipCodeSequence = [CodedConcept.from_code(gantry)]
