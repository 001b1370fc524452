"""What the acts of one assignment add up to: objects, class states, undo and redo. Pure; no database.

The acts are the truth. `replay` turns them into the rows of the `annotation` table, so the rows can
be written together with an act and rebuilt from the acts at any time.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from allinsam.errors import InputError
from allinsam.masks import rle_area
from allinsam.records import ACT_KINDS, Act, Mask, is_box

ActId = tuple[str, int]

# Acts a person can take back. The rest are observations (load, focus, ...) or answers of the server.
UNDOABLE = frozenset(
    {
        "box",
        "move",
        "class",
        "prompt",
        "mask_edit",
        "accept",
        "reject",
        "delete",
        "nothing_here",
        "unsure",
        "skip",
        "submit",
    }
)
NEEDS_OBJECT = frozenset(
    {"suggest", "box", "move", "class", "prompt", "mask_shown", "mask_edit", "accept", "reject", "delete"}
)
CLASS_STATE_OF_KIND = {"nothing_here": "nothing_here", "unsure": "unsure", "skip": "skipped"}
LONGEST_TEXT = 2000
LONGEST_NAME = 200
LARGEST_PAYLOAD_BYTES = 5_000_000  # the run-length code of pure noise on 2048 x 2048 px
LARGEST_NUMBER = 1e15
MOST_POINTS = 100  # of one prompt
ORIGINS_OF_DRAWN = ("drawn", "imported")
CARRIES_EVIDENCE = frozenset({"suggest", "mask_shown", "mask_edit", "class"})
# Acts that put a nucleus into a class, and so take back that there is none.
PUTS_INTO_CLASS = frozenset({"box", "class", "mask_edit"})
CHANGES_CLASSES = frozenset({"submit", *PUTS_INTO_CLASS, *CLASS_STATE_OF_KIND})
SETTLED = ("complete", "nothing_here", "unsure", "skipped")


@dataclass(frozen=True)
class ObjectState:
    """One object of an assignment as it stands after some acts."""

    object_id: str
    class_id: int
    state: str  # proposed, accepted, rejected, deleted
    first_box: tuple[float, ...] | None = None
    box: tuple[float, ...] | None = None
    prompts: tuple[dict[str, Any], ...] = ()
    mask: Mask | None = None
    origin: str = "sam"
    backbone: str | None = None
    weights_sha256: str | None = None
    predicted_iou: float | None = None
    threshold_id: int | None = None
    registration_id: int | None = None
    molecular_support: float | None = None
    suggested: bool = False  # its outline is still the one that a model proposed before anybody looked
    # Points that say what belongs to the nucleus since its box was last drawn: (x, y, 1 inside or 0 outside).
    points: tuple[tuple[float, float, int], ...] = ()
    # The act that last asked for a mask: an answer to an earlier one comes too late.
    asked: ActId | None = field(default=None, compare=False)
    answered: bool = field(default=True, compare=False)  # whether that act has its mask


@dataclass(frozen=True)
class AssignmentState:
    """Everything the acts of one assignment add up to."""

    objects: Mapping[str, ObjectState] = field(default_factory=dict)
    class_states: Mapping[int, str] = field(default_factory=dict)
    submitted: bool = False
    undo_stack: tuple[ActId, ...] = ()
    redo_stack: tuple[ActId, ...] = ()

    def accepted(self) -> list[ObjectState]:
        return [thing for thing in self.objects.values() if thing.state == "accepted"]

    def proposed(self) -> list[ObjectState]:
        return [thing for thing in self.objects.values() if thing.state == "proposed"]

    def waiting(self) -> list[ObjectState]:
        """Objects whose box or points have not been answered with a mask yet."""
        live = (*self.proposed(), *self.accepted())
        return [thing for thing in live if not thing.answered]


@dataclass(frozen=True)
class AnnotationRow:
    """A row that one act adds to the `annotation` table: the object as accepted, or its end."""

    act: ActId
    state: str  # accepted, deleted
    thing: ObjectState


class Replay:
    """Applies acts one by one and says which annotation rows each of them adds.

    An act changes one object or the classes' states, so undo goes over the acts of that object alone:
    a long assignment must not make its own next act slow.
    """

    def __init__(self, acts: Iterable[Act] = ()) -> None:
        self._acts_of: dict[str, list[Act]] = {}
        self._class_acts: list[Act] = []
        self._undoable: dict[ActId, Act] = {}
        self._undone: set[ActId] = set()
        # Ordered sets: what is taken back is nearly always the last, but need not be.
        self._undo_stack: dict[ActId, None] = {}
        self._redo_stack: dict[ActId, None] = {}
        self._objects: dict[str, ObjectState] = {}
        self._class_states: dict[int, str] = {}
        self._submitted = False
        for act in acts:
            self.apply(act)

    @property
    def state(self) -> AssignmentState:
        return AssignmentState(
            dict(self._objects),
            dict(self._class_states),
            self._submitted,
            tuple(self._undo_stack),
            tuple(self._redo_stack),
        )

    def apply(self, act: Act) -> list[AnnotationRow]:
        """Take one act in; an act of an unknown kind changes nothing."""
        act_id = (act.client, act.seq)
        if act.kind in ("undo", "redo"):
            changed = self._undoable.get(_target(act))
        else:
            changed = act
        object_id = _object_id(changed)
        before = self._objects.get(object_id)
        if act.kind in ("undo", "redo"):
            self._undo_or_redo(act)
        else:
            self._keep(act_id, act)
            self._step(act)
        return _changed_rows(act_id, before, self._objects.get(object_id))

    def _keep(self, act_id: ActId, act: Act) -> None:
        if act.kind in UNDOABLE:
            self._undoable[act_id] = act
            self._undo_stack[act_id] = None
            self._redo_stack.clear()
        if act.kind in NEEDS_OBJECT:
            self._acts_of.setdefault(_object_id(act), []).append(act)
        if act.kind in CHANGES_CLASSES:
            self._class_acts.append(act)

    def _undo_or_redo(self, act: Act) -> None:
        target = _target(act)
        take, give = (
            (self._undo_stack, self._redo_stack)
            if act.kind == "undo"
            else (self._redo_stack, self._undo_stack)
        )
        if target not in take:
            return
        del take[target]
        give[target] = None
        (self._undone.add if act.kind == "undo" else self._undone.discard)(target)
        changed = self._undoable[target]
        if changed.kind in NEEDS_OBJECT:
            self._rebuild_object(_object_id(changed))
        if changed.kind in CHANGES_CLASSES:
            self._rebuild_classes()

    def _rebuild_object(self, object_id: str) -> None:
        thing: ObjectState | None = None
        for earlier in self._acts_of[object_id]:
            if self._is_effective(earlier):
                thing = _object_after(thing, earlier) or thing
        if thing is None:
            self._objects.pop(object_id, None)
        else:
            self._objects[object_id] = thing

    def _rebuild_classes(self) -> None:
        self._class_states, self._submitted = {}, False
        for earlier in self._class_acts:
            if self._is_effective(earlier):
                self._step_classes(earlier)

    def _is_effective(self, act: Act) -> bool:
        if (act.client, act.seq) in self._undone:
            return False
        if act.kind == "mask_shown" and "answers" in act.payload:
            return tuple(act.payload["answers"]) not in self._undone
        return True

    def _step(self, act: Act) -> None:
        if act.kind in NEEDS_OBJECT:
            changed = _object_after(self._objects.get(_object_id(act)), act)
            if changed is not None:
                self._objects[changed.object_id] = changed
        if act.kind in CHANGES_CLASSES:
            self._step_classes(act)

    def _step_classes(self, act: Act) -> None:
        if act.kind in PUTS_INTO_CLASS:
            if act.payload.get("class_id") is None:
                return
            if self._class_states.get(int(act.payload["class_id"])) == "nothing_here":
                del self._class_states[int(act.payload["class_id"])]
        elif act.kind in CLASS_STATE_OF_KIND:
            self._class_states[int(act.payload["class_id"])] = CLASS_STATE_OF_KIND[act.kind]
        elif act.kind == "submit":
            self._submitted = True
            for class_id, class_state in act.payload["classes"].items():
                self._class_states[int(class_id)] = class_state


def replay(acts: Iterable[Act]) -> tuple[AssignmentState, list[AnnotationRow]]:
    """State after all acts, and every annotation row they add, in order."""
    player = Replay()
    rows = [row for act in acts for row in player.apply(act)]
    return player.state, rows


def _object_after(thing: ObjectState | None, act: Act) -> ObjectState | None:
    payload, act_id = act.payload, (act.client, act.seq)
    if act.kind == "box":
        box = tuple(float(v) for v in payload["box"])
        new = ObjectState(act.object_id or "", int(payload["class_id"]), "proposed", box, box)
        return replace(new, asked=act_id, answered=False)
    if act.kind == "suggest":
        # The box is the outline's own: nobody has drawn a first one.
        box = tuple(float(v) for v in payload["box"])
        new = ObjectState(act.object_id or "", int(payload["class_id"]), "proposed", box=box)
        return replace(_with_mask(new, payload, "sam"), suggested=True)
    if act.kind == "mask_edit" and thing is None:
        if "class_id" not in payload:  # it mended an object whose box has been taken back since
            return None
        drawn = ObjectState(act.object_id or "", int(payload["class_id"]), "proposed", origin="drawn")
        return _with_mask(drawn, payload, payload.get("origin", "drawn"))
    if thing is None:
        return None
    if act.kind == "move":
        box = tuple(float(v) for v in payload["box"])
        moved = replace(thing, box=box, mask=None, state="proposed", points=(), suggested=False)
        return replace(moved, asked=act_id, answered=False)
    if act.kind == "class":
        return replace(thing, class_id=int(payload["class_id"]), **_evidence(payload))
    if act.kind == "prompt":
        points = (*thing.points, *((float(x), float(y), int(inside)) for x, y, inside in payload["points"]))
        prompted = replace(thing, prompts=(*thing.prompts, dict(payload)), points=points)
        return replace(prompted, asked=act_id, answered=False)
    if act.kind == "mask_shown":
        if "answers" in payload and tuple(payload["answers"]) != thing.asked:
            return None
        if payload.get("class_id", thing.class_id) != thing.class_id:  # the evidence is of another marker
            payload = {key: value for key, value in payload.items() if key not in _evidence({})}
        return _with_mask(thing, payload, "sam")
    if act.kind == "mask_edit":
        return _with_mask(thing, payload, "drawn" if thing.origin == "drawn" else "edited")
    return replace(thing, state={"accept": "accepted", "reject": "rejected", "delete": "deleted"}[act.kind])


def _evidence(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The molecular evidence an act brought with it; an act without it leaves none behind."""
    return {
        "threshold_id": payload.get("threshold_id"),
        "registration_id": payload.get("registration_id"),
        "molecular_support": payload.get("molecular_support"),
    }


def _with_mask(thing: ObjectState, payload: Mapping[str, Any], origin: str) -> ObjectState:
    mask = Mask.from_rle(payload["mask"])
    changed = replace(thing, mask=mask, origin=origin, suggested=False, **_evidence(payload))
    # A person's outline settles what was asked: the model's answer to it comes too late.
    changed = replace(changed, answered=True, asked=thing.asked if origin == "sam" else None)
    if origin == "sam":
        return replace(
            changed,
            backbone=payload["backbone"],
            weights_sha256=payload["weights_sha256"],
            predicted_iou=float(payload["predicted_iou"]),
        )
    return changed


def _changed_rows(
    act_id: ActId, before: ObjectState | None, after: ObjectState | None
) -> list[AnnotationRow]:
    """The row one act adds to the `annotation` table, if the accepted object is another than before."""
    was = before if before is not None and before.state == "accepted" else None
    now = after if after is not None and after.state == "accepted" else None
    if now is not None:
        return [] if now == was else [AnnotationRow(act_id, "accepted", now)]
    return [] if was is None else [AnnotationRow(act_id, "deleted", was)]


def _object_id(act: Act | None) -> str:
    return (act.object_id if act is not None else None) or ""


def _target(act: Act) -> ActId:
    client, seq = act.payload["act"]
    return str(client), int(seq)


def validate(act: Act, state: AssignmentState, class_ids: Iterable[int], size_hw: tuple[int, int]) -> None:
    """Refuse an act that cannot be kept. An unknown kind passes: it is kept and reported.

    Raises:
        InputError: naming the act and what is wrong with it.
    """
    validate_frame(act)
    where = _where(act)
    if act.kind not in ACT_KINDS:
        return
    if state.submitted and act.kind in UNDOABLE:
        raise InputError(f"{where}: this patch is submitted. Reopen it first to change it.")
    if act.kind in NEEDS_OBJECT:
        _validate_object(act, state, set(class_ids), size_hw, where)
    elif act.kind in CLASS_STATE_OF_KIND:
        _validate_class(act.payload.get("class_id"), set(class_ids), where)
        if act.kind == "skip" and not _is_text(act.payload.get("reason")):
            raise InputError(f"{where} needs a reason. Say why this cannot be judged.")
    elif act.kind == "comment" and not _is_text(act.payload.get("text")):
        raise InputError(f"{where} is empty or longer than {LONGEST_TEXT} characters. Write a short text.")
    elif act.kind in ("undo", "redo"):
        _validate_target(act, state, where)
    elif act.kind == "submit":
        _validate_submit(act, state, set(class_ids), where)


def _where(act: Act) -> str:
    return f"Act {act.seq if _is_whole(act.seq) else '?'} ({act.kind if _is_name(act.kind) else '?'})"


def validate_frame(act: Act) -> None:
    """What every act needs, whatever its kind: what it says must fit the store's columns.

    Raises:
        InputError: naming the act and what is wrong with it.
    """
    where = _where(act)
    if not _is_whole(act.seq) or act.seq < 1 or not _is_name(act.client) or not _is_number(act.client_ms):
        raise InputError(f"{where} needs a client, a seq from 1 and a finite client_ms. Reload the page.")
    if not (_is_name(act.kind) and _is_name(act.surface) and _is_whole(act.payload_version)):
        raise InputError(f"{where} needs a kind, a surface and a payload version. Reload the page.")
    if act.object_id is not None and not _is_name(act.object_id):
        raise InputError(f"{where}: object_id {str(act.object_id)[:40]!r} is no short text. Reload the page.")
    try:
        # Encoded too: text cut in the middle of a character could be kept but never exported.
        size = len(json.dumps(dict(act.payload), allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: its payload cannot be kept as JSON ({error}).") from error
    if size > LARGEST_PAYLOAD_BYTES:
        raise InputError(f"{where}: its payload has {size} bytes, at most {LARGEST_PAYLOAD_BYTES} are kept.")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable()


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**63  # what SQLite holds


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER


def _validate_target(act: Act, state: AssignmentState, where: str) -> None:
    named = act.payload.get("act")
    if not isinstance(named, (list, tuple)) or len(named) != 2:
        raise InputError(f"{where} must name the act it takes back as [client, seq], not {named!r}.")
    stack = state.undo_stack if act.kind == "undo" else state.redo_stack
    if tuple(named) not in stack:
        raise InputError(f"{where}: there is no act {list(named)} to {act.kind} here. Reload the page.")
    if state.submitted and tuple(named) != stack[-1]:
        raise InputError(f"{where}: this patch is submitted. Reopen it first to change it.")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= LONGEST_TEXT


def _validate_class(class_id: Any, class_ids: set[int], where: str) -> None:
    if not _is_whole(class_id) or class_id not in class_ids:
        raise InputError(
            f"{where}: class {class_id!r} is not asked for here. Choose one of {sorted(class_ids)}."
        )


def _validate_object(
    act: Act, state: AssignmentState, class_ids: set[int], size_hw: tuple[int, int], where: str
) -> None:
    payload = act.payload
    if not act.object_id:
        raise InputError(f"{where} needs an object_id.")
    known = act.object_id in state.objects
    if act.kind == "mask_shown" and not known:
        _validate_evidence(payload, where)
        _validate_source(payload, where)
        _validate_mask(payload.get("mask"), size_hw, where)
        return  # The box was taken back while the server worked: kept, without effect.
    if act.kind in ("box", "suggest") and known:
        raise InputError(f"{where}: object {act.object_id} exists already. Use a new id for a new box.")
    if known and act.kind != "mask_shown" and state.objects[act.object_id].state == "deleted":
        raise InputError(f"{where}: this nucleus has been deleted meanwhile. Undo that to have it back.")
    if act.kind not in ("suggest", "box", "mask_edit") and not known:
        raise InputError(f"{where}: no object {act.object_id} here. Reload the page.")
    if act.kind in ("suggest", "box", "class") or (act.kind == "mask_edit" and not known):
        _validate_class(payload.get("class_id"), class_ids, where)
    if act.kind in ("suggest", "box", "move") and not is_box(payload.get("box"), size_hw):
        raise InputError(
            f"{where}: box {payload.get('box')!r} is not x0 < x1, y0 < y1 inside the patch of "
            f"{size_hw[1]} x {size_hw[0]} px. Draw it again."
        )
    if act.kind == "prompt":
        _validate_points(payload.get("points"), size_hw, where)
    if act.kind in ("suggest", "mask_shown", "mask_edit"):
        _validate_mask(payload.get("mask"), size_hw, where)
    if act.kind in CARRIES_EVIDENCE:
        _validate_evidence(payload, where)
    if act.kind == "suggest":
        _validate_source(payload, where)
        if state.submitted:
            raise InputError(f"{where}: this patch is submitted; nothing is proposed on it any more.")
        if rle_area(dict(payload["mask"])) == 0:
            raise InputError(f"{where}: the proposed mask of {act.object_id} is empty.")
    if act.kind == "mask_shown":
        _validate_source(payload, where)
        if state.submitted and state.objects[act.object_id].mask is not None:
            raise InputError(f"{where}: this patch is submitted. Reopen it first to change it.")
    if act.kind == "mask_edit" and payload.get("origin", "drawn") not in ORIGINS_OF_DRAWN:
        raise InputError(f"{where}: origin {payload['origin']!r} is not one of {list(ORIGINS_OF_DRAWN)}.")
    if act.kind == "accept":
        mask = state.objects[act.object_id].mask
        if mask is None:
            raise InputError(
                f"{where}: object {act.object_id} has no mask yet. Wait for it or draw it by hand."
            )
        if rle_area(mask.as_rle()) == 0:
            raise InputError(f"{where}: the mask of {act.object_id} is empty. Draw it by hand or delete it.")


def _validate_points(points: Any, size_hw: tuple[int, int], where: str) -> None:
    """[[x, y, 1 inside the nucleus or 0 outside], ...] on the patch."""
    height, width = size_hw
    for point in points if isinstance(points, (list, tuple)) and 0 < len(points) <= MOST_POINTS else [None]:
        whole = isinstance(point, (list, tuple)) and len(point) == 3 and all(map(_is_number, point))
        if not (whole and 0 <= point[0] < width and 0 <= point[1] < height and point[2] in (0, 1)):
            raise InputError(
                f"{where}: {point!r} is no point [x, y, 1 or 0] on the patch of {width} x {height} px."
            )


def _validate_evidence(payload: Mapping[str, Any], where: str) -> None:
    for name in ("threshold_id", "registration_id"):
        if payload.get(name) is not None and not _is_whole(payload[name]):
            raise InputError(f"{where}: {name} {payload[name]!r} is no row's number. Reload the page.")
    support = payload.get("molecular_support")
    if support is not None and not (_is_number(support) and 0 <= support <= 1):
        raise InputError(f"{where}: molecular_support {support!r} is not from 0 to 1. Reload the page.")


def _validate_source(payload: Mapping[str, Any], where: str) -> None:
    """Which model made a mask, how sure it was, and the act that it answers."""
    if not all(_is_name(payload.get(name)) for name in ("backbone", "weights_sha256")):
        raise InputError(f"{where} needs the backbone and the weights_sha256 that made its mask.")
    if not _is_number(payload.get("predicted_iou")):
        raise InputError(f"{where}: predicted_iou {payload.get('predicted_iou')!r} is not a number.")
    answers = payload.get("answers", ("", 1))
    is_act = isinstance(answers, (list, tuple)) and len(answers) == 2
    if not (is_act and isinstance(answers[0], str) and _is_whole(answers[1])):
        raise InputError(f"{where} must name the act it answers as [client, seq], not {answers!r}.")


def _validate_mask(rle: Any, size_hw: tuple[int, int], where: str) -> None:
    sides = rle.get("size") if isinstance(rle, Mapping) else None
    if not isinstance(sides, (list, tuple)) or list(sides) != list(size_hw):
        found = rle.get("size") if isinstance(rle, Mapping) else rle
        raise InputError(f"{where}: the mask is {found!r}, the patch is {list(size_hw)} px high and wide.")
    if not isinstance(rle.get("counts"), str) or not rle["counts"]:
        raise InputError(f"{where}: the mask has no run lengths. Draw it again.")
    try:
        rle_area(dict(rle))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _validate_submit(act: Act, state: AssignmentState, class_ids: set[int], where: str) -> None:
    classes = act.payload.get("classes")
    if not isinstance(classes, Mapping) or sorted(map(str, classes)) != sorted(map(str, class_ids)):
        raise InputError(f"{where} must give a state for each of the classes {sorted(class_ids)}.")
    for class_id, class_state in classes.items():
        if class_state not in SETTLED:
            raise InputError(f"{where}: {class_state!r} is not one of {list(SETTLED)}.")
        waiting = sum(thing.class_id == int(class_id) for thing in state.proposed())
        if waiting and class_state in ("complete", "nothing_here"):
            raise InputError(
                f"{where}: {waiting} proposed nuclei of class {class_id} are neither accepted nor rejected. "
                "Settle them first."
            )
        has_objects = any(thing.class_id == int(class_id) for thing in state.accepted())
        if class_state == "nothing_here" and has_objects:
            raise InputError(
                f"{where}: class {class_id} is marked 'nothing here' but has accepted nuclei. "
                "Delete them or mark the class complete."
            )
