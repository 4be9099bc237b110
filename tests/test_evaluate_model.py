"""``rtda evaluate --model``: any classifier by one command; what cannot be asked of it is left out and said."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient
from monai.bundle import ConfigParser
from monai.networks.nets import DenseNet121, ResNet
from PIL import Image
from rtda.pipeline.cli import main
from rtda.pipeline.delivery.bundle import find_views, read_yaml
from rtda.pipeline.evidence.table import facts_of, read_table
from rtda.pipeline.handlers import load_checkpoint
from sklearn.metrics import roc_auc_score
from test_models import RESNET, write_foreign, write_onnx

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
        "examples.npz", "metrics.csv", "metrics.json", "mlflow_run_id", "predictions.parquet", "report.html",
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


def test_a_run_as_a_model_has_the_radius_and_views_of_its_training(workshop, listed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--model", str(workshop / "runs/rtda"), *listed, "-o", "out"]) == 0
    facts = facts_of(read_table(Path("out/predictions.parquet")))
    assert (facts["training_radius"], facts["reference"], facts["seen"]) == (0.125, False, ["brightness", "contrast"])
    assert main(["compare", str(workshop / "runs/rtda"), "out", "-o", "both.md"]) == 0


def test_a_packed_bundle_brings_its_own_radius_and_classes(workshop, listed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--model", str(workshop / "rtda.zip"), *listed, "-o", "out"]) == 0
    run = workshop / "runs/rtda/predictions.parquet"
    made = read_table(Path("out/predictions.parquet"))
    assert facts_of(made)["training_radius"] == 0.125
    assert facts_of(made)["reference"] is False
    assert facts_of(made)["seen"] == ["brightness", "contrast"]
    for view in ("clean", "pgd20_l2_0.125", "gaussian_noise_5"):
        np.testing.assert_allclose(logits(Path("out/predictions.parquet"), view), logits(run, view), atol=1e-3)
    before = Path("out/predictions.parquet").read_bytes()
    for verb, written in (("compare", "both.md"), ("report", "out/both.html")):
        assert main([verb, str(run.parent), "out", "-o", written]) == 0
    assert "- B: out: rtda, weights " in Path("both.md").read_text()
    assert "phantom_rtda: robustness report" in Path("out/both.html").read_text()
    assert Path("out/predictions.parquet").read_bytes() == before


def listed_below(folder, files):
    """Options of a list of these files, by turns of two classes: a third of them validation."""
    items = [
        {"image": path.name, "label": n % 2, "image_id": f"i{n}", "patient_id": f"p{n}"} for n, path in enumerate(files)
    ]
    splits = {"train": [], "validation": items[: len(items) // 3], "test": items[len(items) // 3 :]}
    content = {"name": "foreign", "classes": ["normal", "pneumonia"], **splits}
    (folder / "list.json").write_text(json.dumps(content))
    return ["--data-list", str(folder / "list.json"), "--dataset-dir", str(folder)]


OWN = """
evaluation_views:
- {_target_: rtda.pipeline.views.Clean}
- "$attacks.FGSM(@attack.ball)"
- _target_: rtda.pipeline.views.PerImage
  transform: {_target_: RandGaussianNoise, prob: 1.0}
- _target_: rtda.pipeline.views.augmented_by
  transforms: {_target_: rtda.transforms.shifts.grid, kinds: [contrast_down, jpeg], severities: [1, 5]}
"""


def test_a_foreign_bundle_with_its_normalisation_is_evaluated_whole(tmp_path, monkeypatch, capsys):
    """Of the shape of the model zoo's endoscopic_inbody_classification; views as a user writes his own."""
    monkeypatch.chdir(tmp_path)
    rng, files = np.random.default_rng(0), [tmp_path / f"{n}.png" for n in range(30)]
    for path in files:
        Image.fromarray(rng.integers(1, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    root = write_foreign(tmp_path / "inbody")
    Path("own.yaml").write_text(f"masking_images: 16\n{OWN}")
    words = ["evaluate", "--model", str(root), *listed_below(tmp_path, files), "--value-range", "0,255"]
    assert main([*words, "--preset", "own.yaml", "-o", "out"]) == 0
    out = capsys.readouterr().out
    assert "inbody: normalisation: inside the model; while an attack moves" in out
    table = read_table(Path("out/predictions.parquet"))
    test = ["clean", "fgsm_l2_0.247", "RandGaussianNoise", "contrast_down_1", "contrast_down_5", "jpeg_1", "jpeg_5"]
    assert list(dict.fromkeys(table["view"].to_pylist())) == test
    stated = json.loads(Path("out/metrics.json").read_text())
    assert stated["masking"]["facts"]["images"] == {"0": 8, "1": 8}
    assert set(stated["masking"]["accuracies"]) > {"PGD-20", "PGD-100 × 5"}
    assert f"gradient-masking checks: {stated['masking']['verdict']}" in out
    page = re.sub("<[^>]*>", "", Path("out/report.html").read_text())
    assert f"Gradient-masking checks: inbody {stated['masking']['verdict']}" in " ".join(page.split())


def test_a_foreign_bundle_of_volumes_is_evaluated_without_what_is_of_films(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng, files = np.random.default_rng(0), [tmp_path / f"{n}.nii.gz" for n in range(12)]
    for path in files:
        nib.save(nib.Nifti1Image(rng.random((10, 12, 14), dtype=np.float32), np.eye(4)), path)
    steps = [
        {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
        {"_target_": "Resized", "keys": "image", "spatial_size": [8, 8, 8]},
        {"_target_": "EnsureTyped", "keys": "image"},
    ]
    network = RESNET | {"spatial_dims": 3, "n_input_channels": 1}
    weights = ResNet(**network).state_dict()
    root = write_foreign(tmp_path / "nodule", steps, {"_target_": "ResNet", **network}, weights)
    Path("own.yaml").write_text(OWN)
    words = ["evaluate", "--model", str(root), *listed_below(tmp_path, files), "--preset", "own.yaml", "-o", "out"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "nodule: shifts: jpeg: of films, and its images are volumes" in out
    assert "reference radius l2 0.202 at 8 x 8 x 8: RMS 2.28 grey levels of 255" in out
    table = read_table(Path("out/predictions.parquet"))
    test = ["clean", "fgsm_l2_0.202", "RandGaussianNoise", "contrast_down_1", "contrast_down_5"]
    assert list(dict.fromkeys(table["view"].to_pylist())) == test
    page = Path("out/report.html").read_text()
    assert "at 8 × 8 × 8, RMS 2.28 grey levels" in page
    assert "jpeg: of films, and its images are volumes" in page
    assert not Path("out/examples.npz").exists()


def test_the_preset_of_the_page_is_one(network, listed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs/evidence.md").read_text()
    Path("own.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    torch.jit.trace(network, torch.rand(2, 1, 32, 32)).save("net.ts")
    words = ["evaluate", "--model", "net.ts", *listed, *STATED, "--preset", "own.yaml", "-o", "out"]
    assert main(words) == 0
    views = dict.fromkeys(read_table(Path("out/predictions.parquet"))["view"].to_pylist())
    shifts = [f"{kind}_{severity}" for kind in ("jpeg", "rotation") for severity in (1, 3, 5)]
    assert list(views) == ["clean", "pgd40_l2_0.286", *shifts, "MedianSmooth"]


@pytest.mark.parametrize(
    ("preset", "told"),
    [
        ("- _target_: rtda.pipeline.views.Clean", "own.yaml: not a mapping of ids; a preset has evaluation_views and"),
        (
            "evaluation_views: [{_target_: monai.transforms.MedianSmooth, radius: 1}]",
            "evaluation_views: MedianSmooth: a transform, not a view; put it into rtda.pipeline.views.PerImage",
        ),
    ],
)
def test_a_preset_that_is_none_is_refused_in_one_line(preset, told, network, listed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(preset)
    torch.jit.trace(network, torch.rand(2, 1, 32, 32)).save("net.ts")
    words = ["evaluate", "--model", "net.ts", *listed, *STATED, "--preset", "own.yaml", "-o", "out"]
    assert main(words) == 2
    assert f"rtda: {told}" in capsys.readouterr().err
    Path("file").write_text("")
    assert main([*words[:-3], "quick", "-o", "file"]) == 2
    assert capsys.readouterr().err == "rtda: file: output: a file; give a folder\n"


def test_a_foreign_densenet_in_torchscript_is_evaluated(cohort, listed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = DenseNet121(spatial_dims=2, in_channels=3, out_channels=2).eval()
    torch.jit.save(torch.jit.trace(model, torch.rand(1, 3, 32, 32), check_trace=False), "densenet.ts")
    Path("own.yaml").write_text(OWN)
    words = ["evaluate", "--model", "densenet.ts", *listed, *STATED, "--channels", "3", "--preset", "own.yaml"]
    assert main([*words, "-o", "out"]) == 0
    assert "densenet: channels: the film is repeated on 3 inside the model" in capsys.readouterr().out
    clean = logits(Path("out/predictions.parquet"))
    assert clean.shape == (28, 2)
    assert not np.allclose(clean, logits(Path("out/predictions.parquet"), "fgsm_l2_0.286"), atol=1e-4)


def test_a_model_without_gradients_gets_random_search_and_the_report_says_why(
    network, listed, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_onnx(network, Path("net.onnx"), size=32)
    preset = read_yaml(find_views("quick")) | {"masking_images": 16}
    Path("checked.yaml").write_text(yaml.safe_dump(preset))
    command = ["evaluate", "--model", "net.onnx", *listed, *STATED, "-o", "out", "--preset", "checked.yaml"]
    assert main(command) == 0
    assert "net: attacks: ONNX gives no gradients; random perturbations stand in" in capsys.readouterr().out
    views = list(dict.fromkeys(read_table(Path("out/predictions.parquet"))["view"].to_pylist()))
    assert views == ["clean", "random100_l2_0.286", "contrast_down_5", "contrast_up_5", "gaussian_noise_5"]
    page = Path("out/report.html").read_text()
    assert "ONNX gives no gradients" in page
    gate = json.loads(Path("out/metrics.json").read_text())["masking"]
    assert gate["verdict"] == "not decidable"
    assert {check["name"] for check in gate["checks"] if check["passed"]} == {"one class", "repeatable", "ties"}
    assert "not decidable" in page
    assert "not run: the logits carry no gradient" in page


def test_a_multi_label_list_is_evaluated_label_by_label(network, cohort, tmp_path, monkeypatch):
    """Two labels that exclude each other: what is known of two classes holds for each."""
    monkeypatch.chdir(tmp_path)
    content = json.loads((cohort / "phantom.json").read_text())
    content = {name: value for name, value in content.items() if name != "checksum"} | {"multilabel": True}
    for split in ("train", "validation", "test"):
        content[split] = [item | {"label": [1 - item["label"], item["label"]]} for item in content[split]]
    Path("labels.json").write_text(json.dumps(content))
    Path("checked.yaml").write_text(yaml.safe_dump(read_yaml(find_views("quick")) | {"masking_images": 16}))
    torch.jit.trace(network, torch.rand(2, 1, 32, 32)).save("net.ts")
    listed = ["--data-list", "labels.json", "--dataset-dir", str(cohort), "--preset", "checked.yaml"]
    assert main(["evaluate", "--model", "net.ts", *listed, *STATED, "-o", "out"]) == 0
    stated = json.loads(Path("out/metrics.json").read_text())
    table = read_table(Path("out/predictions.parquet")).to_pandas()
    for view in ("clean", "pgd20_l2_0.286"):
        rows = table[(table["split"] == "test") & (table["view"] == view)]
        y, z = np.stack(rows["label"].tolist()), np.stack(rows["logits"].tolist())
        assert stated["views"][view]["auroc"][0] == pytest.approx(roc_auc_score(y, z, average="macro"), abs=1e-6)
    assert rows["l2"].between(0.1, 0.2861).all()
    assert stated["masking"]["verdict"] == "not decidable"
    assert "here each is a label" in Path("out/report.html").read_text()
    assert not Path("out/examples.npz").exists()
    assert main(["compare", "out", "out"]) == 0


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
