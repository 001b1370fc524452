"""What the tests of the pages share: reading a page as a person would."""

from streamlit.testing.v1 import AppTest


def texts(app: AppTest) -> str:
    """Everything written on a page."""
    kinds = ("title", "subheader", "markdown", "caption", "info", "success", "warning", "error", "code")
    written = [str(part.value) for kind in kinds for part in getattr(app, kind)]
    return "\n".join([*written, *(str(part.proto.body) for part in app.get("html"))])


def button(app: AppTest, label: str) -> object:
    """The button whose label begins so."""
    found = [b for b in app.button if b.label.startswith(label)]
    assert found, f"no button {label!r} among {[b.label for b in app.button]}"
    return found[0]
