"""Start a process that imports torch and transformers in half the time.

Most of a worker's start is imports. Some of them it never uses: transformers and accelerate import
`datasets` (and with it pandas), `peft` and others wherever they are installed. And the garbage
collector looks through a million objects again and again, of which none is garbage: once while they
are made, and once more when the process ends.
"""

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Says at each import on a CPU, wherever it is installed, that a kernel cannot be had from the hub.
logging.getLogger("bitsandbytes.backends").setLevel(logging.ERROR)


UNUSED = ("datasets", "scipy", "sklearn", "boto3")
"""What transformers and accelerate import for what is not done here: to match detected objects, to
tune assisted generation, for Amazon's clusters. `datasets` reads hub data sets later, if at all."""


@contextmanager
def lean_imports(*unused: str) -> Iterator[None]:
    """Import, in this block, as if the packages `unused` were not installed; and without garbage.

    A name that stands for None in `sys.modules` is not found, by `import` as well as by
    `importlib.util.find_spec` (Python's import system, "The module cache"): libraries that ask what
    is installed find these packages missing, and remember that. After the block anybody may import
    them. What was imported is kept out of all later garbage collections.
    """
    hidden = [name for name in unused if name not in sys.modules]
    collected = gc.isenabled()
    gc.disable()
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name) is None:
                sys.modules.pop(name, None)
        gc.freeze()
        if collected:
            gc.enable()
