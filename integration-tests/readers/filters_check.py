"""What readers find by filters when most files have nothing to give: wrong bounds, counts of nulls or of NaNs lose
rows.

A table gets files in which every column has one or two of its type's hard values, so that each file has its own narrow
bounds. Then every reader is asked for each hard value by `=`, `<`, `>` and `<>`, for nulls and for NaNs. What is right
is what the same engine finds in the same rows in memory, without files that it could skip; for PyIceberg, which is no
engine, what Arrow finds.
"""

import datetime
import math
import operator

import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types
from pyiceberg.expressions import EqualTo, GreaterThan, IsNaN, IsNull, LessThan, NotEqualTo, NotNull

import tables
from report import require

# Fewer files in a bucket than the server would join.
BUCKETS, ROUNDS = 4, 6
_OPERATORS = {"=": operator.eq, "<": operator.lt, ">": operator.gt, "<>": operator.ne}
_SCHEMA = pa.schema(tables.VALUE_FIELDS)


def check_filters(report, server, warehouse, readers, database):
    table = tables.TableUnderTest("hard_values", {"buckets": BUCKETS}, (tables.Part(_SCHEMA.empty_table(), (), 1),))
    server.execute(tables.ddl(database, table))
    for number in range(ROUNDS):
        for request in range(BUCKETS):
            server.send(database, table.name, _rows(number * BUCKETS + request), "arrow")
        server.tier(database, table.name)
    place = warehouse.table(database, table.name)
    duckdb, pyiceberg, polars_reader, spark = readers
    rows = duckdb.rows(place, _SCHEMA.names)
    for reader, ask in ((duckdb, _ask_duckdb), (pyiceberg, _ask_pyiceberg), (polars_reader, _ask_polars),
                        (spark, _ask_spark)):
        with report.case(warehouse.name, table.name, f"{reader.name} filters hard values") as case:
            asked = 0
            for what, found, there in ask(reader, place, rows):
                asked += 1
                require(found == there, f"{reader.name} finds {found} rows where {what}, there are {there}")
            case.note = f"{asked} filters"


def _rows(number):
    """Three rows: in each column a hard value, once or twice, and the next one or a later one, or null."""
    def cells(name):
        values = [*tables.hard_values(name), None]
        return [values[number % len(values)], values[(number + number // len(values)) % len(values)],
                values[number % len(values)]]

    return pa.table([pa.array(cells(field.name), field.type) for field in _SCHEMA], schema=_SCHEMA)


def _ask_duckdb(reader, place, rows):
    reader.keep("in_memory", rows)
    for field, value in _hard_values():
        if value is None:
            conditions = [(f'"{field.name}" IS NULL', []), (f'"{field.name}" IS NOT NULL', [])]
        else:
            conditions = [(f'"{field.name}" {name} $1', [value]) for name in _OPERATORS]
        for condition, arguments in conditions:
            found, there = (reader.count_in(source, condition, arguments) for source in (place, "in_memory"))
            yield f"{condition}, {value!r}", found, there


def _ask_polars(reader, place, rows):
    in_memory = polars.from_arrow(rows)
    for field, value in _hard_values():
        cells = polars.col(field.name)
        if value is None:
            conditions = [cells.is_null(), cells.is_not_null()]
        else:
            literal = polars.lit(value, dtype=in_memory.schema[field.name])
            conditions = [compare(cells, literal) for compare in _OPERATORS.values()]
        for condition in conditions:
            yield f"{condition}, {value!r}", reader.count_if(place, condition), in_memory.filter(condition).height


def _ask_pyiceberg(reader, place, rows):
    for field, value in _hard_values():
        cells = rows[field.name]
        is_float = pyarrow.types.is_floating(field.type)
        if value is None:
            conditions = [(IsNull(field.name), pc.is_null(cells)), (NotNull(field.name), pc.is_valid(cells))]
        elif is_float and math.isnan(value):
            conditions = [(IsNaN(field.name), pc.is_nan(cells))]
        elif pyarrow.types.is_float32(field.type) and math.isinf(value):
            continue  # PyIceberg takes it for a number that is out of range, and gives all rows
        else:
            literal = pa.scalar(value, field.type).cast(cells.type)
            conditions = [(EqualTo(field.name, value), pc.equal(cells, literal)),
                          (NotEqualTo(field.name, value), pc.not_equal(cells, literal))]
            if not pyarrow.types.is_boolean(field.type):
                conditions += [(LessThan(field.name, value), pc.less(cells, literal)),
                               (GreaterThan(field.name, value), pc.greater(cells, literal))]
        for condition, mask in conditions:
            yield f"{condition}", reader.count_if(place, condition, field.name), pc.sum(mask).as_py() or 0


def _ask_spark(reader, place, rows):
    """It is slow: one value of each column. Of floats no zero: Iceberg tells -0.0 from 0.0, and Spark does not."""
    for field in _SCHEMA:
        value = tables.hard_values(field.name)[2 if pyarrow.types.is_floating(field.type) else 1]
        if isinstance(value, datetime.datetime):
            continue  # Python's and Spark's first years differ
        there = sum(cell == value for cell in rows[field.name].to_pylist())
        yield f"{field.name} = {value!r}", reader.count_where(place, field.name, value), there


def _hard_values():
    for field in _SCHEMA:
        for value in (*tables.hard_values(field.name), None):
            yield field, value
