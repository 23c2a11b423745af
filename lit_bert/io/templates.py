"""Jinja2 templates whose every value is encoded for the format that it is written into.

A template is a file beside the module that fills it. Each `{{ value }}` in it passes the encoder of the
format, unless it is `Markup` already: there is no other way for a text from outside into the output.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from markupsafe import escape as escape_html

from lit_bert.io import escape


def html_template(path: Path) -> Template:
    """An HTML template: values are escaped, and what a browser would drop is written as an escape."""
    return _environment(path, lambda value: escape_html(escape.line(value))).get_template(path.name)


def markdown_template(path: Path) -> Template:
    """A Markdown template: values are escaped; the filter `code` makes one a code span."""
    environment = _environment(path, lambda value: Markup(escape.markdown(value)))
    environment.filters["code"] = lambda value: Markup(escape.markdown_code(value))
    return environment.get_template(path.name)


def _environment(path: Path, encode: Callable[[Any], Markup]) -> Environment:
    """An environment whose values pass `encode`.

    `autoescape` has macros return `Markup`, which is not encoded again. Its own escaping, for HTML, then
    meets encoded values alone; so a Markdown template must not use filters that join values.
    """
    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else encode(value),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["fixed"] = lambda value, digits: f"{value:.{digits}f}"
    environment.filters["percent"] = lambda value, digits=0: f"{value:.{digits}%}"
    environment.filters["grouped"] = lambda value, digits=0: f"{value:,.{digits}f}"  # 12,345
    environment.filters["significant"] = lambda value, digits: f"{value:.{digits}g}"
    return environment


def json_in_html(value: Any) -> Markup:
    """JSON for a script element, which it cannot end: without `<`, `>` and `&`, whatever it holds."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":  # the last two end a line in older JavaScript
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
