"""Answers of a classifier as a DICOM structured report: TID 1500 with a group of TID 1501 for each image and finding.

Codes stand in the bundle's metadata under ``sr``. The report is preliminary and unverified, and says that it is for
research. UIDs follow from those of the source, the weights and the version: a second run gives the same report, which
replaces the first in an archive and does not stand beside it.

Source: PS3.16, TID 1500 Measurement Report, TID 1501 Measurement and Qualitative Evaluation Group, TID 4019 Algorithm
Identification, CID 240 Present-Absent; PS3.3 C.17 for the document.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydicom import Dataset
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.sr.coding import Code
from pydicom.uid import UID
from pydicom.valuerep import validate_value

REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
CARRIED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize", "PatientWeight"),
    *("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName", "IssuerOfPatientID"),
)
"""Attributes of patient and study that a report takes over; one that is not valid is written empty."""
NEEDED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
"""Those that a report has, if only empty (PS3.3 C.7.1.1, C.7.2.1: Type 2)."""
SEXES = ("M", "F", "O", "")
PRESENT, ABSENT = Code("52101004", "SCT", "Present"), Code("272519000", "SCT", "Absent")
PRESENCE = Code("705057003", "SCT", "Presence")
REPORT = Code("126000", "DCM", "Imaging Measurement Report")
DEVICE = Code("121007", "DCM", "Device")
PERCENT = Code("%", "UCUM", "Percent")
RESEARCH = "RESEARCH USE ONLY"
MANUFACTURER = "RTDA for MONAI"
SCHEME = "99RTDA"
CLASSES = ("comprehensive3d", "comprehensive", "enhanced")


class ReportError(ValueError):
    """A report that cannot be written, in one line: field, cure."""


@dataclass(frozen=True)
class Reporter:
    """Who reports: a bundle with its weights.

    Attributes:
        name: of the bundle.
        version: of the bundle.
        weights: checksum of its weights.
        codes: ``sr`` of its metadata: ``procedure``, ``certainty``, and ``findings``: class -> ``finding``, ``site``; a
            code is [value, scheme, meaning].
        threshold: of the reported class.
        parameters: lines of text about the model: threshold and its source, robustness, n.
    """

    name: str
    version: str
    weights: str
    codes: Mapping[str, Any]
    threshold: float
    parameters: Sequence[str] = ()


@dataclass(frozen=True)
class Reported:
    """What was answered on one image.

    Attributes:
        header: of the image; pixels are not needed.
        probabilities: class -> probability.
        frame: number of the frame, from 1; None of an image of one frame.
    """

    header: Dataset
    probabilities: Mapping[str, float]
    frame: int | None = None


def structured_report(
    answers: Sequence[Reported], by: Reporter, sr_class: str = CLASSES[0]
) -> tuple[Dataset, list[str]]:
    """The report of the images of one study, and the names of attributes that were not valid and are empty in it.

    Args:
        answers: at least one; all of one study and patient.
        by: who reports.
        sr_class: one of ``CLASSES``; the later ones are for older archives.

    Raises:
        ReportError: a header lacks a UID; headers are of several studies or patients; no code for any class.
    """
    from highdicom import sr

    headers = [answer.header for answer in answers]
    _refuse_unlike(headers)
    study, images = headers[0].StudyInstanceUID, sorted(header.SOPInstanceUID for header in headers)
    evidence, emptied = [], dict[str, None]()
    for header in headers:
        cleaned, names = clean(header)
        evidence.append(cleaned)
        emptied |= dict.fromkeys(names)
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", by.name, by.version),
        name=by.name,
        manufacturer_name=MANUFACTURER,
        model_name=by.name,
        serial_number=by.weights[:16],
    )
    observer = sr.ObserverContext(sr.CodedConcept.from_code(DEVICE), device)
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_code(by.codes["procedure"]),
        imaging_measurements=[group for answer in answers for group in _groups(answer, by)],
        title=REPORT,
    )
    kinds = {"comprehensive3d": sr.Comprehensive3DSR, "comprehensive": sr.ComprehensiveSR, "enhanced": sr.EnhancedSR}
    report = kinds[sr_class](
        evidence=evidence,
        content=content[0],
        series_number=9000,
        series_instance_uid=derived_uid("series", study, by.name, by.version, by.weights),
        sop_instance_uid=derived_uid("instance", study, by.name, by.version, by.weights, sr_class, *images),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=f"{RESEARCH}: {by.name} {by.version}"[:64],
        manufacturer_model_name=by.name[:64],
        software_versions=by.version,
        device_serial_number=by.weights[:16],
    )
    _identify_scheme(report, by.codes)
    return report, list(emptied)


def _groups(answer: Reported, by: Reporter) -> Iterator[Any]:
    """A measurement group for each class that has a code."""
    from highdicom import sr

    found = [name for name in answer.probabilities if name in by.codes["findings"]]
    if not found:
        raise ReportError(f"{by.name}: sr: findings: no code for any of {', '.join(answer.probabilities)}; state one")
    header = answer.header
    frames = None if answer.frame is None else [answer.frame]
    for name in found:
        codes, p = by.codes["findings"][name], answer.probabilities[name]
        uid = derived_uid("tracking", header.SOPInstanceUID, answer.frame, name, by.name, by.version, by.weights)
        yield sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier=f"{by.name} {name}"),
            finding_type=_code(codes["finding"]),
            finding_sites=[sr.FindingSite(_code(codes["site"]))],
            algorithm_id=sr.AlgorithmIdentification(
                name=by.name, version=by.version, parameters=[*by.parameters, RESEARCH], manufacturer=MANUFACTURER
            ),
            measurements=[sr.Measurement(name=_code(by.codes["certainty"]), value=round(100 * p, 4), unit=PERCENT)],
            qualitative_evaluations=[sr.QualitativeEvaluation(PRESENCE, PRESENT if p >= by.threshold else ABSENT)],
            source_images=[sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID, frames)],
        )


def _refuse_unlike(headers: Sequence[Dataset]) -> None:
    for field in REQUIRED:
        if any(not header.get(field) for header in headers):
            raise ReportError(f"{field}: missing in the source; a report must refer to it")
    for field in ("StudyInstanceUID", "PatientID"):
        if len({str(header.get(field, "")) for header in headers}) > 1:
            raise ReportError(f"{field}: several among the images of one report; report each by itself")


def clean(header: Dataset) -> tuple[Dataset, list[str]]:
    """A header without pixels whose attributes of patient and study are valid, and the names of those made empty.

    Example:
        >>> source = Dataset()
        >>> source.PatientID, source.PatientSex = "1", "W"
        >>> cleaned, emptied = clean(source)
        >>> cleaned.PatientID, cleaned.PatientSex, emptied
        ('1', '', ['PatientSex'])
    """
    made, emptied = copy.deepcopy(header), []
    for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
        if name in made:
            delattr(made, name)
    for name in CARRIED:
        if not _valid(name, made.get(name)):
            emptied.append(name)
            setattr(made, name, "" if dictionary_VR(name) != "DS" else None)
    for name in NEEDED:
        if name not in made:
            setattr(made, name, "")
    return made, emptied


def _valid(name: str, value: Any) -> bool:
    """Whether an attribute is absent, empty, or as the standard has it."""
    if value is None or str(value) == "":
        return True
    if name == "PatientSex":
        return str(value) in SEXES
    text = str(value)
    try:
        validate_value(dictionary_VR(name), text, RAISE)
    except ValueError:
        return False
    return not (dictionary_VR(name) == "DA" and not _is_date(text))


def _is_date(text: str) -> bool:
    try:
        datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return False
    return True


def derived_uid(*parts: Any) -> UID:
    """A UID that follows from what it is made of: 2.25. and 128 bits of a SHA-256 (PS3.5 B.2).

    Example:
        >>> derived_uid("series", "1.2.3") == derived_uid("series", "1.2.3") != derived_uid("series", "1.2.4")
        True
    """
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")


def _code(code: Sequence[str]) -> Code:
    value, scheme, meaning = code[:3]
    return Code(value, scheme, meaning)


def _identify_scheme(report: Dataset, codes: Mapping[str, Any]) -> None:
    """State whose the private codes are (PS3.3 C.12.1.1.7)."""
    if SCHEME not in _schemes(codes):
        return
    item = Dataset()
    item.CodingSchemeDesignator, item.CodingSchemeName = SCHEME, MANUFACTURER
    item.CodingSchemeResponsibleOrganization = MANUFACTURER
    report.CodingSchemeIdentificationSequence = [*report.get("CodingSchemeIdentificationSequence", []), item]


def _schemes(codes: Any) -> set[str]:
    """Designators of all codes in a mapping of mappings."""
    if isinstance(codes, Mapping):
        return {scheme for value in codes.values() for scheme in _schemes(value)}
    return {codes[1]} if isinstance(codes, Sequence) and not isinstance(codes, str) and len(codes) >= 3 else set()
