"""The page in a real browser: it predicts as Python does, learns, keeps what it learnt, and asks nobody."""

from __future__ import annotations

import base64
import io
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from browser import chromium, draw, killable
from PIL import Image
from torch import Tensor, nn

import nagedge
from nagedge.data.mnist import write_demo_user
from nagedge.data.preprocessing import DataLayout, FillMissing, Normalise, Preprocessing, StandardiseTarget
from nagedge.runtimes import open_inference
from nagedge.training.run import RUN_TEMPLATE
from nagedge.web import write_page
from nagedge.web.server import serve

TARGET = "any-any-onnxruntime-fp32-train"
OWN_FILES = {"", "index.html", "style.css", "model.js", "runtime.js"}
SEVEN = [[(0.3, 0.25), (0.7, 0.25), (0.45, 0.8)]]
ONE = [[(0.35, 0.4), (0.55, 0.2), (0.55, 0.8)]]

KEPT = """async () => {
    const { load } = await import("nagedge/storage.mjs");
    const { readPacked } = await import("nagedge/files.mjs");
    const { identity } = JSON.parse(new TextDecoder().decode(await readPacked("bundle.json")));
    const kept = await load(identity);
    return kept && { ...kept, weights: Array.from(kept.weights), examples: kept.examples.map((example) => ({ ...example,
        inputs: Object.fromEntries(Object.entries(example.inputs).map(
            ([name, { data, shape }]) => [name, { data: Array.from(data, Number), shape }])) })) };
}"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> nagedge.Bundle:
    """The bundle of ``nagedge demo``, trained for fewer epochs."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "run.toml").write_text(RUN_TEMPLATE.replace("epochs = 15", "epochs = 2"))
    checkpoint = nagedge.train(folder / "run.toml", out=folder / "checkpoint")
    return nagedge.export(checkpoint, targets=[TARGET], out=folder / "bundle")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Raw digits of the demo's user: ``image`` uint8 ``[n, 1, 28, 28]``, and a target a task."""
    path = tmp_path_factory.mktemp("user") / "user.npz"
    write_demo_user(path, part="fine_tune")
    with np.load(path) as arrays:
        return {name: arrays[name][:5] for name in arrays.files if arrays[name].ndim > 0}


@pytest.fixture(scope="module")
def opened() -> Iterator[tuple[Any, Any]]:
    with chromium() as pair:
        yield pair


@pytest.fixture(scope="module")
def playwright(opened: tuple[Any, Any]) -> Any:
    return opened[0]


@pytest.fixture(scope="module")
def browser(opened: tuple[Any, Any]) -> Any:
    return opened[1]


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of a phone's size that fails its test when it reports an error; its requests are in ``page.asked``."""
    context = browser.new_context(viewport={"width": 360, "height": 740}, accept_downloads=True)
    context.set_default_timeout(60_000)
    opened = context.new_page()
    opened.asked, opened.errors = [], []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.on(
        "console", lambda message: opened.errors.append(message.text) if message.type == "error" else None
    )
    yield opened
    context.close()
    assert opened.errors == []


@pytest.fixture(scope="module")
def served(demo: nagedge.Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The demo's page, by how it is opened."""
    folder = write_page(demo, tmp_path_factory.mktemp("web") / "page")
    with serve(folder, 0) as (url, wait):
        threading.Thread(target=wait, daemon=True).start()
        yield {"from a server": url, "from disk": (folder / "index.html").as_uri(), "folder": str(folder)}


def start(page: Any, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("main[aria-busy=false]")


def upload(page: Any, image: np.ndarray) -> None:
    """Give a picture file to the page's image input."""
    file = io.BytesIO()
    Image.fromarray(image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)).save(file, "png")
    page.set_input_files(
        ".editor input[type=file]", {"name": "image.png", "mimeType": "image/png", "buffer": file.getvalue()}
    )
    page.locator("#keep:enabled").wait_for()


def keep(page: Any) -> None:
    before = page.locator(".tile").count()
    page.click("#keep")
    page.locator(".tile").nth(before).wait_for()


def said(page: Any, text: str | re.Pattern[str]) -> None:
    """Wait until the page's status says so."""
    page.locator("#status").filter(has_text=text).wait_for()


def learn(page: Any) -> None:
    page.click("#learn")
    said(page, "Learnt")
    page.locator("#keep:enabled, #keep:disabled").wait_for()


def number(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-"))


def shares(page: Any, task: str) -> list[int]:
    texts = page.locator(f"[data-task={task}] .share").all_inner_texts()
    return [int(text.split()[0]) for text in texts]


def kept_weights(kept: dict[str, Any]) -> dict[str, np.ndarray]:
    return safetensors.numpy.load(bytes(kept["weights"]))


@pytest.mark.parametrize("how", ["from a server", "from disk"])
def test_a_person_corrects_it_and_it_learns(
    how: str, page: Any, served: dict[str, str], demo: nagedge.Bundle, digits: dict[str, np.ndarray]
) -> None:
    start(page, served[how])
    preprocessing = Preprocessing.from_json(demo.manifest.preprocessing)
    prepared = preprocessing.apply({"image": digits["image"]})
    outputs = open_inference(demo).predict(prepared)
    probabilities = torch.softmax(torch.from_numpy(outputs["digit"]), 1).numpy()
    in_units = preprocessing.invert_outputs(outputs)
    for index, image in enumerate(digits["image"]):
        upload(page, image)
        np.testing.assert_allclose(shares(page, "digit"), 100 * probabilities[index], atol=0.51)
        for task in ("slant", "stroke_mass"):
            shown = number(page.inner_text(f"[data-task={task}] .value"))
            assert shown == pytest.approx(float(in_units[task].reshape(-1)[index]), rel=6e-3, abs=1e-4)
        page.locator("[data-task=digit] .option").nth(int(digits["digit"][index])).click()
        page.fill("[data-task=slant] input", f"{digits['slant'].reshape(-1)[index]:.3f}")
        keep(page)
    kept = page.evaluate(KEPT)
    for index, example in enumerate(kept["examples"]):
        np.testing.assert_array_equal(
            np.array(example["inputs"]["image"]["data"], np.float32), prepared["image"][index].reshape(-1)
        )
        assert example["targets"]["digit"] == [int(digits["digit"][index])]

    learn(page)
    losses = [loss["loss"] for loss in page.evaluate(KEPT)["losses"]]
    assert len(losses) == 50
    assert losses[-1] < losses[0]
    assert "in 50 steps" in page.get_attribute("figure svg", "aria-label")
    assert page.inner_text("#steps-learnt") == "50 steps learnt"
    assert re.search(r"step, p50\s+[\d.]+ ms\s+p90\s+[\d.]+ ms", page.inner_text("#timing"))
    table = {row.split("\t")[0]: row.split("\t")[1:] for row in page.inner_text("tbody").splitlines()}
    right = [int(text.split()[0]) for text in table["digit right"]]
    assert right[0] == int((probabilities.argmax(1) == digits["digit"][:5]).sum())
    assert right[1] >= right[0]
    slant = [number(text) for text in table["slant error, degrees"]]
    off = np.abs(in_units["slant"].reshape(-1) - digits["slant"].reshape(-1)).mean()
    assert slant[0] == pytest.approx(float(off), rel=1e-2)
    assert slant[1] < slant[0]

    # What the page predicts now is what Python predicts with the weights that it kept.
    learnt = {
        key.removeprefix("params."): value
        for key, value in kept_weights(page.evaluate(KEPT)).items()
        if key.startswith("params.")
    }
    now = preprocessing.invert_outputs(open_inference(demo, params=learnt).predict(prepared))
    upload(page, digits["image"][0])
    shown = number(page.inner_text("[data-task=slant] .value"))
    assert shown == pytest.approx(float(now["slant"].reshape(-1)[0]), rel=6e-3, abs=1e-4)
    assert shown != pytest.approx(float(in_units["slant"].reshape(-1)[0]), rel=6e-3)

    base = served[how].removesuffix("index.html")
    asked = {url for url in page.asked if not url.startswith(("data:", "blob:"))}
    assert {url.removeprefix(base) for url in asked} <= OWN_FILES


def test_the_page_cannot_call_anybody(page: Any, served: dict[str, str]) -> None:
    called: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)
        elsewhere = f"127.0.0.1:{listener.getsockname()[1]}"
        start(page, served["from a server"])
        refused = page.evaluate(
            """async (elsewhere) => {
                const failed = (promise) => promise.then(() => "worked", () => "refused");
                const image = (source) => new Promise((done, fail) =>
                    Object.assign(new Image(), { onload: done, onerror: fail, src: source }));
                const socket = () => new Promise((done, fail) =>
                    Object.assign(new WebSocket(`ws://${elsewhere}/`), { onopen: done, onerror: fail }));
                navigator.sendBeacon(`http://${elsewhere}/`, "x");
                return Promise.all([failed(fetch("model.js")), failed(fetch(`http://${elsewhere}/`)),
                    failed(image(`http://${elsewhere}/x.png`)), failed(import(`http://${elsewhere}/x.js`)),
                    failed(socket())]);
            }""",
            elsewhere,
        )
        assert refused == ["refused"] * 5
        with pytest.raises(TimeoutError):
            called.append(listener.accept())
    assert called == []
    assert page.errors, "the browser reports what its policy refused"
    page.errors.clear()


def test_a_reload_keeps_examples_and_weights(page: Any, served: dict[str, str]) -> None:
    start(page, served["from a server"])
    draw(page, SEVEN)
    page.locator("[data-task=digit] .option").nth(7).click()
    keep(page)
    draw(page, ONE)
    page.locator("[data-task=digit] .option").nth(1).click()
    keep(page)
    learn(page)
    before = page.evaluate(KEPT)
    page.reload()
    page.wait_for_selector("main[aria-busy=false]")
    said(page, "Welcome back: 50 steps learnt so far.")
    assert page.locator(".tile").count() == 2
    assert page.evaluate(KEPT) == before
    page.click("[aria-label='Remove example 1']")
    said(page, "Removed")
    assert page.locator(".tile").count() == 1

    page.on("dialog", lambda dialog: dialog.accept())
    page.click("text=Your weights")
    page.click("#reset")
    said(page, "Forgotten")
    assert page.locator(".tile").count() == 0
    assert page.evaluate(KEPT) is None
    page.reload()
    page.wait_for_selector("main[aria-busy=false]")
    assert page.inner_text("#status") == ""


def test_weights_are_downloaded_uploaded_and_refused(
    page: Any, served: dict[str, str], demo: nagedge.Bundle, digits: dict[str, np.ndarray], tmp_path: Path
) -> None:
    start(page, served["from a server"])
    upload(page, digits["image"][1])
    page.fill("[data-task=slant] input", "40")
    keep(page)
    learn(page)
    page.click("text=Your weights")
    with page.expect_download() as download:
        page.click("#download")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == "cnn-personal.safetensors"
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata()["steps"] == "50"
        names = set(file.keys())
    trained = demo.manifest.training.parameters
    assert names == {f"{role}.{name}" for role in ("params", "momentum") for name in trained}
    upload(page, digits["image"][1])
    learnt = page.inner_text("[data-task=slant] .value")

    page.on("dialog", lambda dialog: dialog.accept())
    page.click("#reset")
    said(page, "Forgotten")
    upload(page, digits["image"][1])
    original = page.inner_text("[data-task=slant] .value")
    assert original != learnt

    whole = path.read_bytes()
    for content, text in (
        (whole[:-100], "truncated or damaged"),
        (b"no weights at all", "this is no safetensors file"),
        (whole, "Weights loaded: 50 steps learnt"),
        (safetensors.numpy.save({"a": np.ones(3)}), "these are no personal weights of such a page"),
        (_of_another_model(whole), 'these weights belong to another export of "cnn"'),
    ):
        page.set_input_files("#upload-file", {"name": "my.safetensors", "mimeType": "", "buffer": content})
        said(page, text)
    assert page.inner_text("#steps-learnt") == "50 steps learnt"
    page.locator("[data-task=slant] .value").filter(has_text=learnt).wait_for()


def _of_another_model(content: bytes) -> bytes:
    """Return personal weights with the identity of another bundle."""
    with_name = safetensors.numpy.load(content)
    return safetensors.numpy.save(
        with_name, {"format": "nagedge-personal-weights", "identity": "0" * 32, "model": "cnn", "steps": "1"}
    )


def test_a_lesson_that_diverges_changes_nothing(page: Any, served: dict[str, str]) -> None:
    start(page, served["from a server"])
    draw(page, SEVEN)
    page.locator("[data-task=digit] .option").nth(2).click()
    keep(page)
    before = kept_weights(page.evaluate(KEPT))
    page.click("text=Settings")
    page.fill("#setting-lr", "1e12")
    page.click("#learn")
    said(page, re.compile("Diverged: .* is .*The weights are as before; try a smaller step size"))
    after = kept_weights(page.evaluate(KEPT))
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert page.locator("#steps-learnt").is_hidden()
    page.fill("#setting-lr", "fast")
    page.click("#learn")
    said(page, "The settings are not numbers")
    assert page.get_attribute("#setting-lr", "aria-invalid") == "true"


def test_the_keyboard_is_enough(page: Any, served: dict[str, str]) -> None:
    start(page, served["from a server"])
    page.focus(".pad")
    for key in (" ", *["ArrowDown"] * 8, *["ArrowLeft"] * 4, " "):
        page.keyboard.press(key)
    page.locator("#keep:enabled").wait_for()
    page.focus("[data-task=digit] input:checked")
    page.keyboard.press("ArrowRight")
    chosen = int(page.locator("[data-task=digit] input:checked").get_attribute("value"))
    page.focus("#keep")
    page.keyboard.press("Enter")
    page.locator(".tile").wait_for()
    assert page.evaluate(KEPT)["examples"][0]["targets"]["digit"] == [chosen]


def test_a_kill_in_the_middle_of_a_save_leaves_a_whole_record(
    playwright: Any, served: dict[str, str], tmp_path: Path
) -> None:
    """Saves follow each other without a pause, 4 MB each, and the browser is killed as by a power cut."""
    hammer = """async () => {
        const { save } = await import("nagedge/storage.mjs");
        globalThis.saved = 0;
        (async () => {
            for (let turn = 1 + (globalThis.start ?? 0); ; turn++) {
                const weights = new Uint8Array(4e6).fill(turn % 251);
                await save({ identity: "crash", weights, examples: [], losses: [{ loss: turn }] });
                globalThis.saved = turn;
            }
        })();
    }"""
    read = """async () => {
        const { load } = await import("nagedge/storage.mjs");
        const kept = await load("crash");
        return kept && { turn: kept.losses[0].loss, sizes: kept.weights.length, values: [...new Set(kept.weights)] };
    }"""
    last = 0
    for wait_ms in (300, 430, 570):
        with killable(playwright, tmp_path / "profile") as (page, kill):
            start(page, served["from a server"])
            kept = page.evaluate(read)
            if last:
                assert kept["turn"] >= last, "a save that was confirmed is lost"
                assert kept["sizes"] == 4_000_000
                assert kept["values"] == [kept["turn"] % 251], "half of one save and half of another"
                page.evaluate(f"() => {{ globalThis.start = {kept['turn']}; }}")
            page.evaluate(hammer)
            page.wait_for_timeout(wait_ms)
            last = page.evaluate("() => globalThis.saved")
            assert last > 0
            kill()
    with killable(playwright, tmp_path / "profile") as (page, _):
        start(page, served["from a server"])
        kept = page.evaluate(read)
        assert kept["turn"] >= last
        assert kept["values"] == [kept["turn"] % 251]


class Everything(nn.Module):
    """A colour image and four measurements, every kind of task, and many classes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.measured = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(4, 8)
        self.heads = nn.ModuleList(nn.Linear(8, size) for size in (20, 1, 3, 2))

    def forward(self, picture: Tensor, sensors: Tensor) -> tuple[Tensor, ...]:
        features = torch.relu(self.seen(picture)).mean((2, 3)) + torch.tanh(self.measured(sensors))
        return tuple(head(features) for head in self.heads)


def with_preprocessing(bundle: nagedge.Bundle, preprocessing: Preprocessing) -> nagedge.Bundle:
    """Return a bundle that declares this, as one made from a checkpoint does."""
    manifest = bundle.manifest.model_copy(update={"preprocessing": preprocessing.to_json()})
    return nagedge.Bundle(bundle.path, manifest)


def test_every_kind_of_task_several_inputs_and_a_fixed_batch(page: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    evil = '<img src="http://127.0.0.1:9/" onerror="document.title=1">'
    bundle = nagedge.export(
        Everything(),
        tasks=[
            nagedge.TaskSpec("species", "classification", size=20),
            nagedge.TaskSpec("alarm", "binary", size=1),
            nagedge.TaskSpec("tags", "multilabel", size=3),
            nagedge.TaskSpec("at", "regression", size=2, unit="m"),
        ],
        example_input=(torch.randn(4, 3, 8, 10), torch.randn(4, 4)),
        targets=TARGET,
        batch=4,
        out=tmp_path / "bundle",
    )
    preprocessing = Preprocessing(
        "sensors",
        (FillMissing((0.5,)), Normalise((20.0, 0.0, 0.0, 0.0), (5.0, 1.0, 1.0, 1.0))),
        {"at": StandardiseTarget((10.0, 100.0), (2.0, 3.0))},
        DataLayout(
            columns=("temperature", "b", "c", evil),
            targets={"tags": ("wet", "cold", "dark")},
            classes={"species": tuple(f"species number {index}" for index in range(20))},
        ),
    )
    start(
        page,
        (write_page(with_preprocessing(bundle, preprocessing), tmp_path / "page") / "index.html").as_uri(),
    )
    assert page.locator("label", has_text=evil).count() == 1
    assert page.locator("main img").count() == 0

    page.click("text=Paste a row")
    page.fill("textarea", "temperature;b;c;d\n21,5;;0,25;x")
    assert page.inner_text("details .problem") == '"x" is no number'
    page.fill("textarea", "temperature;b;c;d\n21,5;;0,25;-1")
    fields = page.locator(".fields input").first
    assert fields.input_value() == "21.5"
    assert page.locator("#keep").is_disabled(), "the image is still missing"
    page.click("[aria-label='Ink #d83a3a']")
    draw(page, [[(0.2, 0.2), (0.8, 0.8)]])
    page.locator("#keep:enabled").wait_for()

    assert page.locator("[data-task=species] .option").count() == 5
    page.select_option("[data-task=species] select", "13")
    page.locator("[data-task=species] .verdict").filter(has_text="You say species number 13").wait_for()
    alarm = page.locator("[data-task=alarm] .switch")
    was = alarm.get_attribute("aria-checked")
    alarm.click()
    assert alarm.get_attribute("aria-checked") != was
    page.get_by_role("switch", name="cold").click()
    cold = page.get_by_role("switch", name="cold").get_attribute("aria-checked") == "true"
    page.fill("[data-task=at] input >> nth=1", "nothing")
    assert page.locator("#keep").is_disabled()
    page.fill("[data-task=at] input >> nth=1", "-7,5")
    first = number(page.inner_text("[data-task=at] .value >> nth=0"))
    keep(page)
    example = page.evaluate(KEPT)["examples"][0]
    assert example["inputs"]["sensors"]["data"] == pytest.approx([0.3, 0.5, 0.25, -1.0])
    picture = np.array(example["inputs"]["picture"]["data"]).reshape(3, 8, 10)
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert picture[0].max() > picture[1].max(), "the ink was red"
    assert example["targets"]["species"] == [13]
    assert example["targets"]["tags"][1] == int(cold)
    assert example["targets"]["at"] == [pytest.approx(first, rel=6e-3), -7.5]

    page.click("text=Settings")
    assert page.locator("#setting-batch").is_disabled()
    page.fill("#setting-lr", "0.02")
    learn(page)
    losses = page.evaluate(KEPT)["losses"]
    assert set(losses[0]) == {"loss", "loss.species", "loss.alarm", "loss.tags", "loss.at"}
    assert losses[-1]["loss"] < losses[0]["loss"]
    rows = page.inner_text("tbody").splitlines()
    assert [row.split("\t")[0] for row in rows] == [
        "species right",
        "alarm right",
        "tags labels right",
        "at error, m",
    ]
    page.locator(".editor >> nth=1").get_by_role("button", name="Random").click()
    assert float(fields.input_value()) == pytest.approx(20, abs=40)


class Words(nn.Module):
    """A bag of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 8), nn.Linear(8, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.head(self.embedding(tokens).mean(1))
        return result


def test_token_ids_are_checked_before_the_model_sees_them(page: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    bundle = nagedge.export(
        Words(),
        tasks=[nagedge.TaskSpec("mood", "classification", size=2)],
        example_input=torch.cat([torch.zeros(1, 40, dtype=torch.int64), torch.full((1, 40), 49)]),
        targets=TARGET,
        out=tmp_path / "bundle",
    )
    start(page, (write_page(bundle, tmp_path / "page") / "index.html").as_uri())
    page.fill("textarea", "1 2 3")
    assert page.inner_text(".problem >> nth=0") == "3 of 40 numbers"
    page.fill("textarea", " ".join(["7"] * 39 + ["50"]))
    assert page.inner_text(".problem >> nth=0") == "50 is no whole number from 0 to 49"
    ids = list(range(40))
    page.fill("textarea", ", ".join(map(str, ids)))
    page.locator("#keep:enabled").wait_for()
    expected = open_inference(bundle).predict({bundle.manifest.inputs[0].name: np.array([ids])})["mood"]
    probabilities = torch.softmax(torch.from_numpy(expected), 1).numpy()[0]
    np.testing.assert_allclose(shares(page, "mood"), 100 * probabilities, atol=0.51)
    page.locator("[data-task=mood] .option").nth(int(probabilities.argmin())).click()
    keep(page)
    page.click("text=Settings")
    page.fill("#setting-lr", "0.1")
    learn(page)
    page.fill("textarea", ", ".join(map(str, ids)))
    page.locator("#keep:enabled").wait_for()
    assert int(np.argmax(shares(page, "mood"))) == int(probabilities.argmin())


@pytest.mark.parametrize("width", [320, 360, 820, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_screen(scheme: str, width: int, browser: Any, served: dict[str, str]) -> None:
    context = browser.new_context(viewport={"width": width, "height": 740}, color_scheme=scheme)
    try:
        page = context.new_page()
        start(page, served["from disk"])
        draw(page, SEVEN)
        page.locator("#keep:enabled").wait_for()
        drawn = page.evaluate("() => document.querySelector('.pad').toDataURL().split(',')[1]")
        with Image.open(io.BytesIO(base64.b64decode(drawn))) as image:
            assert image.convert("L").getextrema() == (0, 255)
        keep(page)
        for details in page.locator("summary").all():
            details.click()
        assert page.evaluate("() => document.documentElement.scrollWidth") == width
        small = page.evaluate("""() =>
            [...document.querySelectorAll("button, select, input[type=text], .option, summary")]
            .filter((element) => element.checkVisibility() && !element.matches(".remove"))
            .map((element) => [element.textContent || element.id, element.getBoundingClientRect().height])
            .filter(([, height]) => height < 40)""")
        assert small == [], "a finger needs room"
        unnamed = page.evaluate("""() =>
            [...document.querySelectorAll("button, select, input, textarea, canvas, svg[role], progress")]
            .filter((element) => !element.getAttribute("aria-label") && !element.labels?.length)
            .filter((element) => element.textContent.trim() === "")
            .map((element) => element.outerHTML)""")
        assert unnamed == []
        background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(245, 246, 248)" if scheme == "light" else "rgb(17, 21, 27)")
    finally:
        context.close()


def test_a_page_that_was_copied_in_part_says_so(page: Any, served: dict[str, str], tmp_path: Path) -> None:
    for name in ("index.html", "style.css", "model.js"):
        (tmp_path / name).write_bytes((Path(served["folder"]) / name).read_bytes())
    page.goto((tmp_path / "index.html").as_uri())
    said(page, "runtime.js is missing or damaged: copy the whole folder of this page again")
    assert page.inner_text("#title") == "This page cannot start"
    page.errors.clear()  # of the file that is not there
