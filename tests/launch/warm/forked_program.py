"""What the tests of warm_python start: notes where it runs, and ends as it is told."""

import json
import os
import signal
import sys
import time
from pathlib import Path

note, how = Path(sys.argv[1]), sys.argv[2]
note.write_text(
    json.dumps(
        {
            "name": __name__,
            "parent": os.getppid(),
            "session": os.getsid(0),
            "directory": str(Path.cwd()),
            "environment": dict(os.environ),
            "warm": "colorsys" in sys.modules,
        }
    )
)
if how == "sleep":
    time.sleep(600)
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "raise":
    raise OSError("the disk is on fire")
sys.exit(int(how) if how.isdigit() else how)
