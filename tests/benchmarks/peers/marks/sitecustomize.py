"""Python imports this at the start of each process: transformers' Trainer gets a callback more.

No program is changed: what is measured is the command that its users type. The callback waits until
the program itself imports the Trainer, since an import made for it would be part of the start.
"""

import importlib.abc
import importlib.util
import os
import sys
from typing import Any

TRAINER = "transformers.trainer"


class AfterTrainer(importlib.abc.MetaPathFinder):
    """Finds the Trainer's module like Python itself, and adds to it once it is executed."""

    def find_spec(self, fullname, path, target=None):
        if fullname != TRAINER:
            return None
        sys.meta_path.remove(self)
        spec: Any = importlib.util.find_spec(fullname)
        execute = spec.loader.exec_module

        def execute_and_add(module):
            execute(module)
            module.DEFAULT_CALLBACKS.append(callback_class(module.TrainerCallback))

        spec.loader.exec_module = execute_and_add
        return spec


def callback_class(base: Any) -> Any:
    from training_marks import Marks

    class MarkTheSteps(base):
        def __init__(self):
            self.marks = Marks()

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            def count(module, positional, named):
                if module.training and named.get("labels") is not None:
                    self.marks.count(named["labels"])

            self.hook = model.register_forward_pre_hook(count, with_kwargs=True)

        def on_step_begin(self, args, state, control, **kwargs):
            self.marks.begin()

        def on_step_end(self, args, state, control, **kwargs):
            self.marks.end_step()

        def on_log(self, args, state, control, logs=None, **kwargs):
            if logs and "loss" in logs:
                self.marks.losses.append(float(logs["loss"]))

        def on_train_end(self, args, state, control, **kwargs):
            self.hook.remove()
            self.marks.write()

    return MarkTheSteps


if "PEERS_MARKS" in os.environ:
    sys.meta_path.insert(0, AfterTrainer())
