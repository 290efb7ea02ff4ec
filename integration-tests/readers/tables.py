"""The log tables that the readers' check fills: their columns, their properties, and their rows in three parts.

The first two parts become a tiering round each, the third stays hot. Rows are the same in every run.
"""

import dataclasses
import datetime
import decimal
import pathlib
import random
import struct

import pyarrow as pa
import pyarrow.parquet

DATA = pathlib.Path(__file__).resolve().parents[2] / "server" / "data"
FLIGHTS = DATA / "flights.parquet"
QUESTIONS = DATA / "questions.sql"
SYSTEM_COLUMNS = [
    pa.field("__bucket", pa.int32(), nullable=False),
    pa.field("__offset", pa.int64(), nullable=False),
    pa.field("__timestamp", pa.timestamp("us", "UTC"), nullable=False),
]


@dataclasses.dataclass(frozen=True)
class Part:
    """`encodings` are used in turn, one for each request."""

    rows: pa.Table
    encodings: tuple
    rows_per_request: int


@dataclasses.dataclass(frozen=True)
class TableUnderTest:
    """`unread_by` are the readers that are known not to read a type of the table."""

    name: str
    properties: dict
    parts: tuple
    unread_by: tuple = ()
    key_names = ()

    @property
    def schema(self):
        return self.parts[0].rows.schema

    @property
    def rows(self):
        return pa.concat_tables(part.rows for part in self.parts)


def tables_under_test():
    flights = pyarrow.parquet.read_table(FLIGHTS)
    types = every_type(3_000, seed=20261123)
    all_five = ("arrow", "ndjson", "json", "csv", "parquet")
    return [
        TableUnderTest("flights", {}, (
            Part(flights.slice(0, 180_000), ("arrow",), 30_000),
            Part(flights.slice(180_000, 120_000), ("arrow",), 30_000),
            Part(flights.slice(300_000), ("ndjson",), 10_000),
        )),
        TableUnderTest("every_type", {}, _thirds(types, all_five, 200)),
        TableUnderTest("every_type_v3", {"format_version": 3}, _thirds(types, ("arrow", "ndjson"), 500)),
        TableUnderTest("more_types", {}, _thirds(every_type(900, 20261129, _MORE_TYPES), all_five, 100)),
        TableUnderTest("clock_types", {}, _thirds(every_type(900, 20261130, _TIMES_OF_DAY), all_five, 100),
                       unread_by=("Spark",)),
        TableUnderTest("nanosecond_types", {"format_version": 3},
                       _thirds(every_type(900, 20261201, _NANOSECONDS), all_five, 100), unread_by=("DuckDB", "Spark")),
        TableUnderTest("four_buckets", {"buckets": 4}, _thirds(flights.slice(0, 30_000), ("arrow", "ndjson"), 1_000)),
        # A bucket key that is text and sometimes null, and one that is a number.
        TableUnderTest("keyed_by_text", {"buckets": 4, "bucket_key": "tailnum"},
                       _thirds(flights.slice(40_000, 30_000), ("arrow",), 5_000)),
        TableUnderTest("keyed_by_number", {"buckets": 4, "bucket_key": "flight"},
                       _thirds(flights.slice(80_000, 30_000), ("arrow",), 5_000)),
    ]


def _thirds(rows, encodings, rows_per_request):
    third = rows.num_rows // 3
    pieces = rows.slice(0, third), rows.slice(third, third), rows.slice(2 * third)
    return tuple(Part(piece, encodings, rows_per_request) for piece in pieces)


def ddl(database, table):
    """The CREATE TABLE statement. The check calls for every round itself, so freshness must not bring one between."""
    lines = [f'"{field.name}" {sql_type(field.type)}{"" if field.nullable else " NOT NULL"}' for field in table.schema]
    if table.key_names:
        lines.append(f"PRIMARY KEY ({', '.join(table.key_names)})")
    columns = ",\n".join(f"    {line}" for line in lines)
    properties = {"lake_freshness": "1h"} | table.properties
    settings = ", ".join(f"{name} = '{value}'" for name, value in properties.items())
    return f"CREATE TABLE {database}.{table.name} (\n{columns}\n) WITH ({settings})"


def sql_type(data_type):
    if pa.types.is_decimal(data_type):
        return f"DECIMAL({data_type.precision}, {data_type.scale})"
    if pa.types.is_fixed_size_binary(data_type):
        return f"FIXED({data_type.byte_width})"
    return {
        pa.uint8(): "UTINYINT", pa.uint16(): "USMALLINT", pa.uint32(): "UINTEGER", pa.uuid(): "UUID",
        pa.time64("us"): "TIME", pa.timestamp("ns"): "TIMESTAMP(9)", pa.timestamp("ns", "UTC"): "TIMESTAMPTZ(9)",
        pa.bool_(): "BOOLEAN", pa.int8(): "TINYINT", pa.int16(): "SMALLINT", pa.int32(): "INTEGER",
        pa.int64(): "BIGINT", pa.float32(): "REAL", pa.float64(): "DOUBLE PRECISION", pa.date32(): "DATE",
        pa.timestamp("us"): "TIMESTAMP", pa.timestamp("us", "UTC"): "TIMESTAMPTZ", pa.string(): "VARCHAR",
        pa.binary(): "BYTEA",
    }[data_type]


def every_type(row_count, seed, types=None):
    """Rows with a column of each type: of those that every reader filters by, or of `types`. Every hard value of a type
    is there, in every third of the rows."""
    types = types or _TYPES
    source = random.Random(seed)
    columns = [pa.array(range(row_count), pa.int64())]
    for data_type, hard, ordinary in types.values():
        cells = []
        for index in range(row_count):
            # Hard values come round again and again, each time beside others, because the lists have unlike lengths.
            pick = index % (2 * len(hard) + 1)
            cells.append(hard[pick] if pick < len(hard) else None if pick == len(hard) else ordinary(source))
        columns.append(pa.array(cells, data_type))
    fields = [pa.field(name, data_type) for name, (data_type, _, _) in types.items()]
    return pa.table(columns, schema=pa.schema([pa.field("id", pa.int64(), nullable=False), *fields]))


def _integers(bits):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return [0, 1, -1, low, high], lambda source: source.randint(low, high)


def _decimals(precision, scale):
    largest = 10**precision - 1

    def value(unscaled):
        return decimal.Decimal(unscaled).scaleb(-scale, decimal.Context(prec=precision))

    hard = [value(unscaled) for unscaled in (0, 1, -1, largest, -largest, 10**scale)]
    return hard, lambda source: value(source.randint(-largest, largest))


def _float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def _instants(zone):
    hard = [
        datetime.datetime(1970, 1, 1), datetime.datetime(1969, 12, 31, 23, 59, 59, 999_999), datetime.datetime(1, 1, 1),
        datetime.datetime(9999, 12, 31, 23, 59, 59, 999_999), datetime.datetime(2024, 2, 29, 12, 30, 15, 1),
    ]
    epoch = datetime.datetime(1970, 1, 1, tzinfo=zone)
    return [value.replace(tzinfo=zone) for value in hard], \
        lambda source: epoch + datetime.timedelta(microseconds=source.randint(-10**15, 4 * 10**15))


def _text(source):
    return "".join(source.choice("abc ÄÖ,;\"'\\\n\t€漢🛰0") for _ in range(source.randint(0, 24)))


_HARD_FLOATS = [0.0, -0.0, 1.5, float("inf"), float("-inf"), float("nan")]
# Long values of the highest characters and bytes are hard for statistics: cut short, they have no next higher one.
_HARD_TEXT = ["", " ", "null", "NaN", "a\0b", "\"quoted\", 'twice'", "line\nbreak\r\n", "naïve 漢字 🛰", "x" * 5_000,
              "\U0010ffff" * 40]
_HARD_BYTES = [b"", b"\0", bytes(range(256)), b"\xff" * 300, b"text"]

# Name: Arrow type, hard values, ordinary values.
_TYPES = {
    "t_boolean": (pa.bool_(), [True, False], lambda source: source.random() < 0.5),
    "t_tinyint": (pa.int8(), *_integers(8)),
    "t_smallint": (pa.int16(), *_integers(16)),
    "t_integer": (pa.int32(), *_integers(32)),
    "t_bigint": (pa.int64(), *_integers(64)),
    "t_real": (pa.float32(), [*_HARD_FLOATS, _float32(3.4e38), _float32(1e-45), _float32(0.1)],
               lambda source: _float32(source.gauss(0, 1e6))),
    "t_double": (pa.float64(), [*_HARD_FLOATS, 1.7976931348623157e308, 5e-324, 0.1], lambda source: source.gauss(0, 1e12)),
    "t_decimal": (pa.decimal128(18, 4), *_decimals(18, 4)),
    "t_decimal_wide": (pa.decimal128(38, 10), *_decimals(38, 10)),
    "t_date": (pa.date32(), [datetime.date(1970, 1, 1), datetime.date(1969, 12, 31), datetime.date.min, datetime.date.max],
               lambda source: datetime.date(2000, 1, 1) + datetime.timedelta(days=source.randint(-20_000, 20_000))),
    "t_timestamp": (pa.timestamp("us"), *_instants(None)),
    "t_timestamptz": (pa.timestamp("us", "UTC"), *_instants(datetime.timezone.utc)),
    "t_varchar": (pa.string(), _HARD_TEXT, _text),
    "t_bytea": (pa.binary(), _HARD_BYTES, lambda source: source.randbytes(source.randint(0, 20))),
}


def _unsigned(bits):
    return [0, 1, 2**(bits - 1), 2**bits - 1], lambda source: source.randint(0, 2**bits - 1)


_MORE_TYPES = {
    "t_utinyint": (pa.uint8(), *_unsigned(8)),
    "t_usmallint": (pa.uint16(), *_unsigned(16)),
    "t_uinteger": (pa.uint32(), *_unsigned(32)),
    "t_fixed": (pa.binary(5), [b"\0" * 5, b"\xff" * 5, b"abcde"], lambda source: source.randbytes(5)),
    "t_uuid": (pa.uuid(), [b"\0" * 16, b"\xff" * 16, b"\x80" + b"\0" * 15], lambda source: source.randbytes(16)),
}
_TIMES_OF_DAY = {
    "t_time": (pa.time64("us"), [datetime.time(0), datetime.time(23, 59, 59, 999_999), datetime.time(12, 30)],
               lambda source: datetime.time(source.randrange(24), source.randrange(60), source.randrange(60),
                                            source.choice((0, source.randrange(10**6))))),
}
_HARD_NANOSECONDS = [0, 1, -1, -(2**63) + 1_000, 2**63 - 1, 1_700_000_000_000_000_001]
_NANOSECONDS = {
    name: (pa.timestamp("ns", zone), _HARD_NANOSECONDS, lambda source: source.randint(-10**18, 4 * 10**18))
    for name, zone in (("t_timestamp_ns", None), ("t_timestamptz_ns", "UTC"))
}


def values_of(data_type):
    """The hard values of a type, and what makes its ordinary ones."""
    if pa.types.is_decimal(data_type):
        return _decimals(data_type.precision, data_type.scale)
    known = [*_TYPES.values(), *_MORE_TYPES.values()]
    return next((hard, ordinary) for of_type, hard, ordinary in known if of_type == data_type)


def hard_values(name):
    """Of one of `VALUE_FIELDS`."""
    return _TYPES[name][1]


VALUE_FIELDS = [pa.field(name, data_type) for name, (data_type, _, _) in _TYPES.items()]
