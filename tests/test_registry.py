"""MLflow's registry, and a run sent to MLflow again: what arrives there is what the folder holds."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from rtda.pipeline.cli import main
from rtda.pipeline.delivery.bundle import find_run
from rtda.pipeline.delivery.export import parts

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def run(workshop, tmp_path, monkeypatch):
    """A run of its own, with the MLflow file beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("rtda", "mlflow.db", "mlartifacts"):
        copy = shutil.copytree if (workshop / "runs" / name).is_dir() else shutil.copyfile
        Path("runs").mkdir(exist_ok=True)
        copy(workshop / "runs" / name, f"runs/{name}")
    return find_run("runs/rtda")


def client(folder="runs"):
    return MlflowClient(f"sqlite:///{Path(folder).resolve()}/mlflow.db")


def probabilities(run, x):
    with torch.no_grad():
        return parts(run)[0](torch.as_tensor(x)).softmax(1).numpy()


def test_a_registered_model_predicts_as_the_run_and_carries_its_evidence(run, capsys):
    assert main(["register", "runs/rtda"]) == 0
    assert capsys.readouterr().out == "models:/phantom_rtda@candidate: version 1\n"
    version = client().get_model_version_by_alias("phantom_rtda", "candidate")
    assert version.run_id == (run.folder / "mlflow_run_id").read_text().strip()
    assert version.tags == {"recipe": "rtda", "verdict": "not run"}
    folder = next(Path("runs/mlartifacts").rglob("MLmodel")).parent
    assert version.source.startswith("mlflow-artifacts:/")
    assert version.source.endswith(str(folder.relative_to("runs/mlartifacts")))
    import mlflow.pyfunc  # which warns

    model = mlflow.pyfunc.load_model(str(folder))
    for count in (1, 5):
        x = np.random.default_rng(count).random((count, 1, 32, 32), dtype=np.float32)
        np.testing.assert_allclose(model.predict(x), probabilities(run, x), atol=1e-6)
    stated = model.metadata.metadata
    assert stated["classes"] == ["no lesion", "lesion"]
    assert set(stated["rtda"]["evidence"]["views"]) == {"clean", "pgd20_l2_0.125", "contrast_down_5"}
    assert json.loads((folder / "metrics.json").read_text())["checksum_weights"] == stated["rtda"]["weights_sha256"]
    for name in ("metrics.csv", "predictions.parquet"):
        assert (folder / name).read_bytes() == (run.folder / name).read_bytes()
    assert model.metadata.get_input_schema().inputs[0].shape == (-1, 1, 32, 32)
    assert model.metadata.saved_input_example_info
    written = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(str(Path.cwd()).encode() in content for content in written)


def test_a_second_version_takes_the_alias(run):
    for number in ("1", "2"):
        assert main(["register", "runs/rtda", "--name", "chest", "--alias", "tested"]) == 0
        assert client().get_model_version_by_alias("chest", "tested").version in (number, int(number))


def test_what_is_not_in_mlflow_or_has_no_evidence_is_refused(run, capsys):
    (run.folder / "mlflow_run_id").unlink()
    assert main(["register", "runs/rtda"]) == 2
    assert "rtda: not in MLflow at sqlite://; rtda track rtda sends it there" in capsys.readouterr().err
    for table in run.folder.glob("predictions*"):
        table.unlink()
    assert main(["register", "runs/rtda"]) == 2
    assert "predictions.parquet: missing in 'rtda'; make it with rtda evaluate" in capsys.readouterr().err


def test_a_run_is_sent_again_whole_and_its_own_run_stays(run, capsys, monkeypatch):
    """To another store it is another run, with the same numbers; each store finds its own again."""
    first = (run.folder / "mlflow_run_id").read_text().strip()
    other = MlflowClient(store := f"sqlite:///{Path.cwd()}/other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert main(["track", "runs/rtda"]) == 0
    assert capsys.readouterr().out == "rtda: 2 epochs and 3 files in MLflow at sqlite://\n"
    _, second = (run.folder / "mlflow_run_id").read_text().split()
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    sent, before = other.get_run(second), client().get_run(first)
    for name, value in lines[-1]["metrics"].items():
        assert sent.data.metrics[name] == pytest.approx(float(value), nan_ok=True)
        assert len(other.get_metric_history(second, name)) == len([1 for line in lines if name in line["metrics"]])
    assert sent.data.params == before.data.params
    assert sent.info.status == "FINISHED"
    for uri in (store, None):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri) if uri else monkeypatch.delenv("MLFLOW_TRACKING_URI")
        assert main(["track", "runs/rtda"]) == 0
        assert (run.folder / "mlflow_run_id").read_text().split() == [first, second]


# A real server


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def served(*words, health="/health", **environment):
    """An mlflow process on loopback, ready to answer, and its address; ended afterwards."""
    port, path = free_port(), f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where mlflow looks for uvicorn
    command = [sys.executable, "-m", "mlflow", *map(str, words), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        command,
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "PATH": path} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(address + health, timeout=2).read()
                break
            except OSError:
                assert process.poll() is None, process.stderr.read().decode()
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
        process.stderr.close()


def tracking(folder):
    """A tracking server on SQLite, and its artifacts, in a folder."""
    stores = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", folder / "artifacts"]
    return served("server", *stores, "--workers", "1")


@pytest.fixture
def server(tmp_path):
    with tracking(tmp_path) as address:
        yield address


@pytest.mark.process
@pytest.mark.slow
def test_the_same_run_is_in_the_file_and_on_a_server_and_loads_from_there_elsewhere(run, server, monkeypatch, tmp_path):
    before = client().get_run((run.folder / "mlflow_run_id").read_text().strip())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert main(["track", "runs/rtda"]) == 0
    own = (run.folder / "mlflow_run_id").read_text().split()[1]
    sent = MlflowClient(server).get_run(own)
    assert sent.data.metrics.items() >= {n: v for n, v in before.data.metrics.items() if n.startswith("train/")}.items()
    assert sent.data.params == before.data.params
    assert main(["register", "runs/rtda"]) == 0
    np.save(tmp_path / "x.npy", x := np.random.default_rng(0).random((3, 1, 32, 32), dtype=np.float32))
    code = """
import mlflow.pyfunc, numpy
model = mlflow.pyfunc.load_model("models:/phantom_rtda@candidate")
numpy.save("p.npy", model.predict(numpy.load("x.npy")))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), probabilities(run, x), atol=1e-6)
    words = ["models", "serve", "-m", "models:/phantom_rtda@candidate", "--env-manager", "local"]
    with served(*words, MLFLOW_TRACKING_URI=server) as address:
        request = urllib.request.Request(
            f"{address}/invocations",
            json.dumps({"inputs": x[:1].tolist()}).encode(),
            {"Content-Type": "application/json"},
        )
        answer = json.loads(urllib.request.urlopen(request, timeout=60).read())
    np.testing.assert_allclose(answer["predictions"], probabilities(run, x[:1]), atol=1e-6)


@pytest.mark.process
@pytest.mark.slow
def test_a_server_that_goes_in_the_middle_of_training_is_caught_up_with_later(tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    going, record, known = tracking(tmp_path), Path("runs/new/metrics.jsonl"), Path("runs/new/mlflow_run_id")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", going.__enter__())

    def end():
        while not (record.is_file() and known.is_file()):  # an epoch is done, and the server has the run
            time.sleep(0.05)
        going.__exit__(None, None, None)

    ending = threading.Thread(target=end)
    ending.start()
    options = ["--recipe", "standard", *tiny, "--max-epochs", "20", "--run-name", "new"]
    assert main(["train", "phantom_rtda", *options]) == 0
    ending.join()
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 21))
    assert "metrics.jsonl has what it misses" in caplog.text
    with tracking(tmp_path) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        (own,) = known.read_text().split()
        client = MlflowClient(address)
        assert len(client.get_metric_history(own, "train/loss")) < 20
        assert main(["track", "runs/new"]) == 0
        assert known.read_text().split() == [own]
        assert [one.step for one in client.get_metric_history(own, "train/loss")] == [line["epoch"] for line in lines]
        assert client.get_run(own).info.status == "FINISHED"


@pytest.mark.slow
def test_training_registers_what_it_made(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--recipe", "standard", *tiny, "--max-epochs", "1", "--run-name", "new"]
    assert main(["train", "phantom_rtda", *options, "--register"]) == 0
    assert Path("runs/new/predictions-validation.parquet").is_file()
    assert client().get_model_version_by_alias("phantom_rtda", "candidate").tags["recipe"] == "standard"
