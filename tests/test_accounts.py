"""Invitations, passwords, sign-ins, back-off, and what each role may do."""

import threading
import time
from dataclasses import replace

import pytest

from allinsam import accounts
from allinsam.accounts import ACTIONS, SignedIn, SignInRefused, demand, may
from allinsam.errors import InputError, NotAllowedError
from allinsam.store import Study
from allinsam.store import accounts as rows
from allinsam.store import study as people
from tests.people import CHEAP, PASSWORD, signed_in_token

HERE = "192.0.2.1"


def sign_in(study: Study, name: str, password: str, address: str = HERE, settings=CHEAP) -> str:
    return accounts.sign_in(study, name, password, address, settings)


def test_a_link_sets_a_password_and_the_password_signs_in(empty_study: Study) -> None:
    link = accounts.invite(empty_study, "Ada", "annotator", "student", settings=CHEAP)
    assert accounts.invited_name(empty_study, link) == "Ada"
    first = accounts.set_password(empty_study, link, PASSWORD, CHEAP)
    second = sign_in(empty_study, "ada", PASSWORD)
    for token in (first, second):
        person = accounts.signed_in(empty_study, token)
        assert (person.name, person.role, person.group) == ("Ada", "annotator", "student")
        assert person.person_id.startswith("p-")


def test_only_hashes_are_kept(empty_study: Study) -> None:
    link = accounts.invite(empty_study, "Ada", "lead", "expert", settings=CHEAP)
    token = accounts.set_password(empty_study, link, PASSWORD, CHEAP)
    kept = b"".join(path.read_bytes() for path in empty_study.folder.glob("*.sqlite*"))
    assert b"$argon2id$" in kept
    for secret in (link, token, PASSWORD):
        assert secret.encode() not in kept


def test_names_stay_out_of_the_science(empty_study: Study) -> None:
    signed_in_token(empty_study, "annotator", name="Margarethe")
    science = b"".join(path.read_bytes() for path in empty_study.folder.glob("study.sqlite*"))
    assert b"Margarethe" not in science


def test_a_link_works_once_until_it_is_replaced_or_expires(empty_study: Study) -> None:
    first = accounts.invite(empty_study, "Ada", "lead", "expert")
    second = accounts.invite(empty_study, "Ada", "lead", "expert")
    with pytest.raises(InputError, match="used or has expired"):
        accounts.set_password(empty_study, first, PASSWORD, CHEAP)
    accounts.set_password(empty_study, second, PASSWORD, CHEAP)
    with pytest.raises(InputError, match="used or has expired"):
        accounts.set_password(empty_study, second, PASSWORD, CHEAP)
    late = accounts.invite(empty_study, "Ada", "lead", "expert", settings=replace(CHEAP, invitation_days=-1))
    assert accounts.invited_name(empty_study, late) is None


def test_a_new_password_ends_older_sign_ins(empty_study: Study) -> None:
    old = signed_in_token(empty_study, "lead", name="Ada")
    new = signed_in_token(empty_study, "lead", name="Ada")
    assert accounts.signed_in(empty_study, old) is None
    assert accounts.signed_in(empty_study, new).name == "Ada"


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("nine char", "needs 10"),
        ("aaaaaaaaaaaa", "too easy"),
        ("Ada Lovelace", "too easy"),
        ("x" * 201, "at most 200"),
    ],
)
def test_weak_passwords_are_refused_with_the_reason(empty_study: Study, password: str, reason: str) -> None:
    link = accounts.invite(empty_study, "ada lovelace", "lead", "expert")
    with pytest.raises(InputError, match=reason):
        accounts.set_password(empty_study, link, password, CHEAP)
    assert accounts.invited_name(empty_study, link) == "ada lovelace"


@pytest.mark.parametrize(
    ("name", "role", "group"),
    [
        ("", "lead", "expert"),
        ("a\nb", "lead", "expert"),
        ("Ada", "admin", "expert"),
        ("Ada", "lead", "truth"),
    ],
)
def test_unusable_invitations_are_refused(empty_study: Study, name: str, role: str, group: str) -> None:
    with pytest.raises(InputError):
        accounts.invite(empty_study, name, role, group)
    with empty_study.server.read() as db:
        assert rows.list_accounts(db) == []


def test_a_whole_class_is_invited_at_once(empty_study: Study) -> None:
    tokens = accounts.invite_all(empty_study, ["Ben", " Ada "], "annotator", "student")
    assert list(tokens) == ["Ben", "Ada"]
    assert [accounts.invited_name(empty_study, token) for token in tokens.values()] == ["Ben", "Ada"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "No name is given"),
        (["Ada", "a\nb"], "not a sign-in name"),
        (["Ada", "Ben", "ADA"], "'ADA' is there twice"),
        (["Ada", "cleo"], "already an account 'cleo'"),
    ],
)
def test_one_name_refused_invites_nobody(empty_study: Study, names: list[str], said: str) -> None:
    accounts.invite(empty_study, "Cleo", "annotator", "student")
    with pytest.raises(InputError, match=said):
        accounts.invite_all(empty_study, names, "annotator", "student")
    with empty_study.server.read() as db:
        assert [row["name"] for row in rows.list_accounts(db)] == ["Cleo"]


def test_an_existing_account_keeps_its_role(empty_study: Study) -> None:
    accounts.invite(empty_study, "Ada", "annotator", "student")
    with pytest.raises(InputError, match="already an account"):
        accounts.invite(empty_study, "ada", "lead", "expert")


def test_every_failed_sign_in_says_the_same(empty_study: Study) -> None:
    signed_in_token(empty_study, "lead", name="Ada")
    accounts.invite(empty_study, "No password yet", "lead", "expert")
    signed_in_token(empty_study, "annotator", name="Gone", person_id="p-gone")
    accounts.deactivate(empty_study, "p-gone")
    said = set()
    for name, password in (
        ("Ada", "wrong"),
        ("Nobody", PASSWORD),
        ("No password yet", ""),
        ("Gone", PASSWORD),
    ):
        with pytest.raises(SignInRefused) as refusal:
            sign_in(empty_study, name, password)
        said.add(str(refusal.value))
    assert said == {"This name and password do not match. Check both and try again."}


def test_an_unknown_name_costs_a_check_too(empty_study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    monkeypatch.setattr(
        accounts, "_password_matches", lambda kept, password, settings: checked.append(kept) or True
    )
    with pytest.raises(SignInRefused):
        sign_in(empty_study, "Nobody", PASSWORD)
    assert [kept[:10] for kept in checked] == ["$argon2id$"]


def test_failures_make_one_name_wait_at_one_address(empty_study: Study) -> None:
    signed_in_token(empty_study, "lead", name="Ada")
    for _ in range(5):
        with pytest.raises(SignInRefused) as refusal:
            sign_in(empty_study, "Ada", "wrong")
        assert refusal.value.wait_s == 0
    with pytest.raises(SignInRefused, match="Try again in") as refusal:
        sign_in(empty_study, "ADA ", PASSWORD)
    assert refusal.value.wait_s > 0
    assert accounts.signed_in(empty_study, sign_in(empty_study, "Ada", PASSWORD, "192.0.2.2"))
    # Never a lock: once the wait is over the right password works, and the count starts anew.
    waited = replace(CHEAP, longest_wait_s=0.0)
    assert accounts.signed_in(empty_study, sign_in(empty_study, "Ada", PASSWORD, settings=waited))
    assert accounts.signed_in(empty_study, sign_in(empty_study, "Ada", PASSWORD))


def test_an_address_that_tries_many_names_has_to_wait(empty_study: Study) -> None:
    few = replace(CHEAP, free_failures_of_address=4)
    token = accounts.invite(empty_study, "ana", "annotator", "student")
    accounts.set_password(empty_study, token, PASSWORD, CHEAP)
    for number in range(4):
        with pytest.raises(SignInRefused) as refusal:
            accounts.sign_in(empty_study, f"name {number}", "wrong", "192.0.2.1", few)
        assert refusal.value.wait_s == 0
    with pytest.raises(SignInRefused) as refusal:
        accounts.sign_in(empty_study, "ana", PASSWORD, "192.0.2.1", few)
    assert 0 < refusal.value.wait_s <= few.longest_wait_of_address_s
    assert accounts.sign_in(empty_study, "ana", PASSWORD, "192.0.2.2", few)


def test_waits_double_up_to_a_limit(empty_study: Study) -> None:
    waits = []
    for _ in range(4):
        with empty_study.server.write() as db:
            rows.add_failure(db, "Ada", HERE)
    for _ in range(11):
        with empty_study.server.write() as db:
            rows.add_failure(db, "Ada", HERE)
        with pytest.raises(SignInRefused) as refusal:
            sign_in(empty_study, "Ada", PASSWORD)
        waits.append(refusal.value.wait_s)
    # The tolerance is the time that passes between a failure and the next attempt.
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300], abs=2)


def test_sign_ins_end(empty_study: Study) -> None:
    expired = signed_in_token(empty_study, "lead", "p-1", "Ada", replace(CHEAP, sign_in_days=-1))
    assert accounts.signed_in(empty_study, expired) is None
    here, there = sign_in(empty_study, "Ada", PASSWORD), sign_in(empty_study, "Ada", PASSWORD)
    accounts.sign_out(empty_study, here)
    assert accounts.signed_in(empty_study, here) is None
    assert accounts.signed_in(empty_study, there).person_id == "p-1"
    for end in (
        lambda: accounts.sign_out_everywhere(empty_study, "p-1"),
        lambda: accounts.change_role(empty_study, "p-1", "reviewer"),
        lambda: accounts.deactivate(empty_study, "p-1"),
    ):
        token = sign_in(empty_study, "Ada", PASSWORD)
        assert accounts.signed_in(empty_study, token)
        end()
        assert accounts.signed_in(empty_study, token) is None
    accounts.reactivate(empty_study, "p-1")
    assert accounts.signed_in(empty_study, sign_in(empty_study, "Ada", PASSWORD)).role == "reviewer"


@pytest.mark.parametrize("token", [None, "", "no such token", "é" * 40])
def test_a_made_up_token_is_nobody(empty_study: Study, token: str | None) -> None:
    assert accounts.signed_in(empty_study, token) is None


def test_simulated_people_cannot_get_in(empty_study: Study) -> None:
    with empty_study.science.write() as db:
        people.add_person(db, "sim-student-1", "student", simulated=True)
    with pytest.raises(InputError, match="simulated"):
        accounts.invite(empty_study, "Sim", "annotator", "student", person_id="sim-student-1")
    # Even with rows put there by hand.
    token = signed_in_token(empty_study, "annotator", "p-real", "Real")
    with empty_study.server.write() as db:
        kept = rows.get_account(db, "p-real")["password_hash"]
        rows.add_account(db, "sim-student-1", "Sim", "annotator")
        rows.update_account(db, "sim-student-1", password_hash=kept)
        rows.add_sign_in(db, "f" * 64, "sim-student-1", "9999")
    assert accounts.signed_in(empty_study, token).person_id == "p-real"
    with pytest.raises(SignInRefused):
        sign_in(empty_study, "Sim", PASSWORD)


def test_at_most_two_passwords_are_checked_at_once(
    empty_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_in_token(empty_study, "lead", name="Ada")
    now, most = [], []

    class SlowHasher:
        def verify(self, kept: str, password: str) -> bool:
            now.append(1)
            most.append(len(now))
            time.sleep(0.05)
            now.pop()
            return True

    monkeypatch.setattr(accounts, "_hasher", lambda settings: SlowHasher())
    threads = [threading.Thread(target=sign_in, args=(empty_study, "Ada", PASSWORD)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 6
    assert max(most) == 2


# Action -> what lead, reviewer and annotator may do to their own and to another's object.
EXPECTED = {
    "annotate": ("own", "own", "own"),
    "view_assignment": ("any", "any", "own"),
    "view_patch": ("any", "any", "own"),
    "view_thresholds": ("any", "any", "none"),
    "sign_threshold": ("any", "any", "none"),
    "edit_classes": ("any", "none", "none"),
    "register": ("any", "any", "none"),
    "view_agreement": ("any", "any", "none"),
    "review": ("any", "any", "none"),
    "compare": ("any", "any", "none"),
    "edit_plan": ("any", "none", "none"),
    "settle_items": ("any", "any", "none"),
    "train": ("any", "none", "none"),
    "export": ("any", "none", "none"),
    "import_images": ("any", "none", "none"),
    "manage_people": ("any", "none", "none"),
    "view_audit": ("any", "none", "none"),
    "view_status": ("any", "none", "none"),
}


def test_the_table_of_rights_is_complete() -> None:
    assert set(EXPECTED) == set(ACTIONS)


@pytest.mark.parametrize("action", EXPECTED)
@pytest.mark.parametrize("position", range(3))
def test_rights(action: str, position: int) -> None:
    role, expected = ("lead", "reviewer", "annotator")[position], EXPECTED[action][position]
    person = SignedIn("p-1", "Ada", role, "student")
    own = {"person_id": "p-1", "person_ids": {"p-1", "p-2"}}
    other = {"person_id": "p-2", "person_ids": {"p-2"}}
    assert may(person, action, own) == (expected in ("own", "any"))
    assert may(person, action, other) == (expected == "any")
    assert may(person, action) == (expected == "any")


def test_a_demand_names_who_and_what() -> None:
    person = SignedIn("p-1", "Ada", "annotator", "student")
    with pytest.raises(NotAllowedError, match=r"Ada \(annotator\) may not manage people"):
        demand(person, "manage_people")
    demand(person, "annotate", {"person_id": "p-1"})
    with pytest.raises(InputError, match="Unknown action 'fly'"):
        may(person, "fly")
