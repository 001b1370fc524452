"""The tour's steps and their drawings. A drawing is no tissue, and looks like none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.views import data_url

WIDTH, HEIGHT = 300, 220
YELLOW, DARK = "#F0E442", "#101018"
# Nuclei of the drawing: centre, half axes, and whether the marker is bright there.
NUCLEI = ((150, 112, 30, 24, True), (66, 60, 22, 19, True), (236, 164, 24, 20, False))


@dataclass(frozen=True)
class Step:
    """One screen. `drawing` is HTML; the step named "cards" shows the study's own pictures instead."""

    name: str
    title: str
    text: str
    drawing: str = ""


def steps_for(classes: Sequence[Mapping[str, Any]], with_marker: bool, by_hand: bool) -> list[Step]:
    """The screens for an arm: who works without the marker hears nothing of it."""
    kinds = "; ".join(f"**{row['marker']}** is bright in **{row['name']}** nuclei" for row in classes)
    names = " and ".join(f"**{row['name']}**" for row in classes)
    both = _panes(with_marker)
    drawn = "outline" if by_hand else "box"
    told = [
        Step(
            "pictures",
            "Two pictures of one place" if with_marker else "What you see",
            "On the left the tissue is **stained**: pink and purple, with cell nuclei as dark purple spots. "
            "On the right a **marker** glows at the very same place. You look at both together."
            if with_marker
            else "The tissue is **stained**: pink and purple, with cell nuclei as dark purple spots.",
            both,
        ),
        Step(
            "types",
            "The light tells the type",
            f"{kinds}. A dark spot on the left whose place is bright on the right is what you look for; "
            "one whose place stays dark is a nucleus of another kind: leave it out.",
            _panes(True, rings=(0, 1), dash="2 5"),
        )
        if with_marker
        else Step("types", "What you look for", f"You look for {names} nuclei.", _panes(False)),
        Step(
            "draw",
            "Draw round it" if by_hand else "Draw a box",
            "Press the mouse and **draw round** the nucleus in one stroke, just along its edge."
            if by_hand
            else "Press the mouse at one corner, **drag** and let go. The box touches the nucleus on all "
            "four sides. The wheel makes the picture larger.",
            _panes(with_marker, boxes=() if by_hand else (0,), rings=(0,) if by_hand else ()),
        ),
        Step(
            "outline",
            "Your outline" if by_hand else "The computer finds the outline",
            "The **dashed line** is what will be kept: the outline of the nucleus. "
            "Dashed means that it waits for your check.",
            _panes(with_marker, rings=(0,), dash="7 5"),
        ),
        Step(
            "check",
            "Keep it, mend it or drop it",
            "Does the line follow the edge? **A** keeps it, and it becomes a full line. Is it off? Mend it "
            f"with the tools above the picture, or draw a better {drawn}. Is it no such nucleus? **X** drops "
            "it. Every step can be undone.",
            _panes(with_marker, rings=(0,)) + keys(("A", "keep"), ("X", "drop"), ("Ctrl Z", "undo")),
        ),
        Step("cards", "What is a nucleus here, and what is not", ""),
        Step(
            "doubt",
            "Nothing here, or not sure",
            "No such nucleus on the whole patch? Press **None here**. Can you not tell them apart on this "
            "patch? Press **Unsure**. A guess is worse than no answer.",
            _panes(with_marker, sign="?") + keys(("None here", ""), ("Unsure", "")),
        ),
        Step(
            "hand_in",
            "Hand it in",
            "When every nucleus is kept or dropped, press **Hand in**: the next patch opens. On a practice "
            "patch you see first what was right, missed or too much. Everything is saved as you go; you can "
            "stop at any time.",
            _panes(with_marker, rings=(0, 1)) + keys(("N", "hand in, next patch"), ("?", "help")),
        ),
    ]
    return told


def keys(*shown: tuple[str, str]) -> str:
    parts = "".join(f"<span><kbd>{key}</kbd> {what}</span>" for key, what in shown)
    return f'<div class="tour-keys">{parts}</div>'


def dots(now: int, count: int) -> str:
    """How far one is, for the eye and for a screen reader."""
    parts = "".join(f'<i class="{"on" if n <= now else ""}"></i>' for n in range(count))
    return f'<div class="tour-dots" role="img" aria-label="Step {now + 1} of {count}">{parts}</div>'


def _panes(
    with_marker: bool,
    boxes: Sequence[int] = (),
    rings: Sequence[int] = (),
    dash: str = "",
    sign: str = "",
) -> str:
    """The stain, and beside it the marker, with shapes round some of the nuclei on both."""
    over = "".join(_shape(n, box=True) for n in boxes) + "".join(_shape(n, dash=dash) for n in rings)
    if sign:
        over += (
            f'<text x="{WIDTH / 2}" y="{HEIGHT / 2 + 22}" font-size="64" font-weight="700" fill="{YELLOW}" '
            f'stroke="{DARK}" stroke-width="3" paint-order="stroke" text-anchor="middle" '
            f'font-family="sans-serif">{sign}</text>'
        )
    pictures = [("Stained tissue", _stain(bool(sign)) + over)]
    if with_marker:
        pictures.append(("Marker", _light(bool(sign)) + over))
    frame = f'xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
    figures = [
        f'<figure><img src="{data_url(f"<svg {frame}>{inside}</svg>")}" alt="Drawing: {name}" '
        f'width="{WIDTH}" height="{HEIGHT}"><figcaption>{name} (drawing)</figcaption></figure>'
        for name, inside in pictures
    ]
    return f'<div class="tour-panes">{"".join(figures)}</div>'


def _stain(blurred: bool) -> str:
    soft = '<filter id="soft"><feGaussianBlur stdDeviation="9"/></filter>' if blurred else ""
    filtered = ' filter="url(#soft)"' if blurred else ""
    nuclei = "".join(
        f'<ellipse cx="{x}" cy="{y}" rx="{a}" ry="{b}" fill="#5d4387" stroke="#46306b" stroke-width="2"/>'
        for x, y, a, b, _ in NUCLEI
    )
    return (
        f'{soft}<rect width="{WIDTH}" height="{HEIGHT}" fill="#ecc4da"/>'
        '<path d="M0 170 Q70 120 150 172 T300 90 V130 Q220 190 150 206 T0 204Z" fill="#d79bbf"/>'
        '<ellipse cx="236" cy="52" rx="52" ry="36" fill="#faf0f5" stroke="#d79bbf" stroke-width="5"/>'
        f"<g{filtered}>{nuclei}</g>"
    )


def _light(blurred: bool) -> str:
    spots = "".join(
        f'<ellipse cx="{x}" cy="{y}" rx="{a}" ry="{b}" fill="#fff"/>' for x, y, a, b, lit in NUCLEI if lit
    )
    blur = 16 if blurred else 5
    dim = ".35" if blurred else "1"
    return (
        f'<filter id="glow"><feGaussianBlur stdDeviation="{blur}"/></filter>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#0b0d12"/>'
        f'<g filter="url(#glow)" opacity="{dim}">{spots}</g>'
    )


def _shape(number: int, box: bool = False, dash: str = "") -> str:
    x, y, a, b, _ = NUCLEI[number]
    form = (
        f'<rect x="{x - a}" y="{y - b}" width="{2 * a}" height="{2 * b}"'
        if box
        else f'<ellipse cx="{x}" cy="{y}" rx="{a}" ry="{b}"'
    )
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'{form} fill="none" stroke="{DARK}" stroke-width="5.5" stroke-opacity=".7"/>'
        f'{form} fill="none" stroke="{YELLOW}" stroke-width="3"{dashed}/>'
    )
