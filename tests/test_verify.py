"""``rtda verify``: a good bundle passes, and each planted fault is caught and named."""

import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rtda.pipeline.cli import main
from rtda.pipeline.delivery.bundle import INSTALLED, Bundle
from rtda.pipeline.delivery.checks import CHECKS, Subject, raised
from rtda.pipeline.delivery.privacy import secrets
from rtda.pipeline.delivery.verify import found, verify

QUICK = ("files", "changelog", "metadata schema", "weights", "checksums", "classes", "value range", "privacy")
"""Checks that every damaged bundle is put through, so that a fault is seen to be caught where it belongs."""


@pytest.fixture(scope="module")
def whole(workshop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with zipfile.ZipFile(workshop / "rtda.zip") as archive:
        archive.extractall(folder)
    return folder / "phantom_rtda"


@pytest.fixture
def bundle(whole, tmp_path):
    return Bundle(Path(shutil.copytree(whole, tmp_path / "phantom_rtda")))


def edit(name, *pairs):
    def damage(root):
        text = (root / name).read_text()
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        (root / name).write_text(text)

    return damage


def metadata(change):
    def damage(root):
        path = root / "configs/metadata.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def of_image(**changes):
    return metadata(lambda content: content["network_data_format"]["inputs"]["image"].update(changes))


def swapped(content):
    channels = content["network_data_format"]["outputs"]["pred"]["channel_def"]
    channels["0"], channels["1"] = channels["1"], channels["0"]


def retrained(root):
    """Other weights, whose file's checksum was mended by hand."""
    content = torch.load(root / "models/model.pt", weights_only=True)
    next(iter(content.values())).add_(1)
    torch.save(content, root / "models/model.pt")


def executed(root):
    torch.save({"weights": Path}, root / "models/model.pt")


def nested(root):
    """As checkpoints of training are, and the model zoo's weights are not."""
    torch.save({"model": torch.load(root / "models/model.pt", weights_only=True)}, root / "models/model.pt")


def cut(root):
    """The network of another number of channels."""
    content = torch.load(root / "models/model.pt", weights_only=True)
    content["network.conv1.weight"] = content["network.conv1.weight"][:1].clone()
    torch.save(content, root / "models/model.pt")


def leave(name, content):
    return lambda root: (root / name).write_bytes(content)


FAULTS = {
    "no licence": (lambda root: (root / "LICENSE").unlink(), "files", r"^LICENSE: missing; a bundle has"),
    "no weights": (lambda root: (root / "models/model.pt").unlink(), "files", r"^models/model\.pt: missing"),
    "a version that no one describes": (
        metadata(lambda content: content.update(version="9.9.9")),
        "changelog",
        r"changelog: nothing of version 9\.9\.9",
    ),
    "no task": (metadata(lambda content: content.pop("task")), "metadata schema", "'task' is a required property"),
    "other channels": (of_image(num_channels=3), "network in and out", r"."),
    "no evaluator": (edit("configs/inference.yaml", ("evaluator:", "judge:")), "inference workflow", r"evaluator"),
    "no trainer": (edit("configs/train.yaml", ("  trainer:", "  coach:")), "training workflow", r"trainer"),
    "classes in another order": (
        metadata(swapped),
        "classes",
        "label_classes: 0: no lesion, 1: lesion; channel_def has 0: lesion, 1: no lesion$",
    ),
    "another range": (
        of_image(value_range=[0, 255]),
        "value range",
        r"^configs/inference\.yaml: preprocessing: \[0, 1\] of films from black to white, but .* is \[0, 255\]$",
    ),
    "bounds of another range": (
        edit("configs/train.yaml", ("attacks.PGD\n", "attacks.PGD\n  bounds: [-1, 1]\n")),
        "value range",
        r"^configs/train\.yaml: attack: bounds \[-1, 1\], but value_range is \[0, 1\]$",
    ),
    "other weights": (retrained, "checksums", r"^models/model\.pt: checksum: not that of the metadata"),
    "weights of a checkpoint": (nested, "weights", r"^models/model\.pt: the state lies under 'model'; save it alone"),
    "evidence of other weights": (
        metadata(lambda content: content["rtda"].update(weights_sha256="0" * 64)),
        "checksums",
        r"^configs/metadata\.json: rtda: weights_sha256: its evidence is of other weights; pack it again$",
    ),
    "weights that execute": (executed, "weights", r"^models/model\.pt: not weights alone: "),
    "weights of another network": (
        cut,
        "weights",
        r"^models/model\.pt: network\.conv1\.weight: \[1, 1, 7, 7\], and \[16, 1, 7, 7\] in the network; give the",
    ),
    "no folder of weights": (lambda root: shutil.rmtree(root / "models"), "files", r"^models/model\.pt: missing"),
    "no sums": (
        metadata(lambda content: content["rtda"].pop("files_sha256")),
        "checksums",
        r"^configs/metadata\.json: rtda: files_sha256: missing; state it$",
    ),
    "no network": (
        edit("configs/inference.yaml", ("networks.Standardized", "networks.Standard")),
        "network in and out",
        r"^configs/inference\.yaml: network_def: cannot be made: ModuleNotFoundError: .*; correct it$",
    ),
    "a path of somebody's disk": (
        edit("docs/README.md", ("\n", "\nTrained from /home/somebody/films.\n")),
        "privacy",
        r"^docs/README\.md: line 2: an absolute path; remove it",
    ),
    "a path and an address": (
        edit("docs/README.md", ("\n", "\nOf somebody@example.org, from /home/somebody/films.\n")),
        "privacy",
        r"^docs/README\.md: line 2: an absolute path; remove it; after it, 1 more$",
    ),
    "a film": (leave("docs/film", bytes(128) + b"DICM"), "privacy", r"^docs/film: DICOM: images and archives"),
    "an address of a host": (
        edit("configs/train.yaml", ("seed: 0", "seed: 0  # see http://ris.example.org")),
        "privacy",
        r"^configs/train\.yaml: line \d+: an address; only docs may name one",
    ),
}
CAUSES = {
    "other weights": {"checksums"},
    "weights of a checkpoint": {"checksums"},
    "weights that execute": {"weights", "checksums"},
    "weights of another network": {"checksums"},
    "no network": {"weights", "classes", "value range"},
    "no weights": {"weights", "checksums"},
    "no folder of weights": {"weights", "checksums"},
}
"""Further checks that a fault cannot but fail."""


@pytest.mark.parametrize("name", FAULTS)
def test_each_planted_fault_is_caught_and_named(name, bundle, tmp_path):
    damage, check, told = FAULTS[name]
    damage(bundle.root)
    subject = Subject(Bundle(bundle.root), tmp_path)
    findings = {one: found(subject, one).fault for one in {check, *QUICK}}
    assert re.search(told, findings[check])
    others = {one for one, fault in findings.items() if fault} - {check} - CAUSES.get(name, set())
    assert not others or name == "other channels"


def test_each_check_says_that_there_are_no_weights_and_what_to_do(bundle, tmp_path):
    (bundle.root / "models/model.pt").unlink()
    subject = Subject(bundle, tmp_path)
    for name in ("weights", "ckpt_export", "inference elsewhere"):
        told = "models/model.pt: missing; put the weights there, or pack a run: rtda pack RUN -o ZIP"
        assert found(subject, name).fault == told


@pytest.mark.parametrize("content", ["{\n  broken", "[]", None])
def test_every_check_that_reads_metadata_names_them_where_they_cannot_be_read(content, bundle, tmp_path):
    path = bundle.root / "configs/metadata.json"
    path.unlink() if content is None else path.write_text(content)
    cures = {"[]": "not a JSON object; correct it", None: "missing; restore it"}
    told = f"phantom_rtda: configs/metadata.json: {cures.get(content, 'line 2: not JSON; correct it')}"
    subject = Subject(bundle, tmp_path)
    assert {found(subject, name).fault for name in CHECKS if name not in ("files", "privacy")} == {told}


def test_a_configuration_that_is_not_yaml_is_named_with_the_line(bundle, tmp_path):
    (bundle.root / "configs/inference.yaml").write_text("imports: []\nnetwork_def: [\nrun: 2\n")
    subject = Subject(bundle, tmp_path)
    for name in ("weights", "inference workflow", "ckpt_export", "inference elsewhere"):
        assert re.fullmatch(r"inference\.yaml: line \d: not YAML; correct it", found(subject, name).fault)


def test_what_a_library_says_comes_with_file_and_cure_and_without_folders(bundle, tmp_path):
    edit("configs/train.yaml", ("  mean: 0.4", "  mean: $float(open('/storage/jane/mean.txt').read())"))(bundle.root)
    fault = found(Subject(bundle, tmp_path), "training workflow").fault
    assert re.fullmatch(r"configs/train\.yaml: FileNotFoundError: .*: 'mean\.txt'; correct it", fault)


def test_of_a_process_its_first_cause_is_told():
    """As MONAI 1.6 ends where an evaluator fails: its last line is the expression that was evaluated."""
    trace = 'Traceback (most recent call last):\n  File "a.py", line 1, in run\n    act()\n    ^^^^^\n'
    link = "\nThe above exception was the direct cause of the following exception:\n\n"
    wrapped = f'{trace}ValueError: a film is black\n{link}{trace}RuntimeError: Failed to evaluate:\n"$@run()"\n'
    assert raised(f"a warning\n{wrapped}") == "ValueError: a film is black"
    during = "\nDuring handling of the above exception, another exception occurred:\n\n"
    assert raised(f"{trace}KeyError: 1\n{during}{wrapped}") == "ValueError: a film is black"
    assert raised("Killed\n") == ""


def test_what_is_no_packed_bundle_is_refused_with_the_cure(workshop, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for name, told in {
        str(tmp_path / "empty"): "rtda: empty: configs/: missing; give a folder that has it, or a packed zip\n",
        str(tmp_path / "none"): "rtda: none: bundle: not found; give a bundle folder, a packed zip, or one of chest_",
        str(workshop / "runs/rtda"): "rtda: rtda: bundle: not packed yet; pack the run first: rtda pack RUN -o ZIP",
    }.items():
        assert main(["verify", name]) == 2
        assert capsys.readouterr().err.startswith(told)


def test_a_good_bundle_passes_the_quick_checks(bundle, tmp_path):
    subject = Subject(bundle, tmp_path)
    assert [found(subject, name).fault for name in CHECKS if name != "inference elsewhere"] == [""] * (len(CHECKS) - 1)


@pytest.mark.process
@pytest.mark.slow
def test_a_good_bundle_passes_every_check_in_a_process_of_its_own_too(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert [(one.check, one.fault) for one in verify(Bundle(whole))] == [(name, "") for name in CHECKS]
    assert main(["verify", str(whole), "--json"]) == 0
    stated = json.loads(capsys.readouterr().out)
    assert [one["check"] for one in stated["findings"]] == list(CHECKS)
    broken = Path(shutil.copytree(whole, "phantom_rtda"))
    edit("configs/inference.yaml", ("ClassificationSaver", "NoSaver"))(broken)
    (finding,) = (one for one in verify(Bundle(broken)) if one.check == "inference elsewhere")
    assert finding.fault.startswith("configs/inference.yaml: fails in a process of its own: ModuleNotFoundError: ")
    assert finding.fault.endswith("'NoSaver'; correct it")


def test_a_bundle_without_weights_is_told_so(capsys):
    root = INSTALLED / "phantom_rtda"
    assert found(Subject(Bundle(root), root), "files").fault.startswith("models/model.pt: missing")
    assert not list(secrets(root))


PATH, WINDOWS, SHARE = "an absolute path", "an absolute path of Windows", "a share of a network"
HOST, NAME, ATTRIBUTE = "a host", "a person's name", "a patient's attribute"
TRACES = {
    "see /data/films/1.dcm": PATH,
    "'/storage/x/films'": PATH,
    "/nfs/x/y": PATH,
    "/usr/local/x": PATH,
    "/Volumes/x": PATH,
    "server:/export/films": PATH,
    "$'/home/x/' + @run_name": PATH,
    "file:///home/x": PATH,
    "~/films": PATH,
    "~jane/films": PATH,
    r"C:\films\1.dcm": WINDOWS,
    "D:/films/1.dcm": WINDOWS,
    r"\\server\share\x": SHARE,
    "//server/share/x": SHARE,
    "smb://server/share": SHARE,
    "at 192.168.1.7": HOST,
    "pacs.hospital.local": HOST,
    "pacs01.klinikum.de:104": HOST,
    "pacs01:11112": HOST,
    "somebody@example.org": "an e-mail address",
    "1.2.840.113619.2.62.994044785528.114289542805": "a UID",
    "of Doe^Jane": NAME,
    "MÜLLER-MEIER^JÖRG^^Dr.": NAME,
    "PatientID: 4711": ATTRIBUTE,
    "PatientBirthDate=19700101": ATTRIBUTE,
    "patient_name: 'Doe'": ATTRIBUTE,
    '"AccessionNumber": ["4711"]': ATTRIBUTE,
    "ReferringPhysicianName: Roe": ATTRIBUTE,
}
HARMLESS = (
    "Doe, version 1.6.1, 0.8.1/meta, runs/demo, a/b, and/or, mg/kg/day, …/configs/x, **/a/b",
    "$@bundle_root + '/eval'",
    "$@bundle_root + '/models/model.pt'",
    '"$@bundle_root + \\"/models/model.pt\\""',
    "$f'{@bundle_root}/models/model.pt'",
    "'$@bundle_root +\n  ''/models/model.pt'''",
    "models:/chest_xray_rtda/1",
    "[data](../../data_lists/README.md), `B/configs/train.yaml`, train.yaml:12, 3:4",
    "1.2.840.10008.5.1.4.1.1.1.1, SOP class of the standard; opencv 4.7.0.68",
    "x^2, e^x, PatientID or AccessionNumber, PatientName: null, PatientID:\nseed: 0, patient_id: '@id'",
    "Class A: normal; B: 0.5; 12:30",
)


@pytest.mark.parametrize("text", TRACES)
def test_what_must_not_travel_is_found_in_every_kind_of_file(text, tmp_path):
    what = TRACES[text]
    (tmp_path / "note.txt").write_text(f"first line\n{text}\n")
    (tmp_path / "note.yaml").write_text(f"key: {text}\n")
    (tmp_path / "note.json").write_text(json.dumps({"key": text}))
    (tmp_path / "escaped.yaml").write_text(yaml.safe_dump({"key": text}))
    (tmp_path / "wide.txt").write_text(text, encoding="utf-16")
    (tmp_path / "sum.bin").write_bytes(bytes(9) + f"a remark of a program: {text}".encode() + bytes(9))
    torch.save({"model": {text: torch.zeros(1)}}, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("more/note.txt", text)
    told = set(secrets(tmp_path))
    places = {"model.pt: data.pkl", "more.zip: note.txt", "note.txt: line 2", "wide.txt: line 1"}
    places |= {f"{name}: line 1" for name in ("note.yaml", "note.json", "escaped.yaml")}
    assert {f"{place}: {what}; remove it" for place in places} <= told
    assert f"sum.bin: line 1: {what}; remove it" in told or not text.isascii()
    assert all(text not in line for line in told)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_a_configuration_has_and_may_have_is_not_taken_for_a_secret(text, tmp_path):
    (tmp_path / "note.txt").write_text(f"first line\n{text}\n")
    torch.save({"model": {text: torch.zeros(1)}}, tmp_path / "model.pt")
    assert list(secrets(tmp_path)) == []


def test_a_suffix_on_a_line_of_its_own_does_not_move_what_is_told(tmp_path):
    (tmp_path / "a.yaml").write_text("a: $@bundle_root +\n  '/models/model.pt'\nb: /storage/films\n")
    assert list(secrets(tmp_path)) == ["a.yaml: line 3: an absolute path; remove it"]


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", "png"), ("JPEG", "jpg"), ("TIFF", "tif"), ("GIF", "gif")])
def test_an_image_is_found_beside_the_others_and_in_a_zip_within_a_zip(kind, suffix, tmp_path):
    buffer, inner = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(buffer, kind)
    (tmp_path / "film").write_bytes(buffer.getvalue())
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr(f"films/1.{suffix}", buffer.getvalue())
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.writestr("more.zip", inner.getvalue())
    told = f"{kind}: images and archives do not belong into a bundle; remove it"
    assert {f"film: {told}", f"outer.zip: 1.{suffix}: {told}"} <= set(secrets(tmp_path))


def test_dicom_is_found_without_its_preamble_too(film_header, tmp_path):
    film_header().save_as(tmp_path / "film", implicit_vr=True, little_endian=True)
    assert next(secrets(tmp_path)).startswith("film: DICOM: images and archives")


def test_a_zip_that_cannot_be_read_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("note.txt", "a remark")
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace(b"a remark", b"a remorse"[:8]))
    assert list(secrets(tmp_path)) == ["a.zip: zip: cannot be looked into; remove it"]


@pytest.mark.parametrize("name", ["chest_xray_rtda", "phantom_rtda"])
def test_a_shipped_bundle_tells_nothing(name):
    assert list(secrets(INSTALLED / name)) == []
