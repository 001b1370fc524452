import json
import re

import pytest

from allinsam.__main__ import main
from allinsam.store import Study, create_study, images, learning
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.workflow.analysis_plan import margin, margin_sentence, set_margin
from allinsam.workflow.data_card import card_markdown, data_card, methods_paragraph
from tests.finished import finished_study


@pytest.fixture
def study(tmp_path) -> Study:
    return finished_study(tmp_path / "study")


def test_the_card_counts_what_the_study_holds(study: Study) -> None:
    card = data_card(study)
    assert card["images"]["patches_by_condition"] == {"injured": 4, "normal": 4}
    assert card["images"]["um_per_px"] == {"low": 0.5, "high": 0.5}
    assert card["work"]["assignments"] == [
        {"purpose": "production", "guidance": "threshold", "tool": "box_sam", "n": 32, "handed_in": 24}
    ]
    # The expert finds 4 podocytes and 3 mesangial cells on each of 8 patches, each student one fewer of one.
    kept = {(row["group"], row["class_name"]): row["n"] for row in card["work"]["nuclei"]}
    assert kept == {
        ("expert", "podocyte"): 32,
        ("expert", "mesangial"): 24,
        ("student", "podocyte"): 24 + 32,
        ("student", "mesangial"): 24 + 16,
    }
    assert card["left_out"]["assignments_unfinished"] == 8
    assert [run["labels"] for run in card["runs"]] == ["expert", "students"]
    json.dumps(card, allow_nan=False)


def test_the_paragraph_says_what_happened_and_nothing_else(study: Study) -> None:
    before = methods_paragraph(data_card(study))
    assert "8 patches (4 injured, 4 normal) of 4 slides were annotated at 0.5 µm per pixel." in before
    assert "2 experts and 3 students took part." in before and "agreed to" not in before
    assert "24 of 32 assignments were handed in" in before and "Left out: 8 unfinished assignments." in before
    assert "All-in-SAM was trained on labels of experts" in before.replace(
        "labels of expert ", "labels of experts "
    )
    assert "suggestions" not in before and "withdrew" not in before
    with study.science.write() as db:
        learning.add_consent(db, "s1", 1, "0" * 64, True)
        learning.add_consent(db, "s2", 1, "0" * 64, False)
        first = queue.list_assignments(db, "s2")[0]
        db["assignment"].update(first["id"], {"guidance": "suggestion"})
        patch = images.list_patches(db)[0]
        db["patch"].update(patch["id"], {"um_per_px": 0.25})
        study_store.change_study(db, None, name="<b>Kidney</b>")
    after = methods_paragraph(data_card(study))
    assert "took part, of whom 1 agreed to the study's consent text." in after
    assert "leave out 1 assignment that began from suggestions." in after
    assert "at 0.25 to 0.5 µm per pixel" in after


def test_every_number_of_the_paragraph_stands_in_the_card(study: Study) -> None:
    card = data_card(study)
    facts = json.dumps(card) + " ".join(card["splits"])
    for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)*", methods_paragraph(card).replace(",", "")):
        assert number in facts, number


def test_the_margin_is_the_plans_with_its_date(study: Study) -> None:
    before = data_card(study)
    assert before["analysis"]["margin"]["is_default"]
    set_margin(study, None, 0.08)
    after = data_card(study)
    assert after["analysis"]["margin"] == vars(margin(study)) and after["analysis"]["margin"]["after_results"]
    assert margin_sentence(margin(study)) in methods_paragraph(after)
    assert "it may have been chosen to fit them" in methods_paragraph(after)


def test_the_document_lists_every_part_of_the_card(study: Study) -> None:
    card = data_card(study)
    text = card_markdown(card)
    assert text.startswith("# Small study\n") and methods_paragraph(card) in text
    for part in card:
        assert f"## {part.replace('_', ' ').capitalize()}" in text


def test_an_empty_study_has_a_card(tmp_path) -> None:
    card = data_card(create_study(tmp_path / "empty", "New", "compact", "0" * 64))
    assert card["images"]["patches"] == 0 and "0 patches" in methods_paragraph(card)


def test_the_command_writes_the_document(study: Study, tmp_path, capsys) -> None:
    out = tmp_path / "card.md"
    assert main(["data-card", "--study", str(study.folder), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["methods"] in out.read_text(encoding="utf-8")
