"""Tables with primary keys: requests of random upserts and deletes for them, and the rows that must be there after
each.

The model is a dictionary, key to row. Requests and rows are the same in every run.
"""

import dataclasses
import datetime
import random

import pyarrow as pa

import tables

ENCODINGS = ("arrow", "ndjson", "json", "csv", "parquet")
REQUEST_ROWS_MAX = 120
_SHARE_OF_DELETES = 0.3
# So many keys get half of all changes.
_HOT_KEYS = 24
_VALUE_ROWS = 2_000

# Rounds in which something else happens than random changes.
ONLY_DELETES, ALL_DELETED, NOTHING_CHANGES, CANCELS_OUT = 7, 13, 14, 20

_SINGLE = pa.schema([pa.field("id", pa.int64(), nullable=False)])
_COMPOSITE = pa.schema([pa.field("day", pa.date32(), nullable=False), pa.field("name", pa.string(), nullable=False)])
_HARD_NAMES = ["", " ", "null", "a\0b", "\"'\\\n", "漢字 🛰", "\U0010ffff" * 30, "x" * 600, "x" * 599 + "y"]


@dataclasses.dataclass(frozen=True)
class KeyedTable:
    name: str
    key: pa.Schema
    properties: dict
    seed: int

    @property
    def key_names(self):
        return tuple(self.key.names)

    @property
    def schema(self):
        """The last column of the key comes last, so that a key is not always where a table begins."""
        fields = [pa.field("written", pa.int64(), nullable=False), *tables.VALUE_FIELDS]
        first, last = list(self.key)[:-1], self.key[-1]
        return pa.schema([*first, *fields, last] if first else [last, *fields])

    def ddl(self, database):
        return tables.ddl(database, self)


def keyed_tables(of):
    """For the warehouse `of`. Every pair of format, key and number of buckets is in one of the two warehouses."""
    odd = of != "local"
    found = []
    kinds = [(3, _SINGLE), (3, _COMPOSITE), (2, _COMPOSITE), (2, _SINGLE)]
    for place, (version, key) in enumerate(kinds):
        label = "composite" if key is _COMPOSITE else "single"
        buckets = 3 if (place % 2 == 1) != odd else 1
        properties = {"format_version": version, "buckets": buckets}
        if key is _COMPOSITE:
            # Rows leave the hot tier soon after they are tiered: old rows are then looked up in the lake.
            properties["hot_retention"] = "0s"
        if version == 2:
            properties["changelog"] = "upsert" if key is _SINGLE else "full"
        found.append(KeyedTable(f"v{version}_{label}_{buckets}", key, properties, seed=10 * place + odd))
    return found


@dataclasses.dataclass(frozen=True)
class Request:
    """Rows with a column `__change`, or `change` for all of them."""

    rows: pa.Table
    encoding: str
    change: str | None


class Model:
    """`state` is what the table must hold once the requests that were given out are answered."""

    def __init__(self, table):
        self.table = table
        self.state = {}
        self._random = random.Random(table.seed)
        self._keys = _composite_keys(self._random) if len(table.key) > 1 else _single_keys(self._random)
        self._values = tables.every_type(_VALUE_ROWS, table.seed).drop_columns(["id"]).to_pylist()
        self._written = 0
        self._requests = 0

    @property
    def all_keys(self):
        return self._keys

    def key_of(self, row):
        return tuple(row[name] for name in self.table.key_names)

    def round(self, number):
        """The requests between one round and the next."""
        if number == ONLY_DELETES:
            gone = self._random.sample(sorted(self.state), len(self.state) // 3)
            return [self._request([(key, None) for key in gone])]
        if number == ALL_DELETED:
            return [self._request([(key, None) for key in list(self.state)])]
        if number == NOTHING_CHANGES:
            return [self._request([(key, None) for key in self._keys if key not in self.state])]
        if number == CANCELS_OUT:
            new = [key for key in self._keys if key not in self.state][:50]
            return [self._request([(key, self._row(key)) for key in new]), self._request([(key, None) for key in new])]
        return [self.request() for _ in range(self._random.choice((1, 1, 2, 3)))]

    def request(self):
        """Random changes of random keys, some more than once; sometimes only upserts, or only deletes."""
        kind = self._random.random()
        share = 0 if kind < 0.2 else 1 if kind > 0.9 else _SHARE_OF_DELETES
        changes = []
        for _ in range(self._random.randint(1, REQUEST_ROWS_MAX)):
            key = self._random.choice(self._keys[:_HOT_KEYS] if self._random.random() < 0.5 else self._keys)
            if self._random.random() < share:
                changes.append((key, None))
            elif key in self.state and self._random.random() < 0.05:
                changes.append((key, self.state[key]))  # as it is
            else:
                changes.append((key, self._row(key)))
        return self._request(changes)

    def rows(self, state=None):
        """The model as an Arrow table."""
        rows = (self.state if state is None else state).values()
        return pa.Table.from_pylist(list(rows), schema=self.table.schema)

    def _row(self, key):
        self._written += 1
        values = self._values[self._written % len(self._values)]
        return dict(zip(self.table.key_names, key)) | {"written": self._written} | values

    def _request(self, changes):
        """Applies the changes in their order and makes a request of them."""
        schema = pa.schema([field.with_nullable(True) for field in self.table.schema])
        rows = []
        for key, row in changes:
            if row is None:
                self.state.pop(key, None)
                # What else a delete says of the row counts for nothing, so it may be anything.
                rest = self._row(key) if self._random.random() < 0.3 else {}
                rows.append(dict(zip(self.table.key_names, key)) | rest | {"__change": "delete"})
            else:
                self.state[key] = row
                rows.append(row | {"__change": "upsert"})
        wanted = {row["__change"] for row in rows}
        change = None
        if wanted == {"upsert"}:
            pass  # which is what happens when nothing is said
        elif wanted == {"delete"} and self._random.random() < 0.5:
            change, schema = "delete", self.table.key
        else:
            schema = schema.append(pa.field("__change", pa.string()))
        encoding = ENCODINGS[self._requests % len(ENCODINGS)]
        self._requests += 1
        return Request(pa.Table.from_pylist(rows, schema=schema), encoding, change)


def _single_keys(source):
    keys = [0, -1, 2**63 - 1, -(2**63)] + [source.randint(-10**12, 10**12) for _ in range(300)] + list(range(1, 100))
    return [(key,) for key in keys]


def _composite_keys(source):
    names = _HARD_NAMES + [f"name {number}" for number in range(20)]
    days = [datetime.date(1970, 1, 1), datetime.date(1969, 12, 31), datetime.date.min, datetime.date.max]
    days += [datetime.date(2024, 2, day) for day in range(20, 30)]
    keys = [(day, name) for day in days for name in names]
    source.shuffle(keys)
    return keys
