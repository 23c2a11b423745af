"""What the HTTP API of `serve` is, as an OpenAPI document and as a page that asks nothing of other hosts."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from lit_bert import __version__
from lit_bert.io.escape import JOINERS

ERRORS = {
    400: "The body is not JSON or not UTF-8; or the request has no Host header, or one that is no name.",
    401: "A token is set, and it did not come or another did.",
    403: "A browser says that a page of another site asks (headers Origin and Sec-Fetch-Site).",
    404: "There is nothing at this path.",
    405: "The path takes another method.",
    408: "The body did not arrive within the time limit.",
    413: "The body is larger than the limit.",
    415: "The content type is not application/json, its charset not UTF-8, or the body is compressed.",
    421: "The server does not answer to this Host; --allow-host names more.",
    422: "A field has another type, comes twice or is unknown; there are no or too many texts; or a text is "
    "empty, too long or has a lone surrogate.",
    429: "This client's address has its share of the queue already; see Retry-After.",
    500: "The server failed; its log says why.",
    503: "The queue is full, or the server is starting or shutting down; see Retry-After.",
    504: "There was no answer within the time limit.",
}

ANY_PATH = (400, 403, 421)  # may come from each path


def document(labels: list[str], limits: dict[str, float], token: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a server with these classes and limits."""
    first, rest = 0.9, round(0.1 / max(1, len(labels) - 1), 4)
    probabilities = {label: rest if index else first for index, label in enumerate(labels)}
    prediction = {
        "label": labels[0],
        "probability": first,
        "probabilities": probabilities,
        "truncated": False,
    }
    explained = {**prediction, "words": [{"start": 7, "end": 10, "weight": 0.42}]}
    text = {"type": "string", "minLength": 1, "maxLength": limits["characters"]}
    predict = {
        "summary": "Label one text, or several",
        "description": "Labels are the same whether a text comes alone or with others. Of a text longer than "
        "the model reads, the beginning counts, and truncated is true.",
        "requestBody": {
            "required": True,
            "description": f"At most {limits['bytes']} bytes.",
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/Request"},
                    "examples": {
                        "one": {"value": {"text": "what a day"}},
                        "explained": {"value": {"text": "what a day", "explain": True}},
                        "several": {"value": {"text": ["what a day", "oh no"]}},
                    },
                }
            },
        },
        "responses": {
            "200": {
                "description": "A prediction for a text; predictions, in order, for a list.",
                "content": {
                    "application/json": {
                        "schema": {
                            "oneOf": [
                                {"$ref": "#/components/schemas/Prediction"},
                                {"$ref": "#/components/schemas/Predictions"},
                            ]
                        },
                        "examples": {
                            "one": {"value": prediction},
                            "explained": {"value": explained},
                            "several": {"value": {"predictions": [prediction, prediction]}},
                        },
                    }
                },
            },
            **_errors(401, 408, 413, 415, 422, 429, 500, 503, 504),
        },
    }
    schemas = {
        "Request": {
            "type": "object",
            "required": ["text"],
            "additionalProperties": False,
            "properties": {
                "text": {
                    "oneOf": [
                        text,
                        {"type": "array", "items": text, "minItems": 1, "maxItems": limits["texts"]},
                    ]
                },
                "explain": {
                    "type": "boolean",
                    "default": False,
                    "description": "Also say which words mattered; of one text only, not of a list.",
                },
            },
        },
        "Prediction": {
            "type": "object",
            "required": ["label", "probability", "probabilities", "truncated"],
            "properties": {
                "label": {"type": "string", "enum": labels},
                "probability": {"type": "number", "minimum": 0, "maximum": 1},
                "probabilities": {
                    "type": "object",
                    "required": labels,
                    "properties": {label: {"type": "number", "minimum": 0, "maximum": 1} for label in labels},
                },
                "truncated": {"type": "boolean"},
                "words": {"type": "array", "items": {"$ref": "#/components/schemas/Word"}},
            },
        },
        "Predictions": {
            "type": "object",
            "required": ["predictions"],
            "properties": {
                "predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}}
            },
        },
        "Word": {
            "type": "object",
            "description": "Where a word is in the text, in Unicode code points, and by how many nats it "
            "raises the log-odds of the label; negative where it speaks against it.",
            "required": ["start", "end", "weight"],
            "properties": {
                "start": {"type": "integer"},
                "end": {"type": "integer"},
                "weight": {"type": "number"},
            },
        },
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "required": ["code", "message"],
                    "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
                }
            },
        },
    }
    paths = {
        "/predict": {"post": predict},
        "/health": {
            "get": {
                "summary": "Whether texts can be labelled",
                "security": [],
                "description": "Under any Host, as probes may not know the server's name.",
                "responses": {"200": _json("It can.", {"status": "ok"}), **_errors(503)},
            }
        },
        "/info": {
            "get": {
                "summary": "Classes, file, sha256 of the folder's files, scores and limits",
                "responses": {
                    "200": _json("What is served.", {"labels": labels, "limits": limits}),
                    **_errors(401),
                },
            }
        },
        "/metrics": {"get": _text("Figures for Prometheus", "text/plain", 401)},
        "/openapi.json": {
            "get": {
                "summary": "This document",
                "security": [],
                "responses": {"200": _json("OpenAPI 3.1.", {"openapi": "3.1.0"}), **_errors()},
            }
        },
        "/docs": {"get": {**_text("This document as a page", "text/html"), "security": []}},
        "/": {"get": {**_text("A page to try texts on", "text/html"), "security": []}},
    }
    whole: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "lit_bert",
            "version": __version__,
            "description": "A BERT text classifier. Errors have a code for programs, a message for people.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if token:
        whole["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        whole["security"] = [{"token": []}]
    return whole


def _json(description: str, example: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {"description": description, "content": content}


def _text(summary: str, kind: str, *refused: int) -> dict[str, Any]:
    content = {kind: {"schema": {"type": "string"}}}
    return {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": content}, **_errors(*refused)},
    }


def _errors(*statuses: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    example = {"error": {"code": "a_word", "message": "What came, what was expected and what to do."}}
    content = {"application/json": {"schema": schema, "example": example}}
    return {
        str(status): {"description": ERRORS[status], "content": content}
        for status in sorted({*statuses, *ANY_PATH})
    }


STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
pre { overflow: auto; padding: .6rem; border: 1px solid #8886; border-radius: .3rem }
dt { font-weight: bold }
"""


def page(document: dict[str, Any]) -> str:
    """The document as HTML without a script."""
    info = document["info"]
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(info['title'])} API</title>",
        "<link rel='icon' href='data:,'><meta name='viewport' content='width=device-width'>",
        f"<style>{STYLE}</style><main>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}",
        " The same for programs: <a href='openapi.json'>openapi.json</a>.</p>",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(operation['summary'])}.")
            parts.append(f" {escape(operation.get('description', ''))}</p>")
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
    each = content.get("application/json", {})
    values = [example["value"] for example in each.get("examples", {}).values()]
    return "".join(_shown(value) for value in values or [each[key] for key in ("example",) if key in each])


def _shown(value: Any) -> str:
    """JSON as people read it; of other characters than letters and signs, JSON's escapes."""
    shown = "".join(
        each if each.isprintable() or each in "\n" + JOINERS else json.dumps(each)[1:-1]
        for each in json.dumps(value, indent=1, ensure_ascii=False)
    )
    return f"<pre>{escape(shown)}</pre>"
