"""What the tests of `python -m datasets.prepare` share: names of images, empty files, and how a mistake ends."""

from functools import partial

import pytest

from datasets.commands import exit_with
from datasets.prepare.__main__ import main

HEADER = "place_id,year,month,northdeg,city_id,lat,lon,panoid"


def touch(path, content=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode() if content is None else content)


def sfxl_name(east, north, pano, heading, zone="10", letter="S", stamp="201311", lat="037.75634", lon="-122.50895"):
    return f"@{east:010.2f}@{north:010.2f}@{zone}@{letter}@{lat}@{lon}@{pano}@@{heading}@@@@{stamp}@@.jpg"


def mistake(arguments, capsys):
    """The one line that is said, after exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        exit_with(partial(main, list(map(str, arguments))), interrupted="")
    lines = [line for line in capsys.readouterr().err.splitlines() if "where the paper's" not in line]
    assert stopped.value.code == 2 and lines[-1].startswith("error: "), lines
    assert [line for line in lines[:-1] if line.startswith("error")] == []
    return lines[-1]
