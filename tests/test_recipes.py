"""The recipes against the table of the method, row by row, as MONAI's parser makes them of every bundle."""

import pytest
from monai.bundle import ConfigParser
from rtda.pipeline.attacks import PGD
from rtda.pipeline.delivery.bundle import INSTALLED
from rtda.pipeline.views import Augment, Chain, Clean

CONSISTENCY = {"chest_xray_rtda": 12, "phantom_rtda": 2}
"""λ of each bundle; trades has 6 in both."""

CLEAN, AUGMENTED, ATTACKED = (Clean, None), (Augment, None), (PGD, None)
CE, KL = ("ce", "ball"), ("kl", 0.001)
"""Objective and start of the attack."""

TABLE = {  # recipe: views with class and parent, stack, supervised, λ, divergence, attack
    "standard": ({"clean": CLEAN}, ["clean"], ["clean"], 0, "js", None),
    "augmentation": ({"augmented": AUGMENTED}, ["augmented"], ["augmented"], 0, "js", None),
    "augmix": (
        {"clean": CLEAN, "augmented": AUGMENTED, "augmented_2": AUGMENTED},
        ["clean", "augmented", "augmented_2"],
        ["clean"],
        CONSISTENCY,
        "js",
        None,
    ),
    "adversarial": ({"adversarial": ATTACKED}, ["adversarial"], ["adversarial"], 0, "js", CE),
    "adversarial_augmentation": (
        {"augmented": AUGMENTED, "adversarial": (PGD, "augmented")},
        ["adversarial"],
        ["adversarial"],
        0,
        "js",
        CE,
    ),
    "robust_augmix": (
        {"clean": CLEAN, "augmented": AUGMENTED, "adversarial": ATTACKED},
        ["clean", "augmented", "adversarial"],
        ["clean"],
        CONSISTENCY,
        "js",
        CE,
    ),
    "rtda": (
        {"clean": CLEAN, "augmented": AUGMENTED, "adversarial": ATTACKED},
        ["clean", "augmented", "adversarial"],
        ["adversarial"],
        CONSISTENCY,
        "js",
        CE,
    ),
    "trades": ({"clean": CLEAN, "adversarial": ATTACKED}, ["clean", "adversarial"], ["clean"], 6, "kl", KL),
}

each_bundle = pytest.mark.parametrize("bundle", CONSISTENCY)


def expected(bundle, recipe):
    views, stack, supervise, weight, divergence, attack = TABLE[recipe]
    weight = weight[bundle] if isinstance(weight, dict) else weight
    return list(views.items()), stack, supervise, weight, divergence, attack


def resolved(bundle, recipe, **changes):
    """The same row, of the objects that a bundle and a recipe make; ``changes`` replace ids of the recipe."""
    parser = parsed(bundle, recipe, **changes)
    views = {name: parser.get_parsed_content(f"views#{name}") for name in parser["views"]}
    made = [(name, (type(inside(view)), getattr(view, "parent", None))) for name, view in views.items()]
    attack = next((inside(view) for view in views.values() if isinstance(inside(view), PGD)), None)
    loss = parser.get_parsed_content("loss")
    settings = attack and (attack.objective, attack.start)
    return made, list(loss.views), list(loss.supervise), loss.weight, loss.divergence, settings


def parsed(bundle, recipe, **changes):
    files = [INSTALLED / bundle / "configs/train.yaml", INSTALLED / f"recipes/{recipe}.yaml"]
    return ConfigParser(ConfigParser.load_config_files([str(file) for file in files]) | changes)


def inside(view):
    return view.view if isinstance(view, Chain) else view


def test_the_table_has_every_recipe_and_bundle():
    assert {path.stem for path in (INSTALLED / "recipes").iterdir()} == set(TABLE)
    assert {path.parent.name for path in INSTALLED.glob("*/configs")} == set(CONSISTENCY)


@each_bundle
@pytest.mark.parametrize("recipe", TABLE)
def test_a_recipe_is_its_row_of_the_table(bundle, recipe):
    assert resolved(bundle, recipe) == expected(bundle, recipe)


@each_bundle
@pytest.mark.parametrize("recipe", TABLE)
def test_attacks_and_augmentations_are_the_bundles_own(bundle, recipe):
    parser = parsed(bundle, recipe)
    attack, augmentation = parser.get_parsed_content("attack"), parser.get_parsed_content("augmentation")
    for name in parser["views"]:
        view = inside(parser.get_parsed_content(f"views#{name}"))
        if isinstance(view, PGD):
            assert (view.ball, view.steps, view.bounds) == (attack.ball, attack.steps, attack.bounds)
        if isinstance(view, Augment):
            assert view.inner is augmentation


@pytest.mark.parametrize(
    ("recipe", "change"),
    [
        ("rtda", {"supervise": ["clean"]}),
        ("rtda", {"weight": 0}),
        ("rtda", {"stack": ["clean", "adversarial"], "supervise": ["adversarial"]}),
        ("robust_augmix", {"supervise": ["adversarial"]}),
        ("trades", {"views": {"clean": {"_target_": "rtda.pipeline.views.Clean"}, "adversarial": "@attack"}}),
        ("trades", {"divergence": "js"}),
        ("trades", {"weight": "@consistency_weight"}),
    ],
)
@each_bundle
def test_a_recipe_that_is_another_method_is_noticed(bundle, recipe, change):
    assert resolved(bundle, recipe, **change) != expected(bundle, recipe)
