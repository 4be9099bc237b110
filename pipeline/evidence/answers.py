"""The rows of the table as arrays: what runs answered, checked, and one run's reported split in one order of images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from . import bootstrap, outcomes
from .outcomes import Logits, Rule
from .table import facts_of

RUN = ("bundle", "recipe", "seed", "checkpoint")
VIEW = ("family", "norm", "epsilon", "severity")
SUBGROUPS = ("site", "sex", "age_group", "projection", "manufacturer")
"""Columns by which subgroups are told apart."""


@dataclass(frozen=True)
class Answers:
    """What one run answered on the images of its reported split.

    Attributes:
        run: bundle, recipe, seed and checkpoint.
        split: the reported one.
        facts: the table's metadata.
        images: a row for each of N images: image_id, patient_id (None where it is not known), subgroup columns.
        labels: (N,), or (N, L) of a multi-label set.
        views: a row for each view, by its name: family, norm, epsilon, severity.
        logits: view -> (N, K).
        rules: of each problem, from the run's own clean validation images.
    """

    run: dict[str, Any]
    split: str
    facts: dict[str, Any]
    images: pd.DataFrame
    labels: NDArray[np.int64]
    views: pd.DataFrame
    logits: dict[str, Logits]
    rules: tuple[Rule, ...]

    @cached_property
    def patients(self) -> list[str | None]:
        """The patient of each image."""
        return [None if pd.isna(name) else str(name) for name in self.images["patient_id"]]

    @property
    def number_of_patients(self) -> int:
        """How many they are; an image without a patient counts as one of its own."""
        known = [name for name in self.patients if name is not None]
        return len(set(known)) + len(self.patients) - len(known)

    def drawn(self, draws: int = bootstrap.DRAWS) -> bootstrap.Counts:
        """Replicates of the images; see :func:`bootstrap.counts`."""
        return bootstrap.counts(self.patients, draws)

    def values(self, view: str) -> dict[str, float]:
        """Every metric of a view."""
        return outcomes.values(self.labels, self.logits[view], self.rules)

    def replicates(self, view: str, drawn: bootstrap.Counts) -> dict[str, bootstrap.Values]:
        """The metrics of a view that have replicates, in each."""
        return outcomes.replicates(drawn, self.labels, self.logits[view], self.rules)

    def of(self, rows: NDArray[Any]) -> Answers:
        """The answers on some of the images: a mask, or their numbers in the order wanted."""
        logits = {view: values[rows] for view, values in self.logits.items()}
        return replace(self, images=self.images.iloc[rows], labels=self.labels[rows], logits=logits)


def answers(table: pa.Table) -> Answers:
    """The answers of the one run that a table holds.

    Raises:
        ValueError: as :func:`frame_of`; more than one run; a view that lacks images of the others.
    """
    facts, frame = facts_of(table), frame_of(table)
    if len(frame[[*RUN]].drop_duplicates()) > 1:
        raise ValueError("one run at a time: one recipe, seed and checkpoint")
    split = reported_split(frame)
    decided = rules_of(frame, facts)
    frame = frame[frame["split"] == split]
    by_view = {str(name): rows.set_index("image_id") for name, rows in frame.groupby("view", sort=False)}
    first = next(iter(by_view.values()))
    for name, rows in by_view.items():
        if len(rows) != len(first) or not rows.index.isin(first.index).all():
            raise ValueError(f"view '{name}': not the images of the first view; evaluate again")
    return Answers(
        run=frame.iloc[0][[*RUN]].to_dict(),
        split=split,
        facts=facts,
        images=first.reset_index()[["image_id", "patient_id", *(name for name in SUBGROUPS if name in first)]],
        labels=labels_of(first),
        views=frame.drop_duplicates("view").set_index("view")[[*VIEW]],
        logits={name: logits_of(rows.loc[first.index], facts) for name, rows in by_view.items()},
        rules=decided,
    )


def frame_of(table: pa.Table) -> pd.DataFrame:
    """The columns that metrics need; ValueError where there is no row, or an image stands twice in one run and view."""
    wanted = [*RUN, "split", "image_id", "patient_id", *SUBGROUPS, "label", "view", *VIEW, "logits"]
    frame = table.select([name for name in wanted if name in table.column_names]).to_pandas()
    if frame.empty:
        raise ValueError("the table has no rows")
    twice = frame.duplicated([*RUN, "split", "view", "image_id"])
    if twice.any():
        row = frame[twice].iloc[0]
        raise ValueError(
            f"the same image twice in view {row['view']!r} of recipe {row['recipe']!r}, seed {row['seed']}: "
            "two runs of one name?"
        )
    return frame


def reported_split(rows: pd.DataFrame) -> str:
    """The split that rows report: `test` where it is there, else the first other than `validation`, else that."""
    splits = rows["split"].unique().tolist()
    return "test" if "test" in splits else next((s for s in splits if s != "validation"), "validation")


def rules_of(run: pd.DataFrame, facts: dict[str, Any]) -> tuple[Rule, ...]:
    """What the clean validation images among the rows of one run decide; there may be none."""
    clean = run[(run["split"] == "validation") & (run["view"] == "clean")]
    if clean.empty:
        width = len(facts["classes"])
        return outcomes.rules(np.zeros((0, width) if facts.get("multilabel") else 0, int), np.zeros((0, width)))
    return outcomes.rules(labels_of(clean), logits_of(clean, facts))


def labels_of(rows: pd.DataFrame) -> NDArray[np.int64]:
    """Labels (N,), or (N, L) where each is a list."""
    labels = rows["label"].tolist()
    return np.asarray(labels if np.ndim(labels[0]) == 0 else np.stack(labels))


def logits_of(rows: pd.DataFrame, facts: dict[str, Any]) -> Logits:
    """The logits (N, K), refused unless K is the number of classes, or of labels."""
    classes = len(facts["classes"])
    lengths = rows["logits"].map(len).unique().tolist()
    if lengths != [classes]:
        raise ValueError(f"{classes} classes, but rows with {', '.join(map(str, lengths))} logits")
    return np.stack(rows["logits"].tolist()).astype(np.float64)
