"""The study's dated analysis plan: how large a difference may be before "as good" is over, and since when."""

from dataclasses import dataclass

from allinsam.errors import InputError
from allinsam.store import Study, runs
from allinsam.store import study as study_store

MARGIN = "equivalence_margin"
SMALLEST_MARGIN, LARGEST_MARGIN = 0.001, 0.5  # scores run from 0 to 1


@dataclass(frozen=True)
class Margin:
    """The equivalence margin, and whether it could have been chosen to fit the results."""

    value: float  # largest difference of two mean scores that does not matter
    set_at: str  # UTC; of a margin nobody has changed, when the study began
    set_by: str | None  # person id; None on the command line, or where it is the one every study starts with
    is_default: bool  # nobody has ever changed it
    first_scores_at: str | None  # UTC; None where nothing is scored yet
    after_results: bool  # it was set when scores were there to look at


def margin(study: Study) -> Margin:
    with study.science.read() as db:
        row = study_store.get_study(db)
        changes = study_store.plan_changes(db, MARGIN)
        first = runs.first_scores_at(db)
    last = changes[-1] if changes else None
    set_at = last["changed_at"] if last else row["created_at"]
    return Margin(
        value=float(row["plan"][MARGIN]),
        set_at=set_at,
        set_by=last["person_id"] if last else None,
        is_default=last is None,
        first_scores_at=first,
        after_results=last is not None and first is not None and set_at >= first,
    )


def set_margin(study: Study, person_id: str | None, value: float) -> None:
    """Say how large a difference does not matter; the change is kept with its date.

    Raises InputError for a margin that is no number from 0.001 to 0.5.
    """
    if not SMALLEST_MARGIN <= value <= LARGEST_MARGIN:
        raise InputError(
            f"A margin of {value:g} is not usable. Give the largest difference of two mean scores that does "
            f"not matter, from {SMALLEST_MARGIN:g} to {LARGEST_MARGIN:g}."
        )
    with study.science.write() as db:
        plan = study_store.get_study(db)["plan"]
        study_store.change_study(db, person_id, plan={**plan, MARGIN: float(value)})


def margin_sentence(margin: Margin) -> str:
    """In plain words, for a page or a report."""
    day = margin.set_at[:10]
    if margin.is_default:
        return (
            f"The margin of {margin.value:g} is the one every study starts with ({day}); nobody has set one "
            "of their own."
        )
    if margin.after_results:
        return (
            f"The margin of {margin.value:g} was set on {day}, after the first scores were made "
            f"({str(margin.first_scores_at)[:10]}): it may have been chosen to fit them."
        )
    before = ", before the first scores were made" if margin.first_scores_at else "; nothing is scored yet"
    return f"The margin of {margin.value:g} was set on {day}{before}."
