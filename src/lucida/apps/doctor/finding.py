"""What one check found, and how findings are told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.text import Text

from lucida.core.progress import output

State = Literal["ok", "note", "warn", "broken"]

SIGNS = {
    "ok": ("✓", "green"),
    "note": ("·", "blue"),
    "warn": ("!", "yellow"),
    "broken": ("✗", "red"),
}


@dataclass(frozen=True)
class Finding:
    """One check: what was measured, what is expected, and the remedy when they disagree.

    `note` says something worth knowing that is neither right nor wrong.
    """

    name: str
    state: State
    measured: str
    expected: str = ""
    remedy: str = ""


def report(title: str, findings: Iterable[Finding], console: Console | None = None) -> int:
    """Print findings as they come; gives how many are broken."""
    console = console or output()
    console.print(f"\n{title}", style="bold")
    broken = 0
    for finding in findings:
        broken += finding.state == "broken"
        sign, colour = SIGNS[finding.state]
        line = Text(f"{sign} {finding.name:<28} ", colour)
        line.append(finding.measured, "default")
        console.print(line, soft_wrap=True)
        if finding.state in ("warn", "broken"):
            for word, text in (("expected", finding.expected), ("remedy", finding.remedy)):
                if text:
                    console.print(Text(f"    {word:<10} {text}", "dim"), soft_wrap=True)
    console.print(f"{broken} broken" if broken else "nothing is broken", style="red" * bool(broken))
    return broken
