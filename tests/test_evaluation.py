"""Evaluation: one table, the same however it is computed, and nobody else's random numbers."""

import contextlib
import json
import random
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import RandGaussianNoise
from rtda.pipeline.attacks import FGSM, PGD
from rtda.pipeline.balls import L2, Linf
from rtda.pipeline.cli import main
from rtda.pipeline.commands import evaluating
from rtda.pipeline.commands.evaluating import flat_views
from rtda.pipeline.delivery.bundle import find_views
from rtda.pipeline.evidence import evaluation as module
from rtda.pipeline.evidence import table as table_module
from rtda.pipeline.evidence.evaluation import SHARD, Evaluation, named, weights_checksum
from rtda.pipeline.evidence.table import COLUMNS, read_table, with_facts, write_table
from rtda.pipeline.views import Augment, Chain, Clean, PerImage
from rtda.transforms.intensity import RandomContrastBrightness
from rtda.transforms.shifts import Shift
from torch import nn

COUNT = 150  # three shards, the last one short
RECORD = {"bundle": "b", "recipe": "rtda", "seed": 0, "checkpoint": "best", "split": "test"}


@dataclass(frozen=True)
class Film:
    """Item -> image drawn from the item's own number."""

    def __call__(self, item):
        generator = torch.Generator().manual_seed(item["number"])
        return {"image": torch.rand(1, 8, 8, generator=generator), "label": item["label"]}


def items(count=COUNT):
    facts = {"sex": "F", "site": "s"}
    return [{"image_id": f"i{n}", "patient_id": f"p{n}", "label": n % 2, "number": n} | facts for n in range(count)]


def network(seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(144, 2))


def views():
    return {
        "clean": Clean(),
        "augmented": Augment(RandomContrastBrightness()),
        "noise": PerImage(RandGaussianNoise(prob=1.0)),
        "pgd": PGD(L2(0.3), steps=2),
        "pgd_from_augmented": Chain("augmented", PGD(L2(0.3), steps=2)),
    }


def evaluation(parts, net=None, tested=None, films=None, **settings):
    made = net or network(), tested or views(), films or items()
    made = Evaluation(*made, Film(), settings.pop("record", RECORD), parts, **settings)
    made.claim()
    return made


def table(parts, *args, **settings):
    one = evaluation(parts, *args, **settings)
    one.run()
    return one.table({"classes": ["a", "b"]})


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return table(tmp_path_factory.mktemp("reference") / "parts")


# The table


def test_its_columns_are_fixed(reference):
    assert reference.schema.names == [
        *("bundle", "recipe", "seed", "fold", "checkpoint", "split", "image_id", "patient_id", "group_id", "site"),
        *("sex", "age_group", "projection", "manufacturer", "label", "view", "family", "norm", "epsilon", "severity"),
        *("logits", "probabilities", "l2", "linf"),
    ]


def test_the_table_has_one_row_for_each_image_and_view_in_order(reference):
    assert reference.schema.names == COLUMNS.names
    assert len(reference) == COUNT * len(views())
    rows = reference.to_pylist()
    assert [row["view"] for row in rows[::COUNT]] == list(views())
    for k in range(len(views())):
        assert [row["image_id"] for row in rows[k * COUNT : (k + 1) * COUNT]] == [i["image_id"] for i in items()]
    assert {key: rows[0][key] for key in ("bundle", "recipe", "seed", "checkpoint", "split", "sex", "site")} == {
        **RECORD,
        "sex": "F",
        "site": "s",
    }
    assert rows[0]["age_group"] is None
    assert all(row["label"] == i % COUNT % 2 for i, row in enumerate(rows))


def test_probabilities_are_the_softmax_of_the_logits(reference):
    logits, probabilities = (np.array(reference[name].to_pylist()) for name in ("logits", "probabilities"))
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


@dataclass(frozen=True)
class Labelled(Film):
    """The same with three labels that exclude nothing."""

    def __call__(self, item):
        return super().__call__(item) | {"label": torch.tensor(item["label"])}


def test_a_multi_label_set_has_lists_of_labels_and_a_probability_for_each(tmp_path):
    films = [item | {"label": [n % 2, n % 3 % 2, 1]} for n, item in enumerate(items(70))]
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    tested = {"clean": Clean(), "pgd": PGD(L2(0.3), steps=2)}
    one = Evaluation(net, tested, films, Labelled(), RECORD, tmp_path / "parts")
    one.claim()
    one.run()
    made = one.table({"classes": ["a", "b", "c"], "multilabel": True})
    assert made.schema.names == COLUMNS.names
    assert made["label"].to_pylist() == [item["label"] for item in films] * 2
    logits, probabilities = (np.array(made[name].to_pylist()) for name in ("logits", "probabilities"))
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), atol=1e-6)
    stored = read_table(write_table(made, tmp_path / "predictions.parquet"))
    assert stored.equals(made)
    with pytest.raises(ValueError, match=r"^one\.parquet: label: not as its metadata state; "):
        read_table(write_table(with_facts(made, {"classes": ["a", "b", "c"]}), tmp_path / "one.parquet"))


def test_distances_are_those_to_the_clean_image(reference):
    distances = {name: [] for name in views()}
    for row in reference.to_pylist():
        distances[row["view"]].append(row["l2"])
    assert set(distances["clean"]) == {0}
    assert 0 < max(distances["pgd"]) <= 0.3 * (1 + 1e-5) + 2**-23 * 8
    assert min(distances["augmented"]) > 0


def test_family_norm_radius_and_severity_stand_in_the_table(tmp_path):
    tested = named([Clean(), FGSM(Linf(0.1)), Augment(Shift(kind="contrast_down", severity=3))])
    rows = table(tmp_path / "parts", tested=tested).to_pylist()[::COUNT]
    facts = [(row["view"], row["family"], row["norm"], row["epsilon"], row["severity"]) for row in rows]
    assert facts == [
        ("clean", "clean", None, None, None),
        ("fgsm_linf_0.1", "attack", "linf", 0.1, None),
        ("contrast_down_3", "shift", None, None, 3),
    ]


def test_a_view_that_states_nothing_is_not_called_clean(tmp_path):
    made = table(tmp_path / "parts", tested={"clean": Clean(), "rotated": lambda model, x, y: x.rot90(dims=(2, 3))})
    families = {(row["view"], row["family"]) for row in made.to_pylist()}
    assert families == {("clean", "clean"), ("rotated", "other")}


def test_a_stored_table_is_read_back_as_it_was(reference, tmp_path):
    stored = read_table(write_table(reference, tmp_path / "predictions.parquet"))
    assert stored.equals(reference)
    assert stored.schema.metadata == reference.schema.metadata


@pytest.mark.parametrize("rows", [1, 100, 10**6])
def test_parts_are_merged_a_row_group_at_a_time(rows, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(table_module, "ROW_GROUP", rows)
    one = evaluation(tmp_path / "parts")
    one.run()
    path = table_module.merge(one.written, {"classes": ["a", "b"]}, tmp_path / "merged.parquet")
    sizes = [pq.ParquetFile(path).metadata.row_group(k).num_rows for k in range(pq.ParquetFile(path).num_row_groups)]
    assert max(sizes) < rows + SHARD
    assert all(size >= rows for size in sizes[:-1])
    assert read_table(path).equals(reference, check_metadata=True)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["merged.parquet"]


# However it is computed


def test_two_ranks_make_the_table_of_one(reference, tmp_path):
    for rank in (1, 0):
        evaluation(tmp_path / "parts").run(rank, 2)
    assert evaluation(tmp_path / "parts").table({"classes": ["a", "b"]}).equals(reference, check_metadata=True)


def test_a_child_is_made_from_the_same_tensor_where_its_parent_was_written_before(reference, tmp_path):
    evaluation(tmp_path / "parts").run()
    lost = tmp_path / "parts/00001-pgd_from_augmented.parquet"
    lost.unlink()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("*.parquet")}
    again = evaluation(tmp_path / "parts")
    again.run()
    assert lost.is_file()
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    assert again.table({}).equals(reference)


@pytest.mark.parametrize("batch_size", [1, 5, 64, 100, 500])
@pytest.mark.parametrize("ranks", [1, 2])
def test_batches_of_the_loader_change_nothing(batch_size, ranks, reference, tmp_path):
    one = evaluation(tmp_path / "parts")
    for rank in range(ranks):
        one.run(rank, ranks, batch_size=batch_size)
    assert one.table({}).equals(reference)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [5, 64])
def test_loader_workers_change_nothing(batch_size, reference, tmp_path):
    one = evaluation(tmp_path / "parts")
    one.run(num_workers=2, batch_size=batch_size)
    assert one.table({}).equals(reference)


def test_neither_other_views_nor_the_state_of_the_generators_change_a_view(reference, tmp_path):
    torch.manual_seed(99)
    tested = dict(reversed([(name, view) for name, view in views().items() if name in ("clean", "noise", "pgd")]))
    rows = {(row["view"], row["image_id"]): row for row in table(tmp_path / "parts", tested=tested).to_pylist()}
    assert len(rows) == 3 * COUNT
    for row in reference.to_pylist():
        if row["view"] in tested:
            assert rows[row["view"], row["image_id"]] == row


def test_another_seed_draws_anew(reference, tmp_path):
    other = table(tmp_path / "parts", seed=1)
    same = [a == b for a, b in zip(reference["logits"].to_pylist(), other["logits"].to_pylist(), strict=True)]
    assert all(same[:COUNT])  # clean
    assert not any(same[COUNT : 2 * COUNT])


def test_a_child_starts_from_its_parents_tensor(tmp_path):
    seen = {}

    def remembered(name, view):
        return lambda model, x, y: seen.setdefault(name, []).append((x, made := view(model, x, y))) or made

    tested = {"augmented": remembered("a", views()["augmented"]), "child": Chain("augmented", remembered("c", Clean()))}
    for view in tested.values():
        getattr(view, "view", view).name = "x"
        getattr(view, "view", view).inner = None
    table(tmp_path / "parts", tested=tested)
    assert len(seen["a"]) == 3
    for (_, made), (given, _) in zip(seen["a"], seen["c"], strict=True):
        assert given is made


# InterruptionError


class InterruptionError(Exception):
    pass


def failing(at):
    """An attack that stops at its k-th call."""
    calls = []

    @dataclass(frozen=True)
    class Failing:
        def __call__(self, model, x, y):
            calls.append(1)
            if len(calls) == at:
                raise InterruptionError
            return PGD(L2(0.3), steps=2)(model, x, y)

        def __repr__(self):
            return repr(PGD(L2(0.3), steps=2))

        facts = PGD(L2(0.3)).facts

    return Failing(), calls


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_interrupted_evaluation_goes_on_where_it_stopped(reference, tmp_path, at):
    view, calls = failing(at)
    one = evaluation(tmp_path / "parts", tested=views() | {"pgd": view})
    with pytest.raises(InterruptionError):
        one.run()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("*.parquet")}
    assert len(written) == (at - 1) * 5 + 3
    again = evaluation(tmp_path / "parts", tested=views() | {"pgd": view})
    again.run()
    assert len(calls) == 4
    assert again.table({}).equals(reference)
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())


@pytest.mark.parametrize(
    "change",
    [
        {"net": network(1)},
        {"seed": 1},
        {"threads": 2},
        {"record": RECORD | {"checkpoint": "last"}},
        {"films": items(COUNT - 1)},
        {"films": [item | {"label": 1 - item["label"]} for item in items()]},
        {"identity": {"preprocessing": "another"}},
        {"tested": views() | {"pgd": PGD(L2(0.3), steps=3)}},
        {"tested": views() | {"augmented": Augment(RandomContrastBrightness(alpha=0.1))}},
    ],
    ids=lambda change: "_".join(change),
)
def test_parts_of_another_evaluation_are_discarded(tmp_path, change):
    parts = tmp_path / "parts"
    evaluation(parts).run()
    assert len(list(parts.glob("*.parquet"))) == 15
    evaluation(parts)  # the same: kept
    assert len(list(parts.glob("*.parquet"))) == 15
    evaluation(parts, **change)
    assert not list(parts.glob("*.parquet"))


def test_parts_are_discarded_when_an_image_file_changes(tmp_path):
    film = tmp_path / "film.png"
    film.write_bytes(b"one")
    films = [item | {"image": str(film)} for item in items()]
    evaluation(tmp_path / "parts", films=films).run()
    film.write_bytes(b"another")
    evaluation(tmp_path / "parts", films=films)
    assert not list((tmp_path / "parts").glob("*.parquet"))


def test_discarding_leaves_nothing(tmp_path):
    one = evaluation(tmp_path / "parts")
    one.run()
    one.discard()
    assert not list(tmp_path.iterdir())


# Without a trace


def states():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=[pytest.mark.process, pytest.mark.slow])])
def test_the_global_random_state_is_left_alone(tmp_path, workers):
    one = evaluation(tmp_path / "parts")
    torch.rand(3)
    before = states()
    one.run(num_workers=workers)
    assert states() == before


def test_the_model_is_left_as_it_was(tmp_path):
    net = network().train()
    net[1].eval()
    before, modes = weights_checksum(net.state_dict()), [m.training for m in net.modules()]
    evaluation(tmp_path / "parts", net=net).run()
    assert weights_checksum(net.state_dict()) == before
    assert [m.training for m in net.modules()] == modes
    assert all(p.grad is None for p in net.parameters())


def test_threads_and_tf32_are_as_before_also_after_a_failure():
    before = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with contextlib.suppress(InterruptionError), module.exact(2):
            assert torch.get_num_threads() == 2
            assert not torch.backends.cuda.matmul.allow_tf32
            raise InterruptionError
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.get_num_threads() == before[0]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before[1]


# Refused


class Broken(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.weight, self.logits = nn.Parameter(torch.zeros(1)), logits

    def forward(self, x):
        return self.logits(x) + self.weight


@pytest.mark.parametrize(
    "logits",
    [
        lambda x: torch.full((len(x), 2), float("nan")),
        lambda x: torch.tensor([[0.0, float("inf")]] * len(x)),
        lambda x: x.mean((1, 2, 3)),
    ],
)
def test_logits_that_are_no_finite_matrix_are_refused(tmp_path, logits):
    with pytest.raises(ValueError, match=r"^clean: logits: .*check the model"):
        evaluation(tmp_path / "parts", net=Broken(logits), tested={"clean": Clean()}).run()


def test_two_views_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"'pgd2_l2_0\.3' stands twice"):
        named([Clean(), PGD(L2(0.3), steps=2), PGD(L2(0.3), steps=2, start="none")])


def test_a_child_before_its_parent_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'child' starts from 'augmented'"):
        evaluation(tmp_path / "parts", tested={"child": Chain("augmented", Clean())})


def test_a_table_of_other_columns_is_refused(reference, tmp_path):
    with pytest.raises(ValueError, match=r"other\.parquet: columns"):
        read_table(write_table(reference.drop_columns(["l2"]), tmp_path / "other.parquet"))
    with pytest.raises(ValueError, match=r"other\.parquet: metadata: "):
        read_table(write_table(reference.replace_schema_metadata(None), tmp_path / "other.parquet"))


# By the command


@pytest.mark.process
def test_two_processes_with_workers_make_the_table_of_one(workshop, cohort, tmp_path, capfd):
    content = json.loads((cohort / "phantom.json").read_text())
    content["test"] += content["train"]  # two shards, one for each process
    (tmp_path / "list.json").write_text(json.dumps(content | {"train": [], "checksum": None}))
    words = ["evaluate", "--model", str(workshop / "rtda.zip"), "--data-list", str(tmp_path / "list.json")]
    words += ["--dataset-dir", str(cohort)]
    assert main([*words, "-o", str(tmp_path / "one")]) == 0
    capfd.readouterr()
    options = ["--processes", "2", "--num-workers", "1", "--batch-size", "5"]
    assert main([*words, *options, "-o", str(tmp_path / "two")]) == 0
    assert capfd.readouterr().err.count(" on test: 1/1 (") == 2
    one, two = (read_table(tmp_path / name / "predictions.parquet") for name in ("one", "two"))
    assert one.equals(two, check_metadata=True)


def test_a_list_without_validation_is_evaluated_without_and_its_prior_may_be_its_own():
    item = [{"label": 0}, {"label": 1}, {"label": 1}, {"label": 1}]
    whole = {"classes": ["a", "b"], "train": item[:2], "validation": item[2:3], "test": item}
    assert evaluating.splits("test", whole) == ["test", "validation"]
    assert evaluating.splits("validation", whole) == ["validation"]
    assert evaluating.splits("test", whole | {"validation": []}) == ["test"]
    assert evaluating._prior(whole) == {"training_prior": [0.5, 0.5], "prior_source": "train"}
    foreign = whole | {"train": [], "validation": []}
    assert evaluating._prior(foreign) == {"training_prior": [0.25, 0.75], "prior_source": "own images"}


def test_the_tables_metadata_state_model_list_and_versions(workshop):
    stated = json.loads(read_table(workshop / "runs/rtda/predictions.parquet").schema.metadata[b"rtda"])
    assert stated["classes"] == ["no lesion", "lesion"]
    assert stated["image_size"] == 32
    assert stated["threads"] == 1
    assert stated["training_radius"] == pytest.approx(0.125)
    assert stated["parameters"] == {
        "contrast_down_5": "factor 0.4",
        "contrast_up_5": "factor 1.6",
        "gaussian_noise_5": "σ 0.08",
    }
    assert stated["seen"] == ["brightness", "contrast"]
    assert stated["prior_source"] == "train"
    assert {"torch", "monai", "rtda"} <= set(stated["versions"])


@pytest.mark.parametrize(("preset", "views", "attacks"), [("quick", 8, 4), ("study", 126, 5), ("full", 131, 10)])
def test_presets_make_uniquely_named_views_for_any_run(workshop, preset, views, attacks):
    parser = ConfigParser()
    parser.read_config([str(workshop / "runs/rtda/config.yaml"), str(find_views(preset))])
    made = named(list(flat_views(parser.get_parsed_content("evaluation_views"))))
    families = [module.described(view)["family"] for view in made.values()]
    assert next(iter(made)) == "clean"
    assert (len(made), families.count("attack")) == (views, attacks)
    assert families.count("shift") == views - attacks - 1
    if preset != "quick":
        assert {f"low_dose_{severity}" for severity in range(1, 6)} <= set(made)
