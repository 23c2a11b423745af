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
from lit_bert.product.access import PATHS_WITHOUT_TOKEN
from lit_bert.product.errors import STATUSES
from lit_bert.product.messages import Error, Health, Info, Limits, Remarks, request_model
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


def operations(task: Task, limits: Limits, form: TextForm = SINGLE) -> list[Operation]:
    """All of a server with this task and these limits."""
    html = {"text/html": {"schema": {"type": "string"}}}
    figures = {"text/plain": {"schema": {"type": "string"}}}
    document = {"application/json": {"schema": {"type": "object"}}}
    return [
        _predict(task, limits, form),
        Operation(
            "GET",
            "/health",
            "Whether texts can be labelled",
            "They can.",
            _json("Health", ok={"status": "ok"}),
            (503,),
            "Under any Host, as probes may not know the server's name.",
        ),
        Operation(
            "GET",
            "/info",
            "Classes, file, sha256 of the folder's files, scores and limits",
            "What is served.",
            _json("Info"),
            (401,),
        ),
        Operation("GET", "/metrics", "Figures for Prometheus", "In its text format.", figures, (401,)),
        Operation("GET", "/openapi.json", "This document", "In OpenAPI 3.1.", document),
        Operation("GET", "/docs", "This document as a page", "A page without a script.", html),
        Operation("GET", "/", "A page to try texts on", "A page that asks this server alone.", html),
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
        "Labels are the same whether a text comes alone or with others. Of a text longer than the model "
        "reads, the beginning counts, and truncated is true.",
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


def document(task: Task, limits: Limits, token: bool, form: TextForm = SINGLE) -> dict[str, Any]:
    """The OpenAPI document of a server with this task and these limits.

    Args:
        task: what an answer is.
        limits: of a request.
        token: whether requests need one.
        form: of a text.
    """
    request = request_model(limits.texts, limits.characters, form)
    models: list[type[BaseModel]] = [request, Remarks, Info, Health, Error]
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REFERENCE, schema_generator=_Plain
    )
    schemas = definitions["$defs"]
    schemas["Prediction"] = prediction_schema(task, schemas.pop("Remarks"))
    predictions = {"type": "array", "items": {"$ref": _REFERENCE.format(model="Prediction")}}
    schemas["Predictions"] = {
        "description": "Of each text of a list, in order.",
        "type": "object",
        "properties": {"predictions": predictions},
        "required": ["predictions"],
    }
    paths: dict[str, dict[str, Any]] = {}
    for each in operations(task, limits, form):
        answers = {"200": {"description": each.answer, "content": each.content}, **_errors(each.errors)}
        said: dict[str, Any] = {
            "summary": each.summary,
            "description": each.description,
            "responses": answers,
        }
        if each.request is not None:
            said["requestBody"] = each.request
        if each.path in PATHS_WITHOUT_TOKEN:
            said["security"] = []
        paths.setdefault(each.path, {})[each.method.lower()] = said
    whole: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "lit_bert",
            "version": __version__,
            "description": "A text classifier. Errors have a code for programs, a message for people.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if token:
        whole["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        whole["security"] = [{"token": []}]
    return whole


def _errors(statuses: tuple[int, ...]) -> dict[str, Any]:
    example = {"error": {"code": "a_word", "message": "What came, what was expected and what to do."}}
    content = _json("Error", any=example)
    return {
        str(status): {"description": STATUSES[status], "content": content}
        for status in sorted({*statuses, *_ANY_PATH})
    }


# --- the page

_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
pre { overflow: auto; padding: .6rem; border: 1px solid #8886; border-radius: .3rem }
dt { font-weight: bold }
"""


def page(document: dict[str, Any]) -> str:
    """The document as HTML."""
    info = document["info"]
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(info['title'])} API</title>",
        "<link rel='icon' href='data:,'><meta name='viewport' content='width=device-width'>",
        f"<style>{_STYLE}</style><main>",
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
