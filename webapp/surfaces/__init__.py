"""Where people draw. Every surface shows a `Scene` and hands back gestures; pages do not know which it is."""

from webapp.surfaces import simple_canvas
from webapp.surfaces.scene import Surface

SURFACES: dict[str, Surface] = {"simple_canvas": simple_canvas.show}
