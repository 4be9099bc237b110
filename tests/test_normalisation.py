"""A normalisation inside the model: MONAI's own numbers, and the clean image's statistics while an attack moves it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import (
    NormalizeIntensity,
    NormalizeIntensityd,
    Resized,
    ScaleIntensity,
    ScaleIntensityd,
    ScaleIntensityRanged,
)
from rtda.pipeline.attacks import PGD
from rtda.pipeline.balls import L2, Linf
from rtda.pipeline.evidence.evaluation import Evaluation
from rtda.pipeline.normalisation import Normalisation, holding, normalisation_of
from rtda.pipeline.views import Augment, Chain, Clean
from torch import nn


def films(seed=0, spatial=(5, 6)):
    """Batch of three channels: with zeros, all 0, constant, a constant channel, and any."""
    x = 255 * torch.rand(5, 3, *spatial, generator=torch.Generator().manual_seed(seed))
    x[0, :, :2], x[1], x[2], x[3, 0] = 0, 0, 7, 5
    return x


def by_monai(transform, x):
    return torch.stack([torch.as_tensor(transform(image.clone())).as_tensor() for image in x])


@pytest.mark.parametrize("spatial", [(5, 6), (3, 5, 4)])
@pytest.mark.parametrize("nonzero", [False, True])
@pytest.mark.parametrize("channel_wise", [False, True])
@pytest.mark.parametrize("given_mean", [False, True])
@pytest.mark.parametrize("given_deviation", [False, True])
def test_z_scores_are_those_of_monai(spatial, nonzero, channel_wise, given_mean, given_deviation):
    transform = NormalizeIntensity(
        subtrahend=([0.1, 20.0, 3.0] if channel_wise else 11.0) if given_mean else None,
        divisor=([2.0, 0.0, 4.0] if channel_wise else 3.0) if given_deviation else None,
        nonzero=nonzero,
        channel_wise=channel_wise,
    )
    x = films(spatial=spatial)
    torch.testing.assert_close(normalisation_of(transform)(x), by_monai(transform, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channel_wise", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"minv": -1.0},
        {"minv": 2.0, "maxv": 5.0},
        {"minv": None},
        {"minv": 0.5, "maxv": None},
        {"minv": None, "maxv": None},
        {"minv": None, "maxv": None, "factor": 0.3},
    ],
)
def test_scalings_to_the_own_range_are_those_of_monai(arguments, channel_wise):
    transform, x = ScaleIntensity(**arguments, channel_wise=channel_wise), films()
    torch.testing.assert_close(normalisation_of(transform)(x), by_monai(transform, x), rtol=1e-5, atol=1e-5)


def test_only_what_is_known_is_taken_for_a_normalisation():
    assert isinstance(normalisation_of(NormalizeIntensityd("image")), Normalisation)
    assert isinstance(normalisation_of(ScaleIntensityd("image")), Normalisation)
    assert normalisation_of(ScaleIntensityRanged("image", 0, 255, 0, 1)) is None
    assert normalisation_of(Resized("image", (4, 4))) is None
    assert normalisation_of(lambda item: item) is None


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.booleans(), st.booleans())
def test_held_the_map_is_affine_and_agrees_at_the_images_themselves(seed, nonzero, channel_wise):
    stage = normalisation_of(NormalizeIntensity(nonzero=nonzero, channel_wise=channel_wise))
    clean = films(seed)
    held, a, b = stage.holding(clean), films(seed + 1), films(seed + 2)
    assert torch.equal(held(clean), stage(clean))
    torch.testing.assert_close(held((a + b) / 2), (held(a) + held(b)) / 2, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(held(a), stage(a), atol=1e-2)


def test_gradients_are_finite_where_an_image_is_constant():
    x = films().requires_grad_()
    for transform in (NormalizeIntensity(nonzero=True, channel_wise=True), NormalizeIntensity(), ScaleIntensity()):
        (gradient,) = torch.autograd.grad(normalisation_of(transform)(x).square().sum(), x)
        assert gradient.isfinite().all()


def test_an_attack_that_does_not_keep_its_rows_is_refused():
    held = normalisation_of(NormalizeIntensity()).holding(films())
    with pytest.raises(ValueError, match="normalisation: 2 images, but statistics of 5 are held"):
        held(films()[:2])


def network():
    torch.manual_seed(1)
    stage = normalisation_of(NormalizeIntensity(channel_wise=True))
    return nn.Sequential(nn.Hardtanh(0, 1), stage, nn.Flatten(), nn.Linear(64, 2))


def test_holding_shares_the_weights_and_leaves_other_networks_alone():
    made, clean = network(), torch.rand(3, 1, 8, 8)
    held = holding(made, clean)
    assert held is not made
    assert held[3] is made[3]
    assert made[1].held is None
    torch.testing.assert_close(held(clean), made(clean))
    for other in (nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Linear(64, 2))):
        assert holding(other, clean) is other


class Film:
    def __call__(self, item):
        return {"image": torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(item["label"])), "label": 0}


def test_evaluation_holds_the_start_of_an_attack_and_nothing_for_other_views(tmp_path):
    """Logits of the attacked image by hand: those of the affine map that its start defines."""
    made = network()
    darker = Augment(lambda x: 0.5 * x)
    views = {"clean": Clean(), "darker": darker, "pgd": PGD(Linf(0.1), start="none"), "noise": Draws()}
    views["pgd_from_darker"] = Chain("darker", PGD(L2(0.5), start="none"))
    evaluation = Evaluation(made, views, [{"label": n} for n in range(4)], Film(), {}, tmp_path)
    evaluation.claim()
    evaluation.run()
    found = evaluation.table({}).to_pandas()
    x, y = torch.stack([Film()({"label": n})["image"] for n in range(4)]), torch.zeros(4, dtype=torch.long)

    def logits(view):
        return torch.tensor([row.tolist() for row in found.loc[found["view"] == view, "logits"]])

    torch.testing.assert_close(logits("darker"), logits("clean"))  # z-scores do not see the factor
    for name, start in (("pgd", x), ("pgd_from_darker", 0.5 * x)):
        around = holding(made, start)
        attack = getattr(views[name], "view", views[name])
        attacked = attack(around, start, y)
        torch.testing.assert_close(logits(name), around(attacked).detach())
        assert not torch.allclose(logits(name), made(attacked), atol=1e-3)
    torch.testing.assert_close(logits("noise"), holding(made, x)((x + 0.1).clamp(0, 1)).detach())


class Draws:
    """A view without gradients that states its ball."""

    name = "draws"
    facts = {"family": "noise", "norm": "linf", "epsilon": 0.1}  # noqa: RUF012

    def __call__(self, model, x, y):
        return (x + 0.1).clamp(0, 1)
