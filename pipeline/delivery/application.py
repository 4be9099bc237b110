"""What a deployed application does with a folder of DICOM: for each study one JSON and one structured report.

The report is the only output that names a patient: files are named by UIDs or hashes, and neither JSON nor terminal
shows a name, a path, or what a header says of a person. Needs highdicom (``pip install 'rtda[deploy]'``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from ..data.lists import file_of
from ..files import write_whole
from .infer import Answer, Classifier, prefix_of, reason
from .structured_report import CLASSES, RESEARCH, Reported, Reporter, ReportError, structured_report
from .studies import DONE, FAILED, REFUSED, File, Study, grouped, silent, values, worst

SELECTION = {"burned_in": ("reject", "keep"), "repeats": ("last", "all")}
"""Field of the rule of selection -> what it may be, first what holds where the metadata state none: copies with
burnt-in text are left out, and of several images of one view the last stands for all."""
VIEW = ("film_sop_class", "film_body_part", "film_laterality", "film_projection")
"""The reader's facts by which images are of one view; one that states no projection stands for itself."""
Images = list[tuple[int | None, Answer]]
"""Number of the frame, from 1, or None, and the answer; of each image of a file."""


@silent()
def run(folder: Path, model: Path, out: Path, sr_class: str = CLASSES[0]) -> int:
    """Answer every study in a folder; returns the exit status.

    Args:
        folder: DICOM as archives store it: nested folders, any names.
        model: TorchScript that ``rtda export`` made of a bundle, or the folder that holds it.
        out: folder for a JSON and a report of each study.
        sr_class: of the report.

    Raises:
        ValueError: nothing below the folder is a DICOM image; there is no model, or it carries no metadata, no codes,
            or an unknown rule of selection.
    """
    classifier = Classifier.of_program(_program(model))
    by, rule = reporter(classifier.metadata), selection(classifier.metadata)
    studies, foreign = grouped(folder)
    if all(file.other for study in studies for file in study.files):
        raise ReportError("input: no DICOM image below the folder; give a folder that holds some")
    for study in studies:
        _answer(study, classifier, rule)
        written = _report(study, by, classifier.classes, out, sr_class)
        text = json.dumps(_told(study, by, classifier, written), indent=1, ensure_ascii=False)
        write_whole(out / f"{study.name}.json", f"{text}\n".encode())
        print(f"study {study.name}: {len(study.chosen)} answered, {len(study.rejected)} left out", flush=True)
    print(f"{len(studies)} studies, {foreign} files that are not DICOM", flush=True)
    answered = any(study.chosen for study in studies)
    return worst(DONE if answered else REFUSED, *(study.status for study in studies))


def _program(model: Path) -> Path:
    """The model's file; containers and the SDK name its folder."""
    files = [path for path in (model, *model.rglob("*.ts")) if path.is_file()]
    if len(files) != 1:
        cure = "give the one that rtda deploy wrote: -m APP/model/model.ts"
        raise ReportError(f"{model.name}: model: {len(files) or 'no'} TorchScript files (.ts) there; {cure}")
    return files[0]


def selection(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The rule of selection that the metadata state, completed.

    Raises:
        ReportError: an unknown field or value.

    Example:
        >>> selection({"selection": {"repeats": "all"}})
        {'burned_in': 'reject', 'repeats': 'all'}
    """
    rule: dict[str, str] = {name: allowed[0] for name, allowed in SELECTION.items()} | metadata.get("selection", {})
    for name, value in rule.items():
        if name not in SELECTION:
            raise ReportError(f"metadata.json: selection: {name} is unknown; state {' or '.join(SELECTION)}")
        if value not in SELECTION[name]:
            raise ReportError(f"metadata.json: selection: {name}: {value!r}; state {' or '.join(SELECTION[name])}")
    return rule


def _answer(study: Study, classifier: Classifier, rule: Mapping[str, str]) -> None:
    """Answer the images of a study that can be read, that the guard lets through, and that the rule chooses.

    In this order: an image that is not answered must not stand for another one.
    """
    accepted = [(file, images) for file in study.images() if (images := _answers(study, file, classifier))]
    for file, images in _chosen(study, accepted, rule):
        study.chosen += [(file, frame, answer) for frame, answer in images]


def _answers(study: Study, file: File, classifier: Classifier) -> Images:
    """The answers on the images of a file; what cannot be read, or is refused by the guard, is rejected."""
    try:
        frames = classifier.frames(file.path)
        answers = [(number, classifier.answer(image)) for number, image in frames.items()]
    except Exception as error:  # of a reader that refuses, or a decoder
        study.reject(file, _without_name(reason(error, file_of(file.path)), file.path), FAILED)
        return []
    if refused := [one.told for _, answer in answers for one in answer.deviations if one.refused]:
        study.reject(file, f"unlike the training images: {'; '.join(dict.fromkeys(refused))}", REFUSED)
        return []
    return [(number + 1 if len(answers) > 1 else None, answer) for number, answer in answers]


def _without_name(told: str, path: Path) -> str:
    """A refusal without the name of its file, which may be a person's."""
    rest = told.removeprefix(prefix_of(file_of(path)))
    name = rf"(?<!\w){re.escape(path.name)}(?!\w)"
    return re.sub(name, "it", rest) if len(path.name) > 2 else rest  # an archive's 1 or a7 is nobody's name


def _chosen(
    study: Study, accepted: Sequence[tuple[File, Images]], rule: Mapping[str, str]
) -> list[tuple[File, Images]]:
    """What the rule of selection leaves; the others are rejected with the reason."""
    kept: dict[Any, tuple[File, Images]] = {}
    instances = set()
    for file, images in sorted(accepted, key=lambda one: one[0].taken):
        key = _view(images) if rule["repeats"] == "last" else None
        if rule["burned_in"] == "reject" and "YES" in values(file.header, "BurnedInAnnotation"):
            study.reject(file, "BurnedInAnnotation: YES; a copy with text, as the rule of selection has it")
        elif file.name in instances:
            study.reject(file, "SOPInstanceUID: the same image is stored twice; it is answered once")
        else:
            instances.add(file.name)
            if key in kept:
                study.reject(kept[key][0], "repeated: the last image of this view stands for it")
            kept[key or file.name] = file, images
    return list(kept.values())


def _view(images: Images) -> tuple[str, ...] | None:
    """Of which view the images of a file are; None where the header does not say."""
    meta = images[0][1].meta
    return tuple(str(meta.get(name, "")) for name in VIEW) if meta.get("film_projection") else None


def _report(study: Study, by: Reporter, classes: Sequence[str], out: Path, sr_class: str) -> dict[str, Any] | None:
    """Write the structured report of what was answered; its UID and the attributes that are empty in it."""
    if not study.chosen:
        return None
    reported = [
        Reported(file.header, dict(zip(classes, answer.probabilities, strict=True)), frame)
        for file, frame, answer in study.chosen
    ]
    try:
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
        "study_instance_uid": study.name,
        "threshold": classifier.threshold,
        "images": [_image(file, frame, answer, classifier) for file, frame, answer in study.chosen],
        "left_out": study.rejected,
        "structured_report": dict(written) if written else None,
        "status": study.status,
    }


def _image(file: File, frame: int | None, answer: Answer, classifier: Classifier) -> dict[str, Any]:
    decided = {name: answer.meta.get(f"film_{name}") for name in ("window", "rescale", "polarity", "padding", "crop")}
    return {
        "sop_instance_uid": file.name,
        **({} if frame is None else {"frame": frame}),
        "probabilities": {name: round(p, 6) for name, p in zip(classifier.classes, answer.probabilities, strict=True)},
        "predicted": classifier.predicted(answer.probabilities),
        "warnings": [one.told for one in answer.deviations],
        "decided": {name: value for name, value in decided.items() if value not in (None, "")},
        "stated": file.stated,
    }


def reporter(metadata: Mapping[str, Any]) -> Reporter:
    """Who reports, from the metadata that an exported file carries."""
    stated = metadata.get("rtda", {})
    if "sr" not in metadata:
        raise ReportError("metadata.json: sr: missing; state there the codes of procedure, certainty and findings")
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
