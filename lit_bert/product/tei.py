"""Requests and answers in the form of text-embeddings-inference (TEI), and of Hugging Face's Inference API.

A body with the field `inputs` is one of these. TEI's is a text, a pair of texts, or a batch of lists that
each hold a text or a pair, so that `["a", "b"]` is a pair; it is answered with the score of every class, the
highest first. A body that has `parameters` as well, as `huggingface_hub.InferenceClient` sends it, is of the
Inference API, where the answer to a text is a list of such a list.

https://huggingface.co/docs/text-embeddings-inference

    curl http://127.0.0.1:8000/predict --json '{"inputs": [["what a day"], ["oh no"]]}'
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from starlette.responses import Response

from lit_bert.io.texts import TextForm
from lit_bert.product.errors import ApiError, json_response
from lit_bert.product.messages import Limits, check_texts
from lit_bert.task.classes import softmax
from lit_bert.task.multi_label import sigmoid

FIELDS = ("inputs", "raw_scores", "truncate", "truncation_direction", "parameters")
FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # from logits to scores
    "none": lambda logits: logits,
    "softmax": softmax,
    "sigmoid": sigmoid,
}
ERROR_TYPES = ("Validation", "Empty", "Overloaded", "Backend")  # of TEI's, those that occur here
# Codes of our errors whose status is another one in TEI; the rest are validation errors of the same status.
_STATUSES = {
    "text_too_long": (413, "Validation"),
    "too_many_tokens": (413, "Validation"),
    "too_many_texts": (413, "Validation"),
    "no_texts": (400, "Empty"),
    "empty_text": (400, "Empty"),
    "queue_full": (429, "Overloaded"),
    "too_many_requests": (429, "Overloaded"),
    "internal_error": (424, "Backend"),
    "too_slow": (504, "Backend"),
}


class Query(NamedTuple):
    """A request that passed all checks.

    Attributes:
        texts: one or more: strings, or pairs of them.
        batch: whether they came as a batch.
        nested: whether the answer to one text is a list of its list, as in the Inference API.
        function: from logits to scores, of `FUNCTIONS`; None is the outputs of the task.
        top: how many classes an answer has, at most; None is all.
        truncate: whether the model may read a part of a text only.
    """

    texts: list[Any]
    batch: bool
    nested: bool
    function: str | None
    top: int | None
    truncate: bool


class TeiError(ApiError):
    """An error as TEI writes it, `{"error": "for people", "error_type": "Validation"}`."""

    def __init__(self, error: ApiError) -> None:
        status, self.error_type = _STATUSES.get(error.code, (error.status, "Validation"))
        super().__init__(status, error.code, str(error), error.headers)

    def response(self) -> Response:
        """The error as a response."""
        body = {"error": str(self), "error_type": self.error_type}
        return json_response(body, self.status, self.headers)


def is_tei(content: bytes) -> bool:
    """Whether a body that was not parsed is of this form, for the shape of its error.

    Within a text there would be a backslash before the second quote.
    """
    return b'"inputs"' in content


def parse(request: dict[str, Any], limits: Limits, truncation_side: str, form: TextForm) -> Query:
    """The query that the JSON of a body holds.

    Args:
        request: with the field inputs.
        limits: of a request.
        truncation_side: where the model's tokenizer cuts a text.
        form: of a text.

    Raises:
        ApiError: 422.
    """
    if form.kind == "joined":
        columns = ", ".join(ascii(name)[1:-1] for name in form.columns)[:300]
        message = f"inputs cannot hold a text of the columns {columns}; send text, with a string for each."
        raise ApiError(422, "no_inputs", message)
    for name in request:
        if name in ("text", "explain"):
            message = f"inputs and {name} came; send inputs, or text without it."
            raise ApiError(422, "two_forms", message)
        if name not in FIELDS:
            message = f"There is no field {ascii(name)[:100]}; expected {', '.join(FIELDS)}."
            raise ApiError(422, "unknown_field", message)
    raw, truncate = (_flag(request, name) for name in ("raw_scores", "truncate"))
    direction = request.get("truncation_direction")
    if direction is not None and (not isinstance(direction, str) or direction.lower() != truncation_side):
        message = f"truncation_direction is {_shown(direction)}; this model's is {truncation_side}."
        raise ApiError(422, "wrong_direction", message)
    nested = "parameters" in request
    function, top = _parameters(request["parameters"]) if nested else (None, None)
    if raw and function not in (None, "none"):
        message = f"raw_scores and function_to_apply {function} came; send one of them."
        raise ApiError(422, "two_forms", message)
    texts, batch = _texts(request["inputs"], form)
    check_texts(texts, limits, "inputs[{}]" if batch else "inputs", form)
    return Query(texts, batch, nested, "none" if raw else function, top, truncate is not False)


def _flag(request: dict[str, Any], name: str) -> bool | None:
    value = request.get(name)
    if value is not None and not isinstance(value, bool):
        raise ApiError(422, "wrong_type", f"{name} is {_shown(value)}; expected true or false.")
    return value


def _parameters(value: Any) -> tuple[str | None, int | None]:
    """The function and the number of classes that the Inference API's parameters ask for."""
    given = {} if value is None else value
    if not isinstance(given, dict) or not given.keys() <= {"function_to_apply", "top_k"}:
        message = f"parameters is {_shown(value)}; expected an object of function_to_apply and top_k."
        raise ApiError(422, "wrong_parameters", message)
    function, top = given.get("function_to_apply"), given.get("top_k")
    if function is not None and (not isinstance(function, str) or function not in FUNCTIONS):
        message = f"function_to_apply is {_shown(function)}; expected {' or '.join(FUNCTIONS)}."
        raise ApiError(422, "wrong_parameters", message)
    if top is not None and (type(top) is not int or top < 1):
        message = f"top_k is {_shown(top)}; expected a whole number of 1 or more."
        raise ApiError(422, "wrong_parameters", message)
    return function, top


def _texts(inputs: Any, form: TextForm) -> tuple[list[Any], bool]:
    """The texts of `inputs`, each as `TextForm.text_from` takes it, and whether they are a batch."""
    is_pair = form.kind == "pair"
    size, one = (2, "two strings that are a pair") if is_pair else (1, "one string")
    batches = '[["one", "two"], …]' if is_pair else '[["one"], ["two"]]'
    if isinstance(inputs, str) and not is_pair:
        return [inputs], False
    if not isinstance(inputs, list):
        wanted = "a pair" if is_pair else "a text"
        message = f"inputs is {_shown(inputs)}; expected {wanted}, or a batch such as {batches}."
        raise ApiError(422, "wrong_type", message)
    if not inputs:
        raise ApiError(422, "no_texts", "inputs is an empty list; send one text or more.")
    batch = isinstance(inputs[0], list)
    texts: list[Any] = []
    for number, item in enumerate(inputs if batch else [inputs]):
        place = f"inputs[{number}]" if batch else "inputs"
        if not isinstance(item, list) or not all(isinstance(text, str) for text in item):
            message = f"{place} is {_shown(item)}; expected a list of {one}."
            raise ApiError(422, "wrong_type", message)
        if len(item) == 3 - size:
            came, read, more = ("one text", "pairs", "pairs") if is_pair else ("a pair", "one text", "texts")
            message = f"{place} is {came} and this model reads {read}; two {more} are {batches}."
            raise ApiError(422, "pair", message)
        if len(item) != size:
            more = "pairs" if is_pair else "texts"
            message = f"{place} is a list of {len(item)} strings; several {more} are {batches}."
            raise ApiError(422, "wrong_type", message)
        texts.append(item if is_pair else item[0])
    return texts, batch


def _shown(value: Any) -> str:
    """A value of a request for a message; of lists and objects only what they are."""
    return (
        "a list"
        if isinstance(value, list)
        else "an object"
        if isinstance(value, dict)
        else json.dumps(value)[:100]
    )


def scores(
    logits: np.ndarray, outputs: Callable[[np.ndarray], np.ndarray], function: str | None
) -> np.ndarray:
    """The scores (N, C) of logits (N, C).

    Args:
        logits: of the network.
        outputs: of the task: probabilities, or numbers.
        function: as in `Query`.
    """
    return (outputs if function is None else FUNCTIONS[function])(logits)


def encode(scores: np.ndarray, labels: list[str], top: int | None) -> bytes:
    """The answer to a text, of the scores (C,) of the classes, the highest first."""
    order = np.argsort(-scores, kind="stable")[:top]
    return json.dumps([{"label": labels[each], "score": float(scores[each])} for each in order]).encode()


def join(answers: list[bytes], query: Query) -> bytes:
    """The body of the response, of the answer to each text."""
    return b"[" + b", ".join(answers) + b"]" if query.batch or query.nested else answers[0]


def schemas(form: TextForm) -> dict[str, Any]:
    """The JSON schemas of requests and answers, by their names in the OpenAPI document."""
    flag = {"type": ["boolean", "null"]}
    one = {"type": "string"}
    size = 2 if form.kind == "pair" else 1
    item = {"type": "array", "items": one, "minItems": size, "maxItems": size}
    inputs = [item, {"type": "array", "items": item, "minItems": 1}]
    score = {
        "type": "object",
        "properties": {"label": one, "score": {"type": "number"}},
        "required": ["label", "score"],
    }
    return {
        "TeiRequest": {
            "type": "object",
            "properties": {
                "inputs": {"oneOf": inputs if form.kind == "pair" else [one, *inputs]},
                "raw_scores": flag,
                "truncate": flag,
                "truncation_direction": one,
                "parameters": {
                    "type": "object",
                    "properties": {
                        "function_to_apply": {"enum": [*FUNCTIONS, None]},
                        "top_k": {"type": ["integer", "null"], "minimum": 1},
                    },
                    "additionalProperties": False,
                },
            },
            "required": ["inputs"],
            "additionalProperties": False,
        },
        "TeiScores": {"type": "array", "items": score},
        "TeiBatch": {"type": "array", "items": {"type": "array", "items": score}},
        "TeiError": {
            "type": "object",
            "properties": {"error": one, "error_type": {"enum": list(ERROR_TYPES)}},
            "required": ["error", "error_type"],
        },
    }
