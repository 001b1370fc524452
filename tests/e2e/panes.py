"""Where a point of the patch lies on the screen, in the dual pane side by side."""

from playwright.sync_api import Page

GAP_PX = 6


def on_screen(page: Page, size_px: int, point: tuple[float, float], pane: int = 0) -> tuple[float, float]:
    """Of a square patch, in the stain's pane (0) or the marker's (1), at the zoom the page is at."""
    stage = page.locator(".stage canvas").bounding_box()
    view = page.locator(".dual-pane").evaluate("root => root.surface.view")
    width = (stage["width"] - GAP_PX) / 2
    scale = view["zoom"] * min(width, stage["height"]) / size_px
    left = stage["x"] + pane * (width + GAP_PX) + width / 2
    middle = stage["y"] + stage["height"] / 2
    return left + (point[0] - view["x"]) * scale, middle + (point[1] - view["y"]) * scale
