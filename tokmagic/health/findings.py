"""The vocabulary of ``tokmagic doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tokmagic.formatting.tables import Table


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``vital`` ones must be well for generation to work."""

    name: str
    ok: bool
    message: str
    fix: str = ""
    vital: bool = False


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings."""

    findings: tuple[Finding, ...]

    @property
    def can_generate(self) -> bool:
        """Whether every vital finding is well."""
        return all(finding.ok for finding in self.findings if finding.vital)

    def table(self) -> Table:
        """The findings as a table."""
        rows = tuple((f.name, "ok" if f.ok else "FAILS" if f.vital else "no", f.message, f.fix) for f in self.findings)
        note = "generation works here" if self.can_generate else "generation cannot work here; fix what FAILS"
        return Table(("", "", "what was found", "fix"), rows, note, figures=False)

    def problems(self) -> Iterator[str]:
        """A line for each problem: what it is about, what was found, how to fix it."""
        for finding in self.findings:
            if not finding.ok:
                yield "; ".join(filter(None, (f"{finding.name}: {finding.message}", finding.fix)))
