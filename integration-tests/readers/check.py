#!/usr/bin/env python3
"""The readers' check: what other engines read from the lake is what Thermocline says is there.

    integration-tests/readers/setup target/readers
    target/readers/bin/python integration-tests/readers/check.py --binary target/debug/thermocline

For a warehouse in a local directory and for one on a real S3 server it starts the real binary, fills the log tables of
`tables.py` in three parts over HTTP, runs a tiering round after the first and after the second, leaves the third hot,
and then compares:

- every row and column, system columns too, that DuckDB, PyIceberg, Polars and Spark read from the table's place in the
  warehouse, and how many rows each of them counts, with what our SQL answers for `"table$lake"`;
- every row of our `SELECT` over the whole table with the rows that were sent;
- how many rows are hot and how many are in the lake, and which offsets they have;
- readers' filters on a bucket key, which skip files if our buckets are Iceberg's;
- our answers to the demo's questions with DuckDB's on the file that the rows came from;
- the metadata with itself, as DuckDB's Avro reader and Iceberg's own library in Spark have it: `lake_checks.py`.

Filters on hard values are in `filters_check.py`, tables with primary keys in `keyed_check.py`, tables that are altered in
`altered_check.py`, tables of many small commits in `commits_check.py`, tables that lose rows at once in
`emptied_check.py`, tables with partitions in `partitioned_check.py`, lists, maps and structs in `nested_check.py`, and a public
workload on tables with keys is in `ycsb.py`.

Rows are compared by `row_hash.py`, whose own test runs first. Nothing is skipped: whatever cannot be compared has
failed. This check reads what calm rounds left behind, while the server joins files as it sees fit. Crashes, races and
foreign commits are the Rust tests' part.
"""

import argparse
import contextlib
import decimal
import faulthandler
import math
import os
import pathlib
import signal
import sys
import tempfile

import pyarrow as pa
import pyarrow.compute as pc

import lake_checks
import row_hash
import tables
import ycsb
from altered_check import check_altered_tables
from commits_check import check_tables_of_many_commits
from emptied_check import check_emptied_tables
from filters_check import check_filters
from keyed_check import check_keyed_tables
from lake import Warehouse, duckdb_connection, readers_of
from nested_check import check_nested_tables
from partitioned_check import check_partitioned_tables
from report import Report, require, require_same
from s3_server import BUCKET, S3Server
from spark_session import SparkSession
from tables import SYSTEM_COLUMNS
from thermocline import Thermocline

DATABASE = "readers"
ROUNDS = 2
KEYS_LOOKED_UP = 12
KEYS_LOOKED_UP_SLOWLY = 2
FLOAT_TOLERANCE = 1e-9
CHECKS = {
    "keyed": check_keyed_tables, "altered": check_altered_tables, "commits": check_tables_of_many_commits,
    "emptied": check_emptied_tables, "partitioned": check_partitioned_tables, "nested": check_nested_tables, "ycsb": ycsb.check_ycsb,
}
PARTS = ["log", *CHECKS]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=pathlib.Path("target/debug/thermocline"),
                        help="the thermocline binary to check (default: %(default)s)")
    parser.add_argument("--seconds-max", type=int, default=1_200,
                        help="give up after this many seconds (default: %(default)s)")
    parser.add_argument("--only", choices=PARTS, help="one part of it alone")
    arguments = parser.parse_args()
    binary = arguments.binary.resolve()
    if not binary.is_file():
        parser.error(f"{binary} does not exist; build it with: cargo build --bin thermocline")
    bound_time(arguments.seconds_max)

    report = Report()
    with report.case("", "row_hash", "self-test") as case:
        case.note = f"{row_hash.self_test()} cases"
    with report.case("", "ycsb", "self-test") as case:
        case.note = f"{ycsb.self_test()} cases"
    under_test = tables.tables_under_test()
    # The servers outlive a failed check, never this block.
    with tempfile.TemporaryDirectory(prefix="thermocline-readers-") as directory, contextlib.ExitStack() as servers:
        directory = pathlib.Path(directory)
        for name in ("local", "s3", "spark"):
            (directory / name).mkdir()
        spark = servers.enter_context(SparkSession(directory / "spark"))
        with report.group("local", ""):
            check_warehouse(report, binary, directory / "local", under_test,
                            Warehouse("local", f"file://{directory / 'local' / 'warehouse'}"), spark, arguments.only)
        with report.group("s3", ""):
            s3 = servers.enter_context(S3Server(directory / "s3" / "server"))
            check_warehouse(report, binary, directory / "s3", under_test,
                            Warehouse("s3", f"s3://{BUCKET}/some/warehouse", s3), spark, arguments.only)
    print(f"{report.passed} passed, {report.failed} failed")
    sys.exit(1 if report.failed else 0)


def check_warehouse(report, binary, directory, under_test, warehouse, spark, only=None):
    readers = readers_of(warehouse, spark)
    with Thermocline(binary, directory, warehouse.url, warehouse.environment()) as server:
        try:
            server.execute(f"CREATE DATABASE {DATABASE}")
            if only in (None, "log"):
                check_log_tables(report, server, warehouse, readers, under_test)
            for name, check in CHECKS.items():
                if only in (None, name):
                    check(report, server, warehouse, readers, DATABASE)
            with report.case(warehouse.name, "", "clean stop on SIGTERM"):
                code = server.stop()
                require(code == 0, f"the exit code is {code} (None: it had to be killed)")
        except BaseException:
            print(server.failure("was being checked"), flush=True)
            raise
        if report.failed_in(warehouse.name):
            print(server.failure("failed a check"), flush=True)


def check_log_tables(report, server, warehouse, readers, under_test):
    for table in under_test:
        # A table that cannot be filled fails by itself; the others still have their say.
        with report.group(warehouse.name, table.name):
            spans = fill(report, server, warehouse, table)
            check_table(report, server, warehouse, readers, table, spans)
    check_questions(report, server, warehouse)
    if not warehouse.s3:
        # Bounds are the same wherever the files lie.
        with report.group(warehouse.name, "hard_values"):
            check_filters(report, server, warehouse, readers, DATABASE)


def fill(report, server, warehouse, table):
    """Two parts with a round each, and one that stays hot. The offsets that the rows got."""
    server.execute(tables.ddl(DATABASE, table))
    spans = []
    for number, part in enumerate(table.parts):
        spans += server.load(DATABASE, table.name, part, f"readers-check-{number}")
        if number < ROUNDS:
            with report.case(warehouse.name, table.name, f"round {number + 1} takes its rows") as case:
                answer = server.tier(DATABASE, table.name)
                require(answer["rows"] == part.rows.num_rows, f"{part.rows.num_rows} rows waited, the answer is {answer}")
                case.note = f"{answer['rows']:,} rows"
    return spans


def check_table(report, server, warehouse, readers, table, spans):
    relation = f"{DATABASE}.{table.name}"
    lake_relation = f'{DATABASE}."{table.name}$lake"'
    in_lake = sum(part.rows.num_rows for part in table.parts[:ROUNDS])
    sent = row_hash.fingerprint(table.rows, table.schema)

    with report.case(warehouse.name, table.name, "our SELECT = the rows sent") as case:
        got = select(server, relation, table.schema)
        require_same(case, sent, row_hash.fingerprint(got, table.schema, exact_types=True), "sent", "selected")
    with report.case(warehouse.name, table.name, "offsets = those acknowledged") as case:
        got = select(server, relation, pa.schema(SYSTEM_COLUMNS[:2]))
        require_offsets(got, spans)
        case.note = f"{got.num_rows:,} rows"
    with report.case(warehouse.name, table.name, "hot + lake = all") as case:
        hot = server.count(f'{DATABASE}."{table.name}$hot"')
        lake = server.count(lake_relation)
        everything = server.count(relation)
        case.note = f"{hot:,} + {lake:,} rows"
        require((hot, lake) == (sent.count - in_lake, in_lake),
                f"{hot} hot and {lake} lake rows; {sent.count} were sent, {in_lake} of them tiered")
        require(everything == sent.count, f"count(*) is {everything}, {sent.count} rows were sent")

    lake_schema = pa.schema([*table.schema, *SYSTEM_COLUMNS])
    with report.case(warehouse.name, table.name, '"$lake" = the rows tiered') as case:
        ours = select(server, lake_relation, lake_schema)
        of_lake = row_hash.fingerprint(ours, lake_schema, exact_types=True)
        tiered = pa.concat_tables(part.rows for part in table.parts[:ROUNDS])
        require_same(case, row_hash.fingerprint(tiered, table.schema),
                     row_hash.fingerprint(ours.select(table.schema.names), table.schema), "sent", "lake")

    place = warehouse.table(DATABASE, table.name)
    with report.case(warehouse.name, table.name, "version hint = newest metadata") as case:
        version = place.version()
        require(place.hint() == str(version), f"the hint is {place.hint()}, the newest metadata file is v{version}")
        case.note = f"v{version}"
    with report.case(warehouse.name, table.name, "lake laid out as declared") as case:
        require_layout(case, place.metadata(), table.properties)
    for reader in readers:
        if reader.name in table.unread_by:
            with report.case(warehouse.name, table.name, f"{reader.name} refuses, as we say") as case:
                require_refused(case, reader, place, lake_schema.names)
            continue
        with report.case(warehouse.name, table.name, f'{reader.name} = our "$lake"') as case:
            theirs = reader.rows(place, lake_schema.names)
            require_same(case, of_lake, row_hash.fingerprint(theirs, lake_schema), "ours", reader.name)
            count = reader.count(place)
            require(count == in_lake, f"{reader.name} counts {count} rows, {in_lake} were tiered")
        if "bucket_key" in table.properties:
            with report.case(warehouse.name, table.name, f"{reader.name} filters the bucket key") as case:
                check_key_filters(case, server, reader, place, lake_relation, table.properties["bucket_key"], ours)
    check_metadata(report, warehouse, readers, table, place, in_lake)


def check_metadata(report, warehouse, readers, table, place, in_lake):
    duckdb, spark = readers[0], readers[-1]
    with report.case(warehouse.name, table.name, "totals by the manifests") as case:
        lake_checks.require_sound_entries(case, duckdb, place, in_lake)
    if spark.name in table.unread_by:
        return
    with report.case(warehouse.name, table.name, "metadata in Spark") as case:
        lake_checks.require_sound_in_spark(case, spark, duckdb, place)
    if table.properties.get("format_version") == 3:
        with report.case(warehouse.name, table.name, "row ids in Spark and DuckDB") as case:
            lake_checks.require_sound_lineage(case, spark, duckdb, place)


def require_refused(case, reader, place, columns):
    """What CREATE TABLE says of a reader is still so: it reads nothing, and says that it does not."""
    try:
        found = reader.rows(place, columns)
    except Exception as error:  # whatever a reader raises
        case.note = str(error).strip().splitlines()[0][:80]
        return
    raise AssertionError(f"{reader.name} reads {found.num_rows} rows: CREATE TABLE should no longer warn of it")


def require_layout(case, metadata, properties):
    """Without this, a lake that ignored a property would pass all comparisons of rows."""
    buckets = properties.get("buckets", 1)
    schema = metadata.schema()
    partitions = [(schema.find_column_name(field.source_id), str(field.transform)) for field in metadata.spec().fields]
    key = properties.get("bucket_key")
    # Iceberg's bucket of null is null, so a key that may be null is partitioned by the bucket's number instead.
    if key and schema.find_field(key).required:
        wanted = [(key, f"bucket[{buckets}]")]
    else:
        wanted = [("__bucket", "identity")] if buckets > 1 else []
    require(partitions == wanted, f"partitioned by {partitions}, not by {wanted}")
    version = properties.get("format_version", 2)
    require(metadata.format_version == version, f"the format version is {metadata.format_version}, not {version}")
    require(len(metadata.snapshots) == ROUNDS, f"{len(metadata.snapshots)} snapshots after {ROUNDS} rounds")
    case.note = f"v{version}, {' '.join(transform for _, transform in partitions) or 'no partitions'}"


def check_key_filters(case, server, reader, place, lake_relation, key, ours):
    """A reader that filters the bucket key opens one bucket's files. If our hash is not Iceberg's, rows are not found."""
    values = [value for value in pc.unique(ours[key]).to_pylist() if value is not None]
    wanted = KEYS_LOOKED_UP_SLOWLY if reader.is_slow else KEYS_LOOKED_UP
    looked_up = values[:: max(1, len(values) // wanted)][:wanted]
    if ours[key].null_count:
        looked_up.append(None)
    for value in looked_up:
        there = pc.sum(pc.equal(ours[key], value)).as_py() if value is not None else ours[key].null_count
        literal = f"'{value}'" if isinstance(value, str) else value
        condition = f'"{key}" IS NULL' if value is None else f'"{key}" = {literal}'
        answers = {"our SQL": server.count(f"{lake_relation} WHERE {condition}"),
                   reader.name: reader.count_where(place, key, value)}
        for who, count in answers.items():
            require(count == there, f"{who} finds {count} rows where {condition}, there are {there}")
    case.note = f"{len(looked_up)} keys"


def check_questions(report, server, warehouse):
    """The demo's questions, while some rows are hot and some in the lake."""
    duckdb = duckdb_connection()
    duckdb.execute(f"CREATE VIEW flights AS FROM read_parquet('{tables.FLIGHTS}')")
    for number, (title, question) in enumerate(questions(), 1):
        with report.case(warehouse.name, "flights", f"question {number} = DuckDB's answer") as case:
            theirs = duckdb.execute(question).to_arrow_table()
            ours = server.query(question, DATABASE)
            require_same_answer(ours, theirs)
            case.note = title


def questions():
    """(title, statement) of each question in the demo's file: a comment line with the title goes before each."""
    found = []
    for block in tables.QUESTIONS.read_text().split(";"):
        if block.strip():
            title, _, statement = block.strip().partition("\n")
            require(title.startswith("-- "), f"a question without its title: {title}")
            found.append((title.removeprefix("-- "), statement))
    require(found, "there are no questions")
    return found


def select(server, relation, schema):
    named = ", ".join(f'"{name}"' for name in schema.names)
    return server.query(f"SELECT {named} FROM {relation}")


def require_offsets(got, spans):
    """Each bucket's offsets are those that the answers gave, each once, from 0 on without a gap."""
    ends = {}
    for bucket, first, end in sorted(spans):
        expected = ends.get(bucket, 0)
        require(first == expected, f"bucket {bucket}: offsets {first} to {end} were given where {expected} came next")
        ends[bucket] = end
    require(got.num_rows == sum(ends.values()), f"{got.num_rows} rows have offsets, the ends given are {ends}")
    for bucket, end in ends.items():
        found = got.filter(pc.equal(got["__bucket"], bucket))["__offset"].combine_chunks().sort()
        require(found.to_pylist() == list(range(end)), f"bucket {bucket} does not have each offset below {end} once")


def require_same_answer(ours, theirs):
    require(ours.column_names == theirs.column_names,
            f"our columns are {ours.column_names}, DuckDB's {theirs.column_names}")
    require(ours.num_rows == theirs.num_rows, f"our answer has {ours.num_rows} rows, DuckDB's {theirs.num_rows}")
    for our_row, their_row in zip(ours.to_pylist(), theirs.to_pylist()):
        for name, value in our_row.items():
            require(same_value(value, their_row[name]), f"{name}: ours {our_row}, DuckDB's {their_row}")


def same_value(left, right):
    """Sums of integers are decimals in DuckDB. Floats may differ in how they were added up, and nothing else may."""
    left, right = (
        int(value) if isinstance(value, decimal.Decimal) and value == int(value) else value for value in (left, right))
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=FLOAT_TOLERANCE) or math.isnan(left) and math.isnan(right)
    return type(left) is type(right) and left == right


def bound_time(seconds):
    """Ends the check when it hangs: politely, so that servers and directories go; else outright, and says where it was."""
    def give_up(number, _):
        raise SystemExit(f"the readers' check gave up: {signal.Signals(number).name}"
                         + (f" after {seconds} s" if number == signal.SIGALRM else ""))

    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, give_up)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(seconds + 60, exit=True)
    # All that is asked is on this machine.
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]


if __name__ == "__main__":
    main()
