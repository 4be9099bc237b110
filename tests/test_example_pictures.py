"""The pictures that a report shows: which they are, and whose are never shown."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from rtda.pipeline.cli import main
from rtda.pipeline.commands.examples import shown
from rtda.transforms.reader import FilmReader

pytestmark = pytest.mark.filterwarnings("ignore:.*BurnedInAnnotation")


@pytest.fixture
def evaluation(write_film, tmp_path):
    """Films of two classes in turn; of each the first states burnt-in text, the second none, the others nothing."""
    stated = ["YES", "YES", "NO", "NO", None, None, None, None]
    pixels = np.random.default_rng(0).integers(0, 256, (8, 40, 30)).astype(np.uint8)
    films = [write_film(tmp_path / f"{k}.dcm", pixels[k], BurnedInAnnotation=stated[k]) for k in range(8)]
    return SimpleNamespace(items=[{"image": str(film), "label": k % 2} for k, film in enumerate(films)])


def test_two_images_of_each_class_are_shown_but_none_with_text_burnt_in(evaluation):
    assert shown(evaluation, FilmReader()) == [2, 3, 4, 5]


@pytest.mark.parametrize("reader", [None, "PILReader"])
def test_without_a_reader_that_tells_the_first_two_of_each_class_are_shown(evaluation, reader):
    assert shown(evaluation, reader) == [0, 1, 2, 3]


def test_a_frame_is_asked_for_its_file(evaluation, write_film, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 30)).astype(np.uint8)
    loop = write_film(tmp_path / "loop.dcm", pixels, BurnedInAnnotation="YES")
    evaluation.items = [{"image": f"{loop}#frame=1", "label": 0}, evaluation.items[4]]
    assert shown(evaluation, FilmReader()) == [1]


def test_they_show_augmentation_attack_and_the_worst_shift(workshop):
    figures = workshop / "runs/rtda/metrics.json"
    with np.load(workshop / "runs/rtda/examples.npz") as example:
        assert str(example["view_worst_shift"]) == json.loads(figures.read_text())["shifts"]["worst"]
        for name in ("augmented", "adversarial", "worst_shift"):
            assert example[name].shape == example["clean"].shape
            assert example[f"predicted_{name}"].shape == example["labels"].shape
            assert np.abs(example[name] - example["clean"]).max() > 0
        change = np.sqrt(np.square(example["adversarial"] - example["clean"]).sum(axis=(1, 2, 3)))
        np.testing.assert_array_less(change, float(example["epsilon"]) * (1 + 1e-5))


def test_where_no_image_may_be_shown_the_report_has_no_pictures(workshop, cohort, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(cohort, "cohort")
    shutil.copytree(workshop / "runs/rtda", "runs/rtda")
    for item in json.loads(Path("cohort/phantom.json").read_text())["test"]:
        film = pydicom.dcmread(path := Path("cohort", item["image"]))
        film.BurnedInAnnotation = "YES"
        film.save_as(path)
    assert Path("runs/rtda/examples.npz").is_file()
    assert main(["evaluate", "runs/rtda", "--dataset-dir", "cohort"]) == 0
    assert not Path("runs/rtda/examples.npz").exists()
    assert main(["report", "runs/rtda", "-o", "out/report.html"]) == 0
    assert "data:image/png" not in Path("out/report.html").read_text()
