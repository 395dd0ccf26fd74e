"""The report as tables, Markdown and page, without a browser: figures, areas, escapes, contrast, differences."""

from __future__ import annotations

import copy
import io
import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from nnbuild.cli import main
from nnbuild.report import difference, flashmap, markdown, page, render, schema, terminal, timeline, treemap
from nnbuild.report.treemap import Rect
from tests import reports


def test_the_documents_of_these_tests_keep_to_the_schema() -> None:
    assert schema.violations(reports.full(), strict=True) == []
    assert schema.violations(reports.hostile(), strict=True) == []


# --- the terminal ------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stream that says what it is."""

    def __init__(self, is_terminal: bool, encoding: str) -> None:
        super().__init__()
        self.is_terminal, self._encoding = is_terminal, encoding

    def isatty(self) -> bool:
        return self.is_terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


@pytest.mark.parametrize(
    ("is_terminal", "encoding", "variables", "style"),
    [
        (True, "utf-8", {}, "colour"),
        (True, "utf-8", {"NO_COLOR": "1"}, "blocks"),
        (True, "utf-8", {"NO_COLOR": ""}, "colour"),  # no-color.org: only when not empty
        (True, "utf-8", {"TERM": "dumb"}, "blocks"),
        (True, "latin-1", {}, "ascii-colour"),
        (False, "utf-8", {}, "blocks"),
        (False, "ascii", {}, "ascii"),
        (False, "no-such-encoding", {}, "ascii"),
    ],
)
def test_the_style_suits_the_stream(is_terminal: bool, encoding: str, variables: dict[str, str], style: str) -> None:
    assert terminal.style_for(Terminal(is_terminal, encoding), variables) == style


def test_styles_differ_in_nothing_but_bars_and_colour() -> None:
    texts = {name: render.as_text("fw.elf", reports.full(), style) for name, style in terminal.STYLES.items()}
    assert texts["plain"].isascii()
    assert texts["ascii"].isascii()
    assert "\x1b" not in texts["plain"] + texts["ascii"] + texts["blocks"]
    assert "█" in texts["blocks"]
    assert re.sub("\x1b\\[\\d+m", "", texts["colour"]) == texts["blocks"]
    for name, text in texts.items():
        without = re.sub("\x1b\\[\\d+m", "", text)
        assert re.findall(r"\d[\d,.]*", without) == re.findall(r"\d[\d,.]*", texts["plain"]), name


@pytest.mark.parametrize("name", [name for name in terminal.STYLES if name != "plain"])
def test_bars_are_as_long_as_their_value(name: str) -> None:
    style = terminal.STYLES[name]
    lengths = [len(re.sub("\x1b\\[\\d+m", "", style.bar(value, 100, "red"))) for value in (0, 0.01, 25, 50, 100, 200)]
    assert lengths == [0, 1, 6, 12, 24, 24]
    assert len(re.sub("\x1b\\[\\d+m", "", style.parts([30, 20], 100, ["red", "blue"]))) == 12


# --- Markdown ----------------------------------------------------------------------------------------------------


def test_markdown_says_what_is_missed_and_what_changed() -> None:
    new, old = reports.full(), reports.full()
    held = {"over": 0, "ok": True, "hint": ""}
    new["budgets"] += [
        {"what": "growth FLASH", "value": 1_000, "limit": 2_048, "unit": "bytes", **held},
        {"what": "kws agreement", "value": 97.5, "limit": 95.0, "unit": "percent", **held},
    ]
    old["regions"][0]["used"] = 8_000
    old["models"][0]["layers"][0]["code"] = 712
    old["models"][0]["layers"][1]["cycles"] = None
    text = markdown.as_markdown(new, difference.of_document(old))
    assert "❌ Over budget: kws latency" in text
    assert "| FLASH | 9,000 bytes | 16,384 | 8,000 | +1,000 |" in text
    assert "| ❌ kws latency | 1,062.5 µs | 1,000.0 | 1,062.5 | ±0.0 |" in text
    assert "| kws_l00_conv2d flash | 2,712 | 2,700 | −12 |" in text
    assert "| kws_l01_add cycles |  | 17,000 | new |" in text
    assert "2 layers changed" in text
    assert "over by 62.5 µs" in text
    assert "Cycles and times of kws are estimates: fit, error at most 12 %." in text
    assert "| growth FLASH | 1,000 bytes | 2,048 |  |  |" in text
    assert "| kws agreement | 97.50 % | ≥ 95.00 | 97.50 | ±0.00 |" in text
    same = markdown.as_markdown(new, difference.of_document(new))
    assert "No layer changed its size." in same
    assert "before" not in markdown.as_markdown(new)


def test_every_form_says_where_int8_differs() -> None:
    """Who evaluated, what top-1 loses, decisions that differ, worst samples, layers alone."""
    document = reports.full()
    text = render.as_text("fw.elf", document)
    assert "SQNR 28.25 dB, over 200 samples, by gcc 12.2.0\n" in text
    assert "  top-1 91.00 %, float 91.50 %: a drop of 0.50 points\n" in text
    assert "  int8 says 5 for 3 (4x), 1 for 7 (1x)\n  worst sample 17 (8.2 dB)\n" in text
    assert "  layers that lose most alone: kws_l00_conv2d (33.0 dB)\n" in text
    comment = markdown.as_markdown(document)
    assert "accuracy on 200 samples, by gcc 12.2.0" in comment
    assert "a drop of 0.50 points." in comment
    assert "| 3 | 5 | 4 |\n| 7 | 1 | 1 |\n" in comment
    assert "| 17 | 8.2 | 3 | 5 |\n" in comment
    assert "| kws_l00_conv2d | 30.5 | 33.0 | 62.5 |\n" in comment
    html = page.as_html(document)
    cells = re.sub(r"\s*<[^>]*>\s*", "|", html)
    assert "200 samples, by gcc 12.2.0" in html
    assert "0.50 points" in html
    assert re.search(r"Decisions that differ\|+float says\|+int8 says\|+samples\|+3\|+5\|+4\|+7\|+1\|+1\|", cells)
    assert re.search(r"Samples with the lowest SQNR\|.*\|17\|+8\.2\|+3\|+5\|", cells)
    assert "alone dB" in html
    model = document["models"][0]
    model["accuracy"].update(drop=None, top1=None, top1_float=None, confusions=[])
    for form in (render.as_text("fw.elf", document), markdown.as_markdown(document), page.as_html(document)):
        assert "0.50 points" not in form
        assert "int8 says 5" not in form
    model["accuracy"] = None
    for form in (render.as_text("fw.elf", document), markdown.as_markdown(document), page.as_html(document)):
        assert "worst" not in form.replace("worst case", "")
        assert "lowest SQNR" not in form


def test_a_drop_gets_worse_upwards() -> None:
    """Of points that are lost fewer are better, unlike percent and dB."""
    budget = {"unit": "points", "limit": 1.0}
    assert difference.limit_of(budget) == "1.00"
    old, new = reports.full(), reports.full()
    new["models"][0]["accuracy"]["drop"] = 0.75
    changes = difference.changes(difference.figures(old), difference.figures(new))
    (change,) = [change for change in changes if change.what == "kws drop"]
    assert (change.unit, difference.signed(change)) == ("points", "+0.25")
    html = page.as_html(new, difference.of_document(old))
    assert '<td class="num over">+0.25</td>' in html


def test_tables_of_markdown_are_tables() -> None:
    for document in (reports.full(), reports.hostile()):
        text = markdown.as_markdown(document, difference.of_document(reports.full()))
        columns = 0
        for line in text.splitlines():
            cells = line.count("|") - 1
            assert not line.startswith("|") or columns in (0, cells), line
            columns = cells if line.startswith("|") else 0


def test_markdown_from_a_model_stays_text() -> None:
    text = markdown.as_markdown(reports.hostile())
    assert not re.search(r"<(?!/?details>|/?summary>)", text)
    assert "`" not in text
    assert "](" not in text
    assert markdown.escape("@everyone #1 _a_ a_b *x* <b>\n|\\") == (
        "&#64;everyone &#35;1 &#95;a&#95; a_b &#42;x&#42; &#60;b&#62; &#124;&#92;"
    )


# --- pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[1], [5, 3, 2, 1], [1000, 1], [7] * 50, [2**n for n in range(20, 0, -1)]])
def test_areas_are_sizes_and_do_not_overlap(sizes: list[int]) -> None:
    area = Rect(10, 20, 300, 200)
    rects = treemap.squarify(sizes, area)
    for size, rect in zip(sizes, rects, strict=True):
        assert rect.width * rect.height == pytest.approx(60_000 * size / sum(sizes))
        assert rect.x >= 10 - 1e-6
        assert rect.y >= 20 - 1e-6
        assert rect.x + rect.width <= 310 + 1e-6
        assert rect.y + rect.height <= 220 + 1e-6
    for at, one in enumerate(rects):
        for two in rects[at + 1 :]:
            wide = min(one.x + one.width, two.x + two.width) - max(one.x, two.x)
            high = min(one.y + one.height, two.y + two.height) - max(one.y, two.y)
            assert min(wide, high) < 1e-6


def test_nothing_of_nothing() -> None:
    assert treemap.squarify([], Rect(0, 0, 1, 1)) == []


def test_the_treemap_shows_every_byte_of_the_flash() -> None:
    document = reports.full()
    parts = [cell.part for group in flashmap.layout(document) for cell in group.cells]
    assert sum(part.size for part in parts) == document["flash"]["total"]
    assert {part.kind for part in parts} == {"weights", "code", "kernels", "selftest", "rest", "unattributed"}
    assert {(part.layer, part.size) for part in parts if part.layer >= 0} == {
        *((0, 2_000), (0, 700), (1, 300), (2, 900), (2, 200))
    }


def test_the_timeline_puts_every_buffer_where_it_is() -> None:
    model = reports.full()["models"][0]
    drawn = timeline.layout(model)
    assert len(drawn.bars) == len(model["arena"])
    step, scale = drawn.body.width / 3, drawn.body.height / 640
    bars = {(bar.row["name"], bar.row["kind"]): bar.rect for bar in drawn.bars}
    scratch = bars["l01_add", "scratch"]
    assert scratch.x == pytest.approx(drawn.body.x + step, abs=2)
    assert scratch.height == pytest.approx(64 * scale, abs=2)
    assert scratch.y == pytest.approx(drawn.body.y, abs=2)
    assert bars["audio", "input"].y + bars["audio", "input"].height < drawn.body.y
    # in place: the sum takes over in the middle of its layer
    first, second = bars["l00_conv2d", "activation"], bars["l01_add", "activation"]
    assert first.x + first.width == pytest.approx(drawn.body.x + 1.5 * step, abs=2)
    assert second.x == pytest.approx(drawn.body.x + 1.5 * step, abs=2)
    assert timeline.live_bytes(model) == [256, 640, 576]
    assert [column.peak for column in drawn.columns] == [False, True, False]


# --- the page ----------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """The elements of a page with their attributes; fails where they do not nest."""

    _VOID = ("meta", "rect", "line", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("document", [reports.full(), reports.hostile()], ids=["full", "hostile"])
def test_the_page_needs_nothing_and_runs_nothing_else(document: dict[str, Any]) -> None:
    text = page.as_html(document, difference.of_document(reports.full()))
    tags = Tags(text).found
    assert [tag for tag, _ in tags if tag in ("img", "link", "iframe", "object", "base", "form")] == []
    assert sum(tag == "script" for tag, _ in tags) == 1
    for tag, attributes in tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src")], tag
        assert (attributes.get("href") or "#").startswith("#")
    policy = next(a["content"] for t, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-\S+'; script-src 'sha256-\S+'; base-uri 'none'", policy or ""
    )
    assert "owned'</script>" not in text


def test_links_of_the_page_lead_somewhere_and_ids_are_unique() -> None:
    tags = Tags(page.as_html(reports.full())).found
    ids = [attributes["id"] for _, attributes in tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert {(a["href"] or "")[1:] for _, a in tags if a.get("href")} <= set(ids)


def test_the_page_is_small_and_always_the_same() -> None:
    document = reports.full()
    assert page.as_html(document) == page.as_html(json.loads(json.dumps(document)))
    model = document["models"][0]
    model["layers"] = [{**model["layers"][0], "index": n, "name": f"kws_l{n:02d}_conv2d"} for n in range(60)]
    assert len(page.as_html(document).encode()) < 200_000


def test_a_page_of_objects_without_anything_optional() -> None:
    document = copy.deepcopy(reports.full())
    model = document["models"][0]
    model.update(stack=None, latency=None, accuracy=None, arena=[], arena_bytes=0, layers=[])
    document.update(budgets=[], licences=[], regions=[])
    Tags(page.as_html(document))
    assert "unattributed" in page.as_html(document)


def colours(dark: bool) -> dict[str, str]:
    """The variables of the page's style."""
    css = (resources.files("nnbuild.report") / "page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    assert len(blocks) == 2
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[dark]))


def luminance(colour: str) -> float:
    """As WCAG 2.1 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


TEXTS = [("text", "page"), ("text", "panel"), ("text", "peak"), ("text", "back"), ("muted", "page"), ("muted", "panel")]
TEXTS += [("muted", "peak"), ("link", "page"), ("link", "panel"), ("link", "peak"), ("good", "good-back")]
TEXTS += [("good", "panel"), ("bad", "bad-back"), ("bad", "panel"), ("text", "bad-back"), ("muted", "bad-back")]
KINDS = ["weights", "code", "kernels", "selftest", "rest", "unattributed"]


@pytest.mark.parametrize("dark", [False, True])
def test_contrast(dark: bool) -> None:
    """WCAG 2.1 AA: 4.5 for text, 3 for what else must be seen."""
    found = colours(dark)

    def ratio(one: str, two: str) -> float:
        high, low = sorted((luminance(found[one]), luminance(found[two])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    texts = TEXTS + [("on-cell", kind) for kind in KINDS]
    shapes = [(kind, "panel") for kind in KINDS] + [("focus", "panel"), ("focus", "page")]
    weak = [(a, b, round(ratio(a, b), 2)) for a, b in texts if ratio(a, b) < 4.5]
    assert weak + [(a, b, round(ratio(a, b), 2)) for a, b in shapes if ratio(a, b) < 3] == []


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command_writes_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, old = tmp_path / "fw.size.json", tmp_path / "old.size.json"
    source.write_text(json.dumps(reports.full()))
    earlier = reports.full()
    earlier["regions"][0]["used"] = 9_500
    old.write_text(json.dumps(earlier))
    assert main(["report", str(source), "--style", "plain"]) == 0
    assert capsys.readouterr().out == render.as_text("fw.elf", reports.full())
    html, comment = tmp_path / "out" / "fw.html", tmp_path / "out" / "fw.md"
    assert main(["report", str(source), "--html", str(html), "--markdown", str(comment), "--against", str(old)]) == 0
    assert capsys.readouterr().out == ""
    assert "−500 since baseline" in html.read_text(encoding="utf-8")
    assert "| 9,500 | −500 |" in comment.read_text(encoding="utf-8")
    assert main(["report", str(tmp_path / "none.json")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
