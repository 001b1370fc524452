"""Review and adjudication: what several raters marked on a patch is settled, nucleus by nucleus.

A review is a version of a patch. Until it is finished, decisions are added to it, each about one cluster: the
marks of several raters that are one nucleus. The newest decision of a cluster counts; one can be taken back.
Where all raters are at one, finishing takes their consensus. What a finished version came to is kept as it
is, whatever the raters do later; `reopen` begins the next version, which goes on from its decisions. The
raters' own work is never touched.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import NAMESPACE_OID, uuid4, uuid5

import numpy as np
from sqlite_utils import Database

from allinsam.acts import LONGEST_TEXT
from allinsam.disputes import Candidate, find_candidates, letters
from allinsam.errors import InputError
from allinsam.marks import rated_patch
from allinsam.masks import decode_rle, encode_rle, encode_window
from allinsam.records import Mask
from allinsam.store import Study, images, reviews, settled
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.workflow.annotating import ActLog, append_acts, marker_evidence
from allinsam.workflow.standing import Standing, standing
from allinsam.workflow.tallies import Nucleus, Tally, drop_stale_tallies, keep_tally, read_tally, tally_path
from allinsam.worth import expected_seconds

KINDS = ("pick", "consensus", "edited", "class", "rejected", "added")
REVIEW_SURFACE = "review"
PATCHES_REMEMBERED = 32
PATCHES_KNOWN = 8192
AT_ONCE = 8  # patches whose disputes a page finds itself; more are left to a job


@dataclass(frozen=True)
class Source:
    """One mark, and the row of it that was looked at."""

    assignment_id: int
    object_id: str
    annotation_id: int

    def as_list(self) -> list[Any]:
        return [self.assignment_id, self.object_id, self.annotation_id]


@dataclass(frozen=True)
class Member:
    """What one rater drew, under a letter that stands for the rater on this patch alone."""

    letter: str
    class_id: int
    class_name: str
    mask: Mask
    source: Source


@dataclass(frozen=True)
class Decision:
    decision_id: int
    kind: str  # of KINDS
    class_id: int | None  # None and no mask: rejected
    class_name: str | None
    mask: Mask | None
    letter: str | None  # of a pick: whose outline it is
    comment: str
    person_id: str
    version: int
    decided_at: str  # UTC


@dataclass(frozen=True)
class Cluster:
    """One nucleus that somebody marked, or that a reviewer added (then it has no members)."""

    cluster_id: str
    members: tuple[Member, ...]  # by letter
    votes: int  # of those who looked for the class, how many marked it
    n_looked: int
    missed_by: tuple[str, ...]  # letters of the others
    class_id: int  # the consensus's, as is the mask
    class_name: str
    mask: Mask
    alike: int  # the most outlines that one of them is like, itself among them
    reasons: tuple[str, ...]  # why it is in dispute, of disputes.REASONS; none: all are at one
    decision: Decision | None
    box: tuple[int, int, int, int]  # xyxy round everything drawn, px of the patch, half-open

    @property
    def in_dispute(self) -> bool:
        return bool(self.reasons)

    @property
    def is_open(self) -> bool:
        """Whether somebody has to decide it before the review can be finished."""
        return self.in_dispute and self.decision is None


@dataclass(frozen=True)
class ReviewState:
    """Where the review of a patch stands."""

    patch_id: int
    version: int  # the newest, finished or not; 0 where there is none yet
    state: str  # new, begun, reviewed, changed: reviewed, but the raters' work has gone on since
    is_gold: bool  # this or an earlier version is
    reviewer_id: str | None  # who began the newest version
    comment: str
    finished_at: str | None
    raters: Mapping[str, int]  # letter -> assignment
    own_letters: tuple[str, ...]  # of the person who asks
    sent_back: tuple[str, ...]  # letters of raters whose patch was sent back before
    class_ids: tuple[int, ...]  # that anybody looked for: a nucleus can be given no other
    has_other_gold: bool  # gold that is no review's comes first

    @property
    def is_finished(self) -> bool:
        return self.state in ("reviewed", "changed")


# --- What the raters did --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Work:
    """Whose finished production a review of a patch looks at."""

    patch_id: int
    claims: tuple[tuple[int, int], ...]  # (assignment, class)
    person_of: Mapping[int, str]
    sha256: str  # of which annotations stand there

    @property
    def class_ids(self) -> tuple[int, ...]:
        return tuple(sorted({class_id for _, class_id in self.claims}))

    def letters(self, patch: Mapping[str, Any]) -> dict[str, str]:
        # By what no page tells: from a patch's name anybody could work out whose letter is whose.
        return letters(self.person_of.values(), patch["image_sha256"])


def _claims(db: Database, patch_id: int | None = None) -> dict[int, list[Mapping[str, Any]]]:
    """Patch -> finished production, a row for each assignment; the truth is nobody's."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in queue.finished_work(db, patch_id):
        if row["purpose"] == "production" and row["group"] != "truth":
            found.setdefault(row["patch_id"], []).append(row)
    return found


def _work_of(db: Database, patch_id: int, rows: Sequence[Mapping[str, Any]]) -> _Work:
    pairs = tuple(sorted((row["id"], class_id) for row in rows for class_id in row["class_ids"]))
    ids = reviews.work_ids(db, [row["id"] for row in rows])
    told = json.dumps([[*pair, ids.get(pair, [])] for pair in pairs])
    return _Work(
        patch_id, pairs, {row["id"]: row["person_id"] for row in rows}, sha256(told.encode()).hexdigest()
    )


def _works(study: Study, db: Database) -> list[_Work]:
    """Of every patch; looked at once for the same rows of annotations."""
    suggested = reviews.newest_suggestion(db)
    works = []
    for patch_id, rows in _claims(db).items():
        facts = [[row[name] for name in ("id", "class_ids", "n_rows", "newest")] for row in rows]
        key = (study.folder, patch_id, suggested, json.dumps(facts))
        work = _recall(_works_known, key) or _work_of(db, patch_id, rows)
        works.append(_keep(_works_known, key, work, PATCHES_KNOWN))
    return works


def _work(db: Database, patch_id: int) -> _Work:
    rows = _claims(db, patch_id).get(patch_id)
    if rows is None:
        patch = images.get_patch(db, patch_id)
        raise InputError(f"Nobody has handed in patch {patch['name']!r}. There is nothing to review yet.")
    return _work_of(db, patch_id, rows)


# The study, the patch, the work there, and what its classes are called.
_Key = tuple[Path, int, str, tuple[tuple[int, str], ...]]
_works_known: OrderedDict[tuple, _Work] = OrderedDict()
_candidates_of: OrderedDict[_Key, tuple[Candidate, ...]] = OrderedDict()
_tally_of: OrderedDict[_Key, Tally] = OrderedDict()
_lock = Lock()


def _key(study: Study, db: Database, work: _Work) -> _Key:
    return _key_of(study, work, _class_names(db))


def _class_names(db: Database) -> tuple[tuple[int, str], ...]:
    return tuple((row["id"], row["name"]) for row in study_store.list_classes(db))


def _key_of(study: Study, work: _Work, names: tuple[tuple[int, str], ...]) -> _Key:
    return study.folder, work.patch_id, work.sha256, names


def _candidates(study: Study, db: Database, work: _Work) -> tuple[Candidate, ...]:
    """What anybody marked; found once for the same work."""
    key = _key(study, db, work)
    found = _recall(_candidates_of, key)
    return found if found is not None else _keep(_candidates_of, key, _find(db, work), PATCHES_REMEMBERED)


def _known_tally(study: Study, key: _Key) -> Tally | None:
    known = _recall(_tally_of, key)
    if known is None and (known := read_tally(_tally_path(study, key))) is not None:
        _keep(_tally_of, key, known, PATCHES_KNOWN)
    return known


def _tally_path(study: Study, key: _Key) -> Path:
    return tally_path(study, key[1], key[2:])


def _tallied_works(study: Study, db: Database) -> list[tuple[_Work, Tally | None]]:
    """Of every patch that was handed in, with its nuclei where they are known."""
    names = _class_names(db)
    return [(work, _known_tally(study, _key_of(study, work, names))) for work in _works(study, db)]


def _tally(study: Study, db: Database, work: _Work) -> Tally:
    """The nuclei of a patch, found and remembered."""
    # Not kept as candidates: the patches in hand must not be driven out by the list of all.
    key = _key(study, db, work)
    found = _recall(_candidates_of, key) or _find(db, work)
    letter_of = work.letters(images.get_patch(db, work.patch_id))
    tally = tuple(
        Nucleus(
            _cluster_id(one),
            one.in_dispute,
            tuple(mark.key["id"] for mark in sorted(one.members, key=lambda mark: letter_of[mark.rater])),
        )
        for one in found
    )
    return _keep(_tally_of, key, tally, PATCHES_KNOWN)


def untallied(study: Study) -> list[int]:
    """Patches that were handed in and on which nobody has looked yet for what is in dispute."""
    with study.science.read() as db:
        return [work.patch_id for work, tally in _tallied_works(study, db) if tally is None]


def tally_study(
    study: Study,
    report: Callable[[float, float, str], None] = lambda done, total, message: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, int]:
    """Find what is in dispute on every patch, and keep it; what is done stays done when it is stopped."""
    missing = untallied(study)
    for number, patch_id in enumerate(missing):
        if should_stop():
            return {"patches": len(missing), "found": number}
        report(number, len(missing), f"patch {number + 1} of {len(missing)}")
        with study.science.read() as db:
            rows = _claims(db, patch_id).get(patch_id)
            if rows is None:  # taken back since
                continue
            work = _work_of(db, patch_id, rows)
            tally, path = _tally(study, db, work), _tally_path(study, _key(study, db, work))
        keep_tally(path, tally)
    with study.science.read() as db:
        drop_stale_tallies(study, [_tally_path(study, _key(study, db, w)) for w in _works(study, db)])
    report(1, 1, f"{len(missing)} patches looked at")
    return {"patches": len(missing), "found": len(missing)}


def tallies(study: Study, patch_ids: Iterable[int]) -> dict[int, Tally]:
    """The nuclei of these patches where they are known; the others are left out."""
    wanted = set(patch_ids)
    with study.science.read() as db:
        known = _tallied_works(study, db) if wanted else []
    return {work.patch_id: tally for work, tally in known if tally is not None and work.patch_id in wanted}


def _recall(memory: OrderedDict, key: Any) -> Any:
    with _lock:
        return memory.get(key)


def _keep(memory: OrderedDict, key: Any, value: Any, most: int) -> Any:
    with _lock:
        memory[key] = value
        while len(memory) > most:
            memory.popitem(last=False)
    return value


def _find(db: Database, work: _Work) -> tuple[Candidate, ...]:
    patch = images.get_patch(db, work.patch_id)
    names = {row["id"]: row["name"] for row in study_store.list_classes(db)}
    looked: dict[str, set[str]] = {}
    for assignment_id, class_id in work.claims:
        looked.setdefault(work.person_of[assignment_id], set()).add(names[class_id])
    claims = set(work.claims)
    marked = [
        (work.person_of[row["assignment_id"]], names[row["class_id"]], Mask.from_row(row).as_rle(), row)
        for row in reviews.work_on(db, list(work.person_of))
        if (row["assignment_id"], row["class_id"]) in claims
    ]
    return tuple(find_candidates(rated_patch((patch["height_px"], patch["width_px"]), looked, marked)))


def _cluster_id(candidate: Candidate) -> str:
    """Another as soon as a mark is another: what was decided about the old ones does not hold for it."""
    rows = sorted(member.key["id"] for member in candidate.members)
    return str(uuid5(NAMESPACE_OID, "cluster " + " ".join(map(str, rows))))


# --- Looking --------------------------------------------------------------------------------------


def patches_to_review(
    study: Study, reviewer_id: str | None = None, at_once: int | None = None
) -> list[dict[str, Any]]:
    """A row for each patch that somebody has handed in, the most disputed first, the reviewed ones last.

    Keys: patch_id, patch, slide, condition, raters, nuclei, disputed, open (in dispute and not decided),
    open_ids (their clusters),
    disagreement (share of the nuclei in dispute), state (see ReviewState), version, is_gold, own (whether
    `reviewer_id` is one of the raters), reviewer_id (who began it), expected_seconds (as in an
    expert's ten minutes: of each nucleus in dispute, and to finish).

    at_once: of how many patches at most the disputes are found here; where there are more to find, those
    patches are left out (see `untallied`).
    """
    with study.science.read() as db:
        patches = {patch["id"]: patch for patch in images.list_patches(db)}
        works, decided = _tallied_works(study, db), reviews.decided(db)
        finds = at_once is None or sum(tally is None for _, tally in works) <= at_once
        seconds = {kind: each for kind, (each, _) in expected_seconds(settled.list_settled(db)).items()}
        versions: dict[int, list[dict[str, Any]]] = {}
        for row in reviews.list_reviews(db):
            versions.setdefault(row["patch_id"], []).append(row)
        rows = []
        for work, known in works:
            if known is None and not finds:
                continue
            tally = _tally(study, db, work) if known is None else known
            patch_id, nuclei = work.patch_id, len(tally)
            disputed = [one.cluster_id for one in tally if one.in_dispute]
            stands = _standing_of(versions.get(patch_id, []), work)
            still = [key for key in disputed if key not in decided.get(patch_id, {})]
            finished = stands["state"] == "reviewed"
            expected = seconds["finish"] + seconds["dispute"] * len(still)
            rows.append(
                {
                    "patch_id": patch_id,
                    **{key: patches[patch_id][key] for key in ("slide", "condition")},
                    "patch": patches[patch_id]["name"],
                    "raters": len(work.person_of),
                    "nuclei": nuclei,
                    "disputed": len(disputed),
                    "open": 0 if finished else len(still),
                    "open_ids": () if finished else tuple(still),
                    "disagreement": len(disputed) / nuclei if nuclei else 0.0,
                    **stands,
                    "own": reviewer_id in work.person_of.values(),
                    "expected_seconds": 0.0 if finished else expected,
                }
            )
    rows.sort(key=lambda r: (r["state"] == "reviewed", -r["open"], -r["disagreement"], r["patch"]))
    return rows


def _standing_of(versions: Sequence[Mapping[str, Any]], work: _Work) -> dict[str, Any]:
    newest = versions[-1] if versions else None
    state = "new"
    if newest is not None and newest["finished_at"] is None:
        state = "begun"
    elif newest is not None:
        state = "reviewed" if newest["work_sha256"] == work.sha256 else "changed"
    return {
        "state": state,
        "version": newest["version"] if newest else 0,
        "is_gold": any(row["is_gold"] for row in versions),
        "reviewer_id": newest["reviewer_id"] if newest else None,
    }


def review_state(study: Study, patch_id: int, person_id: str | None = None) -> ReviewState:
    """Where the review of a patch stands, for one person. Raises InputError where nobody handed it in."""
    with study.science.read() as db:
        work, patch = _work(db, patch_id), images.get_patch(db, patch_id)
        versions = reviews.list_reviews(db, patch_id)
        back = reviews.sent_back(db)
        of_reviews = {row["gold_assignment_id"] for row in versions}
        others = {
            row["assignment_id"]
            for row in queue.finished_classes(db, [patch_id])
            if row["purpose"] == "gold" and row["group"] in ("truth", "expert")
        }
    letter_of = work.letters(patch)
    raters = {letter_of[person]: key for key, person in work.person_of.items()}
    newest = versions[-1] if versions else {}
    return ReviewState(
        patch_id=patch_id,
        **_standing_of(versions, work),
        comment=newest.get("comment") or "",
        finished_at=newest.get("finished_at"),
        raters=dict(sorted(raters.items())),
        own_letters=tuple(letter_of[p] for p in work.person_of.values() if p == person_id),
        sent_back=tuple(sorted(letter for letter, key in raters.items() if key in back)),
        class_ids=work.class_ids,
        has_other_gold=bool(others - of_reviews),
    )


def clusters(study: Study, patch_id: int) -> list[Cluster]:
    """Every nucleus that any rater outlined, by place, then those that a reviewer added.

    Raises:
        InputError: nobody has handed the patch in.
        NotFoundError: no such patch.
    """
    with study.science.read() as db:
        return _clusters(study, db, patch_id)


def _clusters(study: Study, db: Database, patch_id: int) -> list[Cluster]:
    work, patch = _work(db, patch_id), images.get_patch(db, patch_id)
    size_hw = (patch["height_px"], patch["width_px"])
    ids = {row["name"]: row["id"] for row in study_store.list_classes(db)}
    letter_of, decided = work.letters(patch), reviews.decided(db, patch_id).get(patch_id, {})
    names_of = {class_id: name for name, class_id in ids.items()}
    looked: dict[str, set[str]] = {}
    for assignment_id, class_id in work.claims:
        looked.setdefault(names_of[class_id], set()).add(work.person_of[assignment_id])
    found = []
    for candidate in _candidates(study, db, work):
        members = sorted(
            (
                Member(
                    letter_of[mark.rater],
                    mark.key["class_id"],
                    mark.class_name,
                    Mask.from_row(mark.key),
                    Source(mark.key["assignment_id"], mark.key["object_id"], mark.key["id"]),
                )
                for mark in candidate.members
            ),
            key=lambda member: member.letter,
        )
        marked_by = {mark.rater for mark in candidate.members}
        name, cluster_id = candidate.choice.class_name, _cluster_id(candidate)
        drawn = np.concatenate([mark.pixels for mark in candidate.members])
        found.append(
            Cluster(
                cluster_id,
                tuple(members),
                candidate.votes,
                candidate.n_looked,
                tuple(sorted(letter_of[p] for p in looked.get(name, set()) - marked_by)),
                ids[name],
                name,
                _mask_of(candidate.pixels, size_hw),
                candidate.alike,
                candidate.reasons,
                _decision(decided.get(cluster_id), members),
                _box_of(drawn, size_hw),
            )
        )
    known = {one.cluster_id for one in found}
    added = [row for key, row in decided.items() if key not in known and not row["sources"]]
    return found + [one for row in added if (one := _added(db, row, size_hw)) is not None]


def _added(db: Database, row: Mapping[str, Any], size_hw: tuple[int, int]) -> Cluster | None:
    """A nucleus that no rater has: as it was added, with what was decided about it since."""
    earlier = row
    if row["mask_counts"] is None:
        drawn = [
            r for r in reviews.list_decisions(db, row["patch_id"]) if r["cluster_id"] == row["cluster_id"]
        ]
        earlier = next(r for r in drawn if r["kind"] == "added")
    pixels = np.flatnonzero(decode_rle(Mask.from_row(earlier).as_rle()))
    return Cluster(
        row["cluster_id"],
        (),
        0,
        0,
        (),
        earlier["class_id"],
        earlier["class_name"],
        Mask.from_row(earlier),
        1.0,
        (),
        _decision(row),
        _box_of(pixels, size_hw),
    )


def _decision(row: Mapping[str, Any] | None, members: Sequence[Member] = ()) -> Decision | None:
    if row is None:
        return None
    letter_of = {member.source.assignment_id: member.letter for member in members}
    return Decision(
        row["id"],
        row["kind"],
        row["class_id"],
        row["class_name"],
        Mask.from_row(row) if row["mask_counts"] is not None else None,
        letter_of.get(row["picked_assignment_id"]),
        row["comment"],
        row["person_id"],
        row["version"],
        row["decided_at"],
    )


def _mask_of(pixels: np.ndarray, size_hw: tuple[int, int]) -> Mask:
    x0, y0, x1, y1 = _box_of(pixels, size_hw)
    window = np.zeros((y1 - y0, x1 - x0), bool)
    y, x = np.divmod(pixels, size_hw[1])
    window[y - y0, x - x0] = True
    return Mask.from_rle(encode_window(window, y0, x0, size_hw))


def _box_of(pixels: np.ndarray, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    y, x = np.divmod(pixels, size_hw[1])
    return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


# --- Deciding -------------------------------------------------------------------------------------


def decide(
    study: Study,
    reviewer_id: str,
    patch_id: int,
    cluster_id: str | None,
    kind: str,
    letter: str | None = None,
    class_id: int | None = None,
    mask: np.ndarray | None = None,
    comment: str = "",
    seen: int | None = None,
) -> str:
    """Settle one cluster, or add a nucleus that nobody has; returns the cluster's id. The first decision on
    a patch begins its review.

    kind: pick (the outline and class of the rater `letter`), consensus, edited (`mask`, bool (H, W)), class
    (`class_id`, the outline as it stands), rejected, added (`mask` and `class_id`, no `cluster_id`). With
    `class_id`, pick, consensus and edited take that class instead.

    seen: the decision that the reviewer had before them, 0 for none: somebody else's newer one is not
    decided over. None: whatever stands is.

    Raises:
        InputError: no such cluster, letter or class; an empty mask; the review is finished; or somebody else
            has decided meanwhile.
    """
    if kind not in KINDS:
        raise InputError(f"Unknown decision {kind!r}. Choose one of {', '.join(KINDS)}.")
    comment = _checked_text(comment)
    clusters(study, patch_id)  # found before the transaction, which must be short
    with study.science.write() as db:
        work = _work(db, patch_id)
        if class_id is not None and class_id not in work.class_ids:
            raise InputError(
                f"Nobody has looked for class {class_id!r} here. Choose one of {list(work.class_ids)}."
            )
        cluster = None
        if kind != "added":
            cluster = _named_cluster(_clusters(study, db, patch_id), cluster_id)
            _demand_seen(cluster.decision, seen, reviewer_id)
        settled = _outcome(cluster, kind, letter, class_id, mask, images.get_patch(db, patch_id))
        cluster_id = cluster.cluster_id if cluster else str(uuid4())
        members = cluster.members if cluster else ()
        reviews.add_decision(
            db,
            _open_review(db, patch_id, reviewer_id),
            cluster_id,
            kind,
            reviewer_id,
            [member.source.as_list() for member in members],
            *settled,
            comment,
            picked=next(
                (m.source.assignment_id for m in members if (kind, m.letter) == ("pick", letter)), None
            ),
        )
    return cluster_id


def _named_cluster(found: Sequence[Cluster], cluster_id: str | None) -> Cluster:
    for cluster in found:
        if cluster.cluster_id == cluster_id:
            return cluster
    raise InputError(
        f"There is no nucleus {cluster_id!r} here, or its raters have changed it since. Open the patch again."
    )


def _demand_seen(now: Decision | None, seen: int | None, reviewer_id: str) -> None:
    if seen is None or now is None or now.person_id == reviewer_id or now.decision_id == seen:
        return
    raise InputError("Somebody else has decided this nucleus meanwhile, as shown. Decide again to change it.")


def _outcome(
    cluster: Cluster | None,
    kind: str,
    letter: str | None,
    class_id: int | None,
    mask: np.ndarray | None,
    patch: Mapping[str, Any],
) -> tuple[int | None, Mask | None]:
    """The class and outline that a decision comes to."""
    if kind == "rejected":
        return None, None
    if kind == "pick":
        by_letter = {member.letter: member for member in cluster.members}
        if letter not in by_letter:
            raise InputError(
                f"{letter!r} has no outline here. Choose one of {', '.join(by_letter) or 'none'}."
            )
        return class_id or by_letter[letter].class_id, by_letter[letter].mask
    if kind == "consensus":
        if not cluster.members:
            raise InputError("Nobody has marked this nucleus: there is no consensus. Keep it or reject it.")
        return class_id or cluster.class_id, cluster.mask
    if kind in ("class", "added") and class_id is None:
        raise InputError(f"A decision of kind {kind!r} needs a class. Name one.")
    now = cluster.decision if cluster and cluster.decision and cluster.decision.mask else None
    if kind == "class":
        return class_id, now.mask if now else cluster.mask
    size_hw = (patch["height_px"], patch["width_px"])
    if mask is None or np.shape(mask) != size_hw or not np.any(mask):
        raise InputError(
            f"This outline holds no pixel of the patch of {size_hw[1]} x {size_hw[0]} px. Draw it again."
        )
    drawn = Mask.from_rle(encode_rle(mask))
    return class_id or (now.class_id if now else cluster.class_id), drawn


def undo(study: Study, reviewer_id: str, patch_id: int, cluster_id: str | None = None) -> str | None:
    """Take back what was decided last about a cluster, or without one, what this reviewer decided last in
    this version; returns the cluster.

    None where there is nothing to take back. Raises InputError where the review is finished.
    """
    with study.science.write() as db:
        newest = _newest(db, patch_id)
        if newest is None:
            return None
        standing_rows = [
            row
            for row in reviews.list_decisions(db, patch_id)
            if row["kind"] != "undo"
            and row["undone_by"] is None
            and (
                row["cluster_id"] == cluster_id
                if cluster_id
                else (row["review_id"], row["person_id"]) == (newest["id"], reviewer_id)
            )
        ]
        if not standing_rows:
            return None
        last = standing_rows[-1]
        review_id = _open_review(db, patch_id, reviewer_id)
        reviews.add_decision(
            db, review_id, last["cluster_id"], "undo", reviewer_id, last["sources"], undoes=last["id"]
        )
    return last["cluster_id"]


def _newest(db: Database, patch_id: int) -> dict[str, Any] | None:
    versions = reviews.list_reviews(db, patch_id)
    return versions[-1] if versions else None


def _open_review(db: Database, patch_id: int, reviewer_id: str) -> int:
    """The review that goes on, or a first one. Raises InputError where it is finished."""
    newest = _newest(db, patch_id)
    if newest is None:
        return reviews.add_review(db, patch_id, 1, reviewer_id)
    if newest["finished_at"] is not None:
        raise InputError(
            f"The review of patch {newest['patch']!r} is finished. Reopen it first to change it."
        )
    return newest["id"]


def reopen(study: Study, reviewer_id: str, patch_id: int) -> int:
    """Begin the next version of a finished review, with its decisions; returns its number.

    The finished version stays as it is, and counts until the next one is finished.
    """
    with study.science.write() as db:
        newest = _newest(db, patch_id)
        if newest is None or newest["finished_at"] is None:
            raise InputError("This review is not finished: there is nothing to reopen.")
        reviews.add_review(db, patch_id, newest["version"] + 1, reviewer_id)
        return newest["version"] + 1


# --- Finishing ------------------------------------------------------------------------------------


def finish(
    study: Study, reviewer_id: str, patch_id: int, comment: str = "", as_gold: bool = False
) -> dict[str, Any]:
    """Close the newest version of a patch's review; where nobody disputes, the consensus is taken.

    A version after one that is gold is gold, too. Returns version, nuclei and the gold's assignment, if any.

    Raises:
        InputError: nuclei are still in dispute, the review is finished, or the reviewer is no expert (gold).
    """
    comment = _checked_text(comment)
    clusters(study, patch_id)
    evidence = _evidence(study, patch_id)
    with study.science.write() as db:
        work, patch = _work(db, patch_id), images.get_patch(db, patch_id)
        found = _clusters(study, db, patch_id)
        still = sum(one.is_open for one in found)
        if still:
            raise InputError(
                f"{still} {'nucleus is' if still == 1 else 'nuclei are'} still in dispute on patch "
                f"{patch['name']!r}. Decide {'it' if still == 1 else 'them'} first."
            )
        review_id = _open_review(db, patch_id, reviewer_id)
        objects = [_object(one) for one in found if one.decision is None or one.decision.kind != "rejected"]
        reviews.add_objects(db, review_id, objects)
        reviews.add_sources(db, review_id, work.claims)
        reviews.add_finish(db, review_id, reviewer_id, comment, work.sha256)
        gold = None
        if as_gold or any(row["is_gold"] for row in reviews.list_reviews(db, patch_id)):
            gold = _keep_gold(db, patch_id, review_id, reviewer_id, evidence)
        version = _newest(db, patch_id)["version"]
    return {"version": version, "nuclei": len(objects), "gold": gold}


def _object(cluster: Cluster) -> dict[str, Any]:
    decision = cluster.decision
    return {
        "cluster_id": cluster.cluster_id,
        "decision_id": decision.decision_id if decision else None,
        "sources": [member.source.as_list() for member in cluster.members],
        "class_id": decision.class_id if decision else cluster.class_id,
        "mask": decision.mask if decision else cluster.mask,
    }


def make_gold(study: Study, reviewer_id: str, patch_id: int) -> int:
    """Make gold of the newest finished version; returns the gold's assignment.

    Raises InputError where it is not finished, is gold already, or the reviewer is no expert.
    """
    evidence = _evidence(study, patch_id)
    with study.science.write() as db:
        newest = _newest(db, patch_id)
        if newest is None or newest["finished_at"] is None:
            raise InputError("Only a finished review can become gold. Finish it first.")
        if newest["is_gold"]:
            raise InputError(f"The review of patch {newest['patch']!r} is gold already.")
        return _keep_gold(db, patch_id, newest["id"], reviewer_id, evidence)


def _evidence(study: Study, patch_id: int) -> dict[int, Any]:
    """Class -> where its marker is bright; read before a transaction."""
    with study.science.read() as db:
        classes = study_store.list_classes(db)
    return {row["id"]: marker_evidence(study, patch_id, row["marker"]) for row in classes}


def _keep_gold(
    db: Database, patch_id: int, review_id: int, reviewer_id: str, evidence: Mapping[int, Any]
) -> int:
    """Put a finished version into the patch's gold: an expert's assignment, whose acts say where it is from.

    A later version changes the same assignment, so that there is one gold, and the earlier one can be read
    from its acts.
    """
    classes = sorted({row["class_id"] for row in reviews.review_sources(db, review_id)})
    earlier = [row["gold_assignment_id"] for row in reviews.list_reviews(db, patch_id) if row["is_gold"]]
    if earlier:
        assignment_id = earlier[-1]
        queue.ask_for_classes(db, assignment_id, classes)
    else:
        if study_store.get_person(db, reviewer_id)["group"] != "expert":
            raise InputError(
                f"{reviewer_id!r} is not in the group of experts, whose work gold is. Let an expert make it."
            )
        assignment_id = queue.add_assignment(db, reviewer_id, patch_id, classes, "gold", tool="contour")
    held = Standing(assignment_id)
    before = held.catch_up(db).state
    log = ActLog(f"review-{review_id}", act_store.IMPORT_SURFACE)
    acts = [log.act("load", 0.0, source={"review": review_id}, purpose="gold")]
    if before.submitted:
        acts.append(log.act("undo", 0.0, act=list(before.undo_stack[-1])))
    acts += [log.act("delete", 0.0, thing.object_id) for thing in before.accepted()]
    objects = reviews.review_objects(db, review_id)
    for row in objects:
        object_id = str(uuid5(NAMESPACE_OID, f"review {review_id} {row['cluster_id']}"))
        bright = evidence.get(row["class_id"])
        drawn = {
            "class_id": row["class_id"],
            "mask": Mask.from_row(row).as_rle(),
            "tool": "review",
            "origin": "imported",
            "source_id": row["cluster_id"],
            **(bright.of_mask(decode_rle(Mask.from_row(row).as_rle())) if bright else {}),
        }
        acts += [log.act("mask_edit", 0.0, object_id, **drawn), log.act("accept", 0.0, object_id)]
    found = {row["class_id"] for row in objects}
    states = {
        str(class_id): ("complete" if class_id in found else "nothing_here")
        if class_id in classes
        else "skipped"
        for class_id in queue.assignment_classes(db, assignment_id)
    }
    acts.append(log.act("submit", 0.0, classes=states))
    append_acts(db, queue.get_assignment(db, assignment_id), acts, held)
    reviews.add_gold(db, review_id, assignment_id, reviewer_id)
    return assignment_id


# --- Sending back ---------------------------------------------------------------------------------


def send_back(study: Study, reviewer_id: str, assignment_id: int, comment: str) -> None:
    """Open a rater's patch again, once, with a comment that the rater reads on it.

    The work as it was handed in stays in the acts: this takes back nothing but the handing in.

    Raises:
        InputError: no comment, no production that is handed in, or it was sent back before.
    """
    comment = _checked_text(comment)
    if not comment:
        raise InputError("Say what is to be done again: a patch cannot be sent back without a comment.")
    with standing(study, assignment_id) as held, study.science.write() as db:
        assignment = queue.get_assignment(db, assignment_id)
        person = study_store.get_person(db, assignment["person_id"])
        where = f"Patch {assignment['patch']!r}"
        if assignment["purpose"] != "production" or assignment["state"] != "submitted":
            raise InputError(f"{where}: only production that is handed in can be sent back.")
        if assignment_id in reviews.sent_back(db):
            raise InputError(f"{where} has been sent back to this rater before. Once is all; decide it here.")
        if person["simulated"] or person["withdrawn_at"]:
            raise InputError(f"{where}: this rater is simulated or has withdrawn, and cannot do it again.")
        submit = held.catch_up(db).state.undo_stack[-1]
        log = ActLog(f"sent-back-{assignment_id}", REVIEW_SURFACE)
        append_acts(db, assignment, [log.act("undo", 0.0, act=list(submit))], held)
        reviews.add_sent_back(db, assignment_id, reviewer_id, comment)


def why_sent_back(study: Study, assignment_id: int) -> str | None:
    """The reviewer's comment on a patch to be done again; None for one handed in since, or any other."""
    with study.science.read() as db:
        row = reviews.sent_back(db).get(assignment_id)
        if row is None or queue.get_assignment(db, assignment_id)["state"] == "submitted":
            return None
    return row["comment"]


def _checked_text(text: str) -> str:
    text = text.strip()
    try:
        text.encode()
    except UnicodeEncodeError as error:  # half of an emoji, say
        raise InputError("This comment has a character that cannot be kept. Write it again.") from error
    if len(text) > LONGEST_TEXT:
        raise InputError(f"This comment has {len(text)} characters; {LONGEST_TEXT} are kept. Shorten it.")
    return text
