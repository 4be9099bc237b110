"""Data lists: what is read, what is refused, and how lists are built from a CSV or from DICOM headers."""

import argparse
import copy
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from faults import full_disk, read_only
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.transforms import Compose
from pydicom.data import get_testdata_file
from rtda.pipeline.cli import main
from rtda.pipeline.commands import build as command
from rtda.pipeline.data import build, lists, phantom
from rtda.pipeline.data.lists import ListError
from rtda.pipeline.delivery.bundle import INSTALLED
from rtda.transforms import facts
from rtda.transforms.reader import named_frame

ROOT = Path(__file__).parents[1]
SHARES = {"test": 0.2, "validation": 0.1}


def item(number, label, patient=None, **facts):
    return {"image": f"films/{number}.png", "label": label, "patient_id": patient or f"p{number}"} | {
        "image_id": f"i{number}",
        **facts,
    }


def content(**changes):
    whole = {
        "name": "small",
        "identity": "public",
        "classes": ["normal", "pneumonia"],
        "train": [item(0, 0), item(1, 1), item(2, 1, "p1")],
        "validation": [item(3, 0), item(4, 1)],
        "test": [item(5, 0), item(6, 1)],
    }
    return copy.deepcopy(whole) | changes


def write_list(items, classes, path, shares=SHARES, **facts):
    """Split and write, as the command does."""
    return build.write_list(items, classes, path, facts | {"split_rule": build.make_splits(items, shares, 0)})


def write(folder, **changes):
    path = folder / "mine.json"
    path.write_text(json.dumps(content(**changes)))
    return path


@pytest.fixture
def films(tmp_path):
    """A list and its (empty) image files."""
    (tmp_path / "films").mkdir()
    for number in range(7):
        (tmp_path / f"films/{number}.png").touch()
    return write(tmp_path)


# -- reading ---------------------------------------------------------------------------------------------------------


def test_load_gives_absolute_paths_and_leaves_all_else(films, monkeypatch):
    monkeypatch.chdir(films.parent)
    items = lists.load("mine.json", ".", "train")
    assert [i["image"] for i in items] == [str(films.parent / f"films/{n}.png") for n in range(3)]
    assert [{**i, "image": ""} for i in items] == [{**i, "image": ""} for i in content()["train"]]


def test_the_order_of_items_in_the_file_does_not_matter(films):
    """It would decide what is sampled when, and where an image is evaluated; the checksum does not count it."""
    first, checksum = lists.load(films, films.parent, "train"), lists.checksum(films)
    write(films.parent, train=content()["train"][::-1])
    assert lists.load(films, films.parent, "train") == first
    assert lists.checksum(films) == checksum


@pytest.mark.parametrize("stated", [{}, {"identity": None}])
def test_ids_of_a_list_that_does_not_state_its_identity_are_hashed_as_it_is_loaded(films, stated):
    whole = content(train=[item(0, 0, "Anna", group_id="Doe"), item(1, 1), item(2, 1)])
    del whole["identity"]
    films.write_text(json.dumps(whole | stated))
    first, *others = lists.load(films, films.parent, "train")
    assert (first["patient_id"], first["image_id"]) == (lists.hashed(b"public", "Anna"), lists.hashed(b"public", "i0"))
    assert first["group_id"] == lists.hashed(b"public", "Doe")
    assert all("group_id" not in one for one in others)


@pytest.mark.parametrize("identity", lists.IDENTITIES)
def test_ids_of_a_list_that_states_its_identity_stand_as_they_are(films, identity):
    write(films.parent, identity=identity)
    assert [one["image_id"] for one in lists.load(films, films.parent, "train")] == ["i0", "i1", "i2"]


def test_a_monai_config_can_load_it(films):
    from monai.bundle import ConfigParser

    config = {"imports": ["$import rtda.pipeline.data.lists as lists"], "data_list": str(films)}
    config |= {"dataset_dir": str(films.parent), "data": "$lists.load(@data_list, @dataset_dir, 'test')"}
    assert len(ConfigParser(config).get_parsed_content("data")) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["one"]}, r"^mine.json: classes: must be a list of at least two"),
        ({"classes": ["one", "one"]}, r"^mine.json: classes: must be a list of at least two different"),
        ({"classes": [["one"], ["two"]]}, r"^mine.json: classes: must be a list"),
        ({"classes": None}, r"^mine.json: classes: must be a list"),
        ({"test": {}}, r"^mine.json: test: must be a list of items"),
        ({"test": ["film"]}, r"^mine.json: test\[0\]: image: missing; every item has image, label"),
        ({"test": [{"image": "a", "label": 0, "patient_id": "p"}]}, r"^mine.json: test\[0\]: image_id: missing"),
        ({"test": [item(5, 2)]}, r"^mine.json: test\[0\]: label: 2 is unknown; labels are 0 to 1"),
        ({"test": [item(5, [0, 1])]}, r"^mine.json: test\[0\]: label: \[0, 1\] is unknown; labels are 0 to 1"),
        ({"multilabel": "yes"}, r"^mine.json: multilabel: 'yes' is unknown; state true or false, or leave it out"),
        ({"multilabel": True}, r"^mine.json: train\[0\]: label: 0 is not 2 of 0 and 1, one for each class"),
        ({"test": [item(5, True)]}, r"^mine.json: test\[0\]: label: True is unknown"),
        ({"test": [item(5, "normal")]}, r"^mine.json: test\[0\]: label: 'normal' is unknown"),
        (
            {"test": [item(5, 0, patient=5)]},
            r"^mine.json: test\[0\]: patient_id: must be a text, in quotes and not empty$",
        ),
        ({"test": [item(5, 0) | {"image_id": ""}]}, r"^mine.json: test\[0\]: image_id: must be a text"),
        ({"test": [item(5, 0, fold="1")]}, r"^mine.json: test\[0\]: fold: must be a whole number$"),
        ({"test": [item(5, 0, site=1)]}, r"^mine.json: test\[0\]: site: must be a text, in quotes$"),
        ({"test": [item(5, 0) | {"image": "/a/b.png"}]}, r"^mine.json: test\[0\]: image: must be a path below"),
        ({"test": [item(5, 0) | {"image": "../b.png"}]}, r"^mine.json: test\[0\]: image: must be a path below"),
        ({"test": [item(5, 0) | {"image": "./b.png"}]}, r"^mine.json: test\[0\]: image: not in normal form; write it"),
        ({"test": [item(5, 0) | {"image": "a//b.png"}]}, r"^mine.json: test\[0\]: image: not in normal form"),
        ({"test": [item(5, 0) | {"image": "a/./b.png"}]}, r"^mine.json: test\[0\]: image: not in normal form"),
        (
            {"identity": "secret"},
            r"^mine.json: identity: 'secret' is unknown; state public or private, or leave it out",
        ),
        ({"identity": ["public"]}, r"^mine.json: identity: \['public'\] is unknown"),
        (
            {"test": [item(5, 0), item(5, 0)]},
            r"^mine.json: image: the same in test\[0\] \(5.png\) and test\[1\] \(5.png\); every image stands once$",
        ),
        (
            {"test": [item(5, 0), item(6, 0) | {"image_id": "i1"}]},
            r"^mine.json: image_id: the same in train\[1\] \(1.png\) and test\[1\] \(6.png\); every image stands once$",
        ),
        (
            {"test": [item(5, 0, "Doe"), item(6, 1, "p1")]},
            r"^mine.json: patient_id: the same in train\[1\] \(1.png\) and test\[1\] \(6.png\); keep it in one split$",
        ),
        (
            {"validation": [item(3, 0, group_id="g")], "test": [item(5, 0, group_id="g")]},
            r"^mine.json: group_id: the same in validation\[0\] \(3.png\) and test\[0\] \(5.png\); keep it in one",
        ),
        ({"checksum": "0" * 64}, r"^mine.json: checksum: disagrees with ids, labels and splits; restore the list"),
    ],
)
def test_a_faulty_list_is_refused_in_one_line(tmp_path, changes, message):
    with pytest.raises(ListError, match=message) as refusal:
        lists.read(write(tmp_path, **changes))
    assert "\n" not in str(refusal.value)
    assert str(tmp_path) not in str(refusal.value)


@pytest.mark.parametrize(
    ("split", "changes"),
    [
        ("test", {"patient_id": "Jane^Doe"}),
        ("test", {"group_id": "Jane^Doe"}),
        ("train", {"image_id": "Jane^Doe"}),
        ("test", {"patient_id": ["Jane^Doe"]}),
        ("test", {"group_id": ["Jane^Doe"]}),
    ],
)
def test_a_refusal_names_nobody(tmp_path, split, changes):
    """Ids of a list written by hand may be names."""
    named = {"train": [item(0, 0) | changes], split: [item(0, 0) | changes, item(1, 1) | changes]}
    with pytest.raises(ListError, match=r"^mine.json: .*(train|test)\[") as refusal:
        lists.read(write(tmp_path, **named))
    assert "Jane" not in str(refusal.value)


def test_what_is_no_list_is_refused(tmp_path):
    path = tmp_path / "mine.json"
    with pytest.raises(ListError, match=r"^mine.json: data list: not found; check --data-list, or make one: rtda data"):
        lists.read(path)
    with pytest.raises(ListError, match=r": data list: Is a directory; give a JSON file"):
        lists.read(tmp_path)
    path.write_text('{\n"name": ')
    with pytest.raises(ListError, match=r"^mine.json: line 2: not JSON; correct it"):
        lists.read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ListError, match=r"^mine.json: line 1: not JSON"):
        lists.read(path)
    path.write_text("[]")
    with pytest.raises(ListError, match=r"^mine.json: data list: not a JSON object"):
        lists.read(path)
    path.write_text('{"classes": ["a", "b"]}')
    with pytest.raises(ListError, match=r"^mine.json: train: missing; a list has the splits train, validation, test"):
        lists.read(path)


def test_a_list_without_test_split_is_read_but_that_split_is_not_loaded(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({k: v for k, v in content().items() if k != "test"}))
    assert lists.read(path)["test"] == []
    with pytest.raises(ListError, match=r"^mine.json: test: empty; give it images of every class"):
        lists.load(path, tmp_path, "test")


def test_of_a_multi_label_list_each_class_is_a_label(films, capsys):
    folder = films.parent
    several = {"multilabel": True, "train": [item(0, [0, 0]), item(1, [0, 1]), item(2, [1, 1], "p1")]}
    several |= {"validation": [item(3, [0, 1]), item(4, [1, 1])], "test": [item(5, [0, 1]), item(6, [0, 1])]}
    path = write(folder, **several)
    assert [one["label"] for one in lists.load(path, folder, "train")] == [[0, 0], [0, 1], [1, 1]]
    assert lists.prior(several["train"], 2) == pytest.approx([1 / 3, 2 / 3])
    assert lists.checksum(path) != lists.checksum(write(folder, **(several | {"test": [item(5, [0, 1])]})))
    path = write(folder, **several)
    with pytest.raises(ListError, match=r"^mine.json: test: only the class 'pneumonia'; give it images of every class"):
        lists.load(path, folder, "test")
    assert lists.load(path, folder, "validation")  # normal occurs and is absent; pneumonia is always there
    with pytest.raises(ListError, match=r"label: \[0, 2\] is not 2 of 0 and 1, one for each class$"):
        lists.read(write(folder, **(several | {"test": [item(5, [0, 2])]})))
    path = write(folder, **several)
    main(["data", "check", str(path), "--dataset-dir", str(folder)])  # these films are alike, which it refuses
    assert "train: 3 images of 2 patients: normal 1 (33%), pneumonia 2 (67%)" in capsys.readouterr().out
    command = ["train", "phantom_rtda", "--recipe", "standard", "--data-list", str(path), "--dataset-dir", str(folder)]
    assert main(command) == 2
    assert "data_list: multilabel: bundles train one class an image" in capsys.readouterr().err


def test_load_refuses_what_cannot_be_trained_on_or_evaluated(films):
    with pytest.raises(ListError, match=r"^mine.json: val: no such split; use train, validation, test"):
        lists.load(films, films.parent, "val")
    (films.parent / "films/1.png").unlink()
    (films.parent / "films/2.png").unlink()
    with pytest.raises(ListError, match=r"^mine.json: image: 2 of 3 missing, first 1.png; check --dataset-dir"):
        lists.load(films, films.parent, "train")
    write(films.parent, test=[item(5, 1), item(6, 1)])
    with pytest.raises(ListError, match=r"^mine.json: test: only the class 'pneumonia'; give it images of every class"):
        lists.load(films, films.parent, "test")


# -- checksum, prior, weights, identity ------------------------------------------------------------------------------


def test_checksum_counts_ids_labels_and_splits_only(tmp_path):
    first = lists.checksum(write(tmp_path))
    train = [fact | {"site": "elsewhere"} for fact in reversed(content()["train"])]
    assert lists.checksum(write(tmp_path, train=train, description="another", checksum=first)) == first
    swapped = {"validation": content()["test"], "test": content()["validation"]}
    relabelled = {"test": [item(5, 1), item(6, 1)]}
    renamed = {"test": [item(5, 0, "p9"), item(6, 1)]}
    for changes in (swapped, relabelled, renamed, {"classes": ["pneumonia", "normal"]}):
        assert lists.checksum(write(tmp_path, **changes)) != first


def test_class_names_prior_and_weights(tmp_path):
    path = write(tmp_path)
    train = lists.read(path)["train"]
    assert lists.class_names(path) == ["normal", "pneumonia"]
    assert lists.prior(train, 2) == pytest.approx([1 / 3, 2 / 3])
    assert lists.prior(train[:1], 3) == [1, 0, 0]  # classes that do not occur have their place
    weights = lists.balanced_weights(train)
    assert weights == [1.0, 0.5, 0.5]
    drawn = np.bincount([i["label"] for i in train], weights)
    assert drawn[0] == drawn[1]


def test_hashed_ids_are_short_keyed_and_known():
    assert lists.hashed(b"public", "patient 1") == "7c9b7ffd7d38e91f"  # changing it changes every public list
    assert lists.hashed(b"other", "patient 1") != lists.hashed(b"public", "patient 1")


def test_a_key_file_is_made_once_for_its_owner_only(tmp_path):
    path = tmp_path / "key"
    previous = os.umask(0)
    try:
        key = lists.key_file(path)
    finally:
        os.umask(previous)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert lists.key_from(str(path)) == key
    assert lists.key_from("public") == lists.PUBLIC == b"public"
    path.write_bytes(b"")
    with pytest.raises(ListError, match=r"^key: key: empty; remove the file to have a new key made"):
        lists.key_file(path)
    with pytest.raises(ListError, match=r": key: Is a directory; give a key file that you may read"):
        lists.key_file(tmp_path)


# -- splitting -------------------------------------------------------------------------------------------------------

cohorts = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), max_size=80)
fractions = st.fixed_dictionaries({"test": st.floats(0, 0.49), "validation": st.floats(0, 0.49)})


@given(cohort=cohorts, fractions=fractions, seed=st.integers(0, 2**32), order=st.randoms())
def test_a_split_keeps_patients_whole_and_is_one_function_of_cohort_and_seed(cohort, fractions, seed, order):
    images = [(f"p{patient}", label) for patient, label in cohort]
    places = build.split([p for p, _ in images], [y for _, y in images], fractions, seed)
    assert len(places) == len(images)
    of_patient = dict(zip([p for p, _ in images], places, strict=True))
    assert [of_patient[p] for p, _ in images] == places
    assert set(places) <= set(lists.SPLITS)
    shuffled = order.sample(images, len(images))
    again = build.split([p for p, _ in shuffled], [y for _, y in shuffled], fractions, seed)
    assert dict(zip([p for p, _ in shuffled], again, strict=True)) == of_patient
    highest = {p: max(y for q, y in images if q == p) for p, _ in images}
    for label in set(highest.values()):
        own = [p for p in highest if highest[p] == label]
        counts = Counter(of_patient[p] for p in own)
        assert counts["train"] >= 1
        for name, fraction in fractions.items():
            assert counts[name] <= max(1, round(fraction * len(own)))


def test_a_split_has_the_stated_share_of_the_patients_of_every_label():
    patients = [f"p{n}" for n in range(300) for _ in range(1 + n % 3)]
    labels = [n % 3 // 2 for n in range(300) for _ in range(1 + n % 3)]
    places = dict(zip(patients, build.split(patients, labels, SHARES, seed=1), strict=True))
    label_of = dict(zip(patients, labels, strict=True))
    counts = Counter((label_of[p], place) for p, place in places.items())
    assert counts == {
        (0, "test"): 40, (0, "validation"): 20, (0, "train"): 140,
        (1, "test"): 20, (1, "validation"): 10, (1, "train"): 70,
    }  # fmt: skip
    assert places != dict(zip(patients, build.split(patients, labels, SHARES, seed=2), strict=True))


@pytest.mark.parametrize("fractions", [{"test": 1.0}, {"test": -0.1}, {"test": 0.5, "validation": 0.5}])
def test_fractions_that_leave_no_training_images_are_refused(fractions):
    with pytest.raises(ValueError, match=r"^fractions: .* must be 0 or more and together less than 1"):
        build.split(["a", "b"], [0, 1], fractions, 0)


def test_patients_that_share_a_group_are_one_unit_also_in_a_chain():
    pairs = [("a", "p", None), ("b", "p", "g"), ("c", "q", "g"), ("d", "q", "h"), ("e", "r", "h"), ("f", "s", None)]
    unit = build.patients([{"image_id": i, "patient_id": p, "group_id": g} for i, p, g in pairs])
    assert len({unit[i] for i in "abcde"}) == 1
    assert unit["f"] != unit["a"]


# -- from a CSV ------------------------------------------------------------------------------------------------------


def write_csv(folder, rows, name="labels.csv"):
    path = folder / name
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, dict.fromkeys(key for row in rows for key in row))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        if row.get("image"):
            (folder / row["image"]).parent.mkdir(exist_ok=True)
            (folder / row["image"]).touch()
    return path


def table(n=40, **facts):
    labels = ("normal", "pneumonia")
    return [
        {"image": f"films/{i}.png", "label": labels[i % 2], "patient_id": f"Anna {i // 4}{i % 2}"} | facts
        for i in range(n)
    ]


def from_csv(folder, rows, shares=SHARES, classes=None):
    items, classes = build.from_csv(write_csv(folder, rows), folder, b"public", classes)
    return write_list(items, classes, folder / "mine.json", shares, name="mine")


def test_a_csv_becomes_a_list_that_loads_in_every_split(tmp_path):
    path = from_csv(tmp_path, table(view="AP", site="A", fold="2", dup_group=""))
    listed = lists.read(path)
    assert listed["classes"] == ["normal", "pneumonia"]
    assert sum(len(lists.load(path, tmp_path, split)) for split in lists.SPLITS) == 40
    assert listed["checksum"] == lists.checksum(path)
    assert listed["split_rule"].startswith("test: 20% of patients, stratified, seed 0; validation: 10% of train")
    one = listed["train"][0]
    assert set(one) == {"image", "label", "patient_id", "image_id", "projection", "site", "fold"}
    assert (one["projection"], one["fold"]) == ("AP", 2)
    text = path.read_text()
    assert "Anna" not in text
    assert str(tmp_path) not in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["films", "labels.csv", "mine.json"]  # nothing temporary
    assert from_csv(tmp_path, table(view="AP", site="A", fold="2", dup_group="")).read_text() == text


def test_paths_are_written_in_normal_form(tmp_path):
    plain = from_csv(tmp_path, table()).read_bytes()
    assert from_csv(tmp_path, [row | {"image": f"./films/{row['image'][5:]}"} for row in table()]).read_bytes() == plain


def test_given_splits_stand_and_validation_is_cut_from_train(tmp_path):
    rows = [row | {"split": "Test" if i < 8 else "TRAIN"} for i, row in enumerate(table())]
    listed = lists.read(from_csv(tmp_path, rows))
    assert {i["image"] for i in listed["test"]} == {row["image"] for row in rows[:8]}
    assert listed["validation"]
    rows = [row | {"split": ("test", "val", "train", "train")[i // 4 % 4]} for i, row in enumerate(table())]
    assert len(lists.read(from_csv(tmp_path, rows))["validation"]) == 12


def test_the_rule_says_what_became_of_rows_without_split(tmp_path):
    rows = [row | {"split": "test" if i < 8 else ""} for i, row in enumerate(table())]
    listed = lists.read(from_csv(tmp_path, rows))
    assert listed["split_rule"].startswith("splits as given: test, all others train; validation: 10% of train patients")
    assert {i["image"] for i in listed["test"]} == {row["image"] for row in rows[:8]}


def test_near_duplicates_of_two_patients_stay_together(tmp_path):
    rows = [row | {"dup_group": f"g{i // 8}"} for i, row in enumerate(table(80))]
    for share in (0.2, 0.4):
        listed = lists.read(from_csv(tmp_path, rows, {"test": share, "validation": 0.2}))  # read refuses overlap
        assert listed["test"]


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        (("b", "a"), None, ["a", "b"]),
        (("b", "a"), ["b", "a"], ["b", "a"]),
        (("0", "1"), None, ["0", "1"]),
        (("0", "1"), ["normal", "ill"], ["normal", "ill"]),
    ],
)
def test_labels_are_names_or_numbers(tmp_path, labels, classes, expected):
    rows = [row | {"label": labels[i % 2]} for i, row in enumerate(table())]
    listed = lists.read(from_csv(tmp_path, rows, classes=classes))
    assert listed["classes"] == expected
    number = expected.index(labels[0]) if labels[0] in expected else int(labels[0])
    even = [i for split in lists.SPLITS for i in listed[split] if int(Path(i["image"]).stem) % 2 == 0]
    assert {i["label"] for i in even} == {number}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, r"^labels.csv: line 2: image: empty; fill it in or remove the line"),
        ({"patient_id": ""}, r"^labels.csv: line 2: patient_id: empty"),
        ({"split": "holdout"}, r"^labels.csv: line 2: split: 'holdout' is unknown; use train, validation or test"),
        ({"fold": "first"}, r"^labels.csv: line 2: fold: 'first' is not a whole number from 0"),
        ({"image": "films/1.png"}, r"^mine.json: image: the same in test\[0\] \(1.png\) and test\[1\] \(1.png\)"),
    ],
)
def test_a_faulty_row_is_refused_with_its_line(tmp_path, change, message):
    rows = table()
    rows[0] |= change
    with pytest.raises(ListError, match=message):
        from_csv(tmp_path, rows)
    assert not (tmp_path / "mine.json").exists()


def test_a_faulty_csv_is_refused(tmp_path):
    path = tmp_path / "labels.csv"
    with pytest.raises(ListError, match=r"^labels.csv: CSV: not found; check the path"):
        build.from_csv(path, tmp_path, b"public")
    with pytest.raises(ListError, match=r": CSV: Is a directory; give a CSV file that you may read"):
        build.from_csv(tmp_path, tmp_path, b"public")
    path.write_bytes(b"image,label,patient_id\n\xff,a,b\n")
    with pytest.raises(ListError, match=r"^labels.csv: CSV: cannot be read as UTF-8 CSV; save it as such"):
        build.from_csv(path, tmp_path, b"public")
    path.write_text("image,label,patient_id\n")
    with pytest.raises(ListError, match=r"^labels.csv: CSV: has no rows below the header"):
        build.from_csv(path, tmp_path, b"public")
    path.write_text("image,label\na,b\n")
    with pytest.raises(ListError, match=r"^labels.csv: patient_id: column missing; it has image, label"):
        build.from_csv(path, tmp_path, b"public")
    path.write_text("image,label,patient_id\nabsent.png,b,c\n")
    with pytest.raises(ListError, match=r"^labels.csv: line 2: image: absent.png not found; check --dataset-dir"):
        build.from_csv(path, tmp_path, b"public")


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (("a", "a"), None, r"^labels.csv: label: \['a'\] do not make two or more classes; give --classes a,b"),
        (("a", "b"), ["a", "c"], r"^labels.csv: label: \['b'\] do not make two or more classes"),
        (("0", "2"), ["a", "b"], r"^labels.csv: label: \['2'\] do not make two or more classes"),
        (("1", "2"), None, r"^labels.csv: label: \['1', '2'\] do not number classes from 0 on; give --classes a,b"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, classes, message):
    rows = [row | {"label": labels[i % 2]} for i, row in enumerate(table())]
    with pytest.raises(ListError, match=message):
        from_csv(tmp_path, rows, classes=classes)


def test_a_patient_in_two_given_splits_is_refused_before_anything_is_written(tmp_path):
    rows = [row | {"split": "train", "patient_id": "Anna"} for row in table()]
    rows[0]["split"] = "test"
    with pytest.raises(
        ListError, match=r"^mine.json: patient_id: the same in train\[0\] \(1.png\) and test\[0\] \(0.png\)"
    ):
        from_csv(tmp_path, rows)
    assert not (tmp_path / "mine.json").exists()


# -- from DICOM ------------------------------------------------------------------------------------------------------


@pytest.fixture
def dicom_films(tmp_path, write_film):
    """Eight films of four patients, a text file among them."""
    (tmp_path / "films").mkdir()
    for i in range(8):
        facts = {"PatientID": f"MRN{i // 2}", "SOPInstanceUID": f"1.2.{i}", "PatientSex": "F", "PatientAge": "093Y"}
        facts |= {"Manufacturer": "Maker", "ViewPosition": "PA", "PatientName": "Doe^Anna"}
        write_film(tmp_path / f"films/{i}.dcm", np.full((4, 4), i, np.uint8), **facts)
    (tmp_path / "films/notes.txt").write_text("Anna Doe")
    return tmp_path


def from_dicom(csv, folder, key=b"public"):
    return build.from_dicom(csv, folder, key, facts=command.facts_of)


def patient_labels(column="PatientID", ids=("MRN0", "MRN1", "MRN2", "MRN3")):
    return [{column: name, "label": ("well", "ill")[i % 2]} for i, name in enumerate(ids)]


def test_dicom_headers_become_items_without_a_name_or_number_of_the_patient(dicom_films, caplog):
    path = write_csv(dicom_films, patient_labels(ids=("MRN0", "MRN1", "MRN2", "absent")))
    items, classes = from_dicom(path, dicom_films, b"secret")
    assert classes == ["ill", "well"]
    assert [i["label"] for i in items] == [1, 1, 0, 0, 1, 1]
    assert items[0] == {
        "image": "films/0.dcm",
        "patient_id": lists.hashed(b"secret", "MRN0"),
        "image_id": lists.hashed(b"secret", "1.2.0"),
        "sex": "F",
        "age_group": "90+",
        "projection": "PA",
        "manufacturer": "Maker",
        "label": 1,
        "split": None,
    }
    assert "left out, no DICOM images: notes.txt, labels.csv" in caplog.text
    assert "left out, not named in labels.csv: 6.dcm, 7.dcm" in caplog.text
    listed = write_list(items, classes, dicom_films / "mine.json").read_text()
    assert not any(secret in listed for secret in ("MRN", "Doe", "Anna", str(dicom_films)))


def test_dicom_images_can_be_named_one_by_one(dicom_films):
    path = write_csv(dicom_films, patient_labels("SOPInstanceUID", ["1.2.0", "1.2.1", "1.2.5"]))
    items, _ = from_dicom(path, dicom_films)
    assert [i["image"] for i in items] == ["films/0.dcm", "films/1.dcm", "films/5.dcm"]


def test_faulty_dicom_tables_are_refused(dicom_films, write_film):
    path = write_csv(dicom_films, [{"id": "MRN0", "label": "ill"}])
    with pytest.raises(ListError, match=r"^labels.csv: PatientID: missing; give a column PatientID or SOPInstanceUID"):
        from_dicom(path, dicom_films)
    write_csv(dicom_films, patient_labels(ids=("x", "y")))
    with pytest.raises(ListError, match=r"^labels.csv: PatientID: names no DICOM image below the folder"):
        from_dicom(path, dicom_films)
    write_csv(dicom_films, patient_labels(ids=("MRN0", "MRN0")))
    with pytest.raises(ListError, match=r"^labels.csv: line 3: label: differs from that of line 2; keep one"):
        from_dicom(path, dicom_films)
    write_film(dicom_films / "films/9.dcm", np.zeros((4, 4), np.uint8), SOPInstanceUID="1.2.9", PatientID="")
    write_csv(dicom_films, patient_labels("SOPInstanceUID", ["1.2.0", "1.2.9"]))
    with pytest.raises(ListError, match=r"^9.dcm: PatientID: missing, so its patient cannot be kept in one split"):
        from_dicom(path, dicom_films)


def test_every_frame_of_a_loop_is_an_item_with_an_id_of_its_own(dicom_films, write_film):
    who = {"PatientID": " MRN0  b", "SOPInstanceUID": "1.2.9", "PatientAge": "018M"}
    write_film(dicom_films / "films/loop.dcm", LOOP, **who)
    path = write_csv(dicom_films, patient_labels(ids=("MRN0  b", "MRN1")))
    items, _ = from_dicom(path, dicom_films, b"secret")
    loop = [item for item in items if "loop" in item["image"]]
    assert [item["image"] for item in loop] == [f"films/loop.dcm#frame={k}" for k in range(3)]
    assert len({item["image_id"] for item in items}) == len(items) == 5
    assert {(item["patient_id"], item["age_group"]) for item in loop} == {(lists.hashed(b"secret", "MRN0 b"), "0-9")}


def test_a_name_of_a_file_need_not_be_utf8(dicom_films, write_film):
    name = "films/caf\udce9.dcm"
    write_film(dicom_films / "film", LOOP, PatientID="MRN0", SOPInstanceUID="1.2.9")
    (dicom_films / "film").rename(dicom_films / name)
    items, classes = from_dicom(write_csv(dicom_films, patient_labels()), dicom_films)
    path = write_list(items, classes, dicom_films / "mine.json", {"test": 0, "validation": 0})
    loaded = [
        Path(item["image"]).relative_to(dicom_films).as_posix() for item in lists.load(path, dicom_films, "train")
    ]
    assert [one for one in loaded if "caf" in one] == [f"{name}#frame={k}" for k in range(3)]


def test_what_no_bundle_could_read_is_left_out(dicom_films, write_film, caplog):
    """A segmentation and a report of a patient of the list, a film that is cut; a film for processing may be wanted."""
    for name in ("liver_1frame.dcm", "reportsi.dcm"):
        header = pydicom.dcmread(get_testdata_file(name))
        header.PatientID = "MRN0"
        header.save_as(dicom_films / "films" / name)
    fields = {"PatientID": "MRN0", "SOPInstanceUID": "1.2.9", "PresentationIntentType": "FOR PROCESSING"}
    raw = write_film(dicom_films / "films/raw.dcm", np.zeros((4, 4), np.uint8), **fields)
    (dicom_films / "films/cut.dcm").write_bytes(raw.read_bytes()[:-2])
    items, _ = from_dicom(write_csv(dicom_films, patient_labels(ids=("MRN0", "MRN1"))), dicom_films)
    assert [Path(item["image"]).name for item in items] == ["0.dcm", "1.dcm", "2.dcm", "3.dcm", "raw.dcm"]
    assert "no DICOM images: cut.dcm, liver_1frame.dcm, notes.txt, reportsi.dcm, labels.csv" in caplog.text


# -- frames ----------------------------------------------------------------------------------------------------------

LOOP = np.random.default_rng(3).integers(0, 256, (3, 8, 8), dtype=np.uint8)


@pytest.fixture
def loops(tmp_path, write_film):
    """A list of frames of two ultrasound loops and a file whose own name looks like a frame's."""
    (tmp_path / "films").mkdir()
    region = pydicom.Dataset()
    region.RegionSpatialFormat = region.RegionDataType = 1
    region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 7, 3
    fields = {"Modality": "US", "SOPClassUID": pydicom.uid.UltrasoundMultiFrameImageStorage}
    for name, pixels in (("a", LOOP), ("b#1", 255 - LOOP)):
        write_film(tmp_path / f"films/{name}.dcm", pixels, SequenceOfUltrasoundRegions=[region], **fields)
    write_film(tmp_path / "films/c#frame=1", LOOP[0], SequenceOfUltrasoundRegions=[region], **fields)
    names = ["films/a.dcm#frame=2", "films/a.dcm#frame=0", "films/b#1.dcm#frame=1", "films/c#frame=1"]
    return [
        {"image": name, "label": str(i % 2), "patient_id": "Anna", "split": "train"} for i, name in enumerate(names)
    ]


def test_frames_of_a_list_reach_the_network_as_the_frames_they_are(tmp_path, loops):
    items, classes = build.from_csv(write_labels(tmp_path, loops), tmp_path, b"public")
    path = write_list(items, classes, tmp_path / "mine.json", {"test": 0, "validation": 0})
    loaded = lists.load(path, tmp_path, "train")
    assert [Path(one["image"]).name for one in loaded] == sorted(Path(row["image"]).name for row in loops)
    chain = Compose(bundle_chain("phantom_rtda", image_size=4))
    shown = [LOOP[0], LOOP[2], 255 - LOOP[1], LOOP[0]]
    for item, frame in zip(loaded, shown, strict=True):
        expected = (frame[:4] / 255).reshape(4, 4, 2).mean(2)  # the region, resized by area
        np.testing.assert_allclose(chain(item)["image"][0].numpy(), expected, rtol=0, atol=1e-6)


def bundle_chain(bundle, **settings):
    parser = ConfigParser()
    parser.read_config(str(INSTALLED / bundle / "configs/train.yaml"))
    parser.update(settings)
    return parser.get_parsed_content("preprocessing")


def write_labels(folder, rows):
    """As ``write_csv``, but touching no image."""
    path = folder / "labels.csv"
    path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]))
    return path


def test_frames_of_no_file_are_missing(tmp_path, loops):
    items, classes = build.from_csv(write_labels(tmp_path, loops), tmp_path, b"public")
    path = write_list(items, classes, tmp_path / "mine.json", {"test": 0, "validation": 0})
    (tmp_path / "films/a.dcm").unlink()
    with pytest.raises(
        ListError, match=r"^mine\.json: image: 2 of 4 missing, first a\.dcm#frame=0; check --dataset-dir"
    ):
        lists.load(path, tmp_path, "train")
    with pytest.raises(ListError, match=r"^labels\.csv: line 2: image: a\.dcm#frame=2 not found"):
        build.from_csv(tmp_path / "labels.csv", tmp_path, b"public")


@pytest.mark.parametrize("name", ["a.dcm#frame=", "a.dcm#frame=-1", "a.dcm#frame=01", "a.dcm#frame=x", "#frame=1"])
def test_what_names_no_frame_is_a_file_of_that_name(name):
    assert lists.file_of(Path(name)) == named_frame(Path(name))[0] == Path(name)


@given(st.text(max_size=9), st.integers(0, 10**6))
def test_lists_and_reader_agree_on_what_a_frame_is(name, frame):
    for path in (Path(f"{name}#frame={frame}"), Path(name)):
        assert lists.file_of(path) == named_frame(path)[0]


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def data_build(tmp_path):
    """Run `rtda data build` on a CSV; the list, with the given options."""
    labels = write_csv(tmp_path, table())

    def run(out, **options):
        shares = {"test": 0.2, "validation": 0.1, "recut_validation": False, "dicom": False, "classes": None}
        shares |= {"pattern": None}
        facts = {"name": "mine", "licence": "", "source": "", "seed": 0, "key": None}
        named = {"csv": labels, "dataset_dir": tmp_path, "output": tmp_path / out} | shares | facts | options
        assert command.run(argparse.Namespace(**named)) == 0
        return lists.read(tmp_path / out)

    return run


@pytest.mark.parametrize("given", [("test", "val", "train", "train"), ("test", "train", "train", "train")])
def test_a_validation_split_cut_anew_is_said_to_be(tmp_path, data_build, given):
    rows = [row | {"split": given[i // 4 % 4]} for i, row in enumerate(table())]
    stands = data_build("a.json", csv=write_csv(tmp_path, rows))
    anew = data_build("b.json", csv=write_csv(tmp_path, rows), recut_validation=True)
    cut = "splits as given: test, train; validation: 10% of train patients, stratified, seed 0"
    assert anew["split_rule"] == ("given validation joined to train; " if "val" in given else "") + cut
    assert stands["split_rule"] == ("splits as given: test, train, validation" if "val" in given else cut)
    assert anew["test"] == stands["test"]
    assert (anew["validation"] == stands["validation"]) == ("val" not in given)


def test_without_a_key_the_ids_are_private_and_the_key_is_made_once_beside_the_list(tmp_path, data_build):
    first = data_build("lists/a.json")
    key = tmp_path / "lists" / "rtda.key"
    assert key.stat().st_mode & 0o777 == 0o600
    secret = key.read_bytes()
    assert first["identity"] == "private"
    assert first["train"][0]["image_id"] == lists.hashed(secret, first["train"][0]["image"])
    assert data_build("lists/b.json")["checksum"] == first["checksum"]
    assert key.read_bytes() == secret
    assert data_build("others/a.json")["checksum"] != first["checksum"]


def test_the_published_key_and_a_key_of_ones_own_are_asked_for(tmp_path, data_build):
    public = data_build("a.json", key="public")
    assert public["identity"] == "public"
    assert public["train"][0]["image_id"] == lists.hashed(b"public", public["train"][0]["image"])
    own = data_build("b.json", key=str(tmp_path / "own"))
    assert own["identity"] == "private"
    assert own["train"][0]["image_id"] == lists.hashed((tmp_path / "own").read_bytes(), own["train"][0]["image"])
    assert not (tmp_path / "rtda.key").exists()


def test_a_folder_is_no_output(tmp_path, data_build):
    with pytest.raises(ListError, match=r": output: a folder; give the JSON file to write"):
        data_build(".")


# -- what cannot be written ------------------------------------------------------------------------------------------


def some_list(folder, name="mine"):
    items = [one | {"split": split} for split in lists.SPLITS for one in content()[split]]
    return write_list(items, content()["classes"], folder / "mine.json", name=name)


def some_cohort(folder, seed=1):
    return phantom.build(folder, phantom.Phantom(films=40, size=32, radius=0.1, seed=seed), facts.age_group)


def some_key(folder):
    return lists.key_file(folder / "a.key")


@pytest.fixture
def taken():
    """A folder that every user can reach, as pytest's own is closed to others, with a list and a cohort in it."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    some_list(folder, "the one before")
    some_cohort(folder, seed=0)
    yield folder
    shutil.rmtree(folder)


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("write", "fault", "message"),
    [
        (some_list, full_disk, r"mine\.json: cannot be written \(File too large\)"),
        (some_list, read_only, r"mine\.json: cannot be written \(Permission denied\)"),
        (some_cohort, full_disk, r"00000\.dcm: cannot be written \(File too large\)"),
        (some_cohort, read_only, r"phantom\.json: cannot be written \(Permission denied\)"),
        (some_key, full_disk, r"a\.key: cannot be written \(File too large\)"),
        (
            some_key,
            read_only,
            r"a\.key: cannot be written \(Permission denied\)",
        ),
    ],
)
def test_what_cannot_be_written_is_named_and_what_existed_stands(taken, write, fault, message):
    before = files_of(taken)
    with fault(taken), pytest.raises(OSError, match=f"{message}; free space or choose another folder"):
        write(taken)
    assert files_of(taken) == before
    assert sorted(path.name for path in taken.iterdir()) == ["films", "mine.json", "phantom.json"]
    write(taken)
    assert files_of(taken) != before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["phantom", "-o", "{taken}", "--films", "40"], "00000.dcm"),
        (["build", "{csv}", "--dataset-dir", "{images}", "-o", "{taken}/mine.json", "--key", "public"], "mine.json"),
        (["build", "{csv}", "--dataset-dir", "{images}", "-o", "{taken}/mine.json", "--key", "{taken}/key"], "key"),
    ],
    ids=["cohort", "list", "key"],
)
def test_a_command_tells_of_a_full_disk_in_one_line(taken, tmp_path, capsys, words, named):
    places = {"taken": taken, "images": tmp_path, "csv": write_csv(tmp_path, table())}
    with full_disk(taken):
        status = main(["data", *(word.format(**places) for word in words)])
    told = f"rtda: {named}: cannot be written (File too large); free space or choose another folder\n"
    said = [line for line in capsys.readouterr().err.splitlines(keepends=True) if not line.startswith("films: ")]
    assert (status, said) == (1, [told])


# -- real images -----------------------------------------------------------------------------------------------------


# The list of the chest films, by the command of data_lists/README.md


KERMANY = ROOT / "data_lists/chest_xray_kermany.json"


def documented(folder, out):
    """The documented command, on a folder of that name."""
    page = (ROOT / "data_lists/README.md").read_text()
    (command,) = re.findall(r"```sh\nrtda (data build .*?)```", page, re.DOTALL)
    words = shlex.split(command.replace("\\\n", " "))
    places = {"data_lists/chest_xray_kermany.csv": str(KERMANY.with_suffix(".csv"))}
    return [
        {**places, "chest_xray": str(folder), "chest_xray_kermany.json": str(out)}.get(word, word) for word in words
    ]


def unpacked(folder, without_val=False):
    """The films by their names alone; without the folder val as in Mendeley's archive, which has its films in train."""
    listed = lists.read(KERMANY)
    for image in (one["image"] for split in lists.SPLITS for one in listed[split]):
        path = folder / (image.replace("val/", "train/") if without_val else image)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "train/.DS_Store").touch()  # as the published archive has


@pytest.mark.parametrize("name", ["chest_xray", "images"])
def test_whoever_has_the_archive_gets_the_list_that_is_shipped(tmp_path, name, caplog):
    """Of names alone: neither pixels nor the name of the folder decide."""
    unpacked(tmp_path / name)
    assert main(documented(tmp_path / name, tmp_path / "made.json")) == 0
    assert (tmp_path / "made.json").read_bytes() == KERMANY.read_bytes()
    assert caplog.messages == ["left out, not of the pattern: train/.DS_Store"]


@pytest.mark.process
@pytest.mark.slow
def test_whoever_has_mendeleys_archive_moves_16_films_as_documented_and_gets_it_too(tmp_path):
    unpacked(tmp_path / "chest_xray", without_val=True)
    assert len(list((tmp_path / "chest_xray/train").rglob("*.jpeg"))) == 1349 + 3883
    (tmp_path / "data_lists").symlink_to(ROOT / "data_lists")
    (moving,) = re.findall(r"```sh\n(grep .*?)```", (ROOT / "data_lists/README.md").read_text(), re.DOTALL)
    subprocess.run(["bash", "-euc", moving], cwd=tmp_path, check=True)
    assert len(list((tmp_path / "chest_xray/val").rglob("*.jpeg"))) == 16
    assert main(documented(tmp_path / "chest_xray", tmp_path / "made.json")) == 0
    assert (tmp_path / "made.json").read_bytes() == KERMANY.read_bytes()


def test_the_list_of_the_chest_films_is_what_its_page_says():
    listed = lists.read(KERMANY)
    counts = {split: (len(listed[split]), len({one["patient_id"] for one in listed[split]})) for split in lists.SPLITS}
    assert counts == {"train": (4762, 3302), "validation": (470, 367), "test": (624, 428)}
    assert {one["image"].split("/")[0] for one in listed["test"]} == {"test"}
    assert {one["image"].split("/")[0] for one in listed["train"] + listed["validation"]} == {"train", "val"}
    items = [one for split in lists.SPLITS for one in listed[split]]
    assert {one["projection"] for one in items} == {"AP"}
    assert Counter(Counter(one["group_id"] for one in items if "group_id" in one).values()) == {2: 28, 3: 2}
    assert all((one["label"] == 0) == ("/NORMAL/" in one["image"]) for one in items)


@pytest.mark.data
def test_the_list_of_the_chest_films_agrees_with_the_pack(real_data):
    folder = real_data / "xray_kermany"
    with (folder / "labels.csv").open() as file:
        rows = {row["image"].removeprefix("images/"): row for row in csv.DictReader(file)}
    listed = lists.read(KERMANY)
    items = [one for split in lists.SPLITS for one in listed[split]]
    assert {one["image"] for one in items} == set(rows)
    for one in items:
        row = rows[one["image"]]
        assert (one["label"], one["projection"]) == (int(row["label"]), row["view"])
        assert one["patient_id"] == lists.hashed(lists.PUBLIC, row["patient_id"])
        assert ("group_id" in one) == bool(row["dup_group"])
    for split in lists.SPLITS:
        assert len(lists.load(KERMANY, folder / "images", split)) == len(listed[split])


def test_paths_tell_label_patient_and_split_and_a_table_the_rest(tmp_path):
    for name in (
        "train/a/p1_1.png",
        "train/a/p1_2.png",
        "train/b/p2_1.png",
        "test/a/p3_1.png",
        "test/b/p4_1.png",
        "x.txt",
    ):
        (tmp_path / "films" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "films" / name).touch()
    table = tmp_path / "more.csv"
    table.write_text("image,projection,dup_group\n*,PA,\ntrain/a/*,,g\ntrain/a/p1_2.png,AP,\n")
    pattern = r"(?P<split>train|test)/(?P<label>\w)/(?P<patient_id>p\d)_.*"
    items, classes = build.from_paths(pattern, tmp_path / "films", b"k", table=table)
    assert classes == ["a", "b"]
    assert [(one["image"], one["label"], one["split"], one["projection"]) for one in items] == [
        ("test/a/p3_1.png", 0, "test", "PA"),
        ("test/b/p4_1.png", 1, "test", "PA"),
        ("train/a/p1_1.png", 0, "train", "PA"),
        ("train/a/p1_2.png", 0, "train", "AP"),
        ("train/b/p2_1.png", 1, "train", "PA"),
    ]
    assert items[2]["patient_id"] == items[3]["patient_id"] == lists.hashed(b"k", "p1")
    assert [one.get("group_id") for one in items] == [None, None, *[lists.hashed(b"k", "g")] * 2, None]
    items, classes = build.from_paths(pattern, tmp_path / "films", b"k", ["B", "A"])
    assert classes == ["B", "A"]
    assert [one["label"] for one in items] == [1, 0, 1, 1, 0]


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("(", "pattern: .*; correct the regular expression"),
        (r"(?P<label>\w)/.*", "pattern: patient_id: no group of this name"),
        (r"(?P<label>\w)/(?P<patient_id>p)", "pattern: matches no path below films"),
        (r"(?P<split>\w+)/(?P<label>\w+)\.(?P<patient_id>\w+)", "1.png: split: 'early' is unknown"),
    ],
)
def test_a_pattern_that_does_not_serve_is_refused(tmp_path, pattern, told):
    (tmp_path / "films/early").mkdir(parents=True)
    (tmp_path / "films/early/1.png").touch()
    with pytest.raises(ListError, match=told):
        build.from_paths(pattern, tmp_path / "films", b"k")


def test_without_csv_and_pattern_nothing_is_built(tmp_path, capsys):
    assert main(["data", "build", "--dataset-dir", str(tmp_path), "-o", str(tmp_path / "a.json")]) == 2
    assert "csv: missing" in capsys.readouterr().err


@pytest.mark.data
def test_the_official_test_films_stand_and_validation_is_cut_anew_from_all_others(real_data, tmp_path):
    folder = real_data / "xray_kermany"
    items, classes = build.from_csv(folder / "labels.csv", folder, b"public")
    official = {i["image_id"] for i in items if i["split"] == "test"}
    build.rejoin_validation(items)
    path = write_list(items, classes, tmp_path / "kermany.json")
    listed = lists.read(path)
    assert classes == ["normal", "pneumonia"]
    counts = {s: (len(listed[s]), len({i["patient_id"] for i in listed[s]})) for s in lists.SPLITS}
    assert counts == {"train": (4762, 3302), "validation": (470, 367), "test": (624, 428)}
    assert {i["image_id"] for i in listed["test"]} == official
    for split in lists.SPLITS:
        assert len(lists.load(path, folder, split)) == counts[split][0]
    shares = [lists.prior(listed[split], 2)[1] for split in ("validation", "train")]
    assert shares[0] == pytest.approx(shares[1], abs=0.03)


@pytest.mark.data
@pytest.mark.parametrize("pack", ["mammo_mias", "us_pocus"])
def test_packs_without_a_split_get_one_by_patient(real_data, tmp_path, pack):
    folder = real_data / pack
    items, classes = build.from_csv(folder / "labels.csv", folder, b"public")
    path = write_list(items, classes, tmp_path / "list.json")
    assert sum(len(lists.load(path, folder, split)) for split in lists.SPLITS) == len(items)
