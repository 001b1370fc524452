"""Acts in, masks from boxes, the marker's evidence for each mask, and the queue."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from allinsam import acts as act_rules
from allinsam.acts import AssignmentState
from allinsam.errors import InputError, NotAllowedError, NotFoundError, StorageError
from allinsam.files import write_file
from allinsam.imaging import encode_png, read_channel, read_rgb
from allinsam.masks import clean_mask, encode_rle
from allinsam.records import SHOWN_TO, WORK_PURPOSES, Act
from allinsam.registration import identity_matrix, warp_to_pas
from allinsam.sam.embeddings import EmbeddingCache
from allinsam.sam.prompting import Prompt
from allinsam.store import Study, images, thresholds
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store.connection import utc_now
from allinsam.thresholding import marker_mask, molecular_support
from allinsam.workflow.consenting import demand_consent, why_no_consent
from allinsam.workflow.practising import has_qualification_waiting, is_paused, qualification
from allinsam.workflow.standing import Standing, standing


@dataclass(frozen=True)
class Recorded:
    """What `record_acts` did. Everything in `acknowledged` is committed to disk."""

    acknowledged: tuple[int, ...]
    unknown_kinds: tuple[str, ...]
    state: AssignmentState
    n_acts: int  # of the assignment
    saved_at: str | None  # UTC, of the last act kept


def write_image(study: Study, image: np.ndarray) -> str:
    """Store an image losslessly as PNG under the sha256 of its file; returns the sha256."""
    content = encode_png(image)
    sha256 = hashlib.sha256(content).hexdigest()
    path = study.image_path(sha256)
    if not path.exists():
        write_file(path, content)
    return sha256


def record_acts(study: Study, assignment_id: int, person_id: str, acts: Sequence[Act]) -> Recorded:
    """Append acts and the annotation rows they add, in one transaction; repeats are skipped.

    "Saved" may be said when this returns: it has been committed. Acts of an unknown kind are kept
    and reported.

    Raises:
        NotAllowedError: the assignment is somebody else's.
        ConsentMissing: they have not agreed to the consent text of now.
        InputError: an act cannot be kept; nothing of this call is.
    """
    with standing(study, assignment_id) as held, study.science.write() as db:
        assignment = queue.get_assignment(db, assignment_id)
        if assignment["person_id"] != person_id:
            raise NotAllowedError(f"Assignment {assignment_id} is not in the queue of {person_id!r}.")
        demand_consent(db, person_id)
        return append_acts(db, assignment, acts, held)


def append_acts(db: Any, assignment: dict[str, Any], acts: Sequence[Act], held: Standing) -> Recorded:
    """The same for an assignment's row within a transaction of the caller's, who has settled whose it is."""
    assignment_id = assignment["id"]
    class_ids = list(queue.assignment_classes(db, assignment_id))
    size_hw = (assignment["height_px"], assignment["width_px"])
    player = held.catch_up(db)
    acknowledged: list[int] = []
    unknown: list[str] = []
    for act in acts:
        act_rules.validate_frame(act)
        if not _is_repeat(db, assignment_id, act):
            act_rules.validate(act, player.state, class_ids, size_hw)
            _check_sources(db, act)
            act_id = act_store.insert_act(db, assignment_id, act)
            act_store.insert_annotations(db, assignment_id, act_id, player.apply(act))
            held.note(act_id, act)
        acknowledged.append(act.seq)
        if act.kind not in act_rules.ACT_KINDS:
            unknown.append(act.kind)
    state = player.state
    _update_progress(db, assignment, state, bool(acts))
    return Recorded(tuple(acknowledged), tuple(unknown), state, *act_store.act_summary(db, assignment_id))


def _check_sources(db: Any, act: Act) -> None:
    """Refuse evidence from nowhere now: the annotation row of a later accept could not be written."""
    if act.kind not in act_rules.CARRIES_EVIDENCE:
        return
    if not act_store.has_sources(db, act.payload.get("threshold_id"), act.payload.get("registration_id")):
        raise InputError(f"Act {act.seq} ({act.kind}) names a threshold or registration that is not there.")


def _is_repeat(db: Any, assignment_id: int, act: Act) -> bool:
    """Whether this very act is kept already; another act under its number is refused, not dropped."""
    kept = act_store.stored_act(db, act.client, act.seq)
    if kept is None:
        return False
    # Compared as they are stored: a tuple comes back as a list.
    if kept[0] != assignment_id or act_store.act_values(kept[1]) != act_store.act_values(act):
        raise InputError(
            f"Act {act.seq} ({act.kind}): this page has sent another act under that number. Reload the page."
        )
    return True


def _update_progress(db: Any, assignment: dict[str, Any], state: AssignmentState, touched: bool) -> None:
    if state.submitted:
        stage, submitted_at = "submitted", assignment["submitted_at"] or utc_now()
    else:
        stage, submitted_at = ("open" if touched else assignment["state"]), None
    queue.set_progress(db, assignment["id"], stage, dict(state.class_states), submitted_at)


def assignment_state(study: Study, assignment_id: int) -> AssignmentState:
    """Where an assignment stands, from its acts."""
    with standing(study, assignment_id) as held, study.science.read() as db:
        return held.catch_up(db).state


def read_patch(study: Study, patch_id: int) -> np.ndarray:
    """The PAS patch, uint8 RGB (H, W, 3)."""
    with study.science.read() as db:
        patch = images.get_patch(db, patch_id)
    return _pixels(study.image_path(patch["image_sha256"])).copy()


def stored_rgb(path: Path) -> np.ndarray:
    """A stained image of the study's own. StorageError where it cannot be read."""
    with _own_file(path):
        return read_rgb(path)


def stored_channel(path: Path) -> np.ndarray:
    """A channel of the study's own. StorageError where it cannot be read."""
    with _own_file(path):
        return read_channel(path)


@contextmanager
def _own_file(path: Path) -> Iterator[None]:
    """It was whole when it was stored: who needs it did nothing wrong, and what they drew has to wait."""
    try:
        yield
    except InputError as error:
        raise StorageError(
            f"An image of this study is gone or damaged: {path.name[:12]}... Restore it from a backup: "
            f"python -m allinsam verify names every such file. ({error})"
        ) from error


@lru_cache(maxsize=16)
def _pixels(path: Path) -> np.ndarray:
    """A box is answered on a patch that was read for the box before it; the file of a hash never changes."""
    return stored_rgb(path)


@lru_cache(maxsize=16)
def _channel_in_pas(path: Path, matrix: tuple[float, ...], size_hw: tuple[int, int]) -> np.ndarray:
    return warp_to_pas(stored_channel(path), np.array(matrix).reshape(2, 3), size_hw)


def read_registered_channel(study: Study, patch_id: int, marker: str) -> tuple[np.ndarray, int | None]:
    """A patch's marker channel in the PAS frame, grey levels untouched, and the registration's id."""
    with study.science.read() as db:
        patch = images.get_patch(db, patch_id)
        channels = [c for c in images.list_channels(db, patch_id) if c["marker"] == marker]
        registration = images.current_registration(db, patch_id)
    if not channels:
        raise NotFoundError(f"Patch {patch['name']} has no {marker} channel. Import one for it.")
    matrix = registration["matrix"] if registration else identity_matrix()
    path, size_hw = study.image_path(channels[0]["image_sha256"]), (patch["height_px"], patch["width_px"])
    channel = _channel_in_pas(path, tuple(np.ravel(matrix).tolist()), size_hw)
    return channel.copy(), registration["id"] if registration else None


@dataclass(frozen=True)
class MarkerEvidence:
    """Where a marker is bright on a patch, and under which signed threshold and registration."""

    bright: np.ndarray
    threshold_id: int | None
    threshold_value: float
    registration_id: int | None

    def of_mask(self, mask: np.ndarray) -> dict[str, Any]:
        """What an act keeps about a mask: the share of it that is bright, and its sources."""
        return {
            "threshold_id": self.threshold_id,
            "registration_id": self.registration_id,
            "molecular_support": round(float(molecular_support(mask, self.bright)), 4),
        }


def marker_evidence(study: Study, patch_id: int, marker: str) -> MarkerEvidence | None:
    """The bright area of a marker on a patch, or None without a channel or a signed threshold."""
    with study.science.read() as db:
        patch = images.get_patch(db, patch_id)
        has_channel = any(
            c["role"] == "marker" and c["marker"] == marker for c in images.list_channels(db, patch_id)
        )
        threshold = thresholds.current_threshold(db, patch["slide_id"], marker, patch_id)
    if not has_channel or threshold is None:
        return None
    channel, registration_id = read_registered_channel(study, patch_id, marker)
    bright = marker_mask(channel, threshold["value"])
    return MarkerEvidence(bright, threshold["id"], threshold["value"], registration_id)


def masks_for_prompts(
    study: Study,
    cache: EmbeddingCache,
    patch_id: int,
    marker: str,
    prompts: Sequence[Prompt],
    taken: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """SAM's mask for each prompt, ready to be the payload of a `mask_shown` act.

    Pixels that are `taken` (H, W) by nuclei already kept are left out, unless that is most of the mask: then
    it is the same nucleus once more, which the person has to see.
    """
    if not prompts:
        return []
    embedding = cache.get(read_patch(study, patch_id))
    found = cache.segmenter.masks_from_prompts(embedding, prompts)
    masks = found.masks if taken is None else [without(mask, taken) for mask in found.masks]
    evidence = marker_evidence(study, patch_id, marker)
    loaded = cache.segmenter.loaded
    return [
        {
            "mask": encode_rle(mask),
            "predicted_iou": round(float(score), 4),
            "backbone": loaded.backbone.name,
            "weights_sha256": loaded.weights_sha256,
            **(evidence.of_mask(mask) if evidence else {}),
        }
        for mask, score in zip(masks, found.predicted_iou, strict=True)
    ]


def without(mask: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """A mask without what is taken, in one piece; the mask itself where that would leave less than half."""
    rest = mask & ~taken
    if rest.sum() == mask.sum() or 2 * rest.sum() < mask.sum():
        return mask
    return clean_mask(rest, min_area_px=1)


def masks_for_boxes(
    study: Study, cache: EmbeddingCache, patch_id: int, marker: str, boxes: np.ndarray
) -> list[dict[str, Any]]:
    """The same for boxes (n, 4), xyxy in px of the patch."""
    prompts = [Prompt(box) for box in np.asarray(boxes, dtype=np.float32).reshape(-1, 4)]
    return masks_for_prompts(study, cache, patch_id, marker, prompts)


def waits_for_registration(assignment: Mapping[str, Any], on_hold: Collection[int]) -> bool:
    """Whether an assignment is not to be opened now: the IF that guides it is not settled on its stain.

    Args:
        on_hold: ids of patches whose newest registration was not accepted.
    """
    return assignment["guidance"] != "pas_only" and assignment["patch_id"] in on_hold


def why_closed(db: Any, assignment: Mapping[str, Any]) -> str | None:
    """Why an assignment is not to be opened now, for its annotator; None where it is open, or handed in."""
    return closed(db, [assignment]).get(assignment["id"])


def closed(db: Any, mine: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Of the assignments of one person, each that is not to be opened now, and why.

    One whose registration was not accepted waits on, unless it is annotated on the stain alone; one that is
    shown where a marker is bright waits until all its thresholds are signed; production waits until a
    qualification is passed, where the study asks for one. Nothing opens to whom the lead has paused, and
    without consent not even what was handed in.
    """
    if not mine:
        return {}
    if why := why_no_consent(db, mine[0]["person_id"]):
        return {row["id"]: why for row in mine}
    left = [row for row in mine if row["state"] != "submitted"]
    if not left:
        return {}
    if is_paused(db, left[0]["person_id"]):
        return {row["id"]: "Your work is paused. Talk to the study lead." for row in left}
    on_hold = images.patches_on_hold(db)
    unsigned = thresholds.unsigned_markers(db, SHOWN_TO["bright"], [row["id"] for row in left])
    unqualified = _why_unqualified(db, left[0]["person_id"])
    why = {}
    for row in left:
        if waits_for_registration(row, on_hold):
            why[row["id"]] = "This patch waits until the study lead has checked that its two pictures fit."
        elif row["id"] in unsigned:
            markers = " and ".join(unsigned[row["id"]])
            why[row["id"]] = f"This patch waits until the study lead has signed how bright {markers} must be."
        elif unqualified and row["purpose"] in WORK_PURPOSES:
            why[row["id"]] = unqualified
    return why


def why_the_rest_waits(db: Any, mine: Sequence[Mapping[str, Any]]) -> str:
    """Of one person's assignments: the reason that most of those not to be opened have; empty without any."""
    reasons = Counter(closed(db, mine).values())
    most = max(reasons, key=reasons.__getitem__, default="")
    return most.replace("This patch waits until", "A patch opens when", 1)


def _why_unqualified(db: Any, person_id: str) -> str | None:
    stands = qualification(db, person_id)
    if stands.is_open:
        return None
    if len(stands.marks) >= stands.needed.attempts:
        return "Your qualification has not been passed. Talk to the study lead."
    if not stands.marks or has_qualification_waiting(db, person_id):
        return "Your qualification comes first. Hand that patch in; the study lead gives it to you."
    return "Your qualification is not passed yet. Ask the study lead for another patch to try."


def next_assignment(study: Study, person_id: str) -> dict[str, Any] | None:
    """The first patch of a person's queue that is open, else the first that waits; `place` counts from 1.

    One that is `closed` is passed over.
    """
    with study.science.read() as db:
        mine = queue.list_assignments(db, person_id)
        waits = closed(db, mine)
    for wanted in ("open", "waiting"):
        for place, assignment in enumerate(mine, 1):
            if assignment["state"] == wanted and assignment["id"] not in waits:
                return {**assignment, "place": place}
    return None


class ActLog:
    """Numbers the acts of one page load, so that each gets a (client, seq) of its own."""

    def __init__(self, client: str, surface: str, after_seq: int = 0) -> None:
        if not client:
            raise InputError("An act log needs the id of its page load.")
        self._client, self._surface, self._seq = client, surface, after_seq

    def act(self, kind: str, client_ms: float, object_id: str | None = None, **payload: Any) -> Act:
        self._seq += 1
        return Act(self._client, self._seq, kind, client_ms, payload, object_id, self._surface)

    def next_name(self) -> str:
        """A name that the next act alone can have."""
        return f"{self._client}:{self._seq + 1}"

    def answer(self, question: Act, client_ms: float, payload: dict[str, Any]) -> Act:
        """The server's mask for a box or a prompt: undone together with what asked for it."""
        answer = self.act("mask_shown", client_ms, question.object_id, **payload)
        return replace(answer, payload={**answer.payload, "answers": [question.client, question.seq]})
