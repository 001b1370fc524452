"""Schema of server.sqlite: names, hashes, sign-ins and jobs. It never leaves the server."""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from allinsam.store.study_schema import _run_script

migrations = Migrations("server")

TABLES = """
CREATE TABLE account (
    person_id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    password_hash TEXT,
    role TEXT NOT NULL CHECK (role IN ('lead', 'reviewer', 'annotator')),
    active INTEGER NOT NULL DEFAULT 1 CHECK (active IN (0, 1)),
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE sign_in (
    token_sha256 TEXT PRIMARY KEY CHECK (length(token_sha256) = 64),
    person_id TEXT NOT NULL REFERENCES account(person_id),
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL
) STRICT;

CREATE TABLE invitation (
    token_sha256 TEXT PRIMARY KEY CHECK (length(token_sha256) = 64),
    person_id TEXT NOT NULL REFERENCES account(person_id),
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    used_at TEXT
) STRICT;

CREATE TABLE sign_in_failure (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    address TEXT NOT NULL,
    at TEXT NOT NULL
) STRICT;
CREATE INDEX sign_in_failure_name ON sign_in_failure (name, address, at);

CREATE TABLE job (
    id INTEGER PRIMARY KEY,
    verb TEXT NOT NULL,
    arguments TEXT NOT NULL CHECK (json_valid(arguments)),
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'finished', 'failed', 'cancelled')),
    done REAL NOT NULL DEFAULT 0,
    total REAL NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT '',
    detail TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(detail)),
    error TEXT,
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    pid INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    created_by TEXT,
    created_at TEXT NOT NULL,
    started_at TEXT,
    heartbeat_at TEXT,
    ended_at TEXT
) STRICT;
CREATE INDEX job_state ON job (state, id);

CREATE TABLE heartbeat (
    process TEXT PRIMARY KEY,
    pid INTEGER NOT NULL,
    at TEXT NOT NULL
) STRICT;
"""


@migrations()
def m001_first_schema(db: Database) -> None:
    _run_script(db, TABLES)


# Who saw, took out and changed what: by pseudonym, so that nobody's name has to be taken out of it again.
# Looking is kept once an hour for each person and object: an outline takes a dozen pictures.
AUDIT = """
CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    person_id TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    detail TEXT NOT NULL,
    address TEXT NOT NULL
) STRICT;
CREATE INDEX audit_at ON audit (at);
CREATE INDEX audit_person ON audit (person_id, at);
CREATE UNIQUE INDEX audit_once_an_hour ON audit (
    person_id, action, object, substr(at, 1, 13), CASE person_id WHEN '' THEN address ELSE '' END
) WHERE action IN ('view_patch', 'view_assignment', 'view_audit', 'sign_in_too_soon');
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'audit rows are never deleted'); END;
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit WHEN NEW.address <> '' OR NEW.id <> OLD.id
    OR NEW.at <> OLD.at OR NEW.person_id <> OLD.person_id OR NEW.action <> OLD.action
    OR NEW.object <> OLD.object OR NEW.detail <> OLD.detail
BEGIN SELECT RAISE(ABORT, 'of an audit row only the address may be erased'); END;
"""


@migrations()
def m002_audit(db: Database) -> None:
    _run_script(db, AUDIT)


# Where the files of slides lie. Not in study.sqlite, which is handed over: a path may hold a patient's name.
SLIDE_FILES = """
CREATE TABLE slide_file (
    sha256 TEXT PRIMARY KEY CHECK (length(sha256) = 64),
    path TEXT NOT NULL,
    added_at TEXT NOT NULL
) STRICT;
"""


@migrations()
def m003_slide_files(db: Database) -> None:
    _run_script(db, SLIDE_FILES)
