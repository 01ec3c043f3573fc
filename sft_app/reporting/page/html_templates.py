"""Fill a page. Every value is escaped: the only markup that passes is what svg_chart drew."""

import base64
import hashlib
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sft_app.reporting.page import format_values
from sft_app.reporting.page.svg_chart import LegendEntry
from sft_app.reporting.run.summary import STATUS_LABELS
from sft_app.reporting.sweep.sweep_table import Column

_GLYPHS = "●■▲◆▼✚✖★"
"""The legend's likeness of svg_chart.MARKERS."""


def render(template: str, script: str | None = None, **values: Any) -> str:
    """Fill the template `template` with values, each of them escaped.

    `script` names a file of this folder: the one script that the page's own policy lets run.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["status_label"] = lambda status: STATUS_LABELS.get(status, status)
    environment.filters["share"] = format_values.share
    environment.filters["line_sample"] = line_sample
    environment.filters["consecutive_groups"] = consecutive_groups
    source = (Path(__file__).parent / script).read_text(encoding="utf-8") if script else ""
    return environment.get_template(template).render(
        script=Markup(source),
        script_hash=_policy(source),
        **values,
    )


def consecutive_groups(columns: list[Column]) -> list[tuple[str, int]]:
    """Return the headings over a table's columns, each with the number of columns it spans."""
    return [(group, len(list(members))) for group, members in groupby(columns, lambda c: c.group)]


def line_sample(entry: LegendEntry) -> str:
    """Draw the line in characters: solid or dashed, with its marker in the middle."""
    stroke = "╍╍" if entry.dashed else "━━"
    glyph = _GLYPHS[(entry.colour or 0) % len(_GLYPHS)] if entry.marker else ""
    return f"{stroke[0]}{glyph}{stroke[0]}" if glyph else stroke


def _policy(script: str) -> Markup:
    """The content security policy's word for exactly this script, or for none."""
    if not script:
        return Markup("'none'")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Markup(f"'sha256-{digest}'")
