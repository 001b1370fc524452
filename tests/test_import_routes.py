"""Sending a file: for the lead alone, from our own pages, up to a size, and never half kept."""

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from allinsam import jobs
from allinsam.errors import InputError, NotFoundError
from allinsam.importing import ImportLimits
from allinsam.store import Study
from allinsam.workflow import importing, uploads
from allinsam.workflow.uploads import drop_old, drop_upload, new_upload, uploaded, used_up
from tests.people import signed_in_token
from webapp import import_routes, session
from webapp.gate import Gate

UPLOAD = "/api/import/uploads?name=lab.zip"
OWN = {"origin": "http://testserver"}


@pytest.fixture
def client(empty_study: Study, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv(session.STUDY_VARIABLE, str(empty_study.folder))
    app = Starlette(routes=import_routes.routes, middleware=[Middleware(Gate)])
    yield TestClient(app, headers=OWN)


def sign_in(client: TestClient, study: Study, role: str) -> None:
    client.cookies.set(session.COOKIE, signed_in_token(study, role))


def kept(study: Study) -> list[Path]:
    return [path for path in (study.folder / uploads.FOLDER).rglob("*")]


def test_the_lead_sends_a_file(client: TestClient, empty_study: Study) -> None:
    sign_in(client, empty_study, "lead")
    content = bytes(range(256)) * 1000
    answer = client.post(UPLOAD, content=content)
    assert answer.status_code == 200 and "no-store" in answer.headers["cache-control"]
    told = answer.json()
    assert (told["name"], told["bytes"]) == ("lab.zip", len(content))
    path = uploaded(empty_study, told["key"])
    assert path.read_bytes() == content and path.is_relative_to(empty_study.folder)
    assert path.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("role", "status"), [("reviewer", 403), ("annotator", 403), ("stranger", 401)])
def test_nobody_else_may_send_one(client: TestClient, empty_study: Study, role: str, status: int) -> None:
    if role != "stranger":
        sign_in(client, empty_study, role)
    assert client.post(UPLOAD, content=b"x").status_code == status
    assert kept(empty_study) == []


@pytest.mark.parametrize("headers", [{"origin": "http://elsewhere.example"}, {"origin": "null"}])
def test_a_foreign_page_may_not(client: TestClient, empty_study: Study, headers: dict[str, str]) -> None:
    sign_in(client, empty_study, "lead")
    assert client.post(UPLOAD, content=b"x", headers=headers).status_code == 403
    assert kept(empty_study) == []


@pytest.mark.parametrize("said", ["9" * 5000, "\xb2", "-1", "+5", "1e9", ""])
def test_a_size_that_is_none_is_not_believed(client: TestClient, empty_study: Study, said: str) -> None:
    sign_in(client, empty_study, "lead")
    headers = {**OWN, "content-length": said.encode("latin-1")}
    assert client.post(UPLOAD, content=b"abc", headers=headers).json()["bytes"] == 3


def pieces(count: int) -> Iterator[bytes]:
    """A body whose size nobody says beforehand."""
    for _ in range(count):
        yield bytes(100_000)


@pytest.mark.parametrize("content", [bytes(1_200_000), pieces(12)], ids=["size said", "size not said"])
def test_more_than_the_limit_is_refused_and_not_kept(
    client: TestClient, empty_study: Study, monkeypatch: pytest.MonkeyPatch, content: object
) -> None:
    monkeypatch.setenv(session.UPLOAD_VARIABLE, "1")
    sign_in(client, empty_study, "lead")
    answer = client.post(UPLOAD, content=content)
    assert answer.status_code == 413 and "lab.zip has more than 1 MB" in answer.text
    assert not [path for path in kept(empty_study) if path.is_file()]
    assert client.post(UPLOAD, content=pieces(9)).status_code == 200


def test_an_empty_file_and_a_name_that_is_none(client: TestClient, empty_study: Study) -> None:
    sign_in(client, empty_study, "lead")
    assert client.post(UPLOAD, content=b"").status_code == 400
    for name in ("", "...", "%2F%2F", "..%2F.."):
        answer = client.post(f"/api/import/uploads?name={name}", content=b"x")
        assert answer.status_code == 400 and "is no file name" in answer.text
    assert not [path for path in kept(empty_study) if path.is_file()]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("../../server.sqlite", "server.sqlite"),
        ("C:\\lab\\a b.zip", "a_b.zip"),
        ("Nière <1>.zip", "Ni_re_1_.zip"),
        ("/etc/passwd", "passwd"),
        ("x" * 300 + ".zip", "x" * 96 + ".zip"),
    ],
)
def test_a_name_leads_nowhere(empty_study: Study, name: str, plain: str) -> None:
    key, path = new_upload(empty_study, name)
    assert path == empty_study.folder / "uploads" / key / plain


@pytest.mark.parametrize("key", ["", "..", "../../images", "0" * 31, "g" * 32, "A" * 32])
def test_a_key_leads_nowhere(empty_study: Study, key: str) -> None:
    with pytest.raises(InputError, match="Choose the file again"):
        uploaded(empty_study, key)
    drop_upload(empty_study, key)
    assert (empty_study.folder / "images").is_dir()
    with pytest.raises(NotFoundError, match="has been used or removed"):
        uploaded(empty_study, "0" * 32)


def test_a_file_goes_with_its_import_or_after_a_while(empty_study: Study, tmp_path: Path) -> None:
    _, path = new_upload(empty_study, "a.zip")
    path.write_bytes(b"x")
    with pytest.raises(KeyError), used_up(empty_study.folder, path):
        raise KeyError
    assert not path.parent.exists()
    # What was not sent is left where it is.
    own = tmp_path / "own" / "a.zip"
    own.parent.mkdir()
    own.write_bytes(b"x")
    with used_up(empty_study.folder, own):
        pass
    assert own.exists()
    key, path = new_upload(empty_study, "b.zip")
    path.write_bytes(b"x")
    drop_old(empty_study)
    assert uploaded(empty_study, key) == path
    # However long the job that wants it has to wait.
    job_id = jobs.submit(empty_study, "import", {"from_job": str(path)}, None)
    drop_old(empty_study, older_than_s=-1)
    assert uploaded(empty_study, key) == path
    jobs.cancel(empty_study, job_id)
    drop_old(empty_study, older_than_s=-1)
    assert not path.exists()


def test_what_a_killed_import_unpacked_is_removed_later(
    empty_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "lab.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("notes.txt", "no image")
    with monkeypatch.context() as killed, pytest.raises(InputError):
        killed.setattr(importing.shutil, "rmtree", lambda *_, **__: None)
        importing.import_study(empty_study.folder, source)
    [left] = empty_study.folder.glob(".unpack*")
    drop_old(empty_study)
    assert left.exists()  # in use, for all that is known
    os.utime(left, (0, 0))
    drop_old(empty_study)
    assert not left.exists()


def test_unpacking_leaves_room_on_the_disk(empty_study: Study, tmp_path: Path) -> None:
    source = tmp_path / "lab.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(3_000_000))
    limits = ImportLimits(kept_free_mb=10**9)
    with pytest.raises(InputError, match="unpacks to 3 MB, and the disk has .* Make room"):
        importing.import_study(empty_study.folder, source, limits=limits)
    assert not list(empty_study.folder.glob(f"{uploads.UNPACKED}*"))


def test_uploads_leave_room_on_the_disk(
    client: TestClient, empty_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(client, empty_study, "lead")
    free = shutil.disk_usage(empty_study.folder).free
    with monkeypatch.context() as full:
        full.setattr(uploads, "KEPT_FREE_BYTES", free + 10**12)
        answer = client.post(UPLOAD, content=b"x")
        assert answer.status_code == 400 and "disk has" in answer.text
    assert kept(empty_study) == []
    monkeypatch.setattr(uploads, "MOST_WAITING", 2)
    assert [client.post(UPLOAD, content=b"x").status_code for _ in range(3)] == [200, 200, 400]
    drop_old(empty_study, older_than_s=-1)
    assert client.post(UPLOAD, content=b"x").status_code == 200


@pytest.mark.parametrize("role", ["lead", "annotator"])
def test_streamlit_s_own_upload_is_closed(client: TestClient, empty_study: Study, role: str) -> None:
    sign_in(client, empty_study, role)
    answer = client.put("/_stcore/upload_file/session/file", content=b"x")
    assert answer.status_code == 403 and "Import page" in answer.text
