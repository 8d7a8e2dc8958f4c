"""Images of a toy place: a pinhole camera, what stands and drives before the facades, light, and the sensor.

World axes, in metres: X along the street, Y up, Z across it with the facades at Z = 0 and the camera at Z < 0.  Albedo
and glow (lit windows, signs, lamps) are drawn apart, so that one drawing serves day, dusk, night and snow.
"""

from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .facades import BLACK, SCALE, SNOW, TOP, Pen, shade, textures
from .places import ACCENTS, DARK, REACH, WHITE, Place

WIDTH, HEIGHT = 168, 126  # pixels of a finished image
CONDITIONS = ("day", "dusk", "night", "snow")

_SUPER = 2  # drawn larger by this factor, then averaged down
_EYE = 1.7  # camera height in metres


class View(NamedTuple):
    """Camera (metres, degrees) and condition of one image; `seed` draws light, traffic and sensor noise."""

    along: float
    across: float  # distance to the facades
    yaw: float
    pitch: float
    roll: float
    field: float  # horizontal field of view
    condition: str
    seed: int


class _Camera:
    """Pinhole camera on the enlarged canvas."""

    def __init__(self, view):
        self.size = (WIDTH * _SUPER, HEIGHT * _SUPER)
        self.focal = self.size[0] / 2 / np.tan(np.radians(view.field) / 2)
        yaw, pitch, roll = np.radians([view.yaw, view.pitch, view.roll])
        cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
        turn = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        tilt = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        spin = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        # Like a shifted lens, the principal point lies low, so that roofs are seen while walls stay upright.
        lens = np.array([[self.focal, 0, self.size[0] / 2], [0, self.focal, self.size[1] * 0.66], [0, 0, 1]])
        self.matrix = lens @ spin @ tilt.T @ np.diag([1.0, -1.0, 1.0]) @ turn
        self.centre = np.array([view.along, _EYE, -view.across])

    def project(self, x, y, z):
        """World point -> (u, v, scale): pixels, and pixels per metre there."""
        u, v, depth = self.matrix @ (np.array([x, y, z]) - self.centre)
        return u / depth, v / depth, self.focal / depth

    def warp(self, texture, origin, right, down, rows):
        """-> the canvas rows (first, behind last) showing a texture.

        Its pixel (0, 0) lies at `origin` in the world, its axes along the unit vectors `right` and `down`.
        """
        plane = np.stack([np.array(right) / SCALE, np.array(down) / SCALE, np.array(origin) - self.centre], axis=1)
        back = np.linalg.inv(self.matrix @ plane) @ np.array([[1, 0, 0], [0, 1, rows[0]], [0, 0, 1]])
        back /= back[2, 2]
        size = (self.size[0], rows[1] - rows[0])
        return texture.transform(size, Image.PERSPECTIVE, back.ravel()[:8].tolist(), Image.BILINEAR)


def _tree(pen, height, seed, snow):
    rng = np.random.default_rng(seed)
    bark = (84, 66, 52)
    pen.box(-0.14, 0, 0.28, height * 0.55, bark)
    if snow:
        for _ in range(9):
            x, y = rng.uniform(-1.4, 1.4), rng.uniform(0.7, 1.0) * height
            pen.line([(0, height * rng.uniform(0.4, 0.6)), (x, y)], 0.09, bark)
            pen.oval(x, y, 0.16, 0.08, SNOW)
    else:
        green = shade((78, 108, 56), rng.uniform(0.75, 1.15))
        for _ in range(12):
            x, y = rng.normal(0, 0.62), height * 0.72 + rng.normal(0, 0.6)
            pen.oval(x, y, rng.uniform(0.4, 0.75), rng.uniform(0.35, 0.65), shade(green, rng.uniform(0.8, 1.2)))


def _furniture(pen, kind, accent, snow):
    boxes = {
        "bench": [(-0.9, 0.4, 1.8, 0.1, SNOW if snow else (120, 84, 54)), (-0.9, 0.6, 1.8, 0.25, (110, 76, 50)),
                  (-0.8, 0, 0.1, 0.4, DARK), (0.7, 0, 0.1, 0.4, DARK)],
        "box": [(-0.3, 0.3, 0.6, 1.0, accent), (-0.07, 0, 0.14, 0.3, DARK)],
        "bollards": [(x - 0.08, 0, 0.16, 0.9, DARK) for x in (-1.2, 0.0, 1.2)],
        "sign": [(-0.05, 0, 0.1, 2.2, (130, 132, 136))],
        "kiosk": [(-0.9, 0, 1.8, 2.3, accent), (-0.7, 0.9, 1.4, 0.9, (70, 80, 88)),
                  (-1.1, 2.3, 2.2, 0.2, SNOW if snow else shade(accent, 0.7))]}
    for box in boxes[kind]:
        pen.box(*box)
    if kind == "sign":
        pen.oval(0, 2.4, 0.36, 0.36, (196, 50, 44))
        pen.oval(0, 2.4, 0.24, 0.24, WHITE)


def _car(pen, rng, lights, van):
    """A car or a van, either way round; with `lights`, its lamps glow."""
    colours = ((196, 198, 202), (44, 46, 50), (150, 32, 34), (38, 62, 108), (228, 228, 226), (108, 112, 116),
               (70, 92, 70))
    colour = colours[rng.integers(len(colours))]
    flip = 1 if rng.random() < 0.5 else -1
    half, glass = (2.7 if van else 2.15), (52, 62, 72)
    shape = ([(-half, 0.35), (half, 0.35), (half, 1.2), (half - 0.7, 2.2), (-half, 2.3)] if van else
             [(-half, 0.35), (half, 0.35), (half, 0.8), (half - 1.0, 0.95), (half - 1.6, 1.45), (-half + 0.8, 1.48),
              (-half + 0.1, 0.95)])
    pane = ([(half - 1.5, 1.3), (half - 0.35, 1.3), (half - 0.85, 2.0), (half - 1.5, 2.0)] if van else
            [(half - 1.3, 0.98), (half - 1.72, 1.36), (-half + 0.9, 1.38), (-half + 0.4, 0.98)])
    pen.oval(0, 0.05, half + 0.1, 0.16, (40, 40, 44))
    pen.polygon([(flip * x, y) for x, y in shape], colour)
    pen.polygon([(flip * x, y) for x, y in pane], glass)
    for x in (-half * 0.62, half * 0.62):
        pen.oval(x, 0.36, 0.36, 0.36, (34, 34, 36))
        pen.oval(x, 0.36, 0.17, 0.17, (140, 142, 146))
    if lights:
        pen.box(flip * (half - 0.1) - 0.12, 0.6, 0.24, 0.2, (240, 236, 210), (255, 244, 200))
        pen.box(flip * (0.1 - half) - 0.12, 0.65, 0.24, 0.2, (170, 30, 30), (220, 30, 24))


def _person(pen, rng):
    size, coat = rng.uniform(0.9, 1.06), tuple(int(c) for c in rng.integers(30, 200, 3))
    legs = tuple(int(c) for c in rng.integers(28, 90, 3))
    stride = rng.uniform(0.08, 0.3)
    pen.line([(0, 0.9 * size), (-stride, 0)], 0.17, legs)
    pen.line([(0, 0.9 * size), (stride, 0)], 0.17, legs)
    pen.box(-0.24, 0.8 * size, 0.48, 0.72 * size, coat)
    pen.oval(0, 1.64 * size, 0.13, 0.15, (188, 142, 116))


def _draw_street(camera, albedo, glow, place, rng, condition):
    """Fixed furniture, then traffic, from the facades towards the camera."""
    snow, dark = condition == "snow", condition in ("dusk", "night")
    things = [(-2.6, x, lambda pen, h=h, s=s: _tree(pen, h, s, snow)) for x, h, s in place.trees]
    things += [(-1.6, x, lambda pen, k=k, a=a: _furniture(pen, k, ACCENTS[a], snow)) for x, k, a in place.furniture]

    def lamp(pen):
        pen.box(-0.06, 0, 0.12, 4.6, DARK)
        pen.oval(0, 4.7, 0.3, 0.22, (220, 216, 200), (255, 226, 160) if dark else BLACK)

    things += [(-2.9, x, lamp) for x in place.lamps]
    for _ in range(rng.integers(0, 4)):  # people on the pavement
        things.append((rng.uniform(-3.0, -1.0), rng.uniform(-16, 16), lambda pen: _person(pen, rng)))
    for x in np.arange(-20, 20, 5.6):  # parked cars
        if rng.random() < 0.15:
            things.append((-4.4, x + rng.uniform(-0.5, 0.5), lambda pen: _car(pen, rng, False, rng.random() < 0.2)))
    for _ in range(rng.integers(0, 2)):  # moving cars
        things.append((-6.6, rng.uniform(-14, 14), lambda pen: _car(pen, rng, dark, rng.random() < 0.15)))
    for z, x, draw in sorted(things, key=lambda thing: -thing[0]):
        u, v, scale = camera.project(x, 0.0, z)
        draw(Pen(albedo, glow, (u, v), scale))


_LIGHT = {"day": (1.0, 0.98, 0.95), "dusk": (0.60, 0.52, 0.52), "night": (0.46, 0.46, 0.5), "snow": (0.88, 0.9, 0.94)}
_SKY = {  # RGB 0..1 at the top and at the horizon
    "day": ((0.36, 0.56, 0.86), (0.76, 0.86, 0.94)),
    "dusk": ((0.24, 0.22, 0.42), (0.92, 0.56, 0.36)),
    "night": ((0.02, 0.03, 0.07), (0.10, 0.10, 0.15)),
    "snow": ((0.70, 0.73, 0.78), (0.84, 0.86, 0.89)),
}


def _sky(rng, condition):
    """Sky radiance (HEIGHT, WIDTH, 3) float32: a gradient with clouds, on some days overcast."""
    top, low = (np.array(c, dtype=np.float32) for c in _SKY[condition])
    ramp = np.linspace(0, 1.3, HEIGHT, dtype=np.float32)[:, None, None].clip(0, 1)
    sky = top + (low - top) * ramp
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6), dtype=np.uint8)).resize((WIDTH, HEIGHT), Image.BICUBIC)
    cloud = (np.asarray(coarse, dtype=np.float32)[..., None] / 255 - rng.uniform(0.0, 0.8)).clip(0, 1)
    return sky + (sky.mean() * 1.25 - sky) * cloud


def _light_windows(glow, openings, signs, rng, share):
    """Light a random share of the windows, and the signs, on a facade glow texture."""
    pen = Pen(glow, None, (REACH * SCALE, TOP * SCALE), SCALE)
    warm = ((255, 206, 120), (255, 226, 170), (236, 236, 220), (255, 180, 96), (150, 180, 220))
    for x, y, w, h in openings:
        if rng.random() < share:
            colour = shade(warm[rng.integers(len(warm))], rng.uniform(0.35, 0.7))
            drawn = rng.uniform(0.3, 1.0) if rng.random() < 0.3 else 1.0  # a curtain half drawn
            pen.box(x, y, w * drawn, h, colour)
    for x, y, w, h, accent in signs:
        if rng.random() < 0.7:
            pen.box(x, y, w, h, shade(accent, 1.1))


def _shadow(camera, rng):
    """Share of sunlight (HEIGHT, WIDTH, 1) left by the houses opposite, which shade the lower facades."""
    mask = Image.new("L", camera.size, 255)
    outline, x, level = [], -40.0, rng.uniform(1.0, 9.0)
    while x < 40:
        step = rng.uniform(4, 10)
        high = level + rng.uniform(-1.8, 1.8)
        outline += [(x, high), (x + step, high)]
        x += step
    points = [camera.project(x, y, 0.0)[:2] for x, y in outline]
    ImageDraw.Draw(mask).polygon([*points, (points[-1][0], 9999), (points[0][0], 9999)], fill=0)
    mask = mask.reduce(_SUPER).filter(ImageFilter.GaussianBlur(0.8))
    return 1 - rng.uniform(0.15, 0.4) * (1 - np.asarray(mask, dtype=np.float32)[..., None] / 255)


def _lamp_light(camera, place):
    """Light (HEIGHT, WIDTH, 3) that the street lamps throw on what is near them."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    light = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    for x in place.lamps:
        u, v, scale = (c / _SUPER for c in camera.project(x, 3.2, -1.0))
        light += np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * (4.2 * scale) ** 2))
    return light[..., None] * np.array([1.0, 0.86, 0.68], dtype=np.float32)


def render(place: Place, view: View) -> bytes:
    """Draw one image of the place: JPEG bytes, WIDTH x HEIGHT pixels, the same bytes for the same arguments."""
    rng, camera, condition = np.random.default_rng(view.seed), _Camera(view), view.condition
    dark = condition in ("dusk", "night")
    facades, ground, openings, signs = textures(place, condition == "snow")

    # Albedo: transparent where the sky is seen.
    canvas = Image.new("RGBA", camera.size)
    draw = ImageDraw.Draw(canvas)
    haze = (120, 124, 132)
    for x, width, height in place.skyline:
        outline = ((x, -9.0), (x, height), (x + width, height), (x + width, -9.0))
        corners = [camera.project(*corner, 60.0)[:2] for corner in outline]
        draw.polygon(corners, fill=(*shade(haze, 0.8 + height / 120), 255))
    (u0, v0, _), (u1, v1, _) = (camera.project(x, 0.0, 0.0) for x in (-REACH, REACH))  # the foot of the facades
    lower = (min(max(int(min(v0, v1)), 0), camera.size[1] - 1), camera.size[1])
    upper = (0, min(max(int(max(v0, v1)) + 2, 1), camera.size[1]))
    below = Image.new("L", camera.size)
    ImageDraw.Draw(below).polygon([(u0, v0), (u1, v1), (u1, 9999), (u0, 9999)], fill=255)
    pavement = camera.warp(ground, (-REACH, 0, 0), (1, 0, 0), (0, 0, -1), lower)
    canvas.paste(pavement, (0, lower[0]), below.crop((0, lower[0], *camera.size)))
    canvas.alpha_composite(camera.warp(facades, (-REACH, TOP, 0), (1, 0, 0), (0, -1, 0), upper))

    # Glow: lit windows and signs, dark where something stands before them.
    glow = Image.new("RGB", camera.size)
    if dark:
        lit = Image.new("RGB", facades.size)
        share = rng.uniform(0.1, 0.25) * (0.6 if condition == "dusk" else 1.0)
        _light_windows(ImageDraw.Draw(lit), openings, signs, rng, share)
        glow.paste(camera.warp(lit, (-REACH, TOP, 0), (1, 0, 0), (0, -1, 0), upper))
    _draw_street(camera, draw, ImageDraw.Draw(glow), place, rng, condition)

    pixels = np.asarray(canvas.resize((WIDTH, HEIGHT), Image.BOX), dtype=np.float32) / 255
    albedo, cover = pixels[..., :3], pixels[..., 3:]
    light = np.array(_LIGHT[condition], dtype=np.float32) * np.float32(rng.uniform(0.85, 1.1))
    if condition == "day" and rng.random() < 0.5:
        light = light * _shadow(camera, rng)
    elif dark:
        light = light + (0.25 if condition == "night" else 0.1) * _lamp_light(camera, place)
    radiance = cover * albedo * light + (1 - cover) * _sky(rng, condition)
    if dark:
        shine = np.asarray(glow.reduce(_SUPER), dtype=np.float32) / 255
        halo = np.asarray(glow.reduce(_SUPER).filter(ImageFilter.GaussianBlur(4)), dtype=np.float32) / 255
        radiance = radiance + 0.5 * shine + 0.2 * halo
    rows = slice(HEIGHT // 4, HEIGHT * 5 // 8)  # where the facades are
    brightness = np.average(radiance[rows].mean(axis=2), weights=cover[rows, :, 0] + 1e-3)
    return _develop(radiance / brightness, rng, condition)


def _develop(radiance, rng, condition):
    """Exposure, white balance, contrast, snow flakes, blur, noise, compression: radiance (facades at 1) -> JPEG."""
    balance = rng.normal(1.0, 0.025, 3).astype(np.float32)
    # Automatic exposure, never quite the same; nights come out darker.
    level = {"day": 0.45, "dusk": 0.4, "night": 0.42, "snow": 0.45}[condition] * rng.uniform(0.92, 1.08)
    pixels = radiance.astype(np.float32) * balance * np.float32(level)
    pixels = level + (pixels - level) * np.float32(rng.uniform(0.92, 1.08))
    pixels = pixels.clip(0, 1) ** np.float32(rng.uniform(0.93, 1.07))
    image = Image.fromarray((pixels * 255).astype(np.uint8))
    if condition == "snow":
        flakes = ImageDraw.Draw(image)
        for _ in range(rng.integers(0, 60)):
            x, y, r = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT), rng.uniform(0.3, 0.9)
            flakes.ellipse((x - r, y - r, x + r, y + r), fill=(244, 246, 250))
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8)))
    noise = rng.standard_normal((HEIGHT, WIDTH, 3), dtype=np.float32)
    noise *= rng.uniform(1, 4) * (1.5 if condition == "night" else 1.0)
    image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    stream = BytesIO()
    image.save(stream, "JPEG", quality=int(rng.integers(72, 93)))
    return stream.getvalue()
