"""Running scores on hidden gold, and the reminder for who makes more mistakes than they did.

The reminder comes one to three patches after the gold that called for it, and never straight after gold, so
that nobody can tell which patch that was. Which patches, how well and how long it was read is kept.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlite_utils import Database

from allinsam.errors import InputError
from allinsam.practice import Mark, mark
from allinsam.records import WORK_PURPOSES
from allinsam.store import Study, learning
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.workflow.practising import verdicts_of

MISTAKES = ("missed", "extra", "wrong_class")
LONGEST_DELAY = 3  # patches
LONGEST_READ_S = 600.0
TREND = 0.05  # a smaller difference of means is no trend
SETTLED = ("complete", "nothing_here")


@dataclass(frozen=True)
class RefreshRule:
    """Who is reminded: the mean score of their last hidden gold patches is below a mark."""

    last: int = 3  # gold patches
    below: float = 0.7  # mean of `Mark.score`, 0 to 1

    def __post_init__(self) -> None:
        if self.last < 1 or not 0 < self.below <= 1:
            raise InputError(
                f"A reminder after {self.last} gold patches below {self.below:g} cannot be used. Give at "
                "least one patch and a mark above 0 and up to 1."
            )


@dataclass(frozen=True)
class GoldScore:
    """How well a person did on a hidden gold patch, on the classes they finished there."""

    assignment_id: int
    patch: str
    submitted_at: str
    mark: Mark


@dataclass(frozen=True)
class Refresh:
    """A reminder to be shown now. `mistakes`: how often each kind was made, those that were."""

    id: int
    mistakes: dict[str, int]


def set_refresh_rule(study: Study, person_id: str | None, rule: RefreshRule | None) -> None:
    """Remind people by this rule from now on, or nobody (None); the change is kept, dated."""
    with study.science.write() as db:
        plan = study_store.get_study(db)["plan"]
        study_store.change_study(db, person_id, plan={**plan, "refresh": asdict(rule) if rule else None})


def refresh_rule(db: Database) -> RefreshRule | None:
    kept = study_store.get_study(db)["plan"].get("refresh")
    return RefreshRule(**kept) if kept else None


def gold_scores(db: Database, person_id: str, last: int | None = None, after: str = "") -> list[GoldScore]:
    """On a person's hidden gold patches handed in after a moment (UTC), oldest first; only the last so many.

    Nobody is scored against what they drew themselves.
    """
    chosen = [row for row in _handed_in(db, person_id) if is_hidden_gold(row) and row["submitted_at"] > after]
    finished = queue.finished_classes(db, [row["patch_id"] for row in chosen]) if chosen else []
    finished = [row for row in finished if row["person_id"] != person_id]
    scores = []
    for row in reversed(chosen):
        if last is not None and len(scores) == last:
            break
        states = queue.assignment_classes(db, row["id"])
        settled = [class_id for class_id, state in states.items() if state in SETTLED]
        verdicts = verdicts_of(db, row, finished, settled) if settled else None
        if verdicts is not None:
            scores.append(GoldScore(row["id"], row["patch"], row["submitted_at"], mark(verdicts)))
    return scores[::-1]


def is_hidden_gold(assignment: dict[str, Any]) -> bool:
    """Gold in somebody's queue to measure them; an expert's own gold is what others are measured by."""
    return assignment["purpose"] == "gold" and (
        assignment["plan_id"] is not None or assignment["group"] == "student"
    )


def trend_of(scores: Sequence[float], last: int) -> str:
    """The mean of the last scores beside that of those before: better, worse, level; empty with too few."""
    newest, before = scores[-last:], scores[:-last][-last:]
    if len(newest) < last or not before:
        return ""
    change = sum(newest) / len(newest) - sum(before) / len(before)
    return "level" if abs(change) < TREND else "better" if change > 0 else "worse"


def refresh_for(study: Study, assignment_id: int) -> Refresh | None:
    """The reminder to show before this patch is begun, if there is one; what it is due for is kept.

    Shown again until it is dismissed.
    """
    with study.science.read() as db:
        assignment = queue.get_assignment(db, assignment_id)
        step = _next_step(db, assignment)
    if step is None:
        return None
    if step[0] == "now":
        return step[1]
    with study.science.write() as db:
        step = _next_step(db, assignment)  # again: another tab may have been quicker
        if step is None or step[0] == "now":
            return step and step[1]
        kind, payload = step
        number = learning.add_lesson(db, assignment["person_id"], kind, payload)
    return Refresh(number, payload["mistakes"]) if kind == "refresh_shown" else None


def dismiss_refresh(study: Study, person_id: str, number: int, seconds: float) -> None:
    """A person has read a reminder; said twice, or of another's, it changes nothing."""
    with study.science.write() as db:
        rows = learning.list_lessons(db, person_id, "refresh_")
        if rows and rows[-1]["kind"] == "refresh_shown" and rows[-1]["id"] == number:
            seconds = round(min(max(float(seconds), 0.0), LONGEST_READ_S), 1)
            learning.add_lesson(db, person_id, "refresh_dismissed", {"shown": number, "seconds": seconds})


def _next_step(db: Database, assignment: dict[str, Any]) -> Any:
    """("now", what is shown already), or the row to keep: (kind, payload); None: nothing to do."""
    rule = refresh_rule(db)
    is_work = assignment["purpose"] in WORK_PURPOSES and not assignment["simulated"]
    if rule is None or not is_work or _is_begun(db, assignment):
        return None
    person_id = assignment["person_id"]
    rows = learning.list_lessons(db, person_id, "refresh_")
    state, payload = (rows[-1]["kind"], rows[-1]["payload"]) if rows else ("", {})
    if state == "refresh_shown":
        return "now", Refresh(rows[-1]["id"], payload["mistakes"])
    done = _handed_in(db, person_id)
    if state == "refresh_due":
        since = [row for row in done if row["submitted_at"] > payload["after"]]
        if len(since) < payload["delay"] or is_hidden_gold(done[-1]):
            return None
        return "refresh_shown", {"due": rows[-1]["id"], "mistakes": payload["mistakes"]}
    # Gold from before the last reminder has been answered for.
    due = [row["payload"]["after"] for row in rows if row["kind"] == "refresh_due"]
    scores = gold_scores(db, person_id, rule.last, due[-1] if due else "")
    mean = sum(found.mark.score for found in scores) / len(scores) if scores else 1.0
    if len(scores) < rule.last or mean >= rule.below:
        return None
    counts = sum((Counter(found.mark.counts) for found in scores), Counter())
    made = {kind: counts[kind] for kind in MISTAKES if counts[kind]}
    newest = scores[-1]
    return "refresh_due", {
        "gold": [found.assignment_id for found in scores],
        "score": round(mean, 4),
        "mistakes": made,
        "after": newest.submitted_at,
        "delay": _delay(study_store.get_study(db)["created_at"], newest.assignment_id),
        "rule": asdict(rule),
    }


def _is_begun(db: Database, assignment: dict[str, Any]) -> bool:
    """Whether its person has opened a patch; suggestions made beforehand are no beginning."""
    if assignment["state"] == "open":
        return any(act.kind == "load" for act in act_store.list_acts(db, assignment["id"]))
    return assignment["state"] == "submitted"


def _delay(study_key: str, assignment_id: int) -> int:
    """One to three patches, drawn from the study and the gold patch: the same whenever it is asked."""
    drawn = hashlib.sha256(f"{study_key} {assignment_id}".encode()).digest()
    return 1 + int.from_bytes(drawn[:4], "big") % LONGEST_DELAY


def _handed_in(db: Database, person_id: str) -> list[dict[str, Any]]:
    """A person's work in the order in which it was handed in."""
    rows = [
        row
        for row in queue.list_assignments(db, person_id)
        if row["state"] == "submitted" and row["purpose"] in WORK_PURPOSES
    ]
    return sorted(rows, key=lambda row: (row["submitted_at"], row["position"]))
