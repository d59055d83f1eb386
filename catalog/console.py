"""What people see: receipts, tables, errors and progress on stderr; results and JSON on stdout.

Text from data (labels, file names, messages) is untrusted: it is escaped before rich sees it, and control characters
are made visible, so that no source can colour, hide or overwrite what the terminal says.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    import pyarrow as pa

    from atlas import Finding, Receipt, Tally

    from .curation import Acceptance, Curation
    from .releases import Release
    from .search import Found
    from .workflows import IngestRun

SLOW_S = 2.0  # a stage shorter than this shows no bar
TOLD_S = 10.0  # between lines of progress where there is no terminal
SHOWN_GROUPS = 40  # rows of a search people can take in; --json has all
_COUNTS = ("cells", "passing", "primary_cells", "datasets", "cell_types")  # columns that read better with thousands
_COLOURS = {"written": "green", "unchanged": "cyan", "planned": "yellow", "rejected": "red"}


def people() -> Console:
    """Return the console for people: stderr, so that stdout carries results only."""
    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)  # "synthetic:sheep: ..." is no picture


def plain(value: object) -> str:
    r"""Return a value as text that is safe to print: control characters visible, no markup.

    Examples
    --------
    >>> print(plain("[red]x" + chr(27) + "[2J"))
    \[red]x\x1b[2J
    """
    return escape("".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value)))


def print_json(value: object) -> None:
    """Write a value as JSON to stdout; what JSON has no form for, such as NaN and dates, becomes null or text."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, ensure_ascii=True, default=str, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """Return a value with NaN and infinities as None, which is how JSON says "no number"."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124 - NaN
        return None
    return value


class StageBars:
    """Progress bars of an ingest's stages, shown for stages longer than two seconds and only at a terminal.

    Call it as `IngestOptions.progress`; use it in a `with`.
    """

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._tasks: dict[str, Any] = {}
        self._began: dict[str, float] = {}

    def __enter__(self) -> StageBars:
        """Start drawing."""
        self._bars.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop drawing and leave a clean line."""
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is."""
        now = time.monotonic()
        began = self._began.setdefault(stage, now)
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(plain(stage), total=total, visible=False)
        self._bars.update(self._tasks[stage], completed=done, total=total, visible=now - began > SLOW_S)

    def clear(self) -> None:
        """Forget the stages of a source that is done."""
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks.clear()
        self._began.clear()


class TrainingLine:
    """How far training is: one live line at a terminal, elsewhere a plain line every ten seconds.

    Call it as `Machine.show`; use it in a `with`.
    """

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._console = console
        self._task: Any = None
        self._first = (0.0, 0.0)
        self._told = float("-inf")

    def __enter__(self) -> TrainingLine:
        """Start drawing."""
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop drawing and leave a clean line."""
        self._bar.stop()

    def __call__(self, row: Mapping[str, float]) -> None:
        """Show a row: step, steps, loss, cells_per_s and data_wait."""
        now, step, steps = time.monotonic(), row["step"], row["steps"]
        if self._task is None:
            self._first = (now, step)
            self._task = self._bar.add_task("", total=steps)
        text = f"loss {row['loss']:.4g}, {_speed(row)}"
        if step > self._first[1]:
            text += f", {_duration((steps - step) * (now - self._first[0]) / (step - self._first[1]))} left"
        self._bar.update(self._task, completed=step, description=text)
        if not self._console.is_terminal and now - self._told >= TOLD_S:
            self._told = now
            self._console.print(f"step {step:,.0f} of {steps:,.0f}: {text}")


def _speed(facts: Mapping[str, Any]) -> str:
    """Return cells a second and the share of time without data, in words."""
    return f"{facts['cells_per_s']:,.0f} cells/s, {facts['data_wait']:.1%} waiting for data"


def _duration(seconds: float) -> str:
    """Return a duration as people say it.

    Examples
    --------
    >>> _duration(41), _duration(100), _duration(7_500)
    ('41 s', '2 min', '2 h 05 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def show_plan(console: Console, facts: Mapping[str, Any]) -> None:
    """Print what is about to be trained on what."""
    organisms = ", ".join(map(plain, facts["organisms"]))
    console.print(
        f"release {plain(facts['release'])}: {facts['cells']:,} cells, {organisms}; run {plain(facts['folder'])}"
    )
    for organism, embedder in facts["protein_vectors"].items():
        console.print(f"  protein vectors of {plain(organism)} by {plain(embedder)}")


def show_training(console: Console, facts: Mapping[str, Any], again: str, *, before: bool) -> None:
    """Print what came of a run's leg, or `before`; `again` is the command that goes on."""
    done = (
        "[yellow]unfinished[/]"
        if not facts["finished"]
        else "[cyan]finished before[/]"
        if before
        else "[green]trained[/]"
    )
    loss = "" if facts["loss_first"] is None else f", loss {facts['loss_first']:.4g} to {facts['loss_last']:.4g}"
    where = f"release {plain(facts['release'])}, seed {facts['seed']}, on {plain(facts['device'])}"
    console.print(f"{done} {facts['steps']:,} steps{loss}, {_speed(facts)}; {where}")
    if facts["model"]:
        console.print(f"  model {plain(facts['model'])} in {plain(facts['folder'])}/model")
    if not facts["finished"]:
        console.print(f"  to go on: {plain(again)}")


def show_seen(console: Console, facts: Mapping[str, Any], *, known: bool) -> None:
    """Print which of a file's cells a model has seen; `known` says whether it knows their organism."""
    of = f"model {plain(facts['model'][:12])}" + (f" of release {plain(facts['release'])}" if facts["release"] else "")
    console.print(
        f"{facts['trained']:,} of {facts['cells']:,} {plain(facts['organism'])} cells were trained on by {of}, "
        f"{facts['eligible']:,} could have been drawn, {facts['validation']:,} chose its stopping point, "
        f"{facts['not_found']:,} were not found"
    )
    if facts["not_found"]:
        console.print(
            f"  cells are known by {plain(facts['matched_by'])}; not found is no proof of unseen: a missing gene or a "
            "recount changes the hash"
        )
    if not known:
        console.print(f"  the model knows no gene of {plain(facts['organism'])}")


def show_receipt(console: Console, receipt: Receipt) -> None:
    """Print one receipt: status, books, flags and findings."""
    colour = _COLOURS.get(receipt.status, "white")
    console.print(f"[{colour}]{receipt.status}[/] {plain(receipt.source_id)} ({receipt.seconds:.1f} s)")
    for name, tally in (("cells", receipt.cells), ("genes", receipt.genes), ("counts", receipt.counts)):
        if tally.came_in:
            console.print(f"  {name}: {_books(tally)}")
    if receipt.flagged:
        flags = ", ".join(f"{plain(reason)} {n:,}" for reason, n in sorted(receipt.flagged.items()))
        console.print(f"  flagged, not deleted: {flags}")
    if receipt.status == "planned" and receipt.labels:
        for label, how in receipt.labels.items():
            console.print(f"  {plain(label)}: " + ", ".join(f"{plain(k)} {n:,}" for k, n in how.items() if n))
    show_findings(console, receipt.findings)


def show_findings(console: Console, findings: Iterable[Finding]) -> None:
    """Print findings, the worst first."""
    colours = {"error": "red", "warning": "yellow", "info": "dim"}
    for f in sorted(findings, key=lambda f: tuple(colours).index(f.severity)):
        console.print(f"  [{colours[f.severity]}]{f.severity}[/] {plain(f.code)} at {plain(f.where)}: {plain(f.found)}")
        if f.severity != "info":
            console.print(f"    expected {plain(f.expected)}; {plain(f.remedy)}")


def _books(tally: Tally) -> str:
    """Return one axis' books in words."""
    parts = [f"{tally.kept:,} kept"]
    parts += [f"{tally.merged:,} summed into another"] if tally.merged else []
    parts += [f"{n:,} {plain(reason)}" for reason, n in tally.dropped.items()]
    return f"{tally.came_in:,} = " + " + ".join(parts)


def show_run(console: Console, run: IngestRun, atlas: str) -> None:
    """Print what a run came to, after its receipts."""
    for name in run.untried:
        console.print(f"[red]not tried[/] {plain(name)}: the store failed before it")
    tally = {status: sum(r.status == status for r in run.receipts) for status in _COLOURS}
    words = ", ".join(f"{n} {status}" for status, n in tally.items() if n)
    console.print(f"{words or 'nothing done'}; atlas {plain(atlas)}")
    if run.report is not None:
        console.print(f"report {plain(run.report)}")


def show_found(console: Console, found: Found) -> None:
    """Print a search's cells as a table on `console`, after what the text matched."""
    if found.matches:
        named = ", ".join(f"{plain(m['label'])}={plain(m['value'])}" for m in found.matches[:12])
        more = f" and {len(found.matches) - 12} more" if len(found.matches) > 12 else ""
        console.print(f"matched {named}{more}")
    for slip in found.unknown:
        near = f"; nearest: {plain(slip['nearest'])}" if slip["nearest"] else ""
        note = " (values with a comma go in double quotes)" if "," in slip["nearest"] else ""
        console.print(f"[yellow]no cell has[/] {plain(slip['column'])}={plain(slip['value'])}{near}{note}")
    console.print(f"{found.cells:,} cells")


def print_table(rows: Sequence[Mapping[str, Any]], columns: Iterable[str], title: str = "") -> None:
    """Print rows as a table on stdout: they are the result people and pipes came for."""
    table = Table(title=title or None, title_justify="left")
    names = list(columns)
    for name in names:
        numeric = bool(rows) and all(isinstance(row[name], (int, float)) for row in rows)
        table.add_column(plain(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(plain(f"{row[name]:,}" if name in _COUNTS else row[name]) for name in names))
    wide = Console(highlight=False, emoji=False)
    if not wide.is_terminal:
        edge = sum(_width(rows, name) + 3 for name in names) + 1  # a pipe has none
        wide = Console(highlight=False, emoji=False, width=edge)
    wide.print(table)


def _width(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    """Return the width of a column's longest text, with room for thousands separators."""
    return max([len(name), *(len(plain(row[name])) * 4 // 3 + 1 for row in rows)])


def as_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return a query's rows; a column name that occurs twice gets a number, or the later would hide the earlier.

    Examples
    --------
    >>> import pyarrow as pa
    >>> as_rows(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]))
    [{'a': 1, 'a_2': 2}]
    """
    names: list[str] = []
    for name in table.column_names:
        twice = sum(n == name for n in names)
        names.append(f"{name}_{twice + 1}" if twice else name)
    return table.rename_columns(names).to_pylist()


def show_info(console: Console, facts: Mapping[str, Any]) -> None:
    """Print an atlas' facts that fit no table."""
    console.print(f"atlas {plain(facts['uri'])}, published {facts['published']} (TileDB {facts['published_ms']})")
    console.print(f"{facts['cells']:,} cells, {facts['passing']:,} pass QC")
    if facts["synthetic_cells"]:
        console.print(f"[yellow]{facts['synthetic_cells']:,} cells are synthetic[/]: made up, none was sequenced")
    console.print(", ".join(f"{plain(k)} {plain(v)}" for k, v in facts["versions"].items()))


def show_release(console: Console, release: Release) -> None:
    """Print what became of a release."""
    colour = _COLOURS[release.status]
    manifest = release.manifest
    console.print(f"[{colour}]{release.status}[/] release {plain(release.name)} in {plain(release.folder)}")
    for row in manifest["organisms"]:
        console.print(f"  {plain(row['organism'])}: {row['cells']:,} cells, {row['passing']:,} pass QC")
    split = manifest["split"]
    console.print(f"  split by {split['by']}, seed {split['seed']}:")
    for name, cells in split["cells"].items():
        books = f"{cells:,} cells, {split['loadable'][name]:,} to load, in {split['groups'][name]:,} groups"
        pinned = "".join(f"; pinned {plain(pin)}" for pin in split["pinned"][name])
        console.print(f"    {name}: {books}{pinned}")
    show_findings(console, release.findings)
    console.print(f"  content sha256 {manifest['content_sha256']}")


def show_curation(console: Console, done: Curation | Acceptance) -> None:
    """Print what became of a curator's table."""
    for line in done.lines():
        console.print(plain(line))


def show_error(console: Console, error: BaseException) -> None:
    """Print an error people can act on: what, where, remedy; no traceback."""
    console.print(f"[red]error[/] {plain(error)}")
    for note in getattr(error, "__notes__", ()):
        console.print(f"  {plain(note)}")


@contextmanager
def logging_to(console: Console) -> Iterator[None]:
    """Show the floors' warnings to people while a command runs; only the command line ever configures logging."""
    handler = _PeopleLog(console)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class _PeopleLog(logging.Handler):
    """Writes warnings and errors to a console, escaped."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, with its traceback if it has one."""
        self._console.print(f"[yellow]{record.levelname.lower()}[/] {plain(record.getMessage())}")
        if record.exc_info:
            self._console.print(logging.Formatter().formatException(record.exc_info), markup=False)


def drop_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not fail on a closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
