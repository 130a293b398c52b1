"""The check of sizes finds what is too large, and counts as a person counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_sizes import complaints, main, measure, percentile

SHORT = "def short() -> None:\n    pass\n\n\n"


def function(lines: int, name: str = "long") -> str:
    return f"def {name}() -> None:\n" + "    x = 1\n" * (lines - 1)


def class_of(methods: int, name: str) -> str:
    return f"class {name}:\n" + "".join(f"    def m{number}(self): ...\n" for number in range(methods))


def complaints_of(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "module.py"
    path.write_text(text, encoding="utf-8")
    return [line.removeprefix(str(path)) for line in complaints(measure([path]))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SHORT * 20 + function(60), []),
        (SHORT * 20 + function(61), [":81: long has 61 lines; at most 60 are allowed"]),
        ("x = 1\n" * 400, []),
        ("x = 1\n" * 401, [": the file has 401 lines; at most 400 are allowed"]),
        # Nine of ten are short: the tenth may be as long as any function.
        (SHORT * 9 + function(21), []),
        (SHORT * 8 + function(21, "a") + function(21, "b"),
         ["the 90th percentile of all functions is 21 lines; at most 20 are allowed"]),
        ("".join(class_of(16, f"C{number}") for number in range(4)), []),
    ],
)  # fmt: skip
def test_each_bound_is_the_last_allowed_size(tmp_path, text, expected):
    """A check that is off by one, or looks at one kind of part alone, lets code grow past its bound."""
    assert complaints_of(tmp_path, text) == expected


def test_a_fifth_large_class_names_all_five(tmp_path):
    """Only the number of them is bounded, so whoever adds the fifth has to see the other four."""
    text = "".join(class_of(16 + number, f"C{number}") for number in range(5))
    module = tmp_path / "module.py"
    assert complaints_of(tmp_path, text) == [
        "5 classes have over 15 methods; at most 4 are allowed:",
        f"  {module}:75: C4 has 20 methods",
        f"  {module}:55: C3 has 19 methods",
        f"  {module}:36: C2 has 18 methods",
        f"  {module}:18: C1 has 17 methods",
        f"  {module}:1: C0 has 16 methods",
    ]


def test_a_docstring_counts_and_a_decorator_does_not(tmp_path):
    """Bounds are of what a reader scrolls past, from the name to the last line."""
    path = tmp_path / "module.py"
    path.write_text('@cache\ndef f():\n    """Text."""\n    def inner():\n        pass\n', encoding="utf-8")
    assert [(part.name, part.size) for part in measure([path]).functions] == [("f", 4), ("inner", 2)]


@pytest.mark.parametrize(("values", "expected"), [([], 0), ([7], 7), (range(1, 11), 9), (range(1, 101), 90)])
def test_a_percentile_is_one_of_the_values(values, expected):
    """An index that is off by one takes the largest function of ten for the 90th percentile."""
    assert percentile(list(values), 90) == expected


def test_a_folder_without_files_is_no_success(tmp_path, capsys):
    """Run in the wrong folder, the check would pass without looking at anything."""
    assert main([str(tmp_path)]) == 1
    assert "no Python files" in capsys.readouterr().out
    (tmp_path / "module.py").write_text(SHORT, encoding="utf-8")
    assert main([str(tmp_path)]) == 0
