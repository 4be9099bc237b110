"""The bundles: MONAI's own checks, and facts that stand in more than one place."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata, verify_net_in_out
from monai.handlers import from_engine
from monai.transforms import Compose
from rtda.pipeline.delivery.bundle import INSTALLED, RECIPE_IDS, ROOT_IDS
from rtda.pipeline.handlers import RadiusWarmUp
from rtda.pipeline.views import make_views, plain
from rtda.transforms.display import Choices
from rtda.transforms.facts import NO_FACTS
from rtda.transforms.reader import FilmReader

BUNDLES = sorted(path.parent for path in INSTALLED.glob("*/configs"))
RECIPES = sorted((INSTALLED / "recipes").glob("*.yaml"))
each_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)


def config(bundle, name):
    return yaml.safe_load((bundle / "configs" / f"{name}.yaml").read_text())


def metadata(bundle):
    return json.loads((bundle / "configs/metadata.json").read_text())


@pytest.fixture
def data(cohort, tmp_path):
    """The tiny cohort in place of a bundle's own."""
    where = {"data_list": str(cohort / "phantom.json"), "dataset_dir": str(cohort), "output_dir": str(tmp_path / "run")}
    return where | {"image_size": 32, "batch_size": 16, "precision": "float32", "max_epochs": 1}


def workflow(bundle, kind, *overlays, **overrides):
    files = [str(bundle / "configs" / f"{kind}.yaml"), *map(str, overlays)]
    meta = str(bundle / "configs/metadata.json")
    options = {"logging_file": False, "bundle_root": str(bundle), "workflow_type": kind}
    made = ConfigWorkflow(config_file=files, meta_file=meta, **options, **overrides)
    made.initialize()
    return made


def test_there_are_two_bundles_and_eight_recipes():
    assert [bundle.name for bundle in BUNDLES] == ["chest_xray_rtda", "phantom_rtda"]
    assert len(RECIPES) == 8


# MONAI's own checks


@each_bundle
def test_the_training_workflow_has_every_property_of_monais(bundle, data):
    assert workflow(bundle, "train", **data).check_properties() == []


@each_bundle
def test_the_inference_workflow_has_every_property_of_monais(bundle, cohort, tmp_path):
    weights = tmp_path / "model.pt"
    network = ConfigParser(config(bundle, "inference")).get_parsed_content("network_def")
    torch.save(network.state_dict(), weights)
    where = {"checkpoint": str(weights), "dataset_dir": str(cohort / "films"), "output_dir": str(tmp_path)}
    assert workflow(bundle, "inference", **where).check_properties() == []


@each_bundle
def test_the_metadata_fit_monais_schema(bundle):
    before = (INSTALLED / "metadata.schema.json").read_bytes()
    verify_metadata(str(bundle / "configs/metadata.json"), filepath=str(INSTALLED / "metadata.schema.json"))
    assert (INSTALLED / "metadata.schema.json").read_bytes() == before


@each_bundle
@pytest.mark.parametrize("kind", ["train", "inference"])
def test_the_network_takes_and_gives_what_the_metadata_state(bundle, kind):
    files = [str(bundle / "configs" / name) for name in ("metadata.json", f"{kind}.yaml")]
    verify_net_in_out("network_def", meta_file=files[0], config_file=files[1], device="cpu")


# One fact in several places


@each_bundle
def test_every_root_id_stands_in_train(bundle):
    assert set(ROOT_IDS) <= set(config(bundle, "train"))


@each_bundle
def test_the_recipe_in_train_is_rtda(bundle):
    train, rtda = config(bundle, "train"), yaml.safe_load((INSTALLED / "recipes/rtda.yaml").read_text())
    assert {name: train[name] for name in RECIPE_IDS} == rtda


@each_bundle
def test_training_and_inference_have_one_network_and_one_preprocessing(bundle):
    train, inference = config(bundle, "train"), config(bundle, "inference")
    assert inference["network_def"] == train["network_def"]
    assert '"conv1_t_stride": 2' in json.dumps(inference["network_def"])
    assert inference["image_size"] == train["image_size"]
    steps = [step for step in train["preprocessing"] if step["_target_"] != "SelectItemsd"]
    kept = [{key: value for key, value in step.items() if key != "track_meta"} for step in steps]
    assert inference["image_transforms"] == kept


@each_bundle
def test_training_and_inference_read_by_one_reader_with_the_same_choices_all_of_them_stated(bundle):
    parts = {"train": config(bundle, "train")["preprocessing"]}
    parts["inference"] = config(bundle, "inference")["image_transforms"]
    stated = [config(bundle, name)["choices"] for name in parts]
    assert stated[0] == stated[1]
    assert set(stated[0]) == {"_target_", *(field.name for field in fields(Choices))}
    for name, steps in parts.items():
        parser = ConfigParser(config(bundle, name))
        reader = parser.get_parsed_content("reader")
        assert type(reader) is FilmReader
        assert reader.choices == parser.get_parsed_content("choices") == Choices()
        assert [step["reader"] for step in steps if step["_target_"].startswith("LoadImage")] == ["@reader"]


IDENTITY = {
    **{"PatientName": "Zebra^Quagga", "PatientID": "Z4711", "PatientBirthDate": "19010203", "StudyDate": "20200131"},
    **{"AccessionNumber": "Q99", "InstitutionName": "St. Elsewhere", "StudyInstanceUID": "1.2.3.4.5"},
}


MONAIS = ("affine", "spatial_shape", "original_channel_dim")
"""What MONAI itself keeps of an image, besides its path."""


@each_bundle
def test_no_fact_leaves_the_chains_beyond_the_closed_list(bundle, write_film, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9)).astype(np.uint8)
    item = {"image": str(write_film(tmp_path / "film", pixels, **IDENTITY)), "label": 0, "patient_id": "a", "sex": "F"}
    train = Compose(ConfigParser(config(bundle, "train")).get_parsed_content("preprocessing"))(item)
    assert {key: type(value) for key, value in train.items()} == {"image": torch.Tensor, "label": int}
    image = ConfigParser(config(bundle, "inference")).get_parsed_content("preprocessing")({"image": item["image"]})
    meta = {key: value for key, value in image["image"].meta.items() if key != "filename_or_obj"}  # asked for by MONAI
    assert {key for key in meta if key.startswith("film_")} == {f"film_{key}" for key in (*NO_FACTS, "format")}
    assert {key for key in meta if not key.startswith("film_")} == set(MONAIS)
    assert not [word for word in IDENTITY.values() if word in str(meta)]


@each_bundle
def test_monai_alone_finds_every_frame(bundle, write_film, tmp_path):
    loop = np.random.default_rng(0).integers(0, 256, (3, 9, 9)).astype(np.uint8)
    write_film(tmp_path / "a.dcm", loop)
    write_film(tmp_path / "b.dcm", loop[0])
    parser = ConfigParser(config(bundle, "inference") | {"dataset_dir": str(tmp_path), "image_size": 9})
    dataset = parser.get_parsed_content("dataset")
    for item, frame in zip(dataset, [*loop, loop[0]], strict=True):
        np.testing.assert_allclose(plain(item["image"])[0].numpy(), frame / 255, rtol=0, atol=1e-6)


def test_the_bundles_differ_in_no_transform():
    first, *others = (config(bundle, "inference") for bundle in BUNDLES)
    for other in others:
        for name in (
            "choices",
            "reader",
            "image_transforms",
            "preprocessing",
            "dataset",
            "handlers",
            "evaluator",
            "postprocessing",
        ):
            assert other[name] == first[name]


@each_bundle
def test_value_range_attack_bounds_and_images_are_one_fact(bundle, data):
    stated = metadata(bundle)["network_data_format"]["inputs"]["image"]
    parser = workflow(bundle, "train", **data).parser
    attack = parser.get_parsed_content("attack")
    dataset = parser.get_parsed_content("train#dataset")
    images = torch.stack([plain(dataset[i]["image"]) for i in range(len(dataset))])
    assert list(attack.bounds) == stated["value_range"]
    assert str(images.dtype) == f"torch.{stated['dtype']}"
    assert images.shape[1:] == (stated["num_channels"], 32, 32)
    assert stated["value_range"][0] <= images.min() < 0.2
    assert 0.5 < images.max() <= stated["value_range"][1]


@each_bundle
def test_the_image_size_is_that_of_the_metadata(bundle):
    shape = metadata(bundle)["network_data_format"]["inputs"]["image"]["spatial_shape"]
    assert shape == [config(bundle, "train")["image_size"]] * 2


def test_the_outputs_are_the_lists_classes(cohort):
    channels = metadata(INSTALLED / "phantom_rtda")["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert [channels[key] for key in sorted(channels)] == json.loads((cohort / "phantom.json").read_text())["classes"]


@each_bundle
def test_the_radius_scales_with_the_image(bundle, data):
    parser = workflow(bundle, "train", **data).parser
    expected = config(bundle, "train")["radius_224"] * 32 / 224
    assert parser.get_parsed_content("radius") == pytest.approx(expected)
    assert parser.get_parsed_content("attack").ball.radius == pytest.approx(expected)


@each_bundle
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_overlays_every_bundle(bundle, recipe, data):
    """Its views can be made, it stacks only those, and the loss can be computed."""
    parser = workflow(bundle, "train", recipe, **data).parser
    views = {name: parser.get_parsed_content(f"views#{name}") for name in parser["views"]}
    loss, network = parser.get_parsed_content("loss"), parser.get_parsed_content("network")
    x, y = torch.rand(4, 1, 32, 32), torch.arange(4) % 2
    made = make_views(views, network, x, y)
    stacked = [made[name] for name in parser["stack"]]
    value = loss(network(torch.cat(stacked)), torch.cat([y] * len(stacked)))
    assert value.isfinite()
    radius = parser.get_parsed_content("radius")
    if "adversarial" in made:
        start = made["augmented"] if recipe.stem == "adversarial_augmentation" else x
        assert 0 < (made["adversarial"] - start).flatten(1).norm(dim=1).max() <= radius * (1 + 1e-4)
    assert set(parser["supervise"]) <= set(parser["stack"])


@pytest.mark.parametrize(
    ("epochs", "shares"), [(1, [1]), (2, [0, 1]), (3, [0, 0.5, 1]), (7, [0, 0.2, 0.4, 0.6, 0.8, 1, 1])]
)
def test_the_phantoms_warm_up_ends_at_the_full_radius_however_short_the_run(data, epochs, shares):
    parser = workflow(INSTALLED / "phantom_rtda", "train", **data | {"max_epochs": epochs}).parser
    trainer = parser.get_parsed_content("train#trainer")
    (warm_up,) = (item for item in parser.get_parsed_content("train#handlers") if isinstance(item, RadiusWarmUp))
    found = []
    for epoch in range(1, epochs + 1):
        trainer.state.epoch = epoch
        warm_up(trainer)
        found.append(trainer.views["adversarial"].ball.radius / parser.get_parsed_content("radius"))
    assert found == pytest.approx(shares)


@each_bundle
def test_a_trainers_output_is_decollated_as_monais_own_handlers_expect(bundle, data):
    trainer, seen = workflow(bundle, "train", **data).parser.get_parsed_content("train#trainer"), []

    @trainer.on(Events.ITERATION_COMPLETED)
    def stop(engine):
        seen.append((from_engine(["loss"], first=True)(engine.state.output), len(engine.state.output)))
        engine.terminate()

    trainer.run()
    ((loss, items),) = seen
    assert loss > 0
    assert items == 16  # the supervised view's rows only


@each_bundle
@pytest.mark.parametrize("file", ["train.yaml", "inference.yaml", "evaluate.yaml"])
def test_a_config_says_by_which_command_it_runs(bundle, file):
    text = (bundle / "configs" / file).read_text()
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    assert "python -m monai.bundle run" in header
    assert "--bundle_root" in header


@each_bundle
def test_inference_needs_three_of_our_modules_only(bundle):
    used = set(re.findall(r"rtda\.[a-z_.]+\.", (bundle / "configs/inference.yaml").read_text()))
    assert used == {"rtda.pipeline.networks.", "rtda.transforms.display.", "rtda.transforms.reader."}


# Run by MONAI alone


@pytest.mark.process
@pytest.mark.slow
def test_monai_alone_runs_inference_on_a_packed_bundle(workshop, cohort, tmp_path):
    import csv

    from rtda.pipeline.cli import main

    with zipfile.ZipFile(workshop / "rtda.zip") as archive:
        archive.extractall(tmp_path)
    bundle = tmp_path / "phantom_rtda"
    done = by_monai(
        "--config_file", bundle / "configs/inference.yaml", "--bundle_root", bundle,
        "--dataset_dir", cohort / "films", "--output_dir", tmp_path / "out", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (table,) = (tmp_path / "out").rglob("*.csv")
    with table.open(newline="") as file:
        rows = {Path(row[0]).name: [float(value) for value in row[1:]] for row in csv.reader(file)}
    assert main(["infer", str(workshop / "rtda.zip"), str(cohort / "films"), "-o", str(tmp_path / "ours.csv")]) == 0
    with (tmp_path / "ours.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert rows.pop(Path(row["file"]).name)[1] == pytest.approx(float(row["lesion"]), abs=1e-5)
    assert not rows


@pytest.mark.process
@pytest.mark.slow
def test_monai_alone_evaluates_a_run(workshop, cohort, tmp_path):
    bundle = INSTALLED / "phantom_rtda"
    files = [str(bundle / "configs" / f"{name}.yaml") for name in ("train", "evaluate")]
    done = by_monai(
        "--config_file", str(files), "--bundle_root", bundle, "--output_dir", workshop / "runs/rtda",
        "--dataset_dir", cohort, "--image_size", "32", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    best = torch.load(workshop / "runs/rtda/best.pt", weights_only=True)
    stated = re.findall(r"auroc: ([0-9.]+)", done.stdout + done.stderr)
    assert stated
    assert float(stated[-1]) == pytest.approx(best["scores"]["clean"], abs=1e-3)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.data
def test_monai_alone_trains_and_evaluates_the_chest_bundle_on_its_films(real_data, tmp_path):
    bundle = INSTALLED / "chest_xray_rtda"
    given = "--bundle_root", bundle, "--dataset_dir", real_data / "xray_kermany/images"
    train, evaluate = (str(bundle / "configs" / f"{name}.yaml") for name in ("train", "evaluate"))
    standard = str(INSTALLED / "recipes/standard.yaml")
    done = by_monai("--config_file", [train, standard], *given, "--max_epochs", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs/chest_xray_rtda"
    done = by_monai("--config_file", [train, evaluate], *given, "--output_dir", run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    clean = torch.load(run / "best.pt", weights_only=True)["scores"]["clean"]
    assert float(re.findall(r"auroc: ([0-9.]+)", done.stdout + done.stderr)[-1]) == pytest.approx(clean, abs=1e-3)


@pytest.mark.process
@pytest.mark.slow
def test_monai_alone_trains_with_its_own_tracking(cohort, tmp_path):
    bundle = INSTALLED / "phantom_rtda"
    done = by_monai(
        "--config_file", [str(bundle / "configs/train.yaml"), str(INSTALLED / "recipes/rtda.yaml")],
        "--bundle_root", bundle, "--dataset_dir", cohort, "--output_dir", tmp_path / "run", "--image_size", 32,
        "--batch_size", 16, "--max_epochs", 2, "--precision", "float32", "--tracking", "mlflow", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    connection = sqlite3.connect(tmp_path / "run/mlruns.db")
    assert connection.execute("SELECT name, status FROM runs").fetchall() == [("phantom_rtda", "FINISHED")]
    losses = connection.execute("SELECT value FROM metrics WHERE key = 'train_loss'").fetchall()
    connection.close()
    assert len(losses) == 6  # three batches in each of two epochs
    assert all(0 < loss < 10 for (loss,) in losses)


def by_monai(*words, cwd):
    command = [sys.executable, "-m", "monai.bundle", "run", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
