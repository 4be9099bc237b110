"""The floor under any network on a data list: ridge regression on 32 x 32 pixels; and how unlike the splits are.

    OMP_NUM_THREADS=1 python benchmarks/ridge.py data_lists/chest_xray_kermany.json DIR [--split test]

Regression on the label, +1 or -1, its strength chosen by leave-one-out on the training films; probabilities for the
likelihood by a logistic curve over the regression's own out-of-fold answers. Two classes. Prints Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from monai.transforms import Compose, LoadImaged, Resized
from rtda.pipeline.data import lists
from rtda.pipeline.evidence import calibration, scores
from rtda.pipeline.progress import progress
from rtda.transforms.reader import FilmReader
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import cross_val_predict

SIZE = 32
Array = npt.NDArray[np.float64]


def pixels(items: list[dict[str, object]], split: str) -> tuple[Array, npt.NDArray[np.int64]]:
    """Films as rows of SIZE x SIZE intensities, each less its mean over its deviation; and their labels."""
    load = Compose(
        [
            LoadImaged("image", reader=FilmReader(), ensure_channel_first=True),
            Resized("image", (SIZE, SIZE), mode="area"),
        ]
    )
    x = np.stack([np.asarray(load({"image": item["image"]})["image"]).ravel() for item in progress(items, split)])
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    return x.astype(np.float64), np.array([item["label"] for item in items])


def ridge() -> RidgeCV:
    """The regression; its strength by leave-one-out."""
    return RidgeCV(alphas=10.0 ** np.arange(0, 6))


def scored(train: tuple[Array, npt.NDArray[np.int64]], other: tuple[Array, npt.NDArray[np.int64]]) -> list[str]:
    """AUROC, balanced accuracy at 0.5 and NLL of the regression on another split."""
    (x, y), (x_other, y_other) = train, other
    weight = np.where(y == 1, 0.5 / (y == 1).mean(), 0.5 / (y == 0).mean())  # classes equally often, as the networks
    held_out = cross_val_predict(ridge(), x, 2.0 * y - 1, params={"sample_weight": weight})
    curve = LogisticRegression().fit(held_out[:, None], y, sample_weight=weight)
    answer = ridge().fit(x, 2.0 * y - 1, sample_weight=weight).predict(x_other)
    p = curve.predict_proba(answer[:, None])
    balanced = scores.balanced_accuracy(y_other, scores.predict(p))
    auroc = scores.auroc(y_other, np.stack([-answer, answer], 1))
    return [f"{100 * auroc:.1f}", f"{100 * balanced:.1f}", f"{calibration.nll(y_other, p):.3f}"]


def told_apart(one: Array, other: Array) -> str:
    """AUROC, out of fold, of a regression that tells two splits apart by the pixels alone: 50 where they are alike."""
    x = np.concatenate([one, other])
    y = np.repeat([0, 1], [len(one), len(other)])
    weight = np.where(y == 1, 0.5 / (y == 1).mean(), 0.5 / (y == 0).mean())
    order = np.random.default_rng(0).permutation(len(y))
    answer = cross_val_predict(ridge(), x[order], 2.0 * y[order] - 1, params={"sample_weight": weight[order]})
    return f"{100 * scores.auroc(y[order], np.stack([-answer, answer], 1)):.1f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    options = parser.parse_args()
    names = lists.class_names(options.list)
    splits = {
        name: pixels(lists.load(options.list, options.folder, name), name) for name in {"train": 0, options.split: 0}
    }
    print(f"| ridge, {SIZE} x {SIZE} | AUROC, % | balanced accuracy at 0.5, % | NLL |\n|---|---|---|---|")
    print(f"| {options.split} | {' | '.join(scored(splits['train'], splits[options.split]))} |")
    print(f"\n| class | AUROC of train against {options.split}, % |\n|---|---|")
    (x, y), (x_other, y_other) = splits["train"], splits[options.split]
    for label, name in enumerate(names):
        print(f"| {name} | {told_apart(x[y == label], x_other[y_other == label])} |")


if __name__ == "__main__":
    main()
