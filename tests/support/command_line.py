"""`mutirao` as it is typed, run in this process: exit code, what is printed, and what is said beside it."""

from __future__ import annotations

import io
import json
import sys
from typing import Any, Self

import pytest

from mutirao.cli import main


class CommandLine:
    """Runs `mutirao` for one Redis."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._patch = monkeypatch

    def at(self, url: str) -> Self:
        self._patch.setenv("MUTIRAO_BROKER_URL", url)
        return self

    def run(self, *args: object) -> tuple[Any, str, str]:
        """Exit code, stdout, stderr."""
        self._patch.setattr(sys, "argv", ["mutirao", *map(str, args)])
        self._patch.setattr(sys, "stdin", io.StringIO())
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._capsys.readouterr()
        return ended.value.code, said.out, said.err

    def says(self, *args: object) -> str:
        code, out, err = self.run(*args)
        assert (code, err) == (0, ""), err
        return out

    def json(self, *args: object) -> list[Any]:
        return [json.loads(line) for line in self.says(*args, "--json").splitlines()]

    def steps(self, id: str) -> list[str]:
        """The names of a job's steps."""
        (told,) = self.json("explain", id)
        return [step["what"] for step in told["steps"]]
