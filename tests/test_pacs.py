"""Against a real archive: films go in, the study comes out, is answered, and the report is found under it."""

import json
import shutil
import socket
import subprocess
import sys
import time
import zipfile

import numpy as np
import pydicom
import pytest
from rtda.pipeline.cli import main

TOOLS = ("Orthanc", "dcmsend", "getscu", "storescu")
pytestmark = pytest.mark.filterwarnings("ignore")
STUDY = "1.2.840.113619.99.1"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def archive(tmp_path):
    """Orthanc on free ports of this machine, its own process only; (host, port) for DICOM."""
    dicom, http = free_port(), free_port()
    settings = {
        **{"DicomPort": dicom, "HttpPort": http, "RemoteAccessAllowed": False, "DicomCheckCalledAet": False},
        **{"StorageDirectory": str(tmp_path / "orthanc"), "IndexDirectory": str(tmp_path / "orthanc")},
        **{"Plugins": [], "DicomModalities": {"getscu": ["GETSCU", "127.0.0.1", 104]}, "DicomAlwaysAllowGet": True},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    log = (tmp_path / "orthanc.log").open("w")
    process = subprocess.Popen(["Orthanc", str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    try:
        for _ in range(120):
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", dicom)) == 0:
                    break
            assert process.poll() is None, (tmp_path / "orthanc.log").read_text()
            time.sleep(0.5)
        yield "127.0.0.1", str(dicom)
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def ask(*words):
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason="apt-get install orthanc dcmtk dicom3tools")
def test_the_report_goes_back_to_the_study_that_it_is_about(workshop, archive, write_film, tmp_path):
    with zipfile.ZipFile(workshop / "rtda.zip") as packed:
        packed.extractall(tmp_path / "bundle")
    path = tmp_path / "bundle/phantom_rtda/configs/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trained_on": {}}))
    assert main(["export", str(path.parents[1]), "--to", "ts", "-o", str(tmp_path / "model.ts")]) == 0
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30)).astype(np.uint8)
    identity = {"PatientName": "Zebra^Quagga", "PatientID": "Z4711", "StudyInstanceUID": STUDY, "StudyID": "1"}
    identity |= {"SeriesInstanceUID": f"{STUDY}.1", "SOPInstanceUID": f"{STUDY}.1.1", "StudyDate": "20260101"}
    film = write_film(tmp_path / "film.dcm", pixels, **identity)
    ask("dcmsend", *archive, film)
    (tmp_path / "got").mkdir()
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
    ask("getscu", "-S", *keys, "-od", tmp_path / "got", *archive)
    assert len(list((tmp_path / "got").iterdir())) == 1
    code = (
        "import sys; from pathlib import Path; from rtda.pipeline.delivery.application import run; "
        "sys.exit(run(*map(Path, sys.argv[1:])))"
    )
    ask(sys.executable, "-W", "ignore", "-c", code, tmp_path / "got", tmp_path / "model.ts", tmp_path / "out")
    (report,) = (tmp_path / "out").glob("*.dcm")
    for _ in range(2):  # the second replaces the first
        ask("storescu", "-R", *archive, report)
    (tmp_path / "again").mkdir()
    ask("getscu", "-S", *keys, "-od", tmp_path / "again", *archive)
    found = {(one.Modality, one.SOPInstanceUID) for one in map(pydicom.dcmread, (tmp_path / "again").iterdir())}
    assert found == {("DX", f"{STUDY}.1.1"), ("SR", report.stem)}
