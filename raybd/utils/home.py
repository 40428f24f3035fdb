"""A home folder for users who have none: libraries ask for one when they are imported. Imports nothing of raybd."""

import os
import tempfile
from pathlib import Path


def ensure_home() -> None:
    """Set HOME to a folder of this user's own under the temporary folder, if nothing tells where the home is.

    So it is in containers that are run under a number without an entry among the users. Elsewhere nothing changes.
    """
    try:
        Path.home()
    except RuntimeError:
        folder = Path(tempfile.gettempdir()) / f"raybd-home-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        owned = folder.stat().st_uid == os.getuid() and not folder.is_symlink()
        os.environ["HOME"] = str(folder) if owned else tempfile.mkdtemp(prefix="raybd-home-")
