"""Below srun the nodes of a step meet: several trainings may share a job's allocation."""

from pathlib import Path

import pytest

from sft_app.config.schema.launch import LaunchConfig
from sft_app.launch.nodes.slurm_rendezvous import slurm_rendezvous


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tells the names in a list as Slurm's does, of lists without ranges."""
    program = tmp_path / "scontrol"
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$3\" | tr , '\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("step", "meeting_point"),
    [
        ({}, "n1:20007"),
        ({"SLURM_STEP_NODELIST": "n1,n2", "SLURM_STEP_ID": "0"}, "n1:20007"),
        ({"SLURM_STEP_NODELIST": "n3,n4", "SLURM_STEP_ID": "1"}, "n3:20008"),
    ],
)
@pytest.mark.usefixtures("scontrol")
def test_nodes_of_a_step_meet_at_its_own_first_node(
    monkeypatch: pytest.MonkeyPatch, step: dict[str, str], meeting_point: str
) -> None:
    """SLURM_NODEID counts from the step's first node, which is n3 for srun --relative=2."""
    environment = {"SLURM_JOB_ID": "40007", "SLURM_JOB_NODELIST": "n1,n2,n3,n4",
                   "SLURM_NODEID": "1"}  # fmt: skip
    for name in ("SLURM_STEP_NODELIST", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (environment | step).items():
        monkeypatch.setenv(name, value)
    found = slurm_rendezvous(LaunchConfig(nnodes=2))
    assert (found.rdzv_endpoint, found.node_rank) == (meeting_point, 1)
