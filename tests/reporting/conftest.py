import sys
from pathlib import Path

import pytest

# Tests are imported by path (--import-mode=importlib): this lets them share example_runs.
sys.path.insert(0, str(Path(__file__).parent))

from example_runs import completed_run_in


@pytest.fixture
def completed_run(tmp_path: Path) -> Path:
    return completed_run_in(tmp_path / "run")
