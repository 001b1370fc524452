"""Which pages a role sees, and the bar above every page."""

import html
from pathlib import Path

import streamlit as st

from allinsam.accounts import SignedIn
from allinsam.jobs import demo_is_being_made
from allinsam.store import Study
from allinsam.store.study import get_study

PAGES_FOLDER = Path(__file__).resolve().parents[1] / "pages"

EVERYONE = ("lead", "reviewer", "annotator")
REVIEWING = ("lead", "reviewer")

# File in pages/, title, roles that see it. Each page asks for the role again: a URL can be typed.
PAGES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("home", "Home", EVERYONE),
    ("annotate", "Annotate", EVERYONE),
    ("tour", "Learn", EVERYONE),
    ("minutes", "Ten minutes", REVIEWING),
    ("import", "Import", ("lead",)),
    ("registration", "Registration", REVIEWING),
    ("thresholds", "Thresholds", REVIEWING),
    ("people", "People", ("lead",)),
    ("agreement", "Agreement", REVIEWING),
    ("review", "Review", REVIEWING),
    ("train", "Train", ("lead",)),
    ("compare", "Compare", REVIEWING),
    ("export", "Export", ("lead",)),
    ("audit", "Log", ("lead",)),
    ("status", "Status", ("lead",)),
)


def page_names(role: str) -> list[str]:
    return [name for name, _, roles in PAGES if role in roles]


def pages_for(role: str) -> list[st.Page]:
    """The pages of a role for `st.navigation`; the first is where it starts."""
    return [
        st.Page(PAGES_FOLDER / f"{name}.py", title=title, default=name == "home")
        for name, title, _ in PAGES
        if name in page_names(role)
    ]


def show_bar(person: SignedIn, study: Study) -> None:
    """What kind of data this is, who is signed in, and the way out, at the right of the top bar."""
    with study.science.read() as db:
        simulated = get_study(db)["simulated"]
    badges = '<span class="bar-badge bar-simulated">Simulated data</span>' if simulated else ""
    if demo_is_being_made(study):
        badges += '<span class="bar-badge bar-demo">More slides are being drawn</span>'
    st.html(
        f"""{BAR_STYLE}<div class="bar">{badges}
        <a class="bar-who" href="/account" target="_self" title="Password, sign out everywhere"
        >{html.escape(person.name)} ({html.escape(person.role)})</a>
        <form method="post" action="/sign-out"><button type="submit">Sign out</button></form></div>"""
    )


# Streamlit offers no place in its top bar for own elements; the bar is fixed over its right end.
BAR_STYLE = """<style>
.stMainBlockContainer { padding-left: 2rem; padding-right: 2rem; }
.bar { position: fixed; top: 0; right: 1rem; height: 3.75rem; z-index: 999991; display: flex;
       align-items: center; gap: .75rem; font-size: .875rem; color: #3c5157; }
.bar-badge { border: 1px solid; border-radius: 1rem; padding: .15rem .6rem; font-weight: 600;
       white-space: nowrap; }
.bar-simulated { background: #fff3d6; color: #6b4700; border-color: #e8cd8c; }
.bar-demo { background: #e3f1f3; color: #0a5561; border-color: #a9cfd5; }
.bar a.bar-who { color: inherit; text-decoration: underline dotted; text-underline-offset: .2em; }
.bar-who { white-space: nowrap; max-width: 14rem; overflow: hidden; text-overflow: ellipsis; }
.bar button { font: inherit; color: #0d6b7a; background: #fff; border: 1px solid #b9cdd1;
       border-radius: .35rem; padding: .25rem .7rem; cursor: pointer; }
.bar button:hover, .bar button:focus-visible { background: #eef3f4; border-color: #0d6b7a; }
@media (max-width: 60rem) { .bar-who, .bar-demo { display: none; } }
</style>"""
