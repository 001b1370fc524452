"""The log as a file, for the lead. By URL."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from allinsam.accounts import demand
from allinsam.tables import to_csv
from allinsam.workflow.audit_log import audit_table
from webapp.export_routes import answering_errors, attachment
from webapp.session import study_from_environment
from webapp.watching import record, watch_of


@answering_errors
def audit_route(request: Request) -> Response:
    """GET /api/audit.csv?person=...&action=...&day=2026-11-24: what is asked for, the newest first."""
    demand(request.state.person, "view_audit")
    study, query = study_from_environment(), request.query_params
    watch_of(study).flush()
    table = audit_table(study, *(query.get(name) for name in ("person", "action", "day")))
    record(study, request, "export_audit", "audit.csv", f"{len(table)} events")
    return attachment(study, "audit", "csv", to_csv(table).decode())


routes: list[Route] = [Route("/api/audit.csv", audit_route)]
