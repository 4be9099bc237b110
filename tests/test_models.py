"""Any classifier as one value: the same network in every form, and what cannot be evaluated told beforehand."""

import json
import re
import sys
import warnings
import zipfile
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data.torchscript_utils import save_net_with_metadata
from monai.networks.nets import DenseNet121, ResNet
from monai.transforms import LoadImage, Resize
from onnx import TensorProto, helper
from PIL import Image
from rtda.pipeline.attacks import PGD, frozen
from rtda.pipeline.balls import L2
from rtda.pipeline.data import lists
from rtda.pipeline.delivery.bundle import BundleError
from rtda.pipeline.delivery.loaded import Stated
from rtda.pipeline.delivery.models import load_model
from rtda.pipeline.delivery.probe import checked, images
from rtda.pipeline.delivery.programs import ModelError
from rtda.pipeline.delivery.stages import InRange, LogOdds
from rtda.pipeline.evidence.evaluation import Evaluation, weights_checksum
from rtda.pipeline.evidence.table import read_table
from rtda.pipeline.laws import check_view
from rtda.pipeline.normalisation import Normalisation, holding
from rtda.pipeline.views import Clean
from rtda.transforms.reader import FilmReader
from torch import nn

CLASSES = ("normal", "pneumonia")
STATED = Stated(classes=CLASSES, image_size=(16, 16), value_range=(0, 1))
FORMS = ["ts", "traced.ts", "frozen.pt", "pt2", "one.pt2", "onnx", "one.onnx"]


def network(outputs=2, channels=1):
    torch.manual_seed(1)
    layers = [nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.AdaptiveAvgPool2d(2)]
    last = nn.Linear(32, outputs)
    last.weight.data *= 20  # a logit that is not in [0, 1]
    return nn.Sequential(*layers, nn.Flatten(), last).eval()


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Items of twelve grey films of different sizes."""
    folder, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    for n in range(12):
        Image.fromarray(rng.integers(0, 256, (20 + n, 24), dtype=np.uint8)).save(folder / f"{n}.png")
    facts = [{"image_id": f"i{n}", "patient_id": f"p{n}", "label": n % 2} for n in range(12)]
    return [{"image": str(folder / f"{n}.png"), **facts[n]} for n in range(12)]


def exported(model, batch=4, size=16, channels=1, open_batch=True):
    shapes = ({0: torch.export.Dim("batch")},) if open_batch else None
    return torch.export.export(model, (torch.rand(batch, channels, size, size),), dynamic_shapes=shapes)


def write_onnx(model, path, open_batch=True, size=16):
    with warnings.catch_warnings():  # torch's own exporter asks what its pytree module deprecates
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        program = torch.onnx.export(
            model,
            (torch.rand(4 if open_batch else 1, 1, size, size),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},) if open_batch else None,
            verbose=False,
        )
    program.save(str(path))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder of one network in every form, named by it."""
    folder, model = tmp_path_factory.mktemp("files"), network()
    torch.jit.save(torch.jit.script(model), folder / "net.ts")
    torch.jit.save(torch.jit.trace(model, torch.rand(2, 1, 16, 16)), folder / "net.traced.ts")
    torch.jit.save(torch.jit.freeze(torch.jit.script(model)), folder / "net.frozen.pt")
    torch.export.save(exported(model), folder / "net.pt2")
    torch.export.save(exported(model, open_batch=False), folder / "net.one.pt2")
    write_onnx(model, folder / "net.onnx")
    write_onnx(model, folder / "net.one.onnx", open_batch=False)
    return folder


def loaded(path, stated=STATED):
    return load_model(str(path), stated, FilmReader())


def batch(films):
    read, resize = LoadImage(reader=FilmReader(), ensure_channel_first=True), Resize((16, 16), mode="area")
    return torch.stack([resize(read(item["image"])).as_tensor() for item in films])


def logits(model, x):
    with frozen(model.network) as f, torch.no_grad():
        return f(x)


# The same network in every form


@pytest.mark.parametrize("form", FORMS)
def test_a_program_gives_the_logits_of_its_network_for_batches_of_any_size(form, files, films):
    model, x = loaded(files / f"net.{form}"), batch(films)
    assert torch.equal(torch.stack([model.transform(item)["image"] for item in films]), x)
    for count in (12, 5, 1):
        with torch.no_grad():
            expected = network()(x[:count])
        torch.testing.assert_close(logits(model, x[:count]), expected, rtol=1e-5, atol=1e-6)
    made = checked(model, films, CLASSES)
    assert (made.image_size, made.channels, made.classes) == ((16, 16), 1, CLASSES)
    assert made.perturbed == ("random" if form.endswith("onnx") else "gradient")


@pytest.mark.parametrize("form", [form for form in FORMS if not form.endswith("onnx")])
def test_gradients_and_attacks_are_those_of_the_network(form, files, films):
    x, y = batch(films), torch.arange(12) % 2
    model = loaded(files / f"net.{form}").network
    attack = PGD(L2(0.5), steps=3, start="none")
    torch.testing.assert_close(attack(model, x, y), attack(network(), x, y), rtol=1e-4, atol=1e-5)
    check_view(attack, model, x, y, ball=L2(0.5))


@pytest.mark.parametrize("form", FORMS)
def test_a_program_is_held_away_from_mode_changes(form, files, films):
    model, x = loaded(files / f"net.{form}"), batch(films)
    before = logits(model, x)
    model.network.train()
    with frozen(model.network) as f:
        torch.testing.assert_close(f(x).detach(), before)
    model.network.eval()
    torch.testing.assert_close(logits(model, x), before)


def test_every_file_has_a_state_that_tells_it_apart(files):
    models = [loaded(files / f"net.{form}") for form in FORMS]
    assert len({weights_checksum(model.network.state_dict()) for model in models}) == len(FORMS)
    assert len({model.facts["file_sha256"] for model in models}) == len(FORMS)
    assert {model.facts["kind"] for model in models} == {"TorchScript", "torch.export", "ONNX"}


def test_a_function_gives_the_network_itself(tmp_path, monkeypatch, films):
    monkeypatch.chdir(tmp_path)
    text = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(256, 2))\n"
    (tmp_path / "somebodys_module.py").write_text(text)
    model = checked(loaded("somebodys_module:make"), films, CLASSES)
    assert model.name == "somebodys_module:make"
    assert model.perturbed == "gradient"
    x = batch(films)
    assert torch.equal(logits(model, x), model.network(x))


def test_a_function_may_give_any_callable_which_is_told_apart_by_its_code(tmp_path, monkeypatch, films):
    monkeypatch.chdir(tmp_path)
    made = []
    for n, logit in enumerate(("x.mean((1, 2, 3))", "(1 - x.detach()).mean((1, 2, 3))")):
        text = f"import torch\ndef make():\n    return lambda x: 9 * torch.stack([{logit}, x.new_zeros(len(x))], 1)\n"
        (tmp_path / f"anybodys_{n}.py").write_text(text)
        made.append(checked(loaded(f"anybodys_{n}:make"), films, CLASSES))
    assert [model.perturbed for model in made] == ["gradient", "random"]
    x = batch(films)
    assert torch.equal(logits(made[0], x)[:, 0], 9 * x.mean((1, 2, 3)))
    assert made[0].facts["weights_sha256"] != made[1].facts["weights_sha256"]
    assert made[0].facts["weights_sha256"] == loaded("anybodys_0:make").facts["weights_sha256"]


def test_a_run_and_the_bundle_packed_of_it_are_the_model_of_its_table(workshop, cohort):
    items = lists.load(cohort / "phantom.json", cohort, "test")
    classes = lists.class_names(cohort / "phantom.json")
    table = read_table(workshop / "runs/rtda/predictions.parquet").to_pandas()
    table = table[(table["view"] == "clean") & (table["split"] == "test")].set_index("image_id")
    expected = torch.tensor([table.loc[item["image_id"], "logits"].tolist() for item in items])
    run, packed = (checked(load_model(str(workshop / name)), items, classes) for name in ("runs/rtda", "rtda.zip"))
    for model in (run, packed):
        x = torch.stack([model.transform(item)["image"] for item in items])
        torch.testing.assert_close(logits(model, x), expected)
        assert (model.name, model.facts["recipe"], model.left_out) == ("phantom_rtda", "rtda", ())
        assert model.facts["weights_sha256"] == packed.facts["rtda"]["weights_sha256"]
    assert (run.facts["kind"], run.facts["seed"], packed.facts["kind"]) == ("run", 0, "bundle")


def test_a_foreign_densenet_in_torchscript_takes_the_film_on_three_channels(tmp_path, films):
    torch.manual_seed(0)
    model = DenseNet121(spatial_dims=2, in_channels=3, out_channels=2).eval()
    torch.jit.save(torch.jit.trace(model, torch.rand(1, 3, 32, 32), check_trace=False), tmp_path / "densenet.ts")
    stated = replace(STATED, image_size=(32, 32), channels=3, value_range=(-1, 1))
    made = checked(loaded(tmp_path / "densenet.ts", stated), films, CLASSES)
    assert (made.channels, made.perturbed) == (1, "gradient")
    assert [note.split(":")[0] for note in made.notes] == ["value_range", "channels"]
    x = images(made, films)
    with torch.no_grad():
        expected = model((2 * x - 1).repeat(1, 3, 1, 1))
    torch.testing.assert_close(logits(made, x), expected)


# What a file says of itself


METADATA = {
    "version": "1.2.3",
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "spatial_shape": [16, 16], "value_range": [0, 1]}},
        "outputs": {"pred": {"channel_def": {"1": "pneumonia", "0": "normal"}}},
    },
}
CONFIG = {
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
            {"_target_": "Resized", "keys": "image", "spatial_size": [16, 16]},
            {"_target_": "NormalizeIntensityd", "keys": "image"},
        ],
    }
}


@pytest.mark.parametrize("form", ["ts", "pt2", "onnx"])
def test_metadata_and_preprocessing_are_read_from_the_file(form, tmp_path, files, films):
    path, carried = (
        tmp_path / f"net.{form}",
        {"inference.json": json.dumps(CONFIG), "metadata.json": json.dumps(METADATA)},
    )
    if form == "ts":
        config = {"inference.json": json.dumps(CONFIG).encode()}
        save_net_with_metadata(torch.jit.script(network()), str(path), meta_values=METADATA, more_extra_files=config)
    elif form == "pt2":
        torch.export.save(exported(network()), path, extra_files=carried)
    else:
        content = onnx.load(files / "net.onnx")
        helper.set_model_props(content, carried)
        onnx.save(content, path)
    model = checked(load_model(str(path), Stated(value_range=(0, 255))), films, CLASSES)
    assert model.facts["version"] == "1.2.3"
    own = ConfigParser(CONFIG).get_parsed_content("preprocessing")
    x = torch.stack([own({"image": item["image"]})["image"].as_tensor() for item in films])
    with torch.no_grad():
        expected = network()(x)
    torch.testing.assert_close(logits(model, images(model, films)), expected, rtol=1e-4, atol=1e-5)


def test_the_outputs_stand_in_the_order_of_the_list(files, films):
    forward = checked(loaded(files / "net.ts"), films, CLASSES)
    turned = checked(loaded(files / "net.ts"), films, CLASSES[::-1])
    x = batch(films)
    assert turned.classes == CLASSES[::-1]
    assert torch.equal(logits(turned, x), logits(forward, x).flip(1))


# A foreign bundle, of the shape of the model zoo's endoscopic_inbody_classification


STEPS = [
    {"_target_": "LoadImaged", "keys": "@image_key", "image_only": False},
    {"_target_": "EnsureChannelFirstd", "keys": "@image_key", "channel_dim": -1},
    {"_target_": "Resized", "keys": "@image_key", "spatial_size": [16, 16], "mode": "bilinear"},
    {"_target_": "CastToTyped", "dtype": "$torch.float32", "keys": "@image_key"},
    {"_target_": "NormalizeIntensityd", "nonzero": True, "channel_wise": True, "keys": "@image_key"},
    {"_target_": "EnsureTyped", "keys": "@image_key"},
]
RESNET = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 4, 8, 8], "spatial_dims": 2}
RESNET |= {"n_input_channels": 3, "num_classes": 2}
FOREIGN = Stated(value_range=(0, 255))


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Items of six colour frames with black corners."""
    folder, rng = tmp_path_factory.mktemp("frames"), np.random.default_rng(0)
    for n in range(6):
        pixels = rng.integers(1, 256, (20 + n, 24, 3), dtype=np.uint8)
        pixels[:8, :8] = 0
        Image.fromarray(pixels).save(folder / f"{n}.png")
    return [{"image": str(folder / f"{n}.png"), "label": n % 2, "image_id": f"i{n}"} for n in range(6)]


@pytest.fixture
def bundle(tmp_path):
    """Write a bundle folder with other steps, network or metadata; weights are those of ``resnet()``."""

    return partial(write_foreign, tmp_path / "inbody")


def write_foreign(root, steps=STEPS, network=None, weights=None, metadata=METADATA, postprocessing=()):
    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    config = {"imports": ["$import torch"], "image_key": "image", "bundle_root": "."}
    config["network_def"] = network or {"_target_": "ResNet", **RESNET}
    config["preprocessing"] = {"_target_": "Compose", "transforms": steps}
    config["postprocessing"] = {"_target_": "Compose", "transforms": list(postprocessing)}
    (root / "configs/inference.json").write_text(json.dumps(config))
    (root / "configs/metadata.json").write_text(json.dumps(metadata))
    torch.save(resnet().state_dict() if weights is None else weights, root / "models/model.pt")
    return root


def resnet():
    torch.manual_seed(2)
    return ResNet(**RESNET).eval()


def own_images(root, items):
    parser = ConfigParser(ConfigParser.load_config_file(root / "configs/inference.json"))
    chain = parser.get_parsed_content("preprocessing")
    return torch.stack([chain({"image": item["image"]})["image"].as_tensor() for item in items])


def test_with_its_normalisation_inside_a_foreign_bundle_gives_its_own_logits(bundle, frames):
    root = bundle()
    model = checked(load_model(str(root), FOREIGN), frames, CLASSES)
    x = images(model, frames)
    assert (x.min() >= 0, x.max() <= 1, x.max() > 0.8) == (True, True, True)
    with torch.no_grad():
        expected = resnet()(own_images(root, frames))
    torch.testing.assert_close(logits(model, x), expected, rtol=1e-4, atol=1e-5)
    assert (model.name, model.image_size, model.channels) == ("inbody", (16, 16), 3)
    assert (model.perturbed, model.left_out, model.facts["version"]) == ("gradient", (), "1.2.3")
    assert [note.split(":")[0] for note in model.notes] == ["value_range", "normalisation"]


def test_an_attack_on_it_moves_the_image_and_not_the_statistics(bundle, frames, tmp_path):
    model = checked(load_model(str(bundle()), FOREIGN), frames, CLASSES)
    attack = PGD(L2(0.5), steps=2, start="none")
    evaluation = Evaluation(
        model.network, {"clean": Clean(), "pgd": attack}, frames, model.transform, {}, tmp_path / "p"
    )
    evaluation.claim()
    evaluation.run()
    table = evaluation.table({}).to_pandas()
    x = images(model, frames)
    around = holding(model.network, x)
    attacked = attack(around, x, torch.arange(6) % 2)
    mean, deviation = (statistic(x * 255, attacked * 255) for statistic in (masked_mean, masked_deviation))
    with torch.no_grad():
        expected = resnet()((attacked * 255 - mean) / deviation)
    found = torch.tensor([row.tolist() for row in table.loc[table["view"] == "pgd", "logits"]])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def masked_mean(clean, like):
    means = torch.stack([torch.stack([c[c != 0].mean() for c in image]) for image in clean])
    return torch.where(clean != 0, means[..., None, None].expand_as(like), 0)


def masked_deviation(clean, like):
    found = torch.stack([torch.stack([c[c != 0].std(correction=0) for c in image]) for image in clean])
    return torch.where(clean != 0, found[..., None, None].expand_as(like), 1)


@pytest.mark.parametrize("key", ["model", None])
def test_weights_are_found_alone_or_under_model(bundle, frames, key):
    state = resnet().state_dict()
    model = load_model(str(bundle(weights={key: state} if key else state)), FOREIGN)
    assert model.facts["weights_sha256"] == weights_checksum(state)


def test_random_weights_are_drawn_the_same_each_time_and_noted(bundle, frames):
    root = bundle()
    (root / "models/model.pt").unlink()
    with pytest.raises(ModelError, match=r"^inbody: models/model.pt: missing; .* by --random-weights$"):
        load_model(str(root), FOREIGN)
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first, second = (load_model(str(root), replace(FOREIGN, random_weights=True)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.facts == second.facts
    assert first.notes[-1] == "weights: random, by seed 0"


def test_a_bundle_may_bring_a_network_of_its_own(bundle, frames):
    root = bundle(network={"_target_": "network_of_inbody.Own"}, weights={})
    text = (
        "from torch import nn\nclass Own(nn.Flatten):\n    def forward(self, x):\n        return 2 + x[:, :2, 9, 9]\n"
    )
    (root / "network_of_inbody.py").write_text(text)
    model = checked(load_model(str(root), FOREIGN), frames, CLASSES)
    assert model.perturbed == "gradient"


@pytest.mark.parametrize("target", ["Activationsd", "monai.transforms.Activationsd"])
def test_postprocessing_tells_that_a_network_gives_logits(target, bundle, frames):
    """They lie in [0, 1] here, which would be asked about otherwise."""
    states = {name: torch.zeros_like(value) for name, value in resnet().state_dict().items()}
    softmax = [{"_target_": target, "keys": "pred", "softmax": True}]
    model = load_model(str(bundle(weights=states, postprocessing=softmax)), FOREIGN)
    assert model.output == "logits"
    made = checked(model, frames, CLASSES)
    assert made.left_out == ("attacks: its gradient is 0 on all images looked at; random perturbations stand in",)
    with pytest.raises(ModelError, match=r"output: in .* state --gives logits"):
        checked(replace(model, output=None), frames, CLASSES)


OWN_RANGE = {"_target_": "ScaleIntensityd", "keys": "image"}
PERCENTILES = {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "lower": 1, "upper": 99}
PERCENTILES |= {"b_min": 0, "b_max": 1}
HISTOGRAM = {"_target_": "HistogramNormalized", "keys": "image", "min": 0, "max": 1}


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        ([STEPS[4], STEPS[2]], "NormalizeIntensityd"),
        ([OWN_RANGE, STEPS[2]], "ScaleIntensityd"),
        ([OWN_RANGE, STEPS[2], STEPS[4]], "ScaleIntensityd"),
        ([STEPS[2], PERCENTILES], "ScaleIntensityRangePercentilesd"),
        ([STEPS[2], PERCENTILES, STEPS[4]], "ScaleIntensityRangePercentilesd"),
        ([STEPS[2], HISTOGRAM], "HistogramNormalized"),
    ],
)
def test_where_each_image_is_scaled_by_its_own_intensities_before_the_end_no_attack_is_made(
    steps, named, bundle, frames
):
    """--value-range makes such numbers images, but ε would be of another size in each."""
    root = bundle([*STEPS[:2], *steps, STEPS[5]])
    model = checked(load_model(str(root), Stated(value_range=(-10, 10))), frames, CLASSES)
    assert model.perturbed == "nothing"
    (line,) = model.left_out
    told = f"attacks: preprocessing scales each image by its own intensities ({named}), so that ε differs by image"
    assert line == f"{told}; clean and shifted images remain"
    with torch.no_grad():
        expected = resnet()(own_images(root, frames))
    torch.testing.assert_close(logits(model, images(model, frames)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [[OWN_RANGE, STEPS[4]], [STEPS[4], OWN_RANGE], [OWN_RANGE, STEPS[5], STEPS[4]]])
def test_several_normalisations_at_the_end_move_inside_and_are_all_held(steps, bundle, frames):
    root = bundle([*STEPS[:4], *steps])
    model = checked(load_model(str(root), FOREIGN), frames, CLASSES)
    assert (model.perturbed, model.left_out) == ("gradient", ())
    x = images(model, frames)
    with torch.no_grad():
        expected = resnet()(own_images(root, frames))
        torch.testing.assert_close(logits(model, x), expected, rtol=1e-4, atol=1e-4)
        stages = [stage for stage in holding(model.network, x) if isinstance(stage, Normalisation)]
    assert len(stages) == 2
    assert all(stage.held for stage in stages)
    torch.testing.assert_close(
        logits(replace(model, network=holding(model.network, x)), x), expected, rtol=1e-4, atol=1e-4
    )


def test_a_normalisation_by_given_numbers_may_stand_anywhere(bundle, frames):
    fixed = {"_target_": "NormalizeIntensityd", "keys": "image", "subtrahend": 127.5, "divisor": 127.5}
    model = checked(
        load_model(str(bundle([*STEPS[:2], fixed, STEPS[2]])), Stated(value_range=(-1, 1))), frames, CLASSES
    )
    assert (model.perturbed, model.left_out) == ("gradient", ())


def test_a_scaling_to_fixed_numbers_needs_no_module(bundle, frames):
    window = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 255, "b_min": -1, "b_max": 1}
    root = bundle([*STEPS[:4], window])
    model = checked(load_model(str(root), Stated(value_range=(-1, 1))), frames, CLASSES)
    assert [type(stage) for stage in model.network] == [InRange, ResNet]
    with torch.no_grad():
        expected = resnet()(own_images(root, frames))
    torch.testing.assert_close(logits(model, images(model, frames)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value_range", [(0, 1), (0, 255), (-1, 1), (-3, 7)])
def test_zero_stays_zero_on_the_way_through_the_unit_interval(value_range):
    low, high = value_range
    v = torch.cat([torch.zeros(1), torch.empty(1000).uniform_(low, high)])
    x = ((v - low) / (high - low)).requires_grad_()
    there = InRange(low, high)(x)
    torch.testing.assert_close(there, v, rtol=1e-5, atol=1e-6)
    assert there[0] == 0
    assert torch.equal(torch.autograd.grad(there.sum(), x)[0], torch.full_like(v, high - low))


# Outputs


def test_probabilities_are_recognised_and_evaluated_by_their_logarithms(tmp_path, films):
    model = nn.Sequential(network(), nn.Softmax(1)).eval()
    torch.jit.save(torch.jit.script(model), tmp_path / "soft.ts")
    made = checked(loaded(tmp_path / "soft.ts"), films, CLASSES)
    x = batch(films)
    torch.testing.assert_close(logits(made, x).softmax(1), model(x).detach())
    assert [note.split(",")[0] for note in made.notes] == ["output: probabilities"]
    taken = checked(loaded(tmp_path / "soft.ts", replace(STATED, output="logits")), films, CLASSES)
    assert torch.equal(logits(taken, x), model(x).detach())


class Other(nn.Module):
    """What no evaluation can use, one fault an attribute."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def flat(x):
    return x.flatten(1)[:, :2]


def cut_off(x):
    return torch.from_numpy(flat(x).detach().numpy())


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (cut_off, "no gradient: element 0 of tensors does not require grad"),
        (lambda x: flat(x).round(), "its gradient is 0 on all images looked at"),
        (lambda x: cut_off(x) + nn.Parameter(torch.zeros(2)), "no gradient reaches the image"),
        (lambda x: (flat(x) - flat(x)).sqrt(), "its gradient is not finite"),
    ],
)
def test_without_a_usable_gradient_random_perturbations_stand_in(function, reason, films, monkeypatch):
    made = checked(made_by(function, monkeypatch, output="logits"), films, CLASSES)
    assert made.perturbed == "random"
    (line,) = made.left_out
    assert line.startswith(f"attacks: {reason}")
    assert line.endswith("; random perturbations stand in")


def made_by(function, monkeypatch, **stated):
    monkeypatch.setitem(sys.modules, "somebodys", SimpleNamespace(make=lambda: Other(function)))
    return loaded("somebodys:make", replace(STATED, **stated))


# Bad input, told before long work begins


def wrong(function, message, **stated):
    return pytest.param(function, stated, rf"^somebodys:make: {message}", id=message.split(";")[0][:60])


@pytest.mark.parametrize(
    ("function", "stated", "message"),
    [
        wrong(lambda x: flat(x) / 0, "logits: not finite on 12 of 12 images; check its weights and --value-range$"),
        wrong(
            lambda x: x.flatten(1)[:, :3], r"logits: \[12, 3\] of 12 images and 2 classes; give --classes with 3 names$"
        ),
        wrong(lambda x: x.flatten(1)[:, :1], r"logits: \[12, 1\] .* gives one output a class$"),
        wrong(lambda x: x.flatten(), r"logits: \[3072\] .* gives one output a class$"),
        wrong(lambda x: (flat(x), x), "logits: tuple, not a tensor of floats; wrap it in a module:function$"),
        wrong(lambda x: flat(x) > 0.5, "logits: tensor of torch.bool, not a tensor of floats"),
        wrong(lambda x: flat(x).sigmoid(), r"output: in \[0, 1\], but rows do not sum to 1; state --gives logits"),
        wrong(lambda x: flat(x) - 1, "output: rows are no probabilities of 2 classes", output="probabilities"),
        wrong(lambda x: flat(x - x.mean(0)), "network: logits depend on the other images of the batch; export it"),
        wrong(lambda x: flat(x) * torch.rand(()), "network: two calls on the same images differ; export it"),
        wrong(
            lambda x: x @ torch.zeros(3, 2),
            r"network: fails on images \[1, 16, 16\]: .*; check its preprocessing, or --image",
        ),
    ],
)
def test_a_network_that_gives_no_logits_is_refused(function, stated, message, films, monkeypatch):
    with pytest.raises(ModelError, match=message):
        checked(made_by(function, monkeypatch, **stated), films, CLASSES)


def test_of_labels_each_has_a_probability_of_its_own(films, monkeypatch):
    def labels(x):
        return flat(x).sigmoid()

    logits = checked(made_by(flat, monkeypatch, output="logits"), films, CLASSES, multilabel=True)
    made = checked(made_by(labels, monkeypatch, output="probabilities"), films, CLASSES, multilabel=True)
    x = images(logits, films)
    torch.testing.assert_close(made.network(x), logits.network(x), atol=1e-4, rtol=1e-4)
    assert made.perturbed == "gradient"
    for function, stated, message in (
        (labels, None, "in [0, 1], as probabilities are and logits may be; state --gives probabilities or --gives lo"),
        (lambda x: flat(x) - 1, "probabilities", "not in [0, 1]; state --gives logits"),
    ):
        with pytest.raises(ModelError, match=re.escape(f"somebodys:make: output: {message}")):
            checked(made_by(function, monkeypatch, output=stated), films, CLASSES, multilabel=True)
    sure = LogOdds()(torch.tensor([[0.0, 1.0]]))
    assert bool(sure.isfinite().all())


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"classes": None}, "classes: unknown; give --classes with the names of its outputs, in order$"),
        ({"classes": ("a", "a")}, "classes: a, a; give two or more different names$"),
        ({"classes": ("a",)}, "classes: a; give two or more different names$"),
        ({"value_range": None}, "value_range: unknown; give --value-range of the images that it takes, such as 0,1$"),
        ({"value_range": (1, 0)}, "value_range: 1 to 0 does not rise; give the lowest and the highest$"),
        ({"image_size": None}, "image_size: unknown; give --image-size of the images that it takes, such as 224$"),
    ],
)
def test_what_is_not_known_is_asked_for(stated, message, monkeypatch):
    with pytest.raises(ModelError, match=rf"^somebodys:make: {message}"):
        made_by(flat, monkeypatch, **stated)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            ("normal", "tb"),
            r"only the list has tb; give --classes with the list's names \(normal, tb\) in the order of",
        ),
        (("normal", "pneumonia", "tb"), "only the list has tb"),
    ],
)
def test_a_list_whose_labels_the_model_lacks_is_refused(classes, message, files, films):
    with pytest.raises(ModelError, match=rf"^net: classes: {message}"):
        checked(loaded(files / "net.ts"), films, classes)


def test_a_model_that_tells_more_than_the_list_is_refused(tmp_path, films):
    torch.jit.save(torch.jit.script(network(3)), tmp_path / "three.ts")
    model = loaded(tmp_path / "three.ts", replace(STATED, classes=(*CLASSES, "tb")))
    with pytest.raises(ModelError, match=r"^three: classes: only the model has tb; give --classes"):
        checked(model, films, CLASSES)


@pytest.mark.parametrize(
    ("steps", "value_range", "message"),
    [
        (STEPS, None, r"image: values 0 to 2\d\d.*, outside its bounds 0 to 1; .* such as --value-range 0,255$"),
        (STEPS, (0, 65535), "image: all values within 1 % of its bounds, so that ε would mean nothing; state"),
        ([*STEPS[:2], *STEPS[3:]], (0, 255), r"image: shapes \(3, 24, 20\) and \(3, 24, 21\); .* must give one size$"),
        (
            [*STEPS[:4], {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x / 0"}],
            (0, 1),
            "image: not finite",
        ),
        ([{"_target_": "LoadImaged", "keys": "picture"}], (0, 255), "preprocessing of 0.png: .*picture"),
    ],
)
def test_images_that_no_radius_fits_are_refused(steps, value_range, message, bundle, frames):
    model = load_model(str(bundle(steps)), Stated(value_range=value_range))
    with pytest.raises(ModelError, match=f"^inbody: {message}"):
        checked(model, frames, CLASSES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {"_target_": "NoSuchNet"}}, "network_def: cannot be made: .*; correct its config$"),
        (
            {"steps": [{"_target_": "Resized", "kyes": "image"}]},
            "preprocessing: cannot be made: .*; correct its config$",
        ),
        ({"weights": {"model": {"a": torch.ones(1)}}}, "models/model.pt: not weights of its network: .*; restore it$"),
        ({"weights": nn.Linear(1, 1)}, "models/model.pt: not weights of its network: .*; restore it$"),
        ({"metadata": {"network_data_format": 3}}, "network_data_format: not as MONAI's metadata have it; correct it$"),
        ({"metadata": {}}, "classes: unknown; give --classes"),
    ],
)
def test_a_faulty_bundle_is_refused(change, message, bundle):
    with pytest.raises(ModelError, match=f"^inbody: {message}"):
        load_model(str(bundle(**change)), FOREIGN)


def test_options_that_a_bundle_decides_itself_are_refused(bundle):
    root = bundle()
    with pytest.raises(
        ModelError, match=r"^inbody: image_size: its own preprocessing decides that; leave the option out$"
    ):
        load_model(str(root), replace(FOREIGN, image_size=(16, 16)))
    (root / "configs/inference.json").unlink()
    with pytest.raises(ModelError, match=r"^inbody: configs/inference: missing; "):
        load_model(str(root), FOREIGN)


def test_files_that_are_no_programs_are_refused(tmp_path, files):
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    (tmp_path / "text.ts").write_text("no program")
    (tmp_path / "text.onnx").write_text("no program")
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("x/archive_format", "other")
    for name, message in {
        "weights.pt": "file: weights without a network; give the bundle or run that they belong to",
        "text.ts": "file: neither TorchScript, torch.export nor ONNX; export the network to one",
        "text.onnx": "ONNX: cannot be read: .*; export it again",
        "other.pt2": "torch.export: cannot be read: .*; export it again",
        "absent.ts": "file: not found; give a file of TorchScript, torch.export or ONNX",
    }.items():
        with pytest.raises(ModelError, match=f"^{name}: {message}$"):
            loaded(tmp_path / name)
    with pytest.raises(BundleError, match=r"^no_such_bundle: bundle: not found; "):
        loaded("no_such_bundle")
    with pytest.raises(ModelError, match=r"^no.module:make: network: cannot be made: No module named 'no'; name a"):
        loaded("no.module:make")
    with pytest.raises(ModelError, match=r"^math:cos: network: cannot be made: .*; name a function that takes"):
        loaded("math:cos")
    with pytest.raises(ModelError, match=r"^builtins:dict: network: dict cannot be called; return a network$"):
        loaded("builtins:dict")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([("x", TensorProto.DOUBLE)], r"input: tensor\(double\), not tensor\(float\); export it in float32"),
        (
            [("x", TensorProto.FLOAT), ("age", TensorProto.FLOAT)],
            "inputs: x, age; export a network of one image tensor",
        ),
    ],
)
def test_an_onnx_program_of_other_inputs_is_refused(inputs, message, tmp_path):
    infos = [helper.make_tensor_value_info(name, kind, ["n", 2]) for name, kind in inputs]
    output = helper.make_tensor_value_info("y", inputs[0][1], ["n", 2])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", infos, [output])
    onnx.save(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "net.onnx"
    )
    with pytest.raises(ModelError, match=f"^net.onnx: {message}"):
        loaded(tmp_path / "net.onnx")


def test_without_onnxruntime_its_cure_is_named(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"^net.onnx: onnxruntime: not installed; pip install 'rtda\[onnx\]'$"):
        loaded(files / "net.onnx")


@pytest.mark.parametrize(
    ("layer", "fault"),
    [(nn.BatchNorm2d(1), "logits depend on the other images"), (nn.Dropout(), "two calls on the same images differ")],
)
def test_a_program_exported_in_training_mode_is_refused(layer, fault, tmp_path, films):
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(256, 2)).train()
    torch.export.save(exported(model), tmp_path / "training.pt2")
    with pytest.raises(ModelError, match=f"^training: network: {fault}.*; export it in evaluation mode"):
        checked(loaded(tmp_path / "training.pt2"), films, CLASSES)


def test_a_torchscript_program_saved_in_training_mode_is_evaluated_in_evaluation_mode(tmp_path, films):
    torch.jit.save(torch.jit.script(network().train()), tmp_path / "training.ts")
    model = checked(loaded(tmp_path / "training.ts"), films, CLASSES)
    torch.testing.assert_close(logits(model, batch(films)), network()(batch(films)).detach())


def test_carried_files_that_are_no_json_are_refused(tmp_path):
    torch.jit.save(torch.jit.script(network()), tmp_path / "net.ts", _extra_files={"metadata.json": b"{"})
    with pytest.raises(ModelError, match=r"^net.ts: metadata.json: not JSON; export it again$"):
        loaded(tmp_path / "net.ts")
