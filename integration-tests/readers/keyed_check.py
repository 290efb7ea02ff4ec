"""What is compared of primary-key tables: the lake after many rounds of random upserts and deletes.

After some of the rounds, and while some changes are still hot:

- our SQL over both tiers, and lookups of every key, with the model;
- `"t$lake"` with the model as it was when the round began;
- every row and column that each reader finds, how many it counts, and what it finds by a filter, with `"t$lake"`;
- the manifests: at most one live delete entry for each data file, and no more than the rows that are gone.

Spark is slow, so it reads at the end only, and there looks at all the metadata. At the end every reader also goes back
to snapshots of before. The server is stopped and started once on the way.
"""

import pyarrow as pa

import keyed_tables
import lake_checks
import row_hash
from encodings_of_rows import objects_of, rows_of
from keyed_tables import Model
from report import require, require_same
from tables import SYSTEM_COLUMNS

ROUNDS = 50
COMPARED_AFTER = (1, 2, 10, 13, 25, 50)
RESTART_AFTER = 30
GONE_BACK_TO = (10, 25)
FILTERED = ("written", "t_varchar", "t_date")


# Rows to delete from each of some data files, of as many rows each, in one round.
FILE_ROWS = 6_000
DELETED_FROM_FILES = (2_000, 30, 30, 1, 200, 2)


def check_keyed_tables(report, server, warehouse, readers, database):
    for table in keyed_tables.keyed_tables(warehouse.name):
        with report.group(warehouse.name, table.name):
            _KeyedCheck(report, server, warehouse, readers, database, table).run()
    with report.group(warehouse.name, "vectors"):
        check_vectors(report, server, warehouse, readers, database)


def check_vectors(report, server, warehouse, readers, database):
    """Long and short deletion vectors of one commit, which share a file."""
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False)])
    server.execute(f"CREATE TABLE {database}.vectors (id BIGINT PRIMARY KEY) WITH (lake_freshness = '1h')")
    keys = [range(FILE_ROWS * number, FILE_ROWS * (number + 1)) for number in range(len(DELETED_FROM_FILES))]
    for of_file in keys:
        server.send(database, "vectors", pa.table([list(of_file)], schema=schema), "arrow")
        server.tier(database, "vectors")
    gone = [key for of_file, count in zip(keys, DELETED_FROM_FILES) for key in of_file[::FILE_ROWS // count][:count]]
    server.send(database, "vectors", pa.table([gone], schema=schema), "arrow", "delete")
    server.tier(database, "vectors")
    left = sorted(set(range(FILE_ROWS * len(keys))) - set(gone))
    place = warehouse.table(database, "vectors")
    for reader in readers:
        with report.case(warehouse.name, "vectors", f"{reader.name} = what is left") as case:
            found = sorted(reader.rows(place, ["id"])["id"].to_pylist())
            case.note = f"{len(found):,} rows"
            require(found == left, f"{len(found)} rows are found, {len(left)} are left")


class _KeyedCheck:
    def __init__(self, report, server, warehouse, readers, database, table):
        self._report, self._server, self._warehouse, self._database = report, server, warehouse, database
        *self._quick, self._spark = readers
        self._duckdb = self._quick[0]
        self._table = table
        self._model = Model(table)
        self._place = warehouse.table(database, table.name)
        self._schema = pa.schema([*table.schema, *SYSTEM_COLUMNS])
        self._is_v3 = table.properties["format_version"] == 3
        self._snapshots = {}
        self._lineage = {}

    def run(self):
        self._server.execute(self._table.ddl(self._database))
        for number in range(1, ROUNDS + 1):
            for request in self._model.round(number):
                self._send(request)
            self._server.tier(self._database, self._table.name)
            if number in COMPARED_AFTER:
                self._compare(number)
            if number == RESTART_AFTER:
                self._restart()

    def _restart(self):
        if self._table.properties.get("hot_retention") == "0s":
            with self._case("lets rows go") as case:
                gone = self._server.await_trimmed(self._database, self._table.name)
                case.note = f"{gone:,} offsets"
        with self._case("stops and starts"):
            self._server.restart()

    def _send(self, request):
        self._server.send(self._database, self._table.name, request.rows, request.encoding, request.change)

    def _compare(self, number):
        tiered = dict(self._model.state)
        self._send(self._model.request())  # and these stay hot
        at = f"round {number}:"
        of_lake = None
        with self._case(f"{at} our SQL = the model") as case:
            of_lake = self._compare_ours(case, tiered)
        with self._case(f"{at} lookups = the model") as case:
            self._compare_lookups(case)
        for reader in self._quick:
            with self._case(f'{at} {reader.name} = our "$lake"') as case:
                self._compare_reader(case, reader, tiered, of_lake, FILTERED if number == ROUNDS else FILTERED[:1])
        with self._case(f"{at} deletes by the manifests") as case:
            lake_checks.require_sound_entries(case, self._duckdb, self._place, len(tiered))
        if number in GONE_BACK_TO:
            self._snapshots[number] = self._place.metadata().current_snapshot_id, of_lake
            if self._is_v3:
                self._lineage |= lake_checks.lineage(self._duckdb, self._place)
        if number == ROUNDS:
            with self._case(f'{at} Spark = our "$lake"') as case:
                self._compare_reader(case, self._spark, tiered, of_lake, FILTERED[:1])
            self._compare_metadata()

    def _compare_ours(self, case, tiered):
        """Our SQL in both tiers and in the lake alone. The fingerprint of the latter, which all readers must have."""
        relation = f"{self._database}.{self._table.name}"
        lake_relation = f'{self._database}."{self._table.name}$lake"'
        schema = self._table.schema
        ours = self._select(lake_relation, self._schema)
        of_lake = row_hash.fingerprint(ours, self._schema, exact_types=True)
        require_same(case, row_hash.fingerprint(self._model.rows(tiered), schema),
                     row_hash.fingerprint(ours.select(schema.names), schema, exact_types=True), "the model", '"$lake"')
        places = set(zip(ours["__bucket"].to_pylist(), ours["__offset"].to_pylist()))
        require(len(places) == ours.num_rows, f"{ours.num_rows} rows are in {len(places)} places")
        everything = self._select(relation, schema)
        require_same(case, row_hash.fingerprint(self._model.rows(), schema),
                     row_hash.fingerprint(everything, schema, exact_types=True), "the model", "selected")
        counts = self._server.count(relation), self._server.count(lake_relation)
        require(counts == (len(self._model.state), len(tiered)),
                f"count(*) is {counts}, there are {(len(self._model.state), len(tiered))} rows")
        return of_lake

    def _compare_lookups(self, case):
        """Every key that there can be, also those that are not there."""
        keys = self._model.all_keys
        asked = objects_of(pa.Table.from_pylist(
            [dict(zip(self._table.key_names, key)) for key in keys], schema=self._table.key))
        answers = self._server.lookup(self._database, self._table.name, asked)
        require(len(answers) == len(keys), f"{len(answers)} answers to {len(keys)} keys")
        wrong = [key for key, answer in zip(keys, answers) if (answer is None) != (key not in self._model.state)]
        require(not wrong, f"found and should not be, or the other way round: {wrong[:5]}")
        schema = self._table.schema
        found = rows_of([answer for answer in answers if answer is not None], schema)
        expected = self._model.rows({key: self._model.state[key] for key in keys if key in self._model.state})
        expected = row_hash.fingerprint(expected, schema)
        require_same(case, expected, row_hash.fingerprint(found, schema), "the model", "found")
        case.note = f"{found.num_rows} of {len(keys)} keys"

    def _compare_reader(self, case, reader, tiered, of_lake, filtered):
        require(of_lake is not None, "our own rows are not known")
        theirs = reader.rows(self._place, self._schema.names)
        require_same(case, of_lake, row_hash.fingerprint(theirs, self._schema), "ours", reader.name)
        count = reader.count(self._place)
        require(count == len(tiered), f"{reader.name} counts {count} rows, there are {len(tiered)}")
        rows = list(tiered.values())
        for column in (*filtered, *self._table.key_names):
            value = _some_value(rows, column)
            there = sum(row[column] == value for row in rows)
            found = reader.count_where(self._place, column, value)
            require(found == there, f"{reader.name} finds {found} rows where {column} is {value!r}, there are {there}")

    def _compare_metadata(self):
        for number, (snapshot_id, of_lake) in self._snapshots.items():
            with self._case(f"our SQL back in round {number}") as case:
                relation = f"{self._database}.{self._table.name} FOR VERSION AS OF {snapshot_id}"
                ours = row_hash.fingerprint(self._select(relation, self._schema), self._schema, exact_types=True)
                require_same(case, of_lake, ours, "then", "now")
            for reader in [*self._quick, self._spark]:
                with self._case(f"{reader.name} back in round {number}") as case:
                    theirs = reader.rows(self._place, self._schema.names, snapshot_id)
                    require_same(case, of_lake, row_hash.fingerprint(theirs, self._schema), "then", "now")
        with self._case("metadata in Spark") as case:
            lake_checks.require_sound_in_spark(case, self._spark, self._duckdb, self._place)
        if self._is_v3:
            with self._case("row ids in Spark and DuckDB") as case:
                lake_checks.require_sound_lineage(case, self._spark, self._duckdb, self._place, self._lineage)

    def _select(self, relation, schema):
        named = ", ".join(f'"{name}"' for name in schema.names)
        return self._server.query(f"SELECT {named} FROM {relation}")

    def _case(self, what):
        return self._report.case(self._warehouse.name, self._table.name, what)


def _some_value(rows, column):
    values = [row[column] for row in rows if row[column] is not None] or [None]
    return values[len(values) // 2]
