"""``rtda verify``: a good bundle passes, and each planted fault is caught and named."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from rtda.pipeline.cli import main
from rtda.pipeline.delivery.bundle import INSTALLED, Bundle
from rtda.pipeline.delivery.checks import CHECKS, Subject
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
    "weights that execute": (executed, "weights", r"^models/model\.pt: not weights alone: "),
    "a path of somebody's disk": (
        edit("docs/README.md", ("\n", "\nTrained from /home/somebody/films.\n")),
        "privacy",
        r"^docs/README\.md: line 2: an absolute path; remove it",
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
    "no weights": set(QUICK),
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
    assert finding.fault.startswith("configs/inference.yaml: fails in a process of its own: ")


def test_a_bundle_without_weights_is_told_so(capsys):
    root = INSTALLED / "phantom_rtda"
    assert found(Subject(Bundle(root), root), "files").fault.startswith("models/model.pt: missing")
    assert not list(secrets(root))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("see /data/films/1.dcm", "an absolute path"),
        (r"C:\films\1.dcm", "an absolute path of Windows"),
        ("at 192.168.1.7", "a host"),
        ("pacs.hospital.local", "a host"),
        ("somebody@example.org", "an e-mail address"),
        ("1.2.840.113619.2.62.994044785528.114289542805", "a UID"),
        ("Doe, version 1.6.1, 0.8.1/meta, runs/demo, $@bundle_root + '/eval', a/b, and/or", None),
    ],
)
def test_what_must_not_travel_is_found_in_text_and_inside_weights(text, what, tmp_path):
    (tmp_path / "note.txt").write_text(f"first line\n{text}\n")
    torch.save({"model": {text: torch.zeros(1)}}, tmp_path / "model.pt")
    told = list(secrets(tmp_path))
    if what is None:
        assert told == []
    else:
        assert f"note.txt: line 2: {what}; remove it" in told
        assert f"model.pt: data.pkl: {what}; remove it" in told
        assert all(text not in line for line in told)
