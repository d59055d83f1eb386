"""Set-up and recipes: which packages a machine gets, what is said when it fails, and arguments that arrive untouched.

`uv`, `panatlas` and `nvidia-smi` are scripts that write down how they were called, on a machine that has nothing else;
`.ci/setup` and the Justfile are real.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
FAKE_UV = r"""#!/usr/bin/env bash
printf '%s\n' "$*" >>"$LOG"
case "$1" in
    venv) mkdir -p .venv/bin && ln -sf "$REAL_PYTHON" .venv/bin/python ;;
    pip)
        [[ "$*" != *"${FAIL_ON:-no such argument}"* ]] || exit 1
        printf '#!/bin/sh\n' >.venv/bin/panatlas && chmod +x .venv/bin/panatlas ;;
esac
"""


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@dataclass(frozen=True)
class Checkout:
    """A checkout with a real set-up script and a uv that only takes notes."""

    root: Path
    log: Path

    def setup(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_"))}
        settings = {"LOG": str(self.log), "REAL_PYTHON": sys.executable, "PIP_CONFIG_FILE": os.devnull}
        return subprocess.run(
            [str(self.root / "machine/bash"), str(self.root / ".ci/setup"), *arguments],
            env=keep | settings | {"PATH": str(self.root / "machine")} | environment,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def installs(self) -> list[str]:
        """Return how uv was asked to install, in order, and forget it."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line for line in lines if line.startswith("pip install")]


@pytest.fixture
def checkout(repo: Path, tmp_path: Path) -> Checkout:
    root = tmp_path / "a folder with blanks"
    shutil.copytree(repo / ".ci", root / ".ci")
    shutil.copy(repo / "pyproject.toml", root)
    script(root / ".tools/bin/uv", FAKE_UV)
    script(root / "machine/python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for tool in ("bash", "cat", "chmod", "cksum", "dirname", "env", "ln", "mkdir", "rm", "tr"):
        (root / "machine" / tool).symlink_to(shutil.which(tool))
    return Checkout(root, tmp_path / "log")


def test_product_needs_no_torch_and_a_second_run_does_nothing(checkout: Checkout) -> None:
    first = checkout.setup()
    assert first.returncode == 0, first.stderr
    (call,) = checkout.installs()
    assert "--group" not in call
    second = checkout.setup()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert checkout.installs() == []


def test_the_dev_environment_serves_the_product_and_not_the_other_way_round(checkout: Checkout) -> None:
    checkout.setup()
    checkout.installs()
    checkout.setup("dev", PIP_FIND_LINKS="wheels")
    assert len(checkout.installs()) == 1
    checkout.setup()
    assert checkout.installs() == []


def test_without_a_gpu_the_folder_of_wheels_or_the_cpu_index_gives_torch(checkout: Checkout) -> None:
    checkout.setup("dev", PIP_FIND_LINKS="wheels")
    (call,) = checkout.installs()
    assert "--constraint .ci/constraints-cpu.txt" in call
    assert "--torch-backend" not in call
    shutil.rmtree(checkout.root / ".venv")
    checkout.setup("dev")
    (call,) = checkout.installs()
    assert "--torch-backend cpu" in call


def test_where_the_cpu_index_is_closed_it_says_so_and_takes_the_other(checkout: Checkout) -> None:
    done = checkout.setup("dev", FAIL_ON="--torch-backend")
    assert done.returncode == 0
    assert "CUDA" in done.stderr
    assert ["--torch-backend" in call for call in checkout.installs()] == [True, False]


def test_a_gpu_machine_is_not_held_to_cpu_torch(checkout: Checkout) -> None:
    script(checkout.root / "machine/nvidia-smi", "#!/bin/sh\n")
    checkout.setup("dev", PIP_FIND_LINKS="wheels")
    (call,) = checkout.installs()
    assert "--constraint" not in call


def test_a_refusing_index_ends_with_5_and_the_next_run_goes_on(checkout: Checkout) -> None:
    done = checkout.setup(FAIL_ON="install")
    assert done.returncode == 5
    assert "package index" in done.stderr
    assert len(checkout.installs()) == 2, "the CPU-only torch first, then whatever the index has"
    assert checkout.setup().returncode == 0
    assert len(checkout.installs()) == 1


def test_a_changed_project_or_a_moved_checkout_is_set_up_again(checkout: Checkout) -> None:
    checkout.setup()
    with (checkout.root / "pyproject.toml").open("a") as out:
        out.write("# changed\n")
    checkout.installs()
    checkout.setup()
    assert len(checkout.installs()) == 1
    moved = Checkout(checkout.root.rename(checkout.root.with_name("moved")), checkout.log)
    moved.setup()
    assert moved.log.read_text().startswith("venv")  # the old scripts point at the old folder


@pytest.mark.parametrize("python", ["/no/such/python", "false"])
def test_no_fitting_python_is_said(checkout: Checkout, python: str) -> None:
    done = checkout.setup(PANATLAS_PYTHON=python)
    assert done.returncode == 5
    assert "PANATLAS_PYTHON" in done.stderr


@pytest.fixture
def counter(repo: Path, tmp_path: Path) -> Path:
    """Return a folder with the real Justfile and a panatlas that prints its arguments, one a line."""
    shutil.copy(repo / "Justfile", tmp_path)
    script(tmp_path / ".ci/setup", "#!/bin/sh\n")
    script(tmp_path / ".venv/bin/panatlas", "#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    return tmp_path


def just(folder: Path, *arguments: str) -> str:
    command = [str(BIN / "just"), "--justfile", str(folder / "Justfile"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


HOSTILE = [
    "a b",
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "it's",
    'say "x"',
    "*",
    "--where=a>1",
    "{{x}}",
    "",
]


def test_arguments_reach_the_command_untouched(counter: Path) -> None:
    assert just(counter, "ingest", "human", *HOSTILE) == "\n".join(["ingest", "human", *HOSTILE, ""])
    assert just(counter, "sql", "select '$HOME'") == "sql\nselect '$HOME'\n"
    assert just(counter, "plan", "human") == "plan\nhuman\n"
    assert not (counter / "pwned").exists()


def test_every_recipe_is_one_line_and_has_a_persona(counter: Path) -> None:
    recipes = json.loads(just(counter, "--dump", "--dump-format", "json"))["recipes"]
    for name, recipe in recipes.items():
        assert len(recipe["body"]) <= 1, name
        groups = {a["group"] for a in recipe["attributes"] if isinstance(a, dict) and "group" in a}
        assert recipe["private"] or (recipe["doc"] and groups <= {"curator", "analyst", "trainer", "developer"}), name
        assert recipe["private"] or len(groups) == 1, name
