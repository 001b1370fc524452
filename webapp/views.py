"""Pictures of patches: what is on the screen, made from arrays. No study, no Streamlit.

A pane shows a square window of a patch (`Window`), enlarged to the pane's size.
"""

import base64
import html
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from allinsam.errors import InputError
from allinsam.masks import mask_to_polygons
from allinsam.palette import HALO
from webapp.surfaces.scene import Thing, Window

# A window asked for by URL must not make a picture of gigabytes from a small patch.
LARGEST_EMPTY_SIDE_PX = 1024
MARGIN_GREY = 236  # beyond the patch
DARK = "#101018"
# The marker is shown in grey: outlines keep their colour on it, also for colour-blind eyes.
TINTS = {"grey": (255, 255, 255), "cyan": (90, 255, 255), "green": (120, 255, 120)}
# Display range of a channel: these shares of its pixels end up black and, at contrast 1, white.
BLACK_SHARE, WHITE_SHARE = 0.02, 0.998
NOISE_TO_WHITE = 12.0  # standard deviations of the background, from its median deviation


def png(image: np.ndarray) -> bytes:
    """RGB or RGBA, uint8, as PNG."""
    order = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
    done, encoded = cv2.imencode(".png", cv2.cvtColor(image, order), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise InputError(f"An image of shape {image.shape} cannot be written as PNG.")
    return encoded.tobytes()


def crop(image: np.ndarray, window: Window, fill: int = MARGIN_GREY) -> np.ndarray:
    """The window of an image (H, W) or (H, W, 3), at the size of the pane."""
    height, width = image.shape[:2]
    x0, y0, side = window.x0, window.y0, window.side_px
    if side > max(height, width, LARGEST_EMPTY_SIDE_PX):
        raise InputError(f"A window of {side} px is larger than the patch of {width} x {height} px.")
    part = np.full((side, side, *image.shape[2:]), fill, image.dtype)
    left, top, right, bottom = max(0, x0), max(0, y0), min(width, x0 + side), min(height, y0 + side)
    if left < right and top < bottom:
        part[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    how = cv2.INTER_AREA if window.scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(part, (window.pane_px, window.pane_px), interpolation=how)


def display_range(channel: np.ndarray, threshold: float | None) -> tuple[float, float]:
    """Grey levels shown as black and as white at contrast 1.

    A channel without signal is not stretched until its noise looks like nuclei: white is at least
    as far above black as twice the threshold; without a threshold, as NOISE_TO_WHITE times the noise.
    """
    low, high = (float(v) for v in np.quantile(channel, (BLACK_SHARE, WHITE_SHARE)))
    if threshold is not None:
        high = max(high, low + 2.0 * max(threshold - low, 1.0))
    else:
        middle = float(np.median(channel))
        noise = float(np.median(np.abs(channel.astype(np.float32) - middle))) * 1.4826
        high = max(high, middle + NOISE_TO_WHITE * noise)
    return low, max(high, low + 1.0)


def marker_rgb(
    channel: np.ndarray, limits: tuple[float, float], contrast: float = 1.0, tint: str = "grey"
) -> np.ndarray:
    """A marker channel as a picture: `contrast` 2 makes it white at half the range."""
    if tint not in TINTS:
        raise InputError(f"Unknown tint {tint!r}. Choose one of {', '.join(TINTS)}.")
    if not 0.1 <= contrast <= 20:
        raise InputError(f"A contrast of {contrast} is not usable. Choose 0.1 to 20.")
    low, high = limits
    light = np.clip((channel.astype(np.float32) - low) / (high - low) * contrast, 0, 1)
    return (light[..., None] * np.array(TINTS[tint], np.float32)).round().astype(np.uint8)


def bright_outline(channel: np.ndarray, threshold: float, window: Window, colour: str) -> np.ndarray:
    """Outline of where the channel is above the threshold, RGBA on nothing, at the size of the pane."""
    light = crop(channel.astype(np.float32), window, fill=0)
    bright = (light > threshold).astype(np.uint8)
    contours, _ = cv2.findContours(bright, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    edge = window.scale * 1.5  # shorter than this is camera noise of a pixel
    contours = [c for c in contours if cv2.arcLength(c, True) > 4 * edge]
    canvas = np.zeros((window.pane_px, window.pane_px, 4), np.uint8)
    cv2.drawContours(canvas, contours, -1, (*HALO, 110), 3, cv2.LINE_8)
    cv2.drawContours(canvas, contours, -1, (*rgb(colour), 255), 1, cv2.LINE_8)
    return canvas


def outlined(
    image: np.ndarray,
    shapes: Iterable[tuple[np.ndarray, str]],
    scale: int = 2,
    line_px: int = 1,
) -> np.ndarray:
    """A picture with masks (bool (H, W)) or boxes (4,) drawn on it, each in its colour with a dark halo."""
    size = (image.shape[1] * scale, image.shape[0] * scale)
    picture = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    for shape, colour in shapes:
        shape = np.asarray(shape)
        rings = mask_to_polygons(shape) if shape.ndim == 2 else [_corners(shape)]
        # 4 fractional bits; OpenCV's coordinate 0 is the first pixel's centre, ours its edge.
        paths = [np.round((ring * scale - 0.5) * 16).astype(np.int32)[:, None] for ring in rings]
        cv2.polylines(picture, paths, True, HALO, line_px + 2, cv2.LINE_AA, shift=4)
        cv2.polylines(picture, paths, True, rgb(colour), line_px, cv2.LINE_AA, shift=4)
    return picture


def rgb(colour: str) -> tuple[int, int, int]:
    """`#F0E442` as three numbers."""
    digits = colour.removeprefix("#")
    try:
        if len(digits) != 6:
            raise ValueError(colour)
        return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
    except ValueError as error:
        raise InputError(f"{colour!r} is not a colour. Write it like #F0E442.") from error


def smoothed(ring: np.ndarray, tolerance_px: float = 0.35) -> np.ndarray:
    """An outline along pixel edges with its stairs taken out: no point moves more than a pixel."""
    ring = np.asarray(ring, np.float32)
    steps = np.roll(ring, -1, axis=0) - ring
    counts = np.maximum(1, np.abs(steps).max(axis=1).round().astype(int))
    along = np.concatenate([(np.arange(n) + 0.5) / n for n in counts])
    middles = np.repeat(ring, counts, axis=0) + np.repeat(steps, counts, axis=0) * along[:, None]
    simple = cv2.approxPolyDP(middles.astype(np.float32)[:, None], tolerance_px, True)[:, 0]
    return simple if len(simple) >= 3 else ring


def overlay_svg(
    things: Sequence[Thing],
    window: Window,
    selected: str | None = None,
    boxes: bool = False,
    tags: bool = True,
) -> str:
    """Outlines, boxes and tags as SVG at the size of the pane, on nothing.

    Dashed: still to be checked; full: kept; grey and dotted: dropped. Every line has a dark halo.
    """
    drawn = [_thing_svg(thing, window, thing.object_id == selected, boxes, tags) for thing in things]
    size = window.pane_px
    frame = f'width="{size}" height="{size}" viewBox="0 0 {size} {size}"'
    style = 'fill="none" stroke-linejoin="round" font-family="sans-serif" font-weight="600"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {frame} {style}>{"".join(drawn)}</svg>'


def data_url(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


LINES = {  # state -> (dash, opacity)
    "proposed": ("4 2.5", 1.0),
    "accepted": ("", 1.0),
    "rejected": ("1 3", 0.8),
}


def _thing_svg(thing: Thing, window: Window, selected: bool, boxes: bool, tags: bool) -> str:
    dash, opacity = LINES.get(thing.state, LINES["proposed"])
    colour = "#9aa0a6" if thing.state == "rejected" else html.escape(thing.colour)
    width = 2.6 if selected else 1.6
    path = "".join(_path(ring, window) for ring in thing.rings)
    parts = []
    if path:
        kept = thing.state == "accepted" and not selected
        fill = f' fill="{colour}" fill-opacity="0.14"' if kept else ""
        parts.append(f'<path d="{path}" stroke="{DARK}" stroke-opacity=".6" stroke-width="{width + 1.8}"/>')
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<path d="{path}" stroke="{colour}" stroke-width="{width}"{dashed}{fill}/>')
    if thing.box is not None and thing.state != "rejected" and (boxes or not path or selected):
        x0, y0, x1, y1 = window.box_to_pane(np.asarray(thing.box))
        frame = f'x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}"'
        strength = 0.95 if selected or not path else 0.5
        parts.append(
            f'<rect {frame} stroke="#101018" stroke-opacity="{strength / 3:.2f}" stroke-width="2.6"/>'
        )
        parts.append(f'<rect {frame} stroke="{colour}" stroke-opacity="{strength}" stroke-width="1"/>')
    if tags:
        parts.append(_tag(thing, window, colour, selected))
    return f'<g opacity="{opacity}">{"".join(parts)}</g>'


def _tag(thing: Thing, window: Window, colour: str, selected: bool) -> str:
    corner = _upper_right(thing)
    if corner is None:
        return ""
    x, y = window.to_pane(corner)
    if not (-20 < x < window.pane_px + 20 and -20 < y < window.pane_px + 20):
        return ""
    size = 13 if selected else 10
    text = f"{thing.letter}{thing.number}" + ("?" if thing.doubtful and thing.state == "proposed" else "")
    x, y = min(max(x + 2, 0), window.pane_px - size * 0.62 * len(text)), max(y, size)
    halo = f'stroke="{DARK}" stroke-width="2.4" paint-order="stroke"'
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}"'
    return f'<text {place} fill="{colour}" {halo}>{html.escape(text)}</text>'


def _upper_right(thing: Thing) -> np.ndarray | None:
    if thing.rings:
        points = np.concatenate(thing.rings)
        return np.array([points[:, 0].max(), points[:, 1].min()])
    return np.array([thing.box[2], thing.box[1]]) if thing.box is not None else None


def _path(ring: np.ndarray, window: Window) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in window.to_pane(ring)) + "Z"


def _corners(box: np.ndarray) -> np.ndarray:
    x0, y0, x1, y1 = (float(v) for v in box)
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)
