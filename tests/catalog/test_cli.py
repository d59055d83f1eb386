"""The command line without a subprocess: exit codes, what goes to which stream, and what untrusted text may do."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from atlas import Finding, Receipt, Tally
from catalog import cli, commands, console


@pytest.fixture
def panatlas(small, capsys):
    """Run a command on the small atlas; return (exit code, stdout, stderr)."""

    def call(*arguments: str, atlas: bool = True) -> tuple[int, str, str]:
        extra = ["--atlas", small[0].uri] if atlas else []
        code = cli.run([*arguments, *extra])
        return (code, *capsys.readouterr())

    return call


def test_json_is_the_only_thing_on_stdout(panatlas, small):
    for command in (["info"], ["search", "lung"], ["sql", "SELECT 1 AS one"], ["release", "r1", "--dry-run"]):
        code, out, err = panatlas(*command, "--json")
        assert code == 0, err
        json.loads(out)
    assert json.loads(panatlas("organisms", "--json", atlas=False)[1])[0]["organism"] == "human"


def test_rows_are_a_table_on_stdout(panatlas):
    code, out, err = panatlas("sql", "SELECT cell_type, count(*) AS n FROM obs GROUP BY 1 ORDER BY 1")
    assert (code, err) == (0, "")
    assert [line.split("│")[1].strip() for line in out.splitlines() if "│" in line] == [
        "B cell",
        "T cell",
        "fibroblast of lung",
    ]


def test_a_wide_table_is_not_cut_in_a_pipe(panatlas):
    _, out, _ = panatlas("sql", "SELECT repeat('x', 300) AS a, repeat('y', 300) AS b")
    assert "x" * 300 in out
    assert "y" * 300 in out


def test_numbers_json_cannot_say_become_null(panatlas):
    _, out, _ = panatlas(
        "sql", "SELECT 'nan'::DOUBLE AS a, 'inf'::DOUBLE AS b, DATE '2026-01-02' AS c, 1 AS a", "--json"
    )
    assert json.loads(out) == [{"a": None, "b": None, "c": "2026-01-02", "a_2": 1}]


def test_an_empty_answer_is_an_answer(panatlas):
    assert json.loads(panatlas("sql", "SELECT nnz FROM obs WHERE FALSE", "--json")[1]) == []
    code, out, _ = panatlas("sql", "SELECT nnz FROM obs WHERE FALSE")
    assert code == 0
    assert "nnz" in out


def test_search_takes_conditions_and_words_in_any_order(panatlas, small):
    obs = small[1]
    expected = int((obs["qc_pass"] & (obs["tissue"] == "lung") & (obs["nnz"] >= 150)).sum())
    for words in (["--where", "nnz>=150", "lung"], ["lung", "--where=nnz>=150"]):
        assert json.loads(panatlas("search", *words, "--where", "tissue=lung", "--json")[1])["cells"] == expected
    _, _, err = panatlas("search", "--where", "cell_type=T cels")
    assert "nearest: T cell" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nonsense"], 2, "nonsense"),
        (["sql"], 2, "QUERY"),
        (["sql", "SELECT 1", "--nosuch"], 2, "--nosuch"),
        (["sql", "DROP VIEW obs"], 2, "read-only"),
        (["sql", "SELECT nosuch FROM obs"], 2, "describe obs"),
        (["search", "--where", "celltype=x"], 2, "nearest: cell_type"),
        (["search", "--organism", "humna"], 2, "nearest: human"),
        (["release", "../evil"], 2, "letters, digits"),
        (["release", "r", "--split-by", "cell"], 2, "split-by"),
        (["ingest", "martian"], 2, "no organism"),
        (["ingest", "rhesus"], 2, "--source"),
        (["ingest", "human", "--manifest", "/no/such.toml"], 2, "manifest"),
        (["ingest", "human", "--workers", "-1"], 2, "positive"),
        (["ingest", "human", "--scratch", "here"], 2, "either a number of processes"),
        (["info", "--atlas", "/no/such/atlas"], 4, "panatlas ingest human"),
        (["sql", "SELECT 1", "--atlas", "/no/such/atlas"], 4, "panatlas ingest human"),
    ],
)
def test_errors_say_what_to_do_without_a_traceback(panatlas, arguments, code, said):
    takes_atlas = arguments[0] != "nonsense" and "--atlas" not in arguments
    got, out, err = panatlas(*arguments, atlas=takes_atlas)
    assert got == code
    assert said in err
    assert out == ""
    assert "Traceback" not in err


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(commands, "describe_atlas", lambda _: {}["nothing"])
    with pytest.raises(KeyError):
        cli.run(["info"])


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    monkeypatch.setattr(commands, "resolve_sources", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert cli.run(["ingest", "human", "--source", "my file.h5ad"]) == 130
    assert "panatlas ingest human --source 'my file.h5ad'" in capsys.readouterr().err


def test_a_full_disk_is_told_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(
        commands, "describe_atlas", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    assert cli.run(["info"]) == 4
    assert "No space left" in capsys.readouterr().err


def test_version_is_the_installed_one(capsys, monkeypatch):
    monkeypatch.setattr(cli, "version", lambda name: {"panatlas": "9.8.7"}[name])
    assert cli.run(["--version"]) == 0
    assert "9.8.7" in capsys.readouterr().out


HOSTILE = "[red]x[/red] \x1b[2J\x1b]0;owned\x07 [link=http://evil]y[/link]\r\nok written"


def shown(draw) -> str:
    stream = io.StringIO()
    draw(Console(file=stream, force_terminal=True, color_system="standard", width=300, highlight=False))
    return stream.getvalue()


def test_text_from_data_cannot_steer_the_terminal():
    finding = Finding(HOSTILE, "error", HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    receipt = Receipt(
        HOSTILE,
        "human",
        "rejected",
        HOSTILE,
        cells=Tally(2, 1, 0, {HOSTILE: 1}),
        flagged={HOSTILE: 1},
        findings=(finding,),
    )
    text = shown(lambda c: console.show_receipt(c, receipt))
    assert "[link=http://evil]y[/link]" in text  # shown, not obeyed
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert "\r" not in text
    assert not [line for line in text.splitlines() if line.startswith("ok written")]
    assert "[link" in shown(lambda c: console.show_error(c, ValueError(HOSTILE)))
    assert "\x1b[2J" not in shown(lambda c: console.show_error(c, ValueError(HOSTILE)))


def test_hostile_labels_survive_a_table(panatlas):
    code, out, _ = panatlas("sql", "SELECT '[bold]a[/bold]' || chr(27) || '[31m' AS \"[red]n\"")
    assert code == 0
    assert "[bold]a[/bold]\\x1b[31m" in out
    assert "[red]n" in out
    assert "\x1b[31m" not in out


def test_a_bar_appears_after_two_seconds_only(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    bars = console.StageBars(Console(file=io.StringIO(), force_terminal=True))
    bars("measure", 1, 10)
    task = bars._bars.tasks[0]
    assert not task.visible
    now[0] = 2.5
    bars("measure", 5, 10)
    assert task.visible
    assert (task.completed, task.total) == (5, 10)
    bars.clear()
    assert bars._bars.tasks == []


def test_every_argument_of_every_command_is_explained():
    """As `--help` shows them: options that commands share are dataclasses, which signatures do not spell out."""
    explained = 0
    for group in (cli.app, cli.app["references"]):
        for name in group:
            if name.startswith("-") or group[name].default_command is None:
                continue
            arguments = group[name].assemble_argument_collection(parse_docstring=True)
            assert not [one.name for one in arguments if not one.parameter.help and not one.children], name
            explained += len(arguments)
    assert explained > 400
