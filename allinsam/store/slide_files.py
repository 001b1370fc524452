"""Where the files of slides lie: rows of server.sqlite, since a path may hold a patient's name."""

from sqlite_utils import Database

from allinsam.store.connection import utc_now


def add_slide_file(db: Database, sha256: str, path: str) -> None:
    """Keep where the file of this content lies, or that it lies elsewhere now."""
    db["slide_file"].upsert({"sha256": sha256, "path": path, "added_at": utc_now()}, pk="sha256")


def path_of(db: Database, sha256: str) -> str | None:
    """Where the file of this content lay when it was imported."""
    rows = db["slide_file"].rows_where("sha256 = ?", [sha256])
    return next((row["path"] for row in rows), None)
