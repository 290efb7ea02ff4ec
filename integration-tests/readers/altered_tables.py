"""Tables whose columns change: which they have after each ALTER TABLE, and the rows that they must hold in them.

The model of a table is its columns and its rows, each a dictionary by the names that the columns have now. What an ALTER
TABLE says is applied to it action by action: a column that comes is null in the rows that are there, one that goes takes
its values along. Field ids are no part of it, so that it cannot be wrong where the lake is. Rows are the same in every
run.
"""

import dataclasses
import decimal
import random

import pyarrow as pa

import tables
from keyed_tables import ENCODINGS

FIRST = object()
_VALUE_ROWS = 150
_COLUMNS = {
    "id": pa.int64(), "written": pa.int32(), "a_tinyint": pa.int8(), "a_smallint": pa.int16(), "an_integer": pa.int32(),
    "a_utinyint": pa.uint8(), "a_uinteger": pa.uint32(), "a_real": pa.float32(), "a_double": pa.float64(),
    "a_decimal": pa.decimal128(9, 2), "a_wide_decimal": pa.decimal128(18, 4), "a_text": pa.string(),
    "other_text": pa.string(), "some_bytes": pa.binary(), "a_date": pa.date32(), "an_instant": pa.timestamp("us", "UTC"),
    "one": pa.int64(), "two": pa.int64(),
}
_REQUIRED = ("id", "written")


@dataclasses.dataclass
class Column:
    name: str
    type: pa.DataType
    nullable: bool = True
    default: object = None
    first_type: pa.DataType = None

    def __post_init__(self):
        self.first_type = self.type

    @property
    def field(self):
        return pa.field(self.name, self.type, nullable=self.nullable)


@dataclasses.dataclass(frozen=True)
class Request:
    rows: pa.Table
    encoding: str
    change: str | None = None


def altered_tables(of):
    """For the warehouse `of`. In each of the two, another table of each kind has buckets."""
    odd = of != "local"
    found = []
    for version in (2, 3):
        buckets = 2 if (version == 3) != odd else 1
        shared = {"format_version": version, "buckets": buckets}
        of_log = shared | ({"bucket_key": "id"} if buckets > 1 else {})
        # Old rows of one of the tables with keys are looked up in the lake.
        of_keys = shared | ({"changelog": "upsert", "hot_retention": "0s"} if version == 2 else {})
        found += [Model(f"altered_log_v{version}", (), of_log, seed=10 * version + odd),
                  Model(f"altered_keys_v{version}", ("id",), of_keys, seed=10 * version + 5 + odd)]
    return found


class Model:
    """`rows` is what the table must hold once the requests that were given out are answered, `tiered` what its lake
    must hold: by the value of the column that was called `id`."""

    def __init__(self, name, key_names, properties, seed):
        self.name, self.key_names, self.properties = name, key_names, properties
        self.columns = [Column(column, of_type, column not in _REQUIRED) for column, of_type in _COLUMNS.items()]
        self.id_name = "id"
        self.rows, self.tiered = {}, {}
        self._random = random.Random(seed)
        self._seed = seed
        self._given = 0
        self._requests = 0

    @property
    def is_keyed(self):
        return bool(self.key_names)

    @property
    def schema(self):
        return pa.schema([column.field for column in self.columns])

    def ddl(self, database):
        return tables.ddl(database, self)

    def table(self, rows):
        return pa.Table.from_pylist(list(rows.values()), schema=self.schema)

    def tier(self):
        self.tiered = {number: dict(row) for number, row in self.rows.items()}

    # The actions of an ALTER TABLE: each is applied, and answers its words.

    def add(self, name, data_type, default=None, place=None, if_not_exists=False):
        unless = "IF NOT EXISTS " if if_not_exists else ""
        if any(column.name == name for column in self.columns):
            return f'ADD COLUMN {unless}"{name}" {tables.sql_type(data_type)}'
        self.columns.append(Column(name, data_type, default=default))
        for row in self._all_rows():
            row[name] = None
        words = f'ADD COLUMN {unless}"{name}" {tables.sql_type(data_type)}'
        words += f" DEFAULT {_literal(default)}" if default is not None else ""
        return words + (f" {self._put(name, place)}" if place else "")

    def drop(self, name):
        self.columns.remove(self.column(name))
        for row in self._all_rows():
            del row[name]
        return f'DROP COLUMN "{name}"'

    def rename(self, name, to):
        self.column(name).name = to
        for row in self._all_rows():
            row[to] = row.pop(name)
        if name == self.id_name:
            self.id_name = to
            self.key_names = (to,) if self.is_keyed else ()
        return f'RENAME COLUMN "{name}" TO "{to}"'

    def widen(self, name, data_type):
        self.column(name).type = data_type
        return f'ALTER COLUMN "{name}" TYPE {tables.sql_type(data_type)}'

    def drop_not_null(self, name):
        self.column(name).nullable = True
        return f'ALTER COLUMN "{name}" DROP NOT NULL'

    def set_default(self, name, default):
        self.column(name).default = default
        return f'ALTER COLUMN "{name}" SET DEFAULT {_literal(default)}'

    def drop_default(self, name):
        self.column(name).default = None
        return f'ALTER COLUMN "{name}" DROP DEFAULT'

    def move(self, name, place):
        return f'ALTER COLUMN "{name}" {self._put(name, place)}'

    # Changes of rows.

    def append(self, count, without=(), schema=None):
        """New rows that say nothing of some columns; with `schema` only of its columns, and in its types."""
        return self._write([self._next_id() for _ in range(count)], without, schema)

    def upsert(self, count, without=()):
        """Rows in place of some that are there."""
        return self._write(self._some(count), without)

    def delete(self, count):
        gone = self._some(count)
        rows = pa.table([[self.rows.pop(number)[self.id_name] for number in gone]],
                        schema=pa.schema([self.column(self.id_name).field]))
        return Request(rows, self._encoding(), "delete")

    def update(self, relation, count, **values):
        """An UPDATE statement for some of the rows that are there: these columns of theirs, and no other."""
        numbers = self._some(count)
        for number in numbers:
            self.rows[number] |= values
        sets = ", ".join(f'"{name}" = {_literal(value)}' for name, value in values.items())
        return f'UPDATE {relation} SET {sets} WHERE {self._are(numbers)}'

    def delete_statement(self, relation, count):
        numbers = self._some(count)
        for number in numbers:
            del self.rows[number]
        return f"DELETE FROM {relation} WHERE {self._are(numbers)}"

    def _write(self, numbers, without=(), schema=None):
        schema = schema or pa.schema([field for field in self.schema if field.name not in without])
        values = self._values(schema, len(numbers))
        for number, row in zip(numbers, values):
            row[self.id_name] = number
            self.rows[number] = {column.name: row.get(column.name, column.default) for column in self.columns}
        return Request(pa.Table.from_pylist(values, schema=schema), self._encoding())

    def _values(self, schema, count):
        """Rows of hard and ordinary values, other ones each time."""
        types = {field.name: (field.type, *tables.values_of(field.type)) for field in schema}
        types.pop(self.id_name)
        self._seed += 1_000
        pool = tables.every_type(_VALUE_ROWS, self._seed, types).drop_columns(["id"]).to_pylist()
        start = self._random.randrange(_VALUE_ROWS)
        rows = [dict(pool[(start + index) % _VALUE_ROWS]) for index in range(count)]
        for row in rows:
            for field in schema:
                if not field.nullable and row.get(field.name) is None:
                    row[field.name] = self._given
        return rows

    def _next_id(self):
        self._given += 1
        return self._given * 10**12 if self._given % 3 == 0 else -self._given

    def _some(self, count):
        return self._random.sample(sorted(self.rows), count)

    def _are(self, numbers):
        return f'"{self.id_name}" IN ({", ".join(map(str, numbers))})'

    def _encoding(self):
        self._requests += 1
        return ENCODINGS[self._requests % len(ENCODINGS)]

    def column(self, name):
        return next(column for column in self.columns if column.name == name)

    def _put(self, name, place):
        column = self.column(name)
        self.columns.remove(column)
        self.columns.insert(0 if place is FIRST else self.columns.index(self.column(place)) + 1, column)
        return "FIRST" if place is FIRST else f'AFTER "{place}"'

    def _all_rows(self):
        return [*self.rows.values(), *self.tiered.values()]


def _literal(value):
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return format(value, "f") if isinstance(value, decimal.Decimal) else repr(value)
