"""The wheel: built from the repository, installed elsewhere, run from another directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

# One process for all verbs, as each new one spends seconds on imports.
ALL_VERBS = """
import sys
from pathlib import Path
import lit_bert
from lit_bert.__main__ import main
assert Path(lit_bert.__file__).is_relative_to(sys.argv[1]), lit_bert.__file__
assert main(["fit", "--config", "configs/debug.yaml", *sys.argv[2:]]) == 0
assert main(["validate"]) == 0
assert main(["test"]) == 0
assert main(["predict", "i am happy", "--output", "labelled.csv"]) == 0
"""


def test_every_verb_works_from_a_wheel_in_another_directory(tmp_path: Path, tiny_bert: Path) -> None:
    def call(*command: object) -> None:
        done = subprocess.run(
            [str(part) for part in command], cwd=elsewhere, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    elsewhere, site = tmp_path / "elsewhere", tmp_path / "site"
    elsewhere.mkdir()
    env = {**os.environ, "PYTHONPATH": str(site)}
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    call(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel)
    assert (site / "lit_bert" / "configs" / "base.yaml").is_file()
    call(sys.executable, "-c", ALL_VERBS, site, f"--weights.pretrained={tiny_bert}")
    assert (
        (elsewhere / "labelled.csv")
        .read_text()
        .startswith("text,predicted_label,probability,probability_anger")
    )
    assert (elsewhere / "checkpoints" / "version_0" / "test.json").is_file()
