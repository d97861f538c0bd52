"""Makes the picture of the page in the README: a real browser, real strokes, real learning.

``python tests/integration/web_picture.py BUNDLE docs/images/web.png`` with the bundle of ``nagedge demo``.
"""

from __future__ import annotations

import io
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from browser import chromium, draw
from PIL import Image, ImageDraw

import nagedge
from nagedge.web import write_page

Stroke = list[tuple[float, float]]
SCREEN = {"width": 360, "height": 760}
SCALE = 2
MARGIN, RADIUS = 28, 44
SLANT = "4"


def arc(centre: tuple[float, float], radii: tuple[float, float], start: float, end: float) -> Stroke:
    """Return points of an ellipse from one angle to another, in degrees."""
    angles = [math.radians(start + (end - start) * step / 14) for step in range(15)]
    return [(centre[0] + radii[0] * math.cos(a), centre[1] + radii[1] * math.sin(a)) for a in angles]


SEVEN = [
    [(0.3, 0.24), (0.5, 0.22), (0.72, 0.24), (0.6, 0.45), (0.5, 0.62), (0.44, 0.8)],
    [(0.36, 0.53), (0.68, 0.5)],
]
LESSON: tuple[tuple[int, list[Stroke]], ...] = (
    (7, SEVEN),
    (0, [arc((0.5, 0.5), (0.2, 0.29), -60, -420), [(0.66, 0.26), (0.34, 0.76)]]),
    (9, [[*arc((0.5, 0.36), (0.16, 0.15), 0, -360), (0.66, 0.5), (0.64, 0.7), *arc((0.5, 0.7), (0.14, 0.12), 0, 150)]]),
    (7, [[(0.28, 0.34), (0.3, 0.24), (0.5, 0.24), (0.7, 0.22), (0.58, 0.5), (0.5, 0.8)], [(0.38, 0.54), (0.66, 0.54)]]),
)  # fmt: skip
"""Digits as some people write them: crossed sevens, a zero with a stroke, a nine with a tail."""


def shot(page: Any) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def phone(screen: Image.Image, edge: str) -> Image.Image:
    """Return a screen with round corners and a thin edge, on nothing."""
    mask = Image.new("L", screen.size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, screen.width - 1, screen.height - 1), RADIUS, fill=255)
    framed = Image.new("RGBA", screen.size)
    framed.paste(screen, mask=mask)
    ImageDraw.Draw(framed).rounded_rectangle(
        (1, 1, screen.width - 2, screen.height - 2), RADIUS, outline=edge, width=3
    )
    return framed


def screens(folder: Path) -> tuple[Image.Image, Image.Image]:
    """Return the page with a correction, in light, and after learning, in dark."""
    with chromium() as (_, browser):
        page = browser.new_context(viewport=SCREEN, device_scale_factor=SCALE).new_page()
        page.goto((folder / "index.html").as_uri())
        page.wait_for_selector("main[aria-busy=false]")
        first = None
        for digit, strokes in LESSON:
            draw(page, strokes)
            page.locator("#keep:enabled").wait_for()
            page.locator("[data-task=digit] .option").nth(digit).click()
            page.fill("[data-task=slant] input", SLANT)
            page.locator("[data-task=slant] input").blur()
            page.wait_for_timeout(300)
            if first is None:
                first = shot(page)
            page.click("#keep")
            page.wait_for_timeout(300)
        page.click("#learn")
        page.locator("#status").filter(has_text="Learnt").wait_for()
        page.emulate_media(color_scheme="dark")
        page.evaluate("() => document.querySelector('#examples-title').closest('section').scrollIntoView()")
        page.evaluate("() => scrollBy(0, -12)")
        page.mouse.move(0, 0)
        page.wait_for_timeout(300)
        return first, shot(page)


def main() -> None:
    bundle, out = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        page = write_page(nagedge.load(bundle), Path(folder) / "page")
        light, dark = screens(page)
    width = 2 * light.width + 3 * MARGIN
    picture = Image.new("RGBA", (width, light.height + 2 * MARGIN))
    for at, screen in ((MARGIN, phone(light, "#b9c1cd")), (2 * MARGIN + light.width, phone(dark, "#4a5463"))):
        picture.alpha_composite(screen, (at, MARGIN))
    # 255 colours and one for nothing: a third of the size, and nobody sees it
    reduced = picture.convert("RGB").quantize(255, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    reduced.paste(255, mask=picture.getchannel("A").point(lambda alpha: 255 if alpha == 0 else 0))
    reduced.save(out, optimize=True, transparency=255)
    print(f"{out}: {picture.width} x {picture.height}, {Path(out).stat().st_size} bytes")  # noqa: T201


if __name__ == "__main__":
    main()
