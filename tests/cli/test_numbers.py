"""A number outside of its limits is refused by the command line, before anything is read."""

import pytest

from tests.cli.directories import run_error


@pytest.mark.parametrize(
    ("verb", "argv", "said"),
    [
        ("data", ["pack", "a.jsonl", "out", "--shard-mb", "0"], "--shard-mb: 0 does not do; give a number above 0"),
        ("data", ["pack", "a.jsonl", "out", "--shard-mb", "nan"], "--shard-mb: nan does not do"),
        ("data", ["pack", "a.jsonl", "out", "--shard-mb", "inf"], "--shard-mb: inf does not do"),
        ("data", ["check", "a.jsonl", "--max-bad", "7"], "give a number of at least 0 and of at most 1"),
        ("data", ["check", "a.jsonl", "--length", "-3"], "--length: -3 does not do; give a whole number of at least 1"),
        ("quantize", ["a", "b", "--group", "-8"], "--group: -8 does not do"),
        ("ask", ["--model", "a", "--question", "q", "--top-p", "0"], "give a number above 0 and of at most 1"),
        ("ask", ["--model", "a", "--question", "q", "--max-new-tokens", "1.5"], "give a whole number of at least 1"),
    ],
)
def test_a_number_outside_of_its_limits_is_refused(verb: str, argv: list[str], said: str, capsys) -> None:
    status, line = run_error(capsys, verb, *argv)
    assert status == 2 and said in line, line
