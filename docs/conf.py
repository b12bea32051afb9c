"""The site: the pages of this folder as they are, their order from README.md, and a reference made of the docstrings.

`make docs` builds it with warnings as errors. Pages are plain Markdown that GitHub shows as well: MyST reads them, and
no page has to know Sphinx. README.md is the one list of pages; its headings become the sections of the menu.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "python")]

import reference  # noqa: E402
import simtile  # noqa: E402

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "simtile"
release = version = simtile.__version__
copyright = "the simtile authors"
language = "en"

extensions = ["myst_parser"]
root_doc = "index"
source_suffix = {".md": "markdown"}
exclude_patterns = ["README.md", "build", "screenshots"]
suppress_warnings = ["myst.header"]  # a page may begin its sections at any level
myst_heading_anchors = 3
myst_links_external_new_tab = False
highlight_language = "text"

html_theme = "furo"
html_title = "simtile"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0f766e", "color-brand-content": "#0f766e"},
    "dark_css_variables": {"color-brand-primary": "#5eead4", "color-brand-content": "#5eead4"},
}
html_copy_source = False
html_show_sourcelink = False

_SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_PAGE = re.compile(r"\]\(([\w/]+)\.md\)")
_ANCHOR = re.compile(r'^<a id="(\w+)"></a>$', re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+)[^)]*\)")


def menu(readme: str) -> str:
    """A hidden table of contents for each section of README.md, its pages in the order of their links."""
    parts = []
    for title, body in [*_SECTION.findall(readme), ("Reference", "".join(f"]({page}.md)" for page in reference.PAGES))]:
        pages = "\n".join(dict.fromkeys(_PAGE.findall(body)))
        parts.append(f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n{pages}\n```\n")
    return "\n".join(parts)


def inside(page: str, link: re.Match[str]) -> str:
    """A link of a page as it is if it stays in this folder, else its text alone."""
    return link[0] if (HERE / page).parent.joinpath(link[2]).resolve().is_relative_to(HERE) else link[1]


def read(app: Sphinx, page: str, source: list[str]) -> None:
    """The front page is README.md and its menu. Links to files outside of this folder, for GitHub, become text.

    Anchors written as HTML, which GitHub needs, become MyST's, whose targets are checked.
    """
    if page == root_doc:
        readme = (HERE / "README.md").read_text(encoding="utf-8")
        source[0] = f"{readme}\n{menu(readme)}"
    source[0] = _ANCHOR.sub(r"(\1)=", _LINK.sub(lambda link: inside(page, link), source[0]))


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    reference.write(HERE / "reference")
    app.connect("source-read", read)
