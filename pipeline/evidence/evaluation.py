"""Evaluation: a model, views and a data set give one table, the same however it is computed.

Images are taken in fixed shards: shard k is the k-th ``SHARD`` images in list order, and the model always sees a whole
shard. Before each (view, shard) torch's generator is seeded from (seed, view, k) and afterwards it is as it was, so
that neither the number of processes and workers nor an interruption changes a number, and training does not notice.
The model runs in float32 with TF32 off: logits in bf16 tie, and ties look like robustness.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from monai.data import DataLoader, Dataset, set_rnd
from torch import Tensor, nn

from ..attacks import frozen
from ..files import write_whole
from ..normalisation import holding
from ..progress import progress
from ..seeding import derived_seed, forked
from ..views import View, check_views, parent_of, plain
from .table import ITEM_COLUMNS, merge, read_table, write_part

SHARD = 64
"""Images of a shard."""


def named(views: Sequence[View]) -> dict[str, View]:
    """Views under the names they give themselves (``view.name``), in order.

    Raises:
        ValueError: two views have one name.
    """
    names = [name_of(view) for view in views]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"views: '{name}' stands twice; names must be unique")
    return dict(zip(names, views, strict=True))


def name_of(view: Any) -> str:
    """The name that a view, or the transform inside it, gives itself; else that of its class."""
    if parent := parent_of(view):
        return f"{name_of(view.view)}_from_{parent}"
    inner = getattr(view, "inner", view)
    return next((str(one.name) for one in (view, inner) if hasattr(one, "name")), type(inner).__name__)


def described(view: Any) -> dict[str, Any]:
    """What a view, or the view or transform inside it, states as its ``facts``: family, norm, ε, severity."""
    for inside in ("view", "inner"):
        view = getattr(view, inside, view)
    return dict(getattr(view, "facts", {"family": "other"}))


def settings_of(thing: Any) -> Any:
    """What an object is made of, for JSON: types and plain public attributes, the same in every process.

    Its ``repr`` may hold an address in memory, by which nothing would ever be recognised.
    """
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if isinstance(thing, (list, tuple)):
        return [settings_of(one) for one in thing]
    if hasattr(thing, "__qualname__"):  # a function or class
        return thing.__qualname__
    public = {key: value for key, value in sorted(getattr(thing, "__dict__", {}).items()) if not key.startswith("_")}
    return [type(thing).__qualname__, {key: settings_of(value) for key, value in public.items()}]


class Evaluation:
    """One model evaluated on one split: ``claim`` once, ``run`` in as many processes as wanted, then ``table``.

    Args:
        model: (B, C, *spatial) in [0, 1] -> logits (B, K), on its device.
        views: name -> view, in order; see :func:`named`.
        items: the split's items of the data list, in order.
        transform: item -> {"image": float32 (C, *spatial) in [0, 1], "label": int, …}; the label of a
            multi-label set is (L,) of 0 and 1.
        record: columns that are the same in every row: bundle, recipe, seed, checkpoint, split.
        parts: folder for the part files. Parts of the same evaluation are kept, others are removed.
        identity: what else the numbers depend on, for JSON: preprocessing, versions. Parts made under another one are
            removed.
        seed: of the views' draws.
        threads: CPU threads of each rank; sums differ in the last bit between thread counts.

    Raises:
        ValueError: logits are not finite, or not (B, K).
    """

    def __init__(
        self,
        model: nn.Module,
        views: Mapping[str, View],
        items: Sequence[Mapping[str, Any]],
        transform: Any,
        record: Mapping[str, Any],
        parts: Path,
        identity: Mapping[str, Any] | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        check_views(views)
        self.model, self.views, self.items, self.record = model, dict(views), items, dict(record)
        self.transform, self.parts, self.seed, self.threads = transform, parts, seed, threads
        self.identity = dict(identity or {})
        self.shards = [range(i, min(i + SHARD, len(items))) for i in range(0, len(items), SHARD)]
        state = itertools.chain(model.parameters(), model.buffers())  # a program from a file may have buffers only
        self.device = next((tensor.device for tensor in state), torch.device("cpu"))

    def claim(self) -> None:
        """Keep the parts that are there only if they belong to this very evaluation."""
        identity = {
            "record": self.record,
            "views": {name: settings_of(view) for name, view in self.views.items()},
            "items": [{**item, "image": _stamp(item.get("image"))} for item in self.items],
            "weights": weights_checksum(self.model.state_dict()),
            "seed": self.seed,
            "threads": self.threads,
            "device": str(self.device),
            **self.identity,
        }
        content = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest().encode()
        claim = self.parts / "evaluation"
        if not (claim.is_file() and claim.read_bytes() == content):
            shutil.rmtree(self.parts, ignore_errors=True)
            write_whole(claim, content)

    def run(self, rank: int = 0, ranks: int = 1, num_workers: int = 0, batch_size: int = SHARD) -> None:
        """Compute the parts of shards rank, rank + ranks, … that are not there yet.

        Args:
            rank: which of the processes this is.
            ranks: how many there are.
            num_workers: processes that load images for this one.
            batch_size: images that are loaded at once; the model sees whole shards, whatever it is.
        """
        todo = [k for k in range(rank, len(self.shards), ranks) if self._missing(k)]
        title = f"evaluate {self.record.get('recipe', 'model')} on {self.record.get('split', 'images')}"
        with exact(self.threads), frozen(self.model):
            for k, (x, y) in zip(progress(todo, title), self._loaded(todo, num_workers, batch_size), strict=True):
                self._shard(k, x.to(self.device), y.to(self.device))

    def table(self, facts: Mapping[str, Any]) -> pa.Table:
        """The rows of all parts, view by view in list order."""
        return read_table(merge(self.written, facts, self.parts / "table.parquet"))

    @property
    def written(self) -> list[Path]:
        """The parts in the order of the table: view by view, and in list order."""
        return [self._part(k, view) for view in self.views for k in range(len(self.shards))]

    def discard(self) -> None:
        """Remove the parts, once the table is safely written."""
        shutil.rmtree(self.parts, ignore_errors=True)

    def _loaded(self, todo: Sequence[int], num_workers: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of each shard, cut from the loader's batches."""
        rows = [row for k in todo for row in self.shards[k]]
        loaded = (pair for batch in self._batches(rows, num_workers, batch_size) for pair in zip(*batch, strict=True))
        for k in todo:
            x, y = zip(*itertools.islice(loaded, len(self.shards[k])), strict=True)
            yield torch.stack(x), torch.stack(y)

    def _batches(self, rows: Sequence[int], num_workers: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels. What a worker raises comes as text: here it is raised again, as what it is."""
        films = Dataset(list(self.items), self.transform)
        loading = {"batch_size": batch_size, "num_workers": num_workers, "generator": torch.Generator()}
        batches = iter(DataLoader(films, sampler=rows, **loading))
        for start in range(0, len(rows), batch_size):
            try:
                batch = next(batches)
            except Exception:
                for row in rows[start : start + batch_size] if num_workers else ():
                    films[row]
                raise
            yield plain(batch["image"]), _labels(batch["label"])

    def _missing(self, k: int) -> set[str]:
        """Names of a shard's views that have no part yet."""
        return {name for name in self.views if not self._part(k, name).is_file()}

    def _needed(self, missing: set[str]) -> Iterator[tuple[str, View]]:
        """The views to be made in order: those that are missing, and parents, of which only the tensor is wanted."""
        needed = set(missing)
        for name, view in reversed(self.views.items()):
            if name in needed and (parent := parent_of(view)):
                needed.add(parent)
        return ((name, view) for name, view in self.views.items() if name in needed)

    def _shard(self, k: int, x: Tensor, y: Tensor) -> None:
        made, missing = dict[str, Tensor](), self._missing(k)
        parents = {parent_of(view) for view in self.views.values()}  # no other view is kept: memory stays the same
        for name, view in self._needed(missing):
            seed = derived_seed(self.seed, name, k)
            set_rnd(view, seed)
            with forked(seed, self.device):
                start = made.get(parent_of(view) or "", x)
                model = holding(self.model, start) if described(view).get("norm") else self.model
                images = view(model, start, y)
            if name in parents:
                made[name] = images
            if name in missing:
                with torch.no_grad():
                    logits = model(images).float()
                write_part(self._rows(k, name, x, images, y, logits), self._part(k, name))

    def _rows(self, k: int, name: str, clean: Tensor, x: Tensor, y: Tensor, logits: Tensor) -> list[dict[str, Any]]:
        if logits.ndim != 2 or not bool(logits.isfinite().all()):
            raise ValueError(f"{name}: logits: {tuple(logits.shape)}, not a finite (images, classes); check the model")
        delta = (x - clean).flatten(1)
        values = {
            "label": y,
            "logits": logits,
            "probabilities": logits.softmax(1) if y.ndim == 1 else logits.sigmoid(),  # labels of their own
            "l2": torch.linalg.vector_norm(delta, dim=1),
            "linf": delta.abs().amax(1),
        }
        columns = {key: value.cpu().tolist() for key, value in values.items()}
        constant = self.record | {"view": name} | described(self.views[name])
        return [
            constant
            | {column: self.items[i].get(column) for column in ITEM_COLUMNS}
            | {key: column[row] for key, column in columns.items()}
            for row, i in enumerate(self.shards[k])
        ]

    def _part(self, k: int, name: str) -> Path:
        return self.parts / f"{k:05d}-{name}.parquet"


def _labels(collated: Any) -> Tensor:
    """(B,) or (B, L); lists of 0 and 1 are collated label by label."""
    return torch.stack(collated, dim=1) if isinstance(collated, list) else torch.as_tensor(collated)


def _stamp(image: Any) -> Any:
    """Size and time of an image file, by which a changed one is noticed; images in memory pass."""
    if not isinstance(image, str):
        return None
    stat = Path(image).stat()
    return [image, stat.st_size, stat.st_mtime_ns]


@contextmanager
def exact(threads: int) -> Iterator[None]:
    """Float32 as such: TF32 off, deterministic kernels, a fixed number of CPU threads; all as before afterwards."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = False
    cudnn.deterministic = True
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before


def weights_checksum(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes of a model's state, independent of the file that held it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
