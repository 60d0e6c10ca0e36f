from __future__ import annotations

import pytest

from autoexp.errors import ProposalError
from autoexp.workspace.constants import declared, literal, replaced, written


def values(source: str) -> dict[str, object]:
    return {name: constant.value for name, constant in declared(source).items()}


def test_values_are_found() -> None:
    source = "A = 2**19\nB = -3\nC = 0.04\nD = 'x'\nE = True\nF: int = 0x10\nG = 4 * 5\nH = 1_000\nI = (7)\n"

    assert values(source) == {
        "A": 2**19, "B": -3, "C": 0.04, "D": "x", "E": True, "F": 16, "G": 20, "H": 1000, "I": 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    "source",
    [
        "A = (1, 2)", "A = [1]", "A = B", "A = f(1)", "a = 1", "A, B = 1, 2", "A = B = 1", "A: int", "A = 1e999",
        "A = 1j", "A = 2**99", "A = 2**-1", "A = None", "A = f'x'", "A = '''x\ny'''", "if x:\n    A = 1",
        "def f():\n    A = 1",
        "A = 1\nA = 2", "A = 1\nA += 1", "A = (1, 2)\nA = 3", "A = 1\nfor A in range(3):\n    pass", "A = 1\ndel A",
        "A = (", "A = 1\0", "",
    ],
)  # fmt: skip
def test_what_is_no_constant_is_left_alone(source: str) -> None:
    assert declared(source) == {}


def test_names_inside_functions_are_others() -> None:
    assert values("B = 1\ndef f(x):\n    B, T, C = x.shape\nclass K:\n    B = 2\n") == {"B": 1}


@pytest.mark.parametrize(
    ("line", "low", "high", "log"),
    [
        ("A = 0.04  # [0.005, 0.2] log; the rate", 0.005, 0.2, True),
        ("A = 8  # [2, 16]; layers", 2, 16, False),
        ("A = 2**19  # [2**16, 2**21] log", 2**16, 2**21, True),
        ("A = -1.0  # [-4.0, -0.5]", -4.0, -0.5, False),
        ("A = 1  #[0,4]", 0, 4, False),
        ("A = 1  # [0, 4] log", 0, 4, False),  # there is no logarithm of 0
    ],
)
def test_ranges(line: str, low: float, high: float, log: bool) -> None:
    constant = declared(line)["A"]

    assert (constant.low, constant.high, constant.log, constant.choices) == (low, high, log, None)


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ('A = "SSSL"  # {"L", "SL", "SSSL"}; S short', ("L", "SL", "SSSL")),
        ("A = 128  # {64, 128}", (64, 128)),
        ("A = False  # {False, True}", (False, True)),
        ("A = 0.0  # {0.0, -1.0, 2**3}; any", (0.0, -1.0, 8)),
    ],
)
def test_choices(line: str, choices: tuple[object, ...]) -> None:
    assert declared(line)["A"].choices == choices


@pytest.mark.parametrize(
    "line",
    [
        "A = 3  # see [1] and [2]", "A = 3  # [a, b]", "A = 3  # [1, 2, 3]", "A = 3  # {not python}", "A = 3  # [4, 1]",
        "A = 3  # {1}", "A = 3  # {1, 1}", "A = 3  # {1, x}", "A = 3  # was [1, 4]", "A = 3  # [1, 1e999]", "A = 3",
        "A = 'x'  # [0, 1]", "A = 'x'  # {1, 2}", "A = True  # [0, 1]", "A = 3  # {'a', 'b'}", "A = '# [1, 4]'",
    ],
)  # fmt: skip
def test_comments_that_are_no_ranges(line: str) -> None:
    constant = declared(line)["A"]

    assert (constant.low, constant.high, constant.choices) == (None, None, None)


@pytest.mark.parametrize(
    ("source", "name", "value", "expected"),
    [
        ("A = 1  # [0, 4]\n", "A", 2, "A = 2  # [0, 4]\n"),
        ('x = "é日"; LR = 0.04  # é\n', "LR", 0.05, 'x = "é日"; LR = 0.05  # é\n'),
        ('S = "日本"  # {"日本", "x"}; 日\n', "S", "x", "S = 'x'  # {\"日本\", \"x\"}; 日\n"),
        ("A = 2**19 # tokens\n", "A", 2**18, "A = 2**18 # tokens\n"),
        ("A = -1\n", "A", -2.5, "A = -2.5\n"),
        ("A = (1)\n", "A", -3, "A = (-3)\n"),
        ("A = 1; B = 2\n", "B", 3, "A = 1; B = 3\n"),
        ("A: float = 1.0\n", "A", 2.0, "A: float = 2.0\n"),
        ("A = 1\r\nB = 2  # [1, 4]\r\n", "B", 3, "A = 1\r\nB = 3  # [1, 4]\r\n"),
        ("A = 1\rB = 2\r", "B", 3, "A = 1\rB = 3\r"),
        ("x = '\x0c\x1c\u2028'\nA = 1\n", "A", 2, "x = '\x0c\x1c\u2028'\nA = 2\n"),
        ("\ufeffA = 1\nB = 2\n", "A", 3, "\ufeffA = 3\nB = 2\n"),
        ("A = 1", "A", 2, "A = 2"),
        ("A = True\n", "A", False, "A = False\n"),
    ],
)  # fmt: skip
def test_replaced_changes_the_value_and_nothing_else(source: str, name: str, value: object, expected: str) -> None:
    changed = replaced(source, name, value)  # type: ignore[arg-type]

    assert changed == expected
    assert declared(changed)[name].value == value


@pytest.mark.parametrize("value", ["x", True, float("nan"), float("inf")])
def test_a_value_of_another_kind_is_refused(value: object) -> None:
    with pytest.raises(ProposalError):
        replaced("A = 1\n", "A", value)  # type: ignore[arg-type]


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ProposalError, match="A, B"):
        replaced("A = 1\nB = 2\n", "C", 1)


def test_written() -> None:
    assert [written(v) for v in (2**19, 4096, 2048, 5000, 0.056, 1e-7, True, "x")] == [
        "2**19", "2**12", "2048", "5000", "0.056", "1e-07", "True", "'x'",
    ]  # fmt: skip


def test_literal_refuses_what_would_take_for_ever() -> None:
    import ast

    assert literal(ast.parse("9**9**9", mode="eval").body) is None


@pytest.mark.parametrize(
    "line",
    [
        r'A = "\ud800"', r'A = "\udcff"', "A = 0x" + "f" * 33, "A = 0x" + "f" * 5000, "A = " + "9" * 5000,
        "A = 4294967295**64", "A = " + "+".join(["1"] * 50_000), "A = " + "not " * 5000 + "1",
        "A = " + "-" * 2000 + "1", "A = " + "*".join(["2"] * 2000),
    ],
    ids=lambda line: line[:20],
)  # fmt: skip
def test_what_no_journal_could_hold_is_no_constant(line: str) -> None:
    assert values(line) == {}


@pytest.mark.parametrize("source", ["-" * 200_000 + "1", "A = " + "(" * 200_000, "f" + "()" * 50_000, "[" * 200_000])
def test_a_program_that_is_nested_too_deeply_has_no_constants(source: str) -> None:
    assert declared(source) == {}


def test_a_deep_expression_does_not_hide_the_constants_beside_it() -> None:
    assert values("A = 1\nx = " + ".y".join(["z"] * 900) + "\nB = -1\n") == {"A": 1, "B": -1}


@pytest.mark.parametrize("comment", ["# {" + "(" * 50_000 + "}", "# [" + "-" * 50_000 + "1, 2]"])
def test_a_comment_that_is_nested_too_deeply_is_no_range(comment: str) -> None:
    constant = declared(f"A = 1  {comment}")["A"]

    assert (constant.low, constant.choices) == (None, None)


def test_literal_refuses_a_number_of_thousands_of_signs() -> None:
    import ast

    node: ast.expr = ast.Constant(1)
    for _ in range(5000):
        node = ast.UnaryOp(ast.USub(), node)
    assert literal(node) is None


def test_a_whole_number_takes_no_fraction() -> None:
    source = "DEPTH = 2  # [1, 6]; layers\nSCALE = 1\n"
    with pytest.raises(ProposalError, match="DEPTH is a whole number"):
        replaced(source, "DEPTH", 3.5)
    assert replaced(source, "SCALE", 0.5) == source.replace("SCALE = 1", "SCALE = 0.5")
