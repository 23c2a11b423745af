"""From pydantic's errors to ours: what came in a request, what was expected, what to do."""

from __future__ import annotations

from typing import Any

from pydantic_core import ErrorDetails

from lit_bert.io.texts import TextForm
from lit_bert.product.errors import ApiError

_KINDS = {
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def _kind_of(value: Any) -> str:
    return _KINDS.get(type(value), "null")


def refusal(error: ErrorDetails, form: TextForm, texts: str = "text[{}]") -> ApiError:
    """The 422 of an error that `request_model` found.

    Args:
        error: of pydantic.
        form: of a text.
        texts: the place of a text of several, with {} for its number.
    """
    place, value = error["loc"], error["input"]
    # Places are (), (field,), ("text", "one" or "several"), and on: an index, one in a pair or a column.
    alone = place == ("text", "one")
    head, rest = str(place[0]) if place else "the body", place[2:]
    if place[1:2] == ("several",) and rest:
        head, rest = texts.format(rest[0]), rest[1:]
    name = head + "".join(
        f"[{each}]" if isinstance(each, int) else f".{ascii(each)[1:-1][:100]}" for each in rest
    )
    one = {
        "single": "a string",
        "pair": "a list of two strings",
        "joined": f"an object with the columns {', '.join(ascii(each)[1:-1] for each in form.columns)}"[:300],
    }[form.kind]
    match error["type"]:
        case "missing" if len(place) > 2:
            code, message = "wrong_columns", f"{name} is missing; expected {one}."
        case "unknown_column":
            unknown = ascii(error["ctx"]["name"])[:100]
            code, message = "wrong_columns", f"{name} has a column {unknown}; expected {one}."
        case "too_short" | "too_long" if place != ("text", "several"):
            code = "wrong_pair"
            message = f"{name} has {len(value)} string{'s' * (len(value) != 1)}; expected two."
        case "list_type" | "model_type" if place:
            others = " or a list of those" if alone else ""
            code, message = "wrong_type", f"{name} is {_kind_of(value)}; expected {one}{others}."
        case "missing":
            code = "text_missing"
            message = 'The field text is missing; expected {"text": "…"} or a list of texts.'
        case "string_type" | "bool_type" | "model_type" as kind:
            string = "a string or a list of strings" if alone else "a string"
            objects = 'an object as in {"text": "…"}'
            expected = {"string_type": string, "bool_type": "true or false", "model_type": objects}[kind]
            code, message = "wrong_type", f"{name} is {_kind_of(value)}; expected {expected}."
        case "explain_one":
            code = "explain_one"
            message = "explain works on one text and a list came; send its texts one by one."
        case "too_short":
            code, message = "no_texts", "The field text is an empty list; send one text or more."
        case "too_long":
            most = error["ctx"]["max_length"]
            code = "too_many_texts"
            message = f"{len(value)} texts came and {most} are allowed; send them in parts."
        case "string_too_long":
            most = error["ctx"]["max_length"]
            code = "text_too_long"
            message = f"{name} has {len(value)} characters and {most} are allowed; shorten it."
        case "string_unicode":
            at = next(index for index, each in enumerate(value) if "\ud800" <= each <= "\udfff")
            code = "lone_surrogate"
            shown = f"{ascii(value[at])[1:-1]}, at character {at}"
            message = f"{name} has a lone surrogate, {shown}; send whole characters."
        case "string_too_short" | "invisible" as kind:
            invisible = "has only white space and invisible characters"
            what = invisible if kind == "invisible" else "is empty"
            code, message = "empty_text", f"{name} {what}; send a text with words, or leave it out."
        case _:  # one that no test has met
            code, message = "not_valid", f"{name}: {error['msg']}."
    return ApiError(422, code, message)
