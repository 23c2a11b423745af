"""Files on other machines: fetched whole, again when they change, or one line says why not."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub import Hub
from stores import Store

from lit_bert import UserError
from lit_bert.data.corpus import find_corpus
from lit_bert.data.rows import column_names, read_rows

ROWS = [{"text": f"text {number}", "label": "xy"[number % 2]} for number in range(20)]
CSV = ("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)).encode()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIT_BERT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def store(monkeypatch):
    with Store({"train.csv": CSV, "packed/a.csv.gz": gzip.compress(CSV)}) as found:
        for name, value in {
            "AWS_ENDPOINT_URL": found.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_EC2_METADATA_DISABLED": "true",
            "STORAGE_EMULATOR_HOST": found.endpoint,
        }.items():
            monkeypatch.setenv(name, value)
        yield found


def places(store, name):
    return [f"{store.endpoint}/{name}", f"s3://bucket/{name}", f"gs://bucket/{name}"]


def rows_of(place):
    return [each.row for each in read_rows(place)]


def refusal(place):
    with pytest.raises(UserError) as caught:
        rows_of(place)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["http", "s3", "gs"])
def test_a_file_at_an_address_is_read(store, kind):
    for name in ("train.csv", "packed/a.csv.gz"):
        place = places(store, name)[kind]
        assert rows_of(place) == ROWS
        assert column_names(place) == ["text", "label"]
        corpus = find_corpus(place)
        assert corpus.source.kind == "address"
        assert corpus.source.address == place
        assert [each.row for each in corpus.splits["train"]()] == ROWS


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["http", "s3", "gs"])
def test_what_is_not_there_or_goes_away_is_one_line(store, kind):
    assert "nothing at" in refusal(places(store, "gone.csv")[kind])
    if kind == 0:
        store.breaks_off = True
        assert "cannot be fetched" in refusal(places(store, "train.csv")[kind])
        store.breaks_off = False
        store.status = 403
        assert "403" in refusal(places(store, "train.csv")[kind])
    assert not [file for file in Path("cache").rglob("*") if file.is_file()]


def test_a_pattern_of_addresses_is_one_split(store):
    store.files |= {"part-0.csv": CSV, "part-1.csv": CSV}
    corpus = find_corpus("s3://bucket/part-*.csv")
    assert [each.row for each in corpus.splits["train"]()] == ROWS * 2
    assert "expected one here" in refusal("s3://bucket/part-*.csv")


def test_a_file_is_fetched_again_only_when_it_changed(store):
    place = f"{store.endpoint}/train.csv"
    rows_of(place)
    fetched = store.requests.count("GET /train.csv")
    rows_of(place)
    assert store.requests.count("GET /train.csv") - fetched <= fetched - 1
    store.files["train.csv"] = CSV + b"more,x\n"
    assert len(rows_of(place)) == len(ROWS) + 1


def test_an_unknown_address_is_one_line():
    assert "begins with https://" in refusal("nosuch://host/a.csv")
    assert "cannot be fetched" in refusal("http://127.0.0.1:1/a.csv")


def test_a_file_of_a_data_set_on_the_hub_is_read(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.csv").write_bytes(CSV)
    script = (
        "from lit_bert.data.rows import read_rows\n"
        "print(sum(1 for _ in read_rows('hf://datasets/owner/name/train.csv')))\n"
    )
    with Hub(models={}, datasets={"owner/name": folder}) as hub:
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        ended = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            env={**os.environ, **settings},
            timeout=200,
        )
    assert ended.stdout == f"{len(ROWS)}\n", ended.stderr
