"""`python -m webapp` as a user starts it: one holder per study, restarts, and nothing left behind."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from allinsam import accounts
from allinsam.errors import InputError
from allinsam.locking import only_one
from allinsam.store import Study
from allinsam.store.study import get_study
from tests.live import ROOT, LiveServer, free_port, serving, wait_until
from tests.people import CHEAP, PASSWORD
from webapp import __main__ as supervisor


def children_of(pid: int) -> dict[str, psutil.Process]:
    """server and worker, as far as they run."""
    found = {}
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.Error):  # It may end while we look.
            words = child.cmdline()
            if "webapp.child" in words:
                found[words[words.index("webapp.child") + 1]] = child
    return found


@pytest.fixture
def live(empty_study: Study, tmp_path: Path) -> Iterator[LiveServer]:
    with serving(empty_study, tmp_path / "log.txt") as server:
        yield server


def test_it_serves_restarts_and_ends_with_its_children(empty_study: Study, live: LiveServer) -> None:
    process, port, text = live.process, live.port, live.log.read_text("utf-8")
    assert f"http://127.0.0.1:{port}\n" in text
    # The one-time link makes the lead.
    token = re.search(r"/set-password\?token=(\S+)", text).group(1)
    cookie = accounts.set_password(empty_study, token, PASSWORD, CHEAP)
    lead = accounts.signed_in(empty_study, cookie)
    assert (lead.person_id, lead.role, lead.group) == ("lead", "lead", "expert")
    assert supervisor.lead_link(empty_study, "http://x", "expert") is None

    # A second start is refused and names the holder.
    again = subprocess.run(
        [sys.executable, "-m", "webapp", "--study", str(empty_study.folder), "--port", str(free_port())],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 2
    assert f"held by the process with pid {process.pid}" in again.stderr
    assert again.stderr.count("\n") == 1

    # A killed server comes back, on the same port, beside the same worker.
    before = children_of(process.pid)
    assert set(before) == {"server", "worker"}
    before["server"].kill()
    wait_until(
        lambda: (
            children_of(process.pid).get("server", before["server"]).pid != before["server"].pid
            and supervisor.is_healthy("127.0.0.1", port)
        ),
        "the server's return",
    )
    after = children_of(process.pid)
    assert after["worker"].pid == before["worker"].pid
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/", headers={"Accept": "text/html", "Cookie": f"allinsam={cookie}"})
    assert connection.getresponse().status == 200
    connection.close()

    # However it ends, its children end with it.
    process.send_signal(signal.SIGKILL if sys.platform == "linux" else signal.SIGTERM)
    process.wait(30)
    _, alive = psutil.wait_procs(list(after.values()), timeout=30)
    assert alive == []
    with only_one(empty_study.folder / supervisor.LOCK_NAME, "The study"):
        pass


def test_a_folder_without_a_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert supervisor.main(["--study", str(tmp_path / "none"), "--port", str(free_port())]) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "none") in said
    assert "python -m allinsam import" in said


def test_a_port_in_use_is_named(empty_study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert supervisor.main(["--study", str(empty_study.folder), "--port", str(port)]) == 2
    assert f"port {port}" in capsys.readouterr().err


def test_each_failure_doubles_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: clock[0])
    child = supervisor.Child("server", [sys.executable, "-c", "raise SystemExit(3)"])
    waits = []
    for _ in range(7):
        clock[0] = child.start_at
        child.keep_running()
        child.process.wait()
        child.keep_running()
        waits.append(child.start_at - clock[0])
        assert child.process is None
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    # A long steady run forgives.
    clock[0] = child.start_at
    child.keep_running()
    child.process.wait()
    clock[0] += supervisor.STEADY_AFTER_S + 1
    child.keep_running()
    assert child.start_at - clock[0] == 1


def test_an_interrupted_demo_nobody_used_is_made_anew(
    empty_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    monkeypatch.setattr(supervisor.Demo, "begin", lambda self: begun.append(self.folder))
    monkeypatch.setattr(supervisor.Demo, "wait_for_first_slide", lambda self: None)
    demo = supervisor.Demo(empty_study.folder)
    supervisor.prepare(demo, is_default=True)
    assert begun == []
    demo.marker.touch()
    link = accounts.invite(empty_study, "lead", "lead", "expert")
    accounts.set_password(empty_study, link, PASSWORD, CHEAP)
    supervisor.prepare(demo, is_default=True)
    assert begun == []
    assert empty_study.science.path.exists()


def test_an_interrupted_demo_is_cleared_when_nobody_can_sign_in(
    empty_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    monkeypatch.setattr(supervisor.Demo, "begin", lambda self: begun.append(os.listdir(self.folder)))
    monkeypatch.setattr(supervisor.Demo, "wait_for_first_slide", lambda self: None)
    demo = supervisor.Demo(empty_study.folder)
    demo.marker.touch()
    (demo.folder / supervisor.LOCK_NAME).touch()
    supervisor.prepare(demo, is_default=True)
    assert begun == [[supervisor.LOCK_NAME]]


def test_a_lock_has_one_holder_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    hold = "import sys,time; from allinsam.locking import only_one\nfrom pathlib import Path\n"
    hold += "with only_one(Path(sys.argv[1]), 'x'): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(InputError, match=f"^The x is .* pid {holder.pid}"),
            only_one(path, "The x"),
        ):
            pass
        holder.kill()
        holder.wait()
    with only_one(path, "The x"):
        assert path.read_text("ascii") == str(os.getpid())


def test_an_empty_study_is_begun_where_it_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / supervisor.LOCK_NAME).touch()
    supervisor.prepare(supervisor.Demo(folder), is_default=False, new=True)
    with Study(folder).science.read() as db:
        assert (get_study(db)["name"], get_study(db)["simulated"]) == ("mine", 0)
    # Asked again, it is the study that is there.
    supervisor.prepare(supervisor.Demo(folder), is_default=False, new=True)
    other = tmp_path / "holiday"
    other.mkdir()
    (other / "photo.png").write_bytes(b"x")
    with pytest.raises(InputError, match="holiday is not empty"):
        supervisor.prepare(supervisor.Demo(other), is_default=False, new=True)
    assert [path.name for path in other.iterdir()] == ["photo.png"]


def test_an_inbox_that_cannot_be_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone is no folder"):
        supervisor.check_inbox(tmp_path / "gone", tmp_path / "study")
    with pytest.raises(InputError, match="holds the study itself"):
        supervisor.check_inbox(tmp_path, tmp_path / "study")
    supervisor.check_inbox(None, tmp_path / "study")
