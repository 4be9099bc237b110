"""Facts of a DICOM header that may leave the reader: a closed list without names, dates or plain identifiers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from .header import numbers, text, value, values

Fact = str | int | bool | tuple[float, ...]
Facts = dict[str, Fact]

COPIED = {
    "modality": ("Modality",),
    "sop_class": ("SOPClassUID",),
    "photometric": ("PhotometricInterpretation",),
    "body_part": ("BodyPartExamined",),
    "presentation_intent": ("PresentationIntentType",),
    "laterality": ("ImageLaterality", "FrameLaterality", "Laterality"),
    "manufacturer": ("Manufacturer",),
    "sex": ("PatientSex",),
    "burned_in": ("BurnedInAnnotation",),
    "lossy": ("LossyImageCompression",),
    "pixel_spacing_calibration": ("PixelSpacingCalibrationType",),
}
"""Fact -> fields, of which the first that is present and allowed is copied as it stands."""

CODE_STRING = "[A-Z0-9_ ]{1,16}"
"""PS3.5 section 6.2, VR CS: what else stands in such a field could, misplaced, be a name."""

ALLOWED = {
    "modality": "|".join(concept.value for concept in codes.CID33.concepts.values()),
    "sop_class": r"1\.2\.840\.10008\.[0-9.]{1,50}",
    "photometric": "MONOCHROME[12]|PALETTE COLOR|RGB|YBR_(FULL|FULL_422|ICT|RCT)",
    "presentation_intent": "FOR (PRESENTATION|PROCESSING)",
    "laterality": "[RLUB]",
    "manufacturer": ".*",
    "sex": "[MFO]",
    "burned_in": "YES|NO",
    "lossy": "00|01",
    "pixel_spacing_calibration": "GEOMETRY|FIDUCIAL",
    "patient_orientation": r"[AFHLPR]{1,3}(\\[AFHLPR]{1,3})?",
}
"""Fact -> what it may be, a Code String if it is not named here: the terms of PS3.16 CID 33, PS3.6 annex A, and of the
field in PS3.3. ``manufacturer`` is free text (VR LO): whatever a writer put there leaves the reader."""

MEASURED = {"pixel_spacing": 2, "imager_spacing": 2, "image_position": 3, "image_orientation": 6}
"""Fact -> count of numbers, all mm or direction cosines; NaN where absent. Of projections (CR, DX, MG, IO, XA),
``imager_spacing`` is at the detector and ``pixel_spacing`` calibrated as stated beside it; neither is the patient's."""

IDENTIFIERS = {
    "patient_id": "PatientID",
    "study_id": "StudyInstanceUID",
    "series_id": "SeriesInstanceUID",
    "image_id": "SOPInstanceUID",
}
"""Fact -> field whose hash it is; empty where the field is absent or nobody asked for identifiers."""

NO_FACTS: Mapping[str, Fact] = {
    **dict.fromkeys((*COPIED, "projection", "patient_orientation", "age_group", *IDENTIFIERS), ""),
    **{name: (math.nan,) * count for name, count in MEASURED.items()},
    **{"rows": 0, "columns": 0, "frame": 0},
    **{"rescale": "", "window": "", "polarity": "", "padding": False, "crop": "", "mirrored": False},
}
"""Every reader returns these keys with these types, so that films of several formats collate in one batch. The last
line is what was decided: modality transform, LUT or window, polarity and why, whether padding was met, crop,
mirroring."""

VIEWS = {
    **{"399348003": "AP", "272479007": "PA", "399173006": "LL", "399198007": "RL", "399067008": "LATERAL"},
    **{"399162004": "CC", "399368009": "MLO", "399260004": "ML", "399352003": "LM", "399099002": "LMO"},
    **{"399196006": "FB", "399192008": "XCCL", "399101009": "XCCM", "441555000": "ISO", "399188001": "SIO"},
}
"""SNOMED CT code of a view (PS3.16 CID 4010 and 4014) -> term of View Position (PS3.3 C.8.11.7.1.1; LATERAL: ours)."""


def facts_of(header: Dataset, hashed: Callable[[str], str] | None = None) -> Facts:
    """The facts of one frame, but for what the pipeline decides; empty where a field holds what it may not.

    Args:
        header: of the frame.
        hashed: how identifiers are hashed, with a key of the caller's; None states none.

    Source: PS3.3 C.7.3.1.1.1 (Modality), C.7.6.1.1.1 (orientation), C.7.6.2 and 10.7.1.3 (position, spacing).

    Example:
        >>> header = Dataset()
        >>> header.Modality, header.PatientAge, header.PatientID = "DX", "045Y", "Anna-1"
        >>> facts = facts_of(header, hashed=lambda plain: "a1b2")
        >>> facts["modality"], facts["age_group"], facts["patient_id"], facts["study_id"]
        ('DX', '40-49', 'a1b2', '')
    """
    facts: Facts = dict(NO_FACTS)
    for fact, fields in COPIED.items():
        facts[fact] = next(filter(None, (_allowed(fact, text(header, field)) for field in fields)), "")
    facts["projection"] = projection(header)
    orientation = "\\".join(str(one) for one in values(header, "PatientOrientation"))
    facts["patient_orientation"] = _allowed("patient_orientation", orientation)
    facts["age_group"] = age_group(text(header, "PatientAge"))
    fields = ("PixelSpacing", "ImagerPixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
    for (fact, count), field in zip(MEASURED.items(), fields, strict=True):
        facts[fact] = numbers(header, field, count)
    for fact, field in IDENTIFIERS.items():
        plain = text(header, field)
        facts[fact] = hashed(plain) if hashed and plain else ""
    return facts


def _allowed(fact: str, word: str) -> str:
    return word if re.fullmatch(ALLOWED.get(fact, CODE_STRING), word) else ""


def projection(header: Dataset) -> str:
    """View of a projection: View Position, else the View Code Sequence as a View Position term; empty if neither.

    Source: PS3.3 C.8.11.7.1.1; PS3.16 CID 4010 and 4014.

    Example:
        >>> header, view = Dataset(), Dataset()
        >>> view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = "R-10242", "SRT", "cranio-caudal"
        >>> header.ViewCodeSequence = [view]
        >>> projection(header)
        'CC'
    """
    flat = _allowed("projection", text(header, "ViewPosition"))
    item = value(header, "ViewCodeSequence")
    if flat or not isinstance(item, Dataset):
        return flat
    code = Code(text(item, "CodeValue"), text(item, "CodingSchemeDesignator"), "")
    return next((term for known, term in VIEWS.items() if code == Code(known, "SCT", "")), "")


def age_group(age: str) -> str:
    """Decade of an Age String (PS3.5 section 6.2, VR AS); empty where it is not one.

    Example:
        >>> age_group("045Y"), age_group("018M"), age_group("101Y"), age_group("62")
        ('40-49', '0-9', '90+', '')
    """
    if not re.fullmatch(r"\d{3}[DWMY]", age):
        return ""
    decade = int(age[:3]) // {"D": 365, "W": 52, "M": 12, "Y": 1}[age[3]] // 10 * 10
    return "90+" if decade >= 90 else f"{decade}-{decade + 9}"
