"""Full and read-only disks, damaged and vanished files, through the real application.

Each is said in words with the remedy, under a status at which the browser keeps what it has and sends it
again; nothing is lost or half written.
"""

import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from streamlit.runtime import Runtime

from allinsam.__main__ import main
from allinsam.errors import NotFoundError, StorageError
from allinsam.masks import encode_rle
from allinsam.store import Study, images
from allinsam.store.acts import list_acts
from allinsam.workflow import annotating
from allinsam.workflow.annotating import ActLog, record_acts
from allinsam.workflow.checking import verify
from tests.disks import Disk, small_disk
from tests.people import CHEAP, PASSWORD, signed_in_token
from tests.studies import PERSON, PODOCYTES, disc, small_study
from tests.test_desk_routes import CLIENT, box
from webapp import image_routes, session
from webapp.server import create_app

HOST = "http://testserver"
OWN_PAGE = {"origin": HOST}
ACTS = "/api/assignments/1/acts"
PICTURE = "/api/assignments/1/view.png?layer=pas&side=512&px=256"
MARKER = "/api/assignments/1/view.png?layer=marker&marker=WT1&side=512&px=256"


@pytest.fixture(scope="module")
def app() -> Iterator[TestClient]:
    with TestClient(create_app(CHEAP), HOST, follow_redirects=False) as client:
        yield client
    Runtime._instance = None  # Streamlit keeps one per process


Serve = Callable[[Path], tuple[Study, TestClient]]


@pytest.fixture
def serve(app: TestClient, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """A small study served to its student."""

    def made(folder: Path) -> tuple[Study, TestClient]:
        study = small_study(folder, slides=1)
        app.cookies.clear()
        app.cookies.set(session.COOKIE, signed_in_token(study, "annotator", PERSON, "Ana"))
        monkeypatch.setenv(session.STUDY_VARIABLE, str(folder))
        session._opened.cache_clear()
        forget_pictures()
        return study, app

    yield made
    session._opened.cache_clear()
    forget_pictures()


def forget_pictures() -> None:
    """What a restarted server does not know any more."""
    for cached in (annotating._pixels, annotating._channel_in_pas, image_routes._patch_pixels):
        cached.cache_clear()
    image_routes._picture.cache_clear()
    image_routes._channel.cache_clear()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as made:
        yield made


def outline(n: int, object_id: str) -> dict:
    """A nucleus drawn by hand, which wants the marker's evidence."""
    points = [[80, 80], [120, 80], [120, 120], [80, 120]]
    told = {"n": n, "kind": "outline", "at_ms": n, "object_id": object_id, "class_id": 1}
    return told | {"tool": "polygon", "points": points}


def send(client: TestClient, *gestures: dict):
    body = {"client": CLIENT, "knows": 0, "gestures": list(gestures)}
    return client.post(ACTS, json=body, headers=OWN_PAGE)


def kept(study: Study) -> list[str]:
    with study.science.read() as db:
        return [act.kind for act in list_acts(db, 1)]


def said_clearly(answer, *words: str) -> None:
    """A person reads why, and what to do; no path of the server and no parser's stack."""
    assert answer.status_code == 503, answer.text
    for word in words:
        assert word in answer.text
    assert "Traceback" not in answer.text and "/tmp" not in answer.text


def test_a_full_disk_is_said_and_what_was_drawn_is_kept_once(disk: Disk, serve: Serve) -> None:
    study, client = serve(disk.folder / "study")
    assert send(client, box(1, "a", PODOCYTES[0])).status_code == 200
    disk.fill()
    said_clearly(send(client, box(2, "b", PODOCYTES[1])), "full")
    form = {"name": "Ana", "password": PASSWORD}
    said_clearly(client.post("/sign-in", data=form, headers=OWN_PAGE), "cannot be used now")
    disk.empty()
    # The browser sends again what got no answer.
    assert send(client, box(1, "a", PODOCYTES[0]), box(2, "b", PODOCYTES[1])).json()["acknowledged"] == 2
    assert kept(study) == ["box", "box"]
    assert verify(study)["problems"] == []


def test_the_log_may_be_what_fills_the_disk(tmp_path: Path, serve: Serve) -> None:
    """A transaction that no longer fits is rolled back whole. Without a disk of its own: a limit of size."""
    study, client = serve(tmp_path / "study")
    assert send(client, box(1, "a", PODOCYTES[0])).status_code == 200
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    try:
        many = [outline(n, f"o{n}") for n in range(2, 60)]
        said_clearly(send(client, *many), "study.sqlite cannot be used now")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    before = kept(study)
    assert send(client, *many).json()["acknowledged"] == 59
    assert kept(study)[: len(before)] == before and kept(study).count("mask_edit") == 58
    assert verify(study)["problems"] == []


def test_a_read_only_folder_is_said(disk: Disk, serve: Serve) -> None:
    study, client = serve(disk.folder / "study")
    disk.only_read()
    said_clearly(send(client, box(1, "a", PODOCYTES[0])), "cannot be used now", "right to write")
    disk.only_read(False)
    assert send(client, box(1, "a", PODOCYTES[0])).status_code == 200
    assert kept(study) == ["box"]


def picture_file(study: Study, marker: str | None) -> Path:
    with study.science.read() as db:
        if marker is None:
            return study.image_path(images.get_patch(db, 1)["image_sha256"])
        channels = images.list_channels(db, 1)
    return study.image_path(next(row["image_sha256"] for row in channels if row["marker"] == marker))


@pytest.mark.parametrize("how", ["damaged", "cut off", "empty", "gone"])
@pytest.mark.parametrize(("url", "marker"), [(PICTURE, None), (MARKER, "WT1")])
def test_a_lost_picture_is_named(
    tmp_path: Path, serve: Serve, url: str, marker: str | None, how: str
) -> None:
    study, client = serve(tmp_path / "study")
    path = picture_file(study, marker)
    content = path.read_bytes()
    middle = len(content) // 2
    damaged = content[:middle] + bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    damaged += content[middle + 64 :]
    broken = {"damaged": damaged, "cut off": content[:middle], "empty": b""}
    path.write_bytes(broken[how]) if how in broken else path.unlink()
    said_clearly(client.get(url), "gone or damaged", path.stem[:12], "backup")
    path.write_bytes(content)
    assert client.get(url).status_code == 200


def test_a_nucleus_drawn_while_its_marker_is_unreadable_is_not_dropped(tmp_path: Path, serve: Serve) -> None:
    """It would be stored without its evidence, or refused for good: the browser waits instead."""
    study, client = serve(tmp_path / "study")
    path = picture_file(study, "WT1")
    away = path.rename(path.with_suffix(".away"))
    said_clearly(send(client, outline(1, "a")), "gone or damaged")
    assert kept(study) == []
    away.rename(path)
    assert send(client, outline(1, "a")).json()["refused"] == []
    with study.science.read() as db:
        (act,) = list_acts(db, 1)
    assert act.payload["molecular_support"] > 0


def test_a_vanished_database_is_said_and_not_replaced_by_an_empty_one(tmp_path: Path, serve: Serve) -> None:
    study, client = serve(tmp_path / "study")
    away = study.science.path.rename(tmp_path / "away.sqlite")
    said_clearly(send(client, box(1, "a", PODOCYTES[0])), "study.sqlite is gone")
    assert client.get("/api/health").status_code == 503
    assert not study.science.path.exists()
    away.rename(study.science.path)
    assert send(client, box(1, "a", PODOCYTES[0])).status_code == 200

    accounts = study.server.path.rename(tmp_path / "away.sqlite")
    said_clearly(client.get("/", headers={"accept": "text/html"}), "server.sqlite is gone")
    assert not study.server.path.exists()
    accounts.rename(study.server.path)


@pytest.mark.parametrize("name", ["study.sqlite", "server.sqlite"])
def test_a_damaged_database_is_said(tmp_path: Path, serve: Serve, name: str) -> None:
    study, client = serve(tmp_path / "study")
    path = study.folder / name
    with sqlite3.connect(path) as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    conn.close()
    content = path.read_bytes()
    path.write_bytes(b"not a database any more" * 1000)
    said_clearly(send(client, box(1, "a", PODOCYTES[0])), f"{name} cannot be used now", "damaged", "restore")
    path.write_bytes(content)
    assert send(client, box(1, "a", PODOCYTES[0])).status_code == 200


def test_a_damaged_page_in_the_middle_is_said(tmp_path: Path) -> None:
    study = small_study(tmp_path / "study", slides=1)
    log = ActLog("script-1", "test")
    mask = encode_rle(disc(PODOCYTES[0]))
    acts = [log.act("mask_edit", n, f"o{n}", class_id=1, mask=mask, tool="polygon") for n in range(60)]
    record_acts(study, 1, PERSON, acts)
    study.science.close_log()
    content = bytearray(study.science.path.read_bytes())
    page = content.find(mask["counts"].encode()) // 4096 * 4096  # one that holds acts
    content[page : page + 4096] = b"\x55" * 4096
    study.science.path.write_bytes(content)
    with pytest.raises(StorageError, match="damaged.*restore"), study.science.read() as db:
        list_acts(db, 1)
    assert study.science.damage(quick=True) != []


def test_the_command_line_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = small_study(tmp_path / "study", slides=1)
    study.science.path.write_bytes(b"not a database any more" * 1000)
    for path in study.folder.glob("study.sqlite-*"):
        path.unlink()
    assert main(["verify", "--study", str(study.folder)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "damaged" in said and "restore" in said


def test_a_lost_folder_is_not_made_anew(tmp_path: Path) -> None:
    study = small_study(tmp_path / "study", slides=1)
    shutil.rmtree(study.folder)
    with pytest.raises(NotFoundError, match="is gone"), study.science.write():
        raise AssertionError("there is nothing to write to")
    assert not study.folder.exists()
