"""Annotations of a study to files and back, by the library and by the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from allinsam.__main__ import main
from allinsam.errors import InputError, NotFoundError
from allinsam.interchange import AnnotationSet
from allinsam.store import Study
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_rows
from allinsam.workflow import exports, interchange, labels, work_times
from allinsam.workflow.annotating import ActLog, append_acts, assignment_state
from allinsam.workflow.checking import verify
from allinsam.workflow.desk import Desk
from allinsam.workflow.interchange import (
    NOBODYS_GOLD,
    ImportChoices,
    import_annotations,
    import_annotations_of_all,
    preview_annotations_of_all,
)
from tests.interchange_sets import dump, thing, write_to
from tests.studies import LEAD, MESANGIAL, PERSON, PODOCYTES, SIZE_PX, disc, small_study

PATCH = "slide-1-p1"
SIZE = (SIZE_PX, SIZE_PX)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three podocytes and a mesangial cell, as QuPath has them."""
    objects = [thing(disc(centre)) for centre in PODOCYTES[:3]] + [
        thing(disc(MESANGIAL[0]), "mesangial", "m 1")
    ]
    return write_to(tmp_path, AnnotationSet("given", SIZE, tuple(objects)), "qupath")


def rows_of(study: Study, assignment_id: int) -> list[dict]:
    with study.science.read() as db:
        return act_store.current_annotations(db, assignment_id)


# ---------------------------------------------------------------- import


def test_gold_is_accepted_submitted_and_nobodys_work(study: Study, file: Path) -> None:
    done = import_annotations(study, file, PATCH, "qupath", ImportChoices("gold"))
    assert done["objects"] == 4 and done["classes"] == {"podocyte": 3, "mesangial": 1}
    assert done["notes"] == [interchange.SCORED_AGAINST]
    rows = rows_of(study, done["assignment"])
    ids = [feature["id"] for feature in json.loads(file.read_text())["features"]]
    assert {row["origin"] for row in rows} == {"imported"}
    assert {row["object_id"] for row in rows if row["class_name"] == "podocyte"} == set(ids[:3])
    assert {(r["person_id"], r["group"], r["purpose"]) for r in rows} == {(NOBODYS_GOLD, "truth", "gold")}
    assert {row["molecular_support"] for row in rows} == {1.0}  # measured here: every disc is bright
    with study.science.read() as db:
        assert queue.get_assignment(db, done["assignment"])["state"] == "submitted"
        acts = act_store.list_acts(db, done["assignment"])
    assert acts[0].payload["source"]["name"] == file.name and acts[0].payload["source"]["format"] == "qupath"
    assert {act.surface for act in acts} == {"import"}
    assert [act.payload["source_id"] for act in acts if act.kind == "mask_edit"][-1] == "m 1"
    assert verify(study)["problems"] == []


def test_gold_is_what_models_are_scored_against(study: Study, file: Path) -> None:
    import_annotations(study, file, PATCH, "qupath", ImportChoices("gold"))
    recipe = labels.reference_recipe(study)
    frozen = labels.read_labels(study, labels.freeze_labels(study, recipe))
    (by_class,) = frozen.values()
    assert by_class["podocyte"].max() == 3 and by_class["mesangial"].max() == 1
    assert np.array_equal(by_class["mesangial"] > 0, disc(MESANGIAL[0]))


def test_a_class_is_empty_only_if_it_was_looked_for(study: Study, tmp_path: Path) -> None:
    only = AnnotationSet("given", SIZE, (thing(disc(PODOCYTES[0])),))
    path = write_to(tmp_path, only, "coco")
    first = import_annotations(study, path, PATCH, "coco", ImportChoices("gold", LEAD))
    both = ImportChoices("gold", complete=("mesangial",))
    second = import_annotations(study, path, PATCH, "coco", both)
    with study.science.read() as db:
        assert queue.assignment_classes(db, first["assignment"]) == {1: "complete"}
        assert queue.assignment_classes(db, second["assignment"]) == {1: "complete", 2: "nothing_here"}


def test_a_prior_waits_to_be_checked_and_is_not_trained_on(study: Study, file: Path) -> None:
    done = import_annotations(study, file, "slide-2-p1", "qupath", ImportChoices("prior", LEAD))
    assert rows_of(study, done["assignment"]) == []
    state = assignment_state(study, done["assignment"])
    assert len(state.proposed()) == 4 and not state.submitted
    desk = Desk(study, done["assignment"], LEAD, ActLog("page", "test"))
    assert len(desk.acceptable()) == 4
    first, *others = desk.acceptable()
    desk.accept(others)
    desk.reject(first)
    desk.submit()
    assert {row["origin"] for row in rows_of(study, done["assignment"])} == {"imported"}
    assert verify(study)["problems"] == []
    with pytest.raises(InputError, match="No finished patch matches"):
        labels.freeze_labels(study, labels.LabelRecipe(group="expert"))


def test_what_came_as_a_file_takes_nobodys_time(study: Study, file: Path) -> None:
    import_annotations(study, file, PATCH, "qupath", ImportChoices("gold", LEAD))
    by_patch, by_object = work_times.work_times(study)
    assert by_patch.empty and by_object.empty


def test_classes_are_renamed_and_named(study: Study, tmp_path: Path) -> None:
    objects = (thing(disc(PODOCYTES[0]), "WT1+"), thing(disc(MESANGIAL[0]), "gone"))
    path = write_to(tmp_path, AnnotationSet("a", SIZE, objects), "qupath")
    content = json.loads(path.read_text())
    del content["features"][1]["properties"]["classification"]
    path.write_text(json.dumps(content))
    choices = ImportChoices("gold", class_name="mesangial", renames={"WT1+": "podocyte"})
    done = import_annotations(study, path, PATCH, "qupath", choices)
    assert done["classes"] == {"podocyte": 1, "mesangial": 1}


@pytest.mark.parametrize(
    ("patch", "choices", "message"),
    [
        ("p9", ImportChoices("gold"), "No patch 'p9' in this study. It has slide-1-p1, slide-2-p1"),
        (PATCH, ImportChoices("truth"), "Unknown purpose 'truth'. Choose 'gold' or 'prior'"),
        (PATCH, ImportChoices("prior"), "needs the person who is to check it"),
        (
            PATCH,
            ImportChoices("prior", PERSON),
            "'p-student' has a place in the queue for patch 'slide-1-p1'",
        ),
        (PATCH, ImportChoices("gold", "nobody"), "No person 'nobody'"),
        (PATCH, ImportChoices("gold", "sim"), "'sim' is simulated or has withdrawn"),
        (PATCH, ImportChoices("gold", complete=("tubule",)), "Class 'tubule' is not in this study"),
        (
            PATCH,
            ImportChoices("gold", class_name="x"),
            "Class 'x' is not in this study. Choose from mesangial",
        ),
        (PATCH, ImportChoices("gold", renames={"podocyte": "x"}), "Class 'x' is not in this study"),
        (PATCH, ImportChoices("gold", renames={"x": "podocyte"}), "has no class 'x' to rename"),
    ],
)
def test_choices_that_cannot_be_met(
    patch: str, choices: ImportChoices, message: str, study: Study, file: Path
) -> None:
    with study.science.write() as db:
        study_rows.add_person(db, "sim", "expert", simulated=True)
    before = dump(study)
    with pytest.raises((InputError, NotFoundError), match=message):
        import_annotations(study, file, patch, "qupath", choices)
    assert dump(study) == before


def test_the_same_gold_is_not_taken_twice(study: Study, file: Path) -> None:
    import_annotations(study, file, PATCH, "qupath", ImportChoices("gold"))
    before = dump(study)
    with pytest.raises(InputError, match="has gold for patch 'slide-1-p1' already"):
        import_annotations(study, file, PATCH, "qupath", ImportChoices("gold"))
    assert dump(study) == before


def test_more_than_one_import_can_hold_is_refused(
    study: Study, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interchange, "MOST_IMPORTED", 3)
    before = dump(study)
    with pytest.raises(InputError, match="4 objects; 3 can be imported at once"):
        import_annotations(study, file, PATCH, "qupath", ImportChoices("gold"))
    assert dump(study) == before


def test_nothing_stays_where_an_act_is_refused(
    study: Study, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the person nor the assignment nor the acts before the one that fails."""

    def fail_late(db, assignment, acts, held):
        append_acts(db, assignment, acts[:-1], held)
        assert act_store.list_acts(db, assignment["id"])
        raise InputError("the last act fails.")

    monkeypatch.setattr(interchange, "append_acts", fail_late)
    before = dump(study)
    with pytest.raises(InputError, match="the last act fails"):
        import_annotations(study, file, PATCH, "qupath", ImportChoices("gold"))
    assert dump(study) == before


# ---------------------------------------------------------------- command line


def test_the_command_line_takes_in_and_gives_out(
    study: Study, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    where = ["--study", str(study.folder), "--json"]
    given = [
        "import-annotations",
        str(file),
        "--format",
        "qupath",
        "--patch",
        PATCH,
        "--purpose",
        "gold",
        *where,
    ]
    assert main(given) == 0
    assert json.loads(capsys.readouterr().out)["objects"] == 4
    out = ["export-annotations", "--format", "coco", "--out", str(tmp_path / "out"), "--person", NOBODYS_GOLD]
    assert main([*out, "--class", "podocyte", *where]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["files"][0].endswith("slide-1-p1_imported-truth_gold.json") and said["leaves_out"]
    assert len(json.loads(Path(said["files"][0]).read_text())["annotations"]) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--format", "svg"], "Unknown format 'svg'"),
        (["--format", "qupath", "--rename", "a"], "--rename 'a' is not OLD=NEW"),
        (["--format", "qupath", "--rename", "mesangial=x"], "Class 'x' is not in this study"),
        (["--format", "coco"], "no list of images"),
    ],
)
def test_the_command_line_refuses_in_one_line(
    more: list[str], message: str, study: Study, file: Path, capsys: pytest.CaptureFixture
) -> None:
    given = [
        "import-annotations",
        str(file),
        "--patch",
        PATCH,
        "--purpose",
        "gold",
        "--study",
        str(study.folder),
    ]
    before = dump(study)
    assert main([*given, *more]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out
    assert dump(study) == before


def test_two_files_that_count_from_1_do_not_meet(study: Study, tmp_path: Path) -> None:
    """An id that is no UUID becomes one."""
    masks = [disc(centre) for centre in PODOCYTES]
    whole = AnnotationSet("a", SIZE, tuple(thing(m, "podocyte", str(n)) for n, m in enumerate(masks)))
    for patch in (PATCH, "slide-2-p1"):
        path = write_to(tmp_path, whole, "coco")
        done = import_annotations(study, path, patch, "coco", ImportChoices("gold"))
        assert len(rows_of(study, done["assignment"])) == 4
    ids = exports.objects_table(study)["object_id"]
    assert ids.nunique() == 8


# ---------------------------------------------------------------- every patch of a file


OTHER = "slide-2-p1"


def file_of_two(folder: Path, format: str, *names: str) -> Path:
    """Three podocytes of the first patch and two of each further one, in one file."""
    parts = []
    for number, name in enumerate(names):
        objects = tuple(thing(disc(centre)) for centre in PODOCYTES[: 3 if number == 0 else 2])
        path = write_to(folder, AnnotationSet(name, SIZE, objects), format)
        parts.append(path.read_text())
    joined = folder / f"all{path.suffix}"
    if format == "csv":
        joined.write_text("".join([parts[0], *(part.split("\n", 1)[1] for part in parts[1:])]))
        return joined
    whole = json.loads(parts[0])
    for number, part in enumerate(map(json.loads, parts[1:]), 2):
        whole["images"].append({**part["images"][0], "id": number})
        for row in part["annotations"]:
            whole["annotations"].append({**row, "id": row["id"] + 100 * number, "image_id": number})
    joined.write_text(json.dumps(whole))
    return joined


@pytest.mark.parametrize("format", ["coco", "csv"])
def test_a_file_of_several_patches_comes_in_at_once(study: Study, tmp_path: Path, format: str) -> None:
    path = file_of_two(tmp_path, format, PATCH, OTHER, "elsewhere")
    seen = preview_annotations_of_all(study, path, format)
    assert (seen["patches"], seen["objects"]) == ([PATCH, OTHER], 5)
    assert seen["classes"] == {"podocyte": 5}
    assert "Not in this study and left out: elsewhere." in seen["notes"]
    done = import_annotations_of_all(study, path, format, ImportChoices("gold"))
    assert (done["patches"], done["objects"], done["classes"]) == ([PATCH, OTHER], 5, {"podocyte": 5})
    assert [len(rows_of(study, number)) for number in done["assignments"]] == [3, 2]
    assert verify(study)["problems"] == []


def test_all_patches_or_none(study: Study, tmp_path: Path, file: Path) -> None:
    import_annotations(study, file, OTHER, "qupath", ImportChoices("gold"))
    path = file_of_two(tmp_path, "coco", PATCH, OTHER)
    before = dump(study)
    with pytest.raises(InputError, match=f"has gold for patch '{OTHER}' already"):
        import_annotations_of_all(study, path, "coco", ImportChoices("gold"))
    whole = json.loads(path.read_text())
    whole["annotations"][-1]["segmentation"] = []
    path.write_text(json.dumps(whole))
    with pytest.raises(InputError, match="has no segmentation"):
        import_annotations_of_all(study, path, "coco", ImportChoices("gold", person_id=LEAD))
    assert dump(study) == before


def test_classes_of_several_patches_are_renamed(study: Study, tmp_path: Path) -> None:
    path = file_of_two(tmp_path, "csv", PATCH, OTHER)
    path.write_text(path.read_text().replace("podocyte", "Podo"))
    choices = ImportChoices("gold", renames={"Podo": "podocyte"})
    assert import_annotations_of_all(study, path, "csv", choices)["classes"] == {"podocyte": 5}
    wrong = ImportChoices("gold", renames={"Mes": "mesangial"})
    with pytest.raises(InputError, match="has no class 'Mes' to rename"):
        import_annotations_of_all(study, path, "csv", wrong)


def test_a_file_that_names_no_patch_of_the_study(study: Study, tmp_path: Path, file: Path) -> None:
    with pytest.raises(InputError, match="format 'qupath' holds one patch"):
        preview_annotations_of_all(study, file, "qupath")
    with pytest.raises(InputError, match="names elsewhere, none of this study: slide-1-p1"):
        preview_annotations_of_all(study, file_of_two(tmp_path, "coco", "elsewhere"), "coco")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(InputError, match="has no list of images"):
        preview_annotations_of_all(study, tmp_path / "a.json", "coco")


def test_the_command_takes_every_patch(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file_of_two(tmp_path, "coco", PATCH, OTHER)
    where = ["import-annotations", str(path), "--study", str(study.folder), "--format", "coco", "--json"]
    assert main([*where, "--purpose", "gold"]) == 2
    assert "Name the patch" in capsys.readouterr().err
    assert main([*where, "--purpose", "gold", "--all"]) == 0
    assert json.loads(capsys.readouterr().out)["patches"] == [PATCH, OTHER]
