"""Runs the steps of docker/serve.Dockerfile without Docker, in a bare environment, and tries what comes out.

Paths of the image become paths below a temporary folder. What only a container has (the base image, the user,
ports) is left out. Printed are the megabytes that the steps add to the base image, that no torch is there,
and the answer of the server that ENTRYPOINT and CMD start.

    python docker/try_image.py my-classifier
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
import venv
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "wheels", "lock", "model")  # of the image, at its root
NOT_RUN = {"USER", "EXPOSE", "HEALTHCHECK"}
IGNORED = ("checkpoints", ".*", "__pycache__", "tests", "benchmarks")  # as .dockerignore does


class Step(NamedTuple):
    """An instruction of a Dockerfile and what stands after it."""

    name: str
    value: str


def steps(dockerfile: str) -> list[Step]:
    """The instructions, in order."""
    lines = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", dockerfile, flags=re.MULTILINE)).splitlines()
    return [Step(*line.split(maxsplit=1)) for line in lines if line.strip()]


class Image:
    """A folder in place of an image's root, and a virtual environment in place of its Python.

    Args:
        place: an empty folder.
    """

    def __init__(self, place: Path) -> None:
        self.root, self.venv = place / "root", place / "venv"
        self.root.mkdir()
        self.directory = self.root
        self.command: dict[str, list[str]] = {}
        self.environment = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        # Of pip alone: where packages come from on this machine.
        self.environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        self.environment["PATH"] = f"{self.venv / 'bin'}:{os.defpath}"
        self._start_stage()

    def _start_stage(self) -> None:
        """Each stage has the packages of the base image alone: pip."""
        shutil.rmtree(self.venv, ignore_errors=True)
        venv.create(self.venv, with_pip=True)
        self.before = size(self.venv)

    def path(self, text: str) -> str:
        """The text with the image's paths as paths here."""
        return re.sub(rf"(?<![\w.])/({'|'.join(FOLDERS)})\b", lambda match: f"{self.root}/{match[1]}", text)

    def run(self, step: Step) -> None:
        """Does what an instruction says.

        Raises:
            ValueError: it is none that this program knows.
        """
        if step.name == "FROM":
            self._start_stage()
        elif step.name == "WORKDIR":
            self.directory = Path(self.path(step.value))
            self.directory.mkdir(parents=True, exist_ok=True)
        elif step.name == "COPY":
            self._copy(step.value.split())
        elif step.name == "RUN":
            command = ["/bin/sh", "-ec", self.path(step.value)]
            subprocess.run(command, cwd=self.directory, env=self.environment, check=True)
        elif step.name == "ENV":
            self.environment |= dict(each.split("=", 1) for each in shlex.split(step.value))
        elif step.name in ("ENTRYPOINT", "CMD"):
            self.command[step.name] = json.loads(step.value)
        elif step.name not in NOT_RUN:
            raise ValueError(f"{step.name} is no instruction that this program knows")

    def _copy(self, words: list[str]) -> None:
        if words[0].startswith("--from="):
            return  # of another stage, which has the same root here
        *sources, target = words
        place = Path(self.path(target)) if target.startswith("/") else self.directory / target
        place.mkdir(parents=True, exist_ok=True)
        for source in sources:
            if source == ".":
                ignore = shutil.ignore_patterns(*IGNORED)
                shutil.copytree(ROOT, place, ignore=ignore, dirs_exist_ok=True)
            else:
                shutil.copy(ROOT / source, place)

    def added(self) -> int:
        """Bytes that the last stage adds to the base image."""
        return size(self.venv) - self.before + size(self.root / "wheels") + size(self.root / "lock")


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def answer(image: Image, folder: Path) -> dict[str, object]:
    """What the image's server says of a text; it is started as the image says, on a free port."""
    command = [*image.command["ENTRYPOINT"], *image.command["CMD"]]
    command[command.index("8000")] = "0"
    (image.root / "model").symlink_to(folder.resolve())
    server = subprocess.Popen(
        [image.path(each) for each in command],
        cwd=image.root,
        env=image.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        port = re.search(r":(\d+)$", server.stdout.readline().strip())
        if port is None:
            raise SystemExit("the server did not start")
        request = urllib.request.Request(
            f"http://127.0.0.1:{port[1]}/predict",
            json.dumps({"text": "what a day"}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)
    finally:
        server.send_signal(signal.SIGTERM)
        if server.wait(30):
            raise SystemExit(f"the server ended with {server.returncode}")


def main() -> None:
    """Runs the steps and prints what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="an exported folder")
    folder = parser.parse_args().folder
    if not (folder / "config.json").is_file():
        parser.error(f"{folder} has no config.json; expected what `python -m lit_bert export` wrote")
    with tempfile.TemporaryDirectory() as place:
        image = Image(Path(place))
        for step in steps((ROOT / "docker" / "serve.Dockerfile").read_text(encoding="utf-8")):
            print(f"{step.name:10} {step.value}", file=sys.stderr)
            image.run(step)
        check = [image.path("python"), "-c", "import torch"]
        found = subprocess.run(check, env=image.environment, cwd=place, capture_output=True, text=True)
        if "ModuleNotFoundError" not in found.stderr:
            raise SystemExit(f"torch is there: {found.stderr}")
        print(f"added to the base image: {image.added() / 1e6:.0f} MB, without torch")
        print(f"its answer: {json.dumps(answer(image, folder))}")


if __name__ == "__main__":
    main()
