"""Several models in one server."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import list_files
from huggingface_hub import InferenceClient, constants
from serving import JSON, Answer, Running, Start, alive, error_of

from lit_bert import UserError
from lit_bert.product.folder import verify
from lit_bert.product.models import MB, Model, Models
from lit_bert.product.predictor import Predictor

pytest.importorskip("uvicorn")
NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def folders(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three folders whose first class has the name of the folder."""
    place = tmp_path_factory.mktemp("models")
    for name in NAMES:
        folder = place / name
        shutil.copytree(exported, folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        old = config["id2label"]["0"]
        config["id2label"]["0"] = name
        config["label2id"][name] = config["label2id"].pop(old)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        list_files(folder)
    return {name: place / name for name in NAMES}


@pytest.fixture(scope="module")
def server(start: Start, folders: dict[str, Path]) -> Running:
    return start(folders["a"], str(folders["b"]), "--models", f"third={folders['c']}", "--threads=2")


def labels(server: Running, name: str) -> set[str]:
    return set(predict(server, name).json["probabilities"])


def predict(server: Running, name: str, text: str = "i am happy") -> Answer:
    return server.ask("POST", f"/models/{name}/predict", json.dumps({"text": text}), JSON)


def test_each_answers_under_its_name(server: Running, folders: dict[str, Path]) -> None:
    for name, folder in (("a", "a"), ("b", "b"), ("third", "c")):
        (expected,) = Predictor(folders[folder])(["i am happy"])
        assert predict(server, name).json == expected._asdict()
        info = server.ask("GET", f"/models/{name}/info").json
        assert (info["name"], info["sha256"]) == (name, verify(folders[folder]))
        assert server.ask("GET", f"/models/{name}/").status == 200
        document = server.ask("GET", f"/models/{name}/openapi.json").json
        assert document["servers"] == [{"url": f"/models/{name}"}]
        for path, methods in document["paths"].items():
            if "get" in methods:
                assert server.ask("GET", f"/models/{name}{path}").status == 200


def test_what_is_of_no_model_is_at_the_root(server: Running) -> None:
    assert alive(server)
    listed = server.ask("GET", "/models").json["models"]
    assert [each["name"] for each in listed] == ["a", "b", "third"]
    assert all(each["bytes"] > 0 for each in listed)
    assert b"models/third/" in server.ask("GET", "/").content
    for path in server.ask("GET", "/openapi.json").json["paths"]:
        assert server.ask("GET", path).status == 200
    assert "/models/NAME/predict" in error_of(server.predict("happy"), 404)["message"]
    error_of(predict(server, "nope"), 404)
    error_of(predict(server, "a%2Fb"), 404)


def test_clients_of_the_hub_post_to_the_name(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    client = InferenceClient(model=f"http://127.0.0.1:{server.port}/models/b")
    assert "b" in {each.label for each in client.text_classification("i am happy")}


def test_concurrent_first_requests_load_once(start: Start, folders: dict[str, Path]) -> None:
    server = start(folders["a"], str(folders["b"]), "--threads=2")
    assert not any(each["loaded"] for each in server.ask("GET", "/models").json["models"])
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: predict(server, "a").status, range(16)))
    assert answers == [200] * 16
    assert server.metrics()["lit_bert_model_loads_total"] == 1


def test_the_least_recently_used_is_unloaded(folders: dict[str, Path]) -> None:
    models = Models(several=True)
    for name, folder in folders.items():
        models.add(name, folder, None)
    for model in models.by_name.values():
        model.memory = 2 * MB  # what a tiny model takes varies
    models.limit = 5 * MB
    loads: list[int] = []
    models.on_load = lambda: loads.append(1)
    a, b, c = models.by_name.values()

    def use(*wanted: Model) -> list[str]:
        for each in wanted:
            assert models.predictor(each).labels == each.labels
        return [name for name in NAMES if models.is_open(name)]

    assert use(a, b) == ["a", "b"]
    assert use(a, c) == ["a", "c"]
    assert use(b, c) == ["b", "c"]
    assert models.open_bytes() == 4 * MB
    assert len(loads) == 4


def test_many_threads_and_too_little_memory_lose_no_answer(folders: dict[str, Path]) -> None:
    models = Models(several=True)
    for name, folder in folders.items():
        models.add(name, folder, None)
    models.limit = max(model.memory for model in models.by_name.values())
    wrong: list[str] = []

    def work(offset: int) -> None:
        for number in range(5):
            model = models.by_name[NAMES[(number + offset) % 3]]
            (answer,) = models.predictor(model)(["i am happy"])
            if list(answer.probabilities) != model.labels:
                wrong.append(model.name)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_folder_that_changed_while_it_was_not_loaded_is_not_loaded(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "changing"
    shutil.copytree(folders["a"], folder)
    models = Models(several=True)
    models.add("a", folder, None)
    config = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(config + " ", encoding="utf-8")
    list_files(folder)
    with pytest.raises(UserError, match="has changed"):
        models.predictor(models.by_name["a"])


def test_what_cannot_be_served_is_refused_at_the_start(
    folders: dict[str, Path], tmp_path: Path, refused: Callable[..., str]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(folders["a"], damaged)
    with (damaged / "model.onnx").open("ab") as stream:
        stream.write(b"\0")
    a, b = folders["a"], folders["b"]
    assert "model.onnx" in refused("serve", a, damaged)
    assert "'a'" in refused("serve", a, a)
    assert "'b'" in refused("serve", a, b, "--models", f"b={a}")
    assert "NAME=FOLDER" in refused("serve", "--models", str(a))
    assert "no model can" not in refused("serve", "--models", f"a/b={a}")
    assert "ASCII" in refused("serve", "--models", f"ü={a}")
    assert "--memory_limit_mb" in refused("serve", a, b, "--memory_limit_mb=0")


def test_a_model_larger_than_the_limit_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="--memory_limit_mb allows 0"):
        Models(several=True, limit=1000).add("a", folders["a"], None)


def test_the_token_guards_each_model(start: Start, folders: dict[str, Path]) -> None:
    server = start(folders["a"], str(folders["b"]), "--threads=1", LIT_BERT_TOKEN="s3cret")
    for path in ("/models/a/predict", "/models/a", "/models/a/"):
        error_of(server.ask("POST", path, b'{"inputs": "happy"}', JSON), 401)
    for path in ("/models", "/models/a/info"):
        error_of(server.ask("GET", path), 401)
    for path in ("/", "/docs", "/models/a/", "/models/a/docs", "/models/a/openapi.json"):
        assert server.ask("GET", path).status == 200
