"""Several fits of one command: what each is told, what is seen of it, and what ends them all."""

import json
import os
import re
import statistics
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from formats import content_of

from lit_bert import UserError
from lit_bert.__main__ import main
from lit_bert.evaluate.report import seeds_table
from lit_bert.train.runs import fit_each

ROOT = Path(__file__).parent.parent

# --- a program in place of lit_bert, so that a fit takes no time

PROGRAM = """
import os, sys, time
from pathlib import Path

flags = dict(flag.split("=", 1) for flag in sys.argv[2:])
name = flags["--trainer.logger.init_args.version"]
print("device     an abacus")
print("verb", sys.argv[1], *sys.argv[2:], file=sys.stderr)
print("threads", os.environ.get("OMP_NUM_THREADS"))
Path(f"{name}.started").touch()
if flags.get("--end") == "refuse":
    while not Path("seed_0.started").exists():
        time.sleep(0.01)
    sys.exit(print("lit_bert fit: no rows. Give some.", file=sys.stderr) or 2)
if flags.get("--end") == "crash":
    raise ValueError("what?")
if flags.get("--end") == "wait":
    time.sleep(100)
if flags.get("--meet"):  # comes to an end only while another one runs
    while len(list(Path().glob("*.started"))) < 2:
        time.sleep(0.01)
print("epoch 1, step 7: val/f1 0.5")
print("took       0.1 minutes")
print("noise")
if not flags.get("--meet"):
    Path(f"{name}.started").unlink()
    assert not list(Path().glob("*.started")), "another one runs"
"""


@pytest.fixture
def fake(monkeypatch):
    """`python -m lit_bert` from here is the program above, on a machine with four cores."""
    Path("lit_bert").mkdir()
    Path("lit_bert/__init__.py").touch()
    Path("lit_bert/__main__.py").write_text(PROGRAM)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "9")


def log(name):
    return Path(f"runs/{name}/fit.log").read_text().splitlines()


def test_each_fit_is_told_its_own_and_the_shared_settings(fake):
    each = {"seed_0": ["--own=0"], "seed_1": ["--own=1"]}
    found = fit_each(["--shared=x", "--meet=1"], each, Path("runs"), on_cpu=True)
    assert found == [Path("runs/seed_0"), Path("runs/seed_1")]
    for number in (0, 1):
        logger = f"save_dir=runs --L.name= --L.version=seed_{number}".replace(
            "L.", "trainer.logger.init_args."
        )
        told = f"verb fit --shared=x --meet=1 --own={number} --trainer.logger.init_args.{logger}"
        assert told in log(f"seed_{number}")


def test_fits_on_a_cpu_run_side_by_side_and_share_its_cores(fake):
    fit_each(["--meet=1"], {"seed_0": [], "seed_1": []}, Path("runs"), on_cpu=True)
    assert "threads 2" in log("seed_0")
    assert "threads 2" in log("seed_1")


def test_fits_on_a_gpu_take_turns_and_have_all_cores(fake):
    fit_each([], {"seed_0": [], "seed_1": [], "seed_2": []}, Path("runs"), on_cpu=False)
    assert [line for n in range(3) for line in log(f"seed_{n}") if "threads" in line] == ["threads 9"] * 3


def test_the_screen_gets_all_of_the_first_fit_and_the_progress_of_the_others(fake, capfd):
    fit_each(["--meet=1"], {"seed_9": [], "seed_10": []}, Path("runs"), on_cpu=True)
    out, err = capfd.readouterr()
    assert out == ""
    shown = {
        name: [line[9:] for line in err.splitlines() if line.startswith(name)]
        for name in ("seed_9 ", "seed_10")
    }
    assert sorted(shown["seed_9 "]) == sorted(log("seed_9"))
    assert shown["seed_10"] == ["epoch 1, step 7: val/f1 0.5", "took       0.1 minutes"]
    assert "noise" in log("seed_10")


def test_a_fit_that_is_refused_stops_the_others_at_once(fake, capfd):
    each = {"seed_0": ["--end=wait"], "seed_1": ["--end=refuse"]} | {
        f"seed_{n}": ["--end=wait"] for n in range(2, 9)
    }
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"^seed_1: no rows\. Give some\.$"):
        fit_each([], each, Path("runs"), on_cpu=True)
    assert time.perf_counter() - start < 50  # the others would wait for 100 s
    assert not Path("seed_8.started").exists()
    assert "Give some" not in capfd.readouterr().err  # the front door says it


def test_a_fit_that_crashes_is_named_with_its_log(fake):
    with pytest.raises(UserError, match=r"^seed_0 ended with exit code 1; runs/seed_0/fit\.log says why\.$"):
        fit_each(["--end=crash"], {"seed_0": []}, Path("runs"), on_cpu=True)
    assert log("seed_0")[-1] == "ValueError: what?"


def test_several_fits_that_are_refused_are_one_line(fake, run, quick):
    Path("checkpoints/seeds_0").mkdir(parents=True)  # of earlier ones
    refusing = Path("lit_bert/__main__.py")
    refusing.write_text(PROGRAM.replace('flags.get("--end")', '"refuse"'))
    outcome = run("fit", "--seeds=2", *quick)
    assert (outcome.code, outcome.out) == (2, "")
    lines = [line for line in outcome.err.splitlines() if not line.startswith("seed_0  ")]
    assert len(lines) == 1
    assert re.fullmatch(r"lit_bert fit: seed_[01]: no rows\. Give some\.", lines[0])
    assert list(Path("checkpoints/seeds_0").iterdir()) == []
    assert not Path("checkpoints/seeds_1/seeds.json").exists()


# --- real fits


@pytest.fixture(scope="module")
def seeded(quick, tmp_path_factory):
    """(folder, standard output, standard error) of `fit --seeds 2`, run below that folder."""
    place = tmp_path_factory.mktemp("seeded")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("LIT_BERT_CACHE", str(place / "cache"))
        patch.setenv("PYTHONPATH", str(ROOT))
        # One thread each, as the fits of other tests have: with more, sums come in another order.
        patch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
        patch.setattr(sys, "argv", list(sys.argv))
        streams = {name: (place / name).open("w+") for name in ("stdout", "stderr")}
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        code = main(["fit", "--seeds", "2", *quick])
    said = {}
    for name, stream in streams.items():
        stream.seek(0)
        said[name] = stream.read()
        stream.close()
    assert code == 0, said
    return place, said["stdout"], said["stderr"]


def test_fits_of_several_seeds_have_a_folder_each(seeded):
    place, _, err = seeded
    folder = place / "checkpoints" / "seeds_0"
    assert sorted(path.name for path in (place / "checkpoints").iterdir()) == ["seeds_0"]
    assert json.loads((folder / "seeds.json").read_text()) == ["seed_0", "seed_1"]
    assert sorted(path.name for path in folder.iterdir()) == ["seed_0", "seed_1", "seeds.json"]
    for seed in (0, 1):
        run = folder / f"seed_{seed}"
        written = {path.name for path in run.iterdir()}
        assert written > {
            "best.ckpt",
            "last.ckpt",
            "config.yaml",
            "validate.json",
            "validate.parquet",
            "fit.log",
        }
        assert yaml.safe_load((run / "config.yaml").read_text())["seed_everything"] == seed
        assert json.loads((run / "validate.json").read_text())["seed"] == seed
        assert f"\nbest epoch: checkpoints/seeds_0/seed_{seed}/best.ckpt\n" in (run / "fit.log").read_text()
        assert re.search(rf"^seed_{seed}  epoch 2, step 16: val/loss_nats", err, re.MULTILINE)


def test_a_fit_among_several_is_the_fit_alone(seeded, trained):
    among, alone = (
        content_of(folder / "last.ckpt")["state_dict"]
        for folder in (seeded[0] / "checkpoints" / "seeds_0" / "seed_0", trained)
    )
    assert among.keys() == alone.keys()
    for name, value in alone.items():
        assert torch.equal(value, among[name]), name
    other = content_of(seeded[0] / "checkpoints/seeds_0/seed_1/last.ckpt")["state_dict"]
    assert not torch.equal(other["network.classifier.weight"], alone["network.classifier.weight"])


def test_the_table_holds_the_scores_of_every_seed(seeded, run, monkeypatch):
    place, out, _ = seeded
    monkeypatch.chdir(place)
    folder = Path("checkpoints/seeds_0")
    assert out == seeds_table(folder) + "\n" == run("report").out
    kept = [json.loads((folder / f"seed_{seed}" / "validate.json").read_text())["scores"] for seed in (0, 1)]
    for shown, name in {"macro F1": "macro_f1", "loss, nats": "loss_nats", "joy": "joy"}.items():
        (line,) = (line for line in out.splitlines() if line.startswith(f"{shown} "))
        values = [{**each, **each["by_class"]}[name] for each in kept]
        wanted = [
            *values,
            statistics.fmean(values),
            abs(values[0] - values[1]) / 2**0.5,
            min(values),
            max(values),
        ]
        *cells, together = [float(cell) for cell in line.removeprefix(shown).split()]
        assert cells == pytest.approx(wanted, abs=6e-5)
        if name == "loss_nats":
            assert together <= statistics.fmean(values) + 6e-5  # Jensen's inequality


# --- refused, with nothing written


@pytest.mark.parametrize("seeds", ["0", "-1", "x", "1.5", ""])
def test_a_number_of_seeds_that_is_none_is_refused(refused, quick, seeds):
    assert f"--seeds is {seeds}; expected how many, at least 1." in refused("fit", f"--seeds={seeds}", *quick)


def test_seeds_without_a_number_are_refused(refused):
    assert refused("fit", "--seeds") == "lit_bert fit: --seeds has no value; expected a number of seeds."


def test_a_run_that_goes_on_has_its_seed_already(refused, trained):
    line = refused("fit", "--seeds=2", f"--ckpt_path={trained / 'last.ckpt'}")
    assert "got --seeds and --ckpt_path; a run that goes on has its seed already" in line


@pytest.mark.parametrize("more", [[], ["--seeds=2"]])
def test_seeds_in_a_configuration_are_refused(refused, quick, more):
    Path("mine.yaml").write_text("seeds: 3\n")
    line = refused("fit", *quick, "--config=mine.yaml", *more)
    assert line.endswith("seeds stands in a configuration; give it on the command line, as --seeds 5.")


BAD = {
    "an unknown flag": ("--data.batchsize=3", r"--data\.batchsize.*Did you mean --data\.batch_size\?"),
    "a word for a number": ("--data.batch_size=many", r"--data\.batch_size.*int.*many"),
    "any seed": ("--seed_everything=true", r"--seed_everything is True; with --seeds, expected the number"),
    "no folders": ("--trainer.logger=false", r"trainer\.logger keeps no folder for each run"),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_several_fits_cannot_use_are_refused(refused, quick, case):
    flag, message = BAD[case]
    assert re.search(message, refused("fit", "--seeds=2", *quick, flag))


def test_seeds_count_up_from_that_of_the_configuration_in_its_folder(run, quick, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "lit_bert.verbs.fit.fit_each", lambda *settings: asked.append(settings) or sys.exit(0)
    )
    Path("mine.yaml").write_text(
        "seed_everything: 7\ntrainer: {logger: {init_args: {save_dir: elsewhere}}}\n"
    )
    for more in ([], ["--seed_everything=40"]):
        with pytest.raises(SystemExit):
            run("fit", *quick, "--config=mine.yaml", *more, "--seeds=3")
    (_, first, folder, on_cpu), (_, second, _, _) = asked
    assert list(first) == ["seed_7", "seed_8", "seed_9"]
    assert first["seed_8"] == ["--seed_everything=8"]
    assert list(second) == ["seed_40", "seed_41", "seed_42"]
    assert folder == Path("elsewhere/seeds_0")
    assert on_cpu


def test_help_and_settings_are_shown_and_nothing_is_run(capfd):
    with pytest.raises(SystemExit):
        main(["fit", "--seeds=2", "--print_config"])
    assert yaml.safe_load(capfd.readouterr().out)["seeds"] is None
    assert not Path("checkpoints").exists()
