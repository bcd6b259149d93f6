"""Problem 2: data parallelism. The sheet's Tables 1 to 3 in its own layout, strong scaling, DDP, bandwidth, answers.

Each machine (GPU model, driver, topology) and each variation of the other parameters has tables of its own: the first
has the plain names, further ones a number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from analysis.load import Data
from analysis.options import Options
from analysis.problem2_answers import answers
from analysis.problem2_communication import bandwidth_table, ceiling_table, communication_table, compute_table
from analysis.problem2_figure import figures, name
from analysis.problem2_grid import MODES
from analysis.problem2_groups import groups
from analysis.problem2_setups import Group
from analysis.problem2_times import one_gpu_table, speedup_table, strong_table, without_data_table
from analysis.section import Section
from analysis.style import Figure
from analysis.table import Table

TITLE = "Problem 2: data parallelism"
MAIN_TABLE = re.compile(r"(ddp-)?table-[123](-\d+)?")
WEAK = {
    "table-1": speedup_table,
    "table-1-without-data": without_data_table,
    "table-2": compute_table,
    "communication": communication_table,
    "table-3": bandwidth_table,
}


def tables(data: Data, options: Options | None = None) -> dict[str, Table]:
    """All tables by name; a mode or scaling that was neither planned nor run has none."""
    options, found = options or Options(), groups(data)
    made: dict[str, Table] = {}
    for number, group in enumerate(found, 1):
        own: dict[str, Table] = {}
        for mode in MODES:
            if group.has(mode, "weak") or not any(group.has(m, "weak") for m in MODES):
                own[name("one-gpu", mode, number)] = one_gpu_table(data, group, mode, options)
                own |= {name(t, mode, number): make(data, group, mode, options) for t, make in WEAK.items()}
            if group.has(mode, "strong"):
                own[name("strong", mode, number)] = strong_table(data, group, mode, options)
        own[name("ceiling", "dataparallel", number)] = ceiling_table(data, group, options)
        made |= {n: _noted(t, group, len(found)) for n, t in own.items()}
    return made


def _noted(table: Table, group: Group, groups_: int) -> Table:
    """Say where there are several groups that they do not compare, and where one's rows come from several machines."""
    notes = list(table.notes)
    if groups_ > 1:
        notes.append(
            f"There are results of {groups_} machines or variations; each has tables of its own, for their times do "
            "not compare."
        )
    own = set(table.source.trials)
    if (boots := group.boots(own)) > 1:
        mixed = [k for k, cell in group.cells.items() if len(cell.boots) > 1 and own.intersection(cell.trials)]
        several = sorted({(k.gpus, k.batch) for k in mixed})
        but = ", but for " + "; ".join(f"{gpus}-GPU at {batch:,}" for gpus, batch in several) if several else ""
        notes.append(
            f"Measured on {boots} machines of this kind, or after as many starts of one. The repetitions of a "
            f"set-up are of one of them{but}; what is derived from two set-ups can be of two."
        )
    return replace(table, notes=tuple(notes))


def main(data: Data, options: Options | None = None) -> tuple[Mapping[str, Figure], Mapping[str, Table]]:
    """Tables 1 to 3 and the figure of an epoch's time, for the end of a run."""
    options = options or Options()
    made = tables(data, options)
    return figures(data, groups(data), options), {n: t for n, t in made.items() if MAIN_TABLE.fullmatch(n)}


def sections(data: Data, options: Options | None = None) -> list[Section]:
    """The report: the sheet's four questions, DDP and strong scaling, and the protocol that the numbers rest on."""
    options = options or Options()
    found, made = groups(data), tables(data, options)
    pictures = figures(data, found, options)
    written = []
    for number, group in enumerate(found, 1):
        numbers = answers(data, group, options)
        end = f" ({group.label})" if len(found) > 1 else ""
        context = {"a": numbers, "number": number, "of": len(found), "suffix": f"-{number}" if number > 1 else ""}

        def part(
            title: str, template: str, questions: tuple[str, ...], names: Sequence[str], *shown: str,
            end: str = end, number: int = number, context: Mapping[str, object] = context,
        ) -> Section:  # fmt: skip
            listed = {n: made[n] for n in _numbered(names, number) if n in made}
            drawn = {n: pictures[n] for n in _numbered(shown, number) if n in pictures}
            return Section(f"{title}{end}", template, questions, {**context, "tables": list(listed)}, drawn, listed)

        written += [
            part("How it was measured", "problem2-protocol.md", (), ()),
            part("One GPU, batch after batch", "problem2-single.md", ("2.1",), ("one-gpu",)),
            part(
                "Several GPUs: speedup", "problem2-speedup.md", ("2.2",),
                ("table-1", "table-1-without-data", "strong"), "epoch-time",
            ),
            part("Compute and communication", "problem2-communication.md", ("2.3",), ("table-2", "communication")),
            part("Bandwidth utilisation", "problem2-bandwidth.md", ("2.4",), ("table-3", "ceiling")),
            part(
                "DistributedDataParallel", "problem2-ddp.md", (),
                tuple(f"ddp-{t}" for t in ("one-gpu", *WEAK, "strong")),
                "ddp-epoch-time",
            ),
        ]  # fmt: skip
    return written


def _numbered(names: Sequence[str], number: int) -> list[str]:
    return [f"{n}-{number}" if number > 1 else n for n in names]
