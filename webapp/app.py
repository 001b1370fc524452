"""The entry script: which pages a role sees, and what stands above every page."""

import html
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # Streamlit puts only this script's folder there.
    sys.path.insert(0, str(ROOT))

import streamlit as st  # noqa: E402

from allinsam.accounts import SignedIn  # noqa: E402
from allinsam.store import Study  # noqa: E402
from allinsam.store.study import get_study  # noqa: E402
from webapp.session import current_person, current_study  # noqa: E402

EVERYONE = ("lead", "reviewer", "annotator")
REVIEWING = ("lead", "reviewer")

# File in pages/, title, roles that see it. Each page asks for the role again: a URL can be typed.
PAGES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("home", "Home", EVERYONE),
    ("annotate", "Annotate", EVERYONE),
    ("thresholds", "Thresholds", REVIEWING),
    ("train", "Train", ("lead",)),
    ("compare", "Compare", REVIEWING),
    ("agreement", "Agreement", REVIEWING),
    ("export", "Export", ("lead",)),
    ("people", "People", ("lead",)),
)


def pages_for(role: str) -> list[st.Page]:
    return [
        st.Page(ROOT / "pages" / f"{name}.py", title=title, default=name == "home")
        for name, title, roles in PAGES
        if role in roles and (ROOT / "pages" / f"{name}.py").exists()
    ]


def show_bar(person: SignedIn, study: Study) -> None:
    """Who is signed in, what kind of data this is, and the way out, at the right of the top bar."""
    with study.science.read() as db:
        simulated = get_study(db)["simulated"]
    badge = '<span class="bar-simulated">Simulated data</span>' if simulated else ""
    st.html(
        f"""{BAR_STYLE}<div class="bar">{badge}
        <span class="bar-who">{html.escape(person.name)} · {html.escape(person.role)}</span>
        <form method="post" action="/sign-out"><button type="submit">Sign out</button></form></div>"""
    )


# Streamlit offers no place in its top bar for own elements; the bar is fixed over its right end.
BAR_STYLE = """<style>
.bar { position: fixed; top: 0; right: 1rem; height: 3.75rem; z-index: 1000000; display: flex;
       align-items: center; gap: .75rem; font-size: .875rem; color: #3c5157; }
.bar-simulated { background: #fff3d6; color: #6b4700; border: 1px solid #e8cd8c; border-radius: 1rem;
       padding: .15rem .6rem; font-weight: 600; white-space: nowrap; }
.bar-who { white-space: nowrap; max-width: 14rem; overflow: hidden; text-overflow: ellipsis; }
.bar button { font: inherit; color: #0d6b7a; background: #fff; border: 1px solid #b9cdd1;
       border-radius: .35rem; padding: .25rem .7rem; cursor: pointer; }
.bar button:hover, .bar button:focus-visible { background: #eef3f4; border-color: #0d6b7a; }
@media (max-width: 40rem) { .bar-who { display: none; } }
</style>"""


ICON = str(ROOT / "webapp" / "assets" / "icon.png")

st.set_page_config(page_title="allinsam", page_icon=ICON, layout="wide")
st.logo(ICON, size="large")
signed_in_person = current_person()
chosen = st.navigation(pages_for(signed_in_person.role), position="top")
show_bar(signed_in_person, current_study())
chosen.run()
