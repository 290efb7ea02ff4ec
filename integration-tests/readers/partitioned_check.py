"""What is compared of tables with partitions: log tables and tables with keys, by every transform that Iceberg has.

New partitions come while there are some; with a key, rows of old and new ones are replaced and deleted, in some partitions
all of them. Then the columns that partitions are made of are renamed and one is added, and at last the server joins files.
After each of these are compared

- our SQL with the model, over both tiers and in the lake, and with a key lookups too;
- every row and column that each reader finds, and how many it counts, with `"t$lake"`;
- filters on the columns that partitions are made of, our own in both tiers and each reader's, with the model: files of
  partitions that have nothing to give are skipped, and with them rows are lost if a partition's value is wrong;
- the partition fields, how many rows each partition has, and each data file's rows: all in the partition that the file
  says. Which partition a row is in is worked out from the row by PyIceberg's transforms.

Spark is slow, so it reads at the end only. It is asked all its filters at once, and for its table of partitions.
"""

import collections
import dataclasses
import datetime
import decimal
import functools
import operator

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet
from pyiceberg import expressions as iceberg

import lake_checks
import partitioned_tables
import row_hash
from encodings_of_rows import objects_of, rows_of
from partitioned_tables import as_counted, literal, partition_of, spark_literal
from report import require, require_same
from tables import SYSTEM_COLUMNS

BUSY_PARTITIONS = 2
# How often a table is compared; each time with another share of the filters.
STAGES = 3
_COMPARISONS = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}
_HARD_FOR_DUCKDB = {
    pa.timestamp("us"): datetime.datetime(1969, 12, 31, 23, 59, 59, 999_999),
    pa.decimal128(9, 2): decimal.Decimal("-50.00"),
}
_OF_ICEBERG = {
    "=": iceberg.EqualTo, "<>": iceberg.NotEqualTo, "<": iceberg.LessThan, "<=": iceberg.LessThanOrEqual,
    ">": iceberg.GreaterThan, ">=": iceberg.GreaterThanOrEqual,
}


@dataclasses.dataclass(frozen=True)
class Condition:
    """A column, one of `_COMPARISONS`, `IN`, `IS NULL` or `IS NOT NULL`, and the values that it takes."""

    column: str
    operator: str
    values: tuple = ()

    def holds(self, row):
        cell = row[self.column]
        if not self.values:
            return (cell is None) == (self.operator == "IS NULL")
        if cell is None:
            return False
        return cell in self.values if self.operator == "IN" else _COMPARISONS[self.operator](cell, self.values[0])

    def sql(self, spelled, quote='"'):
        values = [spelled(value) for value in self.values]
        behind = f" ({', '.join(values)})" if self.operator == "IN" else "".join(f" {value}" for value in values)
        return f"{quote}{self.column}{quote} {self.operator}{behind}"

    def of_iceberg(self):
        if not self.values:
            return (iceberg.IsNull if self.operator == "IS NULL" else iceberg.NotNull)(self.column)
        if self.operator == "IN":
            return iceberg.In(self.column, set(self.values))
        return _OF_ICEBERG[self.operator](self.column, self.values[0])

    def of_polars(self, data_type):
        cells = polars.col(self.column)
        if not self.values:
            return cells.is_null() if self.operator == "IS NULL" else cells.is_not_null()
        values = polars.from_arrow(pa.array(self.values, data_type))
        if self.operator == "IN":
            return cells.is_in(values.implode())
        return _COMPARISONS[self.operator](cells, polars.lit(values[0], dtype=values.dtype))


def check_partitioned_tables(report, server, warehouse, readers, database):
    for model in partitioned_tables.partitioned_tables(warehouse.name):
        with report.group(warehouse.name, model.name):
            _PartitionedCheck(report, server, warehouse, readers, database, model).run()


class _PartitionedCheck:
    def __init__(self, report, server, warehouse, readers, database, model):
        self._report, self._server, self._warehouse, self._database = report, server, warehouse, database
        *self._quick, self._spark = readers
        self._duckdb = self._quick[0]
        self._model = model
        self._relation = f"{database}.{model.name}"
        self._lake_relation = f'{database}."{model.name}$lake"'
        self._place = warehouse.table(database, model.name)
        self._ids = {}
        self._sound_files = set()
        self._stage = 0

    def run(self):
        model = self._model
        self._server.execute(model.ddl(self._database))
        self._send(model.append(20))
        self._change_rows(4)
        self._tier()
        self._send(model.append(12))
        self._change_rows(4, is_by_statement=True)
        self._tier()
        model.let_late_values_come()
        self._send(model.append(6))
        self._change_rows(2)
        self._compare("as made:")

        renamed = [model.rename(column, f"{column}_now") for column in model.columns if column != "id"]
        self._server.execute(f"ALTER TABLE {self._relation} {', '.join([*renamed, model.add('extra', pa.int32())])}")
        with self._case("renamed: our SQL = the model") as case:
            self._compare_ours(case)
        self._send(model.append(14))
        self._change_rows(4, is_by_statement=True)
        self._tier()
        self._send(model.append(5))
        self._compare("renamed:")
        self._compare_limits()

        self._await_joined()
        self._send(model.append(5))
        self._change_rows(2)
        self._compare("joined:", is_with_spark=True)

    def _send(self, request):
        rows, encoding, change = request
        self._server.send(self._database, self._model.name, rows, encoding, change)

    def _change_rows(self, count, is_by_statement=False):
        """With a key: some of the rows that are there are replaced, some go, and maybe all of some partitions."""
        if not self._model.is_keyed:
            return
        self._send(self._model.upsert(count))
        self._send(self._model.delete(count))
        if is_by_statement:
            self._server.execute(self._model.update_statement(self._relation))
            self._server.execute(self._model.delete_statement(self._relation))

    def _tier(self):
        self._server.tier(self._database, self._model.name)
        self._model.tier()

    def _compare(self, at, is_with_spark=False):
        of_lake = None
        with self._case(f"{at} our SQL = the model") as case:
            of_lake = self._compare_ours(case)
        if self._model.is_keyed:
            with self._case(f"{at} lookups") as case:
                self._compare_lookups(case)
        with self._case(f"{at} our SQL filters") as case:
            self._compare_our_filters(case)
        with self._case(f"{at} partitions and files") as case:
            self._compare_partitions(case)
        for reader in [*self._quick, *([self._spark] if is_with_spark else [])]:
            with self._case(f'{at} {reader.name} = our "$lake"') as case:
                self._compare_reader(case, reader, of_lake)
            with self._case(f"{at} {reader.name} filters") as case:
                self._compare_filters(case, reader)
        with self._case(f"{at} totals by the manifests") as case:
            lake_checks.require_sound_entries(case, self._duckdb, self._place, len(self._model.tiered))
        if is_with_spark:
            with self._case(f"{at} partitions in Spark") as case:
                self._compare_partitions_in_spark(case)
        if self._model.properties["format_version"] == 3:
            with self._case(f"{at} row ids") as case:
                self._compare_row_ids(case)
        self._stage += 1

    def _compare_ours(self, case):
        """Our SQL in both tiers and in the lake alone. The fingerprint of the latter, which all readers must have."""
        schema, lake_schema = self._model.schema, self._lake_schema()
        ours = self._select(self._lake_relation, lake_schema)
        require_same(case, row_hash.fingerprint(self._model.table(self._model.tiered), schema),
                     row_hash.fingerprint(ours.select(schema.names), schema, exact_types=True), "the model", '"$lake"')
        everything = self._server.query(f"SELECT * FROM {self._relation}")
        require_same(case, row_hash.fingerprint(self._model.table(self._model.rows), schema),
                     row_hash.fingerprint(everything, schema, exact_types=True), "the model", "selected")
        return row_hash.fingerprint(ours, lake_schema, exact_types=True)

    def _compare_lookups(self, case):
        """Every key that is there, and such as are not there in partitions that are and that are not."""
        model = self._model
        other = {key: {**dict(zip(model.key_names, key)), "id": -key[model.key_names.index("id")]} for key in model.rows}
        keys = [dict(zip(model.key_names, key)) for key in model.rows] + list(other.values())
        answers = self._server.lookup(
            self._database, model.name, objects_of(pa.Table.from_pylist(keys, schema=model.key_schema)))
        found, absent = answers[:len(other)], answers[len(other):]
        require(None not in found, f"{found.count(None)} of {len(found)} keys are not found")
        require(not any(absent), f"rows are found that are not there: {[row for row in absent if row][:3]}")
        require_same(case, row_hash.fingerprint(model.table(model.rows), model.schema),
                     row_hash.fingerprint(rows_of(found, model.schema), model.schema), "the model", "found")

    def _compare_reader(self, case, reader, of_lake):
        require(of_lake is not None, "our own rows are not known")
        schema = self._lake_schema()
        theirs = reader.rows(self._place, schema.names)
        require_same(case, of_lake, row_hash.fingerprint(theirs, schema), "ours", reader.name)
        count = reader.count(self._place)
        require(count == len(self._model.tiered), f"{reader.name} counts {count} rows, not {len(self._model.tiered)}")

    def _compare_our_filters(self, case):
        questions = self._questions()
        asked = [(f"{relation} WHERE {self._sql(question)}", _count(there, question))
                 for relation, there in ((self._relation, self._model.rows), (self._lake_relation, self._model.tiered))
                 for question in questions]
        # Of one statement, because there are many; each part skips by itself.
        parts = [f"SELECT {place} AS place, count(*) AS n FROM {condition}" for place, (condition, _) in enumerate(asked)]
        found = {row["place"]: row["n"] for row in self._server.query(" UNION ALL ".join(parts)).to_pylist()}
        wrong = [f"{condition}: {found.get(place)}, not {wanted}"
                 for place, (condition, wanted) in enumerate(asked) if found.get(place) != wanted]
        require(not wrong, "\n".join(wrong))
        case.note = f"{2 * len(questions)} filters"

    def _compare_filters(self, case, reader):
        questions = self._questions()
        if reader.name == self._duckdb.name:
            questions = [question for question in questions if not any(map(self._is_wrong_in_duckdb, question))]
        found = _ASK[reader.name](self, reader, questions)
        wanted = [_count(self._model.tiered, question) for question in questions]
        wrong = [f"{self._sql(question)}: {found}, not {wanted}"
                 for question, found, wanted in zip(questions, found, wanted, strict=True) if found != wanted]
        require(not wrong, f"{reader.name} counts\n" + "\n".join(wrong))
        case.note = f"{len(questions)} filters"

    def _questions(self):
        """Each is one condition or several that must all hold, about the columns that partitions are made of."""
        questions, of_several = [], []
        for column in self._model.columns:
            values = sorted({row[column] for row in self._model.tiered.values()} - {None})
            low, middle, high = values[0], values[len(values) // 2], values[-1]
            questions += [(Condition(column, "=", (value,)),) for value in dict.fromkeys((low, middle, high))]
            questions += [(Condition(column, "IN", tuple(values[::2])),), (Condition(column, "<>", (middle,)),),
                          (Condition(column, "IS NULL"),), (Condition(column, "IS NOT NULL"),)]
            of_several.append(Condition(column, "IN", tuple(values[1::2] or values)))
            if self._type(column) != pa.bool_():
                above, below = values[1 % len(values)], values[-2 % len(values)]
                questions += [(Condition(column, "<", (middle,)),), (Condition(column, "<=", (low,)),),
                              (Condition(column, ">", (below,)),), (Condition(column, ">=", (middle,)),),
                              (Condition(column, ">=", (above,)), Condition(column, "<", (high,)))]
        # Each in its turn: other ones of them after each change.
        return [*questions[self._stage % STAGES::STAGES], (*of_several, Condition("written", ">", (3,)))]

    def _is_wrong_in_duckdb(self, condition):
        """What README.md says of partitions made of times before 1970, and of short decimals below 0."""
        data_type = self._type(condition.column)
        transforms = [field.transform for field in self._model.fields if field.column == condition.column]
        if pa.types.is_timestamp(data_type) and {"month", "day"} & set(transforms):
            return condition.operator in ("=", ">", ">=", "IN") and any(as_counted(value) < 0 for value in condition.values)
        is_short = pa.types.is_decimal(data_type) and data_type.precision <= 9
        is_cut = any(transform.startswith("truncate") for transform in transforms)
        return is_short and is_cut and any(value < 0 for value in condition.values)

    def _compare_limits(self):
        """What README.md says of DuckDB is still so."""
        conditions = [Condition(column, ">=", (_HARD_FOR_DUCKDB[self._type(column)],))
                      for column in self._model.columns if self._type(column) in _HARD_FOR_DUCKDB]
        for question in [(condition,) for condition in conditions if self._is_wrong_in_duckdb(condition)]:
            with self._case("DuckDB is wrong, as we say") as case:
                wanted = _count(self._model.tiered, question)
                try:
                    found = self._ask_duckdb(self._duckdb, [question])[0]
                except duckdb.Error as error:
                    case.note = str(error).splitlines()[0][:80]
                    continue
                case.note = f"{found} rows where there are {wanted}"
                require(found < wanted, f"{case.note}: README.md should no longer warn of it")

    def _sql(self, question, spelled=literal, quote='"'):
        return " AND ".join(condition.sql(
            functools.partial(spelled, data_type=self._type(condition.column)), quote) for condition in question)

    def _type(self, column):
        return self._model.schema.field(column).type

    def _ask_duckdb(self, reader, questions):
        return [reader.count_in(self._place, self._sql(question), []) for question in questions]

    def _ask_pyiceberg(self, reader, questions):
        return [reader.count_if(self._place, functools.reduce(
            iceberg.And, [condition.of_iceberg() for condition in question]), question[0].column) for question in questions]

    def _ask_polars(self, reader, questions):
        return [reader.count_if(self._place, functools.reduce(operator.and_, [
            condition.of_polars(self._type(condition.column)) for condition in question])) for question in questions]

    def _ask_spark(self, reader, questions):
        return reader.counts_of(self._place, [self._sql(question, spark_literal, "`") for question in questions])

    def _compare_partitions(self, case):
        """As PyIceberg has them."""
        table = self._place.static_table()
        schema, spec = table.metadata.schema(), table.spec()
        found = [(field.name, schema.find_column_name(field.source_id), str(field.transform)) for field in spec.fields]
        require(found == self._model.spec, f"partitioned by {found}, not by {self._model.spec}")
        wanted = self._rows_of_partitions()
        found = _live({_values(row["partition"]): row["record_count"] - row["position_delete_record_count"]
                       for row in table.inspect.partitions().to_pylist()})
        require(found == wanted, _differ(found, wanted))
        files = [file for file in table.inspect.files().to_pylist() if file["content"] == 0]
        for file in files:
            if file["file_path"] not in self._sound_files:
                self._require_one_partition(table, file)
        self._sound_files |= {file["file_path"] for file in files}
        case.note = f"{len(wanted)} partitions, {len(files)} files"

    def _require_one_partition(self, table, file):
        with table.io.new_input(file["file_path"]).open() as opened:
            rows = pyarrow.parquet.read_table(opened)
        places = {int(field.metadata[b"PARQUET:field_id"]): place for place, field in enumerate(rows.schema)}
        columns = [rows.column(places[field.source_id]).to_pylist() for field in table.spec().fields]
        partitions = {partition_of(values, self._parts(table)) for values in zip(*columns)}
        require(partitions == {_values(file["partition"])},
                f"rows of {partitions} are in {file['file_path']} of {file['partition']}")
        require(rows.num_rows == file["record_count"], f"{rows.num_rows} rows are in {file}")

    def _parts(self, table):
        schema = table.metadata.schema()
        return [(schema.find_field(field.source_id).field_type, str(field.transform)) for field in table.spec().fields]

    def _rows_of_partitions(self):
        parts = self._parts(self._place.static_table())
        columns = [column for _, column, _ in self._model.spec]
        named = ", ".join(f'"{column}"' for column in dict.fromkeys(columns))
        rows = self._server.query(f"SELECT {named} FROM {self._lake_relation}").to_pylist()
        return collections.Counter(partition_of([row[column] for column in columns], parts) for row in rows)

    def _compare_partitions_in_spark(self, case):
        lake_checks.at_one_version(self._place, lambda metadata: self._compare_partitions_of(case, metadata))

    def _compare_partitions_of(self, case, metadata):
        rows = self._spark.metadata_rows(
            self._place, "partitions", ["partition", "record_count", "position_delete_record_count", "file_count"])
        wanted = self._rows_of_partitions()
        found = _live({_values(row["partition"]): row["record_count"] - row["position_delete_record_count"] for row in rows})
        require(found == wanted, _differ(found, wanted))
        files, there = sum(row["file_count"] for row in rows), len(self._data_files(metadata))
        require(files == there, f"Spark counts {files} files, there are {there}")
        case.note = f"{len(wanted)} partitions, {files} files"

    def _compare_row_ids(self, case):
        """Every row has an id of its own and keeps it as long as nobody writes it anew."""
        keys = ["__offset", *(self._model.key_names or ["id"])]
        rows = self._duckdb.rows(self._place, [*keys, "_row_id"]).to_pylist()
        ids = {tuple(row[key] for key in keys): row["_row_id"] for row in rows}
        require(None not in ids.values(), "a row has no id")
        require(len(set(ids.values())) == len(rows) == len(ids), f"{len(rows)} rows have {len(set(ids.values()))} ids")
        kept = ids.keys() & self._ids.keys()
        case.note = f"{len(ids)} rows, {len(kept)} known from before"
        changed = [key for key in kept if ids[key] != self._ids[key]]
        require(not changed, f"rows have other ids than before: {changed[:5]}")
        self._ids = ids

    def _await_joined(self):
        """Small rounds in a few partitions, until none of the files is left that these have after the first."""
        busy = list({tuple(row[column] for column in self._model.columns if column != "id"): row
                     for row in self._model.tiered.values()}.values())[:BUSY_PARTITIONS]

        def add_round():
            self._send(self._model.append(4 * len(busy), busy))
            self._tier()

        with self._case("joins files of partitions") as case:
            self._tier()  # what waits in other partitions
            others = self._data_files()
            add_round()
            files = self._data_files()
            added = [partition for path, partition in files.items() if path not in others]
            before = {path for path, partition in files.items() if partition in added}
            lake_checks.require_joined(case, before, lambda: self._data_files().keys(), add_round)

    def _data_files(self, metadata=None):
        """Path and partition."""
        return {entry["file_path"]: entry["partition"]
                for entry in self._duckdb.live_entries(metadata or self._place.metadata()) if entry["content"] == 0}

    def _lake_schema(self):
        return pa.schema([*self._model.schema, *SYSTEM_COLUMNS])

    def _select(self, relation, schema):
        named = ", ".join(f'"{name}"' for name in schema.names)
        return self._server.query(f"SELECT {named} FROM {relation}")

    def _case(self, what):
        return self._report.case(self._warehouse.name, self._model.name, what)


_ASK = {"DuckDB": _PartitionedCheck._ask_duckdb, "PyIceberg": _PartitionedCheck._ask_pyiceberg,
        "Polars": _PartitionedCheck._ask_polars, "Spark": _PartitionedCheck._ask_spark}


def _count(rows, question):
    return sum(all(condition.holds(row) for condition in question) for row in rows.values())


def _values(partition):
    """Of a partition as a reader tells it."""
    return tuple(as_counted(value) for value in partition.values())


def _live(counts):
    return {partition: count for partition, count in counts.items() if count}


def _differ(found, wanted):
    return "\n".join(f"{partition} has {found.get(partition, 0)} rows, not {wanted.get(partition, 0)}"
                     for partition in found.keys() | wanted.keys() if found.get(partition) != wanted.get(partition))
