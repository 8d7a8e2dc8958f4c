"""Facades of the toy city: a place's parameters painted as flat textures, once for all its images."""

import functools

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from .places import ACCENTS, DARK, FAMILIES, REACH, ROOFS, Place

SCALE = 12  # texture pixels per metre
TOP, DEPTH = 19.0, 20.0  # metres of facade height and of ground depth in the textures
BLACK = (0, 0, 0)
SNOW = (236, 240, 246)
GLASS = (58, 70, 84)


def shade(colour, factor):
    return tuple(min(255, max(0, round(c * factor))) for c in colour)


class Pen:
    """Draws shapes given in metres (x right, y up) onto an albedo image and, where there is one, a glow image."""

    def __init__(self, albedo, glow, origin, scale):
        self.albedo, self.glow, self.origin, self.scale = albedo, glow, origin, scale

    def _draw(self, shape, points, colour, glow, **options):
        (u, v), s = self.origin, self.scale
        pixels = [(u + x * s, v - y * s) for x, y in points]
        getattr(self.albedo, shape)(pixels, fill=colour, **options)
        if self.glow:
            getattr(self.glow, shape)(pixels, fill=glow, **options)

    def polygon(self, points, colour, glow=BLACK):
        self._draw("polygon", points, colour, glow)

    def box(self, x, y, width, height, colour, glow=BLACK):
        """The rectangle whose lower left corner is (x, y)."""
        self._draw("rectangle", [(x, y + height), (x + width, y)], colour, glow)

    def oval(self, x, y, rx, ry, colour, glow=BLACK):
        """The ellipse centred on (x, y)."""
        self._draw("ellipse", [(x - rx, y + ry), (x + rx, y - ry)], colour, glow)

    def line(self, points, width, colour):
        self._draw("line", points, colour, BLACK, width=max(1, round(width * self.scale)))


def _window(pen, kind, x, y, w, h, trim, accent, snow, openings, glass=GLASS):
    """One window in the box (x, y, w, h); its glass is noted in `openings` so that it can be lit."""
    pen.box(x - 0.14, y - 0.14, w + 0.28, h + 0.28, trim)
    if kind == "arched":
        pen.oval(x + w / 2, y + h, w / 2 + 0.14, 0.5, trim)
        pen.oval(x + w / 2, y + h, w / 2, 0.38, glass)
    pen.box(x, y, w, h, glass)
    pen.polygon([(x, y + h * 0.55), (x + w * 0.6, y + h), (x, y + h)], shade(glass, 1.35))
    openings.append((x, y, w, h))
    bars = {"sash": ((), (0.5,)), "casement": ((0.5,), ()), "shutters": ((0.5,), (0.7,)), "arched": ((0.5,), (0.62,)),
            "grid": ((0.33, 0.67), (0.33, 0.67)), "plain": ((), ()), "ribbon": ((0.25, 0.5, 0.75), ()),
            "curtain": ((0.5,), (0.3,))}[kind]
    for share in bars[0]:
        pen.box(x + w * share - 0.04, y, 0.08, h, trim)
    for share in bars[1]:
        pen.box(x, y + h * share - 0.04, w, 0.08, trim)
    if kind == "shutters":
        for side in (x - 0.14 - w * 0.42, x + w + 0.14):
            pen.box(side, y - 0.05, w * 0.42, h + 0.1, shade(accent, 0.9))
    pen.box(x - 0.2, y - 0.26, w + 0.4, 0.14, SNOW if snow else shade(trim, 0.86))


def _roof(pen, facade, x, y, trim, snow, openings):
    """The roof above the wall whose top left corner is (x, y)."""
    w, colour = facade.width, ROOFS[facade.roof_colour]
    covered = SNOW if snow else colour
    if facade.roof in ("parapet", "flat"):
        pen.box(x, y, w, 0.5 if facade.roof == "parapet" else 0.25, trim)
        if facade.roof == "flat":
            pen.box(x + w * 0.2, y + 0.25, w * 0.3, 1.5, shade(colour, 1.1))
    elif facade.roof == "cornice":
        pen.box(x - 0.15, y, w + 0.3, 0.45, trim)
        pen.box(x - 0.3, y + 0.45, w + 0.6, 0.25, shade(trim, 0.82))
        for tooth in np.arange(x + 0.2, x + w - 0.3, 0.7):
            pen.box(tooth, y - 0.22, 0.3, 0.22, shade(trim, 0.75))
    elif facade.roof == "pitched":
        pen.polygon([(x - 0.2, y), (x + w + 0.2, y), (x + w - 0.5, y + 2.0), (x + 0.5, y + 2.0)], covered)
        pen.box(x + w * 0.75, y + 1.2, 0.9, 1.8, (116, 72, 60))
    elif facade.roof == "mansard":
        pen.polygon([(x, y), (x + w, y), (x + w - 0.5, y + 2.3), (x + 0.5, y + 2.3)], covered)
        pen.box(x - 0.1, y, w + 0.2, 0.3, trim)
        for bay in range(facade.bays):
            centre = x + 0.3 + (bay + 0.5) * facade.bay_width
            pen.box(centre - 0.6, y + 0.4, 1.2, 1.5, trim)
            pen.polygon([(centre - 0.75, y + 1.9), (centre + 0.75, y + 1.9), (centre, y + 2.4)], trim)
            pen.box(centre - 0.4, y + 0.5, 0.8, 1.25, GLASS)
            openings.append((centre - 0.4, y + 0.5, 0.8, 1.25))
    else:  # gable and stepped gable stand in the wall's own colour
        wall = _wall_colour(facade)
        rise = w * 0.42
        if facade.roof == "gable":
            eaves = [(x - 0.3, y - 0.2), (x + w + 0.3, y - 0.2), (x + w / 2, y + rise + 0.4)]
            pen.polygon(eaves, SNOW if snow else trim)
            pen.polygon([(x, y), (x + w, y), (x + w / 2, y + rise)], wall)
        else:
            for step in range(4):
                inset = step * w / 9
                pen.box(x + inset, y + step * rise / 4, w - 2 * inset, rise / 4 + 0.18, SNOW if snow else trim)
                pen.box(x + inset, y + step * rise / 4 - 0.02, w - 2 * inset, rise / 4, wall)
        pen.oval(x + w / 2, y + rise * 0.36, 0.5, 0.5, trim)
        pen.oval(x + w / 2, y + rise * 0.36, 0.36, 0.36, GLASS)


def _wall_colour(facade):
    wall = FAMILIES[facade.family].walls[facade.wall]
    return tuple(min(255, max(0, round(c * t))) for c, t in zip(wall, facade.tint, strict=True))


def _sign(pen, facade, x, y, w, signs):
    """A shop sign: a board in the accent colour with the letters of a made-up word."""
    accent, rng = ACCENTS[facade.accent], np.random.default_rng(facade.word)
    pen.box(x, y, w, 0.8, accent)
    signs.append((x, y, w, 0.8, accent))
    ink = (236, 226, 196) if sum(accent) < 380 else (40, 36, 34)
    letter = x + w * 0.5 - (n := int(rng.integers(4, 9))) * 0.24
    for _ in range(n):
        pen.box(letter, y + 0.2, 0.12 if rng.random() < 0.5 else 0.3, 0.42, ink)
        letter += 0.48


def _ground_floor(pen, facade, x, trim, snow, openings, signs):
    """Ground floor, 3.6 m high: shop, doors and windows, garage or arcade."""
    w, bay, accent = facade.width, facade.bay_width, ACCENTS[facade.accent]
    wall = _wall_colour(facade)
    if facade.ground == "shop":
        pen.box(x + 0.2, 0, w - 0.4, 3.4, shade(accent, 0.7))
        _sign(pen, facade, x + 0.2, 2.7, w - 0.4, signs)
    else:
        pen.box(x, 0, w, 0.5, shade(trim, 0.7))
    for b in range(facade.bays):
        left = x + 0.3 + b * bay
        if b == facade.door:
            pen.box(left + bay / 2 - 0.75, 0, 1.5, 2.75, trim)
            pen.box(left + bay / 2 - 0.55, 0.1, 1.1, 2.1, accent)
            pen.box(left + bay / 2 - 0.5, 2.25, 1.0, 0.4, GLASS)
            openings.append((left + bay / 2 - 0.5, 2.25, 1.0, 0.4))
        elif facade.ground == "shop":
            pen.box(left + 0.12, 0.5, bay - 0.24, 2.1, (66, 78, 90))
            pen.polygon([(left + 0.12, 1.6), (left + bay * 0.5, 2.6), (left + 0.12, 2.6)], (88, 102, 114))
            openings.append((left + 0.12, 0.5, bay - 0.24, 2.1))
        elif facade.ground == "garage":
            pen.box(left + 0.1, 0, bay - 0.2, 2.6, shade(accent, 0.8))
            for slat in (0.6, 1.2, 1.8):
                pen.box(left + 0.1, slat, bay - 0.2, 0.08, shade(accent, 0.5))
        elif facade.ground == "arcade":
            pen.box(left + 0.35, 0, bay - 0.7, 2.3, (52, 48, 48))
            pen.oval(left + bay / 2, 2.3, bay / 2 - 0.35, 0.8, (52, 48, 48))
            openings.append((left + 0.5, 0.4, bay - 1.0, 1.7))
        else:
            _window(pen, facade.window if facade.window != "curtain" else "plain", left + bay * 0.24, 1.0, bay * 0.52,
                    1.7, trim, accent, snow, openings)
    if facade.ground == "shop" and facade.accent % 2:  # every second colour comes with an awning
        for stripe in range(int((w - 0.6) / 0.5)):
            colour = accent if stripe % 2 else (228, 224, 212)
            left = x + 0.3 + stripe * 0.5
            pen.polygon([(left, 2.7), (left + 0.5, 2.7), (left + 0.5, 2.0), (left, 2.0)], colour)
    if facade.ground != "shop":
        pen.box(x, 3.4, w, 0.22, shade(wall, 0.8))


def _paint_facade(pen, facade, x, snow, openings, signs):
    """One building whose left edge is at x."""
    style, wall = FAMILIES[facade.family], _wall_colour(facade)
    trim, accent = style.trims[facade.trim], ACCENTS[facade.accent]
    w, h, bay = facade.width, facade.height, facade.bay_width
    glass = shade(wall, 0.62) if facade.window == "curtain" else GLASS  # tinted panes
    pen.box(x, 0, w, h, wall)
    joints = {  # height of the first, distance between two, their own height, and how dark they are
        "brick": (0.3, 0.3, 0.07, 0.86), "boards": (0.25, 0.42, 0.08, 0.78),
        "panels": (3.6, facade.floor_height, 0.14, 0.7)}
    if style.texture in joints:
        first, distance, height, darkness = joints[style.texture]
        for y in np.arange(first, h, distance):
            pen.box(x, y, w, height, shade(wall, darkness))
    _roof(pen, facade, x, h, trim, snow, openings)
    _ground_floor(pen, facade, x, trim, snow, openings, signs)
    band = {"ribbon": 0.5, "curtain": 0.74}.get(facade.window)  # of glass along a floor: its share of the height
    for floor in range(facade.floors):
        y = 3.6 + floor * facade.floor_height
        if band:
            _window(pen, "plain", x + 0.3, y + 0.5 * (1 - band) * facade.floor_height, w - 0.6,
                    band * facade.floor_height, trim, accent, False, [], glass)
        for b in range(facade.bays):
            left = x + 0.3 + b * bay
            share_w, share_h = (0.92, band) if band else facade.window_share
            if not band and facade.blanks >> b & 1:
                share_w *= 0.5
            ww, wh = share_w * bay, share_h * facade.floor_height
            _window(pen, facade.window, left + (bay - ww) / 2, y + (facade.floor_height - wh) / 2, ww, wh, trim, accent,
                    snow, openings, glass)
            if facade.balconies >> floor & 1 and not band:
                pen.box(left + 0.15, y + 0.12, bay - 0.3, 0.2, SNOW if snow else shade(trim, 0.7))
                for rail in np.arange(left + 0.2, left + bay - 0.2, 0.28):
                    pen.box(rail, y + 0.3, 0.07, 0.75, DARK)
                pen.box(left + 0.15, y + 1.0, bay - 0.3, 0.1, DARK)
        if facade.balconies >> floor & 1 and facade.window == "ribbon":
            pen.box(x + 0.1, y + 0.1, w - 0.2, 0.9, shade(accent, 1.1))
    pen.box(x - 0.04, 0, 0.09, h, shade(wall, 0.55))


@functools.lru_cache(maxsize=2)  # painted once for all views of a place, with snow and without
def textures(place: Place, snow: bool):
    """-> (facades RGBA, ground RGB, openings, signs); openings and signs are boxes in metres."""
    size = (round(2 * REACH * SCALE), round(TOP * SCALE))
    facades, openings, signs = Image.new("RGBA", size), [], []
    pen = Pen(ImageDraw.Draw(facades), None, (REACH * SCALE, size[1]), SCALE)
    x = place.left
    for facade in place.facades:
        _paint_facade(pen, facade, x, snow, openings, signs)
        x += facade.width
    return _weather(facades, place.seed), _ground(place, snow), openings, signs


def _ground(place, snow):
    """Pavement, kerb and road; rows run from the facades (Z = 0) towards the camera."""
    size = (round(2 * REACH * SCALE), round(DEPTH * SCALE))
    paving, road = (SNOW, (176, 180, 188)) if snow else (place.paving, (92, 92, 96))
    ground = Image.new("RGBA", size, (*paving, 255))
    pen = Pen(ImageDraw.Draw(ground), None, (REACH * SCALE, 0), SCALE)
    for x in np.arange(-REACH, REACH, 1.0):
        pen.box(x, -3.2, 0.07, 3.2, shade(paving, 0.86))
    for z in (-1.0, -2.0):
        pen.box(-REACH, z, 2 * REACH, 0.07, shade(paving, 0.86))
    pen.box(-REACH, -3.5, 2 * REACH, 0.3, shade(paving, 1.12))
    pen.box(-REACH, -DEPTH, 2 * REACH, DEPTH - 3.5, road)
    for x in np.arange(-REACH, REACH, 4.0):
        pen.box(x, -8.2, 2.0, 0.16, shade(road, 0.9) if snow else (214, 212, 204))
    return _weather(ground, place.seed + 1)


def _weather(image, seed):
    """Darken a texture by smooth stains, alpha kept."""
    rng, (w, h) = np.random.default_rng(seed), image.size
    stains = Image.fromarray(rng.integers(214, 256, (h // 24 + 2, w // 24 + 2), dtype=np.uint8))
    stains = stains.resize((w, h), Image.BICUBIC)
    return ImageChops.multiply(image, Image.merge("RGBA", (stains, stains, stains, Image.new("L", (w, h), 255))))
