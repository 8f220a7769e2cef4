"""One number with its interval, how it is kept in JSON and how it is written out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite, isnan


@dataclass(frozen=True)
class Estimate:
    """One number with its 95 % interval; low and high are nan where no interval can be given.

    It prints as "+8.72 pp [+6.26, +11.29], n = 100"; in an f-string "ci" leaves out n, "short" also
    the unit, and a number format such as ".4g" may follow: f"{effect:short .4g}".
    """

    value: float
    low: float
    high: float
    n: int
    unit: str = ""
    method: str = ""

    def as_dict(self) -> dict:
        """Return the fields for a JSON file, with None in place of nan and infinity."""
        fields = asdict(self)
        for name in ("value", "low", "high"):
            if not isfinite(fields[name]):
                fields[name] = None
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping) -> Estimate:
        """Read back what `as_dict` wrote."""
        ends = (fields[name] for name in ("value", "low", "high"))
        value, low, high = (float("nan") if end is None else float(end) for end in ends)
        unit, method = fields.get("unit", ""), fields.get("method", "")
        return cls(value, low, high, int(fields["n"]), unit, method)

    def __str__(self) -> str:
        return format(self)

    def __format__(self, spec: str) -> str:
        words = spec.split()
        form = words.pop(0) if words and words[0] in ("ci", "short") else ""
        # An effect in pp has a direction, so its sign is always printed.
        number = " ".join(words) or ("+.2f" if self.unit == "pp" else ".3f")
        counted = "" if form else f", n = {self.n}"
        if isnan(self.value):
            return f"not defined{counted}"
        unit = f" {self.unit}" if self.unit and form != "short" else ""
        ends = f"[{self.low:{number}}, {self.high:{number}}]"
        interval = "no interval" if isnan(self.low) or isnan(self.high) else ends
        return f"{self.value:{number}}{unit} {interval}{counted}"
