"""What the lines of a log say, by a clock of the test's own."""

import pytest

from paperlib.progress import SECONDS_BETWEEN_LINES, Progress, duration, each_run


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setenv("PAPERLIB_PROGRESS", "lines")
    monkeypatch.delenv("PAPERLIB_RUN", raising=False)
    return Clock()


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_a_line_has_stage_run_step_speed_time_left_and_losses(clock, capsys, monkeypatch):
    monkeypatch.setenv("PAPERLIB_RUN", "3 of 24")
    progress = Progress(700, "training a", images=32, clock=clock)
    clock.now += 0.5
    progress.update(note="loss_d 1.900")
    clock.now += 60.0
    progress.update(119, note="loss_d 1.850")
    first, second = lines(capsys)
    assert first.startswith("training a (run 3 of 24): 1 of 700, 64 images/s, 6 min left")
    # 119 steps of 32 images in 60 s; 580 steps at that rate take 292 s
    assert second == (
        "training a (run 3 of 24): 120 of 700, 63.5 images/s, 5 min left, loss_d 1.850"
    )


def test_a_line_after_the_first_count_every_half_minute_and_at_the_end(clock, capsys):
    progress = Progress(1000, "x", clock=clock)
    when = []
    for step in range(1000):
        clock.now += 0.1
        progress.update()
        if lines(capsys):
            when.append(step * 0.1)
    assert SECONDS_BETWEEN_LINES == 30.0
    assert when == pytest.approx([0.0, 30.0, 60.0, 90.0, 99.9], abs=0.5)


def test_what_an_earlier_process_did_is_not_taken_for_speed(clock, capsys):
    progress = Progress(100, "x", done=90, images=1, clock=clock)
    clock.now += 2.0
    progress.update()
    assert lines(capsys) == ["x: 91 of 100, 0.5 images/s, 18 s left"]


def test_thousands_of_images_a_second_are_written_out(clock, capsys):
    progress = Progress(2, "x", images=3210, clock=clock)
    clock.now += 1
    progress.update()
    assert "3,210 images/s" in lines(capsys)[0]


def test_the_last_line_says_how_long_it_took(clock, capsys):
    progress = Progress(1, "x", clock=clock)
    clock.now += 90
    progress.update()
    assert lines(capsys) == ["x: 1 of 1, 2 min in all"]


def test_silence_on_request(clock, capsys, monkeypatch):
    monkeypatch.setenv("PAPERLIB_PROGRESS", "none")
    Progress(1, "x", clock=clock).update()
    assert not lines(capsys)


def test_runs_in_turn_are_numbered_and_nothing_stays_behind(clock):
    labels = [Progress(1, run).label for run in each_run(["a", "b"])]
    assert labels == ["a (run 1 of 2)", "b (run 2 of 2)"]
    assert Progress(1, "c").label == "c"
    assert [Progress(1, run).label for run in each_run(["only"])] == ["only"]


@pytest.mark.parametrize(
    "seconds, said", [(9, "9 s"), (61, "1 min"), (3540, "59 min"), (7500, "2 h 05 min")]
)
def test_durations_as_one_reads_them(seconds, said):
    assert duration(seconds) == said
