"""A worker imports what it uses, and everything is there afterwards."""

import gc
import sys

import pytest

from sft_app.common.imports import lean_imports
from tests.programs import run_program


def test_a_package_is_not_there_inside_and_there_again_afterwards() -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == "colorsys"]:
        del sys.modules[name]
    with lean_imports("colorsys"), pytest.raises(ModuleNotFoundError):
        import colorsys
    import colorsys

    assert colorsys.rgb_to_hls(0, 0, 0) == (0, 0, 0)
    assert gc.isenabled()


def test_what_is_imported_already_stays() -> None:
    with lean_imports("gc"):
        import gc as again
    assert again is gc


def test_a_worker_imports_neither_data_frames_nor_adapters_and_can_still_read_the_hub() -> None:
    code = """
import sys
from sft_app.common.imports import UNUSED, lean_imports
with lean_imports(*UNUSED, "peft"):
    import sft_app.training.run_training
print(sorted({*UNUSED, "pandas", "peft"} & set(sys.modules)))
import datasets, peft
print(datasets.Dataset.from_list([{"a": 1}])[0])
"""
    assert run_program("-c", code).split("\n")[:2] == ["[]", "{'a': 1}"]
