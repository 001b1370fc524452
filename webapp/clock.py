"""Times as the person's own clock shows them."""

from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st


def local_moment(stamp: str) -> datetime:
    """A UTC stamp of the store in the browser's time zone; in UTC where the browser names none."""
    moment = datetime.fromisoformat(stamp)
    try:
        return moment.astimezone(ZoneInfo(st.context.timezone or "UTC"))
    except (ZoneInfoNotFoundError, ValueError):
        return moment


def local_time(stamp: str) -> str:
    """Hours, minutes and seconds."""
    return f"{local_moment(stamp):%H:%M:%S}"


def local_date_time(stamp: str) -> str:
    return f"{local_moment(stamp):%Y-%m-%d %H:%M}"
