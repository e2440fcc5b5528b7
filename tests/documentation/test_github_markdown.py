"""From a page of GitHub to a page of the site: links, lists in lists, numbers of sources, long errors."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from documentation.github_markdown import site_page

PAGES = {
    "README.md": "index.md",
    "docs/gpu.md": "gpu.md",
    "docs/guides/gpu.md": "guides/gpu.md",
    "docs/curve.png": "curve.png",
    "benchmarks/README.md": "how.md",
}


def page(text: str, source: str = "docs/guides/gpu.md") -> str:
    return site_page(text, PurePosixPath(source), PAGES)


@pytest.mark.parametrize(
    ("source", "link", "there"),
    [
        ("docs/guides/gpu.md", "[a](../gpu.md#results)", "[a](../gpu.md#results)"),
        ("docs/guides/gpu.md", "[a `b`](../../benchmarks/README.md)", "[a `b`](../how.md)"),
        ("docs/gpu.md", "[a](../README.md#install)", "[a](index.md#install)"),
        ("README.md", "[a](docs/gpu.md)", "[a](gpu.md)"),
        ("README.md", "![a](docs/curve.png)", "![a](curve.png)"),
        ("docs/gpu.md", "[a](#here), [b](https://b.example/c.md)", "[a](#here), [b](https://b.example/c.md)"),
        ("docs/gpu.md", "[its JSON](../benchmarks/results)", "its JSON (`benchmarks/results`)"),
        ("README.md", "([LICENSE](LICENSE), [`NOTICE`](NOTICE))", "(LICENSE, `NOTICE`)"),
    ],
)
def test_a_link_leads_to_the_same_page_there_and_else_is_its_text(source: str, link: str, there: str) -> None:
    assert page(f"See {link}.\n", source) == f"See {there}.\n"


def test_a_fenced_block_stays_as_it_is() -> None:
    block = "```\n- [a](../none.md) [1]\n  - `x`\n```\n"
    assert page(f"Text.\n\n{block}\n  - no list\n") == f"Text.\n\n{block}\n    - no list\n"


def test_a_list_in_a_list_is_indented_by_four() -> None:
    assert page("- a\n  - b\n    - c\n") == "- a\n    - b\n        - c\n"


def test_the_number_of_a_source_names_no_object() -> None:
    assert page("x [1] [2], `a[3]`, [4](../gpu.md)\n") == "x \\[1\\] \\[2\\], `a[3]`, [4](../gpu.md)\n"


def test_a_block_with_an_error_may_wrap() -> None:
    assert page("```\nerror: a; do b\n```\n") == "``` { .text .wrap }\nerror: a; do b\n```\n"
    assert page("    ```console\n    $ a\n    error: b\n    ```\n").startswith("    ``` { .console .wrap }\n")
    assert page("```\na\n```\nerror: b\n```\nc\n```\n").count("wrap") == 0, "it stands between two blocks"
    for other in ("```\nno error: a\n```\n", "```python\nerror: int\n```\n"):
        assert page(other) == other
