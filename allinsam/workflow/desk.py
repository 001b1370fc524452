"""One annotator at one patch: every gesture becomes acts that are kept before the next one.

The page, a script and a test annotate through the same desk. It holds no truth of its own: its
state is what the study's acts add up to.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from allinsam.acts import CLASS_STATE_OF_KIND, ActId, AssignmentState, ObjectState
from allinsam.errors import InputError
from allinsam.masks import decode_rle, encode_rle, rle_area
from allinsam.records import Act
from allinsam.sam.embeddings import EmbeddingCache
from allinsam.sam.prompting import Prompt
from allinsam.store import Study, reviews
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_rows
from allinsam.workflow.annotating import (
    ActLog,
    assignment_state,
    marker_evidence,
    masks_for_prompts,
    record_acts,
)
from allinsam.workflow.standing import standing

# What an act tells of the marker under a mask.
EVIDENCE = ("threshold_id", "registration_id", "molecular_support")
POINT_MARGIN_PX = 3.0  # of the nucleus expected beyond a point at its rim


def monotonic_ms() -> float:
    """The clock of a page whose browser reports no times of its own."""
    return time.monotonic() * 1000.0


@dataclass(frozen=True)
class OpenPoint:
    """Something that has to be settled before a patch can be submitted."""

    # proposals: masks neither kept nor dropped; unanswered: a class nothing was said about; corrections: kept
    # nuclei whose points have not been answered with a mask yet
    kind: str
    class_id: int
    object_ids: tuple[str, ...] = ()


def open_points(state: AssignmentState, class_ids: Iterable[int]) -> list[OpenPoint]:
    """What is still open on a patch, class by class. A class set aside (unsure, skipped) is settled."""
    points = []
    for class_id in class_ids:
        if state.class_states.get(class_id) in ("unsure", "skipped"):
            continue
        waiting = tuple(o.object_id for o in state.proposed() if o.class_id == class_id)
        asking = tuple(o.object_id for o in state.accepted() if o.class_id == class_id and not o.answered)
        kept = any(thing.class_id == class_id for thing in state.accepted())
        if waiting:
            points.append(OpenPoint("proposals", class_id, waiting))
        elif asking:
            points.append(OpenPoint("corrections", class_id, asking))
        elif not kept and state.class_states.get(class_id) != "nothing_here":
            points.append(OpenPoint("unanswered", class_id))
    return points


def final_states(state: AssignmentState, class_ids: Iterable[int]) -> dict[str, str]:
    """What a submit says about each class: what was marked, else complete."""
    marked = ("nothing_here", "unsure", "skipped")
    return {
        str(class_id): current if (current := state.class_states.get(class_id)) in marked else "complete"
        for class_id in class_ids
    }


def is_empty(thing: ObjectState) -> bool:
    """True where SAM found nothing in the box."""
    return thing.mask is not None and rle_area(thing.mask.as_rle()) == 0


def prompt_of(thing: ObjectState) -> Prompt:
    """What SAM is asked for an object: its box, and the mask so far with the points that correct it.

    A point that belongs to the nucleus but lies outside its box widens the box.
    """
    box = None if thing.box is None else np.array(thing.box, np.float32)
    if not thing.points:
        return Prompt(box)
    xy, labels = np.array(thing.points, np.float32)[:, :2], np.array(thing.points, np.float32)[:, 2]
    if box is not None and (labels == 1).any():
        inside = xy[labels == 1]
        low, high = inside.min(0) - POINT_MARGIN_PX, inside.max(0) + POINT_MARGIN_PX
        outside = (inside < box[:2]).any() or (inside > box[2:]).any()
        if outside:
            box = np.concatenate([np.minimum(box[:2], low), np.maximum(box[2:], high)])
    earlier = None if thing.mask is None or is_empty(thing) else decode_rle(thing.mask.as_rle())
    return Prompt(box, xy, labels, earlier)


@dataclass
class Desk:
    """Every method that changes something returns only after it has been committed."""

    study: Study
    assignment_id: int
    person_id: str
    log: ActLog
    cache: EmbeddingCache | None = None
    clock_ms: Callable[[], float] = monotonic_ms
    assignment: dict[str, Any] = field(init=False)
    classes: dict[int, dict[str, Any]] = field(init=False)  # those asked for here, by id
    state: AssignmentState = field(init=False)
    n_acts: int = field(init=False)
    saved_at: str | None = field(init=False)  # UTC, of the last act kept

    def __post_init__(self) -> None:
        with self.study.science.read() as db:
            self.assignment = queue.get_assignment(db, self.assignment_id)
            asked = queue.assignment_classes(db, self.assignment_id)
            self.classes = {row["id"]: row for row in study_rows.list_classes(db) if row["id"] in asked}
        with standing(self.study, self.assignment_id) as held, self.study.science.read() as db:
            self.state = held.catch_up(db).state
            self.n_acts, self.saved_at = act_store.act_summary(db, self.assignment_id)

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.assignment["height_px"], self.assignment["width_px"]

    def record(self, acts: Sequence[Act]) -> None:
        if not acts:
            return
        recorded = record_acts(self.study, self.assignment_id, self.person_id, acts)
        self.state, self.n_acts, self.saved_at = recorded.state, recorded.n_acts, recorded.saved_at

    def do(self, kind: str, object_id: str | None = None, **payload: Any) -> None:
        self.record([self.log.act(kind, self.clock_ms(), object_id, **payload)])

    # --- Objects --------------------------------------------------------------------------------

    def draw_box(self, object_id: str, class_id: int, box: Sequence[float]) -> None:
        """A new object whose id the page has given it, its mask still to come."""
        self.do("box", object_id, class_id=class_id, box=[float(v) for v in box])

    def point_at(self, object_id: str, points: Sequence[Sequence[float]]) -> None:
        """Say what belongs to a nucleus, [x, y, 1], and what does not, [x, y, 0]; the mask comes later."""
        self.do("prompt", object_id, points=[[float(x), float(y), int(inside)] for x, y, inside in points])

    def draw_boxes(self, class_id: int, boxes: Iterable[Sequence[float]]) -> list[str]:
        """New objects, their masks still to come (`fetch_masks`)."""
        new = {str(uuid.uuid4()): [float(v) for v in box] for box in boxes}
        self._do_each("box", {key: {"class_id": class_id, "box": box} for key, box in new.items()})
        return list(new)

    def move_box(self, object_id: str, box: Sequence[float]) -> None:
        self.do("move", object_id, box=[float(v) for v in box])

    def change_class(self, object_id: str, class_id: int) -> None:
        self.do("class", object_id, class_id=class_id, **self._evidence(class_id, self._mask(object_id)))

    def accept(self, object_ids: Iterable[str]) -> None:
        """Keep these masks; one undo takes all of one call back.

        Raises:
            InputError: one of them has no mask, or an empty one.
        """
        object_ids = list(object_ids)
        for object_id in object_ids:
            thing = self._thing(object_id)
            if thing.mask is None or is_empty(thing):
                raise InputError(
                    "There is no outline to keep: nothing was found in this box. Draw the outline by hand, "
                    "draw the box again, or delete it."
                )
        self._do_each("accept", {object_id: {} for object_id in object_ids})

    def acceptable(self) -> list[str]:
        """Proposed objects whose mask is there to be kept."""
        return [o.object_id for o in self.state.proposed() if o.mask is not None and not is_empty(o)]

    def reject(self, object_id: str) -> None:
        self.do("reject", object_id)

    def delete(self, object_ids: Iterable[str]) -> None:
        self._do_each("delete", {object_id: {} for object_id in object_ids})

    def set_outline(
        self,
        mask: np.ndarray,
        tool: str,
        object_id: str | None = None,
        class_id: int | None = None,
        new_id: str | None = None,
    ) -> str:
        """An outline made by hand: of a new object (its class, and its id if it has one) or of an old."""
        if not np.any(mask):
            raise InputError("This outline holds no pixel. Draw it larger, or delete the nucleus instead.")
        if object_id is None:
            object_id, new = new_id or str(uuid.uuid4()), {"class_id": class_id}
        else:
            new, class_id = {}, self._thing(object_id).class_id
        evidence = self._evidence(class_id, mask)
        self.do("mask_edit", object_id, mask=encode_rle(mask), tool=tool, **new, **evidence)
        return object_id

    def fetch_masks(self) -> int:
        """SAM's masks for the boxes and points that wait for theirs; how many there were."""
        waiting = self.state.waiting()
        if not waiting or self.cache is None or self.state.submitted:
            return 0
        acts = []
        asking = {thing.object_id for thing in waiting}
        kept = [thing for thing in self.state.accepted() if thing.object_id not in asking and thing.mask]
        taken = np.zeros(self.size_hw, bool)
        for thing in kept:
            taken |= decode_rle(thing.mask.as_rle())
        for class_id, row in self.classes.items():
            own = [thing for thing in waiting if thing.class_id == class_id]
            started = self.clock_ms()
            prompts = [prompt_of(thing) for thing in own]
            patch_id = self.assignment["patch_id"]
            found = masks_for_prompts(self.study, self.cache, patch_id, row["marker"], prompts, taken)
            model_ms = round(self.clock_ms() - started, 1)
            for thing, payload in zip(own, found, strict=True):
                payload |= {"answers": list(thing.asked or ()), "class_id": class_id, "model_ms": model_ms}
                acts.append(self.log.act("mask_shown", self.clock_ms(), thing.object_id, **payload))
                model_ms = 0.0  # one wait for all of them: it counts once
        self.record(self._with_evidence_of_now(acts))
        return len(acts)

    def _with_evidence_of_now(self, acts: Sequence[Act]) -> list[Act]:
        """Masks of nuclei whose class was changed while the model worked get that class's evidence."""
        now = assignment_state(self.study, self.assignment_id).objects
        brought = []
        for act in acts:
            thing = now.get(act.object_id or "")
            if thing is not None and thing.class_id != act.payload["class_id"]:
                bare = {key: value for key, value in act.payload.items() if key not in EVIDENCE}
                evidence = self._evidence(thing.class_id, decode_rle(act.payload["mask"]))
                act = replace(act, payload={**bare, "class_id": thing.class_id, **evidence})
            brought.append(act)
        return brought

    # --- Undo and redo --------------------------------------------------------------------------

    def undo(self) -> bool:
        """Take the last gesture back; False where there is nothing to take back."""
        return self._step_back("undo", self.state.undo_stack)

    def redo(self) -> bool:
        return self._step_back("redo", self.state.redo_stack)

    def clear_class_state(self, class_id: int) -> None:
        """Take back what was last said about a class (nothing here, unsure, skipped)."""
        with self.study.science.read() as db:
            acts = act_store.list_acts(db, self.assignment_id)
        said = [
            (act.client, act.seq)
            for act in acts
            if act.kind in CLASS_STATE_OF_KIND and act.payload.get("class_id") == class_id
        ]
        standing = [list(act_id) for act_id in said if act_id in self.state.undo_stack]
        self.record([self.log.act("undo", self.clock_ms(), act=act_id) for act_id in reversed(standing)])

    def _step_back(self, kind: str, stack: tuple[ActId, ...]) -> bool:
        if not stack:
            return False
        if kind == "undo" and self.state.submitted and self.assignment["purpose"] == "qualification":
            raise InputError("This patch is handed in for good. Tell the study lead if something is wrong.")
        with self.study.science.read() as db:
            if kind == "undo" and reviews.gold_review_of(db, self.assignment_id) is not None:
                raise InputError("This is the gold of a review. Reopen the review to change it.")
            kept = {(act.client, act.seq): act for act in act_store.list_acts(db, self.assignment_id)}
        batch = kept[stack[-1]].payload.get("batch")
        targets = [stack[-1]]
        for act_id in reversed(stack[:-1]):
            if batch is None or kept[act_id].payload.get("batch") != batch:
                break
            targets.append(act_id)
        self.record([self.log.act(kind, self.clock_ms(), act=list(target)) for target in targets])
        return True

    # --- Classes and the patch ------------------------------------------------------------------

    def open_points(self) -> list[OpenPoint]:
        return open_points(self.state, self.classes)

    def submit(self) -> None:
        """Hand the patch in.

        Raises:
            InputError: something is still open (`open_points`).
        """
        points = self.open_points()
        if points:
            names = ", ".join(self.classes[point.class_id]["name"] for point in points)
            raise InputError(f"This patch is not finished for {names}. Settle what is open first.")
        self.do("submit", classes=final_states(self.state, self.classes))

    def reopen(self) -> None:
        """Take the submit back, so that the patch can be changed."""
        if self.state.submitted:
            self.undo()

    # --- Parts ----------------------------------------------------------------------------------

    def _do_each(self, kind: str, payloads: Mapping[str, Mapping[str, Any]]) -> None:
        """One act for each object, in one transaction; several share a batch, which undo takes as one."""
        # Named after the first act: the same gesture sent twice makes the same acts.
        batch = {"batch": self.log.next_name()} if len(payloads) > 1 else {}
        now = self.clock_ms()
        self.record([self.log.act(kind, now, key, **payload, **batch) for key, payload in payloads.items()])

    def _thing(self, object_id: str) -> ObjectState:
        if object_id not in self.state.objects:
            raise InputError("This nucleus is no longer here. Reload the page.")
        return self.state.objects[object_id]

    def _mask(self, object_id: str) -> np.ndarray | None:
        mask = self._thing(object_id).mask
        return None if mask is None else decode_rle(mask.as_rle())

    def _evidence(self, class_id: int | None, mask: np.ndarray | None) -> dict[str, Any]:
        if mask is None or class_id not in self.classes:
            return {}
        marker = self.classes[class_id]["marker"]
        evidence = marker_evidence(self.study, self.assignment["patch_id"], marker)
        return evidence.of_mask(mask) if evidence else {}
