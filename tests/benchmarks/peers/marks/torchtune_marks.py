"""Components for a torchtune configuration that mark its steps; torchtune has no callbacks.

A recipe makes the schedule last before it trains, and steps it after each step of the optimizer.
"""

from torchtune.modules.loss import CEWithChunkedOutputLoss as ChunkedLoss
from torchtune.training.lr_schedulers import get_cosine_schedule_with_warmup
from torchtune.training.metric_logging import DiskLogger
from training_marks import Marks

MARKS = Marks()


def marked_schedule(optimizer, num_training_steps, last_epoch=-1):
    schedule = get_cosine_schedule_with_warmup(
        optimizer, num_warmup_steps=1, num_training_steps=num_training_steps, last_epoch=last_epoch
    )
    step = schedule.step

    def step_and_mark():
        step()
        MARKS.end_step()

    schedule.step = step_and_mark
    MARKS.begin()
    return schedule


class CEWithChunkedOutputLoss(ChunkedLoss):
    """Its own loss, under its own name: the recipe asks for the name."""

    def forward(self, logits, labels):
        MARKS.supervised += int((labels != self.ignore_index).sum())  # shifted already
        return super().forward(logits, labels)


class MarkedLogger(DiskLogger):
    def log_dict(self, payload, step):
        MARKS.losses.append(float(payload["loss"]))
        super().log_dict(payload, step)

    def close(self):
        MARKS.write()
        super().close()
