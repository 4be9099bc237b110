"""The gate: liars are named by the check that should see them, honest networks pass, and nothing is left changed."""

import copy
import json
from pathlib import Path

import foolbox
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import NormalizeIntensity
from rtda.pipeline.attacks import FGSM, PGD
from rtda.pipeline.balls import L2, Linf
from rtda.pipeline.evidence.gate import CURVE, MEANINGS, Check, Gate, comparisons, not_run, verdict_of
from rtda.pipeline.evidence.masking import balanced_rows, check_masking, planting
from rtda.pipeline.laws import check_view
from rtda.pipeline.networks import AsCalled
from rtda.pipeline.normalisation import holding, normalisation_of
from torch import nn

BALL = L2(0.7)
many = settings(max_examples=100, deadline=None)


# The verdict and the comparisons


figures = st.one_of(st.none(), st.floats(0, 1))
kinds = st.sampled_from(["masked", "not decidable"])
checks = st.builds(Check, st.just("slope"), figures, st.floats(0, 1), failing=kinds, needed=st.booleans())


@given(st.lists(checks, max_size=6))
@many
def test_believable_is_what_has_run_and_passed_and_masked_what_says_so(found):
    verdict = verdict_of(found)
    failed = [check for check in found if check.passed is False]
    absent = [check for check in found if check.passed is None and check.needed]
    assert (verdict == "masked") == any(check.failing == "masked" for check in failed)
    assert (verdict == "believable") == (not failed and not absent)


@given(st.lists(checks, max_size=6), st.randoms())
@many
def test_the_order_of_checks_decides_nothing_and_a_further_failure_never_helps(found, random):
    shuffled = random.sample(found, len(found))
    assert verdict_of(shuffled) == verdict_of(found)
    assert verdict_of([*found, Check("slope", 1.0, 0.0)]) == "masked"
    assert verdict_of([*found, Check("slope", 1.0, 0.0, failing="not decidable")]) != "believable"


@pytest.mark.parametrize("n", [30, 48, 100, 128])
def test_one_image_of_slack_is_one_image_whatever_the_rounding(n):
    for k in range(n - 1):
        assert Check("noise ≥ FGSM", (k + 1) / n, k / n + 1 / n).passed
        assert Check("noise ≥ FGSM", (k + 2) / n, k / n + 1 / n).passed is False


HONEST = {"noise": 0.95, "random": 0.9, "FGSM": 0.7} | dict(zip(CURVE, (0.8, 0.6, 0.3), strict=True))
HONEST |= {"PGD-100 × 5": 0.58}


def test_an_honest_order_of_accuracies_passes():
    assert all(check.passed for check in comparisons(HONEST, 100))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"noise": 0.68}, ["noise ≥ FGSM"]),
        ({"random": 0.58}, ["random ≥ PGD-20"]),
        ({"FGSM": 0.56}, ["FGSM ≥ PGD-100 × 5"]),
        ({"PGD-100 × 5": 0.62}, ["PGD-20 ≥ PGD-100 × 5"]),
        ({"PGD-100 × 5": 0.52}, ["convergence"]),
        ({"PGD-20 at 2ε": 0.62}, ["falling in ε"]),
        ({"PGD-20 at ε/2": 0.58}, ["falling in ε"]),
        ({"FGSM": 0.97}, ["noise ≥ FGSM"]),
    ],
)
def test_two_images_out_of_order_fail_and_one_passes(changed, named):
    assert [check.name for check in comparisons(HONEST | changed, 100) if not check.passed] == named
    assert all(check.passed for check in comparisons(HONEST | changed, 50))


# Networks, honest and lying


def cohort(classes, n, seed):
    """Images of one pattern a class, in noise; two patterns lie about 2 apart."""
    pattern = torch.randn(classes, 1, 12, 12, generator=torch.Generator().manual_seed(99))
    y = torch.arange(n) % classes
    noise = torch.randn(n, 1, 12, 12, generator=torch.Generator().manual_seed(seed))
    return (0.5 + 0.12 * pattern[y] + 0.12 * noise).clamp(0, 1), y


class Uneven(nn.Module):
    """Pixels as a vector, some of them so large that plain training relies on these few, and is fragile."""

    def forward(self, x):
        return x.flatten(1) * torch.tensor([10.0] * 16 + [1.0] * 128)


def train(network, x, y, steps, attack=None):
    optimizer = torch.optim.Adam(network.parameters(), 0.005)
    for _ in range(steps):
        rows = torch.randint(len(x), (48,))
        shown = attack(network, x[rows], y[rows]) if attack else x[rows]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(shown), y[rows]).backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def networks():
    """(recipe, classes) -> network; the adversarial one goes on from the plain one."""
    torch.manual_seed(0)
    made = {}
    for classes in (2, 3):
        x, y = cohort(classes, 480, seed=1)
        network = nn.Sequential(Uneven(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, classes))
        made["plain", classes] = train(network, x, y, 100)
        made["adversarial", classes] = train(copy.deepcopy(network), x, y, 60, PGD(BALL, 4))
    return made


def gate(network, classes=2, ball=BALL, n=32, **settings):
    return check_masking(network, *cohort(classes, n, seed=2), ball, **settings)


class Lying(nn.Module):
    """A network with something done to it."""

    def __init__(self, network, how):
        super().__init__()
        self.network, self.how = network, how

    def forward(self, x):
        return self.how(self.network, x)


@pytest.fixture(scope="module")
def honest(networks):
    """(recipe, classes, norm) -> gate of a network as it is."""
    balls = [BALL, Linf(0.06)]
    return {(*key, ball.norm): gate(network, key[1], ball) for key, network in networks.items() for ball in balls}


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("recipe", ["plain", "adversarial"])
def test_an_honest_network_is_believable(honest, recipe, classes, norm):
    found = honest[recipe, classes, norm]
    assert found.verdict == "believable", str(found)
    assert [check.name for check in found.checks] == list(MEANINGS)
    assert [check.name for check in found.checks if check.passed is None] == ["PGD ≥ APGD", "Square ≥ APGD"]
    assert found.facts["norm"] == norm


def test_what_is_believed_is_a_difference(honest):
    plain, adversarial = (honest[recipe, 2, "l2"].accuracies for recipe in ("plain", "adversarial"))
    assert plain["clean"] == adversarial["clean"] == 1
    assert plain["PGD-20"] < 0.5 < adversarial["PGD-20"]


def off_grid(x):
    """(B, 1) whether an image is none of 8 bits, as hardly an attacked one is."""
    return ((x * 255 - (x * 255).round()).abs().flatten(1).amax(1, keepdim=True) > 0.01).float()


LIARS = {
    "saturated": ("plain", lambda f, x: 1e4 * f(x), ["cross entropy"]),
    "quantised": (
        "adversarial",
        lambda f, x: f((8 * x).round() / 8),
        ["zero gradient", "slope", "16ε", "planted example"],
    ),
    "stochastic": ("adversarial", lambda f, x: f(x + 0.2 * torch.randn_like(x)), ["repeatable", "slope"]),
    "stochastic, one draw a batch": ("plain", lambda f, x: f(x) + torch.randn(1), ["repeatable"]),
    "of its batch": ("plain", lambda f, x: f(x) + x[0].mean(), ["repeatable"]),
    "detached in part": ("adversarial", lambda f, x: f(x.detach()) + 1e-3 * f(x), ["slope"]),
    "tied": ("plain", lambda f, x: f(x).bfloat16(), ["ties"]),
    "misled": ("adversarial", lambda f, x: f(2 * x.detach() - x), ["slope", "16ε", "planted example"]),
    "not a number": (
        "plain",
        lambda f, x: f(x) + 0 * (x - x.detach()).abs().sqrt().flatten(1).sum(1)[:, None],
        ["zero gradient"],
    ),
    "a trapdoor": (
        "adversarial",
        lambda f, x: f(x) + 1e3 * off_grid(x) * torch.eye(f[-1].out_features)[0],
        ["one class at 16ε"],
    ),
}


@pytest.mark.parametrize("lie", LIARS)
def test_a_planted_liar_is_caught_and_named(networks, lie):
    """Each at home in one of the two networks."""
    recipe, how, named = LIARS[lie]
    x, y = cohort(2, 32, seed=2)
    found = check_masking(Lying(networks[recipe, 2], how), (x * 255).round() / 255, y, BALL)
    assert found.verdict == "masked"
    assert set(named) <= set(found.failed), str(found)


@pytest.mark.parametrize("lie", ["saturated", "detached in part"])
def test_a_liar_of_three_classes_is_caught_too(networks, lie):
    _, how, named = LIARS[lie]
    found = gate(Lying(networks["plain", 3], how), 3, Linf(0.06))
    assert found.verdict == "masked"
    assert set(named) <= set(found.failed), str(found)


def test_an_attack_that_makes_no_image_is_no_success(networks):
    _, how, _ = LIARS["not a number"]
    found = gate(Lying(networks["plain", 2], how))
    for attack in ("FGSM", "PGD-20", "PGD-100 × 5", "PGD-20 at 16ε"):
        assert found.accuracies[attack] == found.accuracies["clean"]


def test_a_bfloat16_network_is_caught_as_it_is_called(networks):
    found = gate(AsCalled(networks["adversarial", 2], precision="bfloat16"))
    assert "ties" in found.failed
    assert found.verdict == "masked"


def test_what_the_check_of_cross_entropy_says_of_others_attacks_is_true(networks):
    """Foolbox's PGD climbs plain cross entropy: on saturated logits it finds nothing, ours as much as before."""
    x, y = cohort(2, 32, seed=2)
    attack = foolbox.attacks.L2PGD(steps=20, rel_stepsize=0.125)
    standing = {}
    for scale in (1, 1e4):
        liar = Lying(networks["plain", 2], lambda f, x, scale=scale: scale * f(x)).eval()
        model = foolbox.PyTorchModel(liar, bounds=(0, 1), device="cpu")
        _, theirs, _ = attack(model, x, y, epsilons=BALL.radius)
        standing[scale] = [int((liar(made).argmax(1) == y).sum()) for made in (theirs, PGD(BALL, 20)(liar, x, y))]
    assert standing[1][0] < 16
    assert standing[1e4][0] == 32
    assert abs(standing[1e4][1] - standing[1][1]) <= 1


def test_divided_by_a_constant_saturated_logits_are_believable_again(networks):
    saturated = Lying(networks["plain", 2], lambda f, x: 1e4 * f(x))
    assert gate(Lying(saturated, lambda f, x: f(x) / 1e4)).verdict == "believable"


@pytest.mark.parametrize("answer", [0, 1])
@pytest.mark.parametrize("slope", [0.0, 1e-3])
def test_a_constant_network_is_named_and_nothing_else_is_asked(networks, answer, slope):
    constant = Lying(networks["plain", 2], lambda f, x: slope * f(x) + torch.eye(2)[answer])
    found = gate(constant)
    assert found.verdict == "not decidable"
    assert found.failed == ["one class"]
    assert {check.note for check in found.checks[1:-2]} == {"not run: it answers one class"}
    assert found.facts["passes"] == {"forward": 1.0, "forward and backward": 0.0}


def test_a_normalisation_in_the_network_holds_the_clean_image_s_statistics_as_in_evaluation():
    """Its last weights see the mean of an image, which a z-score hides and an attack that holds it does not."""
    (x, y), stage = cohort(2, 32, seed=2), normalisation_of(NormalizeIntensity())
    network = train(nn.Sequential(stage, nn.Flatten(), nn.Linear(144, 2)), *cohort(2, 480, seed=1), 100)
    with torch.no_grad():
        network[2].weight[1] += 1
    attack = FGSM(BALL)
    standing = [float((f(attack(f, x, y)).argmax(1) == y).float().mean()) for f in (network, holding(network, x))]
    assert standing[1] == 0 < 0.9 < standing[0]
    assert gate(network).accuracies["FGSM"] == 0


# Without gradients


class Inferring(nn.Module):
    """A network that keeps no graph, as an exported one may."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    @torch.inference_mode()
    def forward(self, x):
        return self.network(x)


@pytest.mark.parametrize(
    ("blind", "note"),
    [
        (lambda f: Lying(f, lambda f, x: f(x).detach()), "the logits carry no gradient"),
        (lambda f: Lying(f, lambda f, x: f(x.detach())), "the gradient is detached before it reaches the image"),
        (
            lambda f: Lying(f, lambda f, x: f[2:](f[:2](x).detach())),
            "the gradient is detached before it reaches the image",
        ),
        (Inferring, "the logits carry no gradient"),
        (lambda f: lambda x: f(torch.from_numpy(x.numpy())).detach().numpy(), "the logits carry no gradient"),
    ],
    ids=["end", "image", "middle", "inference", "callable"],
)
def test_without_gradients_only_outputs_are_checked_and_nothing_is_believed(networks, blind, note):
    found = gate(blind(networks["adversarial", 2]))
    assert found.verdict == "not decidable"
    assert [check.name for check in found.checks if check.passed] == ["one class", "repeatable", "ties"]
    assert {check.note for check in found.checks[3:-2]} == {f"not run: {note}"}


def test_without_gradients_a_liar_is_still_one(networks):
    found = gate(lambda x: networks["plain", 2](x).detach() + torch.randn(1))
    assert found.verdict == "masked"
    assert found.failed == ["repeatable"]


# The planted example


@given(st.integers(0, 2**16), st.integers(2, 30), st.integers(1, 5))
@many
def test_exactly_the_planted_draw_is_adversarial(seed, draws, n):
    generator = torch.Generator().manual_seed(seed)
    margins, clean = torch.randn(draws, n, generator=generator), torch.randn(n, generator=generator)
    margins = (4 * margins).round() / 4  # with ties
    threshold, possible = planting(margins, clean)
    assert torch.equal(possible, margins.amax(0) > torch.maximum(margins.topk(2, 0).values[1], clean))
    everything = torch.cat([margins, clean[None]]) - threshold
    assert torch.equal((everything > 0).sum(0)[possible], torch.ones_like(possible, dtype=torch.int64)[possible])
    assert (everything[-1][possible] < 0).all()


class Slope(nn.Module):
    """Logits ∓<w, x − 1/2>, of any number of dimensions."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        score = ((x - 0.5).flatten(1) * self.weight.flatten()).sum(1)
        return torch.stack([-score, score], 1)


def test_volumes_are_checked_too():
    weight = torch.randn(1, 6, 8, 8)
    y = torch.arange(20) % 2
    side = (2 * y - 1).reshape(-1, 1, 1, 1, 1)
    x = (0.5 + side * weight / weight.norm() + 0.05 * torch.randn(20, 1, 6, 8, 8)).clamp(0, 1)
    found = check_masking(Slope(weight), x, y, L2(0.5))
    assert found.verdict == "believable", str(found)
    assert next(check.figure for check in found.checks if check.name == "slope") < 1e-3


# What is chosen, counted, refused and left alone


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 40), st.integers(0, 9))
@many
def test_rows_are_balanced_and_the_seeds(labels, images, seed):
    rows = balanced_rows(labels, images, seed)
    assert rows == sorted(set(rows)) == balanced_rows(torch.tensor(labels), images, seed)
    quota = images // len(set(labels))
    for k in set(labels):
        assert sum(labels[row] == k for row in rows) == min(quota, labels.count(k))


def test_at_most_so_many_images_are_used_and_said(networks):
    x, y = cohort(2, 90, seed=2)
    found = check_masking(
        networks["plain", 2], x[:60], y[:60].where(torch.arange(60) > 20, torch.tensor(0)), BALL, images=20
    )
    assert found.facts["images"] == {"0": 10, "1": 10}


def test_the_same_seed_gives_the_same_gate_and_leaves_the_generator(networks, honest):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again, other = (gate(networks["plain", 3], 3, seed=seed).as_dict() for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert again == honest["plain", 3, "l2"].as_dict()
    assert again["checks"] != other["checks"]


def test_a_gate_is_json(honest):
    found = honest["plain", 2, "l2"]
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told["verdict"] == found.verdict
    assert [line["passed"] for line in told["checks"]] == [check.passed for check in found.checks]
    assert all(line["meaning"] for line in told["checks"])
    assert str(Gate((not_run("slope", "why"),), {}, {})).splitlines() == [
        "not decidable",
        f"{'':10}{'slope':22}not run: why",
    ]


def test_the_page_explains_every_check():
    page = (Path(__file__).parents[1] / "docs/masking.md").read_text()
    assert all(f"`{name}`" in page for name in MEANINGS)


def test_passes_are_counted(networks):
    asked = {True: 0, False: 0}

    def counting(f, x):
        asked[x.requires_grad] += len(x)
        return f(x)

    found = gate(Lying(networks["plain", 2], counting))
    assert found.facts["passes"] == {
        "forward": round(asked[False] / 32, 1),
        "forward and backward": round(asked[True] / 32, 1),
    }
    assert 120 < found.facts["passes"]["forward"] < 140
    assert 180 < found.facts["passes"]["forward and backward"] < 606


def test_the_model_and_the_images_stay_as_they_were():
    """With layers in modes of their own, gradients there, and one bias that takes none."""
    layers = [nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(100, 2)]
    network = nn.Sequential(*layers)
    x, y = cohort(2, 16, seed=2)
    network(x).sum().backward()
    network[0].bias.requires_grad_(False)
    network[-1].bias.data = torch.tensor([0.0, -network.eval()(x).diff(dim=1).median().item()])
    network.train()[0].eval()
    gates = []

    def checked(model, x, y):
        gates.append(check_masking(model, x, y, BALL))
        return x.clone()

    check_view(checked, network, x, y)
    with torch.inference_mode():
        gates.append(check_masking(network, x, y, BALL))
    assert gates[0].as_dict() == gates[-1].as_dict()
    assert not {"one class", "repeatable", "slope"} & set(gates[0].failed)  # dropout is off
    assert gates[0].checks[5].passed


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x": 2.0}, "outside the bounds"),
        ({"rows": 14}, r"images: \{'0': 7, '1': 7\} .* at least 16"),
        ({"y": torch.zeros(32, dtype=torch.int64)}, r"images: \{'0': 32\} .* two classes"),
        ({"y": torch.zeros(32, 2)}, "labels: .* one class an image"),
        ({"y": torch.arange(32) % 3}, r"logits: \(32, 2\), not a finite"),
        ({"ball": L2(0.0)}, "ball: radius"),
        ({"how": lambda f, x: f(x) / 0}, "logits: .* not a finite"),
        ({"how": lambda f, x: f(x)[:, :1]}, "logits: .* not a finite"),
    ],
)
def test_what_nothing_can_be_decided_on_is_refused(networks, wrong, message):
    x, y = cohort(2, 32, seed=2)
    n = wrong.get("rows", 32)
    model = Lying(networks["plain", 2], wrong.get("how", lambda f, x: f(x)))
    with pytest.raises(ValueError, match=message):
        check_masking(model, (x * wrong.get("x", 1.0))[:n], wrong.get("y", y)[:n], wrong.get("ball", BALL))
