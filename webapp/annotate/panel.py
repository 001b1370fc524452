"""Beside and below the panes: the nuclei drawn so far, the selected one, and handing the patch in."""

import html
import zlib
from collections.abc import Callable
from typing import Any

import streamlit as st

from allinsam.acts import ObjectState
from allinsam.records import SHOWN_TO
from allinsam.workflow.desk import Desk
from webapp import views
from webapp.annotate import bench as benches
from webapp.annotate.bench import Bench, Urls, attempt
from webapp.clock import local_time
from webapp.page_parts import as_typed
from webapp.surfaces.scene import Scene, Thing, window_at

MARKS = {"proposed": "○", "accepted": "✓", "rejected": "✕"}
STATES = {"proposed": "to check", "accepted": "kept", "rejected": "dropped"}
SAID = {"nothing_here": "none here", "unsure": "unsure", "skipped": "skipped"}
LOUPE_PX = 90
STEPS = ((-1, "navigate_before", "S", "The one before"), (1, "navigate_next", "D", "The next one"))
TOOL_NAMES = {"add": "Paint", "erase": "Erase", "lasso": "Draw round it", "points": "Move points"}
SKIP_REASONS = (
    "Out of focus",
    "Marker picture does not fit",
    "Torn or folded",
    "Too crowded to tell",
    "Other",
)


def saved_line(desk: Desk) -> str:
    """True by construction: what the study holds, not what the page has sent."""
    if desk.saved_at is None:
        return "Nothing drawn yet"
    return f"Saved {local_time(desk.saved_at)}, {desk.n_acts} step{'' if desk.n_acts == 1 else 's'}"


def status(desk: Desk, mine: list[dict[str, Any]]) -> None:
    """What is safe, and how much of one's work is done."""
    done = sum(row["state"] == "submitted" for row in mine)
    saved = html.escape(saved_line(desk))
    progress = f'<div class="counts">{done} of {len(mine)} patches handed in</div>'
    # Outlines of a class that was set aside may still wait; they are not handed in as nuclei.
    waiting = any(thing.state == "proposed" for thing in desk.state.objects.values())
    if not desk.state.submitted and not desk.open_points() and not waiting:
        progress += '<div class="ready">All checked. Boxed every nucleus? Then hand it in.</div>'
    elif not desk.state.submitted and not desk.open_points():
        progress += '<div class="ready">Can be handed in; outlines still to check do not count.</div>'
    st.html(f'<div class="saved" role="status"><b>✓</b> {saved}</div>{progress}')


def show(bench: Bench, desk: Desk, scene: Scene, urls: Urls) -> None:
    if bench.trouble:
        st.error(bench.trouble)
    _things(bench, desk, scene)
    selected = desk.state.objects.get(bench.selected or "")
    if selected is not None:
        _card(bench, desk, scene, selected, urls)
    elif not scene.things and not desk.state.submitted:
        name = html.escape(desk.classes[bench.class_id]["name"])
        how = "Draw round" if bench.tool == "lasso" else "Drag a box round"
        st.html(f'<p class="hint">{how} each {name} nucleus in the stained picture.</p>')


def _things(bench: Bench, desk: Desk, scene: Scene) -> None:
    doubtful = {thing.object_id for thing in scene.things if thing.doubtful}
    waiting = [object_id for object_id in desk.acceptable() if object_id not in doubtful]
    counts = [sum(thing.state == state for thing in scene.things) for state in STATES]
    if scene.things:
        text = ", ".join(f"{n} {name}" for n, name in zip(counts, STATES.values(), strict=True) if n)
        st.html(f'<div class="counts">{text}</div>')
    if len(waiting) > 1 and not desk.state.submitted:
        st.button(
            f"Keep {len(waiting)} clear ones" if doubtful else f"Keep all {len(waiting)}",
            key="accept_all",
            icon=":material/done_all:",
            shortcut="Shift+A",
            width="stretch",
            on_click=attempt,
            args=(bench, desk.accept, waiting),
            help="Keep every dashed outline but those with a ?, which want a look. One undo takes all back.",
        )
    if not scene.things:
        return
    # Those to check first: of many nuclei only the first rows are in view.
    ordered = sorted(scene.things, key=lambda thing: thing.state != "proposed")
    names = {thing.object_id: _name(thing) for thing in ordered}
    # New pills whenever a name changes: older ones may still report a name that is gone.
    key = f"picked_{zlib.crc32('/'.join(names.values()).encode())}"
    st.session_state[key] = bench.selected
    with st.container(key="things"):
        st.pills(
            "Nuclei",
            list(names),
            key=key,
            format_func=names.__getitem__,
            label_visibility="collapsed",
            on_change=lambda: setattr(bench, "selected", st.session_state.get(key)),
            disabled=bench.edited is not None,
        )


def _name(thing: Thing) -> str:
    doubt = " ?" if thing.doubtful and thing.state == "proposed" else ""
    return f"{thing.letter}{thing.number} {MARKS[thing.state]}{doubt}"


def _card(bench: Bench, desk: Desk, scene: Scene, thing: ObjectState, urls: Urls) -> None:
    """The selected nucleus: enlarged, its doubts, and what can be done with it."""
    shown = next(t for t in scene.things if t.object_id == thing.object_id)
    name = html.escape(desk.classes[thing.class_id]["name"])
    colour = html.escape(shown.colour)
    with st.container(
        key="card_title", horizontal=True, vertical_alignment="center", gap="xxsmall", wrap=False
    ):
        title = f"<b>{shown.letter}{shown.number}</b> {STATES[thing.state]}"
        st.html(f'<div class="card-title" title="{name}"><i style="background:{colour}"></i>{title}</div>')
        for step, icon, key, text in STEPS:
            st.button(
                "",
                key=f"step_{key}",
                icon=f":material/{icon}:",
                shortcut=key,
                help=text,
                on_click=benches.step_selection,
                args=(bench, desk, step),
                disabled=bench.edited is not None,
            )
    _loupe(desk, shown, thing, urls)
    for doubt in benches.doubts(desk)[thing.object_id]:
        st.html(f'<div class="doubt">{html.escape(doubt)}</div>')
    if desk.state.submitted:
        return
    if bench.edited is not None:
        _editing(bench, desk)
    else:
        _actions(bench, desk, thing)


def _loupe(desk: Desk, shown: Thing, thing: ObjectState, urls: Urls) -> None:
    box = benches.extent(thing)
    if box is None:
        return
    side = max(28.0, 1.7 * max(box[2] - box[0], box[3] - box[1]))
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    window = window_at(desk.size_hw, LOUPE_PX, max(desk.size_hw) / side, middle)
    over = views.data_url(views.overlay_svg([shown], window, boxes=True, tags=False))
    cells = []
    for layer in ("pas", "marker"):
        url = urls(layer, window, thing.class_id)
        if url is not None and (layer == "pas" or desk.assignment["guidance"] in SHOWN_TO["marker"]):
            size = f'width="{LOUPE_PX}" height="{LOUPE_PX}" alt=""'
            cells.append(f'<span><img src="{html.escape(url)}" {size}><img src="{over}" {size}></span>')
    st.html(f'<div class="loupe">{"".join(cells)}</div>')


def _actions(bench: Bench, desk: Desk, thing: ObjectState) -> None:
    this = thing.object_id
    keepable = this in desk.acceptable() or (thing.state == "rejected" and bool(benches.rings_of(thing)))
    left, right = st.columns(2, gap="xxsmall")
    with left:
        kind = "primary" if thing.state == "proposed" else "secondary"
        text = "The outline follows the edge of the nucleus."
        _button("Keep", "A", _settle, (bench, desk, desk.accept, [this]), "check", text, not keepable, kind)
    with right:
        text = "Not such a nucleus after all, or no usable outline. It stays in the list, in grey."
        dropped = thing.state == "rejected"
        _button("Drop", "X", _settle, (bench, desk, desk.reject, this), "close", text, dropped)
    if desk.assignment["tool"] == "box_sam":
        text = "Draw a better box; the outline is made again from it."
        _button("Redraw box", "B", benches.pick_up, (bench, desk, "redraw"), "crop_free", text)
    text = "Enlarge this nucleus and correct its outline by hand."
    _button("Edit outline", "E", benches.pick_up, (bench, desk, "add"), "edit", text)
    for class_id, row in desk.classes.items():
        if class_id != thing.class_id:
            change = (bench, desk.change_class, this, class_id)
            text = f"You took it for the wrong cell: it is {row['name']}."
            _button(f"Make it {row['name']}", None, attempt, change, "swap_horiz", text)
    text = "Drawn by mistake: takes it off the picture."
    _button("Delete", "Delete", _settle, (bench, desk, desk.delete, [this]), "delete", text)


def _button(
    label: str,
    shortcut: str | None,
    act: Callable[..., object],
    args: tuple,
    icon: str,
    help: str | None = None,
    disabled: bool = False,
    kind: str = "secondary",
) -> None:
    st.button(
        label,
        key=f"do_{icon}_{label}".replace(" ", "_"),
        icon=f":material/{icon}:",
        shortcut=shortcut,
        type=kind,
        on_click=act,
        args=args,
        disabled=disabled,
        width="stretch",
        help=help,
    )


def _settle(bench: Bench, desk: Desk, what: Callable[..., object], argument: object) -> None:
    if attempt(bench, what, argument):
        benches.select_next_open(bench, desk)


def _editing(bench: Bench, desk: Desk) -> None:
    """What to do with the tool in hand, the other tools, and the way back."""
    if bench.tool == "redraw":
        st.info("Drag a new box round this nucleus in the stained picture.")
        _button("Cancel", "Esc", benches.put_down, (bench, desk), "close")
        return
    st.session_state["edit_tool"] = bench.tool
    st.radio(
        "Outline tool",
        benches.EDIT_TOOLS,
        key="edit_tool",
        format_func=TOOL_NAMES.__getitem__,
        label_visibility="collapsed",
        on_change=lambda: setattr(bench, "tool", st.session_state["edit_tool"]),
    )
    st.html(f'<p class="hint">{EDIT_HINTS[bench.tool]}</p>')
    if bench.tool in ("add", "erase"):
        st.session_state["brush"] = bench.brush_px
        st.slider(
            "Width of the brush",
            1.0,
            9.0,
            step=1.0,
            format="%d px",
            key="brush",
            on_change=lambda: setattr(bench, "brush_px", st.session_state["brush"]),
        )
    _button("Done", "Esc", benches.put_down, (bench, desk), "check", kind="primary")


EDIT_HINTS = {
    "add": "Paint what belongs to the nucleus. Every stroke is saved.",
    "erase": "Paint over what does not belong to it. Every stroke is saved.",
    "lasso": "Draw round the nucleus in one stroke; it replaces the outline.",
    "points": "Press the pencil at the upper right of the stained picture, click the outline twice, "
    "then drag its points.",
}


# --- Below the panes ----------------------------------------------------------------------------


def footer(bench: Bench, desk: Desk, submit: Callable[[], None]) -> None:
    letter = benches.letters(desk)
    with st.container(key="footer", horizontal=True, vertical_alignment="center", gap="xsmall"):
        for class_id, row in desk.classes.items():
            _class_state(bench, desk, class_id, row, letter[class_id])
        _skip(bench, desk)
        _comment(bench, desk)
        st.space("stretch")
        st.button(
            "Hand in, next patch",
            key="submit",
            type="primary",
            shortcut="N",
            icon=":material/send:",
            on_click=submit,
        )


def handed_in(bench: Bench, desk: Desk, onward: Callable[[], None]) -> None:
    """Below the panes of a patch that is handed in: nothing can be drawn until it is reopened."""
    with st.container(key="footer", horizontal=True, vertical_alignment="center", gap="small"):
        at = local_time(desk.assignment["submitted_at"] or desk.saved_at or "")
        st.html(
            f'<span class="class-state">Handed in, {at}. It can only be looked at.</span>', width="content"
        )
        st.button("Reopen to change it", key="reopen", on_click=attempt, args=(bench, desk.reopen))
        st.space("stretch")
        st.button("Next patch", key="next", type="primary", shortcut="N", on_click=onward)


def _class_state(bench: Bench, desk: Desk, class_id: int, row: dict, letter: str) -> None:
    kept = sum(thing.class_id == class_id for thing in desk.state.accepted())
    said = desk.state.class_states.get(class_id)
    summary = SAID.get(said or "") or f"{kept} kept"
    colour, name = html.escape(row["colour"]), html.escape(row["name"].capitalize())
    st.html(
        f'<span class="class-state"><i style="background:{colour}">{letter}</i>{name}: {summary}</span>',
        width="content",
    )
    live = [
        t
        for t in desk.state.objects.values()
        if t.class_id == class_id and t.state in ("proposed", "accepted")
    ]
    for kind, label, help in (
        ("nothing_here", "None here", f"You looked everywhere: there is no {as_typed(row['name'])} nucleus."),
        ("unsure", "Unsure", f"You cannot tell {as_typed(row['name'])} nuclei here. Better than guessing."),
    ):
        st.button(
            label,
            key=f"{kind}_{class_id}",
            type="primary" if said == kind else "secondary",
            disabled=kind == "nothing_here" and bool(live),
            on_click=_say,
            args=(bench, desk, kind, class_id, said),
            help=help,
        )


def _say(bench: Bench, desk: Desk, kind: str, class_id: int, said: str | None) -> None:
    """Say it of the class, or take it back if it was said already."""
    if said is not None and attempt(bench, desk.clear_class_state, class_id) and said == kind:
        return
    attempt(bench, desk.do, kind, class_id=class_id)


def _skip(bench: Bench, desk: Desk) -> None:
    with st.popover("Skip", icon=":material/block:", help="A class cannot be judged on this patch"):
        names = {class_id: row["name"] for class_id, row in desk.classes.items()}
        which = st.selectbox("What cannot be judged here?", list(names), format_func=names.__getitem__)
        reason = st.selectbox("Why?", SKIP_REASONS)
        more = st.text_input("In your words (needed for Other)", max_chars=300)
        st.button(
            "Skip this class",
            disabled=reason == "Other" and not more.strip(),
            on_click=attempt,
            args=(bench, desk.do, "skip"),
            kwargs={"class_id": which, "reason": f"{reason}: {more.strip()}" if more.strip() else reason},
        )


def _comment(bench: Bench, desk: Desk) -> None:
    with (
        st.popover("Comment", icon=":material/chat:", help="A note about this patch for the study lead"),
        st.form("comment_form", clear_on_submit=True, border=False),
    ):
        text = st.text_area("Note about this patch", max_chars=1000, height=90)
        if st.form_submit_button("Save the note") and text.strip():
            attempt(bench, desk.do, "comment", text=text.strip())
            st.success("The note is saved.")


def open_points(bench: Bench, desk: Desk) -> None:
    """What keeps the patch from being handed in, each with the way to settle it."""
    letter, number = benches.letters(desk), {}
    for place, object_id in enumerate(desk.state.objects, 1):
        number[object_id] = place
    lines = []
    for point in desk.open_points():
        name = as_typed(desk.classes[point.class_id]["name"])
        if point.kind == "proposals":
            which = ", ".join(f"{letter[point.class_id]}{number[i]}" for i in point.object_ids[:8])
            more = " ..." if len(point.object_ids) > 8 else ""
            lines.append(f"**{name.capitalize()}:** keep or drop {which}{more}.")
        elif point.kind == "corrections":
            lines.append(f"**{name.capitalize()}:** corrected outlines are still being made.")
        else:
            lines.append(f"**{name.capitalize()}:** nothing kept. Draw some, or press None here or Unsure.")
    if lines:
        st.warning("Not handed in yet.  \n" + "  \n".join(lines))
