"""Rows of server.sqlite that let people in. Secrets arrive here hashed."""

from typing import Any

from sqlite_utils import Database

from allinsam.store.connection import utc_now


def add_account(db: Database, person_id: str, name: str, role: str) -> None:
    db["account"].insert(
        {"person_id": person_id, "name": name, "role": role, "active": 1, "created_at": utc_now()}
    )


def list_accounts(db: Database) -> list[dict[str, Any]]:
    """Accounts without their password hashes; `has_password` says whether they have set one."""
    return list(
        db.query(
            """SELECT person_id, name, role, active, created_at, password_hash IS NOT NULL AS has_password
            FROM account ORDER BY name"""
        )
    )


def find_account(db: Database, name: str) -> dict[str, Any] | None:
    """By sign-in name, whatever its case."""
    return next(db.query("SELECT * FROM account WHERE name = ? COLLATE NOCASE", [name]), None)


def get_account(db: Database, person_id: str) -> dict[str, Any] | None:
    return next(db.query("SELECT * FROM account WHERE person_id = ?", [person_id]), None)


def update_account(db: Database, person_id: str, **fields: Any) -> None:
    db["account"].update(person_id, fields)


def add_invitation(db: Database, token_sha256: str, person_id: str, expires_at: str) -> None:
    """A new invitation ends the unused ones this person still had."""
    db.execute(
        "UPDATE invitation SET used_at = :now WHERE person_id = :person AND used_at IS NULL",
        {"now": utc_now(), "person": person_id},
    )
    row = {"token_sha256": token_sha256, "person_id": person_id, "expires_at": expires_at}
    db["invitation"].insert({**row, "created_at": utc_now()})


def open_invitation(db: Database, token_sha256: str) -> dict[str, Any] | None:
    """The invitation if it is neither used nor expired."""
    query = "SELECT * FROM invitation WHERE token_sha256 = ? AND used_at IS NULL AND expires_at > ?"
    return next(db.query(query, [token_sha256, utc_now()]), None)


def use_invitation(db: Database, token_sha256: str) -> None:
    db["invitation"].update(token_sha256, {"used_at": utc_now()})


def add_sign_in(db: Database, token_sha256: str, person_id: str, expires_at: str) -> None:
    row = {"token_sha256": token_sha256, "person_id": person_id, "expires_at": expires_at}
    db["sign_in"].insert({**row, "created_at": utc_now()})


def signed_in_account(db: Database, token_sha256: str) -> dict[str, Any] | None:
    """person_id, name, role of an active account with a sign-in that has not expired."""
    query = """SELECT a.person_id, a.name, a.role FROM sign_in s JOIN account a ON a.person_id = s.person_id
        WHERE s.token_sha256 = ? AND s.expires_at > ? AND a.active = 1"""
    return next(db.query(query, [token_sha256, utc_now()]), None)


def open_sign_ins(db: Database, person_id: str) -> list[dict[str, Any]]:
    query = "SELECT * FROM sign_in WHERE person_id = ? AND expires_at > ? ORDER BY created_at DESC"
    return list(db.query(query, [person_id, utc_now()]))


def end_sign_in(db: Database, token_sha256: str) -> None:
    db.execute("DELETE FROM sign_in WHERE token_sha256 = ?", [token_sha256])


def end_sign_ins_of(db: Database, person_id: str) -> None:
    db.execute("DELETE FROM sign_in WHERE person_id = ?", [person_id])


def add_failure(db: Database, name: str, address: str) -> None:
    db["sign_in_failure"].insert({"name": name.lower(), "address": address, "at": utc_now()})


def failures_since(db: Database, address: str, since: str, name: str | None = None) -> list[str]:
    """Times of failed sign-ins from this address, by this name or any, oldest first."""
    query = """SELECT at FROM sign_in_failure
        WHERE address = :address AND at > :since AND (:name IS NULL OR name = :name) ORDER BY at"""
    wanted = {"address": address, "since": since, "name": name and name.lower()}
    return [row["at"] for row in db.query(query, wanted)]


def clear_failures(db: Database, name: str, address: str) -> None:
    db.execute("DELETE FROM sign_in_failure WHERE name = ? AND address = ?", [name.lower(), address])


def forget_failures_before(db: Database, before: str) -> None:
    """Failures too old to count; names tried by strangers are not kept for ever."""
    db.execute("DELETE FROM sign_in_failure WHERE at < ?", [before])


def forget_expired_sign_ins(db: Database) -> None:
    db.execute("DELETE FROM sign_in WHERE expires_at <= ?", [utc_now()])


def end_all_sign_ins(db: Database) -> None:
    """Everybody has to sign in again, and links that were not used end."""
    db.execute("DELETE FROM sign_in")
    db.execute(
        "UPDATE invitation SET expires_at = :now WHERE used_at IS NULL AND expires_at > :now",
        {"now": utc_now()},
    )
