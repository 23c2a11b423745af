"""An exported folder on the Hub, for real: tests/hub.py on loopback, asked by a fresh process."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub import Hub

import lit_bert
from lit_bert.product.folder import verify
from lit_bert.product.formats import ONNX
from lit_bert.product.predictor import Predictor

NAME = "owner/tiny-classifier"
TEXTS = ["i am so happy", "this is sad and down", "it was angry today", "the rain", ""]


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def call(*arguments: str) -> dict[str, Any]:
    """How the command line ended: exit code and output."""
    from lit_bert.__main__ import main

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(list(arguments))
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def pushing(ckpt_path: str, exact: str, *texts: str) -> dict[str, Any]:
    """Scenario: exports beside a Hub, pushed by who may, by who may not, and to nobody."""
    assert "huggingface_hub" not in sys.modules  # reads the environment when it is imported
    with Hub({}, {}) as hub:
        os.environ["HF_ENDPOINT"] = hub.endpoint
        from lit_bert.product import onnx

        # The 32-bit file is written once a session; this is the same.
        onnx.write_onnx = lambda network, path, _: shutil.copy(exact, path)  # type: ignore[assignment]
        export = ["export", f"--ckpt_path={ckpt_path}", "--max_f1_loss=100"]
        answer: dict[str, Any] = {"kept to oneself": call(*export, "--to=alone"), "asked": list(hub.requests)}

        push = [*export, f"--push={NAME}"]
        answer["unknown"] = call(*push, "--to=unknown")
        os.environ["HF_TOKEN"] = "hf_may_read"
        answer["forbidden"] = call(*push, "--to=forbidden")
        answer["nothing yet"] = [list(hub.created), list(hub.commits)]

        os.environ["HF_TOKEN"] = hub.token
        answer["unlicensed"] = call(*push, "--to=unlicensed", "--license=apache2")
        hub.fail = 403
        answer["gated"] = call(*push, "--to=gated")
        hub.fail = None
        answer["pushed"] = call(*push, "--to=pushed", "--private")
        assert answer["pushed"]["code"] == 0, answer["pushed"]
        answer["revision"] = hub.revision(NAME)
        answer["visibility"] = hub.created[NAME]
        answer["commits"] = list(hub.commits)
        answer["served"] = {
            name: hashlib.sha256(content).hexdigest()
            for name, content in hub.repos["models"][NAME].files.items()
        }

        from huggingface_hub import snapshot_download

        fetched = snapshot_download(NAME, local_dir="fetched")
        answer["verified"] = verify(fetched)
        answer["labels"] = [each.label for each in Predictor(fetched)(texts)]
    answer["nobody there"] = call(*push, "--to=unreachable")
    return answer


@pytest.fixture(scope="module")
def pushed(able, exported, tmp_path_factory):
    """The scenario's answer, and its working directory under `place`."""
    place = tmp_path_factory.mktemp("push")
    (place / "work").mkdir()
    code = (
        "import json, sys, test_push as here; from pathlib import Path; "
        "Path(sys.argv[1]).write_text(json.dumps(here.pushing(*sys.argv[2:])))"
    )
    paths = [Path(__file__).parent, Path(lit_bert.__file__).parent.parent]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "HF_HOME": str(place / "hf"),
        "HF_HUB_DISABLE_XET": "1",  # the stand-in knows the older way alone
        "LIT_BERT_CACHE": str(place / "tokens"),
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    scenario = [str(able / "best.ckpt"), str(exported / ONNX), *TEXTS]
    command = [sys.executable, "-c", code, str(place / "answer"), *scenario]
    done = subprocess.run(
        command, env=environment, cwd=place / "work", capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return {**json.loads((place / "answer").read_text()), "place": place / "work"}


def test_nothing_is_asked_of_the_hub_without_push(pushed):
    assert pushed["kept to oneself"]["code"] == 0, pushed["kept to oneself"]
    assert pushed["asked"] == []


def test_every_file_is_pushed_byte_for_byte_in_one_commit(pushed, exported):
    outcome = pushed["pushed"]
    assert outcome["code"] == 0, outcome
    assert pushed["commits"] == [[NAME, "Exported by lit_bert", sorted(os.listdir(exported))]]
    assert pushed["served"] == hashes(pushed["place"] / "pushed")
    assert pushed["visibility"] == "private"
    assert outcome["out"].endswith(f"/{NAME}/commit/{pushed['revision']}\n")


def test_what_was_pushed_is_fetched_again_and_labels_the_same(pushed, exported):
    assert pushed["verified"] == verify(pushed["place"] / "pushed")
    assert pushed["labels"] == [each.label for each in Predictor(exported)(TEXTS)]


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (
            "unknown",
            f"the Hub refuses {NAME} with status 401. Run `hf auth login` with a token that may write.",
        ),
        (
            "forbidden",
            f"the Hub refuses {NAME} with status 403. Run `hf auth login` with a token that may write.",
        ),
        ("gated", f"the Hub refuses {NAME} with status 403."),
        ("unlicensed", f'the Hub refuses {NAME}: Invalid metadata in README.md. - "license" must be one of'),
        ("nobody there", "the Hub cannot be reached (ConnectError)."),
    ],
)
def test_a_push_that_fails_is_one_line_and_leaves_the_folder_whole(pushed, exported, case, says):
    outcome = pushed[case]
    assert outcome["code"] == 2, outcome
    lines = outcome["err"].splitlines()
    assert [line for line in lines if line.startswith("lit_bert export: ")] == lines[-1:]
    assert lines[-1].startswith(f"lit_bert export: {says}")
    assert "Traceback" not in outcome["err"]
    folder = {"nobody there": "unreachable"}.get(case, case)
    whole = pushed["place"] / folder
    assert lines[-1].endswith(f"The folder {whole} is whole; push it again with `hf upload {NAME} {whole}`.")
    assert verify(whole).keys() == verify(exported).keys()


def test_who_may_not_write_changes_nothing(pushed):
    assert pushed["nothing yet"] == [[], []]
