"""Speed of AugMix on tensors beside AugMix by Pillow, image by image, as its public code does it, and by torchvision.

    OMP_NUM_THREADS=1 python benchmarks/augmix.py [--rounds 7] [--batch 64] [--torchvision]

Prints Markdown: images per second on one core, and the ratio by round. The rounds are interleaved, so that a busy
machine slows all alike: trust the ratios. torchvision is no dependency; where its build is of another torch, AugMix,
which needs none of its compiled operators, runs all the same.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance, ImageOps
from rtda.transforms.augmix import LISTS, AugMix

SECONDS = 1.0  # of a round
SEVERITY = 3


def rate(work: Callable[[], int]) -> float:
    """Images per second; ``work`` returns how many it did."""
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        done += work()
    return done / (time.perf_counter() - start)


def by_tensors(size: int, batch: int, operations: Sequence[str]) -> Callable[[], int]:
    """A batch at a time."""
    images, transform = torch.rand(batch, 1, size, size), AugMix(operations=operations)
    return lambda: len(transform(images))


def by_pillow(size: int, operations: Sequence[str]) -> Callable[[], int]:
    """An image at a time: three chains of one to three operations on 8-bit images, mixed as floats."""
    image, random = np.random.default_rng(0).random((size, size), np.float32), np.random.default_rng(0)
    start = Image.fromarray((image * 255).astype(np.uint8))

    def work() -> int:
        mixed = np.zeros_like(image)
        for weight in random.dirichlet([1, 1, 1]):
            chain = start
            for _ in range(random.integers(1, 4)):
                chain = operation(chain, operations[random.integers(len(operations))], random)
            mixed += np.float32(weight / 255) * np.asarray(chain)
        share = np.float32(random.beta(1, 1))
        (1 - share) * image + share * mixed
        return 1

    return work


def by_torchvision(size: int, name: str) -> Callable[[], int]:
    """An image at a time, as tensors of 8 bits: on a batch it would take one chain for all images."""
    for lacking in ("nms", "qnms"):  # asked for as torchvision is imported
        with contextlib.suppress(RuntimeError):
            torch.library.define(f"torchvision::{lacking}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    from torchvision.transforms import InterpolationMode, v2

    bilinear = InterpolationMode.BILINEAR
    transform = v2.AugMix(severity=SEVERITY, all_ops=name == "all", interpolation=bilinear)
    image = torch.randint(0, 256, (1, size, size), dtype=torch.uint8)
    return lambda: len(transform(image))


def operation(image: Image.Image, name: str, random: np.random.Generator) -> Image.Image:
    """One operation with a drawn level and sign."""
    level, sign = random.uniform(0.1, SEVERITY), random.choice([-1, 1])
    if name in ("autocontrast", "equalize"):
        return getattr(ImageOps, name)(image)
    if name == "posterize":
        return ImageOps.posterize(image, 4 - int(level * 4 / 10))
    if name == "solarize":
        return ImageOps.solarize(image, 256 - int(level * 256 / 10))
    if name == "rotate":
        return image.rotate(sign * int(level * 30 / 10), resample=Image.Resampling.BILINEAR)
    if name in ("contrast", "brightness", "sharpness"):
        return getattr(ImageEnhance, name.capitalize())(image).enhance(level * 1.8 / 10 + 0.1)
    slope, shift = sign * level * 0.3 / 10, sign * int(level * image.width / 3 / 10)
    matrix = {
        "shear_x": (1, slope, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, slope, 1, 0),
        "translate_x": (1, 0, shift, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, shift),
    }[name]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--torchvision", action="store_true")
    arguments = parser.parse_args()
    peers = ["Pillow", *(["torchvision"] if arguments.torchvision else [])]
    head = ["images", "operations", *(f"{name}, images/s" for name in ("tensors", *peers))]
    head += [f"tensors/{name}, by round" for name in peers]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for size in (64, 224):
        for name, operations in LISTS.items():
            works = [by_tensors(size, arguments.batch, operations), by_pillow(size, operations)]
            works += [by_torchvision(size, name)] if arguments.torchvision else []
            rates = np.array([[rate(work) for work in works] for _ in range(arguments.rounds)])
            cells = [f"{size} × {size}", name, *(f"{median:.0f}" for median in np.median(rates, 0))]
            cells += [spread(rates[:, 0] / rates[:, peer]) for peer in range(1, len(works))]
            print(f"| {' | '.join(cells)} |", flush=True)


def spread(ratios: npt.NDArray[np.float64]) -> str:
    """Least, median and greatest."""
    return " / ".join(f"{ratio:.2f}" for ratio in (ratios.min(), np.median(ratios), ratios.max()))


if __name__ == "__main__":
    main()
