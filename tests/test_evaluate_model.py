"""``rtda evaluate --model``: any classifier by one command; what cannot be asked of it is left out and said."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from monai.bundle import ConfigParser
from rtda.pipeline.cli import main
from rtda.pipeline.delivery.bundle import read_yaml
from rtda.pipeline.evidence.table import facts_of, read_table
from rtda.pipeline.handlers import load_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.jit")


@pytest.fixture(scope="module")
def network(workshop):
    run = workshop / "runs/rtda"
    network = ConfigParser(read_yaml(run / "config.yaml")).get_parsed_content("network_def")
    network.load_state_dict(load_checkpoint(run / "best.pt")["model"])
    return network.eval()


@pytest.fixture
def listed(cohort):
    return ["--data-list", str(cohort / "phantom.json"), "--dataset-dir", str(cohort)]


STATED = ["--classes", "no lesion,lesion", "--image-size", "32", "--value-range", "0,1"]


def logits(path, view="clean"):
    rows = read_table(path).to_pandas()
    rows = rows[(rows["view"] == view) & (rows["split"] == "test")].set_index("image_id").sort_index()
    return np.stack(rows["logits"].tolist())


def test_a_program_is_evaluated_as_the_run_that_it_came_from(workshop, network, listed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.jit.trace(network, torch.rand(2, 1, 32, 32)).save("net.ts")
    assert main(["evaluate", "--model", "net.ts", *listed, *STATED, "-o", "out"]) == 0
    assert "reference radius l2 0.286 at 32 x 32" in capsys.readouterr().out
    run = workshop / "runs/rtda/predictions.parquet"
    np.testing.assert_allclose(logits(Path("out/predictions.parquet")), logits(run), atol=1e-4)
    table = read_table(Path("out/predictions.parquet")).to_pandas()
    assert {"fgsm_l2_0.286", "pgd20_l2_0.286", "contrast_down_5"} <= set(table["view"])
    assert set(table["split"]) == {"test", "validation"}
    stated = json.loads(Path("out/metrics.json").read_text())
    assert stated["recipe"] == "net"
    assert str(tmp_path) not in Path("out/metrics.json").read_text()
    lines = Path("out/metrics.csv").read_text().splitlines()
    assert lines[0] == "view,metric,value,low,high"
    assert any(line.startswith("clean,auroc,") for line in lines)
    page = Path("out/report.html").read_text()
    assert "Reference radius" in page
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "metrics.csv", "metrics.json", "mlflow_run_id", "predictions.parquet", "report.html",
    ]  # fmt: skip
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    logged = client.get_run(Path("out/mlflow_run_id").read_text().strip())
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["clean/auroc"] == pytest.approx(stated["views"]["clean"]["auroc"][0], rel=1e-5)
    assert logged.data.params["model.kind"] == "TorchScript"
    assert str(tmp_path) not in str(logged.data.params)
    assert {path.name for path in Path("mlartifacts").rglob("*.*")} == {
        "metrics.csv", "metrics.json", "predictions.parquet", "report.html",
    }  # fmt: skip


@pytest.mark.process
@pytest.mark.slow
def test_two_processes_make_the_table_of_one(network, listed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.jit.trace(network, torch.rand(2, 1, 32, 32)).save("net.ts")
    for count in ("1", "2"):
        assert main(["evaluate", "--model", "net.ts", *listed, *STATED, "-o", count, "--processes", count]) == 0
    one, two = (read_table(Path(count, "predictions.parquet")) for count in ("1", "2"))
    assert one.equals(two, check_metadata=True)


def test_a_packed_bundle_brings_its_own_radius_and_classes(workshop, listed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--model", str(workshop / "rtda.zip"), *listed, "-o", "out"]) == 0
    run = workshop / "runs/rtda/predictions.parquet"
    made = read_table(Path("out/predictions.parquet"))
    assert facts_of(made)["training_radius"] == 0.125
    assert facts_of(made)["reference"] is False
    for view in ("clean", "pgd20_l2_0.125", "gaussian_noise_5"):
        np.testing.assert_allclose(logits(Path("out/predictions.parquet"), view), logits(run, view), atol=1e-3)


def test_a_model_without_gradients_gets_random_search_and_the_report_says_why(
    network, listed, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    from test_models import write_onnx

    write_onnx(network, Path("net.onnx"), size=32)
    assert main(["evaluate", "--model", "net.onnx", *listed, *STATED, "-o", "out"]) == 0
    assert "net: attacks: ONNX gives no gradients; random perturbations stand in" in capsys.readouterr().out
    views = list(dict.fromkeys(read_table(Path("out/predictions.parquet"))["view"].to_pylist()))
    assert views == ["clean", "random100_l2_0.286", "contrast_down_5", "contrast_up_5", "gaussian_noise_5"]
    assert "ONNX gives no gradients" in Path("out/report.html").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "evaluate: model: give either a RUN or --model M"),
        (["--model", "net.ts"], "evaluate: data_list: missing; --model needs --data-list, --dataset-dir and -o OUT"),
        (["--model", "net.ts", "LISTED", "-o", "out"], "net.ts: file: not found"),
        (["--model", "nn:absent", "LISTED", "-o", "out", *STATED], "nn:absent: network: cannot be made"),
        (["--model", "x", "--value-range", "1"], "value-range: '1' is not LOW,HIGH, such as 0,255"),
    ],
)
def test_what_is_missing_is_said_in_one_line(words, told, listed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [word for given in words for word in (listed if given == "LISTED" else [given])]
    assert main(["evaluate", *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_classes_that_the_list_does_not_have_are_refused_before_the_long_work(
    network, listed, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    torch.jit.trace(network, torch.rand(2, 1, 32, 32)).save("net.ts")
    stated = ["--classes", "a,b", "--image-size", "32", "--value-range", "0,1"]
    assert main(["evaluate", "--model", "net.ts", *listed, *stated, "-o", "out"]) == 2
    assert "classes" in capsys.readouterr().err
    assert not Path("out").exists()
