"""On a CUDA device: the laws hold, the numbers are the processor's, and the commands run from list to table."""

import contextlib
import json

import pyarrow.parquet as pq
import pytest
import torch
from monai.networks.nets import ResNet
from rtda.pipeline.attacks import FGSM, PGD, RandomSearch
from rtda.pipeline.balls import L2, Linf
from rtda.pipeline.cli import main
from rtda.pipeline.evidence.evaluation import exact
from rtda.pipeline.evidence.masking import check_masking
from rtda.pipeline.laws import check_ball, check_shift, check_view
from rtda.pipeline.losses import ConsistencyLoss
from rtda.pipeline.networks import AsCalled, Standardized, computed_in, with_norm
from rtda.pipeline.seeding import forked
from rtda.pipeline.views import Augment
from rtda.transforms.augmix import AugMix
from rtda.transforms.shifts import SHIFTS, Shift

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]
RECIPES = ["standard", "augmentation", "augmix", "adversarial", "adversarial_augmentation", "robust_augmix", "rtda"]


def network(norm="batch"):
    torch.manual_seed(0)
    made = ResNet("basic", [1, 1, 1, 1], [8, 8, 16, 16], 2, n_input_channels=1, num_classes=2, conv1_t_stride=2)
    made = with_norm(made, ["group", {"num_groups": 4}]) if norm == "group" else made
    return Standardized(made, 0.5, 0.25)


def batch(size=8):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(size, 1, 32, 32, generator=generator), torch.arange(size) % 2


@pytest.mark.parametrize("ball", [L2(0.5), Linf(0.03)], ids=["l2", "linf"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_attacks_keep_the_laws_of_a_view(ball, norm):
    x, y = (tensor.cuda() for tensor in batch())
    check_ball(ball, *(torch.randn_like(x) for _ in range(3)))
    for attack in (FGSM(ball), PGD(ball), PGD(ball, steps=3, restarts=2, objective="margin"), RandomSearch(ball)):
        check_view(attack, AsCalled(network(norm).cuda(), "auto", "channels_last"), x, y, ball=ball)


@pytest.mark.parametrize("ball", [L2(0.5), Linf(0.03)], ids=["l2", "linf"])
def test_an_attack_finds_what_it_finds_on_the_processor(ball):
    """From one start in float32 as such: the gradient's sign may differ where it is zero up to rounding."""
    x, y = batch()
    attack = PGD(ball, steps=5, start="none")
    with exact(1):
        here = attack(network().eval(), x, y)
        there = attack(network().eval().cuda(), x.cuda(), y.cuda()).cpu()
    assert (here - there).abs().gt(1e-4).float().mean() < 0.01
    assert (here - x).abs().amax() > 0.01


def test_auto_is_bfloat16_where_the_device_has_it_and_logits_are_float32():
    x, _ = batch()
    model = network("group").eval().cuda()
    exactly = AsCalled(model, "float32")(x.cuda())
    reduced = AsCalled(model, "auto", "channels_last")(x.cuda())
    assert exactly.dtype == reduced.dtype == torch.float32
    torch.testing.assert_close(reduced, exactly, rtol=0.05, atol=0.05)
    if computed_in("auto", x.cuda().device) == "bfloat16":
        assert not torch.equal(reduced, exactly)


def test_gradients_under_reduced_precision_reach_image_and_weights():
    x, y = (tensor.cuda() for tensor in batch())
    model = AsCalled(network().cuda(), "auto", "channels_last")
    loss = ConsistencyLoss(["clean", "augmented", "adversarial"], ["adversarial"], weight=12)
    views = [x, Augment(AugMix())(model, x, y), PGD(L2(0.5))(model, x, y)]
    loss(model(torch.cat(views)), y.repeat(3)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("operations", ["base", "all"])
def test_augmix_keeps_the_laws_of_a_shift(operations):
    check_shift(AugMix(operations=operations), batch()[0].cuda())


@pytest.mark.parametrize("kind", sorted(SHIFTS))
def test_shifts_keep_their_laws_and_those_without_chance_are_the_processors(kind):
    x, _ = batch(4)
    shift = Shift(kind, 3)
    check_shift(shift, x.cuda())
    first, second, there = (_drawn(shift, seed, images) for seed, images in ((1, x), (2, x), (1, x.cuda())))
    if torch.equal(first, second):
        torch.testing.assert_close(there.cpu(), first, rtol=1e-4, atol=1e-4)
    else:
        distances = [(images.cpu() - x).square().mean().sqrt() for images in (first, there)]
        torch.testing.assert_close(*distances, rtol=0.25, atol=0.01)


def _drawn(shift, seed, x):
    with forked(seed, x.device):
        return shift(x)


def test_the_devices_generator_is_left_as_it_was():
    device = torch.device("cuda")
    before = torch.cuda.get_rng_state()
    with forked(1, device):
        first = torch.rand(4, device=device)
    with forked(1, device):
        assert torch.equal(torch.rand(4, device=device), first)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_the_masking_checks_run_there():
    x, y = (tensor.cuda() for tensor in batch(16))
    assert check_masking(network().eval().cuda(), x, y, L2(0.5)).verdict in ("believable", "masked", "not decidable")


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains_and_is_evaluated_there(recipe, tiny, tmp_path):
    with contextlib.chdir(tmp_path):
        assert main(["train", "phantom_rtda", "--recipe", recipe, "--run-name", "r", *tiny]) == 0
        assert main(["evaluate", "runs/r"]) == 0
    facts = json.loads(pq.read_schema(tmp_path / "runs/r/predictions.parquet").metadata[b"rtda"])
    assert facts["device"] == "cuda"


def test_a_second_evaluation_there_makes_the_same_table_and_the_processor_a_near_one(tiny, tmp_path, monkeypatch):
    tables = []
    with contextlib.chdir(tmp_path):
        assert main(["train", "phantom_rtda", "--recipe", "rtda", "--run-name", "r", *tiny]) == 0
        for cuda in (True, True, False):
            if not cuda:
                monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
            assert main(["evaluate", "runs/r"]) == 0
            tables.append(pq.read_table("runs/r/predictions.parquet"))
    assert tables[0].equals(tables[1])
    there, here = (torch.tensor(clean_logits(table)) for table in tables[1:])
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3)


def clean_logits(table):
    return [row["logits"] for row in table.select(["view", "logits"]).to_pylist() if row["view"] == "clean"]
