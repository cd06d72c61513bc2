"""A benchmark's gates as JUnit XML: what CI servers show of tests."""

from collections.abc import Iterable
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from sinkctl.report.printable import visible
from sinkctl.result.compare import worse_by
from sinkctl.result.schema import Result


def junit(result: Result, thresholds: Iterable[tuple[str, bool, str]] = ()) -> str:
    """One test case a gate, a change with a limit or a threshold (text, holds, message); without gates one a case."""
    detail = result.bench
    assert detail is not None, "a result of bench"
    gates = [(visible(text), "threshold", None if holds else visible(message)) for text, holds, message in thresholds]
    for change in detail.changes:
        if change.limit is not None:
            said = visible(worse_by(change)) if change.failed else None
            gates.append((visible(change.name), "regression", said))
    if not gates:
        cases = dict.fromkeys(row.case for row in detail.rows)
        gates = [(f"{visible(case)}: measured", "", None) for case in cases]
    absent = [(visible(f"{each.case} {each.label}: measured"), visible(each.why)) for each in detail.refused]
    failures = sum(message is not None for _, _, message in gates)
    counts = {"tests": str(len(gates) + len(absent)), "failures": str(failures), "errors": "0"}
    counts["skipped"] = str(len(absent))
    root = Element("testsuites", name="sinkctl bench", **counts)
    suite = f"sinkctl.{visible(detail.suite)}"
    parent = SubElement(root, "testsuite", name=suite, **counts, time=f"{result.seconds:.3f}")
    for name, kind, message in gates:
        case = SubElement(parent, "testcase", classname=suite, name=name)
        if message is not None:
            SubElement(case, "failure", message=message, type=kind)
    for name, why in absent:
        SubElement(SubElement(parent, "testcase", classname=suite, name=name), "skipped", message=why)
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"
