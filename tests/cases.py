"""Answers made up for tests of metrics: labels with probabilities, and evaluation's tables."""

import json

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rtda.pipeline.evidence.table import COLUMNS, MULTILABEL

VIEWS = {
    "clean": ("clean", None, None, None),
    "pgd20_l2_0.25": ("attack", "l2", 0.25, None),
    "contrast_down_5": ("shift", None, None, 5),
}
"""View -> family, norm, epsilon, severity; each is harder than the one before."""


@st.composite
def outcomes(draw, classes=None):
    """Labels in which every class occurs, and probabilities in steps of 1/64: exact sums, many ties."""
    k = classes or draw(st.integers(2, 5))
    n = draw(st.integers(k, 40))
    labels = np.r_[np.arange(k), draw(hnp.arrays(np.int64, n - k, elements=st.integers(0, k - 1)))]
    cuts = np.sort(draw(hnp.arrays(np.int64, (n, k - 1), elements=st.integers(0, 64 - k))), axis=1)
    parts = np.diff(np.c_[np.zeros((n, 1), int), cuts, np.full((n, 1), 64 - k)], axis=1) + 1
    return labels, (parts / 64).astype(np.float32)


def softmax(logits):
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (p / p.sum(axis=-1, keepdims=True)).astype(np.float32)


def make_run(
    recipe="rtda",
    seed=0,
    classes=2,
    splits=("validation", "test"),
    n=40,
    prior=None,
    views=VIEWS,
    multilabel=False,
    columns=None,
    strength=1.5,
    step=1.0,
    **facts,
):
    """Evaluation's table of one run, three images a patient; ``columns`` holds more of them, (n,) values each.

    Classes lie ``strength`` apart in the first view, in units of the noise, and ``step`` less in each one after it.
    """
    rows = []
    for split in splits:
        for place, (view, (family, norm, epsilon, severity)) in enumerate(views.items()):
            if split == "validation" and view != "clean":
                continue
            rng = np.random.default_rng([len(recipe), seed, place, len(split)])
            labels, means = _labels(n, classes, multilabel)
            logits = rng.normal(size=(n, classes)) + (strength - step * place) * means
            p = 1 / (1 + np.exp(-logits)) if multilabel else softmax(logits)
            shared = {"bundle": "b", "recipe": recipe, "seed": seed, "checkpoint": "best", "split": split, "view": view}
            shared |= {"fold": int(split == "test"), "family": family, "norm": norm, "epsilon": epsilon}
            for i in range(n):
                row = {"image_id": f"{split}{i}", "patient_id": f"{split}{i // 3}", "label": labels[i].tolist()}
                row |= {"severity": severity, "logits": logits[i].tolist(), "probabilities": p[i].tolist()}
                rows.append(shared | row | {name: values[i] for name, values in (columns or {}).items()})
    return table_of(rows, classes, prior=prior, multilabel=multilabel, **facts)


def table_of(rows, classes=2, prior=None, multilabel=False, **facts):
    """Rows as a table with its metadata."""
    schema = MULTILABEL if multilabel else COLUMNS
    known = {
        "classes": [f"c{k}" for k in range(classes)],
        "training_prior": prior or ([0.3] * classes if multilabel else [0.3] + [0.7 / (classes - 1)] * (classes - 1)),
        "training_norm": "l2",
        "training_radius": 0.25,
        "image_size": 28,
        "channels": 1,
        "checksum_list": "5f2b" * 16,
        "checksum_weights": "a7" * 32,
        "versions": {"rtda": "0.1.0"},
        **({"multilabel": True} if multilabel else {}),
        **facts,
    }
    table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema)
    return table.replace_schema_metadata({b"rtda": json.dumps(known).encode()})


def _labels(n, classes, multilabel):
    if not multilabel:
        labels = np.arange(n) % classes
        return labels, np.eye(classes)[labels]
    labels = (np.arange(n)[:, None] // (1 + np.arange(classes))) % 2
    return labels, 2 * labels - 1
