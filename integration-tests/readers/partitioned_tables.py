"""Tables with partitions: what they are parted by, the rows that they must hold, and which partition each row is in.

The model of a table is a dictionary of rows, by the key or by `id`. Which partition a row is in is worked out by
PyIceberg's own transforms. Rows are the same in every run. Some values come in later rounds only, and new partitions with
them.
"""

import dataclasses
import datetime
import decimal
import random

import pyarrow as pa
from pyiceberg.transforms import parse_transform
from pyiceberg.utils.datetime import date_to_days, datetime_to_micros

import tables
from keyed_tables import ENCODINGS

_UTC = datetime.timezone.utc
_INSTANTS = [
    datetime.datetime(1970, 1, 1), datetime.datetime(1969, 12, 31, 23, 59, 59, 999_999),
    datetime.datetime(2024, 2, 29, 10), datetime.datetime(2024, 2, 29, 23, 59, 59, 999_999), datetime.datetime(1, 1, 1),
]
_LATE_INSTANTS = [datetime.datetime(2024, 3, 1), datetime.datetime(1969, 12, 31), datetime.datetime(9999, 12, 31, 23, 30)]
# Name: Arrow type, values, and values that come later. Nulls are among the first of every column that may have them.
_COLUMNS = {
    "written": (pa.int64(), None, None),
    "region": (pa.string(), ["eu", "", "a/b", "x=y 50%", "naïve 漢字", "null", "Zoë"],
               ["..", "%2F", " ", "it's \"🛰\"", "EU", "a/c"]),
    "flag": (pa.bool_(), [True, False], []),
    "number": (pa.int32(), [0, -1, -10, -11, 9, 2**31 - 1], [10, -(2**31) + 8, 11]),
    "amount": (pa.decimal128(9, 2), [decimal.Decimal(text) for text in ("0.00", "-0.01", "49.99", "-50.00", "50.00")],
               [decimal.Decimal(text) for text in ("-50.01", "9999999.99", "-9999950.00")]),
    "counter": (pa.uint32(), [0, 2**32 - 1, 2**31], [2**31 - 1, 7]),
    "birthday": (pa.date32(), [datetime.date(1970, 1, 1), datetime.date(1969, 12, 31), datetime.date(2024, 2, 29),
                               datetime.date.min], [datetime.date(1968, 2, 29), datetime.date.max]),
    "at": (pa.timestamp("us"), _INSTANTS, _LATE_INSTANTS),
    "stamp": (pa.timestamp("us", "UTC"), [value.replace(tzinfo=_UTC) for value in _INSTANTS],
              [value.replace(tzinfo=_UTC) for value in _LATE_INSTANTS]),
    "id": (pa.int64(), None, None),
}
_REQUIRED = ("written", "id")
_MADE_NAMES = {"truncate": "trunc"}
# Nobody's SQL casts to an unsigned type; Spark calls others otherwise.
_SQL_NAMES = {pa.uint32(): "BIGINT"}
_SPARK_NAMES = {pa.string(): "STRING", pa.timestamp("us"): "TIMESTAMP_NTZ", pa.timestamp("us", "UTC"): "TIMESTAMP"}


@dataclasses.dataclass
class PartitionField:
    """`transform` as Iceberg spells it. `name` is what the lake calls it, whatever the column is called later."""

    transform: str
    column: str

    def __post_init__(self):
        kind = self.transform.partition("[")[0]
        self.name = self.column if kind == "identity" else f"{self.column}_{_MADE_NAMES.get(kind, kind)}"

    @property
    def text(self):
        """As the table is made with."""
        kind, _, width = self.transform.removesuffix("]").partition("[")
        return self.column if kind == "identity" else f"{kind}({f'{width}, ' if width else ''}{self.column})"


def partitioned_tables(of):
    """For the warehouse `of`: every transform, each kind of table in both formats, one bucket and more of them."""
    kinds = {
        "local": [
            ("parts_text", "identity region, identity flag", (), {"format_version": 2}),
            ("parts_day", "day at, truncate[2] region", (), {"format_version": 3, "buckets": 2}),
            ("parts_numbers", "truncate[10] number, truncate[5000] amount, bucket[2] stamp", (), {"format_version": 2}),
            ("parts_values", "identity birthday, identity amount, identity counter", (), {"format_version": 3}),
            ("parts_keys_v3", "identity region", ("region", "id"), {"format_version": 3, "buckets": 2}),
            ("parts_keys_v2", "year birthday, bucket[3] region", ("birthday", "id", "region"),
             {"format_version": 2, "hot_retention": "0s"}),
        ],
        "s3": [
            ("parts_text", "identity region, month birthday", (), {"format_version": 2, "buckets": 2, "bucket_key": "id"}),
            ("parts_keys_v2", "truncate[1] region", ("id", "region"),
             {"format_version": 2, "buckets": 2, "changelog": "upsert"}),
            ("parts_keys_v3", "hour at, identity flag", ("at", "flag", "id"), {"format_version": 3, "hot_retention": "0s"}),
        ],
    }
    found = []
    for place, (name, parts, key_names, properties) in enumerate(kinds[of]):
        fields = [PartitionField(*part.split()) for part in parts.split(",")]
        found.append(Model(name, fields, key_names, properties, is_clause=place % 2 == 0, seed=place))
    return found


class Model:
    """`rows` is what the table must hold once the requests that were given out are answered, `tiered` what its lake must
    hold."""

    def __init__(self, name, fields, key_names, properties, is_clause, seed):
        self.name, self.fields, self.key_names, self.properties = name, fields, key_names, properties
        self.rows, self.tiered = {}, {}
        self._is_clause = is_clause
        self._identity = key_names or ("id",)
        self._types = {column: data_type for column, (data_type, _, _) in _COLUMNS.items()}
        self._values = {column: list(values) if column in key_names else [*values, None]
                        for column, (_, values, _) in _COLUMNS.items() if values is not None}
        self._random = random.Random(seed)
        self._given = 0
        self._requests = 0

    @property
    def is_keyed(self):
        return bool(self.key_names)

    @property
    def schema(self):
        required = (*_REQUIRED, *self.key_names)
        return pa.schema([pa.field(name, data_type, nullable=name not in required)
                          for name, data_type in self._types.items()])

    @property
    def key_schema(self):
        return pa.schema([self.schema.field(name) for name in self.key_names])

    @property
    def columns(self):
        """Those that partitions are made of."""
        return list(dict.fromkeys(field.column for field in self.fields))

    @property
    def spec(self):
        """Name, column and transform of each partition field that the lake must have, its buckets last."""
        found = [(field.name, field.column, field.transform) for field in self.fields]
        buckets = self.properties.get("buckets", 1)
        if buckets > 1 and (self.is_keyed or "bucket_key" in self.properties):
            found.append(("id_bucket", "id", f"bucket[{buckets}]"))
        elif buckets > 1:
            found.append(("__bucket", "__bucket", "identity"))
        return found

    def ddl(self, database):
        text = ", ".join(field.text for field in self.fields)
        if self._is_clause:
            return f"{tables.ddl(database, self)} PARTITION BY ({text})"
        told = dataclasses.make_dataclass("Told", ["name", "schema", "key_names", "properties"])
        return tables.ddl(database, told(self.name, self.schema, self.key_names, self.properties | {"partition_by": text}))

    def table(self, rows):
        return pa.Table.from_pylist(list(rows.values()), schema=self.schema)

    def tier(self):
        self.tiered = {key: dict(row) for key, row in self.rows.items()}

    def let_late_values_come(self):
        for column, values in self._values.items():
            values += _COLUMNS[column][2]

    # The actions of an ALTER TABLE: each is applied, and answers its words.

    def add(self, name, data_type):
        self._types[name] = data_type
        self._values[name] = [1, 2, None]
        for row in self._all_rows():
            row[name] = None
        return f'ADD COLUMN "{name}" {tables.sql_type(data_type)}'

    def rename(self, name, to):
        self._types = {to if column == name else column: data_type for column, data_type in self._types.items()}
        self._values[to] = self._values.pop(name)
        self._identity, self.key_names = (
            tuple(to if column == name else column for column in names) for names in (self._identity, self.key_names))
        for row in self._all_rows():
            row[to] = row.pop(name)
        for field in self.fields:
            field.column = to if field.column == name else field.column
        return f'RENAME COLUMN "{name}" TO "{to}"'

    # Changes of rows.

    def append(self, count, like=None):
        """New rows; `like` are rows in whose partitions they are, in turn."""
        rows = []
        for number in range(count):
            self._given += 1
            row = {column: self._random.choice(values) for column, values in self._values.items()}
            row |= {"id": self._given, "written": self._given}
            if like:
                row |= {column: like[number % len(like)][column] for column in self.columns if column != "id"}
            rows.append(row)
        return self._write(rows)

    def upsert(self, count):
        """Rows in place of some that are there."""
        rows = []
        for key in self._some(count):
            self._given += 1
            row = {column: self._random.choice(values) for column, values in self._values.items()}
            rows.append(row | dict(zip(self._identity, key)) | {"written": self._given})
        return self._write(rows)

    def delete(self, count):
        gone = self._some(count)
        for key in gone:
            del self.rows[key]
        keys = [dict(zip(self.key_names, key)) for key in gone]
        return pa.Table.from_pylist(keys, schema=self.key_schema), self._encoding(), "delete"

    def delete_statement(self, relation):
        """For all rows that have a value of a column that partitions are made of."""
        column = self.columns[0]
        value = self._random.choice(sorted(row[column] for row in self.rows.values()))
        self.rows = {key: row for key, row in self.rows.items() if row[column] != value}
        return f'DELETE FROM {relation} WHERE "{column}" = {literal(value, self._types[column])}'

    def update_statement(self, relation):
        """The same, but the rows stay."""
        column = self.columns[0]
        value = self._random.choice(sorted(row[column] for row in self.rows.values()))
        for row in self.rows.values():
            if row[column] == value:
                row |= {"number": 77, "counter": None}
        return f'UPDATE {relation} SET number = 77, counter = NULL WHERE "{column}" = {literal(value, self._types[column])}'

    def _write(self, rows):
        self.rows |= {tuple(row[column] for column in self._identity): row for row in rows}
        return pa.Table.from_pylist(rows, schema=self.schema), self._encoding(), None

    def _some(self, count):
        return self._random.sample(list(self.rows), min(count, len(self.rows)))

    def _encoding(self):
        self._requests += 1
        return ENCODINGS[self._requests % len(ENCODINGS)]

    def _all_rows(self):
        return [*self.rows.values(), *self.tiered.values()]


def partition_of(values, parts):
    """Of the values of a row, one for each of the `parts`: type and transform. By Iceberg's specification, as PyIceberg has
    it."""
    return tuple(parse_transform(transform).transform(of_type)(as_counted(value))
                 for value, (of_type, transform) in zip(values, parts))


def as_counted(value):
    """Dates and times as what Iceberg counts."""
    if isinstance(value, datetime.datetime):
        return datetime_to_micros(value)
    return date_to_days(value) if isinstance(value, datetime.date) else value


def literal(value, data_type):
    return _cast(_text(value).replace("'", "''"), _SQL_NAMES.get(data_type) or tables.sql_type(data_type))


def spark_literal(value, data_type):
    """Spark's text has other quotes, and its types other names."""
    escaped = _text(value).replace("\\", "\\\\").replace("'", "\\'")
    return _cast(escaped, (_SPARK_NAMES | _SQL_NAMES).get(data_type) or tables.sql_type(data_type))


def _cast(text, name):
    return f"CAST('{text}' AS {name})"


def _text(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime.date):
        return value.isoformat(*[" "] if isinstance(value, datetime.datetime) else [])
    return str(value)
