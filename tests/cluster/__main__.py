"""`ray submit cluster.yaml sweeps/ib.py` on three machines of this one's own: `make cluster-test`.

The machines are namespaces, and so is the place that launches from: when this process ends, however it ends, all of
them are gone. Their disks are in .venv/cluster-test, which goes at the end, or else when the next test begins.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from tests.cluster.machines import PRIVATE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv/cluster-test"
TOOLS = {"ip": "iproute2", "rsync": "rsync", "ssh": "openssh-client", "unshare": "util-linux", "setpriv": "util-linux"}


def missing() -> list[str]:
    """What this machine lacks, or does not allow."""
    lacks = {package for tool, package in TOOLS.items() if not shutil.which(tool)}
    lacks |= set() if shutil.which("sshd") or Path("/usr/sbin/sshd").exists() else {"openssh-server"}
    if lacks:
        return [f"apt-get install {' '.join(sorted(lacks))}"]
    made = subprocess.run(
        ["unshare", *PRIVATE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return [] if made.returncode == 0 and os.getuid() == 0 else ["root, and leave to make namespaces and to mount"]


def main() -> int:
    """The exit status: 0 passed, 1 failed, 2 cannot be run here."""
    if lacks := missing():
        print(f"the test of a real cluster needs: {lacks[0]}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with FileLock(f"{FOLDER}.lock", timeout=0):
            return _run()
    except Timeout:
        print("the test of a real cluster is running already", file=sys.stderr)
        return 2


def _run() -> int:
    start = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", *PRIVATE, sys.executable, "-m", "tests.cluster.stages"]
    test = subprocess.Popen([*command, str(FOLDER)], cwd=ROOT, stdin=subprocess.DEVNULL)
    try:
        return test.wait()
    finally:
        test.kill()
        test.wait()
        subprocess.run(["rm", "-rf", FOLDER], check=True)  # many times as fast as shutil.rmtree
        print(f"{time.monotonic() - start:4.0f} s in all; nothing of it is left", flush=True)


if __name__ == "__main__":
    sys.exit(main())
