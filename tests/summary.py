#!/usr/bin/python3
"""Adds up the JUnit files of a directory: failures and skips by name, then the one line of counts."""
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def main():
    passed, failed, skipped = 0, [], {}
    files = sorted(Path(sys.argv[1]).glob("*.xml"))
    for file in files:
        for case in ElementTree.parse(file).getroot().iter("testcase"):
            name = f"{case.get('classname', '')}.{case.get('name')}"
            bad = case.find("failure")
            bad = case.find("error") if bad is None else bad
            skip = case.find("skipped")
            if bad is not None:
                failed.append((name, bad.get("message") or (bad.text or "").strip()[-300:]))
            elif skip is not None:
                reason = skip.get("message") or (skip.text or "").strip() or "no reason given"
                skipped.setdefault(reason, []).append(name)
            else:
                passed += 1
    for name, message in failed:
        print(f"FAILED {name}: {message}")
    for reason, names in skipped.items():
        print(f"SKIPPED {len(names)} ({names[0]}{', ...' if len(names) > 1 else ''}): {reason}")
    print(f"{passed} passed, {len(failed)} failed, {sum(map(len, skipped.values()))} skipped")
    return 1 if failed or not files or not passed else 0


sys.exit(main())
