"""Handlers that ignite and MONAI lack: re-seeding at every epoch, and the choice of a checkpoint for robustness."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.utils import manual_seed
from monai.data import set_rnd
from torch import nn

from .engine import RobustTrainer
from .files import write_whole
from .seeding import derived_seed
from .views import Chain, View


class SeedEachEpoch:
    """Seeds everything random from (seed, epoch, rank) when an epoch starts, so that a killed epoch can be repeated.

    Python's, NumPy's and torch's generators, the random state of every MONAI transform in the data set and in the
    views, and with them the loader's workers. No random state needs saving.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Seed at every EPOCH_STARTED, before the loader is opened."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: RobustTrainer) -> None:
        """Seed for the engine's current epoch."""
        seed = derived_seed(self.seed, engine.state.epoch, engine.state.rank)
        manual_seed(seed)
        set_rnd(engine.data_loader.dataset, seed)
        for name, view in engine.views.items():  # one by one: of a list, set_rnd gives all items the same seed
            set_rnd(view, derived_seed(seed, name))


class RadiusWarmUp:
    """Linear schedule of ε: epoch e trains at the share (e − start) / (epochs − start) of the radius, within 0 and 1.

    A network that meets the full radius before it has learned anything may stay at the class prior for good. Every
    attack in the trainer's views is replaced by a copy with another radius; nothing is mutated. The schedule depends on
    the epoch alone, so a resumed run goes on with it.

    Args:
        epochs: first epoch at the full radius, > start.
        start: last epoch at radius 0, where attacks are the identity.
    """

    def __init__(self, epochs: int, start: int = 0) -> None:
        if not 0 <= start < epochs:
            raise ValueError(f"epochs: {epochs} must exceed start: {start}, and that be at least 0")
        self.epochs, self.start = epochs, start
        self.full: dict[str, View] = {}

    def attach(self, engine: RobustTrainer) -> None:
        """Set the radius at every EPOCH_STARTED."""
        self.full = dict(engine.views)
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: RobustTrainer) -> None:
        """Set the radius of the engine's current epoch."""
        share = min(max((engine.state.epoch - self.start) / (self.epochs - self.start), 0.0), 1.0)
        engine.views.update({name: scaled(view, share) for name, view in self.full.items()})


def scaled(view: Any, share: float) -> Any:
    """The same attack within ``share`` times its radius (and step); views without a ball as they are."""
    if isinstance(view, Chain):
        return replace(view, view=scaled(view.view, share))
    if not hasattr(view, "ball"):
        return view
    changed: dict[str, Any] = {"ball": replace(view.ball, radius=view.ball.radius * share)}
    if getattr(view, "step_size", None) is not None:
        changed["step_size"] = view.step_size * share
    return replace(view, **changed)


class CheckpointChoice:
    """Keeps ``best.pt`` and ``last.pt`` in a run folder, and makes a killed run resumable.

    Which epoch is best can change later: with an attacked evaluator the best is the epoch of highest attacked AUROC
    among those whose clean AUROC lies within ``tolerance`` of the highest; without one, the epoch of highest clean
    AUROC. Of equals it is the latest, which has learned longest: AUROC reaches 1 while the loss still falls. So the
    weights of every epoch that no other dominates in (clean, attacked) are kept under ``candidates/`` until the end.

    Args:
        network: whose state is saved, under the key ``model``.
        output_dir: the run folder.
        clean: evaluator of clean validation images; its key metric is read.
        attacked: evaluator of attacked validation images, or None.
        stateful: further objects that resuming needs, name -> object with ``state_dict`` (optimiser, scheduler).
        tolerance: clean AUROC that may be given up.

    Attributes:
        resume: set True before the run to go on from ``last.pt``.

    Raises:
        FloatingPointError: the loss or a validation metric is not finite; ``last.pt`` keeps the epoch before.
        OSError: a checkpoint could not be written; earlier ones stand.
    """

    def __init__(
        self,
        network: nn.Module,
        output_dir: str | Path,
        clean: Engine,
        attacked: Engine | None = None,
        stateful: Mapping[str, Any] | None = None,
        tolerance: float = 0.05,
    ) -> None:
        self.network, self.folder = network, Path(output_dir)
        self.clean, self.attacked, self.tolerance = clean, attacked, tolerance
        self.stateful = dict(stateful or {})
        self.scores: dict[int, tuple[float, float]] = {}
        self.resume = False

    def attach(self, engine: Engine) -> None:
        """Load at STARTED if asked to, save at EPOCH_COMPLETED after all other handlers, choose at COMPLETED."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED, self._choose)

    def _start(self, engine: Engine) -> None:
        # Registered now, and so last: an epoch that last.pt holds is not repeated, so all that is recorded of it must
        # have been recorded before.
        if not engine.has_event_handler(self._save, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)
        if self.resume:
            self._load(engine)

    def _load(self, engine: Engine) -> None:
        saved = load_checkpoint(self.folder / "last.pt")
        self.network.load_state_dict(saved["model"])
        for name, item in self.stateful.items():
            item.load_state_dict(saved[name])
        self.scores = {int(epoch): tuple(pair) for epoch, pair in saved["scores"].items()}
        engine.state.epoch = saved["epoch"]
        engine.state.iteration = saved["epoch"] * engine.state.epoch_length

    def _save(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        pair = self._measured(engine)
        dropped: list[int] = []
        if pair is not None:
            self.scores[epoch] = pair
            dropped = [e for e in self.scores if self._dominated(e)]
            self.scores = {e: pair for e, pair in self.scores.items() if e not in dropped}
        if epoch in self.scores:
            save_checkpoint(self._candidate(epoch), {"model": self.network.state_dict(), "epoch": epoch})
        states = {name: item.state_dict() for name, item in self.stateful.items()}
        last = {"model": self.network.state_dict(), "epoch": epoch, "scores": self.scores, **states}
        save_checkpoint(self.folder / "last.pt", last)
        for e in dropped:  # only now: until last.pt stood, a resumed run would have asked for them
            self._candidate(e).unlink(missing_ok=True)

    def _measured(self, engine: Engine) -> tuple[float, float] | None:
        """(clean, attacked) AUROC of this epoch, or None where it was not validated."""
        _refuse_not_finite(engine, float(loss_of(engine)))
        if self.clean.state.epoch != engine.state.epoch:
            return None
        clean = _key_metric(self.clean)
        attacked = clean if self.attacked is None else _key_metric(self.attacked)
        _refuse_not_finite(engine, clean, attacked)
        return clean, attacked

    def _dominated(self, epoch: int) -> bool:
        """Another epoch is at least as good in both scores; of equals the later stays."""
        mine = self.scores[epoch]
        return any(
            other[0] >= mine[0] and other[1] >= mine[1] and (other != mine or e > epoch)
            for e, other in self.scores.items()
            if e != epoch
        )

    def best_epoch(self) -> int:
        """The epoch to choose now; see the class."""
        floor = max(clean for clean, _ in self.scores.values()) - self.tolerance
        eligible = {e: pair for e, pair in self.scores.items() if pair[0] >= floor}
        return max(eligible, key=lambda e: (eligible[e][1], eligible[e][0], e))

    def _choose(self, engine: Engine) -> None:
        if not self.scores:
            return
        epoch = self.best_epoch()
        candidate = self._candidate(epoch)
        if candidate.is_file():  # absent where a finished run is resumed: best.pt stands already
            clean, attacked = self.scores[epoch]
            scores = {"clean": clean} | ({} if self.attacked is None else {"attacked": attacked})
            save_checkpoint(self.folder / "best.pt", {**load_checkpoint(candidate), "scores": scores})
        shutil.rmtree(self.folder / "candidates", ignore_errors=True)

    def _candidate(self, epoch: int) -> Path:
        return self.folder / "candidates" / f"{epoch:04d}.pt"


def loss_of(engine: Engine) -> torch.Tensor:
    """The loss of the last iteration, detached, 0-d; decollated, the output of every item holds it."""
    output = engine.state.output
    return torch.as_tensor((output[0] if isinstance(output, list) else output)["loss"]).detach()


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers and strings so that ``torch.load(weights_only=True)`` reads them; whole or not at all."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without executing anything in it.

    Raises:
        ValueError: the file is missing or is not such a checkpoint.
    """
    content = _load(path)
    if "model" not in content:
        raise ValueError(f"{path.name}: model: missing; a checkpoint holds the network's state under 'model'")
    return content


def load_weights(path: Path) -> dict[str, Any]:
    """Read a network's state onto the CPU: of a checkpoint, or of a file that holds nothing else, as a bundle's does.

    Raises:
        ValueError: the file is missing or damaged.
    """
    if path.parent.name == "models" and not path.is_file():
        raise ValueError(
            f"{path.parent.parent.name}: models/{path.name}: missing; the bundle has no weights: train it, evaluate "
            "and pack the run (rtda train, evaluate, pack), and give the zip"
        )
    content = _load(path)
    state: dict[str, Any] = content.get("model", content)
    return state


def _load(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"{path.name}: checkpoint: missing in '{path.parent.name}'; train the run first") from error
    except Exception as error:  # torch raises unpickling, zip, and runtime errors alike
        raise ValueError(f"{path.name}: checkpoint: cannot be read; it is damaged or not a checkpoint") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name}: checkpoint: holds no state of a network; it is damaged or not a checkpoint")
    return content


def _key_metric(evaluator: Engine) -> float:
    return float(evaluator.state.metrics[evaluator.state.key_metric_name])


def _refuse_not_finite(engine: Engine, *values: float) -> None:
    if not all(map(math.isfinite, values)):
        raise FloatingPointError(
            f"loss: not finite in epoch {engine.state.epoch}; lower learning_rate, or give larger images"
        )
