"""Training by default: every new student gets practice and a qualification patch before the work."""

from dataclasses import asdict, dataclass

from sqlite_utils import Database

from allinsam.errors import InputError
from allinsam.records import LEARNING_PURPOSES
from allinsam.store import Study
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.workflow.practising import add_learning, gold_for


@dataclass(frozen=True)
class NewcomerTraining:
    """How many patches of each kind a new student gets first."""

    practice: int = 3
    qualification: int = 1

    def __post_init__(self) -> None:
        if self.practice < 0 or self.qualification < 0 or self.patches < 1:
            raise InputError(
                f"{self.practice} practice and {self.qualification} qualification patches cannot be given. "
                "Ask for at least one patch, or for no training."
            )

    @property
    def patches(self) -> int:
        return self.practice + self.qualification


@dataclass(frozen=True)
class Start:
    """How a person's training begins."""

    state: str  # not asked, given, ready to be given, or too little gold
    wanted: int = 0  # patches
    left: int = 0  # patches with finished gold that could be given
    given: tuple[int, ...] = ()  # assignments, by this call


NOT_ASKED = Start("not asked")


def set_newcomer_training(study: Study, person_id: str | None, wanted: NewcomerTraining | None) -> None:
    """Train every new student first from now on, or nobody (None); the change is kept, dated."""
    with study.science.write() as db:
        plan = study_store.get_study(db)["plan"]
        study_store.change_study(
            db, person_id, plan={**plan, "newcomer_training": asdict(wanted) if wanted else None}
        )


def newcomer_training(db: Database) -> NewcomerTraining | None:
    kept = study_store.get_study(db)["plan"].get("newcomer_training")
    return NewcomerTraining(**kept) if kept else None


def start_training(study: Study, person_id: str) -> Start:
    """Give a new student their training, once; called again it finds nothing to do.

    New is a student who has neither begun work nor been given any practice or qualification. Where too few
    patches have finished gold nothing is given, and the next call tries again.
    """
    with study.science.read() as db:
        start = training_start(db, person_id)
    if start.state != "ready":
        return start
    with study.science.write() as db:
        start = training_start(db, person_id)  # again: another tab may have been quicker
        if start.state != "ready":
            return start
        wanted, usable = newcomer_training(db), gold_for(db, person_id)
        given = add_learning(db, person_id, usable[: wanted.practice], "practice")
        given += add_learning(db, person_id, usable[wanted.practice : wanted.patches], "qualification")
        return Start("given", wanted.patches, len(usable), tuple(given))


def training_start(db: Database, person_id: str) -> Start:
    """Where a person's training stands; gives nothing."""
    wanted, person = newcomer_training(db), study_store.get_person(db, person_id)
    is_student = person["group"] == "student" and not (person["simulated"] or person["withdrawn_at"])
    if wanted is None or not is_student:
        return NOT_ASKED
    mine = queue.list_assignments(db, person_id)
    if any(row["purpose"] in LEARNING_PURPOSES for row in mine):
        return Start("given", wanted.patches)
    if any(row["state"] != "waiting" for row in mine):
        return NOT_ASKED  # at work already
    left = len(gold_for(db, person_id))
    return Start("ready" if left >= wanted.patches else "too little gold", wanted.patches, left)
