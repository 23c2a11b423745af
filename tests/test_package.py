"""The wheel: built from the repository, installed elsewhere, run from another directory."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

# One process for all verbs, as each new one spends seconds on imports.
ALL_VERBS = """
import sys
from pathlib import Path
import lit_bert
from lit_bert.__main__ import main
from lit_bert.verbs.table import VERBS
assert Path(lit_bert.__file__).is_relative_to(sys.argv[1]), lit_bert.__file__
for verb in VERBS:
    try:
        main([verb, "--help"])
    except SystemExit as end:
        assert end.code == 0, verb
assert main(["fit", "--config", "configs/debug.yaml", *sys.argv[2:]]) == 0
for arguments in (["validate"], ["test"], ["report"], ["predict", "i am happy", "--output", "labelled.csv"]):
    assert main(arguments) == 0, arguments
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
    tracked = subprocess.run(["git", "ls-files", "lit_bert"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode == 0:  # else this is no checkout
        assert set(tracked.stdout.split()) <= set(zipfile.ZipFile(wheel).namelist())
    call(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel)
    assert (site / "lit_bert" / "configs" / "base.yaml").is_file()
    call(sys.executable, "-c", ALL_VERBS, site, f"--weights.pretrained={tiny_bert}")
    assert (
        (elsewhere / "labelled.csv")
        .read_text()
        .startswith("text,predicted_label,probability,probability_anger")
    )
    assert (elsewhere / "checkpoints" / "version_0" / "test.json").is_file()
