"""The generated application: what lies in it, and, with MONAI Deploy, that it runs in a process of its own."""

import base64
import csv
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from rtda.pipeline.cli import main
from rtda.pipeline.delivery.deploy import package_wheel
from rtda.pipeline.delivery.structured_report import CLASSES

pytestmark = pytest.mark.filterwarnings("ignore")
DEPLOYABLE = importlib.util.find_spec("holoscan") is not None


def deployed(workshop, folder, *options, **changes):
    """The application of the phantom's bundle with changed metadata."""
    with zipfile.ZipFile(workshop / "rtda.zip") as archive:
        archive.extractall(folder)
    path = folder / "phantom_rtda/configs/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert main(["deploy", str(path.parents[1]), "-o", str(folder / "APP"), *options]) == 0
    return folder / "APP"


@pytest.fixture(scope="module")
def app(workshop, tmp_path_factory):
    return deployed(workshop, tmp_path_factory.mktemp("deployed"), trained_on={})


def test_an_application_is_whole_and_names_nothing_of_the_place_it_was_made_at(app, workshop):
    files = {path.relative_to(app).as_posix() for path in app.rglob("*") if path.is_file()}
    assert files == {
        "app/__main__.py", "app/app.py", "app/classifier_operator.py", "app.yaml", "requirements.txt", "README.md",
        "model/model.ts", "rtda-0.1.0-py3-none-any.whl",
    }  # fmt: skip
    for path in app.rglob("*"):
        if path.suffix in (".py", ".yaml", ".txt", ".md"):
            text = path.read_text()
            assert str(workshop) not in text
            assert "$" not in text
    assert (app / "requirements.txt").read_text().startswith("./rtda-0.1.0-py3-none-any.whl[sr,codecs]\n")
    for path in (app / "app").glob("*.py"):
        compile(path.read_text(), str(path), "exec")


@pytest.mark.parametrize("sr_class", CLASSES)
def test_the_class_of_its_reports_is_chosen_when_it_is_made(sr_class, workshop, tmp_path):
    app = deployed(workshop, tmp_path, "--sr-class", sr_class, trained_on={})
    assert f'SR_CLASS = "{sr_class}"' in (app / "app/classifier_operator.py").read_text()


def test_the_wheel_holds_every_module_and_its_record_is_true():
    name, content = package_wheel()
    assert package_wheel() == (name, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = set(archive.namelist())
        record = archive.read("rtda-0.1.0.dist-info/RECORD").decode()
        for path, digest, size in csv.reader(record.splitlines()):
            if digest:
                made = base64.urlsafe_b64encode(hashlib.sha256(archive.read(path)).digest()).rstrip(b"=").decode()
                assert (digest, int(size)) == (f"sha256={made}", len(archive.read(path)))
    root = Path(__file__).parents[1]
    for room in ("pipeline", "transforms"):
        assert {f"rtda/{path.relative_to(root).as_posix()}" for path in (root / room).rglob("*.py")} <= names
    assert "rtda/bundles/phantom_rtda/configs/train.yaml" in names
    assert "rtda/pipeline/delivery/deployed/app/app.py.txt" in names
    assert not [name for name in names if "__pycache__" in name]
    assert {path for path, *_ in csv.reader(record.splitlines())} == names


def test_what_cannot_be_deployed_is_refused(app, workshop, monkeypatch, capsys, tmp_path):
    assert main(["deploy", str(workshop / "rtda.zip"), "-o", str(app)]) == 2
    assert "APP: output: not empty; give a new folder" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert main(["deploy", str(workshop / "rtda.zip"), "-o", str(tmp_path / "new")]) == 2
    assert "highdicom: not installed; pip install 'rtda[deploy]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(not DEPLOYABLE, reason="pip install 'rtda[deploy]'")
class TestInAProcessOfItsOwn:
    @pytest.fixture
    def films(self, write_film, tmp_path):
        def write(name, study, **fields):
            path = tmp_path / "input" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(len(name)).integers(0, 256, (40, 30)).astype(np.uint8)
            stated = {"PatientName": "Zebra^Quagga", "PatientID": "Z4711", "StudyInstanceUID": study}
            stated |= {"SeriesInstanceUID": f"{study}.1", "SOPInstanceUID": f"{study}.1.{len(name)}"}
            return write_film(path, pixels, **(stated | fields))

        return write

    def run(self, app, tmp_path, out="out"):
        command = f"ulimit -s 32768; exec {sys.executable} {app / 'app'} -i input -o {out} -m {app / 'model/model.ts'}"
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        (tmp_path / "input").mkdir(exist_ok=True)
        return subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, env=environment)

    def test_it_answers_and_says_nothing_of_the_patient(self, app, films, tmp_path):
        films("secret/a", "1.2.840.9.1")
        films("secret/deeper/bb", "1.2.840.9.2")
        (tmp_path / "input/notes.txt").write_text("no DICOM")
        done = self.run(app, tmp_path)
        assert done.returncode == 0, done.stderr
        assert "2 studies, 1 files that are not DICOM" in done.stdout
        assert not [word for word in ("Zebra", "Z4711", "secret", str(tmp_path)) if word in done.stdout + done.stderr]
        told = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")]
        assert {study["study_instance_uid"] for study in told} == {"1.2.840.9.1", "1.2.840.9.2"}
        for study in told:
            report = pydicom.dcmread(tmp_path / f"out/{study['structured_report']['sop_instance_uid']}.dcm")
            assert report.PatientID == "Z4711"
            assert report.StudyInstanceUID == study["study_instance_uid"]
        before = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert self.run(app, tmp_path).returncode == 0
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before

    def test_an_empty_folder_and_a_corrupt_file_are_errors(self, app, films, tmp_path):
        done = self.run(app, tmp_path)
        assert done.returncode == 1
        assert "refused: files: none below the folders given" in done.stderr
        path = films("broken", "1.2.840.9.1")
        path.write_bytes(path.read_bytes()[:-600])
        assert self.run(app, tmp_path).returncode == 1
        assert not list((tmp_path / "out").glob("*.dcm"))

    def test_an_unlike_image_is_refused_with_a_status_of_its_own(self, workshop, films, tmp_path):
        known = {"modality": {"known": ["CR"], "unknown": "refuse"}}
        app = deployed(workshop, tmp_path / "made", trained_on=known)
        films("a", "1.2.840.9.1")
        films("bb", "1.2.840.9.2", Modality="CR", SOPClassUID=pydicom.uid.ComputedRadiographyImageStorage)
        assert self.run(app, tmp_path).returncode == 3
        assert len(list((tmp_path / "out").glob("*.json"))) == 2
        assert len(list((tmp_path / "out").glob("*.dcm"))) == 1
