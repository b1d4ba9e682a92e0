"""The page in a real browser, with pictures of it: `make test-page`. No part of the suite, which has no gradio and no browser.

It needs chromium (Debian's, or CHROMIUM=PATH). Screenshots go to build/page/*.png, to be looked at: wide, as narrow as a phone's
and in the dark.
"""

import io
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHOTS = ROOT / "build" / "page"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
SLOW = 240_000  # milliseconds: compilations on a small machine


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The command, in a folder of its own, with a secret beside it; connections to anywhere else end it."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "secret.txt").write_text("nobody's business")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (folder / "log").open("w")
    command = [sys.executable, "-c", _WATCHED, "--mode=page", f"--port={port}"]
    (folder / "tmp").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp")}
    process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
    for _ in range(240):
        if "Ctrl-C ends it" in (folder / "log").read_text() or process.poll() is not None:
            break
        time.sleep(0.5)
    assert "Ctrl-C ends it" in (folder / "log").read_text(), (folder / "log").read_text()
    yield f"http://127.0.0.1:{port}", folder
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not list((folder / "tmp").glob("scoreflow_page_*"))  # what visitors made is gone
    text = (folder / "log").read_text()
    assert "elsewhere" not in text, text
    assert "Traceback" not in text, text


_WATCHED = """
import socket, sys
connect = socket.socket.connect
def watched(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("elsewhere", address, flush=True)
    return connect(self, address)
socket.socket.connect = watched
sys.argv[0] = "scoreflow"
from scoreflow_jax.command_line import main
main()
"""


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium: install Debian's, or give CHROMIUM=PATH")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def visit(server, browser, request):
    """The page, opened; afterwards nothing was fetched from elsewhere, and no error was shown but those that a test asks for."""
    options = getattr(request, "param", {})
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 1000}, **options})
    page = context.new_page()
    fetched = []
    page.on("request", lambda r: fetched.append(r.url))
    page.goto(server[0])
    page.wait_for_selector("#translate-seen img", timeout=SLOW)  # it opens with a photograph
    yield page
    assert all(url.startswith((server[0], "data:", "blob:")) for url in fetched), fetched
    context.close()


def a_car(path):
    picture = np.full((120, 200, 3), (120, 170, 230), np.uint8)
    picture[50:90, 40:160] = (200, 30, 30)
    Image.fromarray(picture).save(path)
    return path


def test_a_picture_is_uploaded_translated_followed_and_downloaded(visit, tmp_path):
    before = visit.get_attribute("#translate-seen img", "src")
    visit.set_input_files("#translate-upload input[type=file]", a_car(tmp_path / "car.png"))
    visit.wait_for_function(f"document.querySelector('#translate-seen img').src != {json.dumps(before)}")
    visit.click("#translate")
    visit.wait_for_selector("#path-frame img", timeout=SLOW)
    visit.wait_for_timeout(1000)
    assert visit.locator("#translated img").count() >= 2
    visit.screenshot(path=SHOTS / "translate.png", full_page=True)
    slider = visit.locator("#path-slider input[type=range]")
    slider.focus()
    for _ in range(3):  # by the keyboard
        visit.keyboard.press("ArrowRight")
    visit.wait_for_function("document.querySelector('#path-head').innerText.includes('0.81')")
    visit.click("#together")
    visit.wait_for_selector("#everything")
    with visit.expect_download() as download:
        visit.click("#everything")
    with zipfile.ZipFile(io.BytesIO(pathlib.Path(download.value.path()).read_bytes())) as file:
        report = json.loads(file.read("report.json"))
        assert report["made"][0]["what"] == "translation"
        assert set(report["made"][0]["pictures"].values()) <= set(file.namelist())


def test_what_is_no_picture_is_refused_in_a_sentence(visit, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture at all")
    visit.set_input_files("#translate-upload input[type=file]", tmp_path / "bad.png")
    visit.wait_for_selector("text=this picture cannot be taken: not a picture that Pillow can read")


def test_grids_walks_and_likelihoods(visit):
    visit.get_by_role("tab", name="Generate", exact=True).first.click()
    visit.click("#generate")
    visit.wait_for_selector("#generated img", timeout=SLOW)
    visit.wait_for_timeout(1000)
    assert visit.locator("#generated img").count() == 20
    visit.screenshot(path=SHOTS / "generate.png", full_page=True)
    visit.get_by_role("tab", name="Interpolate").click()
    visit.click("#between-seeds")
    visit.wait_for_selector("#between-frame img", timeout=SLOW)
    visit.wait_for_timeout(1000)
    visit.screenshot(path=SHOTS / "interpolate.png", full_page=True)
    visit.get_by_role("tab", name="Encode and measure").click()
    visit.click("#encode")
    visit.wait_for_selector("text=give a picture first")
    visit.get_by_role("tab", name="Generate", exact=True).last.click()
    visit.click("#measure-generate")
    visit.wait_for_selector("#measure-seen img", timeout=SLOW)
    visit.click("#encode")
    visit.wait_for_selector("text=Decoded it is", timeout=SLOW)
    visit.click("#density")
    visit.wait_for_selector("text=bits/dim", timeout=SLOW)
    visit.screenshot(path=SHOTS / "measure.png", full_page=True)


def test_a_computation_can_be_cancelled(visit):
    visit.get_by_role("tab", name="Encode and measure").click()
    visit.get_by_role("tab", name="Generate", exact=True).last.click()
    visit.click("#measure-generate")
    visit.wait_for_selector("#measure-seen img", timeout=SLOW)
    visit.click("#by-class")
    visit.wait_for_selector("text=bits/dim", timeout=SLOW)  # the first class
    visit.get_by_role("button", name="Cancel").locator("visible=true").click()
    visit.wait_for_timeout(6000)
    after = visit.inner_text("#said").count("nats")
    visit.wait_for_timeout(8000)
    assert visit.inner_text("#said").count("nats") == after < 10


@pytest.mark.parametrize(
    ("visit", "name"),
    [
        ({"viewport": {"width": 390, "height": 844}}, "phone"),
        ({"color_scheme": "dark"}, "dark"),
    ],
    indirect=["visit"],
)
def test_it_fits_a_phone_and_the_dark(visit, name):
    visit.wait_for_timeout(1000)
    visit.screenshot(path=SHOTS / f"{name}.png", full_page=True)
    wide = visit.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
    unnamed = visit.eval_on_selector_all(
        "input:not([type=file]), button, select",
        "els => els.filter(e => e.offsetParent && !e.labels?.length && !e.ariaLabel && !e.title && !e.innerText"
        " && !e.querySelector('.image-frame'))"  # gradio's own, around a picture under its label
        ".map(e => e.outerHTML.slice(0, 200))",
    )
    assert unnamed == []


def test_nothing_takes_its_turn_out_of_turn(server):
    """The routes that go past the queue are closed, and addresses are not fetched for anybody."""
    url, _ = server
    body = json.dumps({"fn_index": 0, "data": []}).encode()
    for route in ("api/predict", "run/predict", "api/generate", "run/generate"):
        request = urllib.request.Request(f"{url}/gradio_api/{route}", body, {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code in (403, 404, 405)
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{url}/gradio_api/file=https://example.org/x.png")


def test_no_other_file_can_be_fetched(server):
    url, folder = server
    for path in ("/etc/passwd", str(folder / "secret.txt"), "secret.txt", str(ROOT / "main.py"), "../main.py"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}/gradio_api/file={path}")
        assert refused.value.code in (403, 404)
