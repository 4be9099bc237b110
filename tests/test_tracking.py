"""Run tracking: the local record is complete whatever happens; MLflow is a copy that can neither block nor leak."""

import json
import logging
import math
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
import yaml
from ignite.engine import Engine, Events
from rtda.pipeline.handlers import loss_of
from rtda.pipeline.mlflow_copy import MlflowRun, Sender, importing
from rtda.pipeline.provenance import environment, flatten, public
from rtda.pipeline.tracking import RunRecord, RunTracker, log_artifacts, log_metrics, set_tags

BATCHES = [1.0, 3.0]


@pytest.fixture(autouse=True)
def default_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One folder of runs for all tests: making a data base takes mlflow seconds."""
    return tmp_path_factory.mktemp("runs of the höspital #1")


def outputs(engine):
    return {"loss": torch.tensor(engine.state.output)}


def trainer():
    return Engine(lambda engine, batch: batch)


def train(run_dir, epochs=2, start=0, **options):
    engine = trainer()
    RunTracker(run_dir, terms=outputs, **options).attach(engine)
    if start:
        engine.load_state_dict({"epoch": start, "max_epochs": epochs, "epoch_length": len(BATCHES)})
    engine.run(BATCHES, max_epochs=epochs)
    return (run_dir / "mlflow_run_id").read_text().strip() if (run_dir / "mlflow_run_id").exists() else None


def query(runs, text, *values):
    connection = sqlite3.connect(runs / "mlflow.db")
    try:
        return connection.execute(text, values).fetchall()
    finally:
        connection.close()


def status(runs, run_id):
    return query(runs, "SELECT status FROM runs WHERE run_uuid = ?", run_id)[0][0]


def history(runs, run_id, key):
    return query(runs, "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step", run_id, key)


# The record in the run's folder


def test_record_keeps_order_and_is_strict_json(tmp_path):
    record = RunRecord(tmp_path / "new folder")
    record.append(epoch=1, step=5, metrics={"loss": math.nan, "gap": -math.inf, "auroc": 0.1 + 0.2})
    record.append(epoch=2, step=10, metrics={})

    def refuse(constant):
        raise AssertionError(constant)

    lines = [json.loads(line, parse_constant=refuse) for line in record.path.read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 5), (2, 10)]
    assert lines[0]["metrics"] == {"loss": "NaN", "gap": "-Infinity", "auroc": 0.1 + 0.2}
    assert math.isnan(float(lines[0]["metrics"]["loss"]))
    assert lines[0]["time"].endswith("+00:00")


def test_rewinding_replaces_repeated_epochs(tmp_path):
    record = RunRecord(tmp_path)
    for epoch in (1, 2, 3):
        record.append(epoch=epoch, step=epoch, metrics={"try": 1})
    record.rewind(2)
    record.append(epoch=2, step=2, metrics={"try": 2})
    assert [(line["epoch"], line["metrics"]["try"]) for line in record.read()] == [(1, 1), (2, 2)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_torn_last_line_is_dropped_and_damage_elsewhere_is_not_hidden(tmp_path):
    record = RunRecord(tmp_path)
    record.append(epoch=1, step=1, metrics={"loss": 1})
    with record.path.open("a") as file:
        file.write('{"epoch": 2, "step": 2, "metr')
    assert [line["epoch"] for line in record.read()] == [1]
    record.append(epoch=2, step=2, metrics={"loss": 2})
    assert [line["epoch"] for line in record.read()] == [1, 2]
    record.path.write_text("{\n" + record.path.read_text())
    with pytest.raises(ValueError, match=r"^metrics.jsonl: line 1: not JSON; "):
        record.read()


# The handler


def test_epoch_means_parameters_and_tags_reach_record_and_store(runs):
    run_dir = runs / "means"
    rates = iter((0.1, 0.05))
    run_id = train(
        run_dir,
        parameters={"attack.steps": 7, "odd@key#": "v", "long": "x" * 9000},
        tags=environment(),
        learning_rate=lambda: next(rates),
        validation=lambda: {"clean/auroc": 0.75, "pgd20_l2_0.571/auroc": math.nan},
    )
    lines = RunRecord(run_dir).read()
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 2), (2, 4)]
    assert [line["metrics"]["train/loss"] for line in lines] == [2.0, 2.0]
    assert [line["metrics"]["learning_rate"] for line in lines] == [0.1, 0.05]
    assert set(lines[0]["metrics"]) >= {"epoch_seconds", "clean/auroc", "pgd20_l2_0.571/auroc"}

    parameters = dict(query(runs, "SELECT key, value FROM params WHERE run_uuid = ?", run_id))
    assert parameters == {"attack.steps": "7", "odd_key_": "v", "long": "x" * 500}
    tags = dict(query(runs, "SELECT key, value FROM tags WHERE run_uuid = ?", run_id))
    assert tags["version.torch"] == torch.__version__
    assert history(runs, run_id, "clean/auroc") == [(1, 0.75), (2, 0.75)]
    assert query(runs, "SELECT is_nan FROM latest_metrics WHERE key LIKE 'pgd20%' AND run_uuid = ?", run_id) == [(1,)]
    assert status(runs, run_id) == "FINISHED"


def test_tracker_comes_after_what_was_attached_before(runs):
    engine, seen = trainer(), {}
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.update({"clean/auroc": engine.state.epoch / 10}))
    RunTracker(runs / "order", validation=lambda: seen).attach(engine)
    engine.run(BATCHES, max_epochs=2)
    assert [line["metrics"]["clean/auroc"] for line in RunRecord(runs / "order").read()] == [0.1, 0.2]


def test_terms_may_be_one_tensor_overwritten_in_place_and_need_not_come_every_time(runs):
    reused = torch.zeros(())

    def terms(engine):
        reused.fill_(engine.state.output)
        return {"loss": reused} | ({"second": reused} if engine.state.output > 2 else {})

    engine = trainer()
    RunTracker(runs / "in place", terms=terms).attach(engine)
    engine.run(BATCHES, max_epochs=1)
    metrics = RunRecord(runs / "in place").read()[0]["metrics"]
    assert (metrics["train/loss"], metrics["train/second"]) == (2.0, 3.0)


@pytest.mark.parametrize(("error", "ends"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
@pytest.mark.parametrize("other", [True, False], ids=["after a StatsHandler", "alone"])
def test_an_exception_is_marked_and_raised(runs, error, ends, other):
    run_dir = runs / f"{ends} {other}"

    def step(engine, batch):
        if engine.state.epoch == 2:
            raise error("out of memory")
        return batch

    def like_monai(engine, caught):
        raise caught

    engine = Engine(step)
    if other:
        engine.add_event_handler(Events.EXCEPTION_RAISED, like_monai)
    RunTracker(run_dir, terms=outputs).attach(engine)
    with pytest.raises(error, match="out of memory"):
        engine.run(BATCHES, max_epochs=3)
    assert status(runs, (run_dir / "mlflow_run_id").read_text().strip()) == ends
    assert [line["epoch"] for line in RunRecord(run_dir).read()] == [1]


def test_a_resumed_run_goes_on_under_its_id(runs):
    run_dir = runs / "resumed"
    first = train(run_dir, epochs=3, parameters={"seed": 1})
    second = train(run_dir, epochs=4, start=2, parameters={"seed": 2, "added": 3})
    assert second == first
    assert [line["epoch"] for line in RunRecord(run_dir).read()] == [1, 2, 3, 4]
    assert [step for step, _ in history(runs, first, "train/loss") if step < 3] == [1, 2]  # sent again, kept once
    assert dict(query(runs, "SELECT key, value FROM params WHERE run_uuid = ?", first)) == {"seed": "1", "added": "3"}
    assert status(runs, first) == "FINISHED"


def test_a_run_is_running_again_while_it_is_resumed(runs):
    run_id = train(runs / "again")
    seen = []
    engine = trainer()
    RunTracker(runs / "again").attach(engine)

    @engine.on(Events.EPOCH_COMPLETED)
    def wait():
        deadline = time.monotonic() + 10
        while status(runs, run_id) != "RUNNING" and time.monotonic() < deadline:
            time.sleep(0.05)
        seen.append(status(runs, run_id))

    engine.run(BATCHES, max_epochs=1)
    assert seen == ["RUNNING"]
    assert status(runs, run_id) == "FINISHED"


def test_names_in_mlflow_are_unique(runs):
    ids = [train(runs / folder, epochs=1, run_name="rtda it's 100%") for folder in ("name a", "name b")]
    names = [query(runs, "SELECT name FROM runs WHERE run_uuid = ?", run_id)[0][0] for run_id in ids]
    assert names == ["rtda it_s 100_", "rtda it_s 100_-2"]


def test_a_run_is_logged_to_later_by_its_id(runs, caplog):
    run_dir = runs / "later"
    run_id = train(run_dir)
    report = run_dir / "report.html"
    report.write_text("<p>")
    assert log_metrics(run_dir, {"clean/auroc": 0.9})
    assert set_tags(run_dir, {"bundle": "phantom_rtda"})
    assert log_artifacts(run_dir, [report])
    assert history(runs, run_id, "clean/auroc") == [(0, 0.9)]
    assert ("phantom_rtda",) in query(runs, "SELECT value FROM tags WHERE run_uuid = ?", run_id)
    assert [path.read_text() for path in (runs / "mlartifacts").rglob("report.html") if run_id in str(path)] == ["<p>"]
    assert status(runs, run_id) == "FINISHED"
    assert not caplog.records

    assert not log_artifacts(run_dir, [run_dir / "absent"])
    assert not log_metrics(runs / "never tracked", {"clean/auroc": 0.9})


def test_a_locked_store_loses_nothing(runs):
    train(runs / "before the lock", epochs=1)  # the data base exists
    lock = sqlite3.connect(runs / "mlflow.db", isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")
    threading.Timer(2.0, lock.close).start()
    run_id = train(runs / "locked", epochs=5)
    assert [step for step, _ in history(runs, run_id, "train/loss")] == [1, 2, 3, 4, 5]


# What a run of `rtda train` and `rtda evaluate` leaves in MLflow


def test_texts_are_artifacts_of_the_run_from_its_start(runs):
    run_id = train(runs / "texts", texts={"config.yaml": "seed: 0  # é", "metadata.json": "{}"})
    assert artifacts(runs, run_id) == {"config.yaml": "seed: 0  # é".encode(), "metadata.json": b"{}"}


def artifacts(runs, run_id):
    ((place,),) = query(runs, "SELECT artifact_uri FROM runs WHERE run_uuid = ?", run_id)
    folder = runs / "mlartifacts" / place.removeprefix("mlflow-artifacts:/")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("recipe", "weight"), [("standard", 0.0), ("rtda", 2.0)])
def test_a_run_is_in_mlflow_with_all_that_names_it(workshop, recipe, weight):
    runs, config = workshop / "runs", yaml.safe_load((workshop / f"runs/{recipe}/config.yaml").read_text())
    run_id = (runs / recipe / "mlflow_run_id").read_text().strip()
    assert status(runs, run_id) == "FINISHED"
    ((name,),) = query(runs, "SELECT name FROM runs WHERE run_uuid = ?", run_id)
    assert name == recipe

    found = dict(query(runs, "SELECT key, value FROM params WHERE run_uuid = ?", run_id))
    texts = {"recipe": recipe, "bundle": "phantom_rtda", "attack.norm": "l2", "precision": "float32", **environment()}
    assert {key: found[key] for key in texts} == texts
    assert found["list_checksum"] == config["rtda"]["list_checksum"]
    assert found["dataset_dir"] == "<dataset_dir>"
    numbers = {"attack.radius": 0.125, "attack.image_size": 32, "attack.rms_grey_levels": 255 * 0.125 / 32}
    numbers |= {"attack.steps": 7, "radius": 0.125, "weight": weight, "seed": 0, "max_epochs": 2}
    assert {key: float(found[key]) for key in numbers} == pytest.approx(numbers)
    assert {"git_commit", "version.torch", "version.monai", "version.rtda", "version.python"} <= set(found)

    terms = ["cross_entropy", "loss"] + (["consistency"] if weight else [])
    validated = ["clean_auroc"] + (["attacked_auroc"] if recipe == "rtda" else [])
    for key in [f"train/{term}" for term in terms] + [f"validation/{name}" for name in validated] + ["learning_rate"]:
        assert [step for step, _ in history(runs, run_id, key)] == [1, 2]
        assert all(math.isfinite(value) for _, value in history(runs, run_id, key))
    assert bool(history(runs, run_id, "train/consistency")) == bool(weight)
    assert {step for step, _ in history(runs, run_id, "clean/auroc")} == {0}  # of rtda evaluate

    logged = artifacts(runs, run_id)
    assert logged["predictions.parquet"] == (runs / recipe / "predictions.parquet").read_bytes()
    metadata = (runs / recipe / "bundle/phantom_rtda/configs/metadata.json").read_bytes()
    assert logged["metadata.json"] == metadata
    places = {name: f"<{name}>" for name in ("dataset_dir", "data_list", "output_dir", "bundle_root")}
    assert {config["radius"], config["weight"]} & {"$@radius_224*@image_size/224", "@trades_weight"}  # as written
    assert yaml.safe_load(logged["config.yaml"]) == config | places | {"radius": 0.125, "weight": weight}
    assert not set(places) - set(config)


# A server that is gone


@pytest.fixture
def refused_port(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://jane:secret@127.0.0.1:{port}")


def test_a_refused_port_neither_stops_nor_delays_training(tmp_path, refused_port, caplog):
    started = time.monotonic()
    assert train(tmp_path / "run", epochs=50) is None
    assert time.monotonic() - started < 15  # mlflow's own settings: minutes for the first call
    lines = RunRecord(tmp_path / "run").read()
    assert [line["epoch"] for line in lines] == list(range(1, 51))
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "metrics.jsonl" in warnings[0]
    assert "secret" not in warnings[0]
    assert not (tmp_path / "mlflow.db").exists()
    assert "mlflow-sender" not in {thread.name for thread in threading.enumerate()}  # nor is one retrying for minutes


def test_a_silent_server_cannot_hold_up_the_end(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        sender = Sender(MlflowRun(tmp_path / "run"), create=True)
        started = time.monotonic()
        assert not sender.close(timeout=1.0)
        assert time.monotonic() - started < 3.0


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_loader_worker_is_not_forked_while_the_sender_imports():
    imported = threading.Event()

    def slow_import():
        with importing:
            time.sleep(0.3)
            imported.set()

    thread = threading.Thread(target=slow_import)
    thread.start()
    time.sleep(0.1)
    child = os.fork()
    if child == 0:
        os._exit(0 if imported.is_set() and importing.acquire(blocking=False) else 1)
    assert os.waitpid(child, 0)[1] == 0
    thread.join()


# Privacy

CHILD = """
import json, sys
from pathlib import Path
attempts = []
def watch(event, arguments):
    if event in {"socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"}:
        attempts.append([event, repr(arguments)])
sys.addaudithook(watch)
from ignite.engine import Engine
import torch
from rtda.pipeline.provenance import environment, flatten
from rtda.pipeline.tracking import RunTracker, log_metrics
run_dir = Path(sys.argv[1])
config = {"dataset_dir": str(Path.home() / "films"), "files": f"$list(Path('{Path.home()}/films').iterdir())"}
engine = Engine(lambda engine, batch: batch)
terms = lambda engine: {"loss": torch.tensor(engine.state.output)}
RunTracker(run_dir, terms=terms, parameters={**flatten(config), "raw": Path.home()}, tags=environment()).attach(engine)
engine.run([1.0, 3.0], max_epochs=30)
log_metrics(run_dir, {"clean/auroc": 0.5})
from rtda.pipeline.cli import main
assert main(["train", "phantom_rtda", "--recipe", "standard", "--run-name", "trained", *sys.argv[2:]]) == 0
print(json.dumps(attempts))
"""


@pytest.mark.process
def test_nothing_leaves_the_machine_or_names_its_user_and_two_processes_share_a_store(tmp_path, cohort, tiny):
    home = tmp_path / "home" / "janedoe"
    runs = home / "runs"
    runs.mkdir(parents=True)
    untested = {key: value for key, value in os.environ.items() if key not in {"PYTEST_CURRENT_TEST", "CI"}}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(runs / "child"), *tiny, "--max-epochs", "1"],
        cwd=home,
        env={**untested, "HOME": str(home), "USER": "janedoe", "LOGNAME": "janedoe", "MPLCONFIGDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    own = train(runs / "parent", epochs=30)
    output, _ = child.communicate(timeout=120)
    assert child.returncode == 0
    assert json.loads(output.splitlines()[-1]) == []
    assert not (home / ".config" / "mlflow").exists()  # mlflow's telemetry id

    theirs = (runs / "child" / "mlflow_run_id").read_text().strip()
    for run_id in (own, theirs):
        assert [step for step, _ in history(runs, run_id, "train/loss")] == list(range(1, 31))
    trained = (runs / "trained" / "mlflow_run_id").read_text().strip()
    assert [step for step, _ in history(runs, trained, "validation/clean_auroc")] == [1]
    connection = sqlite3.connect(runs / "mlflow.db")
    content = "\n".join(connection.iterdump())
    connection.close()
    assert "clean/auroc" in content
    logged = artifacts(runs, trained)
    assert set(logged) == {"config.yaml", "metadata.json"}
    content += b"\n".join(logged.values()).decode()
    for private in ("janedoe", str(tmp_path), str(cohort), os.getcwd(), "/films", socket.gethostname(), "mlflow.user"):
        assert private not in content


def test_environment_names_versions_only():
    found = environment()
    assert found["version.monai"].startswith("1.")
    assert len(found["git_commit"].removesuffix("-dirty")) == 40 or found["git_commit"] == "unknown"
    assert "/" not in "".join(found.values())


def test_the_loss_is_read_from_an_output_decollated_or_not():
    loss = torch.tensor(0.5, requires_grad=True)
    for output in ({"loss": loss}, [{"loss": 0.5}, {"loss": 0.5}]):
        found = loss_of(SimpleNamespace(state=SimpleNamespace(output=output)))
        assert found.item() == 0.5
        assert not found.requires_grad


def test_a_public_config_has_placeholders_and_no_paths():
    config = {"output_dir": "/srv/a", "views": [{"a": "$open('/home/jane/b/c')"}], "seed": 3, "fast": True}
    shown = {"output_dir": "<output_dir>", "views": [{"a": "$open('<path>')"}], "seed": 3, "fast": True}
    assert public(config) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/jane doe/films", "<path>"),
        ("~/films", "<path>"),
        (r"C:\Users\jane\films", "<path>"),
        ("file:///srv/films", "<path>"),
        ("$list(Path('/home/jane doe/films').glob('*'))", "$list(Path('<path>').glob('*'))"),
        ("$@radius_224*@image_size/224", "$@radius_224*@image_size/224"),
        ("$(@a + 1)/2/@b", "$(@a + 1)/2/@b"),
        ("https://project-monai.github.io/schema/a.json", "https://project-monai.github.io/schema/a.json"),
        ("train/loss", "train/loss"),
    ],
)
def test_flatten_hides_absolute_paths(value, shown):
    assert flatten({"a": [{"b": value}]}) == {"a.0.b": shown}


def test_flatten_keeps_numbers_and_names_the_rest():
    config = {"a": {"b": 1, "c": 0.5, "d": True, "e": None}, "f": (1, "x"), "g": {}}
    assert flatten(config) == {"a.b": 1, "a.c": 0.5, "a.d": "True", "a.e": "None", "f": "(1, 'x')"}
