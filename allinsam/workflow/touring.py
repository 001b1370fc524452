"""The tour: how far each person has read it, and how long that took. Its time is no work."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from allinsam.errors import InputError
from allinsam.store import Study, learning
from allinsam.timing import IDLE_CUTOFF_S, active_seconds

KINDS = ("tour_step", "tour_done", "tour_skipped")


@dataclass(frozen=True)
class TourStanding:
    """state: not begun, begun, skipped or done (once done it stays so). step: where they were last."""

    state: str
    step: str | None
    seconds: float

    @property
    def is_settled(self) -> bool:
        return self.state in ("skipped", "done")


def note_tour(study: Study, person_id: str, visit: str, kind: str, step: str) -> None:
    """Keep that a person came to a step, ended the tour there or skipped the rest.

    Args:
        visit: names one page load; time between two of them is not counted.
    """
    if kind not in KINDS:
        raise InputError(f"Unknown step of the tour {kind!r}. Choose one of {', '.join(KINDS)}.")
    payload = {"visit": visit, "step": step, "ms": round(time.monotonic() * 1000)}
    with study.science.write() as db:
        learning.add_lesson(db, person_id, kind, payload)


def tour_standing(db: Database, person_id: str, idle_cutoff_s: float = IDLE_CUTOFF_S) -> TourStanding:
    return standing_of(learning.list_lessons(db, person_id, "tour_"), idle_cutoff_s)


def standing_of(lessons: Sequence[Mapping[str, Any]], idle_cutoff_s: float) -> TourStanding:
    """The same from the rows of one person's tour, oldest first."""
    kinds = {row["kind"] for row in lessons}
    state = next(
        (name for kind, name in (("tour_done", "done"), ("tour_skipped", "skipped")) if kind in kinds),
        "begun" if kinds else "not begun",
    )
    acts = [
        {"kind": row["kind"], "client_ms": row["payload"]["ms"], "client": row["payload"]["visit"]}
        for row in lessons
    ]
    step = lessons[-1]["payload"]["step"] if lessons else None
    return TourStanding(state, step, active_seconds(acts, idle_cutoff_s))
