"""The input guard: an image unlike those of training is told by what, and whether an application may answer."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rtda.pipeline.delivery.bundle import INSTALLED
from rtda.pipeline.delivery.guard import deviations, intensities

TRAINED = {
    "modality": {"known": ["CR", "DX"], "unknown": "refuse"},
    "projection": {"known": ["AP"], "unknown": "warn"},
    "size": {"least": [100, 120]},
    "intensity": {"mean": [0.3, 0.7], "deviation": [0.1, 0.3]},
}
META = {"film_modality": "DX", "film_projection": "AP", "film_rows": 200, "film_columns": 200}
IMAGE = torch.tensor([[[0.3, 0.7], [0.3, 0.7]]])


def told(meta=None, image=IMAGE, trained=TRAINED):
    return [(one.told, one.refused) for one in deviations(META | (meta or {}), image, trained)]


def test_an_image_like_those_of_training_is_let_through():
    assert told() == []
    assert told({"film_modality": "CT"}, trained={}) == []


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"film_modality": "CT"}, ("modality: CT, but the model was trained on CR, DX", True)),
        ({"film_modality": ""}, ("modality: not stated; the model was trained on CR, DX", True)),
        ({"film_projection": ""}, ("projection: not stated; the model was trained on AP", False)),
        ({"film_projection": "LL"}, ("projection: LL, but the model was trained on AP", True)),
        (
            {"film_rows": 99},
            ("size: 99 x 200 pixels, but the training images have at least 100 x 120", True),
        ),
    ],
)
def test_what_the_header_says_is_compared_and_what_it_does_not_say_is_told_apart(meta, expected):
    assert told(meta) == [expected]


def test_of_a_format_without_a_header_nothing_is_missed():
    nothing = {"film_modality": "", "film_projection": "", "film_format": "PNG"}
    assert told(nothing) == []
    assert len(told(nothing | {"film_format": "DICOM"})) == 2


def test_a_dark_or_flat_image_is_refused():
    dark, flat = IMAGE * 0.1, IMAGE * 0.01 + 0.5
    assert [line for line, *_ in told(image=dark)] == [
        "intensity: mean 0.050, but that of the training images is 0.300 to 0.700",
        "intensity: deviation 0.023, but that of the training images is 0.100 to 0.300",
    ]
    assert [line.split(":")[1][:10] for line, *_ in told(image=flat)] == [" deviation"]


@given(st.lists(st.floats(0, 1), min_size=5, max_size=40), st.integers(0, 2**31))
def test_the_training_images_themselves_are_nearly_all_within_the_range(means, seed):
    noise = torch.rand(len(means), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    images = [(0.5 * mean + 0.5 * one) for mean, one in zip(means, noise, strict=True)]
    found = intensities(images)
    assert all(0 <= low <= high <= 1 for low, high in found.values())
    outside = [image for image in images if list(deviations({}, image, {"intensity": found}))]
    assert len(outside) <= 0.02 * len(images) + 1 + (max(means) - min(means) < 1e-3) * len(images)


def test_the_chest_bundles_metadata_are_such_a_rule():
    trained = json.loads((INSTALLED / "chest_xray_rtda/configs/metadata.json").read_text())["trained_on"]
    lines = told({"film_modality": "CT", "film_body_part": "HAND"}, trained=trained)
    assert [line.split(":")[0] for line, *_ in lines][:2] == ["modality", "sop_class"]
