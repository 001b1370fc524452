"""Gold for the drawn nuclei of a small study, and a practice patch with three planted mistakes."""

from allinsam.masks import encode_rle
from allinsam.store import Study, assignments
from allinsam.store import study as study_rows
from allinsam.workflow.annotating import ActLog, record_acts
from tests.studies import MESANGIAL, PODOCYTES, UNMARKED, disc

TRUTH = "p-truth"
# What a student draws, with the class they take it for: the third podocyte is missed.
DRAWN = (
    *((centre, 1) for n, centre in enumerate(PODOCYTES) if n != 2),
    (UNMARKED[0], 1),
    *((centre, 2) for centre in MESANGIAL[1:]),
    (MESANGIAL[0], 1),
)
PLANTED = {("missed", PODOCYTES[2]), ("extra", UNMARKED[0]), ("wrong_class", MESANGIAL[0])}


def add_gold(study: Study, patch_id: int) -> int:
    """The drawn nuclei as gold of both classes; returns the assignment's id."""
    with study.science.write() as db:
        if TRUTH not in {row["id"] for row in study_rows.list_people(db)}:
            study_rows.add_person(db, TRUTH, "truth")
        gold = assignments.add_assignment(db, TRUTH, patch_id, [1, 2], purpose="gold", tool="contour")
    log = ActLog(f"import-{patch_id}", "import")
    acts = [log.act("load", 0.0)]
    for class_id, centres in ((1, PODOCYTES), (2, MESANGIAL)):
        for centre in centres:
            outlined = {"class_id": class_id, "mask": encode_rle(disc(centre)), "origin": "imported"}
            acts.append(log.act("mask_edit", 0.0, f"gold-{patch_id}-{centre}", tool="drawn", **outlined))
            acts.append(log.act("accept", 0.0, f"gold-{patch_id}-{centre}"))
    acts.append(log.act("submit", 0.0, classes={"1": "complete", "2": "complete"}))
    record_acts(study, gold, TRUTH, acts)
    return gold
