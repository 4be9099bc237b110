"""A contact sheet: thumbnails in a grid on a dark ground, each with its number and a caption of two lines."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

SIDE = 176  # pixels of a place, and of the longer side of a thumbnail
MOST = 144  # tiles of a sheet: 12 x 12
GAP, MARGIN, LINE = 18, 32, 17  # pixels between places, around the grid, and of a line of text
ACROSS, DOWN = SIDE + GAP, SIDE + 2 * LINE + GAP + 6  # from one place to the next
GROUND, PLACE, INK, MUTED = "#14161a", "#1e2127", "#e9e7e2", "#8f949d"


@dataclass(frozen=True)
class Tile:
    """One place of the sheet.

    Attributes:
        title: first line below the picture, bright.
        caption: second line, in ``colour``.
        picture: the thumbnail; None leaves the place empty, with ``note`` in it.
    """

    title: str
    caption: str
    picture: Image.Image | None = None
    note: str = ""
    colour: str = MUTED


def thumbnail(image: npt.NDArray[np.float32]) -> Image.Image:
    """(rows, columns) in [0, 1] -> 8-bit grey of the same aspect, the longer side ``SIDE`` pixels, by area.

    Example:
        >>> thumbnail(np.ones((100, 50), np.float32)).size
        (88, 176)
    """
    rows, columns = image.shape
    scale = SIDE / max(rows, columns)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    resized = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    return Image.fromarray(np.rint(np.asarray(resized) * 255).astype(np.uint8))


def evenly(count: int, most: int = MOST) -> list[int]:
    """Numbers from 0 below ``count``: all, or ``most`` of them, evenly spaced with both ends.

    Example:
        >>> evenly(3), evenly(10, most=4)
        ([0, 1, 2], [0, 3, 6, 9])
    """
    return list(range(count)) if count <= most else [round(k * (count - 1) / (most - 1)) for k in range(most)]


def contact_sheet(tiles: Sequence[Tile], heading: Sequence[str]) -> bytes:
    """PNG of all tiles in their order, below one or two lines of heading."""
    columns = min(len(tiles), max(4, math.ceil(math.sqrt(len(tiles)))))
    top = MARGIN + LINE * (len(heading) + 1)
    fonts = ImageFont.load_default(13), ImageFont.load_default(15)
    width = max(columns * ACROSS - GAP, *(math.ceil(fonts[1].getlength(line)) for line in heading)) + 2 * MARGIN
    sheet = Image.new("RGB", (width, top + math.ceil(len(tiles) / columns) * DOWN - GAP + MARGIN), GROUND)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(heading):
        draw.text((MARGIN, MARGIN - 6 + number * (LINE + 4)), line, MUTED if number else INK, fonts[1])
    for number, tile in enumerate(tiles):
        _draw(sheet, draw, tile, MARGIN + number % columns * ACROSS, top + number // columns * DOWN, fonts[0])
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _draw(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int, font: Font) -> None:
    draw.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), PLACE)
    if tile.picture is None:
        draw.text((left + SIDE // 2, top + SIDE // 2), tile.note, tile.colour, font, anchor="mm", align="center")
    else:
        width, height = tile.picture.size
        sheet.paste(tile.picture, (left + (SIDE - width) // 2, top + (SIDE - height) // 2))
    draw.text((left, top + SIDE + 6), _fitting(tile.title, font), INK, font)
    draw.text((left, top + SIDE + 6 + LINE), _fitting(tile.caption, font), tile.colour, font)


def _fitting(text: str, font: Font) -> str:
    """The text, cut so that it is no wider than its place."""
    if font.getlength(text) <= SIDE:
        return text
    while font.getlength(text + "...") > SIDE:
        text = text[:-1]
    return text + "..."
