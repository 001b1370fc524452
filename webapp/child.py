"""The processes that `python -m webapp` starts: `python -m webapp.child server|worker|demo`."""

import argparse
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from allinsam.__main__ import main as command_line
from allinsam.compute import cores, use_threads
from allinsam.errors import AllinsamError
from allinsam.jobs import run_worker
from allinsam.store import open_study
from webapp.address import URL_VARIABLE, own_origins
from webapp.session import INBOX_VARIABLE, STUDY_VARIABLE, UPLOAD_MB, UPLOAD_VARIABLE

PR_SET_PDEATHSIG = 1
GRACEFUL_STOP_S = 3
LARGEST_MESSAGE_BYTES = 200 * 1024 * 1024  # Streamlit's own limit


def serve(
    study: Path,
    address: str,
    port: int,
    public_url: str,
    trusted_proxies: str,
    inbox: Path | None,
    upload_mb: float,
) -> int:
    """Serve the study until told to stop."""
    import uvicorn

    # A quarter of the cores for masks: trainings and other visitors need the rest.
    use_threads(max(1, cores() // 4))
    os.environ[STUDY_VARIABLE] = str(study)
    os.environ[URL_VARIABLE] = public_url or " ".join(own_origins(address, port))
    os.environ[INBOX_VARIABLE] = str(inbox or "")
    os.environ[UPLOAD_VARIABLE] = str(upload_mb)
    uvicorn.run(
        "webapp.server:app",
        host=address,
        port=port,
        log_level="warning",
        access_log=False,
        ws="websockets-sansio",
        ws_max_size=LARGEST_MESSAGE_BYTES,
        ws_ping_interval=30,
        ws_ping_timeout=30,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies,
        timeout_graceful_shutdown=GRACEFUL_STOP_S,
    )
    return 0


def work(study: Path) -> int:
    """Run the study's jobs until told to stop; the job that runs goes on without a worker."""
    stop = threading.Event()

    def leave(signal_number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    run_worker(open_study(study), stop)
    return 0


def end_with_parent() -> None:
    """However the supervisor ends, this process does not outlive it and hold the port or the study."""
    parent = os.getppid()
    if sys.platform == "linux":
        # SIGKILL: nothing unsaved is lost, since an answer is only given after the commit.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m webapp.child")
    parser.add_argument("what", choices=("server", "worker", "demo"))
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--public-url", default="")
    parser.add_argument("--trusted-proxies", default="")
    parser.add_argument("--inbox", type=Path, default=None)
    parser.add_argument("--upload-mb", type=float, default=UPLOAD_MB)
    args = parser.parse_args()
    end_with_parent()
    try:
        if args.what == "server":
            return serve(
                args.study,
                args.address,
                args.port,
                args.public_url,
                args.trusted_proxies,
                args.inbox,
                args.upload_mb,
            )
        if args.what == "worker":
            return work(args.study)
        return command_line(["demo", "--study", str(args.study), "--json"])
    except AllinsamError as error:
        print(f"allinsam {args.what}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
