"""What every page asks first: which study this server serves, and who is looking."""

import os
from functools import lru_cache
from pathlib import Path

import streamlit as st

from allinsam.accounts import SignedIn, signed_in
from allinsam.errors import AllinsamError, InputError
from allinsam.store import Study, open_study
from webapp.address import COOKIE, SECURE_COOKIE

STUDY_VARIABLE = "ALLINSAM_STUDY"
INBOX_VARIABLE = "ALLINSAM_INBOX"
UPLOAD_VARIABLE = "ALLINSAM_UPLOAD_MB"
UPLOAD_MB = 50.0


def study_from_environment() -> Study:
    """The one study this process serves. For routes; pages use `current_study`."""
    folder = os.environ.get(STUDY_VARIABLE)
    if not folder:
        raise InputError(
            f"{STUDY_VARIABLE} names no study. Start the app with `python -m webapp --study FOLDER`."
        )
    return _opened(folder)


@lru_cache(maxsize=8)
def _opened(folder: str) -> Study:
    """Opening checks the schema, which need not be done for every request."""
    return open_study(Path(folder))


def inbox_folder() -> Path | None:
    """The folder whose images and slides the lead may import; None where the server was given none."""
    folder = os.environ.get(INBOX_VARIABLE)
    path = Path(folder).resolve() if folder else None
    return path if path and path.is_dir() else None


def upload_limit_mb() -> float:
    """How large a file may be that a browser sends."""
    return float(os.environ.get(UPLOAD_VARIABLE) or UPLOAD_MB)


def current_study() -> Study:
    """The study, or its error on the page and the end of the script."""
    try:
        return study_from_environment()
    except AllinsamError as error:
        st.error(str(error))
        st.stop()


def current_person() -> SignedIn:
    """Who is signed in, checked anew in every run of the script; without one the page ends here.

    The gate lets nobody this far without a sign-in. This check also ends a page whose sign-in has
    ended while it was open, and a server that was started without the gate.
    """
    person = signed_in(current_study(), _cookie_token())
    if person is None:
        st.error("You are not signed in, or your sign-in has ended.")
        st.html('<a href="/sign-in" target="_self">Sign in again</a>')
        st.stop()
    return person


def require(*roles: str) -> SignedIn:
    """The signed-in person if their role is one of these; else an explanation and the end of the page."""
    person = current_person()
    if person.role not in roles:
        st.error(f"This page is for {' and '.join(roles)}; you are signed in as {person.role}.")
        st.stop()
    return person


def _cookie_token() -> str | None:
    # The gate has seen to it that over TLS there is none but the secure one.
    return st.context.cookies.get(SECURE_COOKIE) or st.context.cookies.get(COOKIE)
