"""The generated application: what lies in it, and, with MONAI Deploy, that it runs in a process of its own."""

import base64
import contextlib
import csv
import hashlib
import importlib.util
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import jsonschema
import numpy as np
import pydicom
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.transforms import Compose
from rtda.pipeline.cli import main
from rtda.pipeline.delivery.bundle import Run, find_bundle, read_yaml
from rtda.pipeline.delivery.deploy import package_wheel
from rtda.pipeline.delivery.programs import CARRIED
from rtda.pipeline.delivery.structured_report import CLASSES
from rtda.pipeline.networks import Standardized
from rtda.pipeline.views import plain

pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).parents[1]
DEPLOYABLE = importlib.util.find_spec("holoscan") is not None


def deployed(workshop, folder, *options, **changes):
    """The application of the phantom's bundle with changed metadata."""
    with zipfile.ZipFile(workshop / "rtda.zip") as archive:
        archive.extractall(folder)
    return applied(folder / "phantom_rtda", folder / "APP", *options, **changes)


def applied(bundle, app, *options, **changes):
    path = bundle / "configs/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert main(["deploy", str(bundle), "-o", str(app), *options]) == 0
    return app


class Witness(torch.nn.Module):
    """In place of a network: writes each image that reaches it to a file, and tells by its logits which it was."""

    def __init__(self, file: str):
        super().__init__()
        self.file = file
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = 1 + int(self.seen.item()) * x.numel()  # a file that grows loses its first byte
        kept = torch.from_file(self.file, True, first + x.numel())[first:]
        kept.copy_(x.flatten())
        told = torch.stack([0 * kept.sum(), 0.01 * self.seen[0]])  # of what was kept, or the compiler leaves it out
        self.seen += 1
        return told[None]


def witnessed(app, folder):
    """Replace an application's network by a witness; returns the file it will write."""
    carried = dict.fromkeys(CARRIED, "")
    torch.jit.load(app / "model/model.ts", _extra_files=carried)
    torch.jit.save(torch.jit.script(Witness(str(folder / "seen"))), app / "model/model.ts", _extra_files=carried)
    return folder / "seen"


def called(image):
    """Which call of the witness answered an image of the JSON."""
    negative, positive = image["probabilities"].values()
    return round(100 * math.log(positive / negative))


def trained(bundle, folder):
    """SOP instance and frame -> the tensors that training's chain makes of the files that have it."""
    parser = ConfigParser(read_yaml(bundle / "configs/train.yaml"))
    chain, reader = Compose(parser.get_parsed_content("preprocessing")), parser.get_parsed_content("reader")
    made = defaultdict(list)
    for file in filter(Path.is_file, sorted(folder.rglob("*"))):
        with contextlib.suppress(Exception):  # what cannot be read, as the application leaves it out
            uid = pydicom.dcmread(file, stop_before_pixels=True, force=True).get("SOPInstanceUID")
            frames = reader.frames(file)
            for number, image in frames.items():
                with contextlib.suppress(Exception):
                    tensor = plain(chain({"image": str(image), "label": 0})["image"])
                    made[uid, number + 1 if len(frames) > 1 else None].append(tensor)
    return made


def inferred(bundle, folder, tmp_path):
    """The tensors that reach the network of ``rtda infer``."""
    seen = []

    def keep(module, given):
        if isinstance(module, Standardized):
            seen.append(given[0][0].clone())

    with torch.nn.modules.module.register_module_forward_pre_hook(keep):
        main(["infer", str(bundle), str(folder), "-o", str(tmp_path / "out.csv")])
    return seen


def counted(tensors):
    return Counter(tensor.numpy().tobytes() for tensor in tensors)


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
    assert (app / "requirements.txt").read_text() == "./rtda-0.1.0-py3-none-any.whl[deploy]\n"
    for path in (app / "app").glob("*.py"):
        compile(path.read_text(), str(path), "exec")


def test_the_extra_that_it_installs_covers_what_it_imports():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["deploy"]
    assert "rtda[sr,codecs]" in extra
    assert any(one.startswith("monai-deploy-app-sdk") for one in extra)


def test_its_configuration_is_what_the_packager_reads(app):
    stated = yaml.safe_load((app / "app.yaml").read_text())
    assert stated["application"] == {
        "title": "phantom_rtda", "version": "0.1.0", "input-formats": ["file"], "output-formats": ["file"],
    }  # fmt: skip
    assert "resources" in stated


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/deploy.md", "APP/README.md"])
def test_the_documented_command_finds_the_wheel(page, app):
    text = (app.parent / page if page.startswith("APP") else ROOT / page).read_text()
    line = next(line for line in text.splitlines() if "pip install -r" in line)
    pip = f"{sys.executable} -m pip install --dry-run --no-deps --no-index"
    here = app.parent if page.startswith("docs") else app
    done = subprocess.run(line.replace("pip install", pip), shell=True, cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
        assert "\nName: rtda\n" in archive.read("rtda-0.1.0.dist-info/METADATA").decode()
        for path, digest, size in csv.reader(record.splitlines()):
            if digest:
                made = base64.urlsafe_b64encode(hashlib.sha256(archive.read(path)).digest()).rstrip(b"=").decode()
                assert (digest, int(size)) == (f"sha256={made}", len(archive.read(path)))
    for room in ("pipeline", "transforms"):
        assert {f"rtda/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / room).rglob("*.py")} <= names
    assert "rtda/bundles/phantom_rtda/configs/train.yaml" in names
    assert "rtda/pipeline/delivery/deployed/app/app.py.txt" in names
    assert not [name for name in names if "__pycache__" in name or "/models/" in name]
    assert not [name for name in names if name.startswith("rtda/data_lists/") and name.endswith(".json")]
    assert len(content) < 2**20
    assert {path for path, *_ in csv.reader(record.splitlines())} == names


def test_what_cannot_be_deployed_is_refused(app, workshop, monkeypatch, capsys, tmp_path):
    assert main(["deploy", str(workshop / "rtda.zip"), "-o", str(app)]) == 2
    assert "APP: output: not empty; give a new folder" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert main(["deploy", str(workshop / "rtda.zip"), "-o", str(tmp_path / "new")]) == 2
    assert "highdicom: not installed; pip install 'rtda[deploy]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sr": None}, "metadata.json: sr: missing; state there the codes of procedure, certainty and findings"),
        ({"selection": {"repeats": "lats"}}, "metadata.json: selection: repeats: 'lats'; state last or all"),
    ],
)
def test_what_is_refused_leaves_nothing_so_that_the_next_try_is_made(changes, told, workshop, tmp_path, capsys):
    run = Path(shutil.copytree(workshop / "runs/rtda", tmp_path / "run"))
    path = run / "bundle/phantom_rtda/configs/metadata.json"
    own = path.read_text()
    changed = json.loads(own) | changes
    path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))
    words = ["deploy", str(run), "-o", str(tmp_path / "APP")]
    assert main(words) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "APP").exists()
    path.write_text(own)
    assert main(words) == 0


def test_a_run_on_a_list_of_its_own_is_deployed_once_its_metadata_state_what_the_page_says(workshop, tmp_path):
    run = Path(shutil.copytree(workshop / "runs/rtda", tmp_path / "run"))
    path = run / "bundle/phantom_rtda/configs/metadata.json"
    foreign = {"classes": ["no lesion", "lesion"], "source": "another"}
    path.write_text(json.dumps(Run(run).bundle.metadata_of(foreign)))
    words = ["deploy", str(run), "-o", str(tmp_path / "APP")]
    assert main(words) == 2
    (example,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/deploy.md").read_text(), re.DOTALL)
    stated = json.loads(example)
    stated["sr"]["findings"] = {"lesion": stated["sr"]["findings"]["pneumonia"]}
    content = json.loads(path.read_text()) | stated
    jsonschema.validate(content, json.loads((ROOT / "bundles/metadata.schema.json").read_text()))
    path.write_text(json.dumps(content))
    assert main(words) == 0


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

    def run(self, app, tmp_path, out="out", model="-m {}/model/model.ts", given="input"):
        command = f"ulimit -s 32768; exec {sys.executable} {app / 'app'} -i {given} -o {out} {model.format(app)}"
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

    def compared(self, bundle, folder, tmp_path):
        """The images that the application answers, after each tensor was compared."""
        app = applied(bundle, tmp_path / "APP", trained_on={}, selection={"burned_in": "keep", "repeats": "all"})
        file = witnessed(app, tmp_path)
        self.run(app, tmp_path, given=folder)
        chain = trained(bundle, folder)
        shape = next(iter(chain.values()))[0].shape
        seen = torch.from_numpy(np.fromfile(file, np.float32)[1:]).reshape(-1, *shape)
        told = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")]
        images = {(image["sop_instance_uid"], image.get("frame")): image for study in told for image in study["images"]}
        for key, image in images.items():
            assert any(torch.equal(seen[called(image)], tensor) for tensor in chain[key]), key
        of_training = counted(tensor for tensors in chain.values() for tensor in tensors)
        assert counted(seen) <= of_training == counted(inferred(bundle, folder, tmp_path))
        return images

    def test_bit_for_bit_the_same_tensor_reaches_the_network_as_in_training_and_inference(
        self, workshop, films, make_lut, tmp_path
    ):
        lut = make_lut(range(255, -1, -1))
        for number, photometric in enumerate(("MONOCHROME1", "MONOCHROME2")):
            for inside, fields in enumerate(({}, {"VOILUTSequence": [lut]}, {"WindowCenter": 100, "WindowWidth": 50})):
                name = "x" * (3 * number + inside + 1)
                films(name, f"1.2.840.9.{len(name)}", PhotometricInterpretation=photometric, **fields)
        with zipfile.ZipFile(workshop / "rtda.zip") as archive:
            archive.extractall(tmp_path)
        images = self.compared(tmp_path / "phantom_rtda", tmp_path / "input", tmp_path)
        assert len(images) == len({called(image) for image in images.values()}) == 6

    @pytest.mark.data
    def test_of_every_real_file_too(self, real_data, tmp_path):
        bundle = Path(shutil.copytree(find_bundle("chest_xray_rtda").root, tmp_path / "chest_xray_rtda"))
        images = self.compared(bundle, real_data / "dicom_reader/files", tmp_path)
        polarities = Counter(image["decided"]["polarity"] for image in images.values())
        assert len(images) >= 30
        assert polarities["inverted (MONOCHROME1)"] >= 2
        assert polarities["as stored (MONOCHROME2)"] >= 10

    def test_an_empty_folder_and_a_corrupt_file_are_errors(self, app, films, tmp_path):
        done = self.run(app, tmp_path)
        assert done.returncode == 1
        assert "refused: files: none below the folders given" in done.stderr
        path = films("broken", "1.2.840.9.1")
        path.write_bytes(path.read_bytes()[:-600])
        assert self.run(app, tmp_path).returncode == 1
        assert not list((tmp_path / "out").glob("*.dcm"))

    @pytest.mark.parametrize(("model", "named"), [("", "models"), ("-m input", "input")])
    def test_where_no_model_is_it_says_so_in_one_line(self, model, named, app, films, tmp_path):
        films("secret", "1.2.840.9.1")
        done = self.run(app, tmp_path, model=model)
        assert done.returncode == 1
        assert f"refused: {named}: model: no TorchScript files (.ts) there; give" in done.stderr
        assert "Traceback" not in done.stderr

    def test_wrong_arguments_have_a_status_of_their_own(self, app, films, tmp_path):
        films("secret", "1.2.840.9.1")
        assert self.run(app, tmp_path, model="-m nowhere").returncode == 2

    def test_headers_reach_neither_stream(self, app, films, tmp_path):
        films("secret", "1.2.840.9.1")
        path = films("secret2", "1.2.840.9.2")
        path.write_bytes(path.read_bytes().replace(b"1.2.840.9.2", b"Zebra^Quagg"))
        done = self.run(app, tmp_path)
        assert done.returncode == 1
        assert not [word for word in ("Zebra", "Z4711", "secret") if word in done.stdout + done.stderr]

    def test_an_unlike_image_is_refused_with_a_status_of_its_own(self, workshop, films, tmp_path):
        known = {"modality": {"known": ["CR"], "unknown": "refuse"}}
        app = deployed(workshop, tmp_path / "made", trained_on=known)
        films("a", "1.2.840.9.1")
        films("bb", "1.2.840.9.2", Modality="CR", SOPClassUID=pydicom.uid.ComputedRadiographyImageStorage)
        assert self.run(app, tmp_path).returncode == 3
        assert len(list((tmp_path / "out").glob("*.json"))) == 2
        assert len(list((tmp_path / "out").glob("*.dcm"))) == 1
