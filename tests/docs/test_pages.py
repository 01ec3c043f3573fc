"""The pages: every link leads somewhere, in the repository and in the built site."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, anchors_of, links_of


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links_of(page):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors_of(target), link


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """--strict: a page that the navigation leaves out is one, and a link that leads nowhere."""
    answer = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    page = (tmp_path / "reference" / "matrix.html").read_text(encoding="utf-8")
    assert 'href="#refused"' in page
    assert "../../tests/" not in page, "the site has no tests: such links become text"
    # Nothing is fetched when a page is read.
    assert 'src="http' not in page and 'rel="stylesheet" href="http' not in page


SAYS = [*PAGES, ROOT / "Makefile", *(ROOT / "conf").rglob("*.yaml")]
_NAMED_FILE = re.compile(
    r"\b(?:conf|docs|examples|sft_app|tests)/[\w/.-]+\.(?:ipynb|md|py|sh|yaml)\b"
)


@pytest.mark.parametrize("page", SAYS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_of_the_repository_that_is_named_is_there(page: Path) -> None:
    named = set(_NAMED_FILE.findall(page.read_text(encoding="utf-8")))
    assert not [name for name in named if not (ROOT / name).is_file()]


PUBLISHED = sorted(p for p in (ROOT / "docs").rglob("*") if p.suffix in (".html", ".json", ".md"))
_OF_A_MACHINE = re.compile(r"(?<![\w./:-])/(?:home|mnt|root|tmp|Users|work)/[\w.-]+/")


@pytest.mark.parametrize("page", PUBLISHED, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_published_names_no_folder_of_a_machine(page: Path) -> None:
    assert not _OF_A_MACHINE.findall(page.read_text(encoding="utf-8"))
