"""YAML of settings: what is read, what is refused, and that what is written reads back equal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtrl.config.yaml_io import MAX_BYTES, dump_mapping, load_mapping, read_text, scalar
from mtrl.errors import BadInput


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 1e-3), ("-1.5", -1.5), (".5", 0.5), ("2_000_000", 2_000_000), ("0123", 123), ("0x10", 16)),
        *(
            ("1e6", 1_000_000),
            ("-1e2", -100),
            ("1.5e0", 1.5),
            ("2.5E+6", 2_500_000),
            ("1.0", 1.0),
            ("1e400", float("inf")),
        ),
        *(("1e400", float("inf")), ("True", True), ("null", None), ("~", None)),
        *((word, word) for word in ("yes", "off", "on", "no", "2026-01-01", "12:30:45", "None", "2026-01-01 10:00:00")),
    ],
)
def test_scalars_are_those_of_yaml_1_2_in_files_and_flags(text: str, value: Any) -> None:
    read = load_mapping(f"key: {text}", "file")["key"]
    assert (read, type(read)) == (value, type(value))
    assert scalar(text) == value


@pytest.mark.parametrize("word", ["", " ", "#c", "---", "...", "*a", "!!int 3", "[1]", "a: b", "9" * 5000, "<<", "="])
def test_a_flag_that_is_no_plain_scalar_is_text(word: str) -> None:
    assert scalar(word) == word


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'1'", "1"),
        ("", None),
        ("[1, [2]]", [1, [2]]),
        ("{yes: 1, 2: b, null: c, <<: d}", {"yes": 1, "2": "b", "null": "c", "<<": "d"}),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_lists_mappings_with_text_keys_and_blocks_are_read(text: str, value: Any) -> None:
    assert load_mapping(f"key: {text}", "file") == {"key": value}


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("a: 1\na: 2", 'line 2: .*duplicate key "a"'),
        ("a: {b: 1, b: 2}", 'duplicate key "b"'),
        ("a: !!python/object/apply:os.system ['true']", "tags"),
        ("!!map {a: 1}", "tags"),
        ("a: &x 1\nb: *x", "anchors"),
        ("a: 1\n---\nb: 2", "line 2: .*second document"),
        ("---\n---\nb: 2", "second document"),
        ("%YAML 1.1\n---\na: yes", "directives"),
        ("%TAG ! tag:x,2000:\n---\na: 1", "directives"),
        ("%YAML 3.0\n---\na: 1", "not valid YAML"),
        ("[1, 2]", "a mapping of settings"),
        ("just text", "a mapping of settings"),
        ("? [a, b]\n: 1", "a key must be plain text"),
        ("a: [", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("a: " + "[" * 5000, "nested more than"),
        ("a: " + "{b: " * 5000, "nested more than"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("\t- a", "not valid YAML"),
    ],
)
def test_what_settings_do_not_need_is_refused(text: str, fragment: str) -> None:
    with pytest.raises(BadInput, match=fragment):
        load_mapping(text, "file")


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@pytest.mark.parametrize("count", [50, pytest.param(3000, marks=pytest.mark.full)])
def test_a_written_mapping_is_read_back_equal(count: int) -> None:
    @settings(max_examples=count, deadline=None)
    @given(st.dictionaries(st.text(), st.recursive(_LEAVES, lambda inner: st.lists(inner), max_leaves=5)))
    def check(document: dict[str, Any]) -> None:
        read = load_mapping(dump_mapping({"group": document}), "file")["group"]
        assert read == document
        assert [*read] == [*document]

    check()


def test_lists_are_written_on_one_line() -> None:
    assert dump_mapping({"b": {"widths": [1, 2, 3]}, "a": None}) == "b:\n  widths: [1, 2, 3]\na: null\n"


def test_only_small_regular_text_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"a" * (MAX_BYTES + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    os.mkfifo(tmp_path / "pipe")
    for name, fragment in {
        "large": "larger than",
        "binary": "not UTF-8",
        "pipe": "not a regular file",
        "missing": "No such file",
        "": "directory",
        "\0": "null",
    }.items():
        with pytest.raises(BadInput, match=fragment):
            read_text(tmp_path / name)
    (tmp_path / "good").write_bytes("\ufeffseed: 3\n".encode())
    assert read_text(tmp_path / "good") == "seed: 3\n"
