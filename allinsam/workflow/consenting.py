"""Consent before the first act: the lead's text, who agreed to which version of it, and who still has to.

A text that was changed is a new version, and everybody is asked again. Until somebody has agreed, nothing of
theirs opens and no act of theirs is kept. What they drew before the text changed and what still waits in
their browser is refused, not dropped: the browser keeps it and sends it once they have agreed; if they do
not agree it never comes in.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from allinsam.errors import ConsentMissing, InputError
from allinsam.store import Study, audit, learning
from allinsam.store import study as study_store

LONGEST_TEXT = 20_000  # characters
WAITS = "The consent text of this study waits for your answer. Open Annotate to read it."
DECLINED = "You did not agree to take part, so no patch opens. Talk to the study lead."


@dataclass(frozen=True)
class ConsentText:
    """What people are asked to agree to. `sha256`: of the text, so that a row says what was read."""

    version: int
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def consent_text(db: Database) -> ConsentText | None:
    """The text of now; None where nobody is asked."""
    study = study_store.get_study(db)
    return ConsentText(study["consent_version"], study["consent_text"]) if study["consent_text"] else None


def set_consent_text(study: Study, person_id: str | None, text: str) -> ConsentText | None:
    """Change the text; a new version asks everybody again, an empty text asks nobody.

    Raises:
        InputError: the text is too long.
    """
    text = text.replace("\r\n", "\n").strip()
    if len(text) > LONGEST_TEXT:
        raise InputError(
            f"The consent text has {len(text)} characters. Keep it within {LONGEST_TEXT}, so that it is read."
        )
    with study.science.write() as db:
        before = consent_text(db)
        now = study_store.get_study(db)
        if text and text != now["consent_text"]:
            # The first text keeps the version that a study begins with.
            is_first = not study_store.has_changed(db, "consent_text")
            version = now["consent_version"] + (0 if is_first else 1)
            study_store.change_study(db, person_id, consent_text=text, consent_version=version)
        elif not text:
            study_store.change_study(db, person_id, consent_text="")
        after = consent_text(db)
    if after != before:
        told = f"version {after.version}" if after else "nobody is asked"
        with study.server.write() as db:
            audit.add_event(db, "change_consent_text", person_id or audit.NOBODY, detail=told)
    return after


def why_no_consent(db: Database, person_id: str) -> str | None:
    """Why nothing of this person opens and no act of theirs is kept; None where they agreed or are not asked.

    Simulated people and the truth are not asked.
    """
    asked = consent_text(db)
    if asked is None or not _is_asked(study_store.get_person(db, person_id)):
        return None
    answer = learning.last_consent(db, person_id, asked.version)
    if answer is None or answer["sha256"] != asked.sha256:
        return WAITS
    return None if answer["agreed"] else DECLINED


def demand_consent(db: Database, person_id: str) -> None:
    """Raise ConsentMissing unless this person has agreed, or is not asked."""
    if why := why_no_consent(db, person_id):
        raise ConsentMissing(why)


def answer_consent(study: Study, person_id: str, version: int, agreed: bool) -> None:
    """Keep a person's answer to the version they read.

    Raises:
        InputError: the text has changed since, or nobody is asked.
    """
    with study.science.write() as db:
        asked = consent_text(db)
        if asked is None or asked.version != version:
            raise InputError("The text has been changed meanwhile. Read it again, then answer.")
        learning.add_consent(db, person_id, version, asked.sha256, agreed)


def consent_standing(db: Database, person_id: str) -> str:
    """For the lead: "agreed", "did not agree", "not answered yet" or "not asked"."""
    if consent_text(db) is None or not _is_asked(study_store.get_person(db, person_id)):
        return "not asked"
    return {None: "agreed", DECLINED: "did not agree"}.get(why_no_consent(db, person_id), "not answered yet")


def _is_asked(person: dict[str, Any]) -> bool:
    return not person["simulated"] and person["group"] != "truth"
