"""Exports: the same network in three forms, and what a file says of itself."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from rtda.pipeline.attacks import PGD
from rtda.pipeline.balls import L2
from rtda.pipeline.cli import main
from rtda.pipeline.delivery.bundle import read_yaml
from rtda.pipeline.delivery.models import load_model
from rtda.pipeline.handlers import load_weights
from rtda.pipeline.views import plain

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FORMS = ("ts", "pt2", "onnx")
PROBABILITY = {"ts": 1e-5, "pt2": 1e-5, "onnx": 1e-4}


@pytest.fixture(scope="module")
def exported(workshop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    for form in FORMS:
        assert main(["export", str(workshop / "rtda.zip"), "--to", form, "-o", str(folder / f"net.{form}")]) == 0
    return folder


@pytest.fixture(scope="module")
def network(workshop, tmp_path_factory):
    """The packed network as inference makes it, and its preprocessing."""
    folder = tmp_path_factory.mktemp("packed")
    with zipfile.ZipFile(workshop / "rtda.zip") as archive:
        archive.extractall(folder)
    config = read_yaml(folder / "phantom_rtda/configs/inference.yaml")
    network = ConfigParser(config).get_parsed_content("network_def")
    network.load_state_dict(load_weights(folder / "phantom_rtda/models/model.pt"))
    return network.eval(), Compose(ConfigParser(config).get_parsed_content("preprocessing"))


@pytest.fixture(scope="module")
def films(network, cohort):
    return torch.stack(
        [plain(network[1]({"image": str(path)})["image"]) for path in sorted(cohort.rglob("*.dcm"))[:64]]
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 5, 64])
def test_an_export_predicts_as_the_bundle_does_in_batches_of_any_size(form, count, exported, network, films):
    model = load_model(str(exported / f"net.{form}"), device=torch.device("cpu"))
    with torch.no_grad():
        expected, made = (one(films[:count]).softmax(1) for one in (network[0], model.network))
    assert made.dtype == torch.float32
    assert float((made - expected).abs().max()) <= PROBABILITY[form]


@pytest.mark.parametrize("form", ["ts", "pt2"])
def test_an_attack_finds_the_same_gradient(form, exported, network, films):
    model = load_model(str(exported / f"net.{form}"), device=torch.device("cpu"))
    x, y = films[:8], torch.arange(8) % 2
    attack = PGD(L2(0.125), steps=1, start="none")
    expected, made = attack(network[0], x, y), attack(model.network, x, y)
    assert float((expected - x).abs().max()) > 0
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_says_what_it_is(form, exported, workshop):
    model = load_model(str(exported / f"net.{form}"), device=torch.device("cpu"))
    assert model.classes == ("no lesion", "lesion")
    assert model.output == "logits"
    assert model.facts["version"] == "0.1.0"
    item = {"image": str(next(iter(sorted(workshop.parent.rglob("*.dcm"))))), "label": 0}
    made = model.transform(item)["image"]
    assert tuple(made.shape) == (1, 32, 32)
    assert 0 <= float(made.min()) < float(made.max()) <= 1


def test_torchscript_carries_metadata_as_monais_own_export_does(exported):
    from monai.data import load_net_with_metadata

    _, metadata, more = load_net_with_metadata(str(exported / "net.ts"), more_extra_files=("inference.json",))
    assert metadata["bundle"] == "phantom_rtda"
    assert metadata["network_data_format"]["inputs"]["image"]["value_range"] == [0, 1]
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [32, 32]
    assert json.loads(more["inference.json"])["image_size"] == 32


def test_a_run_is_exported_as_the_bundle_that_it_packs(workshop, exported, films, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(workshop / "runs/rtda"), "--to", "ts"]) == 0
    assert capsys.readouterr().out == "rtda.ts\n"
    models = [load_model(str(path), device=torch.device("cpu")) for path in ("rtda.ts", exported / "net.ts")]
    with torch.no_grad():
        of_run, of_zip = (model.network(films) for model in models)
    np.testing.assert_array_equal(of_run, of_zip)
    assert str(workshop) not in Path("rtda.ts").read_bytes().decode("latin-1")


def test_without_weights_or_onnx_it_says_what_to_do(workshop, tmp_path, monkeypatch, capsys):
    import sys

    monkeypatch.chdir(tmp_path)
    assert main(["export", "phantom_rtda", "--to", "ts"]) == 2
    assert "model.pt" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(workshop / "rtda.zip"), "--to", "onnx"]) == 2
    assert "onnxscript: not installed; pip install 'rtda[onnx]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
