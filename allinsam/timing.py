"""How long people worked, from the gaps between their acts.

Active time is the sum of the gaps between one act and the next, where

- the wait for the model is taken off: a `mask_shown` act tells in `payload["model_ms"]` how long the model
  took, and that much, at most the whole gap, comes off the gap in which it came. Where the server answers in
  a name of its own, its acts are no acts of the page: the gap goes on to the page's next act;
- a gap counts for `idle_cutoff_s` at most: reading without moving is work, but a coffee is not;
- from `blur` until the next act that a person makes is one gap, whatever the page shows meanwhile;
- from `pause` to `resume` nothing counts;
- the gap before a `load`, or to an act of another `client`, does not count: each page load has a clock of
  its own.

The cut-off is a choice, so report a result at several (15, 30, 60, 120 s): the acts are kept, not their sum.
`Gaps` holds an assignment's gaps before the cut, so that every cut-off is a sum over a few numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from allinsam.errors import InputError

IDLE_CUTOFF_S = 60.0
IDLE_CUTOFFS_S = (15.0, 30.0, 60.0, 120.0)
UNUSUAL = frozenset({"blur", "pause", "resume"})  # acts after which a gap is more than a difference


@dataclass(frozen=True)
class Gaps:
    """The gaps of one assignment, one for each act, in their order.

    `seconds` are without the wait for the model and without pauses, as long as they were; `owner` is the
    place in `object_ids` of the nucleus that the gap was for, -1 for none (see `seconds_per_object`).
    """

    seconds: np.ndarray  # float64 (n,)
    owner: np.ndarray  # int32 (n,)
    object_ids: tuple[str, ...]
    model_wait_s: float

    def active_s(self, idle_cutoff_s: float, acts: int | None = None) -> float:
        """As `active_seconds`; acts: of the first so many only."""
        check_cutoff(idle_cutoff_s)
        return float(np.minimum(self.seconds[:acts], idle_cutoff_s).sum())

    def object_s(self, idle_cutoff_s: float) -> np.ndarray:
        """Seconds of each nucleus in the order of `object_ids`, as `seconds_per_object`."""
        check_cutoff(idle_cutoff_s)
        mine = self.owner >= 0
        capped = np.minimum(self.seconds[mine], idle_cutoff_s)
        return np.bincount(self.owner[mine], capped, minlength=len(self.object_ids))


def gaps_of(acts: Sequence[Mapping]) -> Gaps:
    """The gaps of one assignment; acts in order, each with kind, client_ms, payload, object_id, client."""
    columns = [[act.get(name) for act in acts] for name in ("client", "kind", "object_id", "client_ms")]
    return plain_gaps(*columns, [_model_ms(act) for act in acts]) or _gaps_one_by_one(acts)


def plain_gaps(
    clients: Sequence[object],
    kinds: Sequence[str],
    object_ids: Sequence[str | None],
    client_ms: Sequence[float],
    model_ms: Sequence[float | None],
) -> Gaps | None:
    """The same of acts by column, all at once; None where somebody paused, went away or came back.

    model_ms: of each `mask_shown`, how long the model took.
    """
    unusual = len(set(clients)) != 1 or kinds[0] == "mask_shown" or not UNUSUAL.isdisjoint(kinds)
    if unusual or not all(isinstance(ms, int | float) for ms in client_ms):
        return None
    n, loads = len(kinds), np.array([kind == "load" for kind in kinds])
    waits = [
        float(ms or 0.0) if kind == "mask_shown" else 0.0 for kind, ms in zip(kinds, model_ms, strict=True)
    ]
    seconds = np.zeros(n)
    seconds[1:] = np.maximum(0.0, np.diff(np.array(client_ms, float)) - waits[1:]) / 1000
    seconds[loads] = 0.0
    place_of = {name: i for i, name in enumerate(dict.fromkeys(o for o in object_ids if o is not None))}
    named = np.array([-1 if o is None else place_of[o] for o in object_ids], np.int32)
    # Each act is for the nucleus of the next act that has one, before the page is loaded anew.
    following = np.minimum.accumulate(np.where(named >= 0, np.arange(n), n)[::-1])[::-1]
    known = following < n
    loaded = np.cumsum(loads)
    known[known] = loaded[known] == loaded[following[known]]
    owner = np.full(n, -1, np.int32)
    owner[known] = named[following[known]]
    return Gaps(seconds, owner, tuple(place_of), sum(waits) / 1000)


def _gaps_one_by_one(acts: Sequence[Mapping]) -> Gaps:
    seconds, owner = np.zeros(len(acts)), np.full(len(acts), -1, np.int32)
    place_of: dict[str, int] = {}
    pending: list[int] = []
    for number, (act, gap_s) in enumerate(_whole_gaps(acts)):
        seconds[number] = gap_s
        if act["kind"] == "load":
            pending.clear()
        pending.append(number)
        if (object_id := act.get("object_id")) is not None:
            owner[pending] = place_of.setdefault(object_id, len(place_of))
            pending.clear()
    return Gaps(seconds, owner, tuple(place_of), model_wait_seconds(acts))


def check_cutoff(idle_cutoff_s: float) -> None:
    """Raises InputError unless it is above 0."""
    if not idle_cutoff_s > 0:
        raise InputError(
            f"An idle cut-off of {idle_cutoff_s} s is not usable. Give seconds above 0, such as 60."
        )


def active_seconds(acts: Sequence[Mapping], idle_cutoff_s: float = IDLE_CUTOFF_S) -> float:
    """Active time of one assignment in seconds; acts in order, each with kind, client_ms, payload.

    No act or a single one makes 0. An unknown kind is an act like any other.
    """
    return sum(seconds for _, seconds in _counted_gaps(acts, idle_cutoff_s))


def seconds_until(acts: Sequence[Mapping], idle_cutoff_s: float = IDLE_CUTOFF_S) -> list[float]:
    """For each act the active seconds on the assignment up to and with it, in the order of the acts."""
    total, until = 0.0, []
    for _, seconds in _counted_gaps(acts, idle_cutoff_s):
        total += seconds
        until.append(total)
    return until


def seconds_per_object(acts: Sequence[Mapping], idle_cutoff_s: float = IDLE_CUTOFF_S) -> dict[str, float]:
    """Active seconds for each object_id, in the order of first appearance.

    An object's time runs from the previous act that belongs to another object (or from `load`) up to this
    object's last act: looking for it counts. One that is taken up again later gets that stretch as well.
    Acts without an object end no stretch; what follows the last object's act (reading, submit) belongs to
    none, so that the sum may be less than `active_seconds`. Deleted objects are in: they took time too.
    """
    seconds_of: dict[str, float] = {}
    pending = 0.0
    for act, seconds in _counted_gaps(acts, idle_cutoff_s):
        pending = 0.0 if act["kind"] == "load" else pending + seconds
        if (object_id := act.get("object_id")) is not None:
            seconds_of[object_id] = seconds_of.get(object_id, 0.0) + pending
            pending = 0.0
    return seconds_of


def model_wait_seconds(acts: Sequence[Mapping]) -> float:
    """Seconds that the model took for its masks, all together: given apart from active time."""
    return sum(_model_ms(act) for act in acts) / 1000


def _counted_gaps(acts: Sequence[Mapping], idle_cutoff_s: float) -> Iterator[tuple[Mapping, float]]:
    """Each act with the seconds of work that led to it."""
    check_cutoff(idle_cutoff_s)
    for act, seconds in _whole_gaps(acts):
        yield act, min(seconds, idle_cutoff_s)


def _whole_gaps(acts: Sequence[Mapping]) -> Iterator[tuple[Mapping, float]]:
    """The same before the cut."""
    before_ms: float | None = None
    client: object = None
    paused, away = False, False
    held_ms = 0.0  # time away so far, not yet capped
    answered_ms = 0.0  # what the model took for answers that came in a name of their own
    for act in acts:
        kind, now_ms = act["kind"], _client_ms(act)
        if kind == "mask_shown" and act.get("client") != client:
            answered_ms += _model_ms(act)
            yield act, 0.0
            continue
        starts_anew = before_ms is None or kind == "load" or act.get("client") != client
        client = act.get("client")
        gap_ms = 0.0 if starts_anew else max(0.0, now_ms - before_ms - _model_ms(act) - answered_ms)
        before_ms, answered_ms = now_ms, 0.0
        if kind == "load":
            paused, away, held_ms = False, False, 0.0
        if paused:
            gap_ms = 0.0
        if away:
            gap_ms, held_ms = gap_ms + held_ms, 0.0
            if kind in ("mask_shown", "blur"):
                gap_ms, held_ms = 0.0, gap_ms
            else:
                away = False
        yield act, gap_ms / 1000
        paused = kind == "pause" or (paused and kind != "resume")
        away = away or kind == "blur"


def _client_ms(act: Mapping) -> float:
    client_ms = act.get("client_ms")
    if not isinstance(client_ms, int | float):
        raise InputError(
            f"Act {act.get('kind')!r} has client_ms {client_ms!r}. Give the page's clock in milliseconds."
        )
    return client_ms


def _model_ms(act: Mapping) -> float:
    """How long the model took for this act's mask, ms."""
    if act["kind"] != "mask_shown":
        return 0.0
    return float((act.get("payload") or {}).get("model_ms") or 0.0)
