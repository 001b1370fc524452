"""Where browsers reach this app: the origin that forms and websockets must come from, and its cookie.

The public URL is a setting (`python -m webapp --public-url`). Without one the server knows itself by the
loopback addresses it listens at; only where it listens for other computers, under names it cannot know, is
the host that was asked taken for its own.
"""

import os
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from allinsam.errors import InputError

URL_VARIABLE = "ALLINSAM_URL"
COOKIE = "allinsam"
# Browsers take a cookie of this name only over TLS and for this host alone: no neighbour can plant one.
SECURE_COOKIE = "__Host-allinsam"
DEFAULT_PORTS = {"http": 80, "https": 443}


def checked_url(text: str) -> str:
    """The origin of a public URL, without a slash at its end.

    Raises:
        InputError: it is no http or https address, or has a path.
    """
    parts = urlsplit(text)
    try:
        known = parts.scheme in DEFAULT_PORTS and parts.hostname and (parts.port or 1)
    except ValueError:
        known = False
    if not known or parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise InputError(
            f"{text!r} is not where browsers can find this app. Give it as https://kidney.example.org, "
            "without a path."
        )
    return origin_of(text)


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL as browsers write them: lower case, without the scheme's own port."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    port = "" if parts.port in (None, DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def own_origins(address: str, port: int) -> list[str]:
    """The origins of a server that listens at this address; none where other computers may ask it."""
    try:
        local = ip_address(address).is_loopback
    except ValueError:
        local = address == "localhost"
    names = ("127.0.0.1", "localhost", "[::1]") if local else ()
    return [origin_of(f"http://{name}:{port}") for name in names]


def public_url() -> str | None:
    """The one address that browsers are to use; None where it was not set."""
    origins = os.environ.get(URL_VARIABLE, "").split()
    return origins[0] if len(origins) == 1 else None


def is_own_page(headers: Headers) -> bool:
    """Whether the page that sent this request is one of this app's."""
    source = headers.get("origin", "")
    own = os.environ.get(URL_VARIABLE, "").split()
    if own:
        return source in own
    return urlsplit(source).scheme in DEFAULT_PORTS and urlsplit(source).netloc == headers.get("host")


def is_secure(scheme: str) -> bool:
    """Whether browsers come over TLS; a proxy that ends it is known by the public URL, too."""
    return scheme in ("https", "wss") or (public_url() or "").startswith("https://")


def cookie_name(scheme: str) -> str:
    return SECURE_COOKIE if is_secure(scheme) else COOKIE


def cookie_token(cookies: Mapping[str, str], scheme: str) -> str | None:
    """The sign-in token among a request's cookies. Over TLS a plain cookie is not believed."""
    return cookies.get(cookie_name(scheme))
