"""Speed of AugMix on tensors beside AugMix by Pillow, image by image, as its public code does it.

    OMP_NUM_THREADS=1 python benchmarks/augmix.py [--rounds 7] [--batch 64]

Prints Markdown: images per second on one core, and the ratio by round. The rounds of the two are interleaved, so that a
busy machine slows both alike: trust the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
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
    arguments = parser.parse_args()
    print("| images | operations | tensors, images/s | Pillow, images/s | tensors/Pillow, by round |")
    print("|---|---|---|---|---|")
    for size in (64, 224):
        for name, operations in LISTS.items():
            ours, theirs = by_tensors(size, arguments.batch, operations), by_pillow(size, operations)
            rounds = [(rate(ours), rate(theirs)) for _ in range(arguments.rounds)]
            ratios = sorted(one / other for one, other in rounds)
            medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
            told = " / ".join(f"{ratio:.2f}" for ratio in (ratios[0], statistics.median(ratios), ratios[-1]))
            print(f"| {size} × {size} | {name} | {medians[0]:.0f} | {medians[1]:.0f} | {told} |", flush=True)


if __name__ == "__main__":
    main()
