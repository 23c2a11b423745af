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
from lit_bert.train.result import EventReader, Message, RunResult
from lit_bert.train.runs import fit_each

ROOT = Path(__file__).parent.parent

# --- a program in place of lit_bert, so that a fit takes no time

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

verb, config, file, result, folder = sys.argv[1:]
assert (verb, config, result) == ("fit", "--config", "--result"), sys.argv
settings, folder = json.loads(Path(file).read_text()), Path(folder)
name = settings["trainer"]["logger"]["init_args"]["version"]


def tell(**event):
    with (folder / "events.jsonl").open("a") as stream:
        stream.write(json.dumps(event) + "\\n")


def end(**how):
    (folder / "result.json").write_text(json.dumps(how))


tell(event="message", text="device     an abacus\\nof wood")
print("threads", os.environ.get("OMP_NUM_THREADS"), flush=True)
Path(f"{name}.started").touch()
how = settings.get("end")
if how == "refuse":
    while not Path("seed_0.started").exists():
        time.sleep(0.01)
    end(status="refused", message="no rows. Give some.")
    sys.exit(2)
if how == "crash":
    end(status="failed", message="ValueError: what?")
    raise ValueError("what?")
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "wait":
    time.sleep(100)
if settings.get("meet"):  # comes to an end only while another one runs
    while len(list(Path().glob("*.started"))) < 2:
        time.sleep(0.01)
scores = {"val/loss_nats": 1.5, "val/f1": 0.25, "val/f1_micro": 0.5}
tell(event="validation", epoch=1, step=7, rows=24, chooses_epoch=True, scores=scores)
print("epoch 1: noise that looks like progress", flush=True)
if not settings.get("meet"):
    Path(f"{name}.started").unlink()
    assert not list(Path().glob("*.started")), "another one runs"
if how != "silent":
    scores = {"scores": {"macro_f1": 0.25}, "main": ["macro F1", 0.25]}
    end(status="done", checkpoint="best.ckpt", steps=7, minutes=0.1, **scores)
"""


@pytest.fixture
def fake(monkeypatch):
    """`python -m lit_bert` from here is the program above, on a machine with four cores."""
    Path("lit_bert").mkdir()
    Path("lit_bert/__init__.py").touch()
    Path("lit_bert/__main__.py").write_text(PROGRAM)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "9")


def settings_of(**more):
    """Settings of a run, as far as they matter here."""
    logger = {"class_path": "x", "init_args": {"save_dir": "elsewhere", "version": None}}
    return {"trainer": {"logger": logger, "max_epochs": 1}, **more}


def log(name):
    return Path(f"runs/{name}/fit.log").read_text().splitlines()


def test_each_fit_gets_its_settings_as_a_file_in_its_folder(fake):
    each = {f"seed_{seed}": settings_of(meet=True, seed_everything=seed) for seed in (0, 1)}
    found = fit_each(each, Path("runs"), on_cpu=True)
    assert found == [Path("runs/seed_0"), Path("runs/seed_1")]
    for seed in (0, 1):
        told = json.loads(Path(f"runs/seed_{seed}/settings.json").read_text())
        logger = {"save_dir": "runs", "name": "", "version": f"seed_{seed}"}
        assert told["trainer"]["logger"] == {"class_path": "x", "init_args": logger}
        assert (told["seed_everything"], told["trainer"]["max_epochs"]) == (seed, 1)
    assert each["seed_0"] == settings_of(meet=True, seed_everything=0)  # the caller's own are as they were


def test_fits_on_a_cpu_run_side_by_side_and_share_its_cores(fake):
    each = {"seed_0": settings_of(meet=True), "seed_1": settings_of(meet=True)}
    fit_each(each, Path("runs"), on_cpu=True)
    assert "threads 2" in log("seed_0")
    assert "threads 2" in log("seed_1")


def test_fits_on_a_gpu_take_turns_and_have_all_cores(fake):
    fit_each({f"seed_{n}": settings_of() for n in range(3)}, Path("runs"), on_cpu=False)
    assert [line for n in range(3) for line in log(f"seed_{n}") if "threads" in line] == ["threads 9"] * 3


@pytest.mark.parametrize("quiet", [False, True])
def test_the_screen_gets_the_messages_of_the_first_fit_and_the_scores_of_each(fake, capfd, quiet):
    each = {name: settings_of(meet=True) for name in ("seed_9", "seed_10")}
    fit_each(each, Path("runs"), on_cpu=True, quiet=quiet)
    out, err = capfd.readouterr()
    assert out == ""
    shown = {
        name: [line[9:] for line in err.splitlines() if line.startswith(name)]
        for name in ("seed_9 ", "seed_10")
    }
    progress = [
        "epoch 1, step 7: val/loss_nats 1.5000, val/f1 0.2500, val/f1_micro 0.5000 on 24 rows, "
        "which choose the epoch",
        "took 0.1 minutes for 7 optimizer steps, macro F1 0.2500",
    ]
    assert shown["seed_9 "] == [*([] if quiet else ["device     an abacus", "of wood"]), *progress]
    assert shown["seed_10"] == progress
    assert "epoch 1: noise that looks like progress" in log("seed_10")  # what is printed is never read


def test_a_fit_that_is_refused_stops_the_others_at_once(fake, capfd):
    each = {f"seed_{n}": settings_of(end="refuse" if n == 1 else "wait") for n in range(9)}
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"^seed_1: no rows\. Give some\.$"):
        fit_each(each, Path("runs"), on_cpu=True)
    assert time.perf_counter() - start < 50  # the others would wait for 100 s
    assert not Path("seed_8.started").exists()
    assert "Give some" not in capfd.readouterr().err  # `__main__` says it


def test_a_fit_that_crashes_is_named_with_its_log(fake):
    with pytest.raises(UserError, match=r"^seed_0 ended with exit code 1; runs/seed_0/fit\.log says why\.$"):
        fit_each({"seed_0": settings_of(end="crash")}, Path("runs"), on_cpu=True)
    assert log("seed_0")[-1] == "ValueError: what?"


def test_a_fit_that_is_killed_is_said_to_be(fake):
    with pytest.raises(
        UserError, match=r"^seed_0 was ended by SIGKILL, perhaps as the memory was full; runs"
    ):
        fit_each({"seed_0": settings_of(end="killed")}, Path("runs"), on_cpu=True)


def test_a_fit_that_leaves_no_result_is_not_done(fake):
    with pytest.raises(
        UserError, match=r"^seed_0 ended with exit code 0 and no result; runs/seed_0/fit\.log"
    ):
        fit_each({"seed_0": settings_of(end="silent")}, Path("runs"), on_cpu=True)


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("result.json", '{"status": "done", "scores": {"macro_f1": "high"}}', r"scores\.macro_f1 is wrong"),
        ("result.json", '{"status": "done", "main": ["macro F1", "high"]}', r"main\.1 is wrong"),
        ("result.json", '{"status": "done", "checkpoint_class": "os.system"}', "is not a key that lit_bert"),
        ("events.jsonl", '{"event": "message"}\n', "has a line that is no event"),
        ("events.jsonl", "epoch 1, step 7: val/f1 0.5\n", "has a line that is no event"),
    ],
)
def test_a_file_of_a_run_that_is_something_else_is_refused(tmp_path, file, content, problem):
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=problem):
        RunResult.read(tmp_path) if file == "result.json" else list(EventReader(tmp_path).new_events())


def test_events_are_read_once_and_whole(tmp_path):
    reader = EventReader(tmp_path)
    assert list(reader.new_events()) == []
    whole = [Message(text=text).model_dump_json() + "\n" for text in ("first", "second\u2028 \x07", "third")]
    file = tmp_path / "events.jsonl"
    file.write_text(whole[0] + whole[1][:9], encoding="utf-8")
    assert [event.text for event in reader.new_events()] == ["first"]
    file.write_text("".join(whole), encoding="utf-8")
    assert [event.text for event in reader.new_events()] == ["second\u2028 \x07", "third"]
    assert list(reader.new_events()) == []


def test_several_fits_that_are_refused_are_one_line(fake, run, quick):
    Path("checkpoints/seeds_0").mkdir(parents=True)  # of earlier ones
    refusing = Path("lit_bert/__main__.py")
    refusing.write_text(PROGRAM.replace('settings.get("end")', '"refuse"'))
    outcome = run("fit", "--seeds=2", *quick)
    assert (outcome.code, outcome.out) == (2, "")
    lines = [line for line in outcome.err.splitlines() if not line.startswith("seed_0  ")]
    assert len(lines) == 1
    assert re.fullmatch(r"lit_bert fit: seed_[01]: no rows\. Give some\.", lines[0])
    assert list(Path("checkpoints/seeds_0").iterdir()) == []
    assert not Path("checkpoints/seeds_1/seeds.json").exists()


# --- the result of one fit


def test_a_fit_leaves_its_events_and_its_result_in_a_folder(run, quick):
    outcome = run("fit", *quick, "--trainer.max_epochs=1", "--result=told")
    assert outcome.code == 0, outcome.err
    result = RunResult.read(Path("told"))
    kept = json.loads(Path("checkpoints/version_0/validate.json").read_text())
    assert result.status == "done"
    assert result.checkpoint == "checkpoints/version_0/best.ckpt" == kept["checkpoint"][-31:]
    assert result.scores == {name: value for name, value in kept["scores"].items() if name != "by_class"}
    assert (result.steps, result.message) == (8, "")
    *messages, validation = EventReader(Path("told")).new_events()
    assert [str(each) for each in (validation,)] == [
        line for line in outcome.err.splitlines() if line.startswith("epoch ")
    ]
    said = [line for line in outcome.err.splitlines() if not line.startswith("epoch ")]
    assert [event.text for event in messages] == said
    settings = yaml.safe_load(Path("checkpoints/version_0/config.yaml").read_text())
    assert not {"result", "seeds", "ckpt_path"} & set(settings)


def test_a_fit_that_is_refused_leaves_the_reason(run, quick):
    Path("told").mkdir()
    Path("told/result.json").write_text("of an earlier run")
    outcome = run("fit", *quick, "--data.dataset=gone.csv", "--result=told")
    assert outcome.code == 2
    result = RunResult.read(Path("told"))
    assert result.status == "refused"
    assert outcome.err == f"lit_bert fit: {result.message}\n"


def test_a_fit_that_fails_leaves_the_error(run, quick, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("what?")

    monkeypatch.setattr("lit_bert.verbs.fit.run_fit", fails)
    with pytest.raises(RuntimeError, match="what"):
        run("fit", *quick, "--result=told")
    assert RunResult.read(Path("told")) == RunResult(status="failed", message="RuntimeError: what?")


def test_a_place_for_a_result_that_is_none_is_refused(refused, quick):
    Path("told").write_text("not a folder")
    assert "--result told: File exists; expected a folder to write into" in refused(
        "fit", *quick, "--result=told"
    )


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
            "settings.json",
            "result.json",
            "events.jsonl",
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
        *cells, ensemble = [float(cell) for cell in line.removeprefix(shown).split()]
        assert cells == pytest.approx(wanted, abs=6e-5)
        if name == "loss_nats":
            assert ensemble <= statistics.fmean(values) + 6e-5  # Jensen's inequality


# --- refused, with nothing written


@pytest.mark.parametrize("seeds", ["0", "-1", "x", "1.5", ""])
def test_a_number_of_seeds_that_is_none_is_refused(refused, quick, seeds):
    assert f"--seeds is {seeds}; expected how many, at least 1." in refused("fit", f"--seeds={seeds}", *quick)


def test_seeds_without_a_number_are_refused(refused):
    assert refused("fit", "--seeds") == "lit_bert fit: --seeds has no value; expected a number of seeds."


def test_a_run_that_goes_on_has_its_seed_already(refused, trained):
    line = refused("fit", "--seeds=2", f"--ckpt_path={trained / 'last.ckpt'}")
    assert "got --seeds and --ckpt_path; a run that goes on has its seed already" in line
    Path("mine.yaml").write_text(f"ckpt_path: {trained / 'last.ckpt'}\n")
    assert refused("fit", "--seeds=2", "--config=mine.yaml") == line


def test_several_runs_have_no_common_result(refused, quick):
    assert "got --seeds and --result; each" in refused("fit", "--seeds=2", "--result=told", *quick)


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
    (first, folder, on_cpu), (second, _, _) = asked
    assert list(first) == ["seed_7", "seed_8", "seed_9"]
    assert first["seed_8"]["seed_everything"] == 8
    assert {**first["seed_8"], "seed_everything": 7} == first["seed_7"]
    assert list(second) == ["seed_40", "seed_41", "seed_42"]
    assert folder == Path("elsewhere/seeds_0")
    assert on_cpu


def test_help_and_settings_are_shown_and_nothing_is_run(capfd):
    with pytest.raises(SystemExit):
        main(["fit", "--seeds=2", "--print_config"])
    assert yaml.safe_load(capfd.readouterr().out)["seeds"] is None
    assert not Path("checkpoints").exists()
