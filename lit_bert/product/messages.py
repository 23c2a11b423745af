"""What the server takes and answers: models for pydantic, and the checks of a body before pydantic.

The models give both the checks of a request and the schemas of the OpenAPI document. Before them, the body
is decoded here: json and pydantic take the last of two equal keys, and numbers of any number of digits.
"""

from __future__ import annotations

import json
import unicodedata
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from lit_bert.io.texts import SINGLE, TextForm
from lit_bert.product.errors import ApiError
from lit_bert.product.refusals import refusal
from lit_bert.task.kinds import KINDS

MAX_DIGITS = 1000  # of a whole number; converting it takes time that grows with the square of its digits
_INVISIBLE = ("Cc", "Cf")  # Unicode categories: control and format characters


class Limits(NamedTuple):
    """What a request may ask for.

    Attributes:
        bytes: of a request's body.
        texts: in one request.
        characters: Unicode code points of one text.
        seconds: from the end of a request's head to its answer, the arrival of its body included.
        queue: texts that wait or are being computed, of all requests together.
    """

    bytes: int
    texts: int
    characters: int
    seconds: float
    queue: int


class Query(NamedTuple):
    """A request that passed all checks.

    Attributes:
        texts: one or more, each with something visible: strings, pairs of them, or mappings by column.
        several: whether they came as a list.
        explain: whether the weights of words are asked for; then there is one text.
    """

    texts: list[Any]
    several: bool
    explain: bool


# --- the models


def _check_visible(text: str) -> str:
    """The text; control characters within it are accepted, as the tokenizer drops them in training too."""
    if all(each.isspace() or unicodedata.category(each) in _INVISIBLE for each in text):
        raise PydanticCustomError("invisible", "only white space and invisible characters")
    return text


def _has_several(value: Any, form: TextForm) -> bool:
    """Whether the field text holds a list of texts: a pair is a list itself."""
    is_list = isinstance(value, list)
    return is_list and (form.kind != "pair" or not value or isinstance(value[0], list))


def _check_any_visible(columns: Any) -> Any:
    for name, value in columns:
        try:
            _check_visible(value)
            return columns
        except PydanticCustomError:
            assert isinstance(name, str)
    raise PydanticCustomError("invisible", "only white space and invisible characters")


def _text_model(characters: int, form: TextForm) -> Any:
    """A string; of a pair two; of joined columns one by the name of each, some of which may be empty."""
    text: Any = Annotated[str, Field(min_length=1, max_length=characters), AfterValidator(_check_visible)]
    if form.kind == "single":
        return text
    if form.kind == "pair":
        return Annotated[list[text], Field(min_length=2, max_length=2, description=", ".join(form.columns))]
    cell: Any = Annotated[str, Field(max_length=characters)]
    columns: dict[str, Any] = {
        f"column_{number}": (cell, Field(alias=name)) for number, name in enumerate(form.columns)
    }
    model = create_model("Columns", __config__=ConfigDict(extra="forbid", strict=True), **columns)

    def check_names(value: Any) -> Any:  # here, as pydantic would collect an error for each
        names = value if isinstance(value, dict) else ()
        unknown = next((name for name in names if name not in form.columns), None)
        if unknown is not None:
            raise PydanticCustomError("unknown_column", "unknown column", {"name": unknown})
        return value

    return Annotated[model, BeforeValidator(check_names), AfterValidator(_check_any_visible)]


@cache
def request_model(texts: int, characters: int, form: TextForm = SINGLE) -> type[BaseModel]:
    """The model of a request's body.

    Args:
        texts: in one request, at most.
        characters: of one string, at most.
        form: of a text.
    """

    def check_explain(request: Any) -> Any:
        if request.explain and _has_several(request.text, form):
            raise PydanticCustomError("explain_one", "explain works on one text")
        return request

    text: Any = _text_model(characters, form)
    several: Any = Annotated[list[text], Field(min_length=1, max_length=texts, fail_fast=True)]
    # Without the discriminator, an error would be reported for each of the two.
    either: Any = Annotated[
        Annotated[text, Tag("one")] | Annotated[several, Tag("several")],
        Discriminator(lambda value: "several" if _has_several(value, form) else "one"),
    ]
    explain = "Also say which words mattered; of one text only, not of a list."
    check: Any = model_validator(mode="after")(check_explain)
    fields: dict[str, Any] = {"text": (either, ...), "explain": (bool, Field(False, description=explain))}
    return create_model(
        "Request",
        __config__=ConfigDict(extra="forbid", strict=True),
        __validators__={"check_explain": check},
        **fields,
    )


class Word(BaseModel):
    """Where a word is in the text, and by how many nats it raises the log-odds of the label.

    Where the answer is a value, by how much it raises that.
    """

    start: int = Field(description="of its first character, in Unicode code points")
    end: int = Field(description="after its last character")
    weight: float = Field(description="negative where the word speaks against the label, or lowers the value")
    part: int = Field(default=0, description="the string of a pair, or the column, from 0; not of one string")


class Remarks(BaseModel):
    """What an answer holds beside the fields of its task."""

    truncated: bool = Field(description="whether a part of the text was not read")
    words: list[Word] = Field(default=[], description="only where explain is true")


class TextInfo(BaseModel):
    """What a text is given as."""

    form: Literal["single", "pair", "joined"] = Field(
        description="single: a string; pair: a list of two; joined: an object with a string for each column"
    )
    columns: list[str] = Field(description="of the training data, in order")


class MainScore(BaseModel):
    """The score that chooses between models."""

    name: str = Field(description="its key in scores")
    title: str = Field(description="for people")


class ClassifierType(BaseModel):
    """The classes, by their numbers and names, as text-embeddings-inference says them."""

    id2label: dict[str, str]
    label2id: dict[str, int]


class ModelType(BaseModel):
    """What kind of model is served."""

    classifier: ClassifierType


class Info(BaseModel):
    """What is served. From model_id on, the keys are those of text-embeddings-inference, as is version."""

    model_config = ConfigDict(protected_namespaces=())

    name: str = Field(description="of the run, or of the exported folder")
    task: str = Field(description=f"its kind: {' or '.join(KINDS)}")
    label_form: str = Field(
        description="what an answer holds: class, a label; classes, labels; number, a value"
    )
    labels: list[str] = Field(description="the classes, in the order of the model; of a number its name")
    main_score: MainScore
    text: TextInfo = Field(description="what a text is given as")
    max_length: int = Field(description="tokens that the model takes at a time, special ones included")
    long_texts: Literal["windows", "head_tail", "cut"] = Field(
        description="how texts of more are read: whole, in windows; at their two ends; or at their beginning"
    )
    file: str = Field(description="that is run")
    sha256: dict[str, str] = Field(description="of the folder's files, by their names")
    scores: dict[str, Any] = Field(description="as lit_bert.json has them, by the name of the split")
    promises: list[str] = Field(description="what is guaranteed of answers, a sentence each")
    limits: dict[str, float] = Field(description="of a request, and of the queue in texts")
    version: str = Field(description="of lit_bert")
    model_id: str = Field(description="the name again")
    model_sha: None = Field(description="of a repository on the Hub; sha256 has those of the files")
    model_dtype: str = Field(description="of the weights in the file, float32 or int8")
    model_type: ModelType
    max_concurrent_requests: int = Field(description="texts that may wait, of all requests together")
    max_input_length: int = Field(description="max_length again")
    max_batch_tokens: int = Field(description="computed at a time, padding included")
    max_batch_requests: int = Field(description="texts computed at a time")
    max_client_batch_size: int = Field(description="texts in one request")
    auto_truncate: bool = Field(description="whether long texts are cut where a request says nothing of it")
    tokenization_workers: int = Field(description="threads that tokenize and compute")


class ListedModel(BaseModel):
    """One of the models of a server."""

    name: str = Field(description="in its paths, where several are served")
    labels: list[str] = Field(description="the classes, in the order of the model")
    file: str = Field(description="that is run")
    bytes: int = Field(description="of memory while it is loaded, as measured at the start")
    loaded: bool = Field(description="whether it is in memory now")


class ModelList(BaseModel):
    """The models of a server."""

    models: list[ListedModel]


class Health(BaseModel):
    """The server is ready."""

    status: Literal["ok"]


class Problem(BaseModel):
    """An error's code and message."""

    code: str = Field(description="for programs; does not change")
    message: str = Field(description="for people: what came, what was expected and what to do")


class Error(BaseModel):
    """The body of every answer that is not 200."""

    error: Problem


# --- from bytes to a query


def parse(request: Any, limits: Limits, form: TextForm = SINGLE) -> Query:
    """The query that the JSON of a body holds.

    Raises:
        ApiError: 422 where it is another JSON than `request_model`'s.
    """
    model = request_model(limits.texts, limits.characters, form)
    if isinstance(request, dict):
        # Here, as pydantic would collect an error for each: a body of 1 MB can hold 100,000 unknown fields.
        unknown = next((name for name in request if name not in model.model_fields), None)
        if unknown is not None and "text" in request:
            message = f"There is no field {ascii(unknown)[:100]}; expected text, and maybe explain."
            raise ApiError(422, "unknown_field", message)
        request = request if unknown is None else {}
    try:
        valid: Any = model.model_validate(request)
    except ValidationError as error:
        raise refusal(error.errors(include_url=False)[0], form) from None
    several = _has_several(valid.text, form)
    texts = valid.text if several else [valid.text]
    if form.kind == "joined":
        texts = [text.model_dump(by_alias=True) for text in texts]
    return Query(texts, several, valid.explain)


def check_texts(texts: list[Any], limits: Limits, place: str, form: TextForm) -> None:
    """Checks texts as `parse` does.

    Args:
        texts: to check.
        limits: of a request.
        place: the field that they came in, for messages; {} in it stands for the number of the text.
        form: of a text.

    Raises:
        ApiError: 422.
    """
    model = request_model(limits.texts, limits.characters, form)
    try:
        model.model_validate({"text": texts})
    except ValidationError as error:
        raise refusal(error.errors(include_url=False)[0], form, place) from None


def decode(content: bytes) -> Any:
    """The JSON that a body holds.

    Raises:
        ApiError: 400 where it is no JSON in UTF-8, 422 where a field comes twice.
    """
    try:
        return _DECODER.decode(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ApiError(
            400, "not_utf8", f"The body is not UTF-8 at byte {error.start}; encode the JSON as UTF-8."
        ) from None
    except RecursionError:
        raise ApiError(400, "not_json", 'The JSON is nested too deeply; expected {"text": "…"}.') from None
    except ValueError as error:
        what = str(error)[:100]
        raise ApiError(400, "not_json", f'The body is not JSON ({what}); expected {{"text": "…"}}.') from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} characters")
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ApiError(
                422,
                "repeated_field",
                f"The field {ascii(name)[:100]} comes twice in an object; send it once.",
            )
        found[name] = value
    return found


# Made once: making it takes as long as decoding a short body.
_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_int=_integer, object_pairs_hook=_object)
