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


WHO = """() => {
  const one = document.activeElement, place = one.getBoundingClientRect();
  const seen = document.elementFromPoint(place.x + place.width / 2, place.y + place.height / 2);
  return {name: one.id || one.ariaLabel || one.className || one.textContent.trim().slice(0, 30),
    ringed: parseFloat(getComputedStyle(one).outlineWidth) >= 2, seen: one.contains(seen)};
}"""


def focused(page):
    return page.evaluate(WHO)["name"]


def go_to(page, name, key="Tab"):
    """By keyboard; what has the focus on the way is marked, and nothing lies over it."""
    for _ in range(20):
        page.keyboard.press(key)
        here = page.evaluate(WHO)
        assert here["ringed"] and here["seen"], here
        if here["name"] == name:
            return
    raise AssertionError(f"{name} is not reached")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_everything_is_reached_by_keyboard(visit, size):
    page = visit(size)
    page.on("filechooser", lambda chooser: None)  # the driver takes a while to listen for them
    page.evaluate("document.activeElement.blur()")
    go_to(page, "beside")
    page.keyboard.press("Home")
    assert page.input_value("#beside") == ""
    go_to(page, "model", "Shift+Tab")
    page.keyboard.press("End")
    assert page.input_value("#model") == "other"
    go_to(page, "Settings")
    page.keyboard.press("Enter")
    go_to(page, "seed")
    page.keyboard.type("7")
    go_to(page, "choose")
    with page.expect_file_chooser() as opened:
        page.keyboard.press("Enter")
    opened.value.set_files([png(1), png(2)])
    playwright.expect(page.locator("#waiting .picture")).to_have_count(2)
    assert page.locator("#said").inner_text() == "added: picture 1.png, picture 2.png"
    go_to(page, "Remove picture 2.png", "Shift+Tab")
    page.keyboard.press("Enter")
    assert focused(page) == "Remove picture 1.png"
    go_to(page, "text")
    page.keyboard.type("what is it?")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#stop")).to_be_hidden(timeout=60_000)
    assert focused(page) == "text"
    go_to(page, "What it looked at", "Shift+Tab")
    show(page, f"keyboard-{'phone' if size is PHONE else 'desktop'}")
    page.keyboard.press("Enter")
    playwright.expect(page.locator(".look svg rect")).to_have_count(64, timeout=60_000)
    assert focused(page) == "look"
    go_to(page, "anew", "Shift+Tab")
    page.keyboard.press("Enter")
    assert (page.locator(".turn").count(), focused(page)) == (0, "text")
    assert not page.problems


def hold_answers(page):
    """Answers wait until they are let go; what was asked."""
    routes = []
    page.route("**/v1/chat/completions", lambda route: routes.append(route))
    return routes


def let_go(routes, text):
    chunk = {"choices": [{"delta": {"content": text}}]}
    for route in routes:
        route.fulfill(body=f"data: {json.dumps(chunk)}\n\n", content_type="text/event-stream")


def test_the_focus_stays_where_it_was_put(visit):
    page = visit()
    page.select_option("#beside", "")
    put(page, "what is it?")
    routes = hold_answers(page)
    page.keyboard.type("and now?")
    go_to(page, "send")
    page.keyboard.press("Space")
    assert focused(page) == "stop"
    page.keyboard.press("Space")
    playwright.expect(page.locator("#send")).to_be_visible()
    assert (focused(page), page.input_value("#text")) == ("text", "and now?")  # to be asked again
    routes.clear()
    page.keyboard.press("Enter")
    go_to(page, "Copy as Python", "Shift+Tab")  # of an earlier answer, to be read meanwhile
    let_go(routes, "a star")
    playwright.expect(page.locator("#said")).to_contain_text("a star")
    assert focused(page) == "Copy as Python"
    assert not page.problems


def test_a_question_that_failed_is_kept(visit):
    page = visit()
    page.select_option("#beside", "")
    busy = {"error": {"message": "too many wait"}}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=429, json=busy))
    put(page, "what is it?", 1)
    assert page.locator(".answer.failed p").inner_text() == "too many wait"
    assert page.input_value("#text") == "what is it?"
    assert page.locator("#waiting .picture").count() == 1
    page.unroute("**/v1/chat/completions")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.press("#text", "Enter")
    (message,) = json.loads(sent.value.post_data)["messages"]
    assert [part["type"] for part in message["content"]] == ["image_url", "text"]
    playwright.expect(page.locator("#stop")).to_be_hidden(timeout=60_000)
    assert page.locator("#waiting .picture").count() == 0


def test_a_new_conversation_knows_nothing_of_an_answer_under_way(visit):
    page = visit()
    page.select_option("#beside", "")
    put(page, "first?")
    routes = hold_answers(page)
    page.fill("#text", "second?")
    page.press("#text", "Enter")
    page.click("#anew")
    playwright.expect(page.locator("#send")).to_be_visible()
    assert page.input_value("#text") == ""
    routes.clear()
    page.fill("#text", "third?")
    page.press("#text", "Enter")
    playwright.expect(page.locator(".answer")).to_have_count(1)
    (message,) = json.loads(routes[0].request.post_data)["messages"]
    assert message["content"] == [{"type": "text", "text": "third?"}]


def test_what_is_no_picture_and_a_wrong_key_are_said(visit):
    page = visit()
    notes = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"x"}
    page.set_input_files("#files", [png(2, 640), notes, png(1, 8)])
    playwright.expect(page.locator("#note")).to_have_text("no picture: notes.txt")
    names = page.locator("#waiting img").evaluate_all("all => all.map(each => each.alt)")
    assert names == ["picture 2.png", "picture 1.png"]  # as they were given
    page.fill("#key", "another")
    page.locator("#key").blur()
    playwright.expect(page.locator("#note")).to_contain_text("a key is needed")


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
