"""A stranger finds their way: small rooms, distinct names, no circles of imports."""

import tomllib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import grimp
import pytest

import sft_app
from sft_app.compat.private_names import PRIVATE_NAMES, PrivateName, find_private_name

ROOT = Path(sft_app.__file__).parent
MOST_MODULES_OF_A_ROOM = 15
SHARED_NAMES = {"__init__", "__main__"}
OPTIONAL = {"datasets", "peft", "bitsandbytes", "ray", "submitit", "liger_kernel"}


def test_no_room_is_crowded() -> None:
    rooms = Counter(str(path.parent.relative_to(ROOT)) for path in _modules())
    crowded = {room: n for room, n in rooms.items() if n > MOST_MODULES_OF_A_ROOM}
    assert not crowded


def test_no_two_modules_share_a_name() -> None:
    names = Counter(path.stem for path in _modules())
    assert not {name for name, n in names.items() if n > 1}


def test_every_room_is_in_the_wheel() -> None:
    """An editable install finds a folder that pyproject.toml forgot; a wheel does not."""
    pyproject = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    listed = pyproject["tool"]["setuptools"]["packages"]
    code = {path.parent for path in ROOT.rglob("*.py")}
    settings = {path for path in (ROOT.parent / "conf").rglob("*") if path.is_dir()}
    folders = {folder.relative_to(ROOT.parent) for folder in code}
    folders |= {Path("sft_app") / folder.relative_to(ROOT.parent) for folder in settings}
    folders |= {Path("sft_app/conf"), Path("sft_app/loader/tokenizer/chat_templates")}
    assert sorted(listed) == sorted(".".join(folder.parts) for folder in folders)


def test_imports_go_in_no_circle() -> None:
    """Between packages that are siblings: the import contracts see only the ones they name."""
    graph = grimp.build_graph("sft_app")
    modules = graph.modules - {"sft_app"}  # which names the functions of the API, for type checkers
    assert not _circles({m: graph.find_modules_directly_imported_by(m) for m in modules})


def test_a_circle_would_be_seen() -> None:
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


@pytest.mark.parametrize("name", PRIVATE_NAMES, ids=lambda name: name.path)
def test_private_names_that_we_lean_on_are_there(name: PrivateName) -> None:
    if (library := name.path.partition(".")[0]) in OPTIONAL and find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    try:
        find_private_name(name)
    except (AttributeError, ImportError) as error:
        pytest.fail(f"{name.path} is gone: {name.breaks}. ({error})")


def test_a_private_name_that_is_gone_is_missed() -> None:
    with pytest.raises(AttributeError):
        find_private_name(PrivateName("hydra.core.no_such_name", "nothing works", "never"))


def _modules() -> list[Path]:
    return [path for path in ROOT.rglob("*.py") if path.stem not in SHARED_NAMES]


def _circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that reach each other."""
    reach = {module: set(imported) for module, imported in imports.items()}
    for middle in reach:
        for module in reach:
            if middle in reach[module]:
                reach[module] |= reach[middle]
    circles = {frozenset(m for m in reach[a] if a in reach.get(m, ())) for a in reach}
    return [set(circle) for circle in circles if circle]
