"""The trainer: MONAI's own iteration on a batch enlarged by views, and nothing else."""

import copy

import pytest
import torch
from ignite.engine import Events
from ignite.metrics import Accuracy
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import ValidationHandler, from_engine
from monai.networks.nets import DenseNet
from monai.transforms import Activationsd, AsDiscreted, Compose
from rtda.pipeline.attacks import PGD
from rtda.pipeline.balls import L2, Linf
from rtda.pipeline.engine import RobustTrainer
from rtda.pipeline.evidence.evaluation import Evaluation
from rtda.pipeline.handlers import SeedEachEpoch
from rtda.pipeline.losses import ConsistencyLoss
from rtda.pipeline.views import Augment, Chain, Clean, StackViews
from rtda.transforms.intensity import RandomContrastBrightness
from torch import nn

RTDA = ("clean", "augmented", "adversarial")


def network(norm=lambda: nn.BatchNorm2d(4), dropout=0.3):
    layers = [nn.Conv2d(1, 4, 3, 2), norm(), nn.ReLU(), nn.Dropout(dropout), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(36, 2))


def films(count=12):
    generator = torch.Generator().manual_seed(1)
    return [{"image": torch.rand(1, 8, 8, generator=generator), "label": i % 2} for i in range(count)]


def views():
    return {"clean": Clean(), "augmented": Augment(RandomContrastBrightness()), "adversarial": PGD(L2(0.3), steps=2)}


def settings(net, batch_size=4, shuffle=False, **other):
    """What stock and robust trainer have in common."""
    return {
        "network": net,
        "optimizer": torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4),
        "train_data_loader": DataLoader(Dataset(films()), batch_size=batch_size, shuffle=shuffle),
        "device": "cpu",
        "max_epochs": 2,
        "decollate": False,
    } | other


def robust(net, made=None, supervise=("adversarial",), weight=12.0, **other):
    made = made or views()
    stack = other.pop("stack", None)
    loss = ConsistencyLoss(stack or tuple(made), supervise=supervise, weight=weight)
    return RobustTrainer(views=made, stack=stack, **({"loss_function": loss} | settings(net, **other)))


def same_weights(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("stock_loss", [nn.CrossEntropyLoss, lambda: ConsistencyLoss(["clean"], ["clean"], weight=0)])
def test_with_only_the_clean_view_and_weight_zero_training_is_bit_for_bit_stock(stock_loss):
    start = network()
    ours, stock = copy.deepcopy(start), copy.deepcopy(start)
    torch.manual_seed(5)
    robust(ours, {"clean": Clean()}, supervise=("clean",), weight=0.0, shuffle=True).run()
    after = torch.rand(1)
    torch.manual_seed(5)
    SupervisedTrainer(loss_function=stock_loss(), **settings(stock, shuffle=True)).run()
    assert torch.equal(torch.rand(1), after)  # the same random numbers were drawn
    assert same_weights(ours, stock)
    assert not same_weights(ours, start)


def test_the_loss_sees_all_rows_of_all_views_in_one_forward():
    net, rows = network(), []
    net.register_forward_hook(lambda module, inputs, output: rows.append(len(output)) if module.training else None)
    robust(net).run()
    assert rows == [12] * 6


def test_the_order_of_events_is_that_of_a_supervised_iteration_with_the_attack_in_front():
    happened = []
    net = network()
    attack = PGD(L2(0.3), steps=2)
    made = {"clean": Clean(), "adversarial": lambda m, x, y: happened.append("attack") or attack(m, x, y)}
    trainer = robust(net, made, max_epochs=1, epoch_length=1)
    inner = [event for event in IterationEvents if event in trainer._allowed_events]
    for event in [Events.ITERATION_STARTED, Events.ITERATION_COMPLETED, *inner]:
        trainer.add_event_handler(event, lambda engine, event=event: happened.append(event.name))
    trainer.run()
    assert happened == [
        "ITERATION_STARTED",
        "INNER_ITERATION_STARTED",
        "attack",
        "INNER_ITERATION_COMPLETED",
        "FORWARD_COMPLETED",
        "LOSS_COMPLETED",
        "BACKWARD_COMPLETED",
        "MODEL_COMPLETED",
        "ITERATION_COMPLETED",
    ]


@pytest.mark.parametrize("supervised", RTDA)
def test_from_the_backward_pass_on_the_output_is_that_of_the_supervised_view(supervised):
    trainer = robust(network(), supervise=(supervised,), max_epochs=1)
    index, seen = RTDA.index(supervised), []

    def whole(engine):
        seen.append({key: engine.state.output[key].detach().clone() for key in ("image", "label", "pred")})

    def cut(engine):
        for key, value in seen[-1].items():
            assert torch.equal(engine.state.output[key], value[4 * index : 4 * index + 4])

    trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, whole)
    trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, cut)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, cut)
    trainer.run()
    assert [len(rows["pred"]) for rows in seen] == [12] * 3


@pytest.mark.parametrize("supervised", RTDA)
def test_post_processing_and_accuracy_see_the_rows_of_the_supervised_view(supervised):
    """MONAI zips the loader's B items with the outputs: uncut, everything after it would see the first view only."""
    right, index = [], RTDA.index(supervised)
    trainer = robust(
        network(),
        supervise=(supervised,),
        decollate=True,
        max_epochs=1,
        postprocessing=AsDiscreted(keys="pred", argmax=True),
        key_train_metric={"accuracy": Accuracy(output_transform=as_classes)},
    )

    def count(engine):
        output = engine.state.output
        rows = output["pred"].argmax(1) == output["label"]
        right.extend(rows.unflatten(0, (3, -1))[index].tolist())

    trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, count)
    items = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: items.append(len(engine.state.output)))
    trainer.run()
    assert items == [4, 4, 4]
    assert len(right) == 12
    assert trainer.state.metrics["accuracy"] == pytest.approx(sum(right) / 12)


def as_classes(output):
    pred, label = from_engine(["pred", "label"])(output)
    return torch.stack(pred).flatten().long(), torch.tensor(label)


def test_a_loss_that_names_no_view_supervises_the_first_stacked_one():
    trainer = robust(network(), loss_function=nn.CrossEntropyLoss(), stack=("adversarial", "clean"))
    trainer.run()
    assert trainer.supervised == (0, 2)


def test_a_view_that_is_not_stacked_is_made_for_its_child_and_not_trained_on():
    """AT+DA: the augmented images are attacked, and only the attacked ones are trained on."""
    made = {"augmented": Augment(lambda x: x / 2), "adversarial": Chain("augmented", PGD(Linf(0.01), steps=1))}
    trainer = robust(network(), made, weight=0.0, stack=("adversarial",), max_epochs=1)
    images = []
    trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, lambda e: images.append(e.state.output["image"].clone()))
    trainer.run()
    expected = torch.stack([film["image"] for film in films()]) / 2
    assert (torch.cat(images) - expected).abs().max() <= 0.01 + 1e-6


@pytest.mark.parametrize("option", ["amp", "compile"])
def test_amp_and_compile_are_refused_as_they_would_miss_the_attack(option):
    with pytest.raises(ValueError, match=f"{option}: would reach the step but not the attack.*AsCalled"):
        robust(network(), **{option: True})


def test_accumulated_micro_batches_are_one_batch():
    """Exact without BatchNorm and dropout: a micro-batch holds whole view tuples."""
    start = network(norm=lambda: nn.GroupNorm(2, 4), dropout=0.0)
    nets = copy.deepcopy(start), copy.deepcopy(start)
    made = {"clean": Clean(), "augmented": Augment(lambda x: x / 2), "adversarial": PGD(L2(0.3), start="none")}
    for net, accumulate in zip(nets, (1, 3), strict=True):
        robust(net, made, batch_size=12 // accumulate, accumulation_steps=accumulate).run()
    for a, b, c in zip(*(net.parameters() for net in (*nets, start)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        assert not torch.equal(a, c)


def test_the_attack_looks_at_the_weights_of_the_moment():
    net, seen = network(), []
    made = {"adversarial": lambda m, x, y: seen.append(m[-1].weight.detach().clone()) or x}
    robust(net, made, max_epochs=1).run()
    assert len({tuple(weight.flatten().tolist()) for weight in seen}) == 3


def evaluator(net, prepare):
    return SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(Dataset(films(8)), batch_size=8, num_workers=0),
        network=net,
        prepare_batch=prepare,
        postprocessing=Compose([Activationsd(keys="pred", softmax=True)]),
        decollate=False,
    )


def trained(evaluate=None, shuffle=True):
    """Weights after two seeded epochs, with something else happening on the way."""
    torch.manual_seed(0)
    net = network()
    trainer = robust(net, shuffle=shuffle, train_handlers=[SeedEachEpoch(3)])
    if evaluate is not None:
        evaluate(trainer, net)
    trainer.run()
    return net


def test_validating_under_attack_after_each_epoch_leaves_training_as_it_was():
    scores = []

    def evaluate(trainer, net):
        attacked = evaluator(net, StackViews({"adversarial": PGD(L2(0.3), steps=3)}, net))
        attacked.add_event_handler(Events.COMPLETED, lambda engine: scores.append(engine.state.output["pred"]))
        ValidationHandler(interval=1, validator=attacked).attach(trainer)

    assert same_weights(trained(evaluate), trained())
    assert len(scores) == 2


def test_evaluating_in_the_middle_of_an_epoch_leaves_training_as_it_was(tmp_path):
    items = [film | {"image_id": f"i{i}"} for i, film in enumerate(films(8))]
    tested = {"clean": Clean(), "noise": Augment(lambda x: torch.rand_like(x)), "pgd": PGD(L2(0.3), steps=2)}
    tables = []

    def evaluate(trainer, net):
        def measure(engine):
            parts = tmp_path / str(engine.state.iteration)
            evaluation = Evaluation(net, tested, items, dict, {"recipe": "rtda"}, parts)
            evaluation.claim()
            evaluation.run()
            tables.append(evaluation.table({}))

        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=2), measure)

    assert same_weights(trained(evaluate), trained())
    assert [len(table) for table in tables] == [24] * 3


def test_an_evaluator_attacks_by_the_same_argument_as_the_trainer():
    net = network().eval()
    attack = PGD(Linf(0.1), start="none")
    attacked = evaluator(net, StackViews({"adversarial": attack}, net))
    attacked.run()
    x, y = torch.stack([film["image"] for film in films(8)]), torch.arange(8) % 2
    assert torch.equal(attacked.state.output["image"], attack(net, x, y))


def test_robust_training_lowers_the_loss_under_attack():
    """Two patterns that a network tells apart: trained on attacked images, it stands the attack."""
    pattern = torch.where(torch.rand(1, 8, 8) > 0.5, 0.2, -0.2)
    strong = [
        {"image": 0.5 + (2 * (i % 2) - 1) * pattern + 0.02 * torch.randn(1, 8, 8), "label": i % 2} for i in range(12)
    ]
    x, y = torch.stack([f["image"] for f in strong]).clamp(0, 1), torch.arange(12) % 2
    strong = [{"image": image, "label": int(label)} for image, label in zip(x, y, strict=True)]
    net = network(dropout=0.0)
    attack = PGD(L2(0.3))
    with torch.no_grad():
        before = nn.functional.cross_entropy(net.eval()(attack(net, x, y)), y)
    trainer = robust(net, max_epochs=10, train_data_loader=DataLoader(Dataset(strong), batch_size=6))
    trainer.run()
    with torch.no_grad():
        logits = net.eval()(attack(net, x, y))
    assert nn.functional.cross_entropy(logits, y) < before / 2
    assert (logits.argmax(1) == y).all()


def test_volumes_train_by_the_same_lines():
    """The lines of the README, in 3-D, on a network of MONAI's with BatchNorm."""
    volumes = [{"image": torch.rand(1, 16, 16, 16), "label": i % 2} for i in range(4)]
    net = DenseNet(3, 1, 2, init_features=4, growth_rate=2, block_config=(1, 1), bn_size=1)
    start = copy.deepcopy(net)
    loss = ConsistencyLoss(RTDA, supervise=("adversarial",), weight=12.0)
    trainer = RobustTrainer(
        views=views(),
        network=net,
        loss_function=loss,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        train_data_loader=DataLoader(Dataset(volumes), batch_size=2),
        device="cpu",
        max_epochs=1,
    )
    trainer.run()
    assert trainer.state.iteration == 2
    assert loss.terms.keys() == {"cross_entropy", "consistency"}
    assert all(value.isfinite() for value in loss.terms.values())
    assert not same_weights(net, start)
