"""The page of the report in a real browser: from a file, with the keyboard, light and dark, with hostile names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnbuild.report import difference, page
from tests import browser, reports

if browser.program() is None:
    pytest.skip("there is no Chromium on this machine", allow_module_level=True)

FOCUS = (
    "document.activeElement.getAttribute('aria-label') || document.activeElement.id || document.activeElement.tagName"
)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    with browser.started(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "with a space" / "fw.size.html"
    path.parent.mkdir()
    path.write_text(page.as_html(reports.full(), difference.of_document(reports.full())), encoding="utf-8")
    return path


def faults(tab: browser.Page) -> list[str]:
    """What the browser complains of: errors of scripts, violations of the policy, requests beside the page."""
    found = [str(entry["entry"]["text"]) for entry in tab.told("Log.entryAdded")]
    found += [str(error["exceptionDetails"]) for error in tab.told("Runtime.exceptionThrown")]
    requests = [request["request"]["url"] for request in tab.told("Network.requestWillBeSent")]
    return found + [url for url in requests if not url.endswith("fw.size.html")]


def test_it_opens_from_a_file_and_shows_the_figures(tab: browser.Page, written: Path) -> None:
    tab.open(written)
    assert tab.value("document.title") == "fw.elf: size report"
    for folded in ("false", "true"):
        tab.value(f"document.querySelectorAll('details').forEach((node) => {{ node.open = {folded}; }})")
        text = str(tab.value("document.body.innerText"))
        assert "1 budget missed" in text
    document = reports.full()
    model = document["models"][0]
    numbers = [document["flash"][kind] for kind in document["flash"]]
    numbers += [region["used"] for region in document["regions"]] + [model["stack"]["bytes"], model["arena_bytes"]]
    numbers += [row[key] for row in model["layers"] for key in ("macs", "cycles", "weights", "code")]
    numbers += [row[key] for row in model["arena"] for key in ("bytes", "first", "last")]
    shown = set(re.findall(r"\d[\d,]*", text))
    assert [number for number in numbers if f"{number:,}" not in shown] == []
    feet = tab.value(
        "[...document.querySelectorAll('.layers tfoot tr')].map((row) => row.innerText.split(/\\s+/).join(' '))"
    )
    assert [foot.strip() for foot in feet] == ["kws_run and others 0 100 100", "total 6,000 51,000 3,000 1,300"]
    for words in (
        "97.50 % agree",
        "28.2 dB",
        "1,062.5 µs",
        "~1.06",
        "fit, error at most 12 %",
        "Apache-2.0",
        "CMSIS-NN is not given",
    ):
        assert words in text
    assert faults(tab) == []


def test_what_changed_is_shown(tab: browser.Page, written: Path) -> None:
    now, old = reports.full(), reports.full()
    old["regions"][0]["used"], old["models"][0]["layers"][2]["cycles"] = 9_500, 13_000
    old["models"][0]["accuracy"]["agreement"] = 98.0
    for before, rows in ((old, 3), (now, 0)):
        written.write_text(page.as_html(now, difference.of_document(before)), encoding="utf-8")
        tab.open(written)
        assert tab.value("document.querySelectorAll('#changes tbody tr').length") == rows
        text = str(tab.value("document.querySelector('#changes').innerText"))
        words = ["−500", "9,500", "+1,000", "−0.50"] if rows else ["Nothing changed"]
        assert [word for word in words if word not in text] == []
        assert tab.value("document.querySelectorAll('#changes td.over').length") == (2 if rows else 0)
    written.write_text(page.as_html(now), encoding="utf-8")
    tab.open(written)
    assert tab.value("document.querySelector('#changes')") is None


def test_the_keyboard_leads_everywhere(tab: browser.Page, written: Path) -> None:
    tab.open(written)
    tab.press("Tab")
    assert tab.value("document.activeElement.textContent") == "To the content"
    tab.value("document.querySelector('#licences').focus()")
    stops = []
    for _ in range(60):
        tab.press("Tab")
        stops.append(tab.value(FOCUS))
        if stops[-1] == "BODY":
            break
    # One stop for each picture, where the arrow keys take over.
    (treemap,) = [stop for stop in stops if "% of the flash" in stop]
    (timeline,) = [stop for stop in stops if stop.startswith("input audio 490")]
    assert treemap == "model kws, l00_conv2d, weights: 2,000 bytes, 22.2 % of the flash"
    assert stops.index(treemap) < stops.index(timeline)


def test_arrow_keys_walk_and_enter_leads_to_the_layer(tab: browser.Page, written: Path) -> None:
    tab.open(written)
    tab.value("document.querySelector('[data-walk] a.cell[tabindex=\"0\"]').focus()")
    seen = [tab.value(FOCUS)]
    for _ in range(20):
        tab.press("ArrowRight")
        if tab.value(FOCUS) == seen[-1]:
            break
        seen.append(tab.value(FOCUS))
        assert tab.value("document.querySelector('#flash .detail').textContent") == seen[-1]
    assert len(seen) == tab.value("document.querySelectorAll('#flash a.cell').length")
    tab.press("Home")
    assert tab.value(FOCUS) == seen[0]
    at = next(index for index, text in enumerate(seen) if "l02_softmax, weights" in text)
    tab.press(*["ArrowDown"] * at)
    assert tab.value("getComputedStyle(document.activeElement.querySelector('rect')).stroke") != "none"
    tab.press("Enter")
    assert tab.value(FOCUS) == "m0-l2"
    assert tab.value("document.querySelector('#m0-l2 details').open") is True
    assert tab.value("document.querySelector('#m0-l2').getBoundingClientRect().top < innerHeight") is True
    assert faults(tab) == []


def test_columns_sort(tab: browser.Page, written: Path) -> None:
    tab.open(written)
    order = "[...document.querySelectorAll('table.layers tbody tr')].map((row) => row.id).join(' ')"
    tab.value("[...document.querySelectorAll('thead button')].find((one) => one.textContent == 'MACs').focus()")
    tab.press("Enter")
    assert tab.value(order) == "m0-l2 m0-l1 m0-l0"
    tab.press("Enter")
    assert tab.value(order) == "m0-l0 m0-l1 m0-l2"
    assert tab.value("document.querySelectorAll('[aria-sort=ascending]').length") == 1


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark(tab: browser.Page, written: Path, dark: bool, width: int) -> None:
    """The page follows the system, and nothing sticks out of it, also on a telephone."""
    tab.open(written, dark, width)
    background, text = (
        [int(part) for part in re.findall(r"\d+", str(tab.value(f"getComputedStyle(document.body).{name}")))]
        for name in ("backgroundColor", "color")
    )
    assert (sum(background) < 150) == dark
    assert (sum(text) > 600) == dark
    assert tab.value("document.documentElement.scrollWidth <= innerWidth") is True
    tab.value("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
    wide = "[...document.querySelectorAll('.scroll')].filter((node) => node.scrollWidth > node.clientWidth).length"
    assert width == 400 or tab.value(wide) == 0


def test_names_from_a_model_stay_text(tab: browser.Page, tmp_path: Path) -> None:
    path = tmp_path / "fw.size.html"
    path.write_text(page.as_html(reports.hostile()), encoding="utf-8")
    tab.open(path)
    assert tab.value("document.title") == f"{reports.HOSTILE}: size report"
    assert tab.value("document.querySelectorAll('img').length") == 0
    assert tab.value("document.querySelectorAll('script').length") == 1
    tab.value("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
    assert str(tab.value("document.querySelector('.layers').textContent")).count(reports.HOSTILE) >= 9
    tab.value("document.querySelector('[data-walk] a.cell').focus()")
    assert reports.HOSTILE in str(tab.value("document.querySelector('.detail').textContent"))
    assert tab.value("document.querySelectorAll('img').length") == 0
    assert faults(tab) == []


def test_the_policy_holds(tab: browser.Page, written: Path) -> None:
    """What would run if something got through the escapes does not."""
    tab.open(written)
    tab.value(
        "(() => { const script = document.createElement('script'); script.textContent = 'document.title = \"owned\"';"
        " document.body.append(script); const image = document.createElement('img');"
        " image.setAttribute('onerror', 'document.title = \"owned\"'); image.src = 'https://example.com/x.png';"
        " document.body.append(image); })()"
    )
    tab.press("Tab")
    assert tab.value("document.title") == "fw.elf: size report"
    assert len([text for text in faults(tab) if "Content Security Policy" in text]) >= 2
