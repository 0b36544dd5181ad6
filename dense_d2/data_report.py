"""What the data check found: findings with a severity, a name, a count, first examples and what will happen."""

import json
from typing import List, NamedTuple, Tuple

from tabulate import tabulate

from .coco_file import printable

__all__ = ["DataReport", "Finding"]

MAX_CLASS_ROWS = 30
SEVERITIES = ("error", "warning", "info")


class Finding(NamedTuple):
    """One kind of thing found: `examples` are the first few, `count` is all."""

    severity: str
    name: str
    count: int
    examples: Tuple[str, ...]
    consequence: str


class DataReport:
    """What was counted and what was found.

    Attributes:
        counts: name -> number.
        classes: list of (name, category id, boxes, images with it), ordered by class index.
        findings: list of Finding: errors first.
    """

    def __init__(self, images, annotations, counts, classes, findings):
        self.images, self.annotations, self.counts, self.classes = str(images), str(annotations), counts, classes
        self.findings: List[Finding] = sorted(findings, key=lambda f: SEVERITIES.index(f.severity))

    @property
    def errors(self):
        return [f for f in self.findings if f.severity == "error"]

    @property
    def warnings(self):
        return [f for f in self.findings if f.severity == "warning"]

    @property
    def table(self) -> str:
        counts = "   ".join(f"{name} {number}" for name, number in self.counts.items())
        lines = [printable(f"{self.annotations} (images in {self.images})"), counts, ""]
        rows = sorted(self.classes, key=lambda row: -row[2])[:MAX_CLASS_ROWS]
        lines += [tabulate(rows, headers=("class", "id", "boxes", "images")), ""]
        if len(self.classes) > MAX_CLASS_ROWS:
            lines.insert(-1, f"and {len(self.classes) - MAX_CLASS_ROWS} classes with fewer boxes")
        for f in self.findings:
            lines.append(f"{f.severity:<8}{f.name}: {f.count} ({f.consequence})")
            lines += [f"          {example}" for example in f.examples]
            if f.count > len(f.examples) > 0:
                lines.append(f"          and {f.count - len(f.examples)} more")
        lines.append(f"kinds of errors: {len(self.errors)}, of warnings: {len(self.warnings)}")
        return "\n".join(lines)

    def to_json(self) -> str:
        content = {"images": self.images, "annotations": self.annotations, "counts": self.counts}
        content["classes"] = [dict(zip(("name", "id", "boxes", "images"), row)) for row in self.classes]
        content["findings"] = [f._asdict() for f in self.findings]
        return json.dumps(content, indent=2)
