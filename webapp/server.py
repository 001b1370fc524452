"""The ASGI application: the gate before everything, sign-in, own routes, and Streamlit behind them.

Start it with `python -m webapp`; `uvicorn webapp.server:app` serves the study named by ALLINSAM_STUDY.
"""

import gc
import importlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from allinsam.accounts import DEFAULT_SETTINGS, AccountSettings
from allinsam.errors import AllinsamError
from allinsam.store.study import get_study
from webapp import (
    agreement_routes,
    audit_routes,
    card_routes,
    desk_routes,
    export_routes,
    guide_routes,
    image_routes,
    import_routes,
    minutes_routes,
    review_routes,
    run_routes,
)
from webapp.account_page import account_routes
from webapp.gate import Gate
from webapp.request_log import RequestLog, log_of_served_study, stop_log
from webapp.session import study_from_environment
from webapp.sign_in import Checks, sign_in_routes
from webapp.watching import flush_all

WEBAPP = Path(__file__).resolve().parent

# What the pages will import. Loaded before the first visitor and before the freeze below.
HEAVY = ("torch", "cv2", "pandas", "plotly.express", "skimage.measure", "scipy.stats")


@asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[None]:
    """Streamlit collects garbage after every run of a script; frozen, the imports are not searched.

    That took 77 of 84 ms of each interaction.
    """
    for module in HEAVY:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    # Streamlit switches these on; an access log would keep the one-time links that set passwords.
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    log_of_served_study()
    yield
    flush_all()
    stop_log()


def health(request: Request) -> Response:
    """Whether the server runs and can read its study. Says nothing else: strangers may ask."""
    try:
        with study_from_environment().science.read() as db:
            get_study(db)
    except (AllinsamError, OSError):
        return JSONResponse({"status": "study not readable"}, status_code=503)
    return JSONResponse({"status": "ok"})


def own_routes(settings: AccountSettings = DEFAULT_SETTINGS) -> list[BaseRoute]:
    """Everything that is answered by this app itself, not by Streamlit."""
    checks = Checks()
    return [
        *sign_in_routes(settings, checks),
        *account_routes(settings, checks),
        Route("/api/health", health),
        Mount("/assets", StaticFiles(directory=WEBAPP / "assets")),
        *image_routes.routes,
        *guide_routes.routes,
        *card_routes.routes,
        *desk_routes.routes,
        *review_routes.routes,
        *export_routes.routes,
        *agreement_routes.routes,
        *minutes_routes.routes,
        *import_routes.routes,
        *run_routes.routes,
        *audit_routes.routes,
    ]


def create_app(settings: AccountSettings = DEFAULT_SETTINGS) -> st.App:
    """The whole application. Streamlit allows one per process."""
    middleware = [Middleware(RequestLog), Middleware(Gate)]
    return st.App(WEBAPP / "app.py", lifespan=lifespan, routes=own_routes(settings), middleware=middleware)


app = create_app()
