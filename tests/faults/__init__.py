"""Faults injected on purpose: `make faults` runs all of them, `make test` some of each kind.

Every row of the table is a `Fault`: a function that does one trial and gives the problems it found.
A trial draws everything random from (seed, row, trial), so that one can be repeated alone:

    python -m tests.faults kills --seed 0 --trial 17
"""

from __future__ import annotations

from tests.faults import (
    commands,
    corruption,
    disk,
    kills,
    lock,
    memory,
    nonfinite,
    outputs,
    ranks,
    saves,
    stops,
)

FAULTS = {
    module.FAULT.name: module.FAULT
    for module in (
        kills,
        saves,
        commands,
        stops,
        outputs,
        disk,
        corruption,
        nonfinite,
        memory,
        ranks,
        lock,
    )
}
"""All rows, in the order of the table."""
