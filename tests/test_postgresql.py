"""PostgreSQL, by a real server that the test starts where one is installed."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lit_bert import UserError
from lit_bert.data.corpus import find_corpus
from lit_bert.data.readers.options import ReadOptions
from lit_bert.data.rows import column_names, read_rows

BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path(shutil.which("initdb") or "none").parent)
QUERY = "SELECT text, label, stars FROM reviews ORDER BY id"
PASSWORD = "s3cret"

pytestmark = pytest.mark.skipif(not (BIN / "initdb").exists(), reason="PostgreSQL is not installed")


@pytest.fixture(scope="module")
def server():
    """The address of a database with 3,000 rows, and a function that stops its server."""
    owner = {"user": "postgres"} if os.getuid() == 0 else {}  # it refuses to run as root
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        folder = Path(name)
        if owner:
            shutil.chown(folder, "postgres")
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)

        def run(*command):
            subprocess.run(
                [str(BIN / command[0]), *command[1:]], check=True, capture_output=True, cwd=name, **owner
            )

        secret = f"--pwfile={folder / 'password'}"
        run(
            "initdb",
            "-D",
            f"{name}/data",
            "-U",
            "me",
            "--auth=scram-sha-256",
            secret,
            "--encoding=UTF8",
            "--no-sync",
        )
        settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={name} -F"
        log = ["-l", f"{name}/log"]
        subprocess.run(
            [str(BIN / "pg_ctl"), "-D", f"{name}/data", "-o", settings, *log, "-w", "start"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=name,
            **owner,
        )
        stop = lambda: subprocess.run(  # noqa: E731
            [str(BIN / "pg_ctl"), "-D", f"{name}/data", "-m", "immediate", "stop"],
            capture_output=True,
            cwd=name,
            **owner,
        )
        try:
            import psycopg

            with psycopg.connect(f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/postgres") as base:
                base.execute("CREATE TABLE reviews (id serial, text text, label text, stars numeric)")
                base.execute(
                    "INSERT INTO reviews (text, label, stars) SELECT 'text é ' || n, 'class ' || n % 3, n % "
                    "5 + 0.5 FROM generate_series(1, 3000) n"
                )
            yield f"postgresql://me@127.0.0.1:{port}/postgres", stop
        finally:
            stop()


def rows_of(address, query=QUERY):
    return [each.row for each in read_rows(address, ReadOptions(query=query))]


def refusal(call, *arguments):
    with pytest.raises(UserError) as caught:
        list(call(*arguments))
    assert "\n" not in str(caught.value)
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("variable", ["LIT_BERT_SQL_PASSWORD", "PGPASSWORD"])
def test_the_rows_of_a_query_come_with_a_password_of_the_environment(server, monkeypatch, variable):
    address, _ = server
    assert "gives no rows" in refusal(rows_of, address)
    monkeypatch.setenv(variable, PASSWORD)
    rows = rows_of(address)
    assert len(rows) == 3000
    assert rows[0]["text"] == "text é 1"
    assert str(rows[0]["stars"]) == "1.5"
    assert column_names(address, ReadOptions(query=QUERY)) == ["text", "label", "stars"]
    corpus = find_corpus(address, options=ReadOptions(query=QUERY))
    assert corpus.source.address == address
    assert sum(1 for _ in corpus.splits["train"]()) == 3000
    assert 'relation "gone" does not exist' in refusal(rows_of, address, "SELECT * FROM gone")
    assert "gives no rows" in refusal(rows_of, address, "DELETE FROM reviews RETURNING text")
    assert len(rows_of(address)) == 3000


def test_a_password_file_is_used(server, monkeypatch, tmp_path):
    address, _ = server
    file = tmp_path / "pgpass"
    file.write_text(f"127.0.0.1:*:*:me:{PASSWORD}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    assert len(rows_of(address)) == 3000


def test_a_fit_keeps_no_password(server, quick, tmp_path):
    address, _ = server
    settings = {**os.environ, "PGPASSWORD": PASSWORD}
    query = "SELECT text, label FROM reviews ORDER BY id LIMIT 60"
    flags = [f"--data.dataset={address}", f"--data.query={query}"]
    quick = [flag for flag in quick if not flag.startswith("--data.dataset")]
    verbs = (["fit", *quick, *flags], ["test", "--data.test_split=validation"])
    for verb, code in ((verbs[0], 0), ([*verbs[1], *flags], 0), (verbs[1], 2)):
        command = [sys.executable, "-m", "lit_bert", *verb]
        ended = subprocess.run(
            command, capture_output=True, text=True, env=settings, cwd=tmp_path, timeout=250
        )
        assert ended.returncode == code, ended.stderr
    assert "connects only to what the command names" in ended.stderr
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.name == "best.ckpt" for file in written)
    assert not [file for file in written if PASSWORD.encode() in file.read_bytes()]


def test_a_server_that_goes_away_is_one_line(server, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    address, stop = server
    rows = read_rows(address, ReadOptions(query="SELECT text FROM reviews, generate_series(1, 100)"))
    next(rows)
    stop()
    assert "gives no rows" in refusal(lambda: rows)
    assert "gives no rows" in refusal(rows_of, address)
