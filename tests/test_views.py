"""Views: one mapping of names, made in order, stacked view-major, each with a draw that the seed decides."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor, set_rnd
from monai.engines.utils import IterationEvents
from monai.transforms import Compose, Identity, RandFlip, RandGaussianNoise, ScaleIntensity
from monai.utils import set_determinism
from rtda.pipeline.attacks import PGD
from rtda.pipeline.balls import L2, Linf
from rtda.pipeline.laws import check_view
from rtda.pipeline.views import Augment, Chain, Clean, PerImage, StackViews, make_views, plain
from rtda.transforms.intensity import RandomContrastBrightness, contrast
from torch import nn

SPATIAL = {"2-D": (6, 5), "3-D": (4, 3, 5)}
dimensions = pytest.mark.parametrize("spatial", SPATIAL.values(), ids=SPATIAL.keys())


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    yield
    set_determinism(None)


class Mean(nn.Module):
    """Logits (0, mean of the image): looks at an image of any shape, and has BatchNorm to disturb."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return self.norm(torch.stack([torch.zeros_like(mean), mean], dim=1))


def noisy():
    return RandGaussianNoise(prob=1.0, std=0.1)


def batch(spatial, size=4):
    return torch.rand(size, 1, *spatial), torch.arange(size) % 2


VIEWS = {
    "clean": Clean,
    "augmented": lambda: Augment(RandomContrastBrightness()),
    "per image": lambda: PerImage(Compose([RandFlip(prob=0.5), noisy(), ScaleIntensity()])),
    "attack": lambda: PGD(L2(0.3)),
    "chained": lambda: Chain("augmented", PGD(L2(0.3))),
    "chained augmentation": lambda: Chain("adversarial", PerImage(RandFlip(prob=0.5))),
}


@dimensions
@pytest.mark.parametrize("name", VIEWS)
def test_every_view_keeps_the_laws_of_a_view(name, spatial):
    check_view(VIEWS[name](), Mean(), *batch(spatial))


def test_the_clean_view_is_the_image_itself():
    x, y = batch((6, 5))
    assert torch.equal(Clean()(Mean(), x, y), x)


@dimensions
def test_a_chained_view_starts_from_the_very_draw_of_its_parent(spatial):
    views = {"augmented": Augment(RandomContrastBrightness()), "adversarial": Chain("augmented", PGD(Linf(0.01)))}
    x, y = batch(spatial)
    made = make_views(views, Mean(), x, y)
    assert (made["augmented"] - x).abs().max() > 0.05
    moved = (made["adversarial"] - made["augmented"]).abs().amax()
    assert 0 < moved <= 0.01 * (1 + 1e-5) + 2**-23


def test_a_chain_of_chains_follows_each_parent():
    views = {
        "half": Augment(lambda x: x / 2),
        "quarter": Chain("half", Augment(lambda x: x / 2)),
        "eighth": Chain("quarter", Augment(lambda x: x / 2)),
        "again": Augment(lambda x: x / 2),
    }
    x, y = batch((6, 5))
    made = make_views(views, Mean(), x, y)
    assert torch.equal(made["eighth"], x / 8)
    assert torch.equal(made["again"], x / 2)


@pytest.mark.parametrize("order", [["child"], ["child", "parent"]])
def test_a_view_before_its_parent_is_refused(order):
    views = {"child": Chain("parent", Clean()), "parent": Clean()}
    with pytest.raises(ValueError, match="views: 'child' starts from 'parent', which is not made before it"):
        StackViews({name: views[name] for name in order}, Mean())


def test_views_are_detached_from_whatever_made_them():
    weight = torch.ones(1, requires_grad=True)
    made = make_views({"learned": lambda model, x, y: x * weight}, Mean(), *batch((6, 5)))
    assert not made["learned"].requires_grad


@dimensions
def test_stacked_rows_are_view_major_with_labels_repeated_likewise(spatial):
    x, y = batch(spatial)
    stacked = StackViews({"clean": Clean(), "negative": Augment(lambda x: 1 - x)}, Mean())
    images, labels = stacked({"image": x, "label": y})
    assert torch.equal(images, torch.cat([x, 1 - x]))
    assert torch.equal(labels, torch.cat([y, y]))


@given(stack=st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
@settings(max_examples=20, deadline=None)
def test_only_the_named_views_are_stacked_in_the_order_of_their_naming(stack):
    scale = {"a": 1.0, "b": 0.5, "c": 0.25}
    made = []

    def view(name):
        return Augment(lambda x: made.append(name) or x * scale[name])

    x, y = batch((6, 5))
    images, labels = StackViews({name: view(name) for name in "abc"}, Mean(), stack)({"image": x, "label": y})
    assert torch.equal(images, torch.cat([x * scale[name] for name in stack]))
    assert torch.equal(labels, y.repeat(len(stack)))
    assert made == ["a", "b", "c"]  # all are made: one that is not stacked may be another's parent


def test_labels_of_several_columns_are_repeated_by_rows():
    x, y = torch.rand(2, 1, 6, 5), torch.tensor([[0, 1, 1], [1, 0, 0]])
    _, labels = StackViews({"clean": Clean(), "same": Clean()}, Mean())({"image": x, "label": y})
    assert torch.equal(labels, torch.cat([y, y]))


@pytest.mark.parametrize("stack", [["noisy"], ["clean", "noisy"], []])
def test_a_stack_that_names_no_view_is_refused(stack):
    with pytest.raises(ValueError, match=r"stack: .* must name views, some of \['clean'\]"):
        StackViews({"clean": Clean()}, Mean(), stack)


def test_a_metatensor_comes_in_and_plain_tensors_come_out_and_reach_the_model():
    seen = []

    class Spy(Mean):
        def forward(self, x):
            seen.append(type(x))
            return super().forward(x)

    x, y = batch((6, 5))
    views = {"clean": Clean(), "flipped": PerImage(RandFlip(prob=1.0)), "adversarial": PGD(L2(0.3), steps=2)}
    images, labels = StackViews(views, Spy())({"image": MetaTensor(x, meta={"film": 1}), "label": y})
    assert type(images) is type(labels) is torch.Tensor
    assert set(seen) == {torch.Tensor}
    assert torch.equal(images[:4], x)


def test_plain_leaves_a_plain_tensor_as_it_is():
    x = torch.rand(2)
    assert plain(x) is x
    assert type(plain(MetaTensor(x))) is torch.Tensor


def test_the_inner_iteration_frames_the_making_of_views():
    happened = []
    view = Augment(lambda x: happened.append("view") or x)
    StackViews({"view": view}, Mean(), fire=happened.append)(dict(zip(("image", "label"), batch((6, 5)), strict=True)))
    inner = IterationEvents
    assert happened == [inner.INNER_ITERATION_STARTED, "view", inner.INNER_ITERATION_COMPLETED]


def test_the_preparation_of_batches_can_be_replaced():
    x, y = batch((6, 5))
    stacked = StackViews({"clean": Clean()}, Mean(), prepare=lambda data, *_: (data[1], data[0]))
    images, labels = stacked((y, x))
    assert torch.equal(images, x)
    assert torch.equal(labels, y)


@pytest.mark.parametrize("view", [Augment, PerImage])
def test_a_transforms_own_state_follows_the_seed_even_inside_a_chain(view):
    x, y = batch((6, 5))
    chain = Chain("clean", view(noisy()))
    draws = []
    for seed in (5, 5, 6):
        set_rnd([chain], seed)
        draws.append(chain(Mean(), x, y))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("view", [Augment, PerImage])
def test_a_transform_made_after_set_determinism_follows_it(view):
    x, y = batch((6, 5))
    draws = []
    for seed in (7, 7, 8):
        set_determinism(seed)
        draws.append(view(noisy())(Mean(), x, y))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_per_image_draws_anew_for_each_image():
    same = torch.full((3, 1, 6, 5), 0.5)
    made = PerImage(noisy())(Mean(), same, torch.zeros(3))
    assert not torch.equal(made[0], made[1])
    assert not torch.equal(made[1], made[2])


@dimensions
@given(factors=st.lists(st.floats(0.0, 2.0, width=32), min_size=3, max_size=3))
@settings(max_examples=20, deadline=None)
def test_the_path_of_a_batch_is_the_path_of_its_images(spatial, factors):
    x, y = torch.rand(3, 1, *spatial), torch.zeros(3)
    factor = torch.tensor(factors)
    whole = Augment(lambda images: contrast(images, factor))(Mean(), x, y)
    left = iter(factor)
    each = PerImage(lambda image: contrast(image[None], next(left)[None])[0])(Mean(), x, y)
    torch.testing.assert_close(whole, each, atol=1e-6, rtol=0)


def test_the_transform_stays_readable_for_evaluation():
    transform = Identity()
    assert Augment(transform).inner is transform


def test_an_attack_is_replaced_never_changed():
    attack = PGD(L2(0.3))
    weaker = replace(attack, ball=L2(0.1))
    assert (attack.ball.radius, weaker.ball.radius) == (0.3, 0.1)
    with pytest.raises(AttributeError):
        attack.steps = 3
