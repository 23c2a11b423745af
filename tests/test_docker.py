"""The images and the composition, as far as they can be tried without Docker; `make image` runs the steps."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from serving import ROOT

pytest.importorskip("uvicorn")
from lit_bert.product.access import Access, check_host
from lit_bert.product.errors import ApiError
from lit_bert.product.hosts import Hosts
from lit_bert.verbs.serve import _parser

DOCKER = ROOT / "docker"
# Lets a program import the packages of some distributions alone, beside the standard library and lit_bert.
FENCE = """
import sys
class Fence:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} in the image", name=name)
sys.meta_path.insert(0, Fence())
from lit_bert.__main__ import main
sys.exit(main(["serve", {folder!r}, "--port=0"]))
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def listed() -> set[str]:
    lines = (DOCKER / "serve.txt").read_text(encoding="utf-8").splitlines()
    return {normal(line) for line in lines if line and not line.startswith("#")}


def test_what_is_listed_for_the_image_is_enough_to_serve(exported: Path) -> None:
    kept = listed() | {"lit-bert"}
    hidden = {
        module
        for module, owners in packages_distributions().items()
        if module not in sys.stdlib_module_names and not kept & {normal(each) for each in owners}
    }
    assert {"torch", "transformers", "huggingface_hub"} <= hidden
    program = FENCE.format(hidden=hidden, folder=str(exported))
    server = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert server.stdout is not None
        port = re.search(r":(\d+)$", server.stdout.readline().strip())
        assert port
        deadline = time.monotonic() + 30
        while True:  # until its workers are ready
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/health", timeout=20).close()
                break
            except urllib.error.HTTPError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        for path in ("/info", "/metrics", "/docs"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}{path}", timeout=20) as answer:
                assert answer.status == 200
        body = json.dumps({"text": "happy", "explain": True}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port[1]}/predict", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert json.load(answer)["words"]
    finally:
        server.terminate()
        assert server.wait(20) == 0


def test_every_package_of_the_image_has_its_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {normal(line.partition("==")[0]) for line in lines if "==" in line}
    assert listed() <= pinned


@pytest.mark.parametrize("name", ["serve", "train"])
def test_the_dockerfiles_pass_their_linter(name: str) -> None:
    file = DOCKER / f"{name}.Dockerfile"
    linter = shutil.which("hadolint")
    if linter is None:
        pytest.skip("there is no hadolint")
    outcome = subprocess.run([linter, str(file)], capture_output=True, text=True)
    assert (outcome.returncode, outcome.stdout) == (0, "")


def test_the_steps_are_read_and_what_is_unknown_is_refused(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("try_image", DOCKER / "try_image.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["try_image"] = module
    spec.loader.exec_module(module)
    for name in ("serve", "train"):
        found = module.steps((DOCKER / f"{name}.Dockerfile").read_text(encoding="utf-8"))
        assert found[0].name == "FROM"
        assert {each.name for each in found} >= {"COPY", "RUN", "ENTRYPOINT", "CMD", "USER"}
        copied = [word for each in found if each.name == "COPY" for word in each.value.split()[:-1]]
        assert all((ROOT / word).exists() for word in copied if not word.startswith(("--", "/")))
    image = module.Image.__new__(module.Image)
    image.root = tmp_path
    assert image.path("pip install /wheels/a.whl --x=/lock/b") == (
        f"pip install {tmp_path}/wheels/a.whl --x={tmp_path}/lock/b"
    )
    with pytest.raises(ValueError, match="SHELL"):
        image.run(module.Step("SHELL", "[]"))


def test_the_composition_starts_what_serve_takes_and_prometheus_may_ask() -> None:
    whole = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    serve, prometheus = whole["services"]["serve"], whole["services"]["prometheus"]
    assert (ROOT / serve["build"]["dockerfile"]).is_file()
    args = _parser().parse_intermixed_args(serve["command"])
    assert [str(each) for each in args.folders] == ["/model"]
    assert serve["volumes"][0].endswith(":/model:ro")
    settings = yaml.safe_load(whole["configs"][prometheus["configs"][0]["source"]]["content"])
    (target,) = settings["scrape_configs"][0]["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert int(port) == args.port
    access = Access(Hosts(args.host, args.allow_host), None)
    scope = {"headers": [(b"host", target.encode())], "path": "/metrics", "lit_bert.authority": None}
    check_host(scope, access.hosts)
    with pytest.raises(ApiError):
        check_host(scope, Hosts(args.host))
    assert host in whole["services"]


def test_what_docker_ignores_holds_nothing_that_the_images_copy() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {"lit_bert", "configs", "constraints.txt", "docker/serve.txt", "pyproject.toml"} <= kept
    assert all((ROOT / each).exists() for each in kept)
