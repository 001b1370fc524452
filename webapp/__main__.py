"""python -m webapp [--study DIR]: makes the demo if there is no study, then keeps the app running.

Server and worker are children of this process and end with it; they are started again when they
fail. Jobs are not: a training goes on while the app is down and is found again when it is back.
"""

import argparse
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from sqlite3 import OperationalError
from types import FrameType

from allinsam.accounts import INVITED_GROUPS, invite
from allinsam.errors import AllinsamError, InputError, NotFoundError, StorageError
from allinsam.jobs import beat_as, list_views, submit
from allinsam.locking import only_one
from allinsam.store import Study, open_study
from allinsam.store.accounts import list_accounts
from allinsam.store.images import list_patches
from allinsam.store.study import get_study
from webapp.address import checked_url
from webapp.keeping import Backups, check_before_serving
from webapp.session import UPLOAD_MB

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_STUDY = Path("data/studies/demo")
LOCK_NAME = "server.lock"
UNFINISHED_NAME = "demo-unfinished"

POLL_S = 0.5
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
STEADY_AFTER_S = 60.0
STOP_WITHIN_S = 8.0
DEMO_BEAT_S = 4.0


# --- Children -----------------------------------------------------------------------------------


@dataclass
class Child:
    """A process that is to run always. Each failure in a row doubles the wait before the next start."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    wait_s: float = FIRST_WAIT_S

    def keep_running(self) -> None:
        now = time.monotonic()
        if self.process is None:
            if now >= self.start_at:
                self.process, self.started_at = start(self.command), now
            return
        code = self.process.poll()
        if code is None:
            return
        if now - self.started_at > STEADY_AFTER_S:
            self.wait_s = FIRST_WAIT_S
        say(f"The {self.name} ended with code {code}; it starts again in {self.wait_s:.0f} s.")
        self.process, self.start_at = None, now + self.wait_s
        self.wait_s = min(2 * self.wait_s, LONGEST_WAIT_S)


def start(command: list[str]) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches this process only, which then stops its children in order.
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)


def child_command(what: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "webapp.child", what, *arguments]


def stop_all(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + STOP_WITHIN_S
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# --- The study and its demo ---------------------------------------------------------------------


@dataclass
class Demo:
    """The child that draws the demo study, while the app already shows its first slides."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    beat_at: float = field(default=float("-inf"))

    @property
    def marker(self) -> Path:
        return self.folder / UNFINISHED_NAME

    def begin(self) -> None:
        say(f"Making the simulated demo study in {self.folder} (about two minutes, once) ...")
        self.marker.touch()
        self.process = start(child_command("demo", "--study", str(self.folder)))

    def wait_for_first_slide(self) -> None:
        while not has_patches(self.folder):
            if self.process is not None and self.process.poll() is not None:
                raise InputError(f"The demo study could not be made in {self.folder}; see the lines above.")
            time.sleep(POLL_S)

    def look_after(self, study: Study) -> None:
        """Tell the pages that it is being made; note its end."""
        if self.process is None:
            return
        code = self.process.poll()
        if code is None:
            if time.monotonic() - self.beat_at > DEMO_BEAT_S:
                self.beat_at = time.monotonic()
                beat_as(study, "demo", self.process.pid)
            return
        self.process = None
        if code == 0:
            self.marker.unlink(missing_ok=True)
            say("The demo study is complete.")
        else:
            say(f"The demo study stays incomplete (code {code}). Delete {self.folder} to make it anew.")


def has_patches(folder: Path) -> bool:
    """Whether there is something to annotate; False while the files are only being made."""
    study = Study(folder)
    if not study.science.path.exists():
        return False
    try:
        with study.science.read() as db:
            return bool(list_patches(db))
    except (OperationalError, StorageError):
        return False


def prepare(demo: Demo, is_default: bool, new: bool = False) -> None:
    """See to it that there is a study; begin the demo where the default one is missing.

    Args:
        new: begin an empty study where there is none, to be filled on the Import page.

    Raises:
        InputError: there is no study in a folder that was named.
    """
    folder = demo.folder
    exists = Study(folder).science.path.exists()
    if exists and demo.marker.exists():
        if anybody_can_sign_in(folder):
            say(f"This demo study was interrupted while it was made. Delete {folder} to make it anew.")
        else:
            # Nobody has used it yet: the rest of an interrupted first start.
            clear(folder)
            exists = False
    if not exists and new:
        if any(path.name != LOCK_NAME for path in folder.iterdir()):
            raise InputError(f"{folder} is not empty. Choose a new folder for the study.")
        from allinsam.workflow.importing import begin_study  # brings in torch, which nothing else here needs

        begin_study(folder, folder.name)
        say(f"An empty study was made in {folder}. Bring images in on the Import page.")
        return
    if not exists:
        if not is_default:
            raise InputError(
                f"No study in {folder}. Begin an empty one with --new, or make one with "
                f"`python -m allinsam import` or `python -m allinsam demo --study {folder}`."
            )
        demo.begin()
        demo.wait_for_first_slide()


def anybody_can_sign_in(folder: Path) -> bool:
    try:
        with Study(folder).server.read() as db:
            return any(account["has_password"] for account in list_accounts(db))
    except (NotFoundError, OperationalError):
        return False


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name == LOCK_NAME:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def lead_link(study: Study, url: str, group: str) -> str | None:
    """A one-time link for the lead to set a password; None once a lead has one."""
    with study.server.read() as db:
        leads = [row for row in list_accounts(db) if row["role"] == "lead" and row["active"]]
    if any(lead["has_password"] for lead in leads):
        return None
    if leads:
        token = invite(study, leads[0]["name"], "lead", group)
    else:
        token = invite(study, "lead", "lead", group, person_id="lead")
    return f"{url}/set-password?token={token}"


# --- Running ------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    folder = args.study.resolve()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with only_one(folder / LOCK_NAME, f"The study in {folder}"):
            return run(args, folder)
    except AllinsamError as error:
        print(f"allinsam: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("Stopped. Running jobs go on; start again to see them.")
        return 0


def run(args: argparse.Namespace, folder: Path) -> int:
    check_port(args.address, args.port)
    check_inbox(args.inbox, folder)
    check_before_serving(folder, args.backups)
    demo = Demo(folder)
    backups = Backups(folder, args.backups and args.backups.resolve(), args.backup_minutes, start)
    children: list[Child] = []
    try:
        prepare(demo, args.study == DEFAULT_STUDY, args.new)
        study = open_study(folder)
        # What listens on all addresses is reached under this one here.
        host = "127.0.0.1" if args.address in ("0.0.0.0", "::") else args.address  # noqa: S104 - compared only
        url = f"http://[{host}]:{args.port}" if ":" in host else f"http://{host}:{args.port}"
        where = ("--address", args.address, "--port", str(args.port))
        proxies = ("--public-url", args.public_url, "--trusted-proxies", args.trusted_proxies)
        imports = ("--upload-mb", str(args.upload_mb))
        imports += ("--inbox", str(args.inbox.resolve())) if args.inbox else ()
        children = [
            Child("server", child_command("server", "--study", str(folder), *where, *proxies, *imports)),
            Child("worker", child_command("worker", "--study", str(folder))),
        ]
        announced = False
        while True:
            for child in children:
                child.keep_running()
            demo.look_after(study)
            if demo.process is None:
                backups.look_after()
            if not announced and is_healthy(host, args.port):
                announced = True
                shown = args.public_url or url
                announce(study, shown, lead_link(study, shown, args.lead_group))
                embed_ahead(study)
            time.sleep(POLL_S)
    finally:
        processes = (demo.process, backups.process, *(child.process for child in children))
        stop_all([p for p in processes if p is not None])


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m webapp", description="Serve one study.")
    parser.add_argument("--study", type=Path, default=DEFAULT_STUDY, help="the study's folder")
    parser.add_argument("--address", default="127.0.0.1", help="0.0.0.0 lets other computers in")
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument(
        "--lead-group", choices=INVITED_GROUPS, default="expert", help="group of the first lead, if new"
    )
    parser.add_argument(
        "--public-url",
        type=public_url_argument,
        default="",
        help="where browsers find it, behind a proxy for instance: https://kidney.example.org; "
        "forms and websockets of other origins are refused",
    )
    parser.add_argument(
        "--trusted-proxies", default="", help="addresses whose X-Forwarded-For and -Proto are believed"
    )
    parser.add_argument("--new", action="store_true", help="begin an empty study where there is none")
    parser.add_argument(
        "--inbox", type=Path, default=None, help="folder of images and slides that the lead may import"
    )
    parser.add_argument(
        "--upload-mb", type=float, default=UPLOAD_MB, help="largest file that a browser may send"
    )
    parser.add_argument("--backup-minutes", type=float, default=30.0, help="0: no backups by itself")
    parser.add_argument(
        "--backups", type=Path, default=None, help="their folder; the study's backups/ if none"
    )
    return parser.parse_args(arguments)


def public_url_argument(text: str) -> str:
    try:
        return checked_url(text) if text else ""
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def check_inbox(folder: Path | None, study: Path) -> None:
    if folder is not None and not folder.is_dir():
        raise InputError(f"The inbox {folder} is no folder. Make it, or name another with --inbox.")
    if folder is not None and study.is_relative_to(folder.resolve()):
        raise InputError(f"The inbox {folder} holds the study itself. Name a folder of its own.")


def check_port(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise InputError(
                f"Cannot listen on {address} port {port} ({error.strerror}). Choose another with --port."
            ) from None


def is_healthy(host: str, port: int) -> bool:
    # Not urllib: a proxy from the environment would be asked for our own address.
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def embed_ahead(study: Study) -> None:
    """Queue the embeddings of new patches, so that the first box on each is answered at once."""
    with study.science.read() as db:
        patches, simulated = len(list_patches(db)), get_study(db)["simulated"]
    embedded = sum(1 for _ in study.embeddings_folder.iterdir())
    waiting = any(view.verb == "embed" and view.is_active for view in list_views(study))
    # The demo embeds its patches while it is made.
    if embedded < patches and not simulated and not waiting:
        submit(study, "embed", {}, None)


def announce(study: Study, url: str, link: str | None) -> None:
    with study.science.read() as db:
        name = get_study(db)["name"]
    say(f"{name} is open at\n\n    {url}\n")
    if link:
        say(f"Set the lead's password with this one-time link first:\n\n    {link}\n")
    say("Ctrl-C stops it; running jobs go on.")


def say(text: str) -> None:
    print(text, flush=True)


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
