from pathlib import Path

import pytest

from tests.reporting.example_runs import completed_run_in


@pytest.fixture
def completed_run(tmp_path: Path) -> Path:
    return completed_run_in(tmp_path / "run")
