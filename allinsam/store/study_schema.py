"""Schema of study.sqlite: the science, without names or secrets. Steps are applied in order, once."""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

migrations = Migrations("study")

TABLES = """
CREATE TABLE study (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    name TEXT NOT NULL,
    simulated INTEGER NOT NULL CHECK (simulated IN (0, 1)),
    consent_text TEXT NOT NULL DEFAULT '',
    consent_version INTEGER NOT NULL DEFAULT 1,
    plan TEXT NOT NULL,
    backbone TEXT NOT NULL,
    backbone_sha256 TEXT NOT NULL,
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE study_change (
    id INTEGER PRIMARY KEY,
    field TEXT NOT NULL,
    old_value TEXT,
    new_value TEXT,
    person_id TEXT REFERENCES person(id),
    changed_at TEXT NOT NULL
) STRICT;

CREATE TABLE person (
    id TEXT PRIMARY KEY,
    grp TEXT NOT NULL CHECK (grp IN ('expert', 'student', 'truth')),
    simulated INTEGER NOT NULL DEFAULT 0 CHECK (simulated IN (0, 1)),
    created_at TEXT NOT NULL,
    withdrawn_at TEXT
) STRICT;

CREATE TABLE image (
    sha256 TEXT PRIMARY KEY CHECK (length(sha256) = 64),
    height_px INTEGER NOT NULL CHECK (height_px > 0),
    width_px INTEGER NOT NULL CHECK (width_px > 0),
    bits INTEGER NOT NULL CHECK (bits IN (8, 16)),
    source_name TEXT NOT NULL
) STRICT;

CREATE TABLE slide (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    condition TEXT NOT NULL CHECK (condition IN ('normal', 'injured', 'unknown')),
    path TEXT,
    sha256 TEXT,
    um_per_px REAL CHECK (um_per_px > 0)
) STRICT;

CREATE TABLE patch (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    slide_id INTEGER NOT NULL REFERENCES slide(id),
    glomerulus TEXT,
    x0 REAL NOT NULL DEFAULT 0,
    y0 REAL NOT NULL DEFAULT 0,
    um_per_px REAL CHECK (um_per_px > 0),
    condition TEXT NOT NULL CHECK (condition IN ('normal', 'injured', 'unknown')),
    image_sha256 TEXT NOT NULL REFERENCES image(sha256),
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE channel (
    id INTEGER PRIMARY KEY,
    patch_id INTEGER NOT NULL REFERENCES patch(id),
    role TEXT NOT NULL CHECK (role IN ('marker', 'nuclear', 'other')),
    marker TEXT NOT NULL,
    image_sha256 TEXT NOT NULL REFERENCES image(sha256),
    UNIQUE (patch_id, role, marker)
) STRICT;

CREATE TABLE registration (
    id INTEGER PRIMARY KEY,
    patch_id INTEGER NOT NULL REFERENCES patch(id),
    version INTEGER NOT NULL,
    matrix TEXT NOT NULL,
    method TEXT NOT NULL,
    quality REAL,
    residual_px REAL,
    accepted INTEGER NOT NULL CHECK (accepted IN (0, 1)),
    person_id TEXT REFERENCES person(id),
    created_at TEXT NOT NULL,
    UNIQUE (patch_id, version)
) STRICT;

CREATE TABLE threshold (
    id INTEGER PRIMARY KEY,
    slide_id INTEGER NOT NULL REFERENCES slide(id),
    marker TEXT NOT NULL,
    patch_id INTEGER REFERENCES patch(id),
    reason TEXT,
    version INTEGER NOT NULL,
    value REAL NOT NULL CHECK (value >= 0),
    method TEXT NOT NULL,
    signed_by TEXT NOT NULL REFERENCES person(id),
    signed_at TEXT NOT NULL,
    CHECK (patch_id IS NULL OR length(reason) > 0)
) STRICT;
CREATE UNIQUE INDEX threshold_version ON threshold (slide_id, marker, ifnull(patch_id, 0), version);

CREATE TABLE cell_class (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    marker TEXT NOT NULL,
    colour TEXT NOT NULL,
    key TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE assignment (
    id INTEGER PRIMARY KEY,
    person_id TEXT NOT NULL REFERENCES person(id),
    patch_id INTEGER NOT NULL REFERENCES patch(id),
    purpose TEXT NOT NULL CHECK (purpose IN ('production', 'gold', 'repeat', 'qualification', 'practice')),
    guidance TEXT NOT NULL CHECK (guidance IN ('pas_only', 'if', 'threshold', 'suggestion')),
    tool TEXT NOT NULL CHECK (tool IN ('box_sam', 'contour')),
    position INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'open', 'submitted')),
    created_at TEXT NOT NULL,
    submitted_at TEXT
) STRICT;
CREATE INDEX assignment_person ON assignment (person_id, position);
CREATE UNIQUE INDEX assignment_once ON assignment (person_id, patch_id) WHERE purpose = 'production';

CREATE TABLE assignment_class (
    assignment_id INTEGER NOT NULL REFERENCES assignment(id),
    class_id INTEGER NOT NULL REFERENCES cell_class(id),
    state TEXT NOT NULL DEFAULT 'open'
        CHECK (state IN ('open', 'complete', 'nothing_here', 'unsure', 'skipped')),
    PRIMARY KEY (assignment_id, class_id)
) STRICT;

CREATE TABLE act (
    id INTEGER PRIMARY KEY,
    client TEXT NOT NULL,
    seq INTEGER NOT NULL,
    assignment_id INTEGER NOT NULL REFERENCES assignment(id),
    object_id TEXT,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL CHECK (json_valid(payload)),
    payload_version INTEGER NOT NULL,
    client_ms REAL NOT NULL,
    received_at TEXT NOT NULL,
    surface TEXT NOT NULL,
    UNIQUE (client, seq)
) STRICT;
CREATE INDEX act_assignment ON act (assignment_id, id);

CREATE TABLE annotation (
    id INTEGER PRIMARY KEY,
    act_id INTEGER NOT NULL REFERENCES act(id),
    assignment_id INTEGER NOT NULL REFERENCES assignment(id),
    object_id TEXT NOT NULL,
    class_id INTEGER NOT NULL REFERENCES cell_class(id),
    state TEXT NOT NULL CHECK (state IN ('accepted', 'deleted')),
    first_box TEXT,
    prompts TEXT NOT NULL,
    mask_height_px INTEGER,
    mask_width_px INTEGER,
    mask_counts TEXT,
    origin TEXT NOT NULL CHECK (origin IN ('sam', 'edited', 'drawn', 'imported')),
    backbone TEXT,
    weights_sha256 TEXT,
    predicted_iou REAL,
    threshold_id INTEGER REFERENCES threshold(id),
    registration_id INTEGER REFERENCES registration(id),
    molecular_support REAL,
    UNIQUE (act_id, object_id)
) STRICT;
CREATE INDEX annotation_object ON annotation (assignment_id, object_id, id);

CREATE TABLE split (
    id INTEGER PRIMARY KEY,
    rule TEXT NOT NULL,
    seed INTEGER NOT NULL,
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE split_member (
    split_id INTEGER NOT NULL REFERENCES split(id),
    patch_id INTEGER NOT NULL REFERENCES patch(id),
    part TEXT NOT NULL CHECK (part IN ('train', 'val', 'test')),
    PRIMARY KEY (split_id, patch_id)
) STRICT;

CREATE TABLE label_set (
    id INTEGER PRIMARY KEY,
    recipe TEXT NOT NULL CHECK (json_valid(recipe)),
    sha256 TEXT NOT NULL UNIQUE CHECK (length(sha256) = 64),
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE label_set_member (
    id INTEGER PRIMARY KEY,
    label_set_id INTEGER NOT NULL REFERENCES label_set(id),
    patch_id INTEGER NOT NULL REFERENCES patch(id),
    class_id INTEGER NOT NULL REFERENCES cell_class(id),
    assignment_id INTEGER NOT NULL REFERENCES assignment(id),
    annotation_id INTEGER REFERENCES annotation(id)
) STRICT;
CREATE INDEX label_set_members ON label_set_member (label_set_id, patch_id, class_id);

CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    label_set_id INTEGER REFERENCES label_set(id),
    split_id INTEGER REFERENCES split(id),
    settings TEXT NOT NULL CHECK (json_valid(settings)),
    settings_version INTEGER NOT NULL,
    backbone TEXT NOT NULL,
    backbone_sha256 TEXT NOT NULL,
    weights_sha256 TEXT,
    state TEXT NOT NULL CHECK (state IN ('running', 'finished', 'cancelled', 'failed')),
    created_at TEXT NOT NULL,
    finished_at TEXT
) STRICT;

CREATE TABLE run_epoch (
    run_id INTEGER NOT NULL REFERENCES run(id),
    epoch INTEGER NOT NULL,
    stage TEXT NOT NULL,
    metrics TEXT NOT NULL CHECK (json_valid(metrics)),
    PRIMARY KEY (run_id, epoch)
) STRICT;

CREATE TABLE score (
    id INTEGER PRIMARY KEY,
    run_id INTEGER REFERENCES run(id),
    label_set_id INTEGER REFERENCES label_set(id),
    reference_id INTEGER NOT NULL REFERENCES label_set(id),
    split_id INTEGER REFERENCES split(id),
    patch_id INTEGER NOT NULL REFERENCES patch(id),
    class_id INTEGER NOT NULL REFERENCES cell_class(id),
    metric TEXT NOT NULL,
    value REAL,
    n INTEGER NOT NULL,
    CHECK ((run_id IS NULL) <> (label_set_id IS NULL))
) STRICT;
CREATE UNIQUE INDEX score_once ON score (
    ifnull(run_id, 0), ifnull(label_set_id, 0), reference_id, patch_id, class_id, metric
);

CREATE TABLE withdrawal (
    id INTEGER PRIMARY KEY,
    person_id TEXT NOT NULL REFERENCES person(id),
    reason TEXT NOT NULL,
    by_person_id TEXT NOT NULL REFERENCES person(id),
    acts_removed INTEGER NOT NULL,
    open INTEGER NOT NULL CHECK (open IN (0, 1)),
    at TEXT NOT NULL
) STRICT;
"""

# What a plan gave out, and what was taken back before anybody began it. An assignment's id is never given
# again: a browser may still hold acts for it.
PLANS = """
CREATE TABLE plan (
    id INTEGER PRIMARY KEY,
    settings TEXT NOT NULL CHECK (json_valid(settings)),
    seed INTEGER NOT NULL,
    people TEXT NOT NULL CHECK (json_valid(people)),
    gaps TEXT NOT NULL CHECK (json_valid(gaps)),
    person_id TEXT REFERENCES person(id),
    created_at TEXT NOT NULL
) STRICT;

ALTER TABLE assignment ADD COLUMN plan_id INTEGER REFERENCES plan(id);

CREATE TABLE withdrawn_assignment (
    id INTEGER PRIMARY KEY,
    person_id TEXT NOT NULL REFERENCES person(id),
    patch_id INTEGER NOT NULL REFERENCES patch(id),
    purpose TEXT NOT NULL,
    guidance TEXT NOT NULL,
    tool TEXT NOT NULL,
    position INTEGER NOT NULL,
    plan_id INTEGER REFERENCES plan(id),
    withdrawn_by TEXT REFERENCES person(id),
    withdrawn_at TEXT NOT NULL
) STRICT;
"""

# What somebody settled item by item, and how long each took; `client_key` names the key press, so that one
# sent twice is kept once.
SETTLED = """
CREATE TABLE settled (
    id INTEGER PRIMARY KEY,
    client_key TEXT NOT NULL UNIQUE,
    person_id TEXT NOT NULL REFERENCES person(id),
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    decision TEXT NOT NULL,
    detail TEXT NOT NULL CHECK (json_valid(detail)),
    seconds REAL NOT NULL CHECK (seconds >= 0),
    undoes INTEGER UNIQUE REFERENCES settled(id),
    at TEXT NOT NULL
) STRICT;
CREATE INDEX settled_person ON settled (person_id, id);
"""

# A review settles what several raters marked on a patch, version after version. Its decisions are the way
# there, its objects what it came to: they stay as they were when the raters' work goes on.
REVIEWS = """
CREATE TABLE review (
    id INTEGER PRIMARY KEY,
    patch_id INTEGER NOT NULL REFERENCES patch(id),
    version INTEGER NOT NULL,
    reviewer_id TEXT NOT NULL REFERENCES person(id),
    created_at TEXT NOT NULL,
    UNIQUE (patch_id, version)
) STRICT;

CREATE TABLE review_decision (
    id INTEGER PRIMARY KEY,
    review_id INTEGER NOT NULL REFERENCES review(id),
    cluster_id TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (
        kind IN ('pick', 'consensus', 'edited', 'class', 'rejected', 'added', 'undo')
    ),
    sources TEXT NOT NULL CHECK (json_valid(sources)),
    picked_assignment_id INTEGER REFERENCES assignment(id),
    class_id INTEGER REFERENCES cell_class(id),
    mask_height_px INTEGER,
    mask_width_px INTEGER,
    mask_counts TEXT,
    comment TEXT NOT NULL DEFAULT '',
    undoes INTEGER UNIQUE REFERENCES review_decision(id),
    person_id TEXT NOT NULL REFERENCES person(id),
    decided_at TEXT NOT NULL,
    CHECK ((kind = 'undo') = (undoes IS NOT NULL)),
    CHECK ((kind = 'pick') = (picked_assignment_id IS NOT NULL)),
    CHECK (kind IN ('undo', 'rejected') OR (class_id IS NOT NULL AND mask_counts IS NOT NULL))
) STRICT;
CREATE INDEX review_decisions ON review_decision (review_id, id);

CREATE TABLE review_finish (
    review_id INTEGER PRIMARY KEY REFERENCES review(id),
    person_id TEXT NOT NULL REFERENCES person(id),
    comment TEXT NOT NULL DEFAULT '',
    work_sha256 TEXT NOT NULL,
    finished_at TEXT NOT NULL
) STRICT;

CREATE TABLE review_object (
    id INTEGER PRIMARY KEY,
    review_id INTEGER NOT NULL REFERENCES review(id),
    cluster_id TEXT NOT NULL,
    decision_id INTEGER REFERENCES review_decision(id),
    sources TEXT NOT NULL CHECK (json_valid(sources)),
    class_id INTEGER NOT NULL REFERENCES cell_class(id),
    mask_height_px INTEGER NOT NULL,
    mask_width_px INTEGER NOT NULL,
    mask_counts TEXT NOT NULL,
    UNIQUE (review_id, cluster_id)
) STRICT;

CREATE TABLE review_source (
    review_id INTEGER NOT NULL REFERENCES review(id),
    assignment_id INTEGER NOT NULL REFERENCES assignment(id),
    class_id INTEGER NOT NULL REFERENCES cell_class(id),
    PRIMARY KEY (review_id, assignment_id, class_id)
) STRICT;

CREATE TABLE review_gold (
    review_id INTEGER PRIMARY KEY REFERENCES review(id),
    assignment_id INTEGER NOT NULL REFERENCES assignment(id),
    person_id TEXT NOT NULL REFERENCES person(id),
    marked_at TEXT NOT NULL
) STRICT;

CREATE TABLE sent_back (
    assignment_id INTEGER PRIMARY KEY REFERENCES assignment(id),
    person_id TEXT NOT NULL REFERENCES person(id),
    comment TEXT NOT NULL CHECK (length(comment) > 0),
    sent_at TEXT NOT NULL
) STRICT;

ALTER TABLE label_set_member ADD COLUMN review_id INTEGER REFERENCES review(id);
"""

# What was proposed on a patch before anybody looked. Which of it is wrong on purpose stands here alone: acts
# and annotations do not tell it.
SUGGESTIONS = """
CREATE TABLE suggestion_set (
    assignment_id INTEGER PRIMARY KEY REFERENCES assignment(id),
    source TEXT NOT NULL CHECK (source IN ('sam', 'run')),
    run_id INTEGER REFERENCES run(id),
    backbone TEXT NOT NULL,
    weights_sha256 TEXT NOT NULL,
    planted_share REAL NOT NULL CHECK (planted_share BETWEEN 0 AND 0.5),
    seed INTEGER NOT NULL,
    made_at TEXT NOT NULL,
    CHECK ((source = 'run') = (run_id IS NOT NULL))
) STRICT;

CREATE TABLE suggestion (
    id INTEGER PRIMARY KEY,
    assignment_id INTEGER NOT NULL REFERENCES suggestion_set(assignment_id),
    object_id TEXT NOT NULL,
    class_id INTEGER NOT NULL REFERENCES cell_class(id),
    mask_counts TEXT NOT NULL,
    planted TEXT CHECK (planted IN ('shifted', 'wrong_class', 'merged', 'extra')),
    UNIQUE (assignment_id, object_id)
) STRICT;
"""

# Who agreed to take part, and what people did to learn: read the tour, were reminded. Append-only.
LEARNING = """
CREATE TABLE consent (
    id INTEGER PRIMARY KEY,
    person_id TEXT NOT NULL REFERENCES person(id),
    version INTEGER NOT NULL CHECK (version > 0),
    sha256 TEXT NOT NULL CHECK (length(sha256) = 64),
    agreed INTEGER NOT NULL CHECK (agreed IN (0, 1)),
    at TEXT NOT NULL
) STRICT;
CREATE INDEX consent_person ON consent (person_id, id);

CREATE TABLE lesson (
    id INTEGER PRIMARY KEY,
    person_id TEXT NOT NULL REFERENCES person(id),
    kind TEXT NOT NULL,
    payload TEXT NOT NULL CHECK (json_valid(payload)),
    at TEXT NOT NULL
) STRICT;
CREATE INDEX lesson_person ON lesson (person_id, id);
"""

APPEND_ONLY = ("act", "annotation", "threshold", "registration")
OF_REVIEWS = (
    "review",
    "review_decision",
    "review_finish",
    "review_object",
    "review_source",
    "review_gold",
    "sent_back",
)

# A withdrawal row that is open lets that person's acts and annotations be removed, and nothing else.
WITHDRAWN = {
    "act": "assignment_id",
    "annotation": "assignment_id",
    "suggestion": "assignment_id",
    "suggestion_set": "assignment_id",
}


def _append_only_triggers(table: str) -> str:
    allowed = "0"
    if table in WITHDRAWN:
        allowed = (
            "EXISTS (SELECT 1 FROM withdrawal w JOIN assignment a ON a.person_id = w.person_id "
            f"WHERE w.open = 1 AND a.id = OLD.{WITHDRAWN[table]})"
        )
    return f"""
CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table}
BEGIN SELECT RAISE(ABORT, '{table} rows are never changed'); END;
CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} WHEN NOT {allowed}
BEGIN SELECT RAISE(ABORT, '{table} rows are never deleted'); END;
"""


def _run_script(db: Database, script: str) -> None:
    """Run statements one by one: executescript would commit the migration's transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if _is_complete(statement):
            db.execute(statement)
            statement = ""


def _is_complete(statement: str) -> bool:
    from sqlite3 import complete_statement

    return bool(statement.strip()) and complete_statement(statement)


@migrations()
def m001_first_schema(db: Database) -> None:
    _run_script(db, TABLES)
    for table in APPEND_ONLY:
        _run_script(db, _append_only_triggers(table))


@migrations()
def m002_plans(db: Database) -> None:
    _run_script(db, PLANS)


@migrations()
def m003_reason_of_a_registration(db: Database) -> None:
    """Why the gate did not believe it, or why a person did all the same."""
    db.execute("ALTER TABLE registration ADD COLUMN reason TEXT")


@migrations()
def m004_review(db: Database) -> None:
    _run_script(db, REVIEWS)
    for table in OF_REVIEWS:
        _run_script(db, _append_only_triggers(table))


@migrations()
def m005_consent(db: Database) -> None:
    _run_script(db, LEARNING)
    for table in ("consent", "lesson"):
        _run_script(db, _append_only_triggers(table))


@migrations()
def m006_suggestions(db: Database) -> None:
    _run_script(db, SUGGESTIONS)
    for table in ("suggestion_set", "suggestion"):
        _run_script(db, _append_only_triggers(table))


@migrations()
def m007_slides(db: Database) -> None:
    """The fluorescence slide that patches of a slide were cut from."""
    db.execute("ALTER TABLE slide ADD COLUMN if_path TEXT")
    db.execute("ALTER TABLE slide ADD COLUMN if_sha256 TEXT CHECK (length(if_sha256) = 64)")


@migrations()
def m008_settled(db: Database) -> None:
    _run_script(db, SETTLED)
    _run_script(db, _append_only_triggers("settled"))


# Of a person who left: how, and what was removed, was made with their work, or was deleted as a file.
# While a row is open, in the one transaction that removes, it lets the rows be deleted that it names.
WITHDRAWALS = """
CREATE TABLE withdrawal (
    id INTEGER PRIMARY KEY,
    person_id TEXT NOT NULL REFERENCES person(id),
    kind TEXT NOT NULL DEFAULT 'erase_identity' CHECK (kind IN ('erase_identity', 'purge')),
    reason TEXT NOT NULL,
    by_person_id TEXT REFERENCES person(id),
    acts_removed INTEGER NOT NULL DEFAULT 0,
    removed TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(removed)),
    assignments TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(assignments)),
    reviews TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(reviews)),
    label_sets TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(label_sets)),
    runs TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(runs)),
    scored_runs TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(scored_runs)),
    files TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(files)),
    last_act INTEGER NOT NULL DEFAULT 0,
    last_annotation INTEGER NOT NULL DEFAULT 0,
    open INTEGER NOT NULL CHECK (open IN (0, 1)),
    at TEXT NOT NULL
) STRICT;
CREATE TRIGGER withdrawal_no_delete BEFORE DELETE ON withdrawal
BEGIN SELECT RAISE(ABORT, 'withdrawal rows are never deleted'); END;
CREATE TRIGGER withdrawal_no_update BEFORE UPDATE ON withdrawal WHEN OLD.open = 0
BEGIN SELECT RAISE(ABORT, 'withdrawal rows are never changed'); END;

ALTER TABLE label_set ADD COLUMN withdrawal_id INTEGER REFERENCES withdrawal(id);
CREATE INDEX label_set_member_annotation ON label_set_member (annotation_id);
"""
# Table -> whether an open withdrawal w names the row that is to be deleted.
# The person's own come first: looking through a list for each of a hundred thousand acts would take long.
IN_ASSIGNMENTS = """(w.person_id = (SELECT a.person_id FROM assignment a WHERE a.id = OLD.assignment_id)
    OR OLD.assignment_id IN (SELECT value FROM json_each(w.assignments)))"""
IN_REVIEWS = "OLD.review_id IN (SELECT value FROM json_each(w.reviews))"
OF_PERSON = "OLD.person_id = w.person_id"
REMOVED_BY_WITHDRAWAL = {
    **dict.fromkeys(WITHDRAWN, IN_ASSIGNMENTS),
    **dict.fromkeys(OF_REVIEWS, IN_REVIEWS),
    "review": "OLD.id IN (SELECT value FROM json_each(w.reviews))",
    "sent_back": f"({OF_PERSON} OR {IN_ASSIGNMENTS})",
    **dict.fromkeys(("consent", "lesson", "settled"), OF_PERSON),
}


@migrations()
def m009_withdrawals(db: Database) -> None:
    earlier = list(db["withdrawal"].rows)
    db.execute("DROP TABLE withdrawal")
    _run_script(db, WITHDRAWALS)
    for row in earlier:
        db["withdrawal"].insert({**row, "kind": "purge" if row["acts_removed"] else "erase_identity"})
    for table, named in REMOVED_BY_WITHDRAWAL.items():
        db.execute(f"DROP TRIGGER {table}_no_delete")
        db.execute(
            f"""CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table}
            WHEN NOT EXISTS (SELECT 1 FROM withdrawal w WHERE w.open = 1 AND {named})
            BEGIN SELECT RAISE(ABORT, '{table} rows are never deleted'); END"""
        )
