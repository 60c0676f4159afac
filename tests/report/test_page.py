"""The report as a page: its sections, its size, and what the command says."""

from __future__ import annotations

import csv
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mtrl.cli.main import main
from mtrl.report.page import write_report
from tests.report.fabricated import write_run

VOID = {"meta", "br", "img", "link", "hr"}


class Page(HTMLParser):
    """Headings, the rows of every table by its class, captions, and whether all elements are closed."""

    def __init__(self, path: Path):
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.captions: list[str] = []
        self.pictures = 0
        self.links: list[str] = []
        self.ids: list[str] = []
        self._table = ""
        self.feed(path.read_text())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.links += [values[name] for name in ("href", "xlink:href", "src") if name in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = values["class"]
            self.tables.setdefault(self._table, [])
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")
        elif tag in ("h2", "h3"):
            self.headings.append("")
        elif tag == "figcaption":
            self.captions.append("")
        self.pictures += tag == "svg"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & {*self.open[-1:]}:
            self.tables[self._table][-1][-1] += data
        elif self.open[-1:] in (["h2"], ["h3"]):
            self.headings[-1] += data
        elif self.open[-1:] == ["figcaption"]:
            self.captions[-1] += data


def write_methods(folder: Path) -> None:
    """Two methods with four seeds; the first has routing matrices and cosines, the second changes its shares."""
    tasks = ("reach-v3", "push-v3")
    for seed, rate in enumerate((0.0, 0.2, 0.4, 1.0), start=1):
        routing = {f"actor/routing_1/{task}": [[0.25, 0.75], [1.0, 0.0]] for task in tasks}
        cosines = {"gradients/cosine/reach-v3": [1.0, -0.5], "gradients/cosine/push-v3": [-0.5, 1.0]}
        times = {"time/wall_seconds": 3600.0 * seed, "time/env_steps_per_second": 100.0}
        curve = {500: [0.0, 0.5], 1000: [rate, 0.5]}
        metrics = [{"env_steps": 500}, {"env_steps": 1000, **routing, **cosines, **times}]
        write_run(folder / f"a{seed}", [rate, 0.5], curve, seed=seed, metrics=metrics)
        shares = [
            {"env_steps": step, "train/share/reach-v3": 1 - share, "train/share/push-v3": share}
            for step, share in ((500, 0.5), (1000, 0.9))
        ]
        write_run(folder / f"b{seed}", [rate, 1.0], curve, seed=seed, metrics=shares, architecture="mlp")


def test_every_section_is_there_with_its_numbers(tmp_path: Path) -> None:
    write_methods(tmp_path / "runs")
    written = write_report([str(tmp_path / "runs")], tmp_path / "out" / "report.html", csv_files=True, png_files=True)
    page = Page(written[0])
    assert page.headings == [
        "two-tasks",
        "Settings that differ",
        "Summary",
        "Learning curves",
        "Performance profile",
        "Probability of improvement",
        "Tasks and methods",
        "Every task",
        "Task shares",
        "Routes and gates",
        "Gradient conflicts",
        "Parameters and cost",
    ]
    assert ["architecture.name", "mlp", "multi-head"] in page.tables["settings"]
    header, first, second = page.tables["summary"]
    assert header == ["method", "IQM", "mean", "worst task", "seeds", "env steps", "episodes per task"]
    # IQM of 0, 0.2, 0.4, 1 is 0.3, their mean 0.4.
    assert first[0] == "mlp"
    assert first[1].startswith("0.650 [")
    assert first[2].startswith("0.700 [")
    assert first[3:] == ["reach-v3 0.40", "4", "1,000", "50"]
    assert second[0] == "multi-head"
    assert second[1].startswith("0.400 [")
    # On the first task the methods are equal, on the second one always wins.
    assert page.tables["improvement"][1][:2] == ["mlp", ""]
    assert page.tables["improvement"][1][2].startswith("0.750 [")
    assert page.tables["improvement"][2][1].startswith("0.250 [")
    assert page.tables["tasks"][1:] == [["reach-v3", "0.40", "0.40"], ["push-v3", "1.00", "0.50"]]
    assert page.tables["cost"][2][:4] == ["multi-head", "1,234,567", "2.50 (1.00 to 4.00)", "100"]
    assert page.pictures == 6
    assert len(page.captions) == 6
    names = [path.relative_to(tmp_path / "out").as_posix() for path in written]
    figures = [
        "mean-curves",
        "profile",
        "task-curves",
        "shares",
        "matrix-2-actor-routing-1",
        "matrix-2-gradients-cosine",
    ]
    assert names == [
        "report.html",
        "report-summary.csv",
        "report-scores.csv",
        *(f"report-figures/{name}.png" for name in figures),
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[3:])
    with open(written[1], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["seeds"]) for row in rows] == [("mlp", "4"), ("multi-head", "4")]
    assert [float(rows[1][name]) for name in ("iqm", "mean")] == pytest.approx([0.4, 0.45])
    with open(written[2], newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * 4 * 2


def test_the_page_asks_for_nothing_from_elsewhere(tmp_path: Path) -> None:
    write_methods(tmp_path / "runs")
    (path,) = write_report([str(tmp_path / "runs")], tmp_path / "report.html")
    page = Page(path)
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == []
    assert "<script" not in path.read_text()
    assert len(page.ids) == len(set(page.ids))


def test_protocols_have_a_section_each(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [1.0, 0.9])
    write_run(tmp_path / "b", [0.1, 0.2], settings={"reward_function": "v1"})
    (path,) = write_report([str(tmp_path)], tmp_path / "report.html")
    page = Page(path)
    assert page.headings.count("Summary") == 2
    assert [link for link in page.links if link.startswith("#section")] == ["#section-1", "#section-2"]
    assert "2 different protocols" in path.read_text()
    assert [row[1] for row in page.tables["summary"] if row[0] != "method"] == ["0.950", "0.150"]
    assert "Probability of improvement" not in page.headings  # one method each


def test_what_users_name_cannot_become_markup(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>"
    write_run(tmp_path / "a", [1.0, 0.9], {500: [0.0, 0.0]})
    (path,) = write_report([f"{name}={tmp_path / 'a'}"], tmp_path / "report.html")
    assert "<script" not in path.read_text()
    assert Page(path).tables["summary"][1][0] == name


def test_a_name_may_begin_with_an_underscore_and_have_dollars(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shares = [{"env_steps": step, "train/share/reach-v3": step / 9, "train/share/push-v3": 0.1} for step in (1, 2)]
        write_run(tmp_path / name, [1.0, 0.9], {500: [0.0, 0.0]}, metrics=shares)
    names = ["_a", r"$\frac{$ x"]
    runs = [f"{name}={tmp_path / run}" for name, run in zip(names, ("a", "b"), strict=True)]
    (path, *_) = write_report(runs, tmp_path / "report.html", png_files=True)
    texts = re.findall(r"<text[^>]*>([^<]*)<", path.read_text())
    # Each is in the legends of both curves and of the profile, and above its shares.
    assert [texts.count(name) for name in names] == [4, 4]
    assert "_child" not in " ".join(texts)


def test_seeds_that_were_logged_at_other_steps_have_no_shares(tmp_path: Path) -> None:
    for seed in (1, 2):
        shares = [
            {"env_steps": step + seed, "train/share/reach-v3": step / 900, "train/share/push-v3": 0.1}
            for step in (500, 900)
        ]
        write_run(tmp_path / f"a{seed}", [0.5, 0.5], {500 + seed: [0.0, 0.5]}, seed=seed, metrics=shares)
    (path,) = write_report([str(tmp_path)], tmp_path / "report.html")
    assert "No method changed the shares of the tasks between the env steps that all its seeds logged" in (
        path.read_text()
    )
    # Nor have they curves: all that is drawn is the profile.
    assert Page(path).pictures == 1


@pytest.mark.slow
def test_thirty_runs_of_ten_tasks_stay_under_five_megabytes(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    tasks = [f"task-{index}" for index in range(10)]
    for number, architecture in enumerate(("mlp", "multi-head", "film")):
        for seed in range(10):
            curve = {step: generator.random(10).tolist() for step in range(100_000, 2_000_001, 100_000)}
            path = tmp_path / "runs" / f"{number}-{seed}"
            suite = "metaworld:reach-v3"
            write_run(
                path,
                generator.random(10).tolist(),
                curve,
                tasks=tasks,
                suite=suite,
                seed=seed,
                architecture=architecture,
            )
    (path,) = write_report([str(tmp_path / "runs")], tmp_path / "report.html")
    assert path.stat().st_size < 2 * 2**20
    assert len(Page(path).tables["summary"]) == 4


def test_the_command_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", [1.0, 0.9])
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "r.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'r.html'}\n"
    assert Page(tmp_path / "r.html").headings[0] == "two-tasks"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "nowhere"], "'nowhere': no run directory"),
        (["report", "."], "no run directory in it"),
        (["report", ".", "--cvs"], "unknown flag '--cvs'"),
        (["report"], "[NAME=]PATH"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [name for name in sys.modules if name.startswith("mtrl.report.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr("mtrl.report.page", raising=False)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: a report needs jinja2; pip install 'mtrl-suite[report]'\n"


def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", [1.0, 0.9])
    (tmp_path / "file").write_text("in the way")
    assert main(["report", str(tmp_path / "a"), "--output", str(tmp_path / "file" / "r.html")]) == 5
    assert capsys.readouterr().err.count("\n") == 1
