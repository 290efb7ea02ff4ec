"""Lists, maps and structs, of which the lake's metadata and files say field ids at every level: what readers find in them.

A log table in format 2, and one with a key in format 3 whose rows are replaced and deleted. Rows go in as NDJSON, and as
pyarrow writes Arrow and Parquet. Then fields inside the columns come, go, and get other names and wider types, and rows
of both versions are in the lake. Compared are, each time,

- our SQL over both tiers with the rows that were sent;
- every row and column that each reader finds with `"t$lake"`, and how many rows it counts;
- the field ids of the metadata as PyIceberg has them: each once, and for ever that of its field.

Rows are compared as texts: `row_hash.py` knows no nested types. Readers give some values in their own ways, UUIDs as text or
as bytes and maps as lists of entries; these count as the same, and nothing else does. (PyIceberg makes null lists of structs
empty: see README.md.)
"""

import datetime
import decimal
import io
import json
import math
import random
import uuid

import pyarrow as pa
import pyarrow.parquet

from report import require

COLUMNS = {
    "tags": "VARCHAR[]",
    "s": "STRUCT(a SMALLINT, b VARCHAR NOT NULL, at TIMESTAMPTZ, u UUID)",
    "m": "MAP(VARCHAR, INTEGER)",
    "deep": "STRUCT(l REAL[], m MAP(INTEGER, STRUCT(x DOUBLE PRECISION, d DECIMAL(9, 2))[]))[]",
}
ALTERED = {
    "tags": "VARCHAR[]",
    "s": "STRUCT(more BIGINT[], a BIGINT, c VARCHAR NOT NULL, u UUID, b INTEGER)",
    "m": "MAP(VARCHAR, BIGINT)",
    "deep": "STRUCT(l DOUBLE PRECISION[], m MAP(INTEGER, STRUCT(x DOUBLE PRECISION, d DECIMAL(9, 2))[]))[]",
}
ALTER = """RENAME COLUMN s.b TO c, ADD COLUMN s.b INTEGER, DROP COLUMN s.at, ADD COLUMN s.more BIGINT[] FIRST,
    ALTER COLUMN s.a TYPE BIGINT, ALTER COLUMN m.value TYPE BIGINT, ALTER COLUMN deep.element.l.element TYPE DOUBLE PRECISION"""
ROWS = 240


def check_nested_tables(report, server, warehouse, readers, database):
    for name, key, version in (("nested", "", 2), ("nested_keyed", ", PRIMARY KEY (id)", 3)):
        with report.group(warehouse.name, name):
            _NestedCheck(report, server, warehouse, readers, database, name, key, version).run()


class _NestedCheck:
    def __init__(self, report, server, warehouse, readers, database, name, key, version):
        self._report, self._server, self._warehouse, self._readers = report, server, warehouse, readers
        self._database, self._name, self._is_keyed = database, name, bool(key)
        self._relation, self._lake = f"{database}.{name}", f'{database}."{name}$lake"'
        self._place = warehouse.table(database, name)
        self._source = random.Random(20261203 + version)
        self._rows = {}
        self._ids = {}
        columns = ", ".join(f"{column} {kind}" for column, kind in COLUMNS.items())
        server.execute(f"CREATE TABLE {self._relation} (id BIGINT NOT NULL, {columns}{key}) "
                       f"WITH (format_version = {version}, lake_freshness = '1h')")

    def run(self):
        for number, encoding in enumerate(("ndjson", "arrow", "parquet")):
            self._write(range(number * ROWS, (number + 1) * ROWS), encoding, _row)
            if number < 2:
                self._server.tier(self._database, self._name)
                self._check(f"round {number + 1}")
        if self._is_keyed:
            self._write(range(ROWS // 2, ROWS + ROWS // 2), "ndjson", _row)
            self._server.execute(f"DELETE FROM {self._relation} WHERE id % 7 = 3")
            self._rows = {key: row for key, row in self._rows.items() if key % 7 != 3}
        self._server.tier(self._database, self._name)
        self._check("more rounds")
        self._server.execute(f"ALTER TABLE {self._relation} {ALTER}")
        self._rows = {key: _altered(row) for key, row in self._rows.items()}
        self._check_own("altered")
        self._write(range(3 * ROWS, 4 * ROWS), "arrow", _altered_row)
        if self._is_keyed:
            self._write(range(10, 20), "ndjson", _altered_row)
        self._server.tier(self._database, self._name)
        self._check("altered and written")
        self._write(range(4 * ROWS, 4 * ROWS + 10), "ndjson", _altered_row)
        self._check_own("hot and in the lake")

    def _write(self, keys, encoding, make):
        rows = [{"id": key} | make(self._source) for key in keys]
        self._rows |= {row["id"]: row for row in rows}
        body = "".join(json.dumps(row) + "\n" for row in rows).encode()
        if encoding == "ndjson":
            return self._post(self._name, body, "application/x-ndjson")
        # By way of a table without a lake: what it answers as Arrow is what pyarrow writes.
        columns = ", ".join(f"{name} {kind}" for name, kind in (COLUMNS if make is _row else ALTERED).items())
        between = f"{self._name}_{encoding}_{rows[0]['id']}"
        self._server.execute(f"CREATE TABLE {self._database}.{between} (id BIGINT NOT NULL, {columns}) "
                             "WITH (lake_enabled = false, format_version = 3)")
        self._post(between, body, "application/x-ndjson")
        table = self._server.query(f"SELECT * FROM {self._database}.{between}")
        sink = io.BytesIO()
        if encoding == "arrow":
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            return self._post(self._name, sink.getvalue(), "application/vnd.apache.arrow.stream")
        pyarrow.parquet.write_table(table, sink)
        return self._post(self._name, sink.getvalue(), "application/vnd.apache.parquet")

    def _post(self, table, body, content_type):
        self._server.post_rows(self._database, table, body, content_type)

    def _check_own(self, when):
        with self._report.case(self._warehouse.name, self._name, f"{when}: our SELECT = the rows sent") as case:
            found = _spelled(self._server.query(f"SELECT * FROM {self._relation}"))
            _require_same(case, sorted(_spelled_row(row) for row in self._rows.values()), found, "sent", "selected")

    def _check(self, when):
        self._check_own(when)
        with self._report.case(self._warehouse.name, self._name, f"{when}: field ids") as case:
            case.note = f"{self._check_ids()} fields"
        columns = ["id", *COLUMNS]
        in_lake = _spelled(self._server.query(f"SELECT {', '.join(columns)} FROM {self._lake}"))
        for reader in self._readers:
            with self._report.case(self._warehouse.name, self._name, f"{when}: {reader.name} = $lake") as case:
                expected, found = in_lake, _spelled(reader.rows(self._place, columns))
                if reader.name == "PyIceberg":
                    require(found != expected, "PyIceberg tells null lists of structs from empty ones: README.md can say so")
                    expected, found = (sorted(map(_without_null_structs, rows)) for rows in (expected, found))
                _require_same(case, expected, found, "$lake", reader.name)
                count = reader.count(self._place)
                require(count == len(expected), f"{reader.name} counts {count} rows of {len(expected)}")

    def _check_ids(self):
        """No id is that of two fields, and none that was of another."""
        schema = self._place.metadata().schema()
        seen = set()
        for field_id, path in schema._lazy_id_to_name.items():
            require(field_id not in seen, f"field id {field_id} is there twice")
            seen.add(field_id)
            known = self._ids.setdefault(field_id, path)
            require(known == path or (known, path) in (("s.b", "s.c"),), f"field id {field_id} was {known} and is {path}")
        return len(seen)


def _row(source):
    def maybe(make, share=0.8):
        return make() if source.random() < share else None

    def some(make):
        return [make() for _ in range(source.choice((0, 1, 1, 2, 3)))]

    def text():
        return source.choice(("", "a", "null", "naïve 漢字 🛰", "\"q\", 'r'", "x" * 40))

    def real():
        return source.choice((0.0, -0.0, 1.5, "NaN", "Infinity", "-Infinity", -2.25))

    def pairs(key, value):
        return [[name, value()] for name in dict.fromkeys(some(key))]

    def instant():
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=source.randint(-10**15, 4 * 10**15))
        return moment.isoformat(timespec="microseconds") + "Z"

    def inner():
        return {"x": maybe(real), "d": maybe(lambda: f"{source.randint(-10**9 + 1, 10**9 - 1) / 100:.2f}")}

    return {
        "tags": maybe(lambda: some(lambda: maybe(text))),
        "s": maybe(lambda: {
            "a": maybe(lambda: source.randint(-2**15, 2**15 - 1)), "b": text(), "at": maybe(instant),
            "u": maybe(lambda: str(uuid.UUID(bytes=source.randbytes(16))))}),
        "m": maybe(lambda: pairs(text, lambda: maybe(lambda: source.randint(-2**31, 2**31 - 1)))),
        "deep": maybe(lambda: some(lambda: maybe(lambda: {
            "l": maybe(lambda: some(lambda: maybe(real))),
            "m": maybe(lambda: pairs(lambda: source.randint(-5, 5), lambda: maybe(lambda: some(lambda: maybe(inner)))))}))),
    }


def _altered(row):
    """A row as it is after `ALTER`."""
    s = row["s"]
    if s is not None:
        s = {"more": None, "a": s["a"], "c": s["b"], "u": s["u"], "b": None}
    return row | {"s": s}


def _altered_row(source):
    row = _altered(_row(source))
    if row["s"] is not None:
        row["s"] |= {"b": source.choice((None, 7)), "more": source.choice((None, [], [2**40, None]))}
    return row


def _spelled(table):
    return sorted(_spelled_row(row) for row in table.to_pylist())


def _spelled_row(row):
    return json.dumps({name: _value(row[name]) for name in sorted(row)}, sort_keys=True)


def _value(value):
    if isinstance(value, dict):
        return {name: _value(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        # An entry of a map is a pair here, and a struct there.
        return [_value(list(item.values()) if isinstance(item, dict) and list(item) == ["key", "value"] else item)
                for item in value]
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else repr(value) if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, bytes) and len(value) == 16:
        return str(uuid.UUID(bytes=value))
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    return value


def _without_null_structs(row):
    """With empty lists of structs where they are null: those are in `deep`, and in the maps in it."""
    row = json.loads(row)
    row["deep"] = row["deep"] or []
    for item in row["deep"]:
        for entry in item["m"] or [] if item else []:
            entry[1] = entry[1] or []
    return json.dumps(row, sort_keys=True)


def _require_same(case, left, right, left_name, right_name):
    case.note = f"{len(right):,} rows"
    if left == right:
        return
    lines = [f"{len(left):,} rows are {left_name}, {len(right):,} {right_name}"]
    for name, these, others in ((left_name, left, set(right)), (right_name, right, set(left))):
        lines += [f"only {name}: {row[:600]}" for row in [row for row in these if row not in others][:2]]
    require(False, "\n".join(lines))
