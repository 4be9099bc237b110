"""Against a real archive: films go in, the study comes out, is answered, and the report is found under it."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass

import numpy as np
import pydicom
import pytest
from rtda.pipeline.cli import main

TOOLS = ("Orthanc", "dcmsend", "getscu", "storescu")
DEPLOYABLE = importlib.util.find_spec("holoscan") is not None
pytestmark = pytest.mark.filterwarnings("ignore")
STUDY = "1.2.840.113619.99.1"
IN_PROCESS = (
    "import sys; from pathlib import Path; from rtda.pipeline.delivery.application import run; "
    "sys.exit(run(*map(Path, sys.argv[1:])))"
)


@dataclass(frozen=True)
class Archive:
    """Orthanc at work: what comes before a command so that it reaches it, and its port for DICOM on 127.0.0.1."""

    within: tuple[str, ...]
    port: int

    def ask(self, tool, *words, before=()):
        command = [*self.within, tool, *map(str, before), "127.0.0.1", str(self.port), *map(str, words)]
        return succeeding(command)


def succeeding(command, **how):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def own_network():
    """Whether a process may have a network of its own, which nothing else reaches: Orthanc listens on every address."""
    words = ["unshare", "-rn", "ip", "link", "set", "lo", "up"]
    tools = all(map(shutil.which, ("unshare", "nsenter", "ip")))
    return tools and subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.fixture
def archive(tmp_path):
    """Orthanc on free ports, its own process only; in a network of its own where that works, else on 127.0.0.1."""
    dicom, http = free_port(), free_port()
    settings = {
        **{"DicomPort": dicom, "HttpPort": http, "RemoteAccessAllowed": False, "DicomCheckCalledAet": False},
        **{"StorageDirectory": str(tmp_path / "orthanc"), "IndexDirectory": str(tmp_path / "orthanc")},
        **{"Plugins": [], "DicomModalities": {"getscu": ["GETSCU", "127.0.0.1", 104]}, "DicomAlwaysAllowGet": True},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    apart = own_network()
    start = ["unshare", "-rn", "sh", "-c", 'ip link set lo up; exec Orthanc "$0"'] if apart else ["Orthanc"]
    with (tmp_path / "orthanc.log").open("w") as log:
        process = subprocess.Popen([*start, str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
        try:
            for _ in range(240):
                if "DICOM server listening" in (tmp_path / "orthanc.log").read_text():
                    break
                assert process.poll() is None, (tmp_path / "orthanc.log").read_text()
                time.sleep(0.25)
            enter = ("nsenter", "--preserve-credentials", "-U", "-n", "-t", str(process.pid))
            yield Archive(enter if apart else (), dicom)
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture
def answer(workshop, tmp_path):
    """Answer a folder into another one: by the generated application where MONAI Deploy is installed."""
    with zipfile.ZipFile(workshop / "rtda.zip") as packed:
        packed.extractall(tmp_path / "bundle")
    path = tmp_path / "bundle/phantom_rtda/configs/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trained_on": {}}))
    assert main(["deploy", str(path.parents[1]), "-o", str(tmp_path / "APP")]) == 0
    model = tmp_path / "APP/model/model.ts"

    def run(films, out):
        if DEPLOYABLE:
            app = f"ulimit -s 32768; exec {sys.executable} {tmp_path}/APP/app -i {films} -o {out} -m {model}"
            return succeeding(["bash", "-c", app], env=os.environ | {"PYTHONWARNINGS": "ignore"})
        return succeeding([sys.executable, "-W", "ignore", "-c", IN_PROCESS, films, model, out])

    return run


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason="apt-get install orthanc dcmtk dicom3tools")
def test_the_report_goes_back_to_the_study_that_it_is_about(archive, answer, write_film, tmp_path):
    films = []
    for number in (1, 2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 30)).astype(np.uint8)
        identity = {"PatientName": "Zebra^Quagga", "PatientID": "Z4711", "StudyInstanceUID": STUDY, "StudyID": "1"}
        identity |= {"SeriesInstanceUID": f"{STUDY}.1", "SOPInstanceUID": f"{STUDY}.1.{number}"}
        films.append(write_film(tmp_path / f"film{number}.dcm", pixels, **identity, StudyDate="20260101"))
    archive.ask("dcmsend", *films)
    keys = ["-S", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
    (tmp_path / "got").mkdir()
    archive.ask("getscu", before=[*keys, "-od", tmp_path / "got"])
    assert len(list((tmp_path / "got").iterdir())) == 2
    told = answer(tmp_path / "got", tmp_path / "out")
    assert f"study {STUDY}: 2 answered, 0 left out" in told
    assert "Zebra" not in told
    (report,) = (tmp_path / "out").glob("*.dcm")
    for _ in range(2):  # the second replaces the first
        archive.ask("storescu", report, before=["-R"])
    (tmp_path / "again").mkdir()
    archive.ask("getscu", before=[*keys, "-od", tmp_path / "again"])
    found = {(one.Modality, one.SOPInstanceUID) for one in map(pydicom.dcmread, (tmp_path / "again").iterdir())}
    assert found == {("DX", f"{STUDY}.1.1"), ("DX", f"{STUDY}.1.2"), ("SR", report.stem)}
