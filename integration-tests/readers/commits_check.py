"""What is compared of tables that many small commits made: log tables and tables with keys, in both formats.

Each round adds a few rows to a few of many buckets, so that no files are joined, and no manifest is written anew because
its files are: manifests come together by their number alone. With a key, rows of all files are replaced and deleted on the way. Compared are, before
manifests have come together and after,

- every row and column that each reader finds, and how many it counts, with the rows that were sent;
- how many rows it finds for some values of the column that buckets are made of, which skips manifests and files;
- the same, at the end, of the snapshot of before;
- the manifests: few, each with the counts and the bounds of its entries; deletes and totals; row ids and numbers.
"""

import random

import pyarrow as pa

import lake_checks
from report import require

ROUNDS_BEFORE = 12
ROUNDS = 60
ROWS_PER_ROUND = 6
BUCKETS = 256
# Fifteen small ones and a few larger ones, data and deletes.
MANIFESTS_MAX = 40
COLUMNS = ["id", "n", "note"]
SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("n", pa.int64()), pa.field("note", pa.string())])
LOOKED_UP = 3
_DELETED = 2


def check_tables_of_many_commits(report, server, warehouse, readers, database):
    for is_keyed in (False, True):
        for version in (2, 3):
            name = f"commits_{'keyed' if is_keyed else 'log'}_v{version}"
            with report.group(warehouse.name, name):
                _CommitsCheck(report, server, warehouse, readers, database, name, is_keyed, version).run()


class _CommitsCheck:
    def __init__(self, report, server, warehouse, readers, database, name, is_keyed, version):
        self._report, self._server, self._warehouse, self._readers = report, server, warehouse, readers
        self._database, self._name, self._is_keyed, self._version = database, name, is_keyed, version
        self._place = warehouse.table(database, name)
        self._random = random.Random(20261129 + version)
        self._rows = {}
        properties = f"format_version = {version}, buckets = {BUCKETS}, lake_freshness = '1h'"
        properties += "" if is_keyed else ", bucket_key = 'id'"
        key = ", PRIMARY KEY (id)" if is_keyed else ""
        server.execute(f"CREATE TABLE {database}.{name} (id BIGINT NOT NULL, n BIGINT, note VARCHAR{key}) WITH ({properties})")

    def run(self):
        for number in range(ROUNDS_BEFORE):
            self._round(number)
        quick = self._readers[:-1]
        self._compare(f"{ROUNDS_BEFORE} rounds", quick, self._rows)
        then, snapshot = dict(self._rows), self._place.metadata().current_snapshot_id
        known = lake_checks.lineage(self._readers[0], self._place) if self._version == 3 else {}
        for number in range(ROUNDS_BEFORE, ROUNDS):
            self._round(number)
        self._compare(f"{ROUNDS} rounds", self._readers, self._rows)
        for reader in self._readers:
            with self._case(f"{reader.name} back at {ROUNDS_BEFORE} rounds") as case:
                self._require_rows(case, reader.rows(self._place, COLUMNS, snapshot), then)
        self._compare_metadata(known)

    def _round(self, number):
        first = number * ROWS_PER_ROUND
        added = {key: self._row(key) for key in range(first, first + ROWS_PER_ROUND)}
        if self._is_keyed and first:
            # Of all that there is, and so of all files.
            replaced = self._random.sample(sorted(self._rows), min(2, len(self._rows)))
            added |= {key: self._row(key) for key in replaced}
        self._send(added)
        self._rows |= added
        if self._is_keyed and number % 3 == 2:
            gone = self._random.sample(sorted(self._rows), _DELETED)
            self._send({key: self._rows.pop(key) for key in gone}, "delete")
        self._server.tier(self._database, self._name)

    def _row(self, key):
        return {"id": key, "n": self._random.randrange(1_000), "note": self._random.choice([None, "a", f"note of {key}"])}

    def _send(self, rows, change=None):
        rows = pa.Table.from_pylist(list(rows.values()), schema=SCHEMA)
        if change == "delete":
            rows = rows.select(["id"])
        self._server.send(self._database, self._name, rows, "arrow", change)

    def _compare(self, at, readers, rows):
        with self._case(f"{at}: our SQL") as case:
            named = ", ".join(COLUMNS)
            self._require_rows(case, self._server.query(f"SELECT {named} FROM {self._database}.{self._name}"), rows)
            lake = self._server.query(f'SELECT {named} FROM {self._database}."{self._name}$lake"')
            self._require_rows(case, lake, rows)
        for reader in readers:
            with self._case(f"{at}: {reader.name}") as case:
                self._require_rows(case, reader.rows(self._place, COLUMNS), rows)
                count = reader.count(self._place)
                require(count == len(rows), f"{reader.name} counts {count} rows, there are {len(rows)}")
                for key in [*self._random.sample(sorted(rows), LOOKED_UP), ROUNDS * ROWS_PER_ROUND]:
                    found = reader.count_where(self._place, "id", key)
                    require(found == (key in rows), f"{reader.name} finds {found} rows of id {key}")

    def _require_rows(self, case, found, rows):
        found = sorted(zip(*(found[name].to_pylist() for name in COLUMNS)))
        sent = sorted(tuple(row[name] for name in COLUMNS) for row in rows.values())
        require(found == sent, f"{len(found)} rows are found, {len(sent)} were sent; "
                               f"{list(set(found) ^ set(sent))[:5]} are in one of both")
        case.note = f"{len(found):,} rows"

    def _compare_metadata(self, known):
        duckdb, spark = self._readers[0], self._readers[-1]
        with self._case("few manifests") as case:
            self._require_few(case, duckdb)
        with self._case("totals by the manifests") as case:
            lake_checks.require_sound_entries(case, duckdb, self._place, len(self._rows))
        with self._case("metadata in Spark") as case:
            lake_checks.require_sound_in_spark(case, spark, duckdb, self._place)
        if self._version == 3:
            with self._case("row ids in Spark and DuckDB") as case:
                lake_checks.require_sound_lineage(case, spark, duckdb, self._place, known)

    def _require_few(self, case, duckdb):
        manifests = lake_checks.require_sound_manifests(duckdb, self._place)
        together = [manifest for manifest in manifests if manifest["existing_files_count"] > ROUNDS_BEFORE]
        require(together, f"no manifest has come of others: {manifests}")
        require(len(manifests) <= MANIFESTS_MAX, f"{len(manifests)} manifests after {ROUNDS} rounds")
        operations = {snapshot.summary.operation.value for snapshot in self._place.metadata().snapshots}
        # With a key, files of which nothing lives are taken off the list.
        require(self._is_keyed or "replace" not in operations, "files were joined, and manifests with them")
        come = sum(manifest["existing_files_count"] for manifest in together)
        case.note = f"{len(manifests)} manifests, {come} entries have come together"

    def _case(self, what):
        return self._report.case(self._warehouse.name, self._name, what)
