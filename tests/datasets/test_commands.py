"""How a command ends."""

import pytest

from datasets.commands import exit_with


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize("main, code, said", [
    (lambda: None, None, ""), (lambda: 1, 1, ""),
    (raising(ValueError("a bad\n   value")), 2, "error: a bad value\n"),
    (raising(FileNotFoundError("no such file")), 2, "error: no such file\n"),
    (raising(OSError(28, "No space left on device", "x")), 2, "error: [Errno 28] No space left on device: 'x'\n"),
    (raising(KeyboardInterrupt), 130, "interrupted; it goes on\n"),
])
def test_the_exit_code_and_at_most_one_line(main, code, said, capsys):
    with pytest.raises(SystemExit) as ended:
        exit_with(main, interrupted="it goes on")
    assert (ended.value.code, capsys.readouterr()) == (code, ("", said))


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        exit_with(lambda: 1 / 0, interrupted="")
    monkeypatch.setenv("SELAVPRPP_TRACEBACK", "1")
    with pytest.raises(ValueError):
        exit_with(raising(ValueError("a")), interrupted="")
