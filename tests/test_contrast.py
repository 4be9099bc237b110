"""Random contrast and window as MONAI transforms: what MONAI's own intensity transforms do, these do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandFlip,
    RandFlipd,
    RandGaussianNoised,
    RandShiftIntensityd,
    ScaleIntensityRanged,
)
from monai.utils import set_determinism
from rtda.transforms.contrast import RandContrast, RandContrastd, RandWindow, RandWindowd
from rtda.transforms.intensity import contrast, gamma, window

ALWAYS = [RandContrast(prob=1.0), RandWindow(prob=1.0)]
DICTIONARY = [RandContrastd, RandWindowd]
SHAPES = [(1, 8, 9), (2, 5, 6, 7)]


@pytest.fixture(autouse=True)
def undetermined():
    yield
    set_determinism(None)


def image(shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transform", ALWAYS, ids=lambda transform: type(transform).__name__)
def test_an_image_is_changed_within_bounds_and_keeps_its_facts(transform, shape):
    x = MetaTensor(image(shape), meta={"film_modality": "DX"})
    before = x.clone()
    for _ in range(5):
        made = transform(x)
        assert made.shape == x.shape
        assert made.dtype == torch.float32
        assert made.min() >= 0
        assert made.max() <= 1
        assert made.meta["film_modality"] == "DX"
        assert not torch.equal(made, x)
    assert torch.equal(x, before)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_array_transform_applies_the_pixel_function_with_what_it_drew(seed):
    x = image((1, 8, 9), seed)
    one, other = RandContrast((0.3, 1.7), prob=1.0), RandWindow((-0.2, 0.2), (0.5, 2), prob=1.0)
    for transform in (one, other):
        transform.set_random_state(seed)
    made = one(x)
    assert 0.3 <= one.drawn <= 1.7
    assert torch.equal(made.as_tensor(), contrast(x[None], torch.tensor([one.drawn], dtype=x.dtype))[0])
    made, (shift, width) = other(x), other.drawn
    assert -0.2 <= shift <= 0.2
    assert 0.5 <= width <= 2
    expected = window(x[None], torch.tensor([0.5 + shift], dtype=x.dtype), torch.tensor([width], dtype=x.dtype))[0]
    assert torch.equal(made.as_tensor(), expected)


@pytest.mark.parametrize("kind", DICTIONARY)
def test_of_a_dictionary_the_keys_share_one_draw_and_the_rest_is_left_alone(kind):
    x = image((1, 8, 9))
    made = kind(["a", "b"], prob=1.0)({"a": x, "b": x, "label": 1})
    assert torch.equal(made["a"], made["b"])
    assert not torch.equal(made["a"], x)
    assert made["label"] == 1
    with pytest.raises(KeyError):
        kind("missing")({"a": x})
    assert torch.equal(kind("missing", allow_missing_keys=True)({"a": x})["a"], x)


@pytest.mark.parametrize("kind", DICTIONARY)
def test_prob_is_the_share_of_images_that_are_changed(kind):
    x, transform = image((1, 4, 4)), kind("image", prob=0.3)
    transform.set_random_state(0)
    changed = [not torch.equal(transform({"image": x})["image"], x) for _ in range(1000)]
    assert sum(changed) / 1000 == pytest.approx(0.3, abs=0.05)
    assert not any(not torch.equal(kind("image", prob=0)({"image": x})["image"], x) for _ in range(20))


@pytest.mark.parametrize("kind", [*DICTIONARY, RandContrast, RandWindow])
def test_set_determinism_decides_the_draws_in_a_compose(kind):
    def three():
        if kind in DICTIONARY:
            chain = Compose([RandFlipd("image", prob=0.5), kind("image", prob=1.0)])
            return [chain({"image": image((1, 8, 9))})["image"] for _ in range(3)]
        chain = Compose([RandFlip(prob=0.5), kind(prob=1.0)])
        return [chain(image((1, 8, 9))) for _ in range(3)]

    runs = []
    for seed in (1, 1, 2):
        set_determinism(seed)
        runs.append(three())
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(runs[0], runs[2], strict=True))
    assert not torch.equal(runs[0][0], runs[0][1])


@pytest.mark.parametrize("lazy", [False, True])
def test_they_stand_beside_monais_own_in_a_chain_that_is_lazy_or_inverted(lazy):
    chain = Compose(
        [
            RandFlipd("image", prob=1.0),
            RandContrastd("image", prob=1.0),
            RandWindowd("image", prob=1.0),
            RandAdjustContrastd("image", prob=1.0),
            RandShiftIntensityd("image", offsets=0.1, prob=1.0),
            RandGaussianNoised("image", prob=1.0, std=0.05),
            ScaleIntensityRanged("image", 0, 1, 0, 1, clip=True),
        ],
        lazy=lazy,
    )
    x = MetaTensor(image((1, 8, 9)))
    made = chain({"image": x})["image"]
    assert made.min() >= 0
    assert made.max() <= 1
    if not lazy:  # what is pointwise is not inverted; the flip is
        assert torch.equal(chain.inverse({"image": made})["image"], made.flip((1, 2)))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: RandContrast(factor=(1.2, 0.8)), "factor"),
        (lambda: RandContrast(factor=(1.0,)), "factor"),
        (lambda: RandWindow(width=(0, 1)), "width"),
        (lambda: RandWindow(shift=(0.1, -0.1)), "shift"),
    ],
)
def test_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()


@pytest.mark.parametrize("kind", [RandContrast, RandWindow])
def test_whole_numbers_are_refused_and_before_a_draw_nothing_is_changed(kind):
    one = kind(prob=1.0)
    x = torch.rand(1, 4, 4)
    assert torch.equal(one(x, randomize=False).as_tensor(), x)
    with pytest.raises(ValueError, match=r"^image: torch\.uint8, not floating point; scale it"):
        one((255 * x).to(torch.uint8))


def test_gamma_and_window_keep_the_ends_and_the_order():
    x = torch.linspace(0, 1, 11)[None, None]
    for exponent in (0.5, 1.0, 2.0):
        made = gamma(x, torch.tensor([exponent]))[0, 0]
        assert made[0] == 0
        assert made[-1] == 1
        assert (made.diff() > 0).all()
    assert torch.allclose(gamma(x, torch.tensor([1.0])), x)
    assert torch.allclose(window(x, torch.tensor([0.5]), torch.tensor([1.0])), x, atol=1e-7)
