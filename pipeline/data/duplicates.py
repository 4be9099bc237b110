"""Images that are nearly the same: candidates by a perceptual hash, confirmed by the correlation of thumbnails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 32  # pixels of a thumbnail
BITS = 16  # of a hash, in each direction


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of an image: 256 bits, whether each of 16 x 16 areas is brighter than its left one; a thumbnail."""

    bits: npt.NDArray[np.uint8]
    thumbnail: npt.NDArray[np.float32]


def fingerprint(image: npt.NDArray[np.float32]) -> Fingerprint:
    """Of one image (rows, columns) in [0, 1]; its aspect does not count.

    Source: the difference hash of Krawetz, "Kind of Like That" (2013), with more bits.
    """
    areas = _resized(image, BITS + 1, BITS)
    thumbnail = _resized(image, SIDE, SIDE).ravel()
    thumbnail = thumbnail - thumbnail.mean()
    length = np.linalg.norm(thumbnail)
    return Fingerprint(np.packbits(areas[:, 1:] > areas[:, :-1]), thumbnail / max(float(length), 1e-12))


def alike(prints: Sequence[Fingerprint], most_bits: int = 40, least: float = 0.99) -> Iterator[tuple[int, int, float]]:
    """Pairs of images that are nearly the same, and their correlation.

    Args:
        prints: of the images.
        most_bits: of 256 that may differ between candidates.
        least: correlation of thumbnails from which a pair counts.

    Example:
        >>> film = np.random.default_rng(0).random((40, 50), np.float32)
        >>> prints = [fingerprint(image) for image in (film, 1 - film, film * 0.9)]
        >>> [(one, other) for one, other, _ in alike(prints)]
        [(0, 2)]
    """
    if not prints:
        return
    bits = np.stack([one.bits for one in prints]).view(np.uint64)
    thumbnails = np.stack([one.thumbnail for one in prints])
    for i in range(len(prints) - 1):
        differing = np.bitwise_count(bits[i + 1 :] ^ bits[i]).sum(1)
        near = i + 1 + np.flatnonzero(differing <= most_bits)
        for j, correlation in zip(near, thumbnails[near] @ thumbnails[i], strict=True):
            if correlation >= least:
                yield i, int(j), float(correlation)


def _resized(image: npt.NDArray[np.float32], columns: int, rows: int) -> npt.NDArray[np.float32]:
    resized: npt.NDArray[np.float32] = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BOX))
    return resized
