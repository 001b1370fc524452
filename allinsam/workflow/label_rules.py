"""From what people finished to the lines of a frozen label set: one person's work, what all agree on, or what
a reviewer settled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from allinsam.consensus import ConsensusObject, ConsensusSettings, PatchConsensus, as_rule
from allinsam.marks import RatedPatch, rated_patch
from allinsam.masks import encode_rle
from allinsam.records import Mask


def key_of(claim: Mapping[str, Any]) -> tuple[int, int]:
    return claim["assignment_id"], claim["class_id"]


@dataclass(frozen=True)
class Reviewed:
    """The newest finished review of a patch: a row of it, what it came to, and whose work it looked at."""

    review: Mapping[str, Any]
    objects: Sequence[Mapping[str, Any]]
    sources: Sequence[Mapping[str, Any]]  # one for each (assignment, class)


@dataclass(frozen=True)
class Labelled:
    """What people finished, for a rule to make labels of."""

    claims: Sequence[Mapping[str, Any]]  # (assignment, class), by the patch's name and the class
    objects: Mapping[tuple[int, int], Sequence[dict[str, Any]]]  # (assignment, class) -> its nuclei
    patches: Mapping[int, Mapping[str, Any]]
    class_names: Mapping[int, str]
    reviews: Sequence["Reviewed"] = ()

    def line(self, claim: Mapping[str, Any], **content: Any) -> dict[str, Any]:
        """A line of the manifest, for the patch and class of a claim."""
        patch = self.patches[claim["patch_id"]]
        return {
            "patch_id": patch["id"],
            "patch": patch["name"],
            "class": self.class_names[claim["class_id"]],
            "image_sha256": patch["image_sha256"],
            **content,
        }


Lines = tuple[list[dict[str, Any]], list[dict[str, Any]]]  # of the manifest, and the label set's members


def pooled_lines(labelled: Labelled) -> Lines:
    """Each claim as it is; one person's for each patch."""
    lines, members = [], []
    for claim in labelled.claims:
        objects = labelled.objects[key_of(claim)]
        lines.append(labelled.line(claim, person=claim["person_id"], objects=objects))
        members += _members(claim, [thing["annotation_id"] for thing in objects])
    return lines, members


def _members(claim: Mapping[str, Any], annotation_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Rows that say whose work is in: one at least, as to have found nothing is work as well."""
    keys = {key: claim[key] for key in ("patch_id", "class_id", "assignment_id")}
    return [{**keys, "annotation_id": annotation_id} for annotation_id in annotation_ids or [None]]


def consensus_lines(labelled: Labelled, method: str, quorum: int | None) -> Lines:
    """Everybody who looked is a member, outvoted or not: their vote is in it, so that they are never scored
    against it.
    """
    decided = as_rule(method)(_rated_patches(labelled), ConsensusSettings(quorum=quorum))
    lines, members = [], []
    for _, group in groupby(labelled.claims, key=lambda c: (c["patch_id"], c["class_id"])):
        claims = list(group)
        line = labelled.line(claims[0], people=sorted(c["person_id"] for c in claims))
        patch = decided[line["patch"]]
        agreed = [thing for thing in patch.objects if thing.choice.class_name == line["class"]]
        lines.append({**line, "objects": [_consensus_object(patch, thing) for thing in agreed]})
        for claim in claims:
            used = [
                m.key["annotation_id"] for t in agreed for m in t.members if m.rater == claim["person_id"]
            ]
            members += _members(claim, used)
    return lines, members


def _rated_patches(labelled: Labelled) -> dict[str, RatedPatch]:
    rated = {}
    for patch_id, group in groupby(labelled.claims, key=lambda c: c["patch_id"]):
        claims, patch = list(group), labelled.patches[patch_id]
        looked: dict[str, set[str]] = {}
        for claim in claims:
            looked.setdefault(claim["person_id"], set()).add(labelled.class_names[claim["class_id"]])
        marked = [
            (claim["person_id"], labelled.class_names[claim["class_id"]], thing["mask"], thing)
            for claim in claims
            for thing in labelled.objects[key_of(claim)]
        ]
        rated[patch["name"]] = rated_patch((patch["height_px"], patch["width_px"]), looked, marked)
    return rated


def _consensus_object(patch: PatchConsensus, thing: ConsensusObject) -> dict[str, Any]:
    """An object of the manifest; the same nuclei always make one of the same identity."""
    own = sorted(member.key["object_id"] for member in thing.members)
    return {
        "object_id": str(uuid5(NAMESPACE_OID, " ".join(own))),
        "annotation_ids": sorted(member.key["annotation_id"] for member in thing.members),
        "mask": encode_rle(patch.mask(thing)),
        "votes": thing.votes,
        "looked": thing.n_looked,
        "class_probability": round(thing.choice.probability, 6),
        "class_tie": thing.choice.tie,
    }


def adjudicated_lines(labelled: Labelled) -> Lines:
    """What reviewers settled. A class that a review looked at and left empty is a line without objects.

    Every rater whose work was looked at is a member, and through the review whoever settled it: none of them
    is ever scored against it.
    """
    lines, members = [], []
    for settled in labelled.reviews:
        review = settled.review
        for class_id in sorted({source["class_id"] for source in settled.sources}):
            mine = [source for source in settled.sources if source["class_id"] == class_id]
            found = [thing for thing in settled.objects if thing["class_id"] == class_id]
            claim = {"patch_id": review["patch_id"], "class_id": class_id}
            objects = [_settled_object(thing) for thing in found]
            told = {"review": review["id"], "version": review["version"], "is_gold": bool(review["is_gold"])}
            people = sorted({source["person_id"] for source in mine})
            lines.append(labelled.line(claim, **told, people=people, objects=objects))
            for source in mine:
                own = source["assignment_id"]
                used = [row for thing in found for key, _, row in thing["sources"] if key == own]
                members += [
                    {**member, "review_id": review["id"]}
                    for member in _members({**claim, "assignment_id": own}, used)
                ]
    return lines, members


def _settled_object(thing: Mapping[str, Any]) -> dict[str, Any]:
    mask = Mask.from_row(thing)
    return {
        "object_id": thing["cluster_id"],
        "annotation_ids": sorted(row for _, _, row in thing["sources"]),
        "decision": thing["kind"] or "unanimous",
        "mask": mask.as_rle(),
    }
