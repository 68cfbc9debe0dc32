"""What somebody at a terminal sees of a long run."""

import io
import time

from rich.console import Console

from siftlens.cli.progress import shown


def told(done, *, terminal, begun=0):
    screen = io.StringIO()
    with shown(Console(file=screen, force_terminal=terminal, width=120)) as progress:
        progress("images", begun, 400)
        for step in range(1, 3):
            progress("images", begun + (done - begun) * step // 2, 400)
            time.sleep(0.01)
    return screen.getvalue()


def test_images_per_second_and_time_left():
    seen = told(100, terminal=True)
    assert "100/400" in seen and "images/s" in seen and "0:00:" in seen


def test_what_an_earlier_run_did_is_no_speed():
    assert "images/s" not in told(300, terminal=True, begun=300)


def test_silent_where_nobody_watches():
    assert told(100, terminal=False).strip() == ""
