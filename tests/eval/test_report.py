"""The report page: everything inside one file, words escaped, colours from the page."""

import json
import re
from html.parser import HTMLParser

from lucida.eval.curve import loss_curve, score_curves, smooth, source_curves
from lucida.eval.report import duration, write_report
from lucida.eval.run import evaluate_run


class Page(HTMLParser):
    """Tags that must be closed are, and addresses are collected."""

    VOID = frozenset({"meta", "br", "img", "link", "hr", "input"})

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "xlink:href") and v]

    def handle_startendtag(self, tag, attributes):
        self.addresses += [v for k, v in attributes if k in ("src", "href", "xlink:href") and v]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_the_page_is_whole_and_asks_for_nothing(run):
    evaluate_run(run.path)
    page = read(run.report_file)
    assert page.addresses
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in page.addresses)
    html = run.report_file.read_text()
    assert "url(" not in re.sub(r"url\(#", "", html)
    assert "@import" not in html
    words = " ".join(page.text)
    assert "attribute" in words
    assert "chance" in words
    assert "prefers-color-scheme: dark" in html
    assert "var(--accent)" in html
    assert html.count('<article class="shot') == 5 * 8 + 5 * 8  # in order; 4 worst and 4 best


def test_words_of_a_model_are_escaped(run):
    evaluate_run(run.path)
    file = run.path / "predictions" / "attribute.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["output"] = "<script>alert(1)</script>"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = write_report(run.path).read_text()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_the_curve_joins_stages_and_needs_rows():
    rows = [{"stage": "a", "step": s, "loss": 1.0} for s in (1, 2)]
    rows += [{"stage": "b", "step": s, "loss": 0.5} for s in (1, 2)]
    rows.append({"stage": "b", "step": 2, "validation_loss": 0.6})
    svg = loss_curve(rows)
    assert svg.startswith("<svg")
    assert "validation" in svg
    assert svg == loss_curve(rows)
    assert loss_curve([]) == ""


def test_scores_asked_on_the_way_have_a_chart_each():
    def asked(step, **scores):
        tasks = {name: {"score": v, "interval": [v, v], "n": 4} for name, v in scores.items()}
        return {"stage": "a", "step": step, "evaluation": {"step": step, "tasks": tasks}}

    rows = [asked(1, reading=0.2, boxes=0.1), asked(2, reading=0.4, boxes=0.3, late=1.0)]
    svg = score_curves(rows)
    assert "reading" in svg and "boxes" in svg
    assert "late" not in svg  # one point is no curve
    assert score_curves(rows[:1]) == score_curves([]) == ""


def test_each_source_of_a_mixture_has_a_chart():
    def mixed(step, **losses):
        told = {"source_loss": losses, "source_supervised": dict.fromkeys(losses, 5)}
        return {"stage": "b", "step": step, "loss": 1.0, **told}

    rows = [{"stage": "a", "step": 1, "loss": 2.0}, mixed(1, web=3.0, notes=1.0), mixed(2, web=2.0)]
    svg = source_curves(rows)
    assert svg.startswith("<svg") and "web" in svg and "notes" in svg
    assert source_curves(rows[:1]) == source_curves([]) == ""
    many = [mixed(step, **{f"part{n}": 1.0 for n in range(20)}) for step in (1, 2)]
    many[0]["source_supervised"]["part19"] = 9
    svg = source_curves(many)
    assert svg.count(">part") == 12 and "part19" in svg
    svg = source_curves([mixed(1, **{"a <b> & c" * 9: 0.0})])
    assert "<b>" not in svg and "…" in svg


def test_an_average_counts_tokens():
    assert smooth([4, 1], keep=1.0, counts=[1, 3]) == [4, 7 / 4]


def test_smooth_worked_example():
    first, second = smooth([4, 2], keep=0.5)
    assert first == 4
    assert abs(second - 8 / 3) < 1e-12


def test_duration():
    assert [duration(s) for s in (2.04, 48.4, 185, 7800)] == [
        "2.0 s",
        "48 s",
        "3 min 05 s",
        "2 h 10 min",
    ]
