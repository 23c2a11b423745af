"""The HTTP API as an OpenAPI 3.1 document, and that as a page without a script.

Schemas come from the models in messages.py, statuses from errors.py. The usual pages for such a document
load scripts from another host, which the server's Content-Security-Policy forbids.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from lit_bert import __version__
from lit_bert.io.escape import JOINERS
from lit_bert.io.texts import SINGLE, TextForm
from lit_bert.product import tei
from lit_bert.product.access import needs_token
from lit_bert.product.errors import STATUSES
from lit_bert.product.messages import Error, Health, Info, Limits, ModelList, Remarks, request_model
from lit_bert.task.base import Task

_ANY_PATH = (400, 403, 421, 431)  # errors that may come from each path
_REFERENCE = "#/components/schemas/{model}"


class Operation(NamedTuple):
    """What a path does.

    Attributes:
        method: of HTTP.
        path: as in a request.
        summary: a line.
        answer: what comes with 200.
        content: of that answer, by its media type.
        errors: statuses beside those that may come from each path.
        description: more than the summary.
        request: the request's body.
    """

    method: str
    path: str
    summary: str
    answer: str
    content: dict[str, dict[str, Any]]
    errors: tuple[int, ...] = ()
    description: str = ""
    request: dict[str, Any] | None = None


_HTML = {"text/html": {"schema": {"type": "string"}}}
_PAGES = [
    Operation(
        "GET",
        "/openapi.json",
        "This document",
        "In OpenAPI 3.1.",
        {"application/json": {"schema": {"type": "object"}}},
    ),
    Operation("GET", "/docs", "This document as a page", "A page without a script.", _HTML),
]


def _model_operations(task: Task, limits: Limits, form: TextForm) -> list[Operation]:
    """What a model of this task answers, within these limits."""
    return [
        _predict(task, limits, form),
        *([] if form.kind == "joined" else [_predict_tei(task, limits, form)]),
        Operation(
            "GET",
            "/info",
            "Classes, file, sha256 of the folder's files, scores and limits",
            "What is served.",
            _json("Info"),
            (401,),
        ),
        *_PAGES,
        Operation("GET", "/", "A page to try texts on", "A page that asks this server alone.", _HTML),
    ]


def _server_operations() -> list[Operation]:
    """What a server answers of no model."""
    figures = {"text/plain": {"schema": {"type": "string"}}}
    return [
        Operation("GET", "/models", "The models of this server", "All of them.", _json("ModelList"), (401,)),
        Operation(
            "GET",
            "/health",
            "Whether texts can be labelled",
            "They can.",
            _json("Health", ok={"status": "ok"}),
            (503,),
            "Under any Host, as probes may not know the server's name.",
        ),
        Operation("GET", "/metrics", "Figures for Prometheus", "In its text format.", figures, (401,)),
    ]


def _predict(task: Task, limits: Limits, form: TextForm) -> Operation:
    count = len(task.class_names)
    probs = np.array([0.9, *[round(0.1 / max(1, count - 1), 4)] * (count - 1)])
    answer = task.answer(probs, truncated=False)
    prediction = answer._asdict()
    part = {} if form.kind == "single" else {"part": 0}
    word = {"start": 7, "end": 10, "weight": 0.42, **part}
    explained = {**prediction, **task.explained(answer), "words": [word]}
    text, other = form.example("what a day"), form.example("oh no")
    several = {"predictions": [prediction, prediction]}
    by_tei = " A body with inputs in place of text is read and answered as by POST /." * (
        form.kind != "joined"
    )
    body = _json(
        "Request",
        one={"text": text},
        explained={"text": text, "explain": True},
        several={"text": [text, other]},
    )
    return Operation(
        "POST",
        "/predict",
        "Label one text, or several",
        "A prediction for a text; predictions, in order, for a list.",
        _json("Prediction", "Predictions", one=prediction, explained=explained, several=several),
        (401, 408, 413, 415, 422, 429, 500, 503, 504),
        "Labels are the same whether a text comes alone or with others. Where truncated is true, a text has "
        "more tokens than the model takes, and only a part of them counts; /info has which (long_texts)."
        f"{by_tei}",
        {"required": True, "description": f"At most {limits.bytes} bytes.", "content": body},
    )


_TEI_INPUTS = {
    "single": "a text, or a batch in which each text is a list of its own",
    "pair": "a pair of texts, or a batch of pairs",
}
_TEI_SCORES = {  # by Task.label_form
    "class": "Scores are probabilities and sum to 1.",
    "classes": "The score of a class is its probability alone: they need not sum to 1.",
    "number": "The score of the only label is the predicted number.",
}


def _predict_tei(task: Task, limits: Limits, form: TextForm) -> Operation:
    def batch_item(text: str) -> list[str]:
        given = form.example(text)
        return [given] if form.kind == "single" else given

    count = len(task.class_names)
    scores = [
        {"label": name, "score": round(2 * (count - place) / (count * (count + 1)), 4)}
        for place, name in enumerate(task.class_names)
    ]
    body = _json(
        "TeiRequest",
        one={"inputs": form.example("what a day")},
        several={
            "inputs": [batch_item("what a day"), batch_item("oh no")],
            "raw_scores": False,
            "truncate": True,
        },
        inference_api={"inputs": form.example("what a day"), "parameters": {"top_k": 1}},
    )
    answers: dict[str, Any] = {"one": scores, "several": [scores, scores], "inference_api": [scores[:1]]}
    return Operation(
        "POST",
        "/",
        "Scores of every class, as text-embeddings-inference answers",
        "The scores, highest first, of a text; a list of such lists for a batch, or where parameters came.",
        _json("TeiScores", "TeiBatch", **answers),
        (401, 408, 413, 415, 422, 424, 429, 504),
        f"inputs is {_TEI_INPUTS[form.kind]}. {_TEI_SCORES[task.label_form]} With raw_scores true the scores "
        "are logits. Where truncate is false, a text longer than the model reads is refused with 413. "
        "With parameters, as huggingface_hub.InferenceClient sends it, function_to_apply and top_k count. "
        "Errors are TeiError, but for those of the head of a request.",
        {"required": True, "description": f"At most {limits.bytes} bytes.", "content": body},
    )


def _json(*models: str, **examples: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Content that is one of some models, with examples by their names."""
    references = [{"$ref": _REFERENCE.format(model=model)} for model in models]
    schema = references[0] if len(references) == 1 else {"oneOf": references}
    named = {name: {"value": value} for name, value in examples.items()}
    return {"application/json": {"schema": schema, "examples": named}}


class _Plain(GenerateJsonSchema):
    """Schemas without a title for each field, which would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def prediction_schema(task: Task, remarks: dict[str, Any]) -> dict[str, Any]:
    """The schema of the answer to a text: the fields of its task, then those of messages.Remarks."""
    fields = task.answer_schema()
    return {
        **remarks,
        "title": "Prediction",
        "description": "What the model says of a text.",
        "properties": {**fields, **remarks["properties"], **task.explained_schema()},
        "required": [*fields, *remarks["required"]],
    }


def document(
    task: Task, limits: Limits, token: bool, form: TextForm = SINGLE, prefix: str = ""
) -> dict[str, Any]:
    """The OpenAPI document of a model.

    Args:
        task: what an answer is.
        limits: of a request.
        token: whether requests need one.
        form: of a text.
        prefix: of the model's paths, where several models are served; then the rest is in `overview`.
    """
    request = request_model(limits.texts, limits.characters, form)
    schemas = _schemas(request, Remarks, Info, Error, *(() if prefix else (Health, ModelList)))
    schemas["Prediction"] = prediction_schema(task, schemas.pop("Remarks"))
    predictions = {"type": "array", "items": {"$ref": _REFERENCE.format(model="Prediction")}}
    schemas["Predictions"] = {
        "description": "Of each text of a list, in order.",
        "type": "object",
        "properties": {"predictions": predictions},
        "required": ["predictions"],
    }
    if form.kind != "joined":
        schemas |= tei.schemas(form)
    described = _model_operations(task, limits, form) + ([] if prefix else _server_operations())
    whole = _whole("A text classifier.", described, schemas, token)
    return {**whole, "servers": [{"url": prefix}]} if prefix else whole


def overview(names: list[str], token: bool) -> dict[str, Any]:
    """The OpenAPI document of a server of several models, of what is of none of them.

    Args:
        names: of the models.
        token: whether requests need one.
    """
    said = "Several text classifiers; each has a document of its own: "
    said += ", ".join(f"/models/{name}/openapi.json" for name in names) + "."
    page = Operation("GET", "/", "The list of models", "A page of links to the page of each.", _HTML)
    return _whole(said, [*_server_operations(), *_PAGES, page], _schemas(Health, ModelList, Error), token)


def _schemas(*models: type[BaseModel]) -> dict[str, Any]:
    """The schemas of models, and of those in them, by their names."""
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REFERENCE, schema_generator=_Plain
    )
    return definitions["$defs"]


def _whole(
    description: str, operations: list[Operation], schemas: dict[str, Any], token: bool
) -> dict[str, Any]:
    """A document of these operations."""
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        answers = {"200": {"description": each.answer, "content": each.content}, **_errors(each)}
        said: dict[str, Any] = {
            "summary": each.summary,
            "description": each.description,
            "responses": answers,
        }
        if each.request is not None:
            said["requestBody"] = each.request
        if not needs_token(each.method, each.path):
            said["security"] = []
        paths.setdefault(each.path, {})[each.method.lower()] = said
    whole: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "lit_bert",
            "version": __version__,
            "description": f"{description} Errors have a code for programs, a message for people.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if token:
        whole["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        whole["security"] = [{"token": []}]
    return whole


def _errors(operation: Operation) -> dict[str, Any]:
    said = "What came, what was expected and what to do."
    content = _json("Error", any={"error": {"code": "a_word", "message": said}})
    of_tei = _json("TeiError", any={"error": said, "error_type": "Validation"})
    return {
        str(status): {
            "description": STATUSES[status],
            "content": of_tei
            if operation.method == "POST"
            and operation.path == "/"
            and status in operation.errors
            and status != 401
            else content,
        }
        for status in sorted({*operation.errors, *_ANY_PATH})
    }


# --- the page

_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
pre { overflow: auto; padding: .6rem; border: 1px solid #8886; border-radius: .3rem }
dt { font-weight: bold }
"""


START = (  # of a page
    "<!doctype html><html lang='en'><meta charset='utf-8'><title>lit_bert</title>"
    "<link rel='icon' href='data:,'><meta name='viewport' content='width=device-width'>"
    f"<style>{_STYLE}</style><main>"
)


def page(document: dict[str, Any]) -> str:
    """The document as HTML."""
    info = document["info"]
    parts = [
        START,
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}",
        " The same for programs: <a href='openapi.json'>openapi.json</a>.</p>",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(operation['summary'])}.")
            parts.append(f" {escape(operation['description'])}</p>")
            if "requestBody" in operation:
                parts.append(f"<h3>Request</h3><p>{escape(operation['requestBody']['description'])}</p>")
                parts.append(_examples(operation["requestBody"]["content"]))
            parts.append("<h3>Answers</h3><dl>")
            for status, response in operation["responses"].items():
                parts.append(f"<dt>{status}</dt><dd>{escape(response['description'])}")
                parts.append(_examples(response["content"]) if status == "200" else "")
                parts.append("</dd>")
            parts.append("</dl>")
    parts.append("<h2>Schemas</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts.append(f"<h3>{name}</h3>{_shown(schema)}")
    return "".join([*parts, "</main></html>"])


def _examples(content: dict[str, Any]) -> str:
    named = content.get("application/json", {}).get("examples", {})
    return "".join(_shown(example["value"]) for example in named.values())


def _shown(value: Any) -> str:
    """JSON as people read it; of other characters than letters and signs, JSON's escapes."""
    shown = "".join(
        each if each.isprintable() or each in "\n" + JOINERS else json.dumps(each)[1:-1]
        for each in json.dumps(value, indent=1, ensure_ascii=False)
    )
    return f"<pre>{escape(shown)}</pre>"
