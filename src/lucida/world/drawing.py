"""Drawing a scene with Pillow: the same scene gives the same pixels everywhere.

The word font is Pillow's built-in bitmap font (6x11 pixels a letter), so that no font file of the
machine decides what a sign looks like.
"""

from __future__ import annotations

import math
from functools import cache

from PIL import Image, ImageChops, ImageDraw, ImageFont

from lucida.world.scenes import Scene, Thing

PAINT = {
    "red": (214, 39, 40),
    "orange": (255, 137, 14),
    "yellow": (240, 214, 40),
    "green": (44, 150, 60),
    "cyan": (40, 200, 212),
    "blue": (40, 80, 214),
    "purple": (128, 52, 168),
    "pink": (246, 132, 190),
}
GROUND = {
    "white": (250, 250, 250),
    "grey": (150, 152, 156),
    "black": (24, 24, 28),
    "sandy": (222, 202, 164),
    "checked": (236, 240, 244),
}
_BOARD, _INK, _SHADE = (252, 250, 238), (20, 20, 20), 0.45


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene, RGB, of the scene's own width and height."""
    picture = _ground(scene.background, scene.width, scene.height).copy()
    pen = ImageDraw.Draw(picture)
    for thing in scene.things:
        _draw_thing(picture, pen, thing)
    for sign in scene.signs:
        x0, y0, x1, y1 = sign.box
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), fill=_BOARD, outline=_INK)
        pen.text((x0 + 2, y0 + 1), sign.word, fill=_INK, font=_font())
    return picture


def _draw_thing(picture: Image.Image, pen: ImageDraw.ImageDraw, thing: Thing) -> None:
    x0, y0, x1, _ = thing.box
    side = x1 - x0
    colour = PAINT[thing.colour]
    picture.paste(colour, (x0, y0), _stencil(thing.shape, side))
    if thing.texture != "plain":
        shade = tuple(int(c * _SHADE) for c in colour)
        picture.paste(shade, (x0, y0), _draw_texture(thing.shape, thing.texture, side))
    if thing.label:
        pen.rectangle((x1, y0, x1 + 6, y0 + 10), fill=_BOARD)
        pen.text((x1 + 1, y0), thing.label, fill=_INK, font=_font())


@cache
def _font() -> ImageFont.ImageFont:
    return ImageFont.load_default_imagefont()


@cache
def _ground(name: str, width: int, height: int) -> Image.Image:
    picture = Image.new("RGB", (width, height), GROUND[name])
    if name == "checked":
        pen = ImageDraw.Draw(picture)
        for y in range(0, height, 4):
            for x in range(y % 8, width, 8):
                pen.rectangle((x, y, x + 3, y + 3), fill=(206, 214, 224))
    return picture


@cache
def _stencil(shape: str, side: int) -> Image.Image:
    """A mask of `side` pixels, drawn four times as large and reduced, so that edges are smooth."""
    big = side * 4
    mask = Image.new("L", (big, big), 0)
    pen = ImageDraw.Draw(mask)
    if shape in ("circle", "ring"):
        pen.ellipse((0, 0, big - 1, big - 1), fill=255)
        if shape == "ring":
            hole = round(big * 0.28)
            pen.ellipse((hole, hole, big - 1 - hole, big - 1 - hole), fill=0)
    elif shape == "square":
        pen.rectangle((0, 0, big - 1, big - 1), fill=255)
    elif shape == "cross":
        low, high = round(big * 0.34), round(big * 0.66)
        pen.rectangle((low, 0, high, big - 1), fill=255)
        pen.rectangle((0, low, big - 1, high), fill=255)
    else:
        pen.polygon(_corners(shape, big), fill=255)
    return mask.reduce(4)


def _corners(shape: str, big: int) -> list[tuple[float, float]]:
    if shape == "triangle":
        return [(big / 2, 0), (big - 1, big - 1), (0, big - 1)]
    if shape == "star":
        points = []
        for k in range(10):
            radius = big / 2 if k % 2 == 0 else big / 5
            angle = math.pi * k / 5 - math.pi / 2
            points.append((radius * math.cos(angle), radius * math.sin(angle)))
        return _filling(points, big)
    raise KeyError(f"no such shape: {shape}")


def _filling(points: list[tuple[float, float]], big: int) -> list[tuple[float, float]]:
    """The same corners stretched so that they touch all four sides of the square."""
    low_x, low_y = min(x for x, _ in points), min(y for _, y in points)
    wide = max(x for x, _ in points) - low_x
    tall = max(y for _, y in points) - low_y
    return [((x - low_x) / wide * (big - 1), (y - low_y) / tall * (big - 1)) for x, y in points]


@cache
def _draw_texture(shape: str, texture: str, side: int) -> Image.Image:
    pattern = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(pattern)
    if texture == "striped":
        for y in range(1, side, 4):
            pen.rectangle((0, y, side, y + 1), fill=255)
    else:
        for y in range(1, side, 4):
            for x in range(1, side, 4):
                pen.rectangle((x, y, x + 1, y + 1), fill=255)
    return ImageChops.multiply(pattern, _stencil(shape, side))
