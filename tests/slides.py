"""Drawn slides for tests: pyramidal OME-TIFFs with tissue on glass and nuclei at known places."""

from pathlib import Path

import cv2
import numpy as np
import tifffile

SLIDE_HW = (1280, 1792)
UM_PER_PX = 0.25
TISSUE_XYXY = (256, 256, 1536, 1024)
GLOMERULI = {"g7": (520, 520, 150), "g8": (1200, 700, 130)}  # name -> centre and radius, px


def draw_slide(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A stained slide, and WT1 and DAPI of the same frame as (2, H, W) uint16."""
    rng = np.random.default_rng(seed)
    height, width = SLIDE_HW
    stain = np.full((height, width, 3), 244, np.uint8)
    x0, y0, x1, y1 = TISSUE_XYXY
    stain[y0:y1, x0:x1] = (220, 160, 200)
    stain -= rng.integers(0, 4, stain.shape, dtype=np.uint8)
    channels = np.full((2, height, width), 200, np.uint16)
    for number in range(700):
        x, y = int(rng.integers(x0 + 20, x1 - 20)), int(rng.integers(y0 + 20, y1 - 20))
        size = (int(rng.integers(6, 13)), int(rng.integers(5, 10)))
        turn = float(rng.integers(0, 180))
        cv2.ellipse(stain, (x, y), size, turn, 0, 360, (95, 70, 140), -1)
        cv2.ellipse(channels[1], (x, y), size, turn, 0, 360, 40_000, -1)
        if number % 3 == 0:
            cv2.ellipse(channels[0], (x, y), size, turn, 0, 360, 30_000, -1)
    return stain, channels


def write_slide(
    path: Path, pixels: np.ndarray, um_per_px: float | None = UM_PER_PX, levels: int = 2, **options: object
) -> Path:
    """A tiled OME-TIFF with smaller levels; (H, W, 3) is a stain, (C, H, W) fluorescence."""
    is_stain = pixels.shape[-1] == 3
    common = {"tile": (256, 256), "photometric": "rgb" if is_stain else "minisblack", **options}
    size = {"PhysicalSizeX": um_per_px, "PhysicalSizeY": um_per_px} if um_per_px else {}
    with tifffile.TiffWriter(path, ome=True) as writer:
        axes = "YXS" if is_stain else "CYX"
        writer.write(pixels, subifds=levels, metadata={"axes": axes, **size}, **common)
        for level in range(1, levels + 1):
            writer.write(smaller(pixels, 2**level), subfiletype=1, **common)
    return path


def smaller(pixels: np.ndarray, times: int) -> np.ndarray:
    """Every level is the mean of the px it stands for."""
    planes = [pixels] if pixels.shape[-1] == 3 else list(pixels)
    height, width = planes[0].shape[:2]
    made = [cv2.resize(p, (width // times, height // times), interpolation=cv2.INTER_AREA) for p in planes]
    return made[0] if pixels.shape[-1] == 3 else np.stack(made)


def circle(x: float, y: float, radius: float) -> list[list[float]]:
    angles = np.linspace(0, 2 * np.pi, 25)
    corners = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], -1)
    return [*corners[:-1].tolist(), corners[0].tolist()]


def feature(corners: list[list[float]], name: str | None = None, kind: str = "Polygon") -> dict:
    properties = {"objectType": "annotation", **({"name": name} if name else {})}
    return {
        "type": "Feature",
        "properties": properties,
        "geometry": {"type": kind, "coordinates": [corners]},
    }


def glomeruli() -> dict:
    """Both glomeruli as QuPath exports them."""
    features = [feature(circle(*where), name) for name, where in GLOMERULI.items()]
    return {"type": "FeatureCollection", "features": features}
