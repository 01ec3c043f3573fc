"""A hook of MkDocs: links to files of the repository that are no pages.

A page links to a test or a module by its relative path, which works where the repository is read.
The site holds the pages alone: there the link becomes one to `repo_url`, or plain text without it.
tests/docs/test_pages.py looks that each such file exists.
"""

import posixpath
import re
from typing import Any

LINK = re.compile(r"\[([^\]]+)\]\((\.\.?/[^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replace the links that lead out of docs/."""

    def replace(link: re.Match[str]) -> str:
        folder = posixpath.dirname(page.file.src_uri)
        target = posixpath.normpath(posixpath.join("docs", folder, link[2]))
        if target.startswith("docs/"):
            return link[0]
        return f"[{link[1]}]({config.repo_url}/blob/main/{target})" if config.repo_url else link[1]

    return LINK.sub(replace, markdown)
