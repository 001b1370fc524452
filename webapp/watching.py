"""Who looked at what, and who took what out, on its way to the log.

Looking is gathered and written together, off the way of the request: 30 people who draw ask for thousands of
pictures, of which the log keeps one row for each person, patch and hour. What is taken out is written before
it leaves.
"""

import atexit
import logging
import threading
import time
from pathlib import Path
from sqlite3 import Error as DatabaseError

from starlette.requests import Request

from allinsam.errors import AllinsamError
from allinsam.store import Study, audit
from allinsam.store.audit import Event
from allinsam.store.connection import utc_now

log = logging.getLogger(__name__)

WRITE_EVERY_S = 1.0
MOST_REMEMBERED = 100_000  # of what was seen in this hour; more are asked of the database, which keeps one
MOST_WAITING = 100_000  # where the database cannot be written to


class Watch:
    """Gathers what is seen in one study; a thread writes it, and tries again where that failed."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._remembered: set[tuple[str, str, str, str]] = set()
        self._waiting: list[Event] = []
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def saw(self, event: Event) -> None:
        """Note it; costs a look into a set where it was noted in this hour."""
        now = utc_now()
        key = (event.person_id, event.action, event.object, now[:13])
        with self._lock:
            if key in self._remembered or len(self._waiting) >= MOST_WAITING:
                return
            if len(self._remembered) >= MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered.add(key)
            self._waiting.append(Event(**{**vars(event), "at": now}))
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_on, name="log of views", daemon=True)
                self._thread.start()
        self._wake.set()

    def flush(self) -> None:
        """Write what waits; it goes on waiting where it cannot be written."""
        with self._writing:
            with self._lock:
                events, self._waiting = self._waiting, []
            if not events:
                return
            try:
                with self._study.server.write() as db:
                    audit.add_events(db, events)
            except (AllinsamError, DatabaseError, OSError) as error:  # disk full, locked, moved away
                with self._lock:
                    self._waiting = [*events, *self._waiting]
                log.warning("%d views wait to be logged: %s", len(events), error)

    def _write_on(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            self.flush()
            time.sleep(WRITE_EVERY_S)
            if self._waiting:
                self._wake.set()


_watches: dict[Path, Watch] = {}
_making = threading.Lock()


def watch_of(study: Study) -> Watch:
    """The one watch of a study in this process."""
    with _making:
        if study.folder not in _watches:
            _watches[study.folder] = Watch(study)
        return _watches[study.folder]


def flush_all() -> None:
    """Write what waits in every study, as when the server ends."""
    for watch in list(_watches.values()):
        if watch._study.server.path.exists():
            watch.flush()


atexit.register(flush_all)


def saw_patch(study: Study, request: Request, patch_id: int) -> None:
    """The person behind a request is shown a picture of this patch."""
    saw(study, request, "view_patch", f"patch {patch_id}")


def saw(study: Study, request: Request, action: str, object: str) -> None:
    person = request.state.person
    watch_of(study).saw(Event(action, person.person_id, object, address=address_of(request)))


def record(study: Study, request: Request, action: str, object: str, detail: str = "") -> None:
    """Keep that something is taken out; on disk when this returns."""
    person = request.state.person
    with study.server.write() as db:
        audit.add_event(db, action, person.person_id, object, detail, address_of(request))


def address_of(request: Request) -> str:
    return request.client.host if request.client else ""
