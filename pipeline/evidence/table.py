"""The table: one row for each image and view. Every metric, plot and test is a pure function of it.

Written in parts, one for each (shard, view), each renamed when complete — a killed Parquet file has no footer — and
merged in a fixed order at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import whole, write_whole

COLUMNS = pa.schema(
    [
        *[(name, pa.string()) for name in ("bundle", "recipe")],
        *[(name, pa.int64()) for name in ("seed", "fold")],
        *[(name, pa.string()) for name in ("checkpoint", "split", "image_id", "patient_id", "group_id")],
        *[(name, pa.string()) for name in ("site", "sex", "age_group", "projection", "manufacturer")],
        ("label", pa.int64()),
        *[(name, pa.string()) for name in ("view", "family", "norm")],
        ("epsilon", pa.float64()),
        ("severity", pa.int64()),
        *[(name, pa.list_(pa.float32())) for name in ("logits", "probabilities")],
        *[(name, pa.float32()) for name in ("l2", "linf")],
    ]
)
"""Columns in order; absent facts are null. l2 and linf are distances to the clean image, in intensity units."""

MULTILABEL = COLUMNS.set(COLUMNS.get_field_index("label"), pa.field("label", pa.list_(pa.int64())))
"""The same of a multi-label set, whose metadata state ``"multilabel": true``: ``label`` is a list of 0 and 1, one for
each of ``classes``, and each has a logit and a probability of its own."""

ROW_GROUP = 8192
"""Rows that are held in memory while parts are merged, and a part's more at most."""
ITEM_COLUMNS = ("image_id", "patient_id", "group_id", "site", "sex", "age_group", "projection", "manufacturer", "fold")
"""Columns that come from an item of the data list."""


def write_part(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as one complete Parquet file; columns that a row lacks are null."""
    columns = columns_of({"multilabel": isinstance(rows[0].get("label"), list)})
    write_table(pa.Table.from_pylist([{name: row.get(name) for name in columns.names} for row in rows], columns), path)


def columns_of(facts: Mapping[str, Any]) -> pa.Schema:
    """The columns of a table whose metadata state these facts."""
    return MULTILABEL if facts.get("multilabel") else COLUMNS


def merge(parts: Sequence[Path], facts: Mapping[str, Any], path: Path) -> Path:
    """Concatenate parts in the given order, a row group at a time, so that memory does not grow with their number.

    Args:
        parts: complete Parquet files of the columns.
        facts: JSON, for the table's metadata under ``rtda``.
        path: the table to write, whole or not at all.
    """
    columns = columns_of(facts).with_metadata(_stated(facts))
    with whole(path) as sink, pq.ParquetWriter(sink, columns, compression="zstd") as writer:
        for group in _row_groups(pq.read_table(part, schema=columns) for part in parts):
            writer.write_table(group)
    return path


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in fewer tables, each of at least ``ROW_GROUP`` rows, but for the last."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= ROW_GROUP:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def with_facts(table: pa.Table, facts: Mapping[str, Any]) -> pa.Table:
    """The same rows under other metadata."""
    return table.replace_schema_metadata(_stated(facts))


def _stated(facts: Mapping[str, Any]) -> dict[bytes, bytes]:
    return {b"rtda": json.dumps(facts, sort_keys=True).encode()}


def write_table(table: pa.Table, path: Path) -> Path:
    """Write a table, whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return write_whole(path, sink.getvalue().to_pybytes())


def read_table(path: Path) -> pa.Table:
    """Read a table.

    Raises:
        ValueError: the file is missing, damaged, has other columns, or no facts in its metadata.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path.name}: missing in '{path.parent.name}'; make it with rtda evaluate") from error
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path.name}: not a Parquet table; make it again with rtda evaluate") from error
    if table.schema.names != COLUMNS.names:
        raise ValueError(f"{path.name}: columns: not those of an evaluation table; make it again with rtda evaluate")
    if b"rtda" not in (table.schema.metadata or {}):
        raise ValueError(f"{path.name}: metadata: nothing of rtda in them; make it again with rtda evaluate")
    if table.schema.field("label").type != columns_of(facts_of(table)).field("label").type:
        raise ValueError(f"{path.name}: label: not as its metadata state; make it again with rtda evaluate")
    return table


def facts_of(table: pa.Table) -> dict[str, Any]:
    """What :func:`merge` put into the table's metadata; ValueError where there is nothing."""
    stored = (table.schema.metadata or {}).get(b"rtda")
    if stored is None:
        raise ValueError("the table carries no 'rtda' metadata: it was not written by rtda evaluate")
    facts: dict[str, Any] = json.loads(stored)
    return facts
