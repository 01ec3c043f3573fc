"""Pages in a real browser: Debian's chromium, without a window and without a network."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

DARK, LIGHT = 0, 1
"""What Chromium calls the preferred colour schemes."""

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip

MEASURE = """
<script>
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter((element) => {
    const box = element.getBoundingClientRect();
    // What scrolls inside a box of its own, or is folded away, does not make the page wider.
    return box.width > 0 && box.right > innerWidth + 1 && !element.closest(".scroll, svg, pre");
  });
  // A table in a box that has to be moved sideways hides what it has.
  const hidden = [...document.querySelectorAll(".scroll")].filter(
    (box) => box.scrollWidth > box.clientWidth + 1 && !box.querySelector(".heat"));
  const figures = [...document.querySelectorAll("svg.chart")].map((svg) => {
    const box = svg.getBoundingClientRect();
    const marks = [...svg.querySelectorAll("path")].filter((path) => {
      const own = path.getBoundingClientRect();
      return own.width > 20 || own.height > 20;
    });
    return {
      width: box.width, height: box.height, marks: marks.length,
      points: svg.querySelectorAll("use, circle").length,
      numbers: [...svg.querySelectorAll("text")].map((text) => text.textContent),
    };
  });
  const seen = {
    width: innerWidth, page: document.documentElement.scrollWidth, figures,
    wide: wide.map((element) => element.outerHTML.slice(0, 120)),
    hidden: hidden.map((element) => element.outerHTML.slice(0, 120)),
    background: getComputedStyle(document.body).backgroundColor,
  };
  parent.postMessage(JSON.stringify(seen), "*");
});
</script>
"""


FRAME = """<!doctype html><body>
<script>
addEventListener("message", (event) => document.body.setAttribute("data-seen", event.data));
</script>
<iframe src="measured.html" style="width: {width}px; height: 2000px; border: none"></iframe></body>
"""
"""A window of Chromium is at least 500 wide; a frame in it is as narrow as a phone."""


def find_chromium() -> str | None:
    """The browser's path, when it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def screenshot(page: Path, picture: Path, *, width: int, height: int, scheme: int) -> None:
    """Take a picture of the page as it is."""
    _run(page, picture.parent, f"--screenshot={picture}", width, height, scheme)


def measure(page: Path, work: Path, *, width: int, scheme: int) -> dict[str, Any]:
    """What the page looks like from inside: its width, what sticks out, its figures.

    The page's own policy forbids scripts: a copy without it carries the one that measures.
    """
    html = page.read_text(encoding="utf-8")
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    copy = work / "measured.html"
    copy.write_text(html.replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    frame = work / "frame.html"
    frame.write_text(FRAME.format(width=width), encoding="utf-8")
    answer = _run(frame, work, "--dump-dom", max(width, 600), 2000, scheme)
    found = re.search(r'data-seen="([^"]*)"', answer)
    assert found is not None, "the page did not load"
    seen: dict[str, Any] = json.loads(found.group(1).replace("&quot;", '"').replace("&amp;", "&"))
    return seen


def _run(page: Path, work: Path, what: str, width: int, height: int, scheme: int) -> str:
    browser = find_chromium()
    assert browser is not None
    profile = work / "profile"
    done = subprocess.run(
        [
            browser, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}",
            f"--blink-settings=preferredColorScheme={scheme}", what, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout
