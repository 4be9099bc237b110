"""What a training run leaves behind: ``metrics.jsonl`` in its folder first, then a copy in MLflow.

The file is the truth: one line an epoch, on the disk before anything else is told. The copy may be late, partial or
absent; no state of MLflow can stop or slow a training run.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import Tensor

from .files import write_whole, writing
from .mlflow_copy import MlflowRun, Sender

logger = logging.getLogger(__name__)
Location = str | os.PathLike[str]


class RunRecord:
    """The metrics of one run in ``metrics.jsonl``, one JSON object a line, on the disk when ``append`` returns.

    A line is ``{"epoch": int, "step": int, "time": ISO 8601 in UTC, "metrics": {name: number}}``. JSON has no NaN and
    no infinity: these stand as the strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"``, so that strict readers accept
    every line and ``float(value)`` restores every value.

    Raises:
        ValueError: ``read`` meets a damaged line other than the last, which a killed process may leave torn.
        OSError: a line could not be written; the message names the file.

    Example:
        >>> import tempfile
        >>> record = RunRecord(tempfile.mkdtemp())
        >>> for epoch in (1, 2):
        ...     _ = record.append(epoch=epoch, step=10 * epoch, metrics={"loss": 1 / epoch})
        >>> record.rewind(2)  # epoch 2 is going to be repeated
        >>> [line["epoch"] for line in record.read()]
        [1]
    """

    def __init__(self, run_dir: Location) -> None:
        self.path = Path(run_dir) / "metrics.jsonl"

    def read(self) -> list[dict[str, Any]]:
        """Every whole line, in order."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        parsed: list[dict[str, Any]] = []
        for number, line in enumerate(lines, 1):
            try:
                parsed.append(json.loads(line))
            except ValueError as error:
                if line.endswith(b"\n"):
                    raise ValueError(
                        f"{self.path.name}: line {number}: not JSON; delete it, or start a new run"
                    ) from error
        return parsed

    def append(self, *, epoch: int, step: int, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Write one line through to the disk and return it."""
        values = {name: _number(value) for name, value in metrics.items()}
        line = {"epoch": epoch, "step": step, "time": _now(), "metrics": values}
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            self.rewind(epoch + 1)  # a kill tore the last line
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        return line

    def rewind(self, epoch: int) -> None:
        """Drop the lines of ``epoch`` and later, all at once: a resumed run writes them again."""
        if self.path.exists():
            kept = [json.dumps(line, allow_nan=False) + "\n" for line in self.read() if line["epoch"] < epoch]
            write_whole(self.path, "".join(kept).encode())


class RunTracker:
    """Ignite handler that records every epoch of a run and shows it in MLflow.

    Attach it last, and on rank 0 only: ignite calls handlers in the order of their registration, and the tracker has
    to come after the validation of the same epoch and after the loader of a resumed state. The MLflow run id lies in
    ``run_dir/mlflow_run_id``; a tracker on the same folder goes on in that run, whatever its status was.

    Args:
        run_dir: the run's folder; its parent holds the default store, ``mlflow.db`` and ``mlartifacts``, which
            ``mlflow ui`` started in that parent shows. ``MLFLOW_TRACKING_URI`` in the environment goes before it.
        run_name: name in MLflow; ``-2``, ``-3`` … follows where it is taken.
        experiment: MLflow experiment, made when absent.
        parameters: flat mapping, see ``flatten``; a name already logged keeps its first value. Here and in tags,
            absolute paths become ``<path>``.
        tags: for example ``environment()``.
        texts: file name -> content, logged as artifacts when the run starts.
        terms: called after each iteration; detached 0-d tensors, whose epoch means are recorded as ``train/<name>``.
        learning_rate: called as an epoch starts, since schedulers step before its end is recorded.
        validation: called as an epoch ends; an empty mapping where no validation was due.

    Example:
        ``RunTracker("runs/a", terms=lambda engine: {"loss": loss_of(engine)}).attach(trainer)``
    """

    def __init__(
        self,
        run_dir: Location,
        *,
        run_name: str | None = None,
        experiment: str = "rtda",
        parameters: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        texts: Mapping[str, str] | None = None,
        terms: Callable[[Engine], Mapping[str, Tensor]] | None = None,
        learning_rate: Callable[[], float] | None = None,
        validation: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        self.record = RunRecord(run_dir)
        self._run = MlflowRun(Path(run_dir), run_name, experiment, parameters, tags, texts)
        self._terms, self._learning_rate, self._validation = terms, learning_rate, validation
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._rate: dict[str, float] = {}
        self._sender: Sender | None = None

    def attach(self, engine: Engine) -> None:
        """Register with ``engine``; an exception marks the run FAILED (an interrupt KILLED) and is raised again."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._accumulate)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, lambda: self._end("FINISHED"))
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)
        # MONAI's StatsHandler raises from this event, and no handler after it is called: the mark has to be first.
        # ignite takes an exception with any handler as dealt with: the raise has to be last.
        handlers = engine._event_handlers[Events.EXCEPTION_RAISED]
        handlers.insert(0, handlers.pop())
        engine.add_event_handler(Events.EXCEPTION_RAISED, _raise)

    def _start(self, engine: Engine) -> None:
        self.record.rewind(engine.state.epoch + 1)
        self._sender = Sender(self._run, create=True)
        earlier = self.record.read()  # MLflow keeps one copy of equal points, so what it missed is filled in
        self._sender.put(lambda run: run.log_lines(earlier))

    def _start_epoch(self) -> None:
        self._sums, self._counts = {}, {}
        self._rate = {"learning_rate": self._learning_rate()} if self._learning_rate else {}

    def _accumulate(self, engine: Engine) -> None:
        for name, value in (self._terms(engine) if self._terms else {}).items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()  # new tensor: `value` may be reused
            self._counts[name] = self._counts.get(name, 0) + 1

    def _end_epoch(self, engine: Engine) -> None:
        means = {f"train/{name}": float(total) / self._counts[name] for name, total in self._sums.items()}
        seconds = {"epoch_seconds": float(engine.state.times[Events.EPOCH_COMPLETED.name])}
        validated = self._validation() if self._validation else {}
        metrics = {**means, **self._rate, **seconds, **validated}
        line = self.record.append(epoch=engine.state.epoch, step=engine.state.iteration, metrics=metrics)
        if self._sender:
            self._sender.put(lambda run: run.log_lines([line]))

    def _fail(self, error: BaseException) -> None:
        self._end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")

    def _end(self, status: str) -> None:
        sender, self._sender = self._sender, None  # ignite reports one exception twice
        if sender:
            sender.put(lambda run: run.end(status))
            sender.close()


def log_metrics(run_dir: Location, metrics: Mapping[str, float], *, step: int = 0) -> bool:
    """Log to the MLflow run of ``run_dir``; False, with a warning, where that failed. Never raises."""
    line = {"epoch": step, "time": _now(), "metrics": dict(metrics)}
    return _send(run_dir, lambda run: run.log_lines([line]))


def set_tags(run_dir: Location, tags: Mapping[str, Any]) -> bool:
    """Set tags on the MLflow run of ``run_dir``; False, with a warning, where that failed. Never raises."""
    return _send(run_dir, lambda run: run.set_tags(tags))


def log_artifacts(run_dir: Location, paths: Iterable[Location], *, timeout: float = 60.0) -> bool:
    """Copy files into the MLflow run of ``run_dir``, by file name; False, with a warning, where that failed.

    Never raises. Files that the time-out in seconds left behind are not sent later.
    """
    files = [Path(path) for path in paths]
    return _send(run_dir, lambda run: run.log_files(files), timeout=timeout)


def log_evaluation(
    folder: Location,
    run_name: str,
    parameters: Mapping[str, Any],
    metrics: Mapping[str, float],
    paths: Iterable[Location],
    *,
    timeout: float = 60.0,
) -> bool:
    """Log the evaluation of a model that was not trained here as an MLflow run of its own, which ``folder`` keeps.

    Evaluated again into the same folder, it is the same run. False, with a warning, where that failed. Never raises.
    """
    files, line = [Path(path) for path in paths], {"epoch": 0, "time": _now(), "metrics": dict(metrics)}
    sender = Sender(MlflowRun(Path(folder), run_name, parameters=parameters), create=True)
    sender.put(lambda run: run.log_lines([line]))
    sender.put(lambda run: run.log_files(files))
    sender.put(lambda run: run.end("FINISHED"))
    return sender.close(timeout)


def _send(run_dir: Location, message: Callable[[MlflowRun], None], timeout: float | None = None) -> bool:
    run = MlflowRun(Path(run_dir))
    if not (run.folder / "mlflow_run_id").exists():
        logger.warning("This run is not in MLflow (no mlflow_run_id in its folder).")
        return False
    sender = Sender(run, create=False)
    sender.put(message)
    return sender.close(timeout)


def _number(value: float) -> float | str:
    value = float(value)
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _raise(error: BaseException) -> None:
    raise error
