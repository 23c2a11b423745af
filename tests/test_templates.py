"""Templates: whatever a value holds, it stays a value of the format that it is written into."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import jinja2
import pytest
from markupsafe import Markup
from ugly import UGLY

from lit_bert.io import escape
from lit_bert.io.templates import html_template, json_in_html, markdown_template


def rendered(folder: Path, template: str, markdown: bool = False, **values: object) -> str:
    path = folder / "template.jinja"
    path.write_text(template, encoding="utf-8")
    return (markdown_template if markdown else html_template)(path).render(**values)


@pytest.mark.parametrize("value", UGLY)
def test_a_value_in_html_is_one_line_of_text_also_through_macros_and_attributes(
    value: str, tmp_path: Path
) -> None:
    template = '{% macro cell(x) %}<td title="{{ x }}">{{ x }}</td>{% endmacro %}{{ cell(value) }}'
    found = rendered(tmp_path, template, value=value)
    match = re.fullmatch(r'<td title="([^"]*)">([^<]*)</td>', found)
    assert match
    for each in match.groups():
        assert not set('<>"\n\r\x00\u202e') & set(each)
        assert html.unescape(each) == escape.line(value)


@pytest.mark.parametrize("value", UGLY)
def test_a_value_in_markdown_is_encoded_once(value: str, tmp_path: Path) -> None:
    template = "{% macro cell(x) %}| {{ x }} |{% endmacro %}{{ cell(value) }}\n{{ value | code }}"
    found = rendered(tmp_path, template, markdown=True, value=value)
    assert found == f"| {escape.markdown(value)} |\n{escape.markdown_code(value)}"


def test_markup_is_not_encoded_again_and_numbers_have_their_filters(tmp_path: Path) -> None:
    template = "{{ raw }} {{ 1234567 | grouped }} {{ 0.12345 | fixed(3) }} {{ 0.5 | percent }}"
    assert rendered(tmp_path, template, raw=Markup("<b>")) == "<b> 1,234,567 0.123 50%"


def test_a_value_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(jinja2.UndefinedError):
        rendered(tmp_path, "{{ missing }}")


@pytest.mark.parametrize("value", [UGLY, {name: [1.5, None, name] for name in UGLY}])
def test_json_in_a_page_cannot_end_its_element_and_is_the_same_value(value: object) -> None:
    text = json_in_html(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value
