"""One attempt at one trial, start to end: claim, resume, run, commit, finish.

The same function runs in a child of the fork server (under Ray) and in the driver (`executor=inline`).
"""

from __future__ import annotations

import dataclasses
import io
import operator
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farm import provenance
from farm.errors import UsageError
from farm.failures import LONGEST_BACK_OFF_SECONDS, POLICIES, Infrastructure, kind_of
from farm.ledger.scan import TRIALS, attempt_records, progress
from farm.ledger.schema import EPOCHS, RowCheck, check_summary, row_table
from farm.ledger.store import Attempt, drain_file, now, trial_path
from farm.ledger.tidy import tidy
from farm.write_behind import WriteBehind
from trials.ranks import memory_taken
from trials.spec import Drained, Epoch, Outcome, Row, Spec, State, checked_epoch, steps_of, trial_module

ERROR_LINES = 12
Report = Callable[[dict[str, Any]], None]
UNKNOWN_SOURCES = "unknown"
"""In place of the digest of a commit that has none, by a farm of before 2026-11-29."""
STOP_SECONDS = 0.1
"""A wait looks that often whether it is to end."""
HELD = 50
"""So many times as long as the dump of its state an epoch has to take for its commit to be held until the next."""


@dataclass(frozen=True)
class Request:
    """All that an attempt needs to know, as plain values that travel as JSON."""

    ledger: str
    spec: dict[str, Any]
    device: str
    data_root: str | None
    cache: str
    commit_seconds: float = 30.0
    drain_seconds: float = 5.0
    back_off_seconds: float = 1.0
    keep: str = "none"
    info: dict[str, Any] = field(default_factory=dict)
    """Further columns of attempt.json: GPU ids, driver, node."""
    directory: str = ""
    """Name of the trial's directory, where the driver has looked it up: each look reads all names in a ledger."""

    @property
    def trial(self) -> Path:
        """The trial's directory."""
        root = Path(self.ledger)
        return root / TRIALS / self.directory if self.directory else trial_path(root, Spec(**self.spec))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class End:
    """How an attempt ended: completed, diverged, oom, failed, interrupted or drained; `failure` is of farm.failures.

    `interrupted` is an infrastructure failure: it is tried again. `failed` is the trial's own, it is not.
    """

    how: str
    epoch: int
    error_class: str = ""
    error: str = ""
    log_path: str = ""
    failure: str = ""


class StopFlag:
    """Set by a signal; read by the trial between steps.

    No `threading.Event`: its lock may be held by the very thread that the signal's handler interrupts, for ever.
    """

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        """Ask the attempt to drain."""
        self._set = True

    def is_set(self) -> bool:
        """Whether that was asked."""
        return self._set

    def wait(self, seconds: float) -> None:
        """Sleep so long, or until it is asked."""
        until = time.monotonic() + seconds
        while not self._set and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, STOP_SECONDS))


def run_attempt(request: Request, stop: StopFlag, report: Report, on_claim: Callable[[Attempt], Any]) -> End:
    """Run one attempt. Ends in a record in the ledger whatever the trial does, short of the process's death.

    `on_claim` is called with the attempt as soon as it has a directory (the child sends its output there). A trial that
    is done meanwhile, by an attempt that died or lost its disk just after, is left as it is.
    """
    spec = Spec(**request.spec)
    try:
        trial = request.trial
        if (found := progress(trial)).state == "done":
            return End(found.status, found.epoch)
        sources = provenance.source_digests(spec.module)
        attempt = Attempt.claim(Path(request.ledger), spec, _info(request, sources), trial)
        log = str(on_claim(attempt) or "")
    except UsageError as error:  # a plan has refused it before
        return End("failed", found.epoch, type(error).__name__, str(error), failure="bug")
    except OSError as error:  # nowhere to write: not even a record of this attempt, by which the next would wait
        stop.wait(min(request.back_off_seconds, LONGEST_BACK_OFF_SECONDS))
        return End("interrupted", 0, type(error).__name__, str(error), failure="storage")
    run = _Run(request, spec, attempt, stop, report, sources)
    try:
        end = run.to_end()
    except Drained:
        end = End("drained", progress(attempt.trial).epoch, failure="" if _asked(request) else "preempted")
    except (Exception, SystemExit) as error:  # the one place where a trial's error becomes a record
        traceback.print_exc()
        end = _ended_by(error, run)
    end = dataclasses.replace(end, log_path=log)
    try:
        attempt.end(end.how, {"from_epoch": run.from_epoch} | {k: v for k, v in vars(end).items() if k != "how"})
    except OSError as error:  # the attempt will be called lost, and what it committed stays
        print(f"its end could not be recorded: {error}", file=sys.stderr)
    return end


def _asked(request: Request) -> bool:
    """Whether it is the driver who wants the attempt to end; else somebody takes the node away."""
    driver = request.info.get("driver")
    return driver is None or drain_file(Path(request.ledger), driver).exists()


class _Run:
    """The attempt's `Context`, and the loop over the trial's epochs."""

    def __init__(
        self, request: Request, spec: Spec, attempt: Attempt, stop: StopFlag, report: Report, sources: Sequence[str]
    ) -> None:
        self.request, self.spec, self.attempt, self.report = request, spec, attempt, report
        self._stop = stop
        self.module = trial_module(spec.module)
        self.device = request.device
        self.state: State | None = None
        self.rows: list[Row] = []
        self.epoch = self.from_epoch = 0
        self._table, self._last_epoch = row_table(spec.module), 0
        self._seen = list(sources)
        self._dataset: Any = None
        self._epoch_began = time.monotonic()
        self._epoch_seconds = float("inf")
        self._stop_seen: float | None = None

    @property
    def dataset(self) -> Any:
        if self._dataset is None:
            from trials import data

            self._dataset = data.load(self.spec.dataset, self.request.data_root, self.request.cache)
            if self._dataset.fingerprint != self.spec.fingerprint:
                raise Infrastructure(f"dataset {self.spec.dataset} is not the one that was planned")
        return self._dataset

    def check_stop(self) -> None:
        """An epoch that is nearly over is finished; any other is abandoned (what was committed stays).

        How long it takes is judged by the one before, which a ladder's rung can exceed tenfold: so the time since the
        stop counts too.
        """
        if self._stop.is_set():
            now = time.monotonic()
            self._stop_seen = now if self._stop_seen is None else self._stop_seen
            left = self._epoch_seconds - (now - self._epoch_began)
            if max(left, now - self._stop_seen) > self.request.drain_seconds:
                raise Drained

    def to_end(self) -> End:
        """Run the trial from the newest commit to its end and write `done`."""
        _prepare_torch(self.spec, self.request.device)
        if (commit := self.attempt.newest_commit()) is not None:
            self.state, self.rows = _load_state(commit.state), list(commit.rows)
            self.epoch = self.from_epoch = commit.epoch
            self.attempt.go_on_from(commit)
            self._seen = [*(commit.sources or UNKNOWN_SOURCES).split(", "), *self._seen]
            self._count(self.rows)
        with WriteBehind(self.attempt) as writer:
            outcome, state = self._epochs(writer)
        return self._finish(outcome, state)

    def _epochs(self, writer: WriteBehind) -> tuple[Outcome, Callable[[], State] | None]:
        check = RowCheck(self.spec.module)
        trial = self.module.run(self.spec, self)
        state = None if self.state is None else self._resumed_state
        last_commit, dump_seconds, tried = time.monotonic(), 0.0, False
        while True:
            self._epoch_began = time.monotonic()
            try:
                rows, state = self._next(trial, check)
            except StopIteration as end:
                if not isinstance(end.value, Outcome):
                    raise TypeError(f"{self.spec.module}: run has to end with `return Outcome(...)`") from None
                return end.value, state
            ended = time.monotonic()
            self._epoch_seconds = ended - self._epoch_began
            due = ended - last_commit >= self.request.commit_seconds or self._stop.is_set()
            # A drain would abandon the next epoch; where a state costs more than a fiftieth of an epoch, this one too.
            hold = self._epoch_seconds > max(self.request.drain_seconds, HELD * dump_seconds)
            if state is not None and (due or hold):
                commit = self.epoch, _dump_state(state()), list(self.rows), self._sources()
                dump_seconds = time.monotonic() - ended
                if not tried:  # now, and not by the attempt that will need it
                    self._try(commit[1])
                    tried = True
                if due:
                    writer.submit(*commit)
                    last_commit = time.monotonic()
                else:
                    writer.hold(*commit)
            if not self._stop.is_set():
                self.report({"epoch": self.epoch} | (rows[-1] if rows else {}))
            elif not self._is_last():
                writer.wait()
                raise Drained

    def _is_last(self) -> bool:
        """Whether nothing is left of the trial but its end. A drain lets it come to that: the next attempt may have to
        wait a day for the machine."""
        return steps_of(self.spec.module, self.spec.parameters) == self.epoch

    def _resumed_state(self) -> State:
        """The final state of a trial whose last epoch was committed by an attempt that died before `done`."""
        assert self.state is not None
        return self.state

    def _next(self, trial: Any, check: RowCheck) -> Epoch:
        rows, state = checked_epoch(self.spec.module, next(trial))
        self.epoch += 1
        rows = [check.plain(row) for row in rows]  # now, and not by the first commit, which may be the end's
        self._count(rows)
        self.rows.extend({**row, "attempt": self.attempt.number} for row in rows)
        return rows, state

    def _count(self, rows: Sequence[Row]) -> None:
        """Raise where a row of the table of epochs is not of an epoch after all before: each is there once."""
        for row in rows:
            if (row.get("table") or self._table) != EPOCHS:
                continue
            try:
                epoch = operator.index(row.get("epoch"))  # type: ignore[arg-type]  # None or text: then it raises
            except TypeError:
                raise ValueError(f"{self.spec.module}: a row without its number in `epoch`: {row}") from None
            if epoch < 1:
                raise ValueError(f"{self.spec.module}: a row of epoch {epoch}: epochs count from 1")
            if epoch <= self._last_epoch:
                hint = "; does run go on from context.state?" if self.from_epoch else ""
                raise ValueError(f"{self.spec.module}: a row of epoch {epoch} after one of {self._last_epoch}{hint}")
            self._last_epoch = epoch

    def _try(self, content: bytes) -> None:
        try:
            _load_state(content)
        except MemoryError:
            raise
        except Exception as error:  # an UnpicklingError as a rule, whose module nothing here imports
            raise TypeError(
                f"{self.spec.module}: the state of epoch {self.epoch} could not be loaded again; it may hold tensors, "
                f"numbers, texts, lists and dictionaries of them ({str(error).partition(chr(10))[0]})"
            ) from None

    def _finish(self, outcome: Outcome, state: Callable[[], State] | None) -> End:
        self._write_done(
            outcome, _dump_state(state()) if state is not None and self.request.keep == "weights" else None
        )
        return End(outcome.status, self.epoch, failure="divergence" if outcome.status == "diverged" else "")

    def _write_done(self, outcome: Outcome, state: bytes | None) -> None:
        check_summary(self.spec.module, outcome.summary)
        row = self._trial_row() | outcome.summary
        try:
            self.attempt.finish(outcome.status, self.epoch, self.rows, row, state)
        except OSError:
            if progress(self.attempt.trial).state != "done":  # else it failed when the results were already in place
                raise
        tidy(self.attempt.trial, self.attempt.number)

    def finish_oom(self, message: str) -> None:
        """Out of device memory is a result: the rows so far, the peak and the message."""
        peak = _peak_memory_bytes(self.device)
        self._write_done(Outcome("oom", {"peak_memory_bytes": peak, "error": message}), None)

    def _trial_row(self) -> Row:
        records = list(attempt_records(self.attempt.root, self.attempt.trial))
        devices = sorted({str(r.get("device")) for r in records if r.get("device")})
        device = device_name(self.device)
        row: Row = {
            "attempts": self.attempt.number,
            "seconds": self.attempt.earlier_seconds + self.attempt.seconds,
            "device": device,
            "devices": ", ".join(sorted({*devices, device})),
            "host": str(records[-1].get("host")),
            "finished_at": now(),
            "farm_commit": provenance.farm_commit(),
            "source_digest": self._sources(),
        }
        return row | provenance.versions()

    def _sources(self) -> str:
        """Digests of all code that may have had a part in the rows so far."""
        self._seen = list(dict.fromkeys([*self._seen, *provenance.source_digests(self.spec.module)]))
        return ", ".join(self._seen)


def _info(request: Request, sources: Sequence[str]) -> dict[str, Any]:
    from farm.ledger.lock import identity

    place = {"device": device_name(request.device)}
    code = {"farm_commit": provenance.farm_commit(), "source_digest": ", ".join(sources)}
    return identity() | request.info | place | code


def device_name(device: str) -> str:
    """The GPU's model as CUDA names it, or "cpu"."""
    if device == "cpu":
        return "cpu"
    import torch

    try:
        return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    except RuntimeError:  # a GPU that fails: the trial meets it too, and its attempt says so
        return "unknown"


def _prepare_torch(spec: Spec, device: str) -> None:
    """Threads and device as the spec says; raises where they cannot be had."""
    import torch

    torch.set_num_threads(spec.threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise Infrastructure("the trial asks for a GPU and CUDA is absent; device=cpu runs without")
    if device == "cpu" and spec.timed and spec.hardware != "cpu":
        raise ValueError(f"the trial is timed on {spec.hardware}, and this run is on the CPU")
    if device == "cuda" and spec.timed and spec.hardware != (found := torch.cuda.get_device_name(0)):
        raise Infrastructure(f"the trial is timed on {spec.hardware}, and this GPU is {found}")


def _load_state(content: bytes) -> State:
    import torch

    state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def _dump_state(state: State) -> bytes:
    import torch

    sink = io.BytesIO()
    torch.save(state, sink)
    return sink.getvalue()


def _peak_memory_bytes(device: str) -> int | None:
    if device == "cpu":
        return None
    import torch

    return int(torch.cuda.max_memory_allocated())


def _ended_by(error: BaseException, run: _Run) -> End:
    """The end that an exception makes of an attempt: oom is a result, the machine's failures are tried again."""
    error = memory_taken(error) or error
    kind = kind_of(error)
    if kind == "cuda_oom":
        try:
            run.finish_oom(str(error).splitlines()[0] if str(error) else type(error).__name__)
        except OSError as refusal:
            error, kind = refusal, "storage"
        except Exception as refusal:  # rows that do not fit their table: then this is what it fell to
            error, kind = refusal, kind_of(refusal)
    text = "".join(traceback.format_exception(error))
    last = "\n".join(text.strip().splitlines()[-ERROR_LINES:])
    how = POLICIES[kind].how
    return End("interrupted" if how == "killed" else how, run.epoch, type(error).__name__, last, failure=kind)
