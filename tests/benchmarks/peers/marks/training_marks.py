"""When the training of a program begins and ends, in CPU seconds, seen from inside its process.

It runs in the environments of all peers, and so takes the standard library alone.
`sitecustomize.py` adds it to transformers' Trainer, `torchtune_marks.py` to torchtune.
"""

import json
import os
import resource
import time
from pathlib import Path

IGNORED = -100


class Marks:
    """One training: written to the file that PEERS_MARKS names."""

    def __init__(self):
        self.startup = None
        self.began = self.ended = 0.0
        self.steps = self.supervised = 0
        self.losses = []

    def begin(self):
        """The first step begins; called again, it does nothing."""
        if self.startup is None:
            self.startup = cpu_seconds_of_the_run()
            self.began = time.process_time()

    def count(self, labels):
        """Count what is learned of a batch [B, T]: a row's first token is nobody's next."""
        self.supervised += int((labels[:, 1:] != IGNORED).sum())

    def end_step(self):
        """A step has ended, maybe the last."""
        self.steps += 1
        self.ended = time.process_time()

    def write(self):
        record = {
            "startup_cpu": self.startup,
            "training_cpu": self.ended - self.began,
            "steps": self.steps,
            "supervised": self.supervised,
            "losses": self.losses,
        }
        Path(os.environ["PEERS_MARKS"]).write_text(json.dumps(record))


def cpu_seconds_of_the_run():
    """CPU seconds of this process, of those that started it, and of all their ended children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    pid = os.getppid()
    while pid > 1 and str(pid) != os.environ["PEERS_ROOT"]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        seconds += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        pid = int(fields[1])
    return seconds
