"""The wheel carries its configuration, and works from any folder, in an environment of its own."""

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

import sft_app

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools would leave build/ in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in files:
        if not name.startswith(("tests/", "outputs/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run([*PIP, *build], check=True)
    (built,) = folder.glob("sft_app-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment that the wheel is installed into.

    The libraries are those of the running one, lent by path: its .pth files, and with them this
    checkout, count for nothing there.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = str(folder / "bin" / "python")
    install = [*PIP, "--python", python, "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    lent = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    assert sysconfig.get_paths()["purelib"] in lent
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "lent.pth").write_text("\n".join(lent) + "\n")
    return folder


def installed_package(environment: Path) -> Path:
    (package,) = environment.glob("lib/python*/site-packages/sft_app")
    return package


def run(
    environment: Path, cwd: Path, command: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(environment / "bin" / command), *arguments],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_index_would_accept_it(wheel: Path) -> None:
    check = [sys.executable, "-m", "twine", "check", "--strict", str(wheel)]
    answer = subprocess.run(check, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_version_is_said_in_one_place(environment: Path, tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" not in project and "version" in project["dynamic"]
    ask = "import importlib.metadata as m, sft_app; print(m.version('sft-app'), sft_app.__file__)"
    version, file = run(environment, tmp_path, "python", "-c", ask).stdout.split()
    assert version == sft_app.__version__
    assert Path(file).is_relative_to(environment)


def test_it_composes_from_another_folder(environment: Path, tmp_path: Path) -> None:
    arguments = ("experiment=demo", "rope=yarn", "--cfg", "job")
    answer = run(environment, tmp_path, "sft-train", *arguments)
    assert answer.returncode == 0, answer.stderr
    assert "method: yarn" in answer.stdout
    where = run(environment, tmp_path, "sft-train", "--info", "searchpath").stdout
    assert "pkg://sft_app.conf" in where


def test_every_command_is_installed(environment: Path, tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for command in project["scripts"]:
        answer = run(environment, tmp_path, command, "--help")
        assert answer.returncode == 0, answer.stderr
        assert command in answer.stdout


@pytest.mark.slow
def test_a_model_is_trained_from_another_folder(
    environment: Path, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    answer = run(
        environment, tmp_path, "sft-train",
        f"model.name_or_path={tiny_model}", f"data.train={chat_file}", "context_length=64",
        "trainer.max_steps=1", "trainer.save_strategy=no", "evaluation=none", "launch.device=cpu",
        f"data.cache_dir={tmp_path / 'cache'}", "hydra.run.dir=run",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    assert (tmp_path / "run" / "report.html").is_file()


def test_its_own_groups_answer_a_wrong_option(environment: Path, tmp_path: Path) -> None:
    answer = run(environment, tmp_path, "sft-train", "rope=yarnn")
    assert answer.returncode == 2
    assert "Did you mean rope=yarn?" in answer.stderr


def test_every_file_is_in_the_wheel(environment: Path) -> None:
    package = installed_package(environment)
    packaged = package / "conf"
    for pattern in ("*.yaml", "*.json"):
        assert {p.relative_to(packaged) for p in packaged.rglob(pattern)} == {
            p.relative_to(ROOT / "conf") for p in (ROOT / "conf").rglob(pattern)
        }
    for pattern in ("*.py", "*.html", "*.css", "*.js", "*.jinja", "pretrain/*.yaml", "*.typed"):
        ours = {p.relative_to(ROOT) for p in (ROOT / "sft_app").rglob(pattern)}
        theirs = {p.relative_to(package.parent) for p in package.rglob(pattern)}
        assert ours == {path for path in theirs if not path.is_relative_to("sft_app/conf")}
