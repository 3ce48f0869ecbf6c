"""The page in a real Chromium. LUCIDA_SCREENSHOTS=DIR keeps what it looks like."""

import contextlib
import io
import json
import os
import shutil
from pathlib import Path

import pytest
from served import KEY, answer_directly, ask, serve_in_thread
from tiny import picture

from lucida.serve.batching import Engine

playwright = pytest.importorskip(
    "playwright.sync_api", reason="pip install 'lucida[browser]' for the test of the page"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if CHROMIUM is None:
    pytest.skip("no Chromium here: apt-get install chromium", allow_module_level=True)

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def address(parts, make):
    engines = {"tiny": Engine("tiny", *parts), "tiny/blind": Engine("blind", *make(vision=None))}
    with serve_in_thread(engines | {"other": engines["tiny"]}, KEY) as address:
        yield address
    for engine in engines.values():
        engine.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page, with the key, at a size and in a scheme."""
    contexts = []

    def open_page(size=DESKTOP, scheme="light"):
        context = browser.new_context(
            viewport=size, color_scheme=scheme, permissions=["clipboard-read", "clipboard-write"]
        )
        contexts.append(context)
        page = context.new_page()
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.goto(address)
        page.fill("#key", KEY)
        page.locator("#key").blur()
        page.wait_for_selector("#model option", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()


def show(page, name):
    if folder := os.environ.get("LUCIDA_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def png(seed, size=64):
    content = io.BytesIO()
    picture(seed, size, size).save(content, "PNG")
    return {"name": f"picture {seed}.png", "mimeType": "image/png", "buffer": content.getvalue()}


def put(page, question, *seeds):
    page.set_input_files("#files", [png(seed) for seed in seeds])
    playwright.expect(page.locator("#waiting .picture")).to_have_count(len(seeds))
    page.fill("#text", question)
    page.press("#text", "Enter")
    playwright.expect(page.locator("#stop")).to_be_hidden(timeout=60_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_two_models_answer_side_by_side(visit, parts, size, scheme):
    page = visit(size, scheme)
    assert page.input_value("#beside") == "tiny/blind"
    page.fill("#text", "")
    put(page, "what is it?", 1)
    cards = page.locator(".answer")
    assert cards.locator("h2").all_inner_texts() == ["tiny", "tiny/blind"]
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= size["width"]  # nothing has to be pushed aside
    said = page.locator("#said").inner_text()
    assert "tiny: " in said and "tiny/blind: " in said
    assert page.locator("[aria-live]").count() == 0  # the stream itself is not read aloud
    shown = cards.nth(0).locator("p").text_content()
    assert shown and shown in said
    show(page, f"answers-{'phone' if size is PHONE else 'desktop'}-{scheme}")
    assert not page.problems


def test_settings_are_there_on_a_phone_and_are_sent(visit):
    page = visit(PHONE)
    sent = []
    page.on("request", lambda request: sent.append(request) if request.method == "POST" else None)
    page.click("summary")
    for name, value in {"temperature": "0.5", "seed": "7", "stops": "zz\nqq"}.items():
        assert page.locator(f"#{name}").is_visible()
        page.fill(f"#{name}", value)
    show(page, "settings-phone")
    put(page, "say")
    body = json.loads(sent[0].post_data)
    assert (body["temperature"], body["seed"], body["stop"]) == (0.5, 7, ["zz", "qq"])
    assert not page.problems


def test_boxes_of_both_models_are_drawn_in_their_colours(visit):
    page = visit()

    def answer(route):
        blind = "blind" in json.loads(route.request.post_data)["model"]
        box = [8, 8, 30, 30] if blind else [20, 10, 60, 50]
        chunk = {"choices": [{"delta": {"content": "<b>", "lucida_boxes": [box]}}]}
        route.fulfill(
            body=f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n", content_type="text/event-stream"
        )

    page.route("**/v1/chat/completions", answer)
    put(page, "where?", 1)
    boxes = page.locator(".user svg rect")
    assert boxes.count() == 2
    colours = {boxes.nth(k).get_attribute("stroke") for k in range(2)}
    marks = page.locator(".answer .mark").evaluate_all(
        "all => all.map(each => each.style.borderColor)"
    )
    assert len(colours) == len(set(marks)) == 2
    assert "box from 20, 10 to 60, 50" in page.locator("#said").inner_text()
    show(page, "boxes")
    put(page, "and there?")  # the picture is further up: it is shown again, once a model
    for k in range(2):
        playwright.expect(
            page.locator(".answers")
            .nth(1)
            .locator(".answer")
            .nth(k)
            .locator(":scope > .picture rect")
        ).to_have_count(1)
    assert page.locator(".user svg rect").count() == 4
    page.unroute("**/v1/chat/completions")
    assert not page.problems


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_what_it_looked_at_is_drawn(visit, parts, size):
    page = visit(size)
    put(page, "what is it?", 1)
    cards = page.locator(".answer")
    assert cards.nth(1).locator("text=What it looked at").count() == 0  # the blind model's
    with page.expect_response("**/look") as heard:
        cards.nth(0).locator("text=What it looked at").click()
    found = heard.value.json()
    cells = cards.nth(0).locator(".look svg rect")
    playwright.expect(cells).to_have_count(64)
    drops = [drop for row in found["pictures"][0]["drops"] for drop in row]
    strength = [abs(drop) for drop in drops]
    strongest = cells.nth(strength.index(max(strength)))
    assert float(strongest.get_attribute("fill-opacity")) == pytest.approx(0.85)
    warm = drops[strength.index(max(strength))] >= 0
    assert strongest.get_attribute("fill") == ("#d65310" if warm else "#2166c9")
    assert found["answer"] in cards.nth(0).locator("figcaption").inner_text()
    assert "rests most on the" in page.locator("#said").inner_text()
    assert page.evaluate("document.activeElement.className") == "look"
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    show(page, f"look-{'phone' if size is PHONE else 'desktop'}")
    assert not page.problems


def test_look_inside_opens_the_page_of_lucida_look(visit, parts):
    page = visit()
    put(page, "what is it?", 1)
    with page.context.expect_page() as opened:
        page.locator(".answer").nth(0).locator("text=Look inside").click()
    inside = opened.value
    playwright.expect(inside.locator("h1")).to_have_text("what is it?", timeout=60_000)
    kinds = inside.locator("#kinds label span").all_inner_texts()
    assert kinds == ["Covered", "Attention", "Words"]
    assert inside.locator("#heads button").count() == 8
    inside.locator("#kinds input[value=attention]").press("Space")
    playwright.expect(inside.locator("#says")).to_contain_text("of the attention")
    show(inside, "inside")
    assert not page.problems
    playwright.expect(page.locator(".answer").nth(0).locator("text=Look inside")).to_be_enabled()


def test_a_look_that_is_refused_says_why(visit):
    page = visit()
    page.route(
        "**/look",
        lambda route: route.fulfill(status=429, json={"error": {"message": "somebody else looks"}}),
    )
    put(page, "what is it?", 1)
    page.click("text=What it looked at")
    playwright.expect(page.locator(".answer .more").first).to_have_text("somebody else looks")
    assert page.locator("text=What it looked at").is_enabled()


def test_new_forgets_pictures_that_wait(visit):
    page = visit()
    put(page, "what?", 1)
    page.set_input_files("#files", [png(2)])
    playwright.expect(page.locator("#waiting .picture")).to_have_count(1)
    page.click("#anew")
    assert page.locator("#waiting .picture").count() == 0
    assert page.locator(".turn").count() == 0


def test_beside_follows_the_model(visit):
    page = visit()
    page.select_option("#model", "other")
    assert page.input_value("#beside") == ""
    page.select_option("#model", "tiny")
    assert page.input_value("#beside") == "tiny/blind"


def test_stop_ends_an_answer(visit):
    page = visit()
    page.route("**/v1/chat/completions", lambda route: None)  # never answered
    page.fill("#text", "what?")
    page.press("#text", "Enter")
    page.click("#stop")
    playwright.expect(page.locator("#send")).to_be_visible()
    assert page.locator(".answer .more").first.inner_text() == "stopped"


def test_what_is_copied_runs(visit, parts, address, monkeypatch):
    page = visit()
    page.select_option("#beside", "")
    put(page, "what is it?", 3)
    monkeypatch.setenv("LUCIDA_API_KEY", KEY)
    page.click("text=Copy as Python")
    code = page.evaluate("navigator.clipboard.readText()")
    assert KEY not in code
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "copied", "exec"), {})
    shown = page.locator(".answer p").text_content()
    assert out.getvalue().strip() == shown.strip()
    page.click("text=Copy as curl")
    command = page.evaluate("navigator.clipboard.readText()")
    assert "$LUCIDA_API_KEY" in command and KEY not in command
    if shutil.which("curl"):
        import subprocess

        found = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
        assert json.loads(found.stdout)["choices"][0]["message"]["content"] == shown.strip()
    assert (
        answer_directly(parts, ask("what is it?", picture(3, 64, 64)), 4)[:1] == shown.strip()[:1]
    )
