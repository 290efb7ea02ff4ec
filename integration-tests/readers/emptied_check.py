"""What is compared of tables that lose rows at once: log tables by TRUNCATE, and both kinds by partitions whose time is over.

Compared are, after each loss and the round that tells the lake of it,

- every row that each reader finds, and how many it counts, with those that are left, and with our SQL;
- the snapshot of before, which has them all;
- the manifests: counts, bounds and totals.

Rows are written after each loss, and files are joined over it.
"""

import time

import pyarrow as pa

import lake_checks
from report import require

COLUMNS = ["id", "day", "note"]
SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("day", pa.date32(), nullable=False),
                    pa.field("note", pa.string())])
ROUNDS, ROWS_PER_ROUND = 3, 12
# Days since 1970: two that are long over, and one that is not for as long as this is run.
OVER, NOT_OVER = [18_000, 18_001], 60_000
# The server looks every ten seconds.
PATIENCE_SECONDS = 60


def check_emptied_tables(report, server, warehouse, readers, database):
    for is_keyed in (False, True):
        for version in (2, 3):
            name = f"emptied_{'keyed' if is_keyed else 'log'}_v{version}"
            with report.group(warehouse.name, name):
                _EmptiedCheck(report, server, warehouse, readers, database, name, is_keyed, version).run()


class _EmptiedCheck:
    def __init__(self, report, server, warehouse, readers, database, name, is_keyed, version):
        self._report, self._server, self._warehouse, self._readers = report, server, warehouse, readers
        self._database, self._name, self._is_keyed = database, name, is_keyed
        self._place = warehouse.table(database, name)
        self._relation = f"{database}.{name}"
        self._rows, self._next = {}, 0
        key = ", PRIMARY KEY (id, day)" if is_keyed else ""
        server.execute(f"CREATE TABLE {self._relation} (id BIGINT NOT NULL, day DATE NOT NULL, note VARCHAR{key}) "
                       f"PARTITION BY (day(day)) WITH (format_version = {version}, lake_freshness = '1h')")

    def run(self):
        for _ in range(ROUNDS):
            self._write()
            self._tier()
        self._compare("as made", self._readers)
        before, snapshot = dict(self._rows), self._place.metadata().current_snapshot_id
        self._expire()
        self._tier()
        self._compare("two days are over", self._readers)
        self._compare_past(before, snapshot)
        self._write([NOT_OVER])
        self._tier()
        self._compare("rows came since", self._readers[:-1])
        if self._is_keyed:
            return
        before, snapshot = dict(self._rows), self._place.metadata().current_snapshot_id
        self._write([NOT_OVER])
        self._server.execute(f"TRUNCATE {self._relation}")
        self._rows = {}
        self._tier()
        self._compare("truncated", self._readers)
        self._compare_past(before, snapshot)
        for _ in range(ROUNDS):
            self._write([NOT_OVER, NOT_OVER + 1])
            self._tier()
        self._compare("rows came again", self._readers)

    def _write(self, days=(*OVER, NOT_OVER)):
        rows = []
        for day in days:
            for _ in range(ROWS_PER_ROUND):
                rows.append({"id": self._next, "day": day, "note": None if self._next % 5 == 0 else f"note {self._next}"})
                self._next += 1
        columns = [[row[name] for row in rows] for name in COLUMNS]
        arrays = [pa.array(columns[0], pa.int64()), pa.array(columns[1], pa.int32()).cast(pa.date32()), pa.array(columns[2])]
        sent = pa.Table.from_arrays(arrays, schema=SCHEMA)
        self._server.send(self._database, self._name, sent, "arrow", None)
        self._rows |= {row["id"]: tuple(found) for row, found in zip(rows, zip(*(sent[name].to_pylist() for name in COLUMNS)))}

    def _tier(self):
        self._server.tier(self._database, self._name)

    def _expire(self):
        self._server.execute(f"ALTER TABLE {self._relation} SET (partition_retention = '1d')")
        over = set(pa.array(OVER, pa.int32()).cast(pa.date32()).to_pylist())
        left = {key: row for key, row in self._rows.items() if row[1] not in over}
        until = time.monotonic() + PATIENCE_SECONDS
        while len(self._found()) > len(left) and time.monotonic() < until:
            time.sleep(0.5)
        self._rows = left

    def _found(self, relation=None):
        found = self._server.query(f"SELECT {', '.join(COLUMNS)} FROM {relation or self._relation}")
        return sorted(zip(*(found[name].to_pylist() for name in COLUMNS)))

    def _compare(self, at, readers):
        expected = sorted(self._rows.values())
        with self._case(f"{at}: our SQL") as case:
            for relation in (self._relation, f'{self._database}."{self._name}$lake"'):
                self._require(case, self._found(relation), expected)
        for reader in readers:
            with self._case(f"{at}: {reader.name}") as case:
                found = reader.rows(self._place, COLUMNS)
                self._require(case, sorted(zip(*(found[name].to_pylist() for name in COLUMNS))), expected)
                count = reader.count(self._place)
                require(count == len(expected), f"{reader.name} counts {count} rows, there are {len(expected)}")
        with self._case(f"{at}: totals by the manifests") as case:
            lake_checks.require_sound_entries(case, self._readers[0], self._place, len(expected))

    def _compare_past(self, rows, snapshot):
        for reader in self._readers:
            with self._case(f"{reader.name} back before that") as case:
                found = reader.rows(self._place, COLUMNS, snapshot)
                self._require(case, sorted(zip(*(found[name].to_pylist() for name in COLUMNS))), sorted(rows.values()))

    def _require(self, case, found, expected):
        require(found == expected, f"{len(found)} rows are found, {len(expected)} are there; "
                                   f"{list(set(found) ^ set(expected))[:5]} are in one of both")
        case.note = f"{len(found):,} rows"

    def _case(self, what):
        return self._report.case(self._warehouse.name, self._name, what)
