"""Finished trials that began with a parameter which their module has no more: it was removed since, or renamed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from farm.checks import counted
from farm.ledger.scan import Progress, directories
from farm.ledger.store import spec_of
from trials.spec import parameter_defaults


def remark(ledger: Path, module: str, revisions: Collection[int], states: Mapping[str, Progress]) -> str:
    """One line on those of these revisions that lack a parameter of today; empty where there are none.

    What such a trial had for it nobody knows, so the export has no value there. Where a parameter was removed alone,
    nothing is lacking, and nothing to be said.
    """
    today = parameter_defaults(module).keys()
    number, gone, lacking = 0, set[str](), set[str]()
    found = {
        i: began
        for i, progress in states.items()
        if progress.state == "done" and (began := (progress.parameters or {}).keys()) - today and today - began
    }
    for identity, path in directories(ledger).items() if found else ():
        if identity in found:
            began = found[identity]
            spec = spec_of(path)
            if spec is not None and spec.module == module and spec.revision in revisions:
                number, gone, lacking = number + 1, gone | (began - today), lacking | (today - began)
    if not number:
        return ""
    one = len(gone) == 1
    names = ", ".join(f"`{name}`" for name in sorted(gone))
    columns = ", ".join(f"config_{name}" for name in sorted(lacking))
    return (
        f"{counted(number, 'finished trial')} began with {'a parameter' if one else 'parameters'} "
        f"{names} that {'is' if one else 'are'} no more; export/ has them with {columns} empty; "
        "raise REVISION if results change"
    )
