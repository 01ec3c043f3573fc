"""What a run's record says of the code that made it."""

import subprocess
from pathlib import Path

from sft_app.training.run_record import git_revision


def test_a_checkout_names_its_own_commit() -> None:
    assert git_revision()


def test_a_package_installed_below_another_repository_does_not_name_that_ones_commit(
    tmp_path: Path,
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "theirs"], check=True)
    installed = tmp_path / ".venv" / "run_record.py"
    installed.parent.mkdir()
    installed.write_text("")
    assert git_revision(installed) is None
