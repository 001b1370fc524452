"""Where a point of the patch lies on the screen, in the dual pane zoomed out."""

from playwright.sync_api import Page

GAP_PX = 6


def on_screen(page: Page, size_px: int, point: tuple[float, float], pane: int = 0) -> tuple[float, float]:
    """Of a square patch, in the stain's pane (0) or the marker's (1)."""
    stage = page.locator(".stage canvas").bounding_box()
    width = (stage["width"] - GAP_PX) / 2
    scale = min(width, stage["height"]) / size_px
    left = stage["x"] + pane * (width + GAP_PX) + width / 2
    middle = stage["y"] + stage["height"] / 2
    return left + (point[0] - size_px / 2) * scale, middle + (point[1] - size_px / 2) * scale
