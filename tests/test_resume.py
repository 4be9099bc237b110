"""A killed run goes on: the same weights, the same table, the same run in MLflow."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rtda.pipeline.cli import main
from rtda.pipeline.evidence.table import read_table
from rtda.pipeline.handlers import load_checkpoint

EPOCHS = 5


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same(a, b, name):
    one, other = (load_checkpoint(Path(path) / name)["model"] for path in (a, b))
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def lines(run):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["epoch"], {k: v for k, v in line["metrics"].items() if k != "epoch_seconds"}) for line in found]


def metrics(run, name):
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["metrics"][name]


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


def test_resuming_a_finished_run_changes_nothing(workshop, tiny, tmp_path):
    run = tmp_path / "rtda"
    shutil.copytree(workshop / "runs/rtda", run)
    assert main(["train", "phantom_rtda", "--recipe", "rtda", *tiny, "--resume", str(run)]) == 0
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
    options = [option.format(list=tmp_path / "shorter.json") for option in options]
    capsys.readouterr()
    assert main(["train", "phantom_rtda", "--recipe", recipe, *tiny, *options, "--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rtda: rtda: ")
    assert error.count("\n") == 1
    assert str(tmp_path) not in error
    assert any(word in error for word in words)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


# Killed


def start(command, cwd):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, "-m", "rtda.pipeline", *command]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(words, cwd=cwd, env=environment, **output)


def finish(command, cwd):
    process = start(command, cwd)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out


@pytest.mark.slow
def test_killed_three_times_a_run_ends_as_if_it_had_not_been(tiny, tmp_path):
    command = ["train", "phantom_rtda", "--recipe", "rtda", *tiny, "--max-epochs", str(EPOCHS), "--run-name", "r"]
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    began = time.monotonic()
    finish(command, tmp_path / "whole")
    finish(["evaluate", "runs/r"], tmp_path / "whole")
    whole, run = tmp_path / "whole/runs/r", tmp_path / "killed/runs/r"
    seconds = sum(json.loads(line)["metrics"]["epoch_seconds"] for line in (whole / "metrics.jsonl").open())
    generator, killed, ids = random.Random(20250617), 0, set()
    resume: list[str] = []
    for _ in range(3):
        process = start([*command, *resume], tmp_path / "killed")
        deadline = time.monotonic() + 120
        while not (run / "config.yaml").is_file() or (run / "config.yaml").stat().st_mtime < time.time() - 3600:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for line in process.stdout:  # the first epoch of this process is done
            if line.startswith("epoch"):
                break
        time.sleep(generator.uniform(0, seconds / EPOCHS * 1.5))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        process.stdout.close()
        resume = ["--resume", "runs/r"]
        ids |= {path.read_text() for path in run.glob("mlflow_run_id")}
    finish([*command, *resume], tmp_path / "killed")
    assert killed >= 2, f"only {killed} kills struck a running process in {time.monotonic() - began:.0f} s"
    for name in ("best.pt", "last.pt"):
        assert same(run, whole, name)
    assert lines(run) == lines(whole)
    assert not (run / "candidates").exists()
    # and an evaluation that is killed while it runs
    process = start(["evaluate", "runs/r"], tmp_path / "killed")
    deadline = time.monotonic() + 120
    while not list(run.glob("parts/*/*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    finish(["evaluate", "runs/r"], tmp_path / "killed")
    table, expected = (read_table(folder / "predictions.parquet") for folder in (run, whole))
    assert table.equals(expected, check_metadata=True)
    ids |= {path.read_text() for path in run.glob("mlflow_run_id")}
    assert len(ids) == 1
