"""Figures in prose are of a source or of a result file: none is remembered."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import harness, pages
from zoo import registry
from zoo.hub import pages as families
from zoo.registry import Facts, Metric, Weights

ROOT = Path(__file__).parents[1]
GENERATED = re.compile(r"<!-- (measured|family|families|records): .*?<!-- /\1 -->", re.DOTALL)
FIGURE = re.compile(
    r"\d\s?%|\d\s?dB\b|\d (?:images|clips|tokens|pictures)(?:/s\b| a second)|\d×(?!\s?\d)|\d times (?:as|faster|slower)"
)
SOURCE = re.compile(r"arXiv:\d{4}\.\d{4,5}|[A-Z]\w+ (?:et al\.|and [A-Z]\w+),? (?:19|20)\d\d")
PROSE = [
    *(ROOT / "zoo" / "families").glob("*/card.md"),
    *(ROOT / "docs" / "families").glob("*.md"),
    *(ROOT / name for name in ("README.md", "MODEL_CARD.md", "docs/speed.md", "docs/scale.md")),
]
RESULTS = sorted(harness.RESULTS.glob("*.json"))


def remembered(text: str) -> list[str]:
    """The lines that state a figure which no command wrote and no paper is named for."""
    lines = GENERATED.sub("", text).splitlines()
    return [line for line in lines if FIGURE.search(line) and not SOURCE.search(line)]


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_states_no_figure_of_its_own(path):
    assert remembered(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "It reaches 97.7 %.",
        "19.3 dB are left",
        "at 54 images/s",
        "a step is 3.1× faster",
        "twice, or 2.5 times as fast",
    ],
)
def test_a_figure_in_prose_is_found_unless_its_line_names_a_paper(line):
    assert remembered(line) == [line]
    assert remembered(f"{line} (Chen et al. 2024)") == remembered(f"{line} arXiv:2410.10733") == []
    assert remembered(f"<!-- measured: dcae -->\n{line}\n<!-- /measured -->") == []
    assert remembered("28×28 pixels, 16×224 px, a grid of 3 × 3, 5 clips a class") == []


def test_pages_show_what_was_measured():
    for path, text in pages.refresh().items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path} is stale: run python -m benchmarks.pages"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_says_how_it_came_about(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    assert not re.search(r'["\s](/|~/)\w', json.dumps(record, ensure_ascii=False)), "a place of somebody's machine"
    assert re.fullmatch("[0-9a-f]{40}", record["commit"])
    assert re.match(rf"python -m benchmarks[ .]{path.stem}\b", record["command"])
    assert {"cpu", "cores", "memory_gb", "device"} <= record["machine"].keys()
    assert {"python", "torch", "lightning"} <= record["versions"].keys()
    assert record["seeds"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])


@pytest.mark.parametrize("name", pages.BLOCKS)
def test_each_table_is_shown_on_a_page(name):
    assert any(f"<!-- measured: {name} -->" in (ROOT / page).read_text(encoding="utf-8") for page in pages.pages())


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one page and one result."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(
        "# Zoo\n<!-- measured: loader -->\nby hand: 99.9\n<!-- /measured -->\nthe end\n"
    )
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(harness, "commit", lambda: "c0ffee" * 6 + "abcd")
    row = {"name": "a loader", "ours": 1234.5, "theirs": 617.25, "unit": "images/s"}
    row |= {"ratio": 2.0, "ratio_range": [1.5, 2.5]}
    harness.write(harness.measure("loader", lambda flags: [row], ["--repeats", "3"]), tmp_path / "results/loader.json")
    return tmp_path


def test_what_is_edited_between_the_marks_is_written_over(checkout):
    pages.write()
    text = (checkout / "README.md").read_text()
    assert "by hand" not in text
    assert "| a loader | 1,234 images/s | 617 images/s | 2.00 | 1.50 to 2.50 |" in text
    assert "`python -m benchmarks loader --repeats 3`" in text
    assert "commit c0ffeec0ff" in text
    assert text.startswith("# Zoo\n<!-- measured: loader -->\n")
    assert text.endswith("<!-- /measured -->\nthe end\n")
    assert pages.refresh() == {Path("README.md"): text}


def test_a_page_that_shows_what_nobody_measured_is_refused(checkout):
    (checkout / "docs" / "new.md").write_text("<!-- measured: probe -->\n<!-- /measured -->\n")
    with pytest.raises(ValueError, match=r"no result 'probe' with a table of its own.*there are loader"):
        pages.refresh()


@pytest.mark.parametrize("at", ["c0ffee" * 6 + "abcd-dirty", None])
def test_nothing_is_kept_of_files_that_no_commit_holds(at, monkeypatch):
    monkeypatch.setattr(harness, "commit", lambda: at)
    with pytest.raises(SystemExit, match="commit them, then measure"):
        harness.measure("loader", lambda flags: pytest.fail("it ran"), [])


def test_rows_of_other_settings_or_of_another_commit_are_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "commit", lambda: "one")
    kept = harness.Kept(tmp_path / "rows.json", {"steps": 3})
    kept.add(way="plain", seed=0, psnr=20.0)
    again = harness.Kept(tmp_path / "rows.json", {"steps": 3})
    assert not again.lacks(way="plain", seed=0)
    assert again.lacks(way="plain", seed=1)
    assert again.where(way="plain")[0]["psnr"] == 20.0
    assert harness.Kept(tmp_path / "rows.json", {"steps": 4}).lacks(way="plain", seed=0)
    monkeypatch.setattr(harness, "commit", lambda: "two")
    assert harness.Kept(tmp_path / "rows.json", {"steps": 3}).lacks(way="plain", seed=0)


def test_the_model_card_has_a_row_a_record():
    rows = re.findall(r"^\| `([\w.]+)`", (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [name for name, weights in registry.records().items() if registry.home(weights.arch).ours]


def test_a_familys_page_shows_a_figure_with_all_that_its_record_has(monkeypatch):
    metric = Metric(
        "psnr", 20.4, "dB", "tiny", "as |released|", "test", 100, (20.1, 20.7), (0, 1), 20.3, (20.2, 20.4), "c" * 40
    )
    weights = Weights("one.tag", {}, "", 0, "MIT", "free", (metric,))
    twin = Weights("one.other", {}, "", 0, "MIT", "free", (metric,), foreign=True)
    family = next(iter(registry.families()))
    text = "\n".join(families._parts(family, Facts({"one": "an arch"}, "One", "Somebody 2024", (weights, twin))))
    shown = "| PSNR | 20.4 dB [20.1, 20.7], mean 20.3 (20.2 to 20.4) of seeds 0, 1 | tiny, test split (100) |"
    assert text.count(f"| `one.tag`, `one.other` {shown} as \\|released\\|; commit cccccccccc |") == 1


def test_a_family_without_a_page_gets_one_and_a_page_without_marks_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = families.refresh()
    for family in registry.families().values():
        if family.ours:
            text = made[Path("docs", "families", f"{family.name}.md")]
            assert text.startswith(f"# {registry.facts(family.name).title}\n")
            assert (family.folder / "card.md").read_text(encoding="utf-8").strip() in text
    page = next(iter(made))
    page.parent.mkdir(parents=True)
    page.write_text(made[page].replace("<!-- /family -->", ""), encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the lines"):
        families.refresh()
