"""Exports: the same network in three forms, and what a file says of itself."""

import json
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from rtda.pipeline.attacks import PGD
from rtda.pipeline.balls import L2
from rtda.pipeline.cli import main
from rtda.pipeline.data import lists
from rtda.pipeline.delivery.bundle import find_bundle, read_yaml
from rtda.pipeline.delivery.infer import Classifier
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


@pytest.mark.data
@pytest.mark.parametrize("form", FORMS)
def test_the_chest_bundle_predicts_64_real_films_alike_in_every_form(form, real_data, tmp_path):
    bundle, path = find_bundle("chest_xray_rtda"), tmp_path / f"net.{form}"
    assert main(["export", "chest_xray_rtda", "--to", form, "-o", str(path)]) == 0
    config = read_yaml(bundle.config("inference"))
    original = ConfigParser(config).get_parsed_content("network_def")
    original.load_state_dict(load_weights(bundle.root / "models/model.pt"))
    chain = Compose(ConfigParser(config).get_parsed_content("preprocessing"))
    items = lists.load(lists.shipped("chest_xray_kermany"), real_data / "xray_kermany/images", "test")[::9][:64]
    x, y = torch.stack([plain(chain(item)["image"]) for item in items]), torch.tensor([one["label"] for one in items])
    assert len(x) == 64
    model = load_model(str(path), device=torch.device("cpu"))
    with torch.no_grad():
        expected, made = (one(x).softmax(1) for one in (original.eval(), model.network))
    assert float((made - expected).abs().max()) <= PROBABILITY[form]
    if form != "onnx":
        attack = PGD(L2(0.571), steps=1, start="none")
        torch.testing.assert_close(attack(model.network, x, y), attack(original, x, y), atol=1e-5, rtol=1e-4)


@pytest.mark.data
def test_from_every_real_film_the_same_tensor_reaches_the_network_in_training_inference_and_an_export(
    real_data, tmp_path
):
    bundle, path = find_bundle("chest_xray_rtda"), tmp_path / "net.ts"
    assert main(["export", "chest_xray_rtda", "--to", "ts", "-o", str(path)]) == 0
    train = ConfigParser(read_yaml(bundle.config("train"))).get_parsed_content("preprocessing")
    classifiers = Classifier.of_bundle(bundle), Classifier.of_program(path)
    chains = [
        Compose(one) for one in (train, *(each.parser.get_parsed_content("preprocessing") for each in classifiers))
    ]
    polarities = Counter()
    for file in sorted(path for path in (real_data / "dicom_reader").rglob("*") if path.is_file()):
        made = [_answered(chain, {"image": str(file), "label": 0}) for chain in chains]
        assert len({type(one) for one in made}) == 1  # a tensor, or the same refusal
        if torch.is_tensor(made[0]):
            assert all(torch.equal(made[0], other) for other in made[1:])
            polarities[pydicom.dcmread(file, stop_before_pixels=True, force=True).get("PhotometricInterpretation")] += 1
    assert polarities["MONOCHROME1"] >= 3
    assert polarities["MONOCHROME2"] >= 15


def _answered(chain, item):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return plain(chain(dict(item))["image"])
        except Exception as error:
            return error


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
    told = "rtda: phantom_rtda: models/model.pt: missing; the bundle has no weights: train it, evaluate and pack"
    assert capsys.readouterr().err.startswith(told)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(workshop / "rtda.zip"), "--to", "onnx"]) == 2
    assert "onnxscript: not installed; pip install 'rtda[onnx]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
