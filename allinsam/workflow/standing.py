"""Where an assignment stands: its acts added up, each of them once.

Every box is a transaction that has to know all that was drawn before it. What the acts added up to the last
time is remembered, and only the acts since then are read: the thousandth is kept as quickly as the first.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from sqlite_utils import Database

from allinsam.acts import Replay
from allinsam.records import Act
from allinsam.store import Study
from allinsam.store import acts as act_store

ASSIGNMENTS_REMEMBERED = 128


@dataclass
class Standing:
    """The acts of one assignment up to one of them, added up."""

    assignment_id: int
    replay: Replay = field(default_factory=Replay)
    last_act_id: int = 0
    last_act: tuple[str, int] | None = None  # its client and seq

    def catch_up(self, db: Database) -> Replay:
        """Take in the acts that came since; from the first again if the last one is not there any more."""
        if not act_store.is_act(db, self.assignment_id, self.last_act_id, self.last_act):
            self.replay, self.last_act_id, self.last_act = Replay(), 0, None
        for act_id, act in act_store.acts_after(db, self.assignment_id, self.last_act_id):
            self.replay.apply(act)
            self.note(act_id, act)
        return self.replay

    def note(self, act_id: int, act: Act) -> None:
        """An act has been applied."""
        self.last_act_id, self.last_act = act_id, (act.client, act.seq)


_remembered: OrderedDict[tuple[Path, int], Standing] = OrderedDict()
_lock = Lock()


@contextmanager
def standing(study: Study, assignment_id: int) -> Iterator[Standing]:
    """Hold what is remembered of an assignment; it is forgotten if the block fails.

    A transaction belongs inside the block: what it did not commit must not be remembered. Nobody else can
    hold the same one: who comes meanwhile adds up all acts.
    """
    key = (study.folder, assignment_id)
    with _lock:
        held = _remembered.pop(key, None) or Standing(assignment_id)
    yield held
    with _lock:
        newer = _remembered.get(key)
        if newer is None or newer.last_act_id <= held.last_act_id:
            _remembered[key] = held
            _remembered.move_to_end(key)
        while len(_remembered) > ASSIGNMENTS_REMEMBERED:
            _remembered.popitem(last=False)
