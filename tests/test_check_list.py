"""``rtda data check LIST.json``: what is told of a list, refused images, near-duplicates across splits."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from rtda.pipeline.cli import main
from rtda.pipeline.data import lists
from rtda.pipeline.data.duplicates import alike, fingerprint


def film(seed, size=(192, 160)):
    """A smooth film of its own."""
    coarse = np.random.default_rng(seed).random((7, 6)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)


def as_png(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(path)


@pytest.fixture
def listed(tmp_path):
    """A list of twelve films in three splits, and its folder; ``write`` writes a change of it."""
    items = []
    for k in range(12):
        as_png(film(k), tmp_path / "films" / f"{k}.png")
        items.append({"image": f"{k}.png", "label": k % 2, "patient_id": f"p{k // 2}", "image_id": f"i{k}"})
    content = {"name": "small", "identity": "public", "classes": ["normal", "pneumonia"], "licence": "CC0"}
    content |= {"train": items[:6], "validation": items[6:8], "test": items[8:]}

    def write(**changes):
        (tmp_path / "mine.json").write_text(json.dumps(content | changes))
        return content

    write()
    return write


@pytest.fixture
def check(tmp_path, listed, capsys):
    def run(*more):
        capsys.readouterr()
        status = main(["data", "check", str(tmp_path / "mine.json"), "--dataset-dir", str(tmp_path / "films"), *more])
        return status, *capsys.readouterr()

    return run


def test_a_sound_list_is_described_and_its_images_are_read(check):
    status, out, _ = check()
    assert status == 0
    assert out.splitlines() == [
        "mine.json: small, CC0",
        "ids: public; split: no rule stated",
        "train: 6 images of 3 patients: normal 3 (50%), pneumonia 3 (50%)",
        "validation: 2 images of 1 patients: normal 1 (50%), pneumonia 1 (50%)",
        "test: 4 images of 2 patients: normal 2 (50%), pneumonia 2 (50%)",
        "",
        "12 images read, 0 refused",
        "sizes: 160 × 192 (12)",
        "intensities: 0.000 to 1.000; 0 use less than half of [0, 1]",
        "nearly the same: 0 pairs, 0 of two patients, 0 across splits",
    ]


def test_nearly_the_same_images_in_two_splits_are_an_error_and_named(check, tmp_path):
    copy = io.BytesIO()
    Image.fromarray((film(1) * 230 + 10).astype(np.uint8)).resize((128, 128)).save(copy, "JPEG", quality=80)
    (tmp_path / "films/9.png").write_bytes(copy.getvalue())  # by content: a JPEG
    status, out, _ = check()
    assert status == 1
    assert "nearly the same: 1 pairs, 1 of two patients, 1 across splits" in out
    assert "train: 1.png and test: 9.png: correlation 0.99" in out or "correlation 1.000" in out
    assert "give both one group_id and build the list anew" in out
    as_png(film(1) * 0.9, tmp_path / "films/2.png")  # within a split it is told, and is no error
    as_png(film(9), tmp_path / "films/9.png")
    status, out, _ = check()
    assert status == 0
    assert "nearly the same: 1 pairs, 1 of two patients, 0 across splits" in out


def test_images_that_are_refused_or_missing_are_listed(check, tmp_path):
    (tmp_path / "films/3.png").unlink()
    (tmp_path / "films/10.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    as_png(film(0) * 0.3, tmp_path / "films/0.png")
    status, out, _ = check()
    assert status == 1
    assert "10 images read, 2 refused\ntrain: 3.png: file: " in out
    assert "\ntest: 10.png: " in out
    assert "; 1 use less than half of [0, 1]" in out
    assert str(tmp_path) not in out


def test_a_list_that_is_refused_is_refused_here_too(check, listed, tmp_path, capsys):
    content = listed()
    listed(test=[content["test"][0] | {"patient_id": "p0"}, *content["test"][1:]])
    status, _, error = check()
    assert status == 2
    assert "mine.json: patient_id: the same in train[0] (0.png) and test[0] (8.png)" in error
    assert main(["data", "check", str(tmp_path / "mine.json")]) == 2
    assert "mine.json: dataset-dir: missing" in capsys.readouterr().err
    assert check("-o", str(tmp_path / "sheet.png"))[0] == 2
    assert not (tmp_path / "sheet.png").exists()


def test_a_class_without_images_in_a_split_is_an_error(check, listed):
    content = listed()
    listed(train=[item for item in content["train"] if item["label"]], validation=[])
    status, out, _ = check()
    assert status == 1
    assert "\ntrain: no image of the class 'normal'; give it images of every class\n" in out
    assert "validation: no image" not in out  # it has none at all


def test_a_folder_that_is_none_or_holds_nothing_of_the_list_is_refused_at_once(check, listed, tmp_path):
    content = listed()
    listed(**{split: [item | {"image": f"x/{item['image']}"} for item in content[split]] for split in lists.SPLITS})
    status, _, error = check()
    assert status == 2
    assert "mine.json: image: 12 of 12 missing, first 0.png; check --dataset-dir, below which the list's" in error
    (tmp_path / "films").rename(tmp_path / "elsewhere")
    status, _, error = check()
    assert status == 2
    assert "mine.json: dataset-dir: films is no folder; give the one below which the images lie" in error


# Near-duplicates


@pytest.mark.parametrize("seed", range(5))
def test_a_copy_is_alike_after_what_copying_does_and_another_film_is_not(seed):
    image = film(seed)
    noise = np.random.default_rng(seed).normal(0, 0.01, image.shape)
    copies = {
        "darker": image * 0.7,
        "noisy": (image + noise).clip(0, 1).astype(np.float32),
        "smaller": np.asarray(Image.fromarray(image).resize((97, 81), Image.Resampling.BOX)),
        "cropped": image[1:, 1:],
    }
    for name, copy in copies.items():
        assert [(i, j) for i, j, _ in alike([fingerprint(image), fingerprint(copy)])] == [(0, 1)], name
    others = [fingerprint(film(other)) for other in range(100 + seed, 140 + seed)]
    assert list(alike([fingerprint(image), *others])) == []


def test_constant_images_and_no_images_have_no_pairs():
    assert list(alike([])) == []
    assert list(alike([fingerprint(np.full((8, 8), 0.5, np.float32))] * 2)) == []


@pytest.mark.data
def test_on_the_chest_films_the_known_groups_and_no_others_are_found(real_data, capsys):
    films = str(real_data / "xray_kermany/images")
    assert main(["data", "check", lists.shipped("chest_xray_kermany"), "--dataset-dir", films]) == 0
    out = capsys.readouterr().out
    assert "5856 images read, 0 refused" in out
    assert "nearly the same: 34 pairs, 1 of two patients, 0 across splits" in out  # 28 pairs, and two groups of three
