"""YCSB's core workloads A, B and F over HTTP, with DuckDB doing the same beside us.

The workloads are those of Cooper, Silberstein, Tam, Ramakrishnan, Sears: Benchmarking Cloud Serving Systems with YCSB
(SoCC 2010), and of the files `workloada`, `workloadb` and `workloadf` of the YCSB project: 1,000 records of ten fields
of 100 characters, and operations on keys whose popularity is Zipfian with the constant 0.99, scattered by a hash.

- A: half reads, half updates. B: 95 of 100 are reads. F: half reads, half read-modify-writes of one field.
- A read is a `/lookup`, compared with DuckDB's row. An update is an upsert of all fields (YCSB's `writeallfields=true`,
  since an upsert replaces the row). A modification goes out from the row that the lookup gave.
- Operations are sent in batches, first the reads, then the writes. A batch ends before an operation on a key that it
  writes, so that the outcome is that of one operation after the other.
- In DuckDB the table has a PRIMARY KEY, and each batch is an INSERT OR REPLACE.

There are two halves, and a round after each. A's rows stay hot until then. B's and F's sink while the operations go on,
by themselves and when they are told to; and F's leave the hot tier at once, so that it reads and modifies what only the
lake has. Nothing here measures speed.
"""

import collections
import dataclasses
import random
import string

import pyarrow as pa

import lake_checks
import row_hash
from encodings_of_rows import rows_of
from lake import duckdb_connection
from report import require, require_same

RECORDS = 1_000
OPERATIONS = 4_000
BATCH_OPERATIONS_MAX = 100
BATCHES_PER_ROUND = 8
FIELD_LENGTH = 100
KEY = "ycsb_key"
FIELDS = [f"field{number}" for number in range(10)]
SCHEMA = pa.schema([pa.field(KEY, pa.string(), nullable=False), *(pa.field(name, pa.string()) for name in FIELDS)])
_ENCODINGS = ("ndjson", "arrow")


@dataclasses.dataclass(frozen=True)
class Workload:
    name: str
    share_of_reads: float
    modifies: bool
    sinks: bool
    properties: dict


WORKLOADS = [
    Workload("a", 0.5, False, False, {}),
    Workload("b", 0.95, False, True, {"buckets": 3, "format_version": 2}),
    Workload("f", 0.5, True, True, {"hot_retention": "0s"}),
]


def check_ycsb(report, server, warehouse, readers, database):
    for workload in WORKLOADS:
        name = f"ycsb_{workload.name}"
        with report.group(warehouse.name, name):
            _YcsbCheck(report, server, warehouse, readers, database, name, workload).run()


class _YcsbCheck:
    def __init__(self, report, server, warehouse, readers, database, name, workload):
        self._report, self._server, self._readers = report, server, readers
        self._warehouse, self._database, self._name = warehouse, database, name
        self._place = warehouse.table(database, name)
        self._workload = workload
        self._random = random.Random(f"ycsb {workload.name}")
        self._keys = ScrambledZipfian(RECORDS, self._random)
        self._twin = Twin()
        self._requests = 0

    def run(self):
        columns = ", ".join(f"{name} VARCHAR" for name in FIELDS)
        properties = {"lake_freshness": "200ms" if self._workload.sinks else "1h"} | self._workload.properties
        settings = ", ".join(f"{name} = '{value}'" for name, value in properties.items())
        self._server.execute(
            f"CREATE TABLE {self._database}.{self._name} ({KEY} VARCHAR PRIMARY KEY, {columns}) WITH ({settings})")
        for start in range(0, RECORDS, BATCH_OPERATIONS_MAX):
            self._write([self._record(number) for number in range(start, start + BATCH_OPERATIONS_MAX)])
        for half in ("first", "second"):
            self._run_half(half)
        for reader in self._readers:
            with self._case(f"{reader.name} = DuckDB's table") as case:
                rows = reader.rows(self._place, SCHEMA.names)
                require_same(case, self._twin.fingerprint(), row_hash.fingerprint(rows, SCHEMA), "DuckDB", reader.name)
        with self._case("deletes by the manifests") as case:
            lake_checks.require_sound_entries(case, self._readers[0], self._place, RECORDS)

    def _run_half(self, half):
        with self._case(f"{half} half: reads = DuckDB's") as case:
            reads, writes, batches = self._operate(OPERATIONS // 2)
            case.note = f"{reads} reads, {writes} writes in {batches} batches"
        with self._case(f"{half} half: SELECT = DuckDB's") as case:
            self._require_state(case, self._relation())
            lake = self._server.count(self._relation("$lake"))
            case.note = f"{case.note}, {lake} rows are in the lake"
            require(bool(lake) == (self._workload.sinks or half == "second"), f"{lake} rows are in the lake")
        with self._case(f"{half} half: and after a round") as case:
            self._server.tier(self._database, self._name)
            self._require_state(case, self._relation())
            self._require_state(case, self._relation("$lake"))
            if self._workload.properties.get("hot_retention") == "0s":
                case.note = f"{case.note}, {self._server.await_trimmed(self._database, self._name):,} offsets let go"

    def _operate(self, operations):
        reads = writes = batches = 0
        batch, written = [], set()
        for _ in range(operations):
            key, is_read = self._keys.next(), self._random.random() < self._workload.share_of_reads
            if key in written or len(batch) == BATCH_OPERATIONS_MAX:
                self._run_batch(batch)
                batches += 1
                batch, written = [], set()
                if self._workload.sinks and batches % BATCHES_PER_ROUND == 0:
                    self._server.tier(self._database, self._name)
            batch.append((key, is_read))
            if is_read:
                reads += 1
            else:
                writes += 1
                written.add(key)
        self._run_batch(batch)
        return reads, writes, batches + 1

    def _run_batch(self, batch):
        modifies = self._workload.modifies
        asked = list(dict.fromkeys(key_name(key) for key, is_read in batch if is_read or modifies))
        found = self._server.lookup(self._database, self._name, [{KEY: key} for key in asked])
        rows = dict(zip(asked, found, strict=True))
        if asked:
            theirs = self._twin.rows(asked)
            ours = row_hash.fingerprint(rows_of(list(rows.values()), SCHEMA), SCHEMA)
            different = row_hash.difference(row_hash.fingerprint(theirs, SCHEMA), ours)
            require(different is None, f"left is DuckDB, right is what lookups found\n{different}")
        written = []
        for key, is_read in batch:
            if not is_read:
                # The row that we found, not the twin's: a wrong one shows in what is written.
                written.append(rows[key_name(key)] | {self._random.choice(FIELDS): self._text()} if modifies
                               else self._record(key))
        if written:
            self._write(written)

    def _write(self, rows):
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        self._server.send(self._database, self._name, table, _ENCODINGS[self._requests % len(_ENCODINGS)])
        self._requests += 1
        self._twin.replace(table)

    def _record(self, number):
        return {KEY: key_name(number)} | {name: self._text() for name in FIELDS}

    def _text(self):
        return "".join(self._random.choices(string.printable, k=FIELD_LENGTH))

    def _require_state(self, case, relation):
        named = ", ".join(f'"{name}"' for name in SCHEMA.names)
        ours = row_hash.fingerprint(self._server.query(f"SELECT {named} FROM {relation}"), SCHEMA)
        require_same(case, self._twin.fingerprint(), ours, "DuckDB", "ours")

    def _relation(self, tier=""):
        return f'{self._database}."{self._name}{tier}"'

    def _case(self, what):
        return self._report.case(self._warehouse.name, self._name, what)


class Twin:
    """The same table in DuckDB."""

    def __init__(self):
        self._connection = duckdb_connection()
        columns = ", ".join(f"{name} VARCHAR" for name in FIELDS)
        self._connection.execute(f"CREATE TABLE twin ({KEY} VARCHAR PRIMARY KEY, {columns})")

    def replace(self, rows):
        self._connection.register("given", rows)
        self._connection.execute("INSERT OR REPLACE INTO twin SELECT * FROM given")

    def rows(self, keys):
        return self._connection.execute(
            f"SELECT * FROM twin WHERE {KEY} IN (SELECT unnest($1))", [keys]).to_arrow_table()

    def fingerprint(self):
        return row_hash.fingerprint(self._connection.execute("SELECT * FROM twin").to_arrow_table(), SCHEMA)


class ScrambledZipfian:
    """Numbers below `count`, the popular ones scattered: YCSB's generator of that name.

    It draws from ten thousand million Zipfian items and hashes them to the numbers. How to draw without a table is from
    Gray, Sundaresan, Englert, Baclawski, Weinberger: Quickly Generating Billion-Record Synthetic Databases (SIGMOD
    1994).
    """

    _ITEMS = 10_000_000_000
    _THETA = 0.99
    ZETA_ITEMS = 26.46902820178302  # the sum of 1 / i^0.99 for all items
    _ZETA_2 = 1 + 0.5**_THETA
    _ETA = (1 - (2 / _ITEMS) ** (1 - _THETA)) / (1 - _ZETA_2 / ZETA_ITEMS)

    def __init__(self, count, source):
        self._count, self._source = count, source

    def next(self):
        return fnv_hash(self._rank()) % self._count

    def _rank(self):
        drawn = self._source.random()
        if drawn * self.ZETA_ITEMS < 1:
            return 0
        if drawn * self.ZETA_ITEMS < self._ZETA_2:
            return 1
        return int(self._ITEMS * (self._ETA * drawn - self._ETA + 1) ** (1 / (1 - self._THETA)))


def self_test():
    """That these are YCSB's keys and popularities. Returns how many things it compared."""
    # The names of YCSB's first records, as its loads print them.
    names = ["user6284781860667377211", "user8517097267634966620", "user1820151046732198393"]
    assert [key_name(number) for number in range(3)] == names
    drawn = ScrambledZipfian(RECORDS, random.Random(1))
    counts = collections.Counter(drawn.next() for _ in range(100_000))
    # The way of drawing is exact for the two most popular ones.
    for rank in range(2):
        share = 1 / (rank + 1) ** 0.99 / ScrambledZipfian.ZETA_ITEMS
        found = counts[fnv_hash(rank) % RECORDS] / counts.total()
        # A few of the less popular ones land on the same number.
        assert share * 0.95 < found < share * 1.05 + 2 / RECORDS, f"rank {rank}: {found}, not {share}"
    return len(names) + 2


def key_name(number):
    return f"user{fnv_hash(number)}"


def fnv_hash(number):
    """FNV-1a of the eight bytes, lowest first, as a Java long without its sign."""
    value = 0xCBF29CE484222325
    for octet in number.to_bytes(8, "little"):
        value = (value ^ octet) * 1099511628211 % 2**64
    return abs(value - 2**64 if value >= 2**63 else value)
