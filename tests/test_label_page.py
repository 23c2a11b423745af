"""The page of `label --serve`, in a real Chromium against a real server."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CLASSES, texts_of

CHROMIUM = shutil.which("chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="the test of the page needs playwright")
if CHROMIUM is None:
    pytest.skip("the test of the page needs Debian's chromium", allow_module_level=True)
expect = sync_api.expect
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
HOSTILE = "\x1b[2J <img src=x onerror=\"document.title='hit'\"> \u202etxt.exe"


@pytest.fixture
def url(tiny_bert: Path) -> Iterator[str]:
    with Path("pool.csv").open("w", newline="", encoding="utf-8") as stream:
        texts = [HOSTILE, *(text for name in CLASSES for text in texts_of(name, 12))]
        csv.writer(stream).writerows([("text",), *((text,) for text in texts)])
    command = [sys.executable, "-m", "lit_bert", "label", "pool.csv", "--serve", "--port=0"]
    process = subprocess.Popen(
        [
            *command,
            f"--weights.pretrained={tiny_bert}",
            "--data.max_length=16",
            "--data.label_names=joy,<b>sad</b>",
        ],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found, process.wait(10)
    yield found[0]
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_keys_label_all_texts_and_nothing_of_them_is_run(url, tmp_path):
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, env={**os.environ, "HOME": str(tmp_path)}
        )
        page, problems, asked = browser.new_page(), [], []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        progress = page.locator("#progress")
        expect(progress).to_have_text("0 labelled, 37 left")
        expect(page.get_by_role("button", name="<b>sad</b>")).to_be_visible()
        seen = []
        for count in range(1, 37):
            seen.append(page.locator("#text").inner_text())
            page.keyboard.press(str(1 + count % 2))
            expect(progress).to_have_text(f"{count} labelled, {37 - count} left")
        page.keyboard.press(",")
        expect(progress).to_have_text("35 labelled, 2 left")
        assert page.locator("#text").inner_text() == seen[-1]
        page.keyboard.press("-")
        expect(progress).to_have_text("35 labelled, 1 skipped, 1 left")
        seen.append(page.locator("#text").inner_text())
        page.get_by_role("button", name="joy").click()
        expect(page.locator("#text")).to_have_text("Every text is labelled or skipped.")
        assert len(set(seen)) == 37
        assert any("\\x1b[2J <img src=x" in text and "\\u202etxt.exe" in text for text in seen)
        expect(page.locator("#curve svg")).to_be_visible(timeout=120_000)
        expect(page.locator("#summary")).to_contain_text("Accuracy")
        assert not problems
        assert all(each.startswith((url, "data:")) for each in asked)
        assert page.title() == "pool.csv · lit_bert"
        browser.close()
