"""Downloads of tables, annotations, cards and the report, and pictures of what a model found. By URL."""

import json
import re
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from allinsam.accounts import demand
from allinsam.errors import AllinsamError, NotFoundError
from allinsam.store import Study, runs
from allinsam.store.study import get_study, list_classes
from allinsam.tables import csv_parts, to_csv
from allinsam.workflow.data_card import card_markdown, data_card
from allinsam.workflow.exports import export_table, named_people_table
from allinsam.workflow.figures import figures_table
from allinsam.workflow.grouping import Grouping, grouped
from allinsam.workflow.interchange_export import write_annotations_zip
from allinsam.workflow.overlapping import AT_ONCE
from allinsam.workflow.report import kept_report
from allinsam.workflow.scored import scored_patch
from webapp.image_routes import refusal
from webapp.outlines import found_and_reference
from webapp.session import study_from_environment
from webapp.watching import record, saw_patch

KEPT_IN_MEMORY_BYTES = 16_000_000
TEXT_TYPES = {"md": "text/markdown", "json": "application/json", "html": "text/html", "csv": "text/csv"}

Answer = Callable[[Request], Response]


def answering_errors(route: Answer) -> Answer:
    """Says in words, with the right status, why a request was refused."""

    def answer(request: Request) -> Response:
        try:
            return route(request)
        except AllinsamError as error:
            return refusal(error)

    return answer


@answering_errors
def table_route(request: Request) -> Response:
    """GET /api/export/{table}.csv; people.csv?names=1 has sign-in names as well"""
    demand(request.state.person, "export")
    study = study_from_environment()
    name = request.path_params["table"]
    if name == "people" and request.query_params.get("names") == "1":
        demand(request.state.person, "manage_people")
        content = to_csv(named_people_table(study)).decode()
        record(study, request, "export_names", "people.csv")
        return attachment(study, "people_with_names", "csv", content)
    if name == "figures":
        kept = kept_report(study)
        if kept and kept.is_current:
            record(study, request, "export_table", f"{name}.csv")
            return attachment(study, name, "csv", kept.figures.read_text("utf-8"))
        parts = csv_parts(figures_table(study, AT_ONCE))
    else:
        parts = csv_parts(export_table(study, name))
    record(study, request, "export_table", f"{name}.csv")
    headers = {"Content-Disposition": f'attachment; filename="{file_name(study, name)}"'}
    return StreamingResponse(parts, media_type="text/csv; charset=utf-8", headers=headers)


@answering_errors
def grouped_route(request: Request) -> Response:
    """GET /api/export/grouped.csv?rows=labels&columns=class,condition&metric=f1_instance&of=side_by_side"""
    demand(request.state.person, "export")
    study, query = study_from_environment(), request.query_params
    rows, columns = (tuple(filter(None, query.get(key, "").split(","))) for key in ("rows", "columns"))
    asked = Grouping(rows, columns, query.get("metric", "f1_instance"), query.get("of", "side_by_side"))
    headers = {"Content-Disposition": f'attachment; filename="{file_name(study, "grouped")}"'}
    content = to_csv(grouped(study, asked))
    record(study, request, "export_table", "grouped.csv")
    return Response(content, media_type="text/csv; charset=utf-8", headers=headers)


@answering_errors
def annotations_route(request: Request) -> Response:
    """GET /api/export/annotations/{format}.zip"""
    demand(request.state.person, "export")
    study = study_from_environment()
    format = request.path_params["format"]
    # Made in full first: what cannot be written is said in words, not by a broken download.
    file = tempfile.SpooledTemporaryFile(max_size=KEPT_IN_MEMORY_BYTES)
    write_annotations_zip(study, file, format)
    file.seek(0)
    name = file_name(study, f"annotations-{format}", "zip")
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    parts = iter(lambda: file.read(1 << 16), b"")
    record(study, request, "export_annotations", format)
    return StreamingResponse(parts, media_type="application/zip", headers=headers)


@answering_errors
def card_route(request: Request) -> Response:
    """GET /api/export/data_card.md or .json: what a paper has to say about the study."""
    demand(request.state.person, "export")
    study, suffix = study_from_environment(), request.path_params["suffix"]
    answer = card_file(study, "data_card", suffix, lambda: data_card(study), card_markdown)
    record(study, request, "export_data_card", f"data_card.{suffix}")
    return answer


@answering_errors
def report_route(request: Request) -> Response:
    """GET /api/export/report.html: the newest one that was made."""
    demand(request.state.person, "export")
    study = study_from_environment()
    kept = kept_report(study)
    if kept is None:
        raise NotFoundError('There is no report yet. Press "Make the report" on the Export page.')
    record(study, request, "export_report", "report.html")
    return attachment(study, "report", "html", kept.page.read_text("utf-8"))


@answering_errors
def picture_route(request: Request) -> Response:
    """GET /api/runs/{run}/patches/{patch}/{class}.png: found solid, reference dashed."""
    demand(request.state.person, "compare")
    study = study_from_environment()
    keys = [request.path_params[key] for key in ("run", "patch", "class_name")]
    with study.science.read() as db:
        state = runs.last_score(db)
    picture = _picture(study, *keys, state)
    saw_patch(study, request, keys[1])
    headers = {"Cache-Control": "private, no-store", "Vary": "Cookie"}
    return Response(picture, media_type="image/png", headers=headers)


routes: list[Route] = [
    Route("/api/export/grouped.csv", grouped_route),
    Route("/api/export/{table}.csv", table_route),
    Route("/api/export/report.html", report_route),
    Route("/api/export/data_card.{suffix}", card_route),
    Route("/api/export/annotations/{format}.zip", annotations_route),
    Route("/api/runs/{run:int}/patches/{patch:int}/{class_name}.png", picture_route),
]


def card_file(
    study: Study,
    name: str,
    suffix: str,
    card: Callable[[], dict[str, Any]],
    markdown: Callable[[dict[str, Any]], str],
) -> Response:
    """A card as md, to read, or as json. NotFoundError for any other ending, before the card is made."""
    forms = {"md": markdown, "json": lambda made: json.dumps(made, indent=1, ensure_ascii=False)}
    if suffix not in forms:
        raise NotFoundError(f"A card comes as {' or '.join(forms)}, not as {suffix[:20]!r}.")
    return attachment(study, name, suffix, forms[suffix](card()))


def attachment(study: Study, name: str, suffix: str, text: str) -> Response:
    """A file for the person to keep."""
    headers = {
        "Content-Disposition": f'attachment; filename="{file_name(study, name, suffix)}"',
        "Cache-Control": "private, no-store",
    }
    return Response(text, media_type=f"{TEXT_TYPES[suffix]}; charset=utf-8", headers=headers)


def file_name(study: Study, table: str, suffix: str = "csv") -> str:
    """`demo_objects_2026-11-23.csv`: plain ASCII whatever the study is called."""
    with study.science.read() as db:
        name = get_study(db)["name"]
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "study"
    return f"{plain}_{table}_{datetime.now(UTC):%Y-%m-%d}.{suffix}"


@lru_cache(maxsize=48)
def _picture(study: Study, run_id: int, patch_id: int, class_name: str, state: tuple[int, ...]) -> bytes:
    """`state` stands for the scores: a new evaluation may have found something else."""
    scored = scored_patch(study, run_id, patch_id, class_name)
    with study.science.read() as db:
        colour = next(c["colour"] for c in list_classes(db) if c["name"] == class_name)
    return found_and_reference(scored.image_rgb, scored.found, scored.reference, colour)
