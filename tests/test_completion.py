"""The completion scripts, asked as the shells ask them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Literal

import pytest
from conftest import Run

from lit_bert.verbs.completion import SHELLS, _values, script
from lit_bert.verbs.table import VERBS

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
$(complete -p lit_bert | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("completion")
    found = {}
    for shell in SHELLS:
        found[shell] = place / f"_lit_bert.{shell}"
        found[shell].write_text(script(shell), encoding="utf-8")
    return found


def ask(scripts: dict[str, Path], *words: str) -> set[str]:
    command = ["bash", "--norc", "-c", ASK, "bash", str(scripts["bash"]), "lit_bert", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_verbs_flags_and_values(scripts: dict[str, Path]) -> None:
    assert ask(scripts, "") >= VERBS.keys()
    assert ask(scripts, "va") == {"validate"}
    assert ask(scripts, "fit", "--data.datas") == {"--data.dataset"}
    assert ask(scripts, "fit", "--tracker", "") >= {"tensorboard", "csv", "mlflow", "wandb", "none"}
    assert ask(scripts, "fit", "--calibrate", "") == {"true", "false"}
    assert ask(scripts, "predict", "--formulas", "k") == {"keep"}
    assert ask(scripts, "report", "--split", "") == {"validate", "test"}
    assert ask(scripts, "completion", "") == set(SHELLS)
    assert "--memory_limit_mb" in ask(scripts, "serve", "--m")
    assert ask(scripts, "test", "--nope") == set()


@pytest.mark.parametrize("shell", SHELLS)
def test_every_verb_and_its_flags_are_in_each_script(scripts: dict[str, Path], shell: str) -> None:
    content = scripts[shell].read_text(encoding="utf-8")
    assert all(name in content for name in VERBS)
    for flag in ("data.max_length", "memory_limit_mb", "max_f1_loss", "seeds", "folds"):
        assert flag in content
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell}")
    done = subprocess.run([program, "-n", str(scripts[shell])], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_values_are_those_of_types_that_have_few() -> None:
    assert _values(bool) == ["true", "false"]
    assert _values(Literal["a", "b"] | None) == ["a", "b", "null"]
    assert _values(str | None) == []
    assert _values(None) == []


def test_another_shell_is_refused(run: Run) -> None:
    outcome = run("completion", "tcsh")
    assert outcome.code == 2
    assert "bash" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert run("completion").code == 2
