"""All shifts (rows) of one film, clean and at severity 1 to 5 (columns); or the table of ``docs/shifts.md``.

    python docs/figures/shifts.py -o docs/images/shifts.png --size 80
    python docs/figures/shifts.py FILM -o OUT [--size 224] [--choose hu_window=[-600,1500]]
    python docs/figures/shifts.py --table

Without FILM it is a phantom of ``rtda data phantom``; no patient. FILM is whatever ``rtda data check`` reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Resize
from PIL import Image, ImageDraw, ImageFont
from rtda.pipeline.commands.check import chosen
from rtda.pipeline.data.phantom import Phantom, render
from rtda.transforms.reader import FilmReader
from rtda.transforms.shifts import SHIFTS, Shift, text_of
from torch import Tensor

NAMES, HEAD, GAP = 190, 26, 4  # pixels left of the pictures, above them, and between them
GROUND, INK, MUTED = 22, 231, 148


def phantom(size: int) -> Tensor:
    """(1, 1, size, size), the same at every call."""
    image = render(Phantom(films=40, size=size)).images[3]
    return torch.from_numpy(image.astype(np.float32))[None, None]


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
    parser.add_argument("-o", "--output", type=Path, default=Path("shifts.png"))
    parser.add_argument("--size", type=int, default=224, help="rows and columns of the film")
    parser.add_argument("--choose", action="append", default=[], metavar="NAME=VALUE", help="as of rtda data check")
    parser.add_argument("--table", action="store_true", help="print the table instead")
    given = parser.parse_args()
    if given.table:
        print(table(), end="")
    else:
        clean = film(given.film, given.size, given.choose) if given.film else phantom(given.size)
        sheet(clean).save(given.output, optimize=True)
