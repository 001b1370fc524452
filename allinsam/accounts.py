"""Who may come in, and what they may do. Passwords are kept as argon2 hashes, tokens as sha256."""

import hashlib
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from allinsam.errors import InputError, NotAllowedError, NotFoundError
from allinsam.records import ROLES
from allinsam.store import Study, audit
from allinsam.store import accounts as rows
from allinsam.store import study as people

LONGEST_NAME = 100
LONGEST_PASSWORD = 200
INVITED_GROUPS = ("expert", "student")

# Each check takes 64 MB and a core for a third of a second: more at once would stall the annotators.
_checks = threading.BoundedSemaphore(2)


@dataclass(frozen=True)
class SignedIn:
    """A person with a valid sign-in. `role` is permission, `group` the factor that is analysed."""

    person_id: str
    name: str
    role: str
    group: str


@dataclass(frozen=True)
class AccountSettings:
    """How hard a password is to guess and how long a token lives."""

    argon2_passes: int = 3  # RFC 9106, second recommended option
    argon2_memory_kib: int = 65_536  # the same
    argon2_lanes: int = 4  # the same
    shortest_password: int = 10  # characters
    sign_in_days: float = 7.0
    invitation_days: float = 7.0
    free_failures: int = 5  # failed sign-ins of one name from one address before the first wait
    free_failures_of_address: int = 50  # of whatever names: a whole class may share one address
    longest_wait_s: float = 300.0  # waits double from 1 s up to this: never a hard lock
    longest_wait_of_address_s: float = 30.0
    failures_count_for_s: float = 3600.0


DEFAULT_SETTINGS = AccountSettings()


class SignInRefused(NotAllowedError):
    """Name and password do not match, or it is too soon to try again (`wait_s` > 0)."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


# --- What a role may do -------------------------------------------------------------------------

Rule = Callable[[SignedIn, Mapping[str, Any]], bool]


def _always(person: SignedIn, thing: Mapping[str, Any]) -> bool:
    return True


def _own(person: SignedIn, thing: Mapping[str, Any]) -> bool:
    return thing.get("person_id") == person.person_id


def _assigned(person: SignedIn, thing: Mapping[str, Any]) -> bool:
    return person.person_id in thing.get("person_ids", ())


_LEAD_ONLY: dict[str, Rule] = {"lead": _always}
_LEAD_AND_REVIEWER: dict[str, Rule] = {"lead": _always, "reviewer": _always}

# Action -> role -> rule. A role that is not named may not. The object is a row of the store, or the
# part of it that the rule needs: an assignment has `person_id`, a patch the `person_ids` it is given to.
ACTIONS: dict[str, dict[str, Rule]] = {
    "annotate": {"lead": _own, "reviewer": _own, "annotator": _own},
    "view_assignment": {"lead": _always, "reviewer": _always, "annotator": _own},
    "view_patch": {"lead": _always, "reviewer": _always, "annotator": _assigned},
    "view_thresholds": _LEAD_AND_REVIEWER,
    "sign_threshold": _LEAD_AND_REVIEWER,
    "edit_classes": _LEAD_ONLY,
    "register": _LEAD_AND_REVIEWER,
    "view_agreement": _LEAD_AND_REVIEWER,
    "review": _LEAD_AND_REVIEWER,
    "compare": _LEAD_AND_REVIEWER,
    "edit_plan": _LEAD_ONLY,
    "settle_items": _LEAD_AND_REVIEWER,
    "train": _LEAD_ONLY,
    "export": _LEAD_ONLY,
    "import_images": _LEAD_ONLY,
    "manage_people": _LEAD_ONLY,
    "view_audit": _LEAD_ONLY,
    "view_status": _LEAD_ONLY,
}


def may(person: SignedIn, action: str, thing: Mapping[str, Any] | None = None) -> bool:
    """Whether this person may do this to that object. Pages, routes and acts all ask here."""
    if action not in ACTIONS:
        raise InputError(f"Unknown action {action!r}. Known: {', '.join(ACTIONS)}.")
    rule = ACTIONS[action].get(person.role)
    return rule is not None and rule(person, thing or {})


def demand(person: SignedIn, action: str, thing: Mapping[str, Any] | None = None) -> None:
    """Raise NotAllowedError unless the person may."""
    if not may(person, action, thing):
        what = action.replace("_", " ")
        raise NotAllowedError(f"{person.name} ({person.role}) may not {what} here. Ask the study lead.")


# --- Invitations and passwords ------------------------------------------------------------------


def invite(
    study: Study,
    name: str,
    role: str,
    group: str,
    person_id: str | None = None,
    settings: AccountSettings = DEFAULT_SETTINGS,
    by: str = audit.NOBODY,
) -> str:
    """Make the account if it is new, and a token that sets its password once.

    Inviting a name again replaces the token it still had; the old password works until then. `by`: who
    invites, here and below, for the log.

    Raises:
        InputError: the name, role or group is not usable, or the account has another role.
    """
    name = _checked_name(name)
    if role not in ROLES:
        raise InputError(f"Unknown role {role!r}. Choose one of {', '.join(ROLES)}.")
    if group not in INVITED_GROUPS:
        raise InputError(f"Unknown group {group!r}. Choose one of {', '.join(INVITED_GROUPS)}.")
    with study.server.read() as db:
        account = rows.find_account(db, name)
    if account is None:
        account = _add_account(study, name, role, group, person_id)
    elif account["role"] != role or not account["active"]:
        state = account["role"] if account["active"] else "deactivated"
        raise InputError(f"There is already an account {name!r} ({state}). Choose another name.")
    token = secrets.token_urlsafe(32)
    with study.server.write() as db:
        rows.add_invitation(db, _sha256(token), account["person_id"], _in_days(settings.invitation_days))
        audit.add_event(db, "invite", by, account["person_id"], account["role"])
    return token


def invite_all(
    study: Study,
    names: Sequence[str],
    role: str,
    group: str,
    settings: AccountSettings = DEFAULT_SETTINGS,
    by: str = audit.NOBODY,
) -> dict[str, str]:
    """A token for each of these new names, in their order; nobody is invited where one of them is refused.

    Raises:
        InputError: no name is given, one is not usable, is given twice or has an account already.
    """
    wanted = [_checked_name(name) for name in names]
    if not wanted:
        raise InputError("No name is given. Write one name in each line.")
    twice = [name for n, name in enumerate(wanted) if name.casefold() in map(str.casefold, wanted[:n])]
    if twice:
        raise InputError(f"{twice[0]!r} is there twice. Give everybody a name of their own.")
    with study.server.read() as db:
        taken = [name for name in wanted if rows.find_account(db, name)]
    if taken:
        raise InputError(
            f"There is already an account {taken[0]!r}. For a forgotten password, make a new link."
        )
    return {name: invite(study, name, role, group, settings=settings, by=by) for name in wanted}


def invited_name(study: Study, token: str) -> str | None:
    """The sign-in name an unused, unexpired invitation is for."""
    with study.server.read() as db:
        invitation = rows.open_invitation(db, _sha256(token))
        account = rows.get_account(db, invitation["person_id"]) if invitation else None
    return account["name"] if account and account["active"] else None


def set_password(
    study: Study, token: str, password: str, settings: AccountSettings = DEFAULT_SETTINGS
) -> str:
    """Use up an invitation; ends every other sign-in of the person and returns a new one.

    Raises:
        InputError: the link is used up or expired, or the password is too weak.
    """
    name = invited_name(study, token)
    if name is None:
        raise InputError("This link has been used or has expired. Ask the study lead for a new one.")
    _check_password(password, name, settings)
    with _checks:
        password_hash = _hasher(settings).hash(password)
    sign_in_token = secrets.token_urlsafe(32)
    with study.server.write() as db:
        # Again inside the transaction: two tabs may have sent the same link.
        invitation = rows.open_invitation(db, _sha256(token))
        if invitation is None:
            raise InputError("This link has just been used. Sign in with the password set then.")
        person_id = invitation["person_id"]
        rows.use_invitation(db, invitation["token_sha256"])
        rows.update_account(db, person_id, password_hash=password_hash)
        rows.end_sign_ins_of(db, person_id)
        rows.add_sign_in(db, _sha256(sign_in_token), person_id, _in_days(settings.sign_in_days))
        audit.add_event(db, "set_password", person_id)
    return sign_in_token


def change_password(
    study: Study,
    person: SignedIn,
    password: str,
    new_password: str,
    address: str,
    settings: AccountSettings = DEFAULT_SETTINGS,
) -> str:
    """Replace one's own password; ends every sign-in of the person and returns a new one.

    Raises:
        SignInRefused: the present password is wrong, or it is too soon to try again.
        InputError: the new password is too weak.
    """
    _check_password(new_password, person.name, settings)
    _refuse_if_too_soon(study, person.name, address, settings)
    with study.server.read() as db:
        account = rows.get_account(db, person.person_id)
    password_hash = (account and account["password_hash"]) or _dummy_hash(settings)
    if not _password_matches(password_hash, password[:LONGEST_PASSWORD], settings):
        _note_failure(study, person.name, address, settings)
        raise SignInRefused("The present password is not right. Nothing was changed.")
    with _checks:
        new_hash = _hasher(settings).hash(new_password)
    token = secrets.token_urlsafe(32)
    with study.server.write() as db:
        rows.clear_failures(db, person.name, address)
        rows.update_account(db, person.person_id, password_hash=new_hash)
        rows.end_sign_ins_of(db, person.person_id)
        rows.add_sign_in(db, _sha256(token), person.person_id, _in_days(settings.sign_in_days))
        audit.add_event(db, "set_password", person.person_id)
    return token


def deactivate(study: Study, person_id: str, by: str = audit.NOBODY) -> None:
    """Close an account and end its sign-ins. What the person annotated stays."""
    _change_account(study, person_id, "deactivate", by, active=0)


def reactivate(study: Study, person_id: str, by: str = audit.NOBODY) -> None:
    _change_account(study, person_id, "reactivate", by, active=1)


def change_role(study: Study, person_id: str, role: str, by: str = audit.NOBODY) -> None:
    """Give an account another role; the person signs in again to use it."""
    if role not in ROLES:
        raise InputError(f"Unknown role {role!r}. Choose one of {', '.join(ROLES)}.")
    _change_account(study, person_id, "change_role", by, role, role=role)


# --- Signing in and out -------------------------------------------------------------------------


def sign_in(
    study: Study, name: str, password: str, address: str, settings: AccountSettings = DEFAULT_SETTINGS
) -> str:
    """The token of a new sign-in, for the cookie.

    Raises:
        SignInRefused: name and password do not match, or this name or this address must wait.
    """
    name = name.strip()[:LONGEST_NAME]
    with study.server.read() as db:
        account = rows.find_account(db, name)
    try:
        _refuse_if_too_soon(study, name, address, settings)
    except SignInRefused:
        _record_refusal(study, "sign_in_too_soon", account, address)
        raise
    # An unknown name costs the same time as a wrong password, so that names cannot be guessed.
    usable = account is not None and bool(account["active"]) and account["password_hash"] is not None
    password_hash = account["password_hash"] if account and usable else _dummy_hash(settings)
    matches = _password_matches(password_hash, password[:LONGEST_PASSWORD], settings)
    if not (account and usable and matches and _group_of(study, account["person_id"])):
        _note_failure(study, name, address, settings)
        _record_refusal(study, "sign_in_refused", account, address)
        raise SignInRefused("This name and password do not match. Check both and try again.")
    token = secrets.token_urlsafe(32)
    with study.server.write() as db:
        rows.clear_failures(db, name, address)
        rows.forget_expired_sign_ins(db)
        rows.add_sign_in(db, _sha256(token), account["person_id"], _in_days(settings.sign_in_days))
        audit.add_event(db, "sign_in", account["person_id"], address=address)
    return token


def signed_in(study: Study, token: str | None) -> SignedIn | None:
    """Who a cookie's token belongs to; None when it has expired, been signed out or deactivated."""
    if not token:
        return None
    with study.server.read() as db:
        account = rows.signed_in_account(db, _sha256(token))
    group = _group_of(study, account["person_id"]) if account else None
    if account is None or group is None:
        return None
    return SignedIn(account["person_id"], account["name"], account["role"], group)


def sign_out(study: Study, token: str) -> None:
    with study.server.write() as db:
        if account := rows.signed_in_account(db, _sha256(token)):
            audit.add_event(db, "sign_out", account["person_id"])
        rows.end_sign_in(db, _sha256(token))


def open_sign_ins(study: Study, person_id: str, token: str = "") -> list[dict[str, Any]]:
    """Where a person is signed in, newest first: created_at, expires_at, here (whether by this token)."""
    with study.server.read() as db:
        found = rows.open_sign_ins(db, person_id)
    here = _sha256(token)
    return [
        {
            "created_at": row["created_at"],
            "expires_at": row["expires_at"],
            "here": row["token_sha256"] == here,
        }
        for row in found
    ]


def sign_out_everywhere(study: Study, person_id: str, by: str = audit.NOBODY) -> None:
    with study.server.write() as db:
        rows.end_sign_ins_of(db, person_id)
        audit.add_event(db, "sign_out_everywhere", by, person_id)


# --- Parts --------------------------------------------------------------------------------------


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise InputError(
            f"{name[:40]!r} is not a sign-in name. Use 1 to {LONGEST_NAME} printable characters."
        )
    return name


def _check_password(password: str, name: str, settings: AccountSettings) -> None:
    if len(password) < settings.shortest_password:
        raise InputError(
            f"The password has {len(password)} characters; it needs {settings.shortest_password}."
        )
    if len(password) > LONGEST_PASSWORD:
        raise InputError(f"The password has {len(password)} characters; at most {LONGEST_PASSWORD} are kept.")
    if len(set(password)) < 4 or password.casefold() in (name.casefold(), name.casefold()[::-1]):
        raise InputError("This password is too easy to guess. Try three or four unrelated words.")


def _add_account(study: Study, name: str, role: str, group: str, person_id: str | None) -> dict[str, Any]:
    person_id = person_id or f"p-{secrets.token_hex(4)}"
    with study.science.write() as db:
        known = {row["id"]: row for row in people.list_people(db)}
        if person_id not in known:
            people.add_person(db, person_id, group)
        elif known[person_id]["simulated"] or known[person_id]["withdrawn_at"]:
            raise InputError(f"Person {person_id!r} is simulated or has withdrawn and cannot get an account.")
    with study.server.write() as db:
        rows.add_account(db, person_id, name, role)
        account = rows.get_account(db, person_id)
    if account is None:
        raise NotFoundError(f"The account of {name!r} was not kept. Try again.")
    return account


def _record_refusal(study: Study, action: str, account: Mapping[str, Any] | None, address: str) -> None:
    """By pseudonym or by nobody: what is typed as a name may be a password."""
    who = account["person_id"] if account else audit.NOBODY
    with study.server.write() as db:
        audit.add_event(db, action, who, address=address)


def _change_account(
    study: Study, person_id: str, action: str, by: str, detail: str = "", **fields: Any
) -> None:
    with study.server.write() as db:
        if rows.get_account(db, person_id) is None:
            raise NotFoundError(f"No account for person {person_id!r}. See the People page.")
        rows.update_account(db, person_id, **fields)
        rows.end_sign_ins_of(db, person_id)
        audit.add_event(db, action, by, person_id, detail)


def _group_of(study: Study, person_id: str) -> str | None:
    """The group of a real person who has not withdrawn; None for everybody else."""
    with study.science.read() as db:
        try:
            person = people.get_person(db, person_id)
        except NotFoundError:
            return None
    return None if person["simulated"] or person["withdrawn_at"] else person["group"]


def _refuse_if_too_soon(study: Study, name: str, address: str, settings: AccountSettings) -> None:
    """Waits are of a name at an address, so that nobody can keep somebody else out, and of an address that
    tries many names.
    """
    since = _seconds_ago(settings.failures_count_for_s)
    with study.server.read() as db:
        of_name = rows.failures_since(db, address, since, name)
        of_address = rows.failures_since(db, address, since)
    left_s = max(
        _wait_left_s(of_name, settings.free_failures, settings.longest_wait_s),
        _wait_left_s(of_address, settings.free_failures_of_address, settings.longest_wait_of_address_s),
    )
    if left_s > 0:
        left_s = max(1.0, left_s)
        raise SignInRefused(f"Too many failed attempts. Try again in {left_s:.0f} s.", left_s)


def _wait_left_s(failures: Sequence[str], free: int, longest_s: float) -> float:
    """Seconds until the next attempt after these failures (times, oldest first); doubled with each."""
    over = len(failures) - free
    if over < 0:
        return 0.0
    wait_s = min(2.0 ** min(over, 30), longest_s)
    return wait_s - (datetime.now(UTC) - datetime.fromisoformat(failures[-1])).total_seconds()


def _note_failure(study: Study, name: str, address: str, settings: AccountSettings) -> None:
    with study.server.write() as db:
        rows.forget_failures_before(db, _seconds_ago(settings.failures_count_for_s))
        rows.add_failure(db, name, address)


@lru_cache(maxsize=4)
def _hasher(settings: AccountSettings) -> PasswordHasher:
    return PasswordHasher(
        time_cost=settings.argon2_passes,
        memory_cost=settings.argon2_memory_kib,
        parallelism=settings.argon2_lanes,
    )


@lru_cache(maxsize=4)
def _dummy_hash(settings: AccountSettings) -> str:
    return _hasher(settings).hash(secrets.token_urlsafe(16))


def _password_matches(password_hash: str, password: str, settings: AccountSettings) -> bool:
    with _checks:
        try:
            return _hasher(settings).verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _in_days(days: float) -> str:
    return _stamp(datetime.now(UTC) + timedelta(days=days))


def _seconds_ago(seconds: float) -> str:
    return _stamp(datetime.now(UTC) - timedelta(seconds=seconds))


def _stamp(moment: datetime) -> str:
    """The store's form of a time, so that texts sort as times do."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
