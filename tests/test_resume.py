"""A killed run goes on: the same weights, the same table, the same run in MLflow."""

import contextlib
import json
import os
import random
import shutil
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch
from rtda.pipeline.cli import main
from rtda.pipeline.delivery.bundle import INSTALLED
from rtda.pipeline.evidence.table import read_table
from rtda.pipeline.handlers import load_checkpoint


def same(a, b, name):
    one, other = (load_checkpoint(Path(path) / name)["model"] for path in (a, b))
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def lines(run):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["epoch"], {k: v for k, v in line["metrics"].items() if k != "epoch_seconds"}) for line in found]


# In one process: what a kill after an epoch leaves, and an exception within one


class StopHereError(Exception):
    pass


@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_run_that_stopped_goes_on_to_the_same_weights(workshop, tiny, tmp_path, monkeypatch, at):
    """At iteration ``at`` of six: in the first epoch (nothing saved yet), at its end, and in the second."""
    from rtda.pipeline.engine import RobustTrainer

    monkeypatch.chdir(tmp_path)
    command = ["train", "phantom_rtda", "--recipe", "rtda", "--run-name", "rtda", *tiny]

    def stop(engine):
        if engine.state.iteration == at:
            raise StopHereError

    attach = RobustTrainer.__init__

    def attached(self, **settings):
        attach(self, **settings)
        from ignite.engine import Events

        self.add_event_handler(Events.ITERATION_COMPLETED, stop)

    with monkeypatch.context() as patched:
        patched.setattr(RobustTrainer, "__init__", attached)
        assert main(command) == 1
    assert not Path("runs/rtda/best.pt").exists()
    assert main([*command, "--resume", "runs/rtda"]) == 0
    for name in ("best.pt", "last.pt"):
        assert same("runs/rtda", workshop / "runs/rtda", name)
    assert lines(tmp_path / "runs/rtda") == lines(workshop / "runs/rtda")


@pytest.mark.parametrize("written", [False, True])
def test_a_stop_beside_the_checkpoint_loses_no_line_of_the_record(workshop, tiny, tmp_path, monkeypatch, written):
    """Whether last.pt was written or not, an epoch stands in metrics.jsonl once: what it holds was recorded before."""
    from rtda.pipeline import handlers

    monkeypatch.chdir(tmp_path)
    command = ["train", "phantom_rtda", "--recipe", "rtda", "--run-name", "rtda", *tiny]
    save = handlers.save_checkpoint

    def stopped(path, content):
        if path.name != "last.pt":
            return save(path, content)
        if written:
            save(path, content)
        raise StopHereError

    with monkeypatch.context() as patched:
        patched.setattr(handlers, "save_checkpoint", stopped)
        assert main(command) == 1
    assert Path("runs/rtda/last.pt").exists() == written
    assert main([*command, "--resume", "runs/rtda"]) == 0
    assert same("runs/rtda", workshop / "runs/rtda", "best.pt")
    assert lines(tmp_path / "runs/rtda") == lines(workshop / "runs/rtda")


def test_resuming_a_finished_run_changes_nothing(workshop, tiny, tmp_path):
    run = tmp_path / "rtda"
    shutil.copytree(workshop / "runs/rtda", run)
    assert main(["train", "phantom_rtda", "--recipe", "rtda", *tiny, "--resume", str(run)]) == 0
    for name in ("best.pt", "last.pt"):
        assert same(run, workshop / "runs/rtda", name)
    assert lines(run) == lines(workshop / "runs/rtda")


def test_a_run_is_resumed_without_repeating_its_options(workshop, tmp_path):
    run = tmp_path / "rtda"
    shutil.copytree(workshop / "runs/rtda", run)
    (run / "best.pt").unlink()
    (run / "last.pt").unlink()  # as if it had been stopped in its first epoch
    assert main(["train", "phantom_rtda", "--resume", str(run)]) == 0
    for name in ("best.pt", "last.pt"):
        assert same(run, workshop / "runs/rtda", name)
    assert lines(run) == lines(workshop / "runs/rtda")


@pytest.mark.parametrize(
    ("recipe", "options", "words"),
    [
        ("augmentation", [], ["recipe", "views"]),
        ("rtda", ["--learning-rate", "0.1"], ["learning_rate"]),
        ("rtda", ["--radius-224", "0.5"], ["radius_224"]),
        ("rtda", ["--max-epochs", "3"], ["max_epochs"]),
        ("rtda", ["--seed", "1"], ["seed"]),
        ("rtda", ["--choices", "{_target_: rtda.transforms.display.Choices, polarity: shape}"], ["choices: "]),
        ("rtda", ["--run-name", "other"], ["run_name"]),
        ("rtda", ["--output-dir", "other"], ["output_dir"]),
        ("rtda", ["--data-list", "{list}"], ["list_checksum"]),
    ],
)
def test_a_changed_run_is_not_resumed(workshop, cohort, tiny, tmp_path, capsys, recipe, options, words):
    run = tmp_path / "rtda"
    shutil.copytree(workshop / "runs/rtda", run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    content = json.loads((cohort / "phantom.json").read_text())
    content["train"].pop()
    content.pop("checksum", None)
    (tmp_path / "shorter.json").write_text(json.dumps(content))
    options = [option.replace("{list}", str(tmp_path / "shorter.json")) for option in options]
    capsys.readouterr()
    assert main(["train", "phantom_rtda", "--recipe", recipe, *tiny, *options, "--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rtda: rtda: ")
    assert error.count("\n") == 1
    assert str(tmp_path) not in error
    assert any(word in error for word in words)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_is_not_resumed_with_a_changed_bundle(workshop, tiny, tmp_path, capsys):
    run, bundle = (tmp_path / name for name in ("rtda", "phantom_rtda"))
    shutil.copytree(workshop / "runs/rtda", run)
    shutil.copytree(INSTALLED / "phantom_rtda", bundle)
    command = ["train", str(bundle), "--recipe", "rtda", *tiny, "--resume", str(run)]
    assert main(command) == 0
    config = bundle / "configs/train.yaml"
    config.write_text(config.read_text().replace("weight_decay: 0.0005", "weight_decay: 0.1"))
    capsys.readouterr()
    assert main(command) == 2
    told = capsys.readouterr().err
    assert told.startswith(
        "rtda: rtda: optimizer: weight_decay: was '0.0005', is '0.1'; resume with what the run began"
    )


# Killed


@pytest.fixture
def begin():
    """Run a command in a forked process, which does not spend seconds on importing MONAI; returns its id."""
    children = []

    def begin(*argv):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork beside torch's idle threads
            child = os.fork()
        if child == 0:
            torch.cuda.is_available = lambda: False  # CUDA does not survive a fork
            os._exit(main(argv))
        children.append(child)
        return child

    yield begin
    for child in children:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # those that ended are gone
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def status_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(child):
    os.kill(child, signal.SIGKILL)
    assert status_of(child) == -signal.SIGKILL  # it was still running


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.process
def test_killed_three_times_a_run_ends_as_if_it_had_not_been(workshop, tiny, tmp_path, monkeypatch, begin):
    monkeypatch.chdir(tmp_path)
    whole, run = tmp_path / "runs/whole", tmp_path / "runs/killed"
    train = ["train", "phantom_rtda", "--recipe", "rtda", *tiny, "--max-epochs", "4", "--run-name"]
    for command in ([*train, "whole"], ["evaluate", "runs/whole"]):
        assert status_of(begin(*command)) == 0
    seconds = [
        json.loads(line)["metrics"]["epoch_seconds"] for line in (whole / "metrics.jsonl").read_text().splitlines()
    ]
    moment = random.Random(20250617)

    child = begin(*train, "killed")  # in the first epoch: there is nothing yet to go on from
    wait_for((run / "config.yaml").is_file)
    time.sleep(moment.uniform(0, 0.5) * seconds[0])
    kill(child)
    assert not (run / "last.pt").exists()
    resume = [*train, "killed", "--resume", "runs/killed"]
    for epoch in (1, 2):  # in the second and in the third
        child = begin(*resume)
        wait_for(lambda epoch=epoch: (run / "last.pt").is_file() and load_checkpoint(run / "last.pt")["epoch"] == epoch)
        time.sleep(moment.uniform(0, 0.8) * seconds[epoch])
        kill(child)
        assert load_checkpoint(run / "last.pt")["epoch"] == epoch
    known = (run / "mlflow_run_id").read_text()
    assert status_of(begin(*resume)) == 0
    for name in ("best.pt", "last.pt"):
        assert same(run, whole, name)
    assert lines(run) == lines(whole)
    assert not (run / "candidates").exists()

    child = begin("evaluate", "runs/killed")  # and an evaluation, while it runs
    wait_for(lambda: list(run.glob("parts-*/*.parquet")))
    kill(child)
    assert not (run / "predictions.parquet").exists()
    assert status_of(begin("evaluate", "runs/killed")) == 0
    table, expected = (read_table(folder / "predictions.parquet") for folder in (run, whole))
    assert table.equals(expected, check_metadata=True)
    assert (run / "mlflow_run_id").read_text() == known


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.data
def test_killed_on_real_films_a_run_ends_as_if_it_had_not_been(real_data, tmp_path, monkeypatch, begin):
    monkeypatch.chdir(tmp_path)
    whole, run = tmp_path / "runs/whole", tmp_path / "runs/killed"
    train = [
        "train",
        "chest_xray_rtda",
        "--recipe",
        "standard",
        "--dataset-dir",
        str(real_data / "xray_kermany/images"),
    ]
    train += ["--image-size", "32", "--max-epochs", "3", "--run-name"]
    assert status_of(begin(*train, "whole")) == 0
    child = begin(*train, "killed")
    wait_for(lambda: (run / "last.pt").is_file() and load_checkpoint(run / "last.pt")["epoch"] == 1, seconds=600)
    time.sleep(0.5)  # into the second epoch
    kill(child)
    assert load_checkpoint(run / "last.pt")["epoch"] == 1
    assert status_of(begin("train", "chest_xray_rtda", "--resume", "runs/killed")) == 0
    for name in ("best.pt", "last.pt"):
        assert same(run, whole, name)
    assert lines(run) == lines(whole)
