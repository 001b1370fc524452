"""Where people draw: the dual pane, which works in the browser, and surfaces that show a `Scene`.

A surface of this table is given a scene by the page and hands back gestures; the page knows no more of it.
"""

from webapp.surfaces import simple_canvas
from webapp.surfaces.scene import Surface

SURFACES: dict[str, Surface] = {"simple_canvas": simple_canvas.show}
