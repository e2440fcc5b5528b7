"""A page as its reader meets it: tags, visible text, what stands in script elements."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags with their attributes, the visible text, and the content of the script elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.script = "", ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and not self.script:
            self.script = data
        elif self.tags and self.tags[-1][0] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element ``tag``."""
        return [attributes for name, attributes in self.tags if name == tag]

    def assert_runs_nothing(self, scripts: int = 0) -> None:
        """No script but the data, no picture but our own, no handler of an event."""
        assert len(self.all("script")) == scripts
        assert all((each["src"] or "").startswith("data:") for each in self.all("img"))
        assert not any(name.startswith("on") for _, attributes in self.tags for name in attributes)
