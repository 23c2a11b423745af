"""The server as clients of text-embeddings-inference and of the Inference API meet it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from serving import JSON, Answer, Running, Start, error_of

from lit_bert.io.texts import SINGLE, TextForm
from lit_bert.product import openapi, tei
from lit_bert.product.errors import ApiError
from lit_bert.product.messages import Limits
from lit_bert.product.predictor import Predictor
from lit_bert.task.base import Task
from lit_bert.task.multi_label import MultiLabel
from lit_bert.task.ordinal import Ordinal
from lit_bert.task.regression import Regression
from lit_bert.task.single import SingleLabel

pytest.importorskip("uvicorn")
from huggingface_hub import InferenceClient, constants
from huggingface_hub.errors import HfHubHTTPError

from lit_bert.product.tei import FIELDS, TeiError, parse

SCHEMA = json.loads(Path(__file__).with_name("tei_schema.json").read_text(encoding="utf-8"))
LONG = "happy " * 200  # the model reads 128 tokens


def check(value: Any, name: str) -> None:
    Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{name}"}).validate(value)


@pytest.fixture(scope="module")
def server(start: Start, exported: Path) -> Running:
    return start(exported, "--texts=20", "--characters=2000", "--threads=2")


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the client of the Hub open connections; here it only has an address of this machine."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def post(server: Running, body: Any, path: str = "/predict") -> Answer:
    return server.ask("POST", path, json.dumps(body).encode(), JSON)


def refusal(answer: Answer, status: int, kind: str) -> str:
    assert answer.status == status, answer
    check(answer.json, "ErrorResponse")
    assert answer.json["error_type"] == kind
    return answer.json["error"]


@pytest.mark.parametrize("path", ["/predict", "/"])
def test_a_text_gets_the_score_of_every_class_highest_first(
    server: Running, exported: Path, path: str
) -> None:
    body = {"inputs": "i am so happy today"}
    check(body, "PredictRequest")
    answer = post(server, body, path)
    check(answer.json, "PredictResponse")
    (expected,) = Predictor(exported)(["i am so happy today"])
    assert {each["label"]: each["score"] for each in answer.json} == expected.probabilities
    scores = [each["score"] for each in answer.json]
    assert scores == sorted(scores, reverse=True)


def test_a_batch_gets_a_list_for_each_text_in_order(server: Running) -> None:
    body = {"inputs": [["i am happy"], ["i am sad"], ["i am angry"]], "truncate": True}
    check(body, "PredictRequest")
    answer = post(server, body).json
    check(answer, "PredictResponse")
    assert answer == [post(server, {"inputs": text}).json for (text,) in body["inputs"]]
    assert post(server, {"inputs": ["i am sad"]}).json == answer[1]  # one text, and no batch


def test_raw_scores_are_the_logits(server: Running, exported: Path) -> None:
    predictor = Predictor(exported)
    logits, _ = predictor.logits(["i am sad"])
    answer = post(server, {"inputs": "i am sad", "raw_scores": True}).json
    found = {each["label"]: each["score"] for each in answer}
    np.testing.assert_allclose([found[label] for label in predictor.labels], logits[0], rtol=1e-6)
    assert predictor.task.outputs(logits).tolist() == predictor.probs(["i am sad"]).tolist()


def test_long_texts_are_cut_unless_that_is_forbidden(server: Running) -> None:
    assert post(server, {"inputs": LONG}).status == 200
    assert post(server, {"inputs": LONG, "truncate": None}).status == 200
    assert "128 tokens" in refusal(post(server, {"inputs": LONG, "truncate": False}), 413, "Validation")
    answer = post(server, {"inputs": [["happy"], [LONG]], "truncate": False})
    assert "inputs[1]" in refusal(answer, 413, "Validation")
    assert post(server, {"inputs": "happy", "truncate": False}).status == 200
    assert post(server, {"inputs": LONG, "truncation_direction": "Right"}).status == 200
    refusal(post(server, {"inputs": LONG, "truncation_direction": "Left"}), 422, "Validation")


WRONG = [
    ({"inputs": "a", "text": "a"}, 422, "Validation", "text came"),
    ({"inputs": ["a", "b"]}, 422, "Validation", "pair"),
    ({"inputs": [["a"], ["a", "b"]]}, 422, "Validation", "inputs[1] is a pair"),
    ({"inputs": ["a", "b", "c"]}, 422, "Validation", "3 strings"),
    ({"inputs": [["a"], "b"]}, 422, "Validation", "inputs[1]"),
    ({"inputs": [[]]}, 422, "Validation", "0 strings"),
    ({"inputs": 5}, 422, "Validation", "inputs is 5"),
    ({"inputs": None}, 422, "Validation", "inputs is null"),
    ({"inputs": {"text": "a"}}, 422, "Validation", "an object"),
    ({"inputs": []}, 400, "Empty", "empty"),
    ({"inputs": ""}, 400, "Empty", "inputs is empty"),
    ({"inputs": [["a"], [" "]]}, 400, "Empty", "inputs[1]"),
    ({"inputs": [["a"]] * 21}, 413, "Validation", "21 texts"),
    ({"inputs": "a" * 2001}, 413, "Validation", "2001 characters"),
    ({"inputs": "\ud800"}, 422, "Validation", "lone surrogate"),
    ({"inputs": "a", "raw_scores": "yes"}, 422, "Validation", "raw_scores"),
    ({"inputs": "a", "truncate": 1}, 422, "Validation", "truncate"),
    ({"inputs": "a", "normalize": True}, 422, "Validation", "normalize"),
    ({"inputs": "a", "parameters": {"top_k": 0}}, 422, "Validation", "top_k"),
    ({"inputs": "a", "parameters": {"top_k": True}}, 422, "Validation", "top_k"),
    ({"inputs": "a", "parameters": {"function_to_apply": "relu"}}, 422, "Validation", "function_to_apply"),
    ({"inputs": "a", "parameters": {"max_length": 3}}, 422, "Validation", "parameters"),
    ({"inputs": "a", "parameters": [1]}, 422, "Validation", "parameters"),
    (
        {"inputs": "a", "raw_scores": True, "parameters": {"function_to_apply": "softmax"}},
        422,
        "Validation",
        "raw_scores",
    ),
]


@pytest.mark.parametrize(("body", "status", "kind", "said"), WRONG, ids=[each[3] for each in WRONG])
def test_bad_input_is_refused_in_their_form(
    server: Running, body: dict[str, Any], status: int, kind: str, said: str
) -> None:
    for path in ("/predict", "/"):
        assert said in refusal(post(server, body, path), status, kind)


@given(
    st.dictionaries(
        st.sampled_from([*FIELDS, "text"]) | st.text(max_size=3),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inside: (
                st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=3), inside, max_size=2)
            ),
            max_leaves=6,
        ),
        max_size=4,
    ),
    st.text(max_size=5) | st.lists(st.lists(st.text(max_size=5), max_size=3), max_size=3),
)
def test_any_json_is_a_query_or_refused(body: dict[str, Any], inputs: Any) -> None:
    for request in (body, {**body, "inputs": inputs}):
        if "inputs" not in request:
            continue
        try:
            query = parse(request, Limits(1000, 3, 4, 1, 1), "right", SINGLE)
        except ApiError as error:
            check(json.loads(bytes(TeiError(error).response().body)), "ErrorResponse")
        else:
            assert query.texts
            assert all(isinstance(text, str) and 0 < len(text) <= 4 for text in query.texts)
            assert "text" not in request


def test_the_root_takes_their_form_alone(server: Running) -> None:
    assert "inputs" in refusal(post(server, {"text": "happy"}, "/"), 422, "Validation")
    refusal(server.ask("POST", "/", b"happy", JSON), 400, "Validation")
    refusal(server.ask("POST", "/", b"{}", {"Content-Type": "text/plain"}), 415, "Validation")
    answer = server.ask("PUT", "/")
    error_of(answer, 405)
    assert "POST" in answer.headers["allow"]
    # A value that is the word inputs makes no request of theirs.
    assert server.predict("inputs").status == 200


def test_info_has_their_keys(server: Running, exported: Path) -> None:
    info = server.ask("GET", "/info").json
    check(info, "Info")
    classifier = info["model_type"]["classifier"]
    assert [classifier["id2label"][str(number)] for number in range(3)] == Predictor(exported).labels
    assert classifier["label2id"] == {label: int(key) for key, label in classifier["id2label"].items()}
    assert (info["max_input_length"], info["max_client_batch_size"]) == (128, 20)


def test_their_answers_are_counted_as_ours(server: Running) -> None:
    before = server.metrics()["lit_bert_texts_total"]
    post(server, {"inputs": [["happy"], ["sad"]]})
    assert server.metrics()["lit_bert_texts_total"] == before + 2


@pytest.mark.usefixtures("connected")
def test_the_client_of_the_hub_gets_what_the_predictor_says(server: Running, exported: Path) -> None:
    client = InferenceClient(model=f"http://127.0.0.1:{server.port}")
    predictor = Predictor(exported)
    (expected,) = predictor(["i am so happy today"])
    found = client.text_classification("i am so happy today")
    assert {each.label: each.score for each in found} == expected.probabilities
    assert found[0].label == expected.label
    (best,) = client.text_classification("i am so happy today", top_k=1)
    assert (best.label, best.score) == (expected.label, expected.probability)
    logits, _ = predictor.logits(["i am sad"])
    for function, scores in (
        ("none", logits[0]),
        ("sigmoid", 1 / (1 + np.exp(-logits[0]))),
        ("softmax", predictor.probs(["i am sad"])[0]),
    ):
        answers = client.text_classification("i am sad", function_to_apply=function)  # type: ignore[arg-type]
        by_label = {each.label: each.score for each in answers}
        np.testing.assert_allclose([by_label[label] for label in predictor.labels], scores, rtol=1e-5)
    with pytest.raises(HfHubHTTPError, match="top_k"):
        client.text_classification("happy", top_k=0)


@pytest.mark.usefixtures("connected")
def test_posting_to_the_root_takes_the_token(start: Start, exported: Path) -> None:
    server = start(exported, "--threads=1", LIT_BERT_TOKEN="s3cret")
    error_of(post(server, {"inputs": "happy"}, "/"), 401)
    assert server.ask("GET", "/").status == 200
    client = InferenceClient(model=f"http://127.0.0.1:{server.port}", token="s3cret")
    assert len(client.text_classification("happy")) == 3


def test_failures_and_overload_have_their_form(start: Start, exported: Path) -> None:
    server = start(exported, "--threads=1", "--queue=2", trouble=True)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    body = json.dumps({"text": ["sleep 2", "happy"]}).encode()
    with server.raw(head + b"Content-Length: %d\r\n\r\n" % len(body) + body):
        while server.metrics()["lit_bert_queue_texts"] < 2:
            pass
        answer = post(server, {"inputs": "happy"})
    refusal(answer, 429, "Overloaded")
    assert answer.headers["retry-after"] == "1"
    while server.metrics()["lit_bert_queue_texts"]:
        pass
    assert "secret" not in refusal(post(server, {"inputs": "poison"}), 424, "Backend")


# --- pairs, joined columns and other kinds of tasks

PAIRS = TextForm("pair", ("premise", "hypothesis"))
LIMITS = Limits(10_000, 5, 100, 5, 100)


@pytest.mark.parametrize(
    ("inputs", "texts", "batch"),
    [
        (["a", "b"], [["a", "b"]], False),
        ([["a", "b"], ["c", "d"]], [["a", "b"], ["c", "d"]], True),
        ([["a", "b"]], [["a", "b"]], True),
    ],
)
def test_a_model_of_pairs_reads_two_strings_as_a_pair(inputs: Any, texts: Any, batch: bool) -> None:
    check({"inputs": inputs}, "PredictRequest")
    query = tei.parse({"inputs": inputs}, LIMITS, "right", PAIRS)
    assert (query.texts, query.batch) == (texts, batch)


@pytest.mark.parametrize(
    ("inputs", "code", "said"),
    [
        ("a", "wrong_type", "expected a pair, or a batch"),
        (["a"], "pair", "one text and this model reads pairs"),
        ([["a", "b"], ["c"]], "pair", "inputs[1] is one text"),
        (["a", "b", "c"], "wrong_type", "3 strings"),
        ([["a", "b"], "c"], "wrong_type", "inputs[1]"),
        (["a", " "], "empty_text", "inputs[1]"),
        ([["a", "b"], ["c", "d" * 101]], "text_too_long", "inputs[1][1] has 101 characters"),
        ([["a", "b"]] * 6, "too_many_texts", "6 texts"),
    ],
)
def test_what_is_no_pair_is_refused(inputs: Any, code: str, said: str) -> None:
    with pytest.raises(ApiError) as error:
        tei.parse({"inputs": inputs}, LIMITS, "right", PAIRS)
    assert error.value.code == code
    assert said in str(error.value)


def test_joined_columns_have_no_place_in_inputs() -> None:
    with pytest.raises(ApiError, match="title, body; send text"):
        tei.parse({"inputs": "a"}, LIMITS, "right", TextForm("joined", ("title", "body")))


@pytest.mark.parametrize(
    ("task", "logits", "scores"),
    [
        (SingleLabel.of(["a", "b"]), [[0.0, np.log(3)]], [[0.25, 0.75]]),
        (Ordinal.of(["1", "2"]), [[0.0, np.log(3)]], [[0.25, 0.75]]),
        (MultiLabel.of(["a", "b"], {"thresholds": (0.2, 0.9)}), [[0.0, np.log(3)]], [[0.5, 0.75]]),
        (Regression.of(["stars"], {"scale": (3.0, 2.0)}), [[0.5]], [[4.0]]),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_scores_are_what_the_kind_of_task_says(task: Task, logits: Any, scores: Any) -> None:
    logits = np.array(logits, np.float32)
    np.testing.assert_allclose(tei.scores(logits, task.outputs, None), scores, rtol=1e-6)
    assert tei.scores(logits, task.outputs, "none").tolist() == logits.tolist()
    answer = json.loads(tei.encode(np.array(scores[0]), list(task.class_names), None))
    check(answer, "PredictResponse")
    assert len(answer) == len(task.class_names)


@pytest.mark.parametrize("form", [TextForm(), PAIRS, TextForm("joined", ("title", "body"))])
@pytest.mark.parametrize(
    "task", [SingleLabel.of(["a", "b"]), MultiLabel.of(["a", "b"]), Regression.of(["n"])]
)
def test_the_document_has_examples_that_its_own_schemas_allow(task: Task, form: TextForm) -> None:
    document = openapi.document(task, LIMITS, False, form)
    assert ("post" in document["paths"]["/"]) is (form.kind != "joined")
    components, checked = document["components"], 0
    for operation in (each for path in document["paths"].values() for each in path.values()):
        for body in (operation.get("requestBody"), operation["responses"]["200"]):
            content = body["content"].get("application/json", {}) if body else {}
            for example in content.get("examples", {}).values():
                Draft202012Validator({**content["schema"], "components": components}).validate(
                    example["value"]
                )
                checked += 1
    assert checked > 6
