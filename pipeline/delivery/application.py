"""What a deployed application does with a folder of DICOM: for each study one JSON and one structured report.

The report is the only output that names a patient: files are named by UIDs or hashes, and neither JSON nor terminal
shows a name, a path, or what a header says of a person. Needs highdicom (``pip install 'rtda[deploy]'``).
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from ..data.lists import file_of
from ..files import write_whole
from .infer import Answer, Classifier, found, prefix_of, reason
from .structured_report import CLASSES, REQUIRED, RESEARCH, Reporter, ReportError, structured_report
from .structured_report import Answer as Reported

DONE, FAILED, REFUSED = 0, 1, 3
"""Exit status: all done; something could not be read, or nothing fits; an image was refused by the guard."""
NO_IMAGES = ("SR", "KO", "PR", "SEG", "REG", "RTSTRUCT", "RTDOSE", "RTPLAN", "DOC", "AU", "ECG", "PLAN", "RWV", "FID")
"""Modalities whose objects lie beside images and are none."""
SELECTION = {"burned_in": "reject", "repeats": "last"}
"""Rule of selection where the metadata state none: copies with burnt-in text are left out (``reject``; or ``keep``),
and of several images of one view the last stands for all (``last``; or ``all``)."""
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod", "BurnedInAnnotation")


@dataclass
class File:
    """One file of the input: its header, and a name that says nothing."""

    path: Path
    mark: str
    header: Dataset

    @property
    def name(self) -> str:
        """SOP instance UID, or what stands for it."""
        return str(self.header.get("SOPInstanceUID", "")) or self.mark


@dataclass
class Study:
    """The files of one study, and what became of each."""

    uid: str
    files: list[File]
    chosen: list[tuple[File, int | None, Answer]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    status: int = DONE

    def reject(self, file: File, why: str, status: int = DONE) -> None:
        """Leave a file out, and say why; a status that is not 0 is the study's."""
        self.rejected.append({"image": file.name, "reason": why})
        self.status = max(self.status, status)


def run(folder: Path, model: Path, out: Path, sr_class: str = CLASSES[0]) -> int:
    """Answer every study in a folder; returns the exit status.

    Args:
        folder: DICOM as archives store it: nested folders, any names.
        model: TorchScript that ``rtda export`` made of a bundle.
        out: folder for a JSON and a report of each study.
        sr_class: of the report.

    Raises:
        ValueError: nothing below the folder is a DICOM image, or the model carries no metadata.
    """
    classifier = Classifier.of_program(model)
    by, rule = reporter(classifier.metadata), SELECTION | classifier.metadata.get("selection", {})
    studies, foreign = grouped(folder)
    if not any(_is_image(file) for study in studies for file in study.files):
        raise ReportError("input: no DICOM image below the folder; give a folder that holds some")
    status = DONE
    for study in studies:
        _answer(study, classifier, rule)
        written = _report(study, by, classifier.classes, out, sr_class)
        text = json.dumps(_told(study, by, classifier, written), indent=1, ensure_ascii=False)
        write_whole(out / f"{study.uid}.json", f"{text}\n".encode())
        status = max(status, study.status)
        print(f"study {study.uid}: {len(study.chosen)} answered, {len(study.rejected)} left out", flush=True)
    print(f"{len(studies)} studies, {foreign} files that are not DICOM", flush=True)
    return status


def grouped(folder: Path) -> tuple[list[Study], int]:
    """The studies below a folder, and how many files are not DICOM."""
    studies: dict[str, Study] = {}
    foreign = 0
    for path in found([str(folder)]):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's quote what headers say
                header = dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, OSError, ValueError, TypeError, EOFError):
            foreign += 1
            continue
        mark = hashlib.sha256(str(path.relative_to(folder)).encode(errors="surrogateescape")).hexdigest()[:16]
        uid = str(header.get("StudyInstanceUID", "")) or f"without-uid-{mark}"
        studies.setdefault(uid, Study(uid, [])).files.append(File(path, mark, header))
    return [studies[uid] for uid in sorted(studies)], foreign


def _is_image(file: File) -> bool:
    return "Rows" in file.header and file.header.get("Modality") not in NO_IMAGES


def _answer(study: Study, classifier: Classifier, rule: Mapping[str, Any]) -> None:
    """Answer the images of a study that the rule chooses and the guard lets through."""
    patients = {str(file.header.get("PatientID", "")) for file in study.files}
    images = []
    for file in study.files:
        if not _is_image(file):
            study.reject(file, f"no image: modality {file.header.get('Modality', 'not stated')}")
        elif len(patients) > 1:
            study.reject(file, "PatientID: several within one study; correct them at the source", FAILED)
        elif missing := [name for name in REQUIRED if not file.header.get(name)]:
            study.reject(file, f"{missing[0]}: missing; a report could not refer to it", FAILED)
        else:
            images.append(file)
    for file in _chosen(study, images, rule):
        study.chosen += [(file, frame, answer) for frame, answer in _answers(study, file, classifier)]


def _answers(study: Study, file: File, classifier: Classifier) -> Iterator[tuple[int | None, Answer]]:
    """(frame from 1, or None, answer) of the images of a file; what is refused or cannot be read is rejected."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frames = classifier.frames(file.path)
            answers = [(number, classifier.answer(image)) for number, image in frames.items()]
    except Exception as error:  # of a reader that refuses, or a decoder
        study.reject(file, _without_name(reason(error, file_of(file.path)), file.path), FAILED)
        return
    if refused := [one.told for _, answer in answers for one in answer.deviations if one.refused]:
        study.reject(file, f"unlike the training images: {'; '.join(dict.fromkeys(refused))}", REFUSED)
        return
    for number, answer in answers:
        yield (number + 1 if len(answers) > 1 else None), answer


def _without_name(told: str, path: Path) -> str:
    """A refusal without the name of its file, which may be a person's."""
    rest = told.removeprefix(prefix_of(file_of(path)))
    name = rf"(?<!\w){re.escape(path.name)}(?!\w)"
    return re.sub(name, "it", rest) if len(path.name) > 2 else rest  # an archive's 1 or a7 is nobody's name


def _chosen(study: Study, images: Sequence[File], rule: Mapping[str, Any]) -> list[File]:
    """The images that the rule of selection leaves; the others are rejected with the reason."""
    kept: dict[Any, File] = {}
    for file in sorted(images, key=lambda one: (_taken(one), one.name)):
        header = file.header
        if rule["burned_in"] == "reject" and header.get("BurnedInAnnotation") == "YES":
            study.reject(file, "BurnedInAnnotation: YES; a copy with text, as the rule of selection has it")
            continue
        view = tuple(str(header.get(name, "")) for name in ("ViewPosition", "ImageLaterality", "Laterality"))
        key = (header.get("SOPClassUID"), view) if rule["repeats"] == "last" and any(view) else file.name
        if key in kept:
            study.reject(kept[key], "repeated: a later image of the same view stands for it")
        kept[key] = file
    return list(kept.values())


def _taken(file: File) -> tuple[str, str, int]:
    header = file.header
    day = str(header.get("AcquisitionDate", "") or header.get("ContentDate", ""))
    time = str(header.get("AcquisitionTime", "") or header.get("ContentTime", ""))
    return day, time, int(header.get("InstanceNumber") or 0)


def _report(study: Study, by: Reporter, classes: Sequence[str], out: Path, sr_class: str) -> dict[str, Any] | None:
    """Write the structured report of what was answered; its UID and the attributes that are empty in it."""
    if not study.chosen:
        return None
    reported = [
        Reported(file.header, dict(zip(classes, answer.probabilities, strict=True)), frame)
        for file, frame, answer in study.chosen
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom's quote the patient's name
            report, emptied = structured_report(reported, by, sr_class)
            buffer = BytesIO()
            report.save_as(buffer, enforce_file_format=True)
    except Exception as error:
        for file, *_ in study.chosen:
            study.reject(file, f"structured report: {type(error).__name__}; its header cannot be carried over", FAILED)
        study.chosen = []
        return None
    write_whole(out / f"{report.SOPInstanceUID}.dcm", buffer.getvalue())
    return {"sop_instance_uid": str(report.SOPInstanceUID), "written_empty": emptied}


def _told(study: Study, by: Reporter, classifier: Classifier, written: Mapping[str, Any] | None) -> dict[str, Any]:
    """The JSON of a study: what was answered on which image, what was left out and why, and by whom."""
    return {
        "use": RESEARCH,
        "model": {"name": by.name, "version": by.version, "weights_sha256": by.weights, "about": list(by.parameters)},
        "study_instance_uid": study.uid,
        "threshold": classifier.threshold,
        "images": [_image(file, frame, answer, classifier) for file, frame, answer in study.chosen],
        "left_out": study.rejected,
        "structured_report": dict(written) if written else None,
        "status": study.status,
    }


def _image(file: File, frame: int | None, answer: Answer, classifier: Classifier) -> dict[str, Any]:
    decided = {name: answer.meta.get(f"film_{name}") for name in ("window", "rescale", "polarity", "padding", "crop")}
    stated = {name: str(file.header[name].value) for name in LOSSY if name in file.header}
    return {
        "sop_instance_uid": file.name,
        **({} if frame is None else {"frame": frame}),
        "probabilities": {name: round(p, 6) for name, p in zip(classifier.classes, answer.probabilities, strict=True)},
        "predicted": classifier.predicted(answer.probabilities),
        "warnings": [one.told for one in answer.deviations],
        "decided": {name: value for name, value in decided.items() if value not in (None, "")},
        "stated": stated,
    }


def reporter(metadata: Mapping[str, Any]) -> Reporter:
    """Who reports, from the metadata that an exported file carries."""
    stated = metadata.get("rtda", {})
    if "sr" not in metadata:
        raise ReportError("metadata: sr: missing; state codes of procedure, certainty and findings in the bundle")
    threshold = stated.get("threshold", 0.5)
    return Reporter(
        name=metadata["bundle"],
        version=metadata["version"],
        weights=stated.get("weights_sha256", "unknown"),
        codes=metadata["sr"],
        threshold=0.5 if threshold is None else threshold,
        parameters=list(_about(stated)),
    )


def _about(stated: Mapping[str, Any]) -> Iterator[str]:
    """Threshold and its source, and what was measured of robustness, a line each."""
    if "threshold" in stated:
        yield f"threshold {stated['threshold']:.6g}, from {stated['threshold_source']}"
    evidence = stated.get("evidence")
    if not evidence:
        return
    where = f"{evidence['images']} {evidence['split']} images of {evidence['patients']} patients"
    for view, metrics in evidence["views"].items():
        if value := metrics.get("balanced_accuracy"):
            yield f"balanced accuracy, {view}: {_interval(value)}; {where}"
    if value := evidence.get("shifts", {}).get("worst_balanced_accuracy"):
        yield f"balanced accuracy, worst shift ({evidence['worst_shift']}): {_interval(value)}"
    if ece := evidence["views"].get("clean", {}).get("ece"):
        yield f"expected calibration error, clean: {ece[0]:.3f}"
    masking = evidence.get("masking")
    yield f"gradient-masking checks: {masking['verdict'] if masking else 'not run'}"


def _interval(value: Sequence[float | None]) -> str:
    point, low, high = value
    return f"{point:.3f}" + ("" if low is None or high is None else f" ({low:.3f} to {high:.3f})")
