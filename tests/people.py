"""People with real accounts and sign-ins for tests, with passwords that are cheap to check."""

from allinsam.accounts import AccountSettings, invite, set_password
from allinsam.store import Study

CHEAP = AccountSettings(argon2_passes=1, argon2_memory_kib=8, argon2_lanes=1)
PASSWORD = "four plain quiet words"


def signed_in_token(
    study: Study,
    role: str,
    person_id: str | None = None,
    name: str | None = None,
    settings: AccountSettings = CHEAP,
) -> str:
    """Make an account, set its password, and return the token of its sign-in."""
    group = "student" if role == "annotator" else "expert"
    link = invite(study, name or f"some {role}", role, group, person_id, CHEAP)
    return set_password(study, link, PASSWORD, settings)
