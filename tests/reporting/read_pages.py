"""Read a report as a browser would: its elements, and its text."""

import re
from html.parser import HTMLParser

ATTACK = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


class TagCounter(HTMLParser):
    """Counts elements, attributes that run code, and addresses that would be fetched."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href") and not (value or "").startswith("#"):
                self.addresses.append(value or "")


def text_of(page: str) -> str:
    body = page.split("<body>")[1]
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())
