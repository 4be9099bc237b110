"""The demo shows the point: what `make demo` measures on the shipped seed."""

import pytest
from rtda.pipeline import demo
from rtda.pipeline.evidence.metrics import CONSTANT, summarise
from rtda.pipeline.evidence.table import read_table


@pytest.mark.slow
def test_the_demo_gains_robustness_and_keeps_clean_ranking(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert demo.demo() == 0
    for name in ("report.html", "predictions.parquet", "phantom_rtda.zip"):
        assert (tmp_path / "runs/demo" / name).is_file()
    assert (tmp_path / "runs/mlflow.db").is_file()
    summary = summarise(read_table(tmp_path / "runs/demo/predictions.parquet"))
    test = summary[summary["split"] == "test"].set_index(["recipe", "view"])
    attacked = test["balanced_accuracy"].xs("pgd20_l2_0.25", level="view")
    assert attacked["rtda"] >= attacked["standard"] + 0.20
    assert attacked["rtda"] >= attacked[CONSTANT] + 0.10
    clean = test["auroc"].xs("clean", level="view")
    assert clean["rtda"] >= clean["standard"] - 0.08
    capsys.readouterr()
    assert demo.demo() == 0
    assert capsys.readouterr().out.count("is used again") == 1 + len(demo.steps())


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The demo with commands that only leave the files which it looks for; the commands as they are given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "_show", lambda seconds: None)
    commands = []

    def command(argv):
        commands.append(argv)
        made = dict(demo.steps()) | {demo.COHORT / "phantom.json": commands[0]}
        for path in (path for path, wanted in made.items() if wanted == argv):
            path.parent.mkdir(parents=True, exist_ok=True)
            if argv[0] == "train":
                (path.parent / "config.yaml").touch()
            path.touch()
        return 0

    monkeypatch.setattr(demo, "main", command)
    return commands


def verbs(commands):
    return [command[0] for command in commands]


ALL = ["data", "train", "evaluate", "train", "evaluate", "report", "pack"]


def test_a_second_demo_asks_for_the_cohort_alone_and_says_what_it_uses_again(made, capsys):
    assert demo.demo() == 0
    assert verbs(made) == ALL
    assert "is used again" not in capsys.readouterr().out
    made.clear()
    assert demo.demo() == 0
    assert verbs(made) == ["data"]
    assert capsys.readouterr().out.count("is used again") == len(ALL)


def test_a_demo_that_was_stopped_in_its_first_epoch_goes_on(made):
    assert demo.demo() == 0
    (demo.RUNS["rtda"] / "best.pt").unlink()  # what a stop in the first epoch leaves: config.yaml
    made.clear()
    assert demo.demo() == 0
    assert verbs(made) == ["data", "train"]
    assert made[1][-2:] == ["--resume", str(demo.RUNS["rtda"])]


def test_what_came_of_another_cohort_is_made_anew(made, monkeypatch, capsys):
    assert demo.demo() == 0
    made.clear()
    capsys.readouterr()
    command = demo.main

    def newer(argv):
        status = command(argv)
        if argv[0] == "data":
            (demo.COHORT / "phantom.json").write_text("another")
        return status

    monkeypatch.setattr(demo, "main", newer)
    assert demo.demo() == 0
    assert verbs(made) == ALL
    assert not any("--resume" in argv for argv in made)
    told = capsys.readouterr().out
    assert told.count("is of another cohort and is made anew") == 3
    assert "is used again" not in told


def test_a_demo_stops_at_the_first_failure(made, monkeypatch):
    monkeypatch.setattr(demo, "main", lambda argv: made.append(argv) or 3 * (argv[0] == "evaluate"))
    demo.COHORT.mkdir(parents=True)
    (demo.COHORT / "phantom.json").touch()
    assert demo.demo() == 3
    assert verbs(made) == ["data", "train", "evaluate"]
