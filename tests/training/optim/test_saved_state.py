"""An optimizer's state is read back with what its package keeps in it, and nothing else is run."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from sft_app.training.optim.saved_state import read_state

CPU = torch.device("cpu")
PACKAGE = "galore_torch.galore_projector"


class GaLoreProjector:
    """As GaLore's: a rank, and by what gradients are multiplied."""

    def __init__(self) -> None:
        self.rank = 2
        self.ortho_matrix = torch.arange(6.0).reshape(3, 2)


GaLoreProjector.__module__ = PACKAGE


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harm",)


def test_the_projection_of_a_matrix_is_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is not needed here: a module of its name is."""
    module = ModuleType(PACKAGE)
    vars(module)["GaLoreProjector"] = GaLoreProjector
    monkeypatch.setitem(sys.modules, "galore_torch", ModuleType("galore_torch"))
    monkeypatch.setitem(sys.modules, PACKAGE, module)
    state = {"state": {0: {"step": 3, "projector": GaLoreProjector()}}, "param_groups": []}
    torch.save(state, tmp_path / "optimizer.pt")
    found = read_state(tmp_path / "optimizer.pt", CPU)["state"][0]["projector"]
    assert found.rank == 2
    assert torch.equal(found.ortho_matrix, GaLoreProjector().ortho_matrix)


def test_no_other_object_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state": {0: Harm()}}, tmp_path / "optimizer.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        read_state(tmp_path / "optimizer.pt", CPU)
    assert not (tmp_path / "harm").exists()
