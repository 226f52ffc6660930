"""Progress on stderr: after two seconds, by a clock that the test sets."""

import io

from zoo.data.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def go_through(stream, steps, total=1000):
    now = [0.0]
    with Progress(total, "pictures", stream, lambda: now[0]) as progress:
        for seconds, count in steps:
            now[0] += seconds
            progress.add(count)
    return stream.getvalue()


def test_what_is_over_in_two_seconds_says_nothing():
    assert go_through(io.StringIO(), [(0.9, 400), (0.9, 600)]) == ""


def test_count_rate_and_time_left_are_said():
    said = go_through(io.StringIO(), [(1, 100), (1, 100), (1, 100), (30, 600), (1, 100)]).splitlines()
    assert said == [
        "200 of 1,000 pictures, 100 a second, 8 s left",
        "900 of 1,000 pictures, 27.3 a second, 4 s left",
        "1,000 of 1,000 pictures, 29.4 a second, 0 s left",
    ]


def test_a_terminal_has_one_line():
    said = go_through(Terminal(), [(3, 10), (0.1, 10), (1, 80)], total=100)
    assert said.count("\n") == 1
    assert said.endswith("100 of 100 pictures, 24.4 a second, 0 s left\n")
    assert said.count("\r") == 2  # not the second, which came too soon


def test_the_last_count_is_said_once():
    assert go_through(io.StringIO(), [(3, 10)], total=10) == "10 of 10 pictures, 3.33 a second, 0 s left\n"
    assert go_through(Terminal(), [(3, 10)], total=10).count("10 of 10") == 1


def test_a_high_rate_is_a_plain_number():
    assert "12,345 a second" in go_through(io.StringIO(), [(10, 123450)], total=None)


def test_what_has_no_end_known_is_counted():
    assert go_through(io.StringIO(), [(7300, 5)], total=None).startswith("5 pictures, 0.000685 a second\n")
    assert "2 h 1 min left" in go_through(io.StringIO(), [(7300, 5)], total=10)
