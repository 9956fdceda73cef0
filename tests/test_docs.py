"""The documents: links that lead somewhere, and a first page that stays one."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def missing(page: Path, text: str) -> list[str]:
    """Relative links and pictures of ``text`` that are not there."""
    links = (link.split("#")[0] for link in LINK.findall(text))
    local = (link for link in links if link and not re.match(r"[a-z]+:", link))
    return [link for link in local if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page):
    assert missing(page, page.read_text()) == []


def test_the_check_finds_a_dead_link():
    assert missing(ROOT / "README.md", "[a](docs/gone.md#x) [b](https://x.org)") == ["docs/gone.md"]


def test_every_page_of_the_documents_is_linked():
    linked = set()
    for page in PAGES:
        links = (link.split("#")[0] for link in LINK.findall(page.read_text()))
        linked |= {(page.parent / link).resolve() for link in links if link}
    assert {page for page in PAGES[2:] if page.resolve() not in linked} == set()


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_bytes()) < 7000
