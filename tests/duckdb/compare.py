#!/usr/bin/env python3
"""Compares what Kiln makes of random plans with what DuckDB makes of them.

`compare.py DIR` reads the folders `DIR/seed-N` that the test `export_for_duckdb` writes: tables as
Parquet files, `query.sql`, and Kiln's rows in `kiln.parquet`. Rows are compared as multisets,
floats within a billionth, everything else exactly. It ends with 1 if any seed differs.
"""

import math
import os
import sys
from collections import Counter
from pathlib import Path

import duckdb

# Rows shown of a difference.
SHOWN = 5

# What DuckDB says where it computes what no row of the result needs.
NEEDLESS = (
    "Out of Range Error",
    "Conversion Error",
    "Invalid Input Error: Division by zero",
)


def is_float(value):
    return isinstance(value, float)


def place(row):
    """Puts rows in an order in which floats that differ by little change nothing."""
    exact = [("~" if is_float(value) else repr(value)) for value in row]
    loose = [f"{value + 0.0:.6e}" for value in row if is_float(value)]
    return exact, loose


def same_value(one, other):
    if not (is_float(one) and is_float(other)):
        return one == other
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    if one == other:
        return True
    return abs(one - other) <= 1e-9 * max(abs(one), abs(other), 1.0)


def same_row(one, other):
    return len(one) == len(other) and all(map(same_value, one, other))


def normal(row):
    # A decimal is the same number whatever its scale.
    return tuple(
        value.normalize() + 0 if type(value).__name__ == "Decimal" else value for value in row
    )


def rows(connection, query):
    return sorted(map(normal, connection.execute(query).fetchall()), key=place)


def difference(folder):
    """What differs, nothing, or none if there is nothing to compare."""
    os.chdir(folder)
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    kiln = rows(connection, "SELECT * FROM 'kiln.parquet'")
    try:
        duck = rows(connection, Path("query.sql").read_text())
    except duckdb.Error as error:
        if str(error).startswith(NEEDLESS):
            return None
        return f"DuckDB refuses the query: {error}"
    if len(kiln) == len(duck) and all(map(same_row, kiln, duck)):
        return ""
    left, right = Counter(map(repr, kiln)), Counter(map(repr, duck))
    lines = [f"rows kiln={len(kiln)} duckdb={len(duck)}"]
    for name, only in (("kiln", left - right), ("duckdb", right - left)):
        lines += [f"  only {name}: {row}" for row in list(only.elements())[:SHOWN]]
    return "\n".join(lines)


def main():
    folders = Path(sys.argv[1]).resolve().glob("seed-*")
    folders = sorted(folders, key=lambda folder: int(folder.name.removeprefix("seed-")))
    compared, skipped, wrong = 0, 0, []
    for folder in folders:
        found = difference(folder) if (folder / "query.sql").exists() else None
        if found is None:
            skipped += 1
            continue
        compared += 1
        if found:
            wrong.append(folder.name)
            print(f"==== {folder.name}\n{(folder / 'plan.txt').read_text()}\n{found}\n")
    print(f"compared with DuckDB {duckdb.__version__}: {compared} plans, {skipped} left out")
    if wrong or compared == 0:
        sys.exit(f"different: {', '.join(wrong) or 'nothing was compared'}")


main()
