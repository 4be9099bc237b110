"""Handlers: seeding, the schedule of ε, and a choice of checkpoint that survives kills, full disks and refusals."""

import os
import random
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from faults import full_disk, read_only
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, RandFlipd, RandGaussianNoise
from monai.utils import set_determinism
from rtda.pipeline.attacks import FGSM, PGD
from rtda.pipeline.balls import L2, Linf
from rtda.pipeline.engine import RobustTrainer
from rtda.pipeline.files import write_whole
from rtda.pipeline.handlers import CheckpointChoice, RadiusWarmUp, SeedEachEpoch, load_checkpoint, scaled
from rtda.pipeline.losses import ConsistencyLoss
from rtda.pipeline.views import Augment, Chain, Clean, PerImage
from rtda.transforms.intensity import RandomContrastBrightness
from torch import nn


@pytest.fixture(autouse=True)
def undetermined():
    yield
    set_determinism(None)


# Choosing: a trainer that only counts epochs, with weights equal to the epoch.


def play(folder, scores, attacked=True, resume=False, losses=None, tolerance=0.05, stop=None):
    """Run len(scores) epochs whose validation gives the scores (None: not validated); die after epoch ``stop``."""
    network = nn.Linear(1, 1)
    evaluators = [
        SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}, key_metric_name="auroc")) for _ in range(2)
    ]
    engine = Engine(lambda engine, batch: {"loss": (losses or {}).get(engine.state.epoch, 0.5)})

    @engine.on(Events.EPOCH_COMPLETED)
    def validate(engine):
        epoch = engine.state.epoch
        nn.init.constant_(network.weight, epoch)
        pair = scores[epoch - 1]
        for evaluator, score in zip(evaluators, pair or (), strict=False):
            evaluator.state.epoch, evaluator.state.metrics = epoch, {"auroc": score}

    clean, adversarial = evaluators
    keeper = CheckpointChoice(network, folder, clean, adversarial if attacked else None, tolerance=tolerance)
    keeper.resume = resume
    keeper.attach(engine)

    @engine.on(Events.STARTED)
    def die_after_saving(engine):
        @engine.on(Events.EPOCH_COMPLETED)
        def die(engine):
            if engine.state.epoch == stop:
                raise KeyboardInterrupt

    if stop is None:
        engine.run([0], max_epochs=len(scores))
    else:
        with pytest.raises(KeyboardInterrupt):
            engine.run([0], max_epochs=len(scores))
    return keeper


def chosen(folder):
    saved = load_checkpoint(folder / "best.pt")
    assert saved["model"]["weight"].item() == saved["epoch"]
    return saved["epoch"]


def rule(scores, tolerance=0.05):
    """The rule, by looking at all epochs: highest attacked AUROC among those near the best clean one; ties later."""
    best, floor = None, max(pair[0] for pair in scores if pair) - tolerance
    for epoch, pair in enumerate(scores, start=1):
        better = best is None or (pair and (pair[1], pair[0]) >= (scores[best - 1][1], scores[best - 1][0]))
        if pair and pair[0] >= floor and better:
            best = epoch
    return best


def pareto(scores):
    """Epochs that no other dominates; of equals the latest."""
    latest = {pair: epoch for epoch, pair in enumerate(scores, start=1) if pair}
    dominated = {a for a in latest for b in latest if b != a and b[0] >= a[0] and b[1] >= a[1]}
    return {epoch for pair, epoch in latest.items() if pair not in dominated}


grid = st.sampled_from([0.5, 0.6, 0.62, 0.66, 0.7, 0.71, 0.75, 0.9])
pairs = st.tuples(grid, grid)
sequences = st.lists(st.one_of(pairs, pairs, pairs, st.none()), min_size=1, max_size=6).filter(any)


@settings(max_examples=40, deadline=None)
@given(scores=sequences, tolerance=st.sampled_from([0.0, 0.05, 1.0]))
def test_the_best_epoch_is_that_of_the_rule_over_all_epochs(scores, tolerance):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        play(folder, scores, tolerance=tolerance)
        assert chosen(folder) == rule(scores, tolerance)
        assert load_checkpoint(folder / "last.pt")["epoch"] == len(scores)
        assert {path.name for path in folder.iterdir()} == {"best.pt", "last.pt"}


@settings(max_examples=30, deadline=None)
@given(scores=sequences, data=st.data())
def test_a_run_killed_after_any_epoch_chooses_as_if_it_had_not_been(scores, data):
    stop = data.draw(st.integers(1, len(scores)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        play(folder, scores, stop=stop)
        kept = {int(path.stem) for path in folder.glob("candidates/*.pt")}
        assert kept == pareto(scores[:stop])  # dominated candidates are deleted, no other
        assert set(load_checkpoint(folder / "last.pt")["scores"]) == kept
        play(folder, scores, resume=True)
        assert chosen(folder) == rule(scores)


def test_without_an_attacked_evaluator_clean_scores_decide(tmp_path):
    play(tmp_path, [(0.6, 0.9), (0.8, 0.1), (0.79, 0.9)], attacked=False)
    assert chosen(tmp_path) == 2
    assert load_checkpoint(tmp_path / "best.pt")["scores"] == {"clean": 0.8}


def test_best_and_last_are_both_kept_with_their_scores(tmp_path):
    play(tmp_path, [(0.80, 0.5), (0.78, 0.7), (0.60, 0.9)])
    assert chosen(tmp_path) == 2  # epoch 3 gives up too much clean AUROC
    assert load_checkpoint(tmp_path / "best.pt")["scores"] == {"clean": 0.78, "attacked": 0.7}
    assert load_checkpoint(tmp_path / "last.pt")["model"]["weight"].item() == 3


def test_an_epoch_that_gives_up_too_much_is_not_chosen_but_still_a_candidate(tmp_path):
    keeper = play(tmp_path, [(0.70, 0.60), (0.80, 0.40)], stop=2)
    assert keeper.best_epoch() == 2
    assert {path.name for path in (tmp_path / "candidates").iterdir()} == {"0001.pt", "0002.pt"}


def test_a_finished_run_that_is_resumed_keeps_its_choice(tmp_path):
    scores = [(0.7, 0.6), (0.6, 0.5)]
    play(tmp_path, scores)
    before = (tmp_path / "best.pt").read_bytes()
    play(tmp_path, scores, resume=True)
    assert (tmp_path / "best.pt").read_bytes() == before


def test_a_run_that_was_never_validated_has_a_last_checkpoint_and_no_best(tmp_path):
    play(tmp_path, [None, None])
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 2
    assert not (tmp_path / "best.pt").exists()


@pytest.mark.parametrize(
    ("scores", "losses"),
    [
        ([(0.7, 0.6), (0.8, 0.7)], {2: float("nan")}),
        ([(0.7, 0.6), (0.8, 0.7)], {2: float("inf")}),
        ([(0.7, 0.6), (float("nan"), 0.7)], {}),
        ([(0.7, 0.6), (0.8, float("nan"))], {}),
    ],
)
def test_a_loss_or_score_that_is_not_finite_stops_the_run_and_leaves_the_epoch_before(tmp_path, scores, losses):
    with pytest.raises(FloatingPointError, match="not finite in epoch 2; lower learning_rate"):
        play(tmp_path, scores, losses=losses)
    saved = load_checkpoint(tmp_path / "last.pt")
    assert saved["epoch"] == 1
    assert saved["model"]["weight"].item() == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "last.pt: checkpoint: missing in 'run'; train the run first"),
        (b"PK\x03\x04 cut off", "last.pt: checkpoint: cannot be read; it is damaged"),
        ({"weights": torch.zeros(1)}, "last.pt: model: missing"),
        ({"model": Path("an object, not a tensor")}, "last.pt: checkpoint: cannot be read"),
    ],
)
def test_resuming_from_what_is_no_checkpoint_is_refused(tmp_path, content, message):
    folder = tmp_path / "run"
    folder.mkdir()
    if isinstance(content, bytes):
        (folder / "last.pt").write_bytes(content)
    elif content is not None:
        torch.save(content, folder / "last.pt")
    with pytest.raises(ValueError, match=message):
        play(folder, [(0.7, 0.6)], resume=True)


# Faults: what the system refuses


@pytest.fixture
def open_folder():
    """A folder that every user can reach, as pytest's own is closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def finished(open_folder):
    play(open_folder, [(0.7, 0.6)], stop=1)
    return open_folder


def stands(folder):
    saved = load_checkpoint(folder / "last.pt")
    assert saved["epoch"] == 1
    assert saved["model"]["weight"].item() == 1
    assert not list(folder.rglob("*.tmp"))


def go_on(folder):
    play(folder, [(0.7, 0.6), (0.6, 0.5)], resume=True)  # epoch 2 is dominated: only last.pt is written


def test_a_full_disk_is_named_with_its_file_and_the_last_checkpoint_stands(finished):
    cure = r"last\.pt: cannot be written \(File too large\); free space or choose another folder"
    with full_disk(limit=512), pytest.raises(OSError, match=cure):
        go_on(finished)
    stands(finished)
    go_on(finished)
    assert load_checkpoint(finished / "last.pt")["epoch"] == 2


def test_a_folder_without_write_permission_is_named_with_its_file_and_the_last_checkpoint_stands(finished):
    with read_only(finished), pytest.raises(OSError, match=r"last\.pt: cannot be written \(Permission denied\)"):
        go_on(finished)
    stands(finished)


def test_a_write_that_is_killed_half_way_leaves_the_old_content(tmp_path, monkeypatch):
    target = write_whole(tmp_path / "last.pt", b"old")

    def killed(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_whole(target, b"new and longer")
    assert target.read_bytes() == b"old"


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "run").write_bytes(b"")
    with pytest.raises(OSError, match=r"last\.pt: cannot be written"):
        write_whole(tmp_path / "run" / "last.pt", b"new")


# Resuming a real training: bit for bit.


def films():
    generator = torch.Generator().manual_seed(1)
    return [{"image": torch.rand(1, 8, 8, generator=generator), "label": i % 2} for i in range(8)]


class Trained:
    """A tiny training with everything random: shuffling, transforms, views, dropout; and everything with state."""

    def __init__(self, folder, workers, max_epochs=3):
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten()]
        self.network = nn.Sequential(*layers, nn.Linear(36, 2))
        made = {
            "clean": Clean(),
            "augmented": Augment(RandomContrastBrightness()),
            "noisy": Chain("augmented", PerImage(RandGaussianNoise(prob=0.5, std=0.1))),
            "adversarial": PGD(L2(0.3), steps=2),
        }
        optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        transform = Compose([RandFlipd(keys="image", prob=0.5)])
        loader = DataLoader(Dataset(films(), transform), batch_size=4, shuffle=True, num_workers=workers)
        clean = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={"auroc": 0.5}, key_metric_name="auroc"))
        stateful = {"optimizer": optimizer, "schedule": schedule}
        self.keeper = CheckpointChoice(self.network, folder, clean, stateful=stateful)
        self.trainer = RobustTrainer(
            views=made,
            network=self.network,
            loss_function=ConsistencyLoss(tuple(made)),
            optimizer=optimizer,
            train_data_loader=loader,
            device="cpu",
            max_epochs=max_epochs,
            decollate=False,
            train_handlers=[SeedEachEpoch(7), RadiusWarmUp(3)],
        )
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: schedule.step())
        self.keeper.attach(self.trainer)
        self.optimizer = optimizer

    def weights(self):
        return torch.cat([value.flatten().float() for value in self.network.state_dict().values()])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.process)])
def test_a_killed_and_resumed_training_ends_with_identical_weights(tmp_path, workers):
    whole = Trained(tmp_path / "whole", workers)
    whole.trainer.run()

    killed = Trained(tmp_path / "killed", workers)

    @killed.trainer.on(Events.ITERATION_COMPLETED(once=4))
    def kill(engine):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed.trainer.run()
    assert load_checkpoint(tmp_path / "killed" / "last.pt")["epoch"] == 1

    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    resumed = Trained(tmp_path / "killed", workers)
    torch.nn.init.zeros_(resumed.network[-1].weight)
    resumed.keeper.resume = True
    resumed.trainer.run()
    assert resumed.trainer.state.epoch == 3
    assert torch.equal(resumed.weights(), whole.weights())
    a, b = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "killed"))
    assert repr(a["optimizer"]) == repr(b["optimizer"])
    assert a["schedule"] == b["schedule"]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=[pytest.mark.process, pytest.mark.slow])])
def test_the_batches_of_an_epoch_follow_from_its_seed_and_differ_from_the_next(tmp_path, workers):
    """After shuffling, the loader's transforms and the views, whatever was drawn before; an attack aside."""
    runs = []
    for before in (1, 2):
        torch.manual_seed(before)
        trained, batches = Trained(tmp_path / str(before), workers, max_epochs=2), []
        trained.trainer.views["adversarial"] = Clean()
        prepared = trained.trainer.prepare_batch

        def recorded(*args, prepared=prepared, batches=batches, **kwargs):
            x, y = prepared(*args, **kwargs)
            batches.append(x)
            return x, y

        trained.trainer.prepare_batch = recorded
        trained.trainer.run()
        runs.append(torch.stack(batches))
    assert torch.equal(*runs)
    for view in range(4):
        rows = slice(4 * view, 4 * view + 4)
        assert not torch.equal(runs[0][:2, rows], runs[0][2:, rows])


# Seeding and the schedule of ε.


def bare(made, handler, epochs=1):
    """An engine with what the handlers read: views, a loader, a rank."""
    engine = Engine(lambda engine, batch: None)
    engine.views, engine.data_loader = dict(made), DataLoader(Dataset(films()), batch_size=8)
    engine.state.rank = 0
    handler.attach(engine)
    return engine


def random_numbers():
    return random.random(), np.random.rand(), torch.rand(1).item()


@pytest.mark.parametrize("change", ["seed", "epoch", "rank"])
def test_seeds_follow_from_seed_epoch_and_rank_and_nothing_else(change):
    def numbers(seed=1, epoch=1, rank=0):
        engine = bare({}, SeedEachEpoch(seed))
        engine.state.rank, found = rank, []
        engine.add_event_handler(Events.EPOCH_STARTED(once=epoch), lambda engine: found.append(random_numbers()))
        engine.run([0], max_epochs=epoch)
        return found[0]

    assert numbers() == numbers()
    assert all(a != b for a, b in zip(numbers(), numbers(**{change: 2}), strict=True))


def test_two_augmentations_of_one_batch_are_drawn_apart():
    """AugMix compares two augmented views: seeded alike they would be the same images, and its divergence 0."""
    made = {name: PerImage(RandGaussianNoise(prob=1.0, std=0.1)) for name in ("augmented", "augmented_2")}
    drawn = []
    engine = bare(made, SeedEachEpoch(1))

    @engine.on(Events.ITERATION_COMPLETED)
    def draw(engine):
        drawn.append([view(nn.Identity(), torch.zeros(2, 1, 8, 8), torch.zeros(2)) for view in made.values()])

    engine.run([0], max_epochs=1)
    assert not torch.equal(*drawn[0])


def radii(made, epochs, run=5, start=0):
    engine, seen = bare(made, RadiusWarmUp(epochs, start)), []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.append(dict(engine.views)))
    engine.run([0], max_epochs=run)
    return seen


@pytest.mark.parametrize("ball", [L2, Linf])
def test_epsilon_rises_linearly_to_its_full_radius_and_stays(ball):
    attack = PGD(ball(0.4))
    seen = radii({"clean": Clean(), "adversarial": attack}, epochs=4)
    assert [views["adversarial"].ball.radius for views in seen] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert seen[-1]["adversarial"] == attack
    assert attack.ball.radius == 0.4  # replaced, never changed
    assert all(list(views) == ["clean", "adversarial"] for views in seen)


def test_a_warm_up_of_one_epoch_is_the_full_radius_from_the_start():
    assert [views["a"].ball.radius for views in radii({"a": PGD(L2(0.4))}, epochs=1, run=2)] == [0.4, 0.4]


def test_attacks_are_the_identity_until_the_start_of_the_warm_up():
    seen = radii({"a": PGD(L2(0.4))}, epochs=4, start=2)
    assert [views["a"].ball.radius for views in seen] == pytest.approx([0, 0, 0.2, 0.4, 0.4])


@pytest.mark.parametrize(("epochs", "start"), [(0, 0), (2, 2), (1, 2), (3, -1)])
def test_a_warm_up_that_does_not_rise_is_refused(epochs, start):
    with pytest.raises(ValueError, match=f"^epochs: {epochs} must exceed start: {start}"):
        RadiusWarmUp(epochs, start)


def test_the_schedule_reaches_attacks_inside_chains_and_their_own_step_sizes():
    augment = Augment(RandomContrastBrightness())
    seen = radii({"augmented": augment, "adversarial": Chain("augmented", FGSM(Linf(0.2)))}, epochs=2, run=1)
    assert seen[0]["adversarial"] == Chain("augmented", FGSM(Linf(0.1)))
    assert seen[0]["augmented"] is augment


def test_a_scaled_attack_stays_within_its_scaled_ball():
    half = scaled(PGD(L2(0.4), steps=3), 0.5)
    x, y = torch.rand(4, 1, 6, 6), torch.arange(4) % 2
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    moved = L2(1.0).length(half(network, x, y) - x)
    assert (moved <= 0.2 * (1 + 1e-5) + 6 * 2**-23).all()
    assert (moved > 0.1).all()


def test_the_trainer_attacks_with_the_radius_of_the_epoch(tmp_path):
    trained, moved = Trained(tmp_path, workers=0), []
    prepared = trained.trainer.prepare_batch

    def measured(*args, **kwargs):
        x, y = prepared(*args, **kwargs)
        moved.append(L2(1.0).length(x[-4:] - x[:4]).max().item())
        return x, y

    trained.trainer.prepare_batch = measured
    trained.trainer.run()
    assert moved == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3, 0.3], rel=0.02)
