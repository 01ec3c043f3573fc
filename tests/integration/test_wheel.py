"""The wheel carries its configuration, and works from any folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel, built from this checkout, is installed into."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = folder / "source"
    # Built from a copy: setuptools would leave build/ in the checkout.
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in files:
        if not name.startswith(("tests/", "outputs/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("sft_app-*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def run_installed(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sft_app.train", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_composes_from_another_folder(installed: Path, tmp_path: Path) -> None:
    arguments = ("experiment=demo", "rope=yarn", "--cfg", "job")
    answer = run_installed(installed, tmp_path, *arguments)
    assert answer.returncode == 0, answer.stderr
    assert "method: yarn" in answer.stdout
    where = run_installed(installed, tmp_path, "--info", "searchpath").stdout
    assert "pkg://sft_app.conf" in where


def test_its_own_groups_answer_a_wrong_option(installed: Path, tmp_path: Path) -> None:
    answer = run_installed(installed, tmp_path, "rope=yarnn")
    assert answer.returncode == 2
    assert "Did you mean rope=yarn?" in answer.stderr


def test_every_data_file_is_in_the_wheel(installed: Path) -> None:
    packaged = installed / "sft_app" / "conf"
    assert {p.relative_to(packaged) for p in packaged.rglob("*.yaml")} == {
        p.relative_to(ROOT / "conf") for p in (ROOT / "conf").rglob("*.yaml")
    }
    for pattern in ("*.html", "*.css", "*.js", "*.jinja", "pretrain/*.yaml"):
        ours = {p.relative_to(ROOT) for p in (ROOT / "sft_app").rglob(pattern)}
        assert ours == {p.relative_to(installed) for p in (installed / "sft_app").rglob(pattern)}
