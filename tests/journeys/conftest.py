"""The real command line: in a process of its own, as a person or a shell script runs it, or inside this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from catalog import cli

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPT = str(Path(sys.executable).parent / "panatlas")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def panatlas() -> Callable[..., Done]:
    """Run `panatlas` with arguments; `home` is the PANATLAS_HOME it sees."""

    def call(*arguments: object, home: Path | None = None, cwd: Path | None = None) -> Done:
        env = os.environ | ({"PANATLAS_HOME": str(home)} if home else {})
        command = [SCRIPT, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=cwd, timeout=300)
        return Done(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def desk(capsys) -> Callable[..., Done]:
    """Run the same command line in this process: the same code without three seconds of imports."""

    def call(*arguments: object) -> Done:
        capsys.readouterr()
        code = cli.run([str(a) for a in arguments])
        return Done(code, *capsys.readouterr())

    return call
