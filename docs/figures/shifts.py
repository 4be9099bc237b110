"""All shifts (rows) of one film, clean and at severity 1 to 5 (columns); or the table of ``docs/shifts.md``.

    python docs/figures/shifts.py -o docs/images/shifts.png --size 80
    python docs/figures/shifts.py --of mammogram -o docs/images/shifts_mammogram.png --size 64   (or ultrasound, ct)
    python docs/figures/shifts.py FILM -o OUT [--size 224] [--choose hu_window=[-600,1500]]
    python docs/figures/shifts.py --table

Without FILM it is drawn, no patient: the film of ``rtda data phantom``, or one in the manner of another modality. FILM
is whatever ``rtda data check`` reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Resize
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rtda.pipeline.commands.check import chosen
from rtda.pipeline.data.phantom import Phantom, render
from rtda.transforms.reader import FilmReader
from rtda.transforms.shifts import SHIFTS, Shift, text_of
from scipy import ndimage
from torch import Tensor

NAMES, HEAD, GAP = 190, 26, 4  # pixels left of the pictures, above them, and between them
GROUND, INK, MUTED = 22, 231, 148


def radiograph(size: int) -> NDArray[np.float64]:
    """A film of the phantom cohort."""
    return render(Phantom(films=40, size=size)).images[3].astype(np.float64)


def mammogram(size: int) -> NDArray[np.float64]:
    """A breast on black: fat, glandular tissue in strands, and the muscle in its corner."""
    y, x = np.mgrid[0 : 1 : 1j * size, 0 : 1 : 1j * size]
    strands = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((size, size)), (size / 40, size / 16))
    distance = np.hypot(x / 0.75, (y - 0.52) / 0.46)
    breast = (distance < 1) * (0.3 + 0.35 * np.exp(-6 * (distance - 0.4) ** 2) * (1 + strands / strands.std() / 3))
    return np.where(x + 0.8 * y < 0.3, 0.75, breast)


def ultrasound(size: int) -> NDArray[np.float64]:
    """A sector on black: layers, a bright line, echoes of it below, all in speckle."""
    y, x = np.mgrid[0 : 1 : 1j * size, -0.5 : 0.5 : 1j * size]
    depth, angle = np.hypot(x, y + 0.15) - 0.15, np.arctan2(x, y + 0.15)
    lines = sum(np.exp(-(((depth - 0.22 * n) / 0.012) ** 2)) / n for n in range(1, 5))
    speckle = np.random.default_rng(0).rayleigh(0.6, (size, size))
    return np.where((np.abs(angle) < 0.6) & (depth > 0.02) & (depth < 0.98), (0.45 - 0.3 * depth + lines) * speckle, 0)


def ct(size: int) -> NDArray[np.float64]:
    """A slice of a chest in a window of soft tissue: body, lungs, heart, spine."""
    y, x = np.mgrid[-1 : 1 : 1j * size, -1 : 1 : 1j * size]
    image = 0.55 * (np.hypot(x / 0.92, y / 0.68) < 1)
    for side in (-1, 1):
        image[np.hypot((x - 0.42 * side) / 0.32, y / 0.46) < 1] = 0.08
    image[np.hypot((x - 0.1) / 0.26, (y + 0.1) / 0.26) < 1] = 0.62
    image[np.hypot(x / 0.12, (y - 0.5) / 0.12) < 1] = 0.95
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((size, size)), 0.7)
    return np.where(image > 0, image + 0.03 * noise, 0)


DRAWN = {one.__name__: one for one in (radiograph, mammogram, ultrasound, ct)}


def phantom(size: int, of: str = "radiograph") -> Tensor:
    """(1, 1, size, size), the same at every call."""
    return torch.from_numpy(DRAWN[of](size).clip(0, 1).astype(np.float32))[None, None]


def film(path: Path, size: int, choices: Sequence[str] = ()) -> Tensor:
    """(1, 1, size, size) of a file, read and resized as bundles do."""
    image, _ = FilmReader(chosen(None, choices)).get_data((path,))
    resized = Resize((size, size), mode="area")(image[None])
    return torch.as_tensor(np.asarray(resized), dtype=torch.float32)[None]


def pictures(clean: Tensor, kind: str) -> list[Tensor]:
    """The film and its shifts of severity 1 to 5, with one draw."""
    made = [clean]
    for severity in range(1, 6):
        torch.manual_seed(0)
        made.append(Shift(kind, severity)(clean))
    return made


def sheet(clean: Tensor) -> Image.Image:
    """All shifts of one film, (1, 1, rows, columns)."""
    rows, columns = (n + GAP for n in clean.shape[-2:])
    page = Image.new("L", (NAMES + 6 * columns, HEAD + len(SHIFTS) * rows), GROUND)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for column, head in enumerate(["clean", *map(str, range(1, 6))]):
        draw.text((NAMES + column * columns, 6), head, INK, font)
    for row, (name, kind) in enumerate(SHIFTS.items()):
        top = HEAD + row * rows
        draw.text((8, top + 4), name.replace("_", " "), INK, font)
        draw.text((8, top + 22), kind.group, MUTED, font)
        for column, picture in enumerate(pictures(clean, name)):
            grey = (picture[0, 0] * 255).round().to(torch.uint8).numpy()
            page.paste(Image.fromarray(grey), (NAMES + column * columns, top))
    return page


def table() -> str:
    """The shifts as a Markdown table, for ``docs/shifts.md``."""
    lines = ["| kind | group | formula | parameter | at severity 1 … 5 | from |", "|---|---|---|---|---|---|"]
    for name, kind in SHIFTS.items():
        between = "; " if isinstance(kind.values[0], tuple) else ", "
        values = between.join(map(text_of, kind.values))
        formula = kind.formula + (" (2-D only)" if kind.flat else "")
        lines.append(f"| `{name}` | {kind.group} | {formula} | {kind.parameter} | {values} | {kind.source} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film", nargs="?", type=Path)
    parser.add_argument("--of", choices=DRAWN, default="radiograph", help="what is drawn without a film")
    parser.add_argument("-o", "--output", type=Path, default=Path("shifts.png"))
    parser.add_argument("--size", type=int, default=224, help="rows and columns of the film")
    parser.add_argument("--choose", action="append", default=[], metavar="NAME=VALUE", help="as of rtda data check")
    parser.add_argument("--table", action="store_true", help="print the table instead")
    given = parser.parse_args()
    if given.table:
        print(table(), end="")
    else:
        clean = film(given.film, given.size, given.choose) if given.film else phantom(given.size, given.of)
        sheet(clean).quantize(48).save(given.output, optimize=True)
