"""What is printed into a file is not broken at the width of a terminal."""

import pytest

from jvlm.cli.encoding import print_table
from jvlm.train.writer import Terminal

LONG = "a_metric_whose_name_is_long_" * 4


def test_a_table_has_a_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("scores", ["metric", "%"], [[LONG, "12.3"]])
    assert any(LONG in line and "12.3" in line for line in capsys.readouterr().out.splitlines())


def test_what_a_run_says_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(10, 0, 4, False)
    terminal.say(" ".join(["word"] * 60))
    terminal.close()
    assert " ".join(["word"] * 60) in capsys.readouterr().err
