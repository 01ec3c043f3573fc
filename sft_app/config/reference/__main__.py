"""`python -m sft_app.config.reference`: write what is generated from the settings' docstrings."""

import json
from pathlib import Path

from sft_app.config.conf_files import conf_dir
from sft_app.config.reference.json_schema import json_schema
from sft_app.config.reference.settings_page import settings_page

CHECKOUT = Path(__file__).parents[3]


def generated_files() -> dict[Path, str]:
    """Map each generated file of the checkout to its content."""
    return {
        CHECKOUT / "docs" / "reference" / "settings.md": settings_page(),
        conf_dir() / "schema.json": json.dumps(json_schema(), indent=1) + "\n",
    }


if __name__ == "__main__":
    for path, text in generated_files().items():
        path.write_text(text, encoding="utf-8")
        print(path)
