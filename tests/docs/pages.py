"""The Markdown pages of the repository, and the links in them."""

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md"),
                *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])  # fmt: skip

_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)[^)]*\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_ANCHOR = re.compile(r'<a id="([^"]+)">')


@cache
def text_of(page: Path) -> str:
    """Read the page without its fenced code, which holds no links and no headings."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links_of(page: Path) -> list[str]:
    """List the targets of the page's links, in order."""
    return _LINK.findall(_INLINE_CODE.sub("x", text_of(page)))


def anchors_of(page: Path) -> set[str]:
    """List what `#...` can point to: headings, as code hosts and MkDocs name them, and <a id>."""
    text = text_of(page)
    headings = {
        re.sub(r"[^\w\- ]", "", title.strip().lower()).strip().replace(" ", "-")
        for title in _HEADING.findall(text)
    }
    return headings | set(_ANCHOR.findall(text))
