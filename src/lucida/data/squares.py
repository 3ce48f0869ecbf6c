"""Policies under which every picture becomes one square of the same size.

resize      both sides stretched to it
letterbox   the shape is kept, padded with the mean colour: after scaling, or before it as
            LLaVA does
crop        the short side scaled to it, the middle kept
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from PIL import Image

from lucida.data.policies import FILTERS, Box, Frame, Grid, ImagePolicy

BAND = 256
"""Rows that are padded and scaled at a time: a strip padded to a square may be very large."""

MOST_SCALED = 16
"""`crop` scales the whole picture up to so many squares, and beyond that only the middle of it."""

Odd = Literal["transformers", "torchvision"]


class OneSquare(ImagePolicy):
    """One square of each picture.

    Worked example: a box in a 200 x 100 picture, letterbox, size 100. The picture becomes 100 x 50
    with 25 rows of padding above, so (0, 0, 200, 100) is (0, 0.25, 1, 0.75) in the frame.
    """

    one_square: ClassVar[bool] = True

    def square(self, image: Image.Image) -> Image.Image:
        """The RGB square before normalisation."""
        raise NotImplementedError

    def place(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Width and height of the scaled picture, and where its corner stands in the square."""
        raise NotImplementedError

    def move(self, width: int, height: int) -> tuple[float, float, float, float]:
        """By how much the picture is scaled along both sides, and where its corner then stands."""
        new_width, new_height, left, top = self.place(width, height)
        return new_width / width, new_height / height, left, top

    def frames(self, width: int, height: int) -> list[Frame]:
        return [("the picture", None)]

    def views(self, image: Image.Image, grid: Grid | None = None) -> list[Image.Image]:
        return [self.square(image)]

    def least(self, width: int, height: int) -> tuple[int, int]:
        wide, high, *_ = self.place(width, height)
        return 2 * wide, 2 * high

    def to_frame(self, box: Box, width: int, height: int) -> Box:
        x, y, left, top = self.move(width, height)
        x0, y0, x1, y1 = box
        return (
            (x0 * x + left) / self.size,
            (y0 * y + top) / self.size,
            (x1 * x + left) / self.size,
            (y1 * y + top) / self.size,
        )

    def from_frame(self, box: Box, width: int, height: int) -> Box:
        x, y, left, top = self.move(width, height)
        x0, y0, x1, y1 = box
        return (
            (x0 * self.size - left) / x,
            (y0 * self.size - top) / y,
            (x1 * self.size - left) / x,
            (y1 * self.size - top) / y,
        )


class Resize(OneSquare):
    """Both sides stretched to the square."""

    policy: ClassVar[str] = "resize"

    def place(self, width: int, height: int) -> tuple[int, int, int, int]:
        return self.size, self.size, 0, 0

    def square(self, image: Image.Image) -> Image.Image:
        return self.scale(image, self.size, self.size)


@dataclass(frozen=True)
class Letterbox(OneSquare):
    """The picture scaled to fit and padded with the mean colour; `pad: first` pads before it
    scales, as LLaVA and Prismatic do. `pad`, `odd` as in `ImageSpec`."""

    pad: Literal["last", "first"] = "last"
    odd: Odd = "transformers"

    policy: ClassVar[str] = "letterbox"

    def place(self, width: int, height: int) -> tuple[int, int, int, int]:
        side = max(width, height)
        new_width, new_height = (max(1, round(self.size * n / side)) for n in (width, height))
        return new_width, new_height, (self.size - new_width) // 2, (self.size - new_height) // 2

    def move(self, width: int, height: int) -> tuple[float, float, float, float]:
        if self.pad == "last":
            return super().move(width, height)
        (wide, high), (left, top), (new_width, new_height), cut = self.canvas(width, height)
        x, y = new_width / wide, new_height / high
        return x, y, left * x - cut[0], top * y - cut[1]

    def square(self, image: Image.Image) -> Image.Image:
        if self.pad == "first":
            return self.pad_first(image)
        new_width, new_height, left, top = self.place(*image.size)
        scaled = self.scale(image, new_width, new_height)
        if (new_width, new_height) == (self.size, self.size):
            return scaled
        colour = tuple(round(255 * value) for value in self.mean)
        padded = Image.new("RGB", (self.size, self.size), colour)
        padded.paste(scaled, (left, top))
        return padded

    def pad_first(self, image: Image.Image) -> Image.Image:
        """The picture in the middle of a square of its longer side, and that scaled: the pixels of
        LLaVA's order. Pillow scales along the rows first, so a few rows at a time do."""
        width, height = image.size
        (wide, high), (left, top), (new_width, new_height), cut = self.canvas(width, height)
        colour = tuple(int(255 * value) for value in self.mean)
        # Pillow resamples along rows, then along columns, with 8 bits between: done here in two
        # calls, the first of them band by band, it is the same to the bit.
        narrow = Image.new("RGB", (new_width, high), colour)
        for begin in range(0, height, BAND):
            rows = min(BAND, height - begin)
            band = Image.new("RGB", (wide, rows), colour)
            band.paste(image.crop((0, begin, width, begin + rows)), (left, 0))
            narrow.paste(self.scale(band, new_width, rows), (0, top + begin))
        scaled = self.scale(narrow, new_width, new_height)
        if scaled.size == (self.size, self.size):
            return scaled
        return scaled.crop((*cut, cut[0] + self.size, cut[1] + self.size))

    def canvas(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        """Of padding first: the padded picture's width and height, the place of the picture in it,
        its width and height when scaled, and how much of that is cut at the left and the top.

        Worked example, `torchvision`, size 4, a picture of 6 x 3: padded by 1 on both sides to
        6 x 5, scaled to 4 x 4 (its shorter side to 4, the other to int(4 x 6 / 5)); a picture of
        3 x 2 is not padded, scaled to 6 x 4, and loses 1 at the left and the right.
        """
        side = max(width, height)
        if self.odd == "transformers":
            middle = ((side - width) // 2, (side - height) // 2)
            return (side, side), middle, (self.size, self.size), (0, 0)
        left, top = (int((side - each) / 2) for each in (width, height))
        wide, high = width + 2 * left, height + 2 * top
        shorter = min(wide, high)
        scaled = (int(self.size * wide / shorter), int(self.size * high / shorter))
        cut = tuple(halve_excess(each, self.size, self.odd) for each in scaled)
        return (wide, high), (left, top), scaled, cut


@dataclass(frozen=True)
class Crop(OneSquare):
    """The short side scaled to the square, and the middle kept. `odd` as in `ImageSpec`."""

    odd: Odd = "transformers"

    policy: ClassVar[str] = "crop"

    def place(self, width: int, height: int) -> tuple[int, int, int, int]:
        side = min(width, height)
        # CLIP's own processor cuts the fraction off.
        new_width, new_height = (max(1, int(self.size * n / side)) for n in (width, height))
        # Floor division of a negative number would shift odd crops the other way than padding.
        left, top = (-halve_excess(n, self.size, self.odd) for n in (new_width, new_height))
        return new_width, new_height, left, top

    def square(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        new_width, new_height, left, top = self.place(width, height)
        place = (-left, -top, self.size - left, self.size - top)
        if new_width * new_height <= MOST_SCALED * self.size**2:
            return self.scale(image, new_width, new_height).crop(place)
        # Hardly ever: a 1 x 10000 strip would become 224 x 2240000. Only pixels whose
        # neighbours are cut off differ.
        x, y = width / new_width, height / new_height
        middle = (place[0] * x, place[1] * y, place[2] * x, place[3] * y)
        return image.resize((self.size, self.size), FILTERS[self.resample], box=middle)


def halve_excess(length: int, size: int, odd: Odd) -> int:
    """What is cut in front of the middle `size` of a length."""
    over = length - size
    return round(over / 2.0) if odd == "torchvision" else over // 2
