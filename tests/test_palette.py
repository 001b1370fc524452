"""Outlines stay visible on stained tissue, and the classes apart, also for colour-blind eyes."""

import numpy as np
import pytest

from allinsam.errors import InputError
from allinsam.imaging import read_rgb
from allinsam.palette import APART, CLEAR_COLOURS, EYES, SHOWN, as_rgb, colour_doubts, least_distance, seen
from allinsam.simulate import simulate_patch, simulate_slide
from allinsam.workflow.importing import CLASS_LOOK
from benchmarks.report import shared_data
from webapp.views import HALO, rgb

COLOURS = {name: rgb(look[0]) for name, look in CLASS_LOOK.items()}


def tissues() -> list[np.ndarray]:
    found = [simulate_patch(simulate_slide(7, 0, "normal"), 0, ("WT1",), 256).pas]
    folder = shared_data() / "kidney_pas"
    found += [read_rgb(path) for path in sorted(folder.glob("*.png")) if "mask" not in path.name][:3]
    return found


@pytest.mark.parametrize("eyes", EYES)
def test_classes_differ_and_every_line_shows_on_tissue(eyes):
    own = {name: seen(np.array(colour), eyes)[0] for name, colour in COLOURS.items()}
    own |= {colour: seen(np.array(as_rgb(colour)), eyes)[0] for colour in CLEAR_COLOURS}
    podocyte, mesangial = own["podocyte"], own["mesangial"]
    assert np.linalg.norm(podocyte - mesangial) > APART
    halo = seen(np.array(HALO), eyes)[0]
    for tissue in tissues():
        pixels = seen(tissue.reshape(-1, 3)[::53], eyes)
        for line in own.values():
            # A line shows where its colour or its dark halo stands out.
            stands_out = np.maximum(
                np.linalg.norm(pixels - line, axis=1), np.linalg.norm(pixels - halo, axis=1)
            )
            assert np.quantile(stands_out, 0.01) > SHOWN


def test_a_palette_that_eyes_confuse_would_fail():
    red, green = seen(np.array((200, 60, 60)), "deuteranopia"), seen(np.array((112, 112, 40)), "deuteranopia")
    assert np.linalg.norm(red - green) < APART


def test_the_clear_colours_are_apart_for_everybody():
    for place, colour in enumerate(CLEAR_COLOURS):
        others = {other: other for other in CLEAR_COLOURS if other != colour}
        assert colour_doubts(colour, others) == []
        assert least_distance(as_rgb(colour), as_rgb(CLEAR_COLOURS[place - 1])) > APART
    assert {c.lower() for c, _ in CLASS_LOOK.values()} <= {c.lower() for c in CLEAR_COLOURS}


def test_doubts_about_a_colour_are_told():
    (told,) = colour_doubts("#F2E050", {"podocyte": "#F0E442", "mesangial": "#56B4E9"})
    assert "podocyte" in told
    assert "dark" in colour_doubts("#101010", {})[0]
    for wrong in ("yellow", "#FFF", "#12345g", "#1234567"):
        with pytest.raises(InputError, match="no colour"):
            as_rgb(wrong)
