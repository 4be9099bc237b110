"""A run's copy in MLflow, sent from a background thread that can neither stop nor slow whoever it works for.

A run is addressed by its id, never through mlflow's global "active run"; neither user, host nor path is sent.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .files import write_whole
from .provenance import masked

logger = logging.getLogger(__name__)

_THREAD = "mlflow-sender"
_PROXIED = "mlflow-artifacts:/"  # unlike a path it names nobody's home and stays true when the folder moves
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}

# A loader worker forked while the sender is importing would inherit module locks that nobody frees: forks wait.
importing = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=importing.acquire, after_in_parent=importing.release, after_in_child=importing.release)

# One warning of ours tells of an outage; these would tell of every attempt, as long as training lasts.
for _talker in ("mlflow.store.db.utils", "urllib3.connectionpool"):
    logging.getLogger(_talker).addFilter(lambda record: record.threadName != _THREAD)


class MlflowRun:
    """One MLflow run by id. Used in the sender's thread only: every method may block and raise."""

    def __init__(
        self,
        folder: Path,
        run_name: str | None = None,
        experiment: str = "rtda",
        parameters: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.name, self.experiment = folder, run_name, experiment
        self.parameters, self.tags, self.texts = dict(parameters or {}), dict(tags or {}), dict(texts or {})
        beside = folder.resolve().with_name("mlflow.db")
        self.store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{beside.as_posix()}"
        self.database = Path(self.store.removeprefix("sqlite:///")) if self.store.startswith("sqlite:///") else None
        self.client: Any = None
        self.id = ""

    def open(self, create: bool) -> None:
        """Connect and find the run, or make it."""
        with importing:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
        if self.database and {"%", "?"} & set(self.store):
            raise ValueError("SQLAlchemy releases differ in what % and ? in a data base's path mean")
        with _exclusively(self.database) if self.database else nullcontext():
            if self.database:  # mlflow would write the working folder's path into a new data base
                SqlAlchemyStore(self.store, _PROXIED)
            self.client = MlflowClient(tracking_uri=self.store)
            file = self.folder / "mlflow_run_id"
            known = file.read_text(encoding="utf-8").split() if file.exists() else []
            run_id = self._found(known, MlflowException)
            if not run_id:
                if not create:
                    raise FileNotFoundError(f"{file.name}: no run of this store")
                run_id = self._create()
                write_whole(file, "".join(f"{one}\n" for one in [*known, run_id]).encode())
        if create:
            self.client.update_run(run_id, status="RUNNING")
        self.id = run_id

    @property
    def place(self) -> str:
        """The store as it may be told: its address may hold a password or a path, so only the host is shown."""
        url = urlsplit(self.store)
        return f"{url.scheme}://{url.hostname or ''}"

    def _found(self, known: Iterable[str], refused: type[Exception]) -> str:
        """Which of the run's ids this store has, one a store; empty if none."""
        for run_id in known:
            try:
                self.client.get_run(run_id)
            except refused as error:
                if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                    raise
            else:
                return run_id
        return ""

    def _create(self) -> str:
        location = _PROXIED + re.sub(r"\W+", "-", self.experiment) if self.database else None
        found = self.client.get_experiment_by_name(self.experiment)
        experiment = found.experiment_id if found else self.client.create_experiment(self.experiment, location)
        wanted = re.sub(r"[^\w. -]", "_", self.name or self.folder.resolve().name)
        alike = self.client.search_runs([experiment], f"attributes.run_name LIKE '{wanted}%'", max_results=10_000)
        taken = {run.info.run_name for run in alike}
        names = [wanted, *(f"{wanted}-{count}" for count in range(2, len(taken) + 2))]
        # Given by hand: mlflow would otherwise show the script's path, and its fluent interface the user's name.
        tags = {"mlflow.source.name": "rtda", "mlflow.source.type": "LOCAL"}
        created = self.client.create_run(experiment, tags=tags, run_name=next(n for n in names if n not in taken))
        return str(created.info.run_id)

    def describe(self) -> None:
        """Log what is given; mlflow refuses a second value for a parameter, so the first one stays."""
        from mlflow.entities import Param

        logged = self.client.get_run(self.id).data.params
        given = {_key(name): masked(value)[:500] for name, value in self.parameters.items()}  # 500: servers before 2.8
        self._log("params", [Param(name, value) for name, value in given.items() if name not in logged], 100)
        self.set_tags(self.tags)
        if self.texts:
            self._log_texts()

    def _log_texts(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / name for name in self.texts]
            for file in files:
                file.write_text(self.texts[file.name], encoding="utf-8")
            self.log_files(files)

    def log_lines(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Log metrics as ``metrics.jsonl`` holds them, the epoch as MLflow's step."""
        from mlflow.entities import Metric

        moments = ((line, round(datetime.fromisoformat(line["time"]).timestamp() * 1000)) for line in lines)
        points = [
            Metric(_key(name), float(value), milliseconds, line["epoch"])
            for line, milliseconds in moments
            for name, value in line["metrics"].items()
        ]
        self._log("metrics", points, 1000)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; unlike a parameter, a tag may change."""
        from mlflow.entities import RunTag

        self._log("tags", [RunTag(_key(name), masked(value)[:5000]) for name, value in tags.items()], 100)

    def _log(self, kind: str, items: list[Any], limit: int) -> None:
        for start in range(0, len(items), limit):  # mlflow's limit for one request
            self.client.log_batch(self.id, **{kind: items[start : start + limit]})

    def log_files(self, files: Iterable[Path]) -> None:
        """Through mlflow, or, beside a data base of ours, to where ``mlflow ui`` looks for proxied artifacts."""
        target = self.client.get_run(self.id).info.artifact_uri
        for file in files:
            if self.database and target.startswith(_PROXIED):
                folder = self.database.parent / "mlartifacts" / target.removeprefix(_PROXIED)
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / file.name)
            else:
                self.client.log_artifact(self.id, str(file))

    def log_folder(self, folder: Path) -> str:
        """A folder of files as an artifact under its name; returns where MLflow finds it."""
        target = self.client.get_run(self.id).info.artifact_uri
        if self.database and target.startswith(_PROXIED):
            beside = self.database.parent / "mlartifacts" / target.removeprefix(_PROXIED) / folder.name
            shutil.rmtree(beside, ignore_errors=True)
            shutil.copytree(folder, beside)
        else:
            self.client.log_artifacts(self.id, str(folder), folder.name)
        return f"{target}/{folder.name}"

    def register(self, source: str, name: str, alias: str, tags: Mapping[str, str]) -> int:
        """A new version of a registered model, which is made where it is absent, and an alias for it."""
        if not self.client.search_registered_models(f"name = '{name}'"):
            self.client.create_registered_model(name)
        version = self.client.create_model_version(name, source, run_id=self.id, tags=dict(tags))
        self.client.set_registered_model_alias(name, alias, version.version)
        return int(version.version)

    def end(self, status: str) -> None:
        """Set the final status, FINISHED, FAILED or KILLED, and the time."""
        self.client.set_terminated(self.id, status)


class Sender(threading.Thread):
    """Delivers messages in order, from a thread that owns every mlflow call, its slow import included.

    A message that fails stays first in line and is tried again after a pause that doubles up to a minute, and once
    more on ``close``; one that mlflow refuses for its content is dropped.
    """

    def __init__(self, run: MlflowRun, *, create: bool) -> None:
        super().__init__(name=_THREAD, daemon=True)
        # mlflow reads these at each request. Its own defaults, 120 s and 7 retries, block for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        self._run = run
        self._messages = deque[Callable[[MlflowRun], None]]([lambda run: run.open(create), MlflowRun.describe])
        self._wake, self._closing = threading.Event(), threading.Event()
        self._failures, self._dropped, self._retry_at = 0, 0, 0.0
        self.start()

    def put(self, message: Callable[[MlflowRun], None]) -> None:
        """Queue a message; returns at once."""
        self._messages.append(message)
        self._wake.set()

    def close(self, timeout: float | None = None) -> bool:
        """Deliver the rest, for at most ``timeout`` seconds; False, with a warning, if something was left.

        By default 10 s, and 30 s for a local file, which answers surely but takes its time to be made.
        """
        self._closing.set()
        self._wake.set()
        self.join(timeout if timeout is not None else 30.0 if self._run.database else 10.0)
        if self._messages and not self._failures:  # a failure has been told already
            logger.warning("MLflow did not get everything about this run; metrics.jsonl in its folder is complete.")
        return not self._messages and not self._dropped

    def run(self) -> None:
        """Deliver until closed."""
        while True:
            closing = self._closing.is_set()
            if closing or time.monotonic() >= self._retry_at:
                self._deliver()
            if closing:
                return
            self._wake.wait(max(0.0, self._retry_at - time.monotonic()) if self._messages else None)
            self._wake.clear()

    def _deliver(self) -> None:
        while self._messages:
            try:
                self._messages[0](self._run)
            except Exception as error:
                if not (self._run.id and getattr(error, "error_code", None) in _REFUSALS):
                    self._postpone(error)
                    return
                self._dropped += 1
                logger.warning("MLflow refused a message about this run (%s).", error)
            self._messages.popleft()
            self._failures = 0

    def _postpone(self, error: Exception) -> None:
        if not self._failures:
            what = f"({self._run.place}) does not answer ({type(error).__name__})"
            logger.warning("MLflow %s. Nothing waits for it; metrics.jsonl has what it misses.", what)
        logger.debug("MLflow failed", exc_info=error)
        self._retry_at = time.monotonic() + min(60.0, 5.0 * 2.0**self._failures)
        self._failures += 1


@contextmanager
def _exclusively(database: Path) -> Iterator[None]:
    """Let one process at a time make the data base and name a run: two at once leave half a schema behind."""
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = sqlite3.connect(database.with_name(database.name + ".lock"), timeout=60.0, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")  # freed by the system when the process dies
        yield
    finally:
        lock.close()


def _key(name: str) -> str:
    return re.sub(r"[^\w\-./: ]", "_", name)[:250]
