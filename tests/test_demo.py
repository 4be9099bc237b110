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
    assert capsys.readouterr().out.count("is used again") == len(demo.steps())
