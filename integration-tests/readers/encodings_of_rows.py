"""Rows as the bodies that the server takes: an Arrow stream, NDJSON, a JSON array, CSV, Parquet; and back from its
JSON.

Values are written as the HTTP contract spells them. Nothing here is a general writer: only our scalar types.
"""

import base64
import datetime
import decimal
import io
import json
import math
import uuid

import pyarrow as pa
import pyarrow.parquet


def encode(rows, encoding):
    """The body, and its `Content-Type`."""
    writer, content_type = _ENCODINGS[encoding]
    return writer(rows), content_type


def rows_of(objects, schema):
    """JSON objects as the server answers them, each with every column, as an Arrow table."""
    columns = [[_value(row[field.name], field.type) for row in objects] for field in schema]
    return pa.table([pa.array(cells, field.type) for cells, field in zip(columns, schema)], schema=schema)


def _arrow(rows):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return sink.getvalue()


def _parquet(rows):
    sink = io.BytesIO()
    pyarrow.parquet.write_table(rows, sink)
    return sink.getvalue()


def _ndjson(rows):
    return "".join(json.dumps(row) + "\n" for row in objects_of(rows)).encode()


def _json(rows):
    return json.dumps(objects_of(rows), ensure_ascii=False).encode()


def _csv(rows):
    """RFC 4180. Only text has quotes, and all text has them: an empty field without quotes is null."""
    lines = [",".join(rows.column_names)]
    for row in objects_of(rows):
        lines.append(",".join(_csv_field(value) for value in row.values()))
    return "".join(line + "\r\n" for line in lines).encode()


def _csv_field(value):
    if value is None:
        return ""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    return json.dumps(value)


def objects_of(rows):
    columns = [[_json_value(value, field.type) for value in _cells(rows[field.name])] for field in rows.schema]
    return [dict(zip(rows.column_names, cells)) for cells in zip(*columns)]


def _cells(column):
    """Python's own times have no nanoseconds: such cells are numbers."""
    is_fine = pa.types.is_timestamp(column.type) and column.type.unit == "ns"
    return (column.cast(pa.int64()) if is_fine else column).to_pylist()


def _json_value(value, data_type):
    if value is None:
        return None
    if isinstance(value, uuid.UUID):
        return str(value)
    if pa.types.is_time(data_type):
        return value.isoformat(timespec="microseconds")
    if pa.types.is_timestamp(data_type) and data_type.unit == "ns":
        seconds, nanoseconds = divmod(value, 10**9)
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
        return f"{moment.isoformat()}.{nanoseconds:09}" + ("" if data_type.tz is None else "Z")
    if pa.types.is_floating(data_type):
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if pa.types.is_decimal(data_type):
        return format(value, "f")
    if pa.types.is_binary(data_type) or pa.types.is_fixed_size_binary(data_type):
        return base64.b64encode(value).decode()
    if pa.types.is_timestamp(data_type):
        text = value.replace(tzinfo=None).isoformat(timespec="microseconds")
        return text if data_type.tz is None else text + "Z"
    return value.isoformat() if pa.types.is_date(data_type) else value


def _value(found, data_type):
    """What `_json_value` writes, read again. Text where a number belongs is an error, but where the contract has it."""
    if found is None:
        return None
    if pa.types.is_floating(data_type):
        return float(found)
    if pa.types.is_decimal(data_type):
        return decimal.Decimal(found)
    if pa.types.is_binary(data_type):
        return base64.b64decode(found, validate=True)
    if pa.types.is_timestamp(data_type):
        if (data_type.tz is not None) != found.endswith("Z"):
            raise ValueError(f"{found} is no {data_type}")
        return datetime.datetime.fromisoformat(found)
    return datetime.date.fromisoformat(found) if pa.types.is_date(data_type) else found


_ENCODINGS = {
    "arrow": (_arrow, "application/vnd.apache.arrow.stream"),
    "ndjson": (_ndjson, "application/x-ndjson"),
    "json": (_json, "application/json"),
    "csv": (_csv, "text/csv"),
    "parquet": (_parquet, "application/vnd.apache.parquet"),
}
