"""What is compared of tables that are altered: columns that come, go, move, and get other names and wider types, in log
tables and in tables with keys.

Rows are written, tiered and left hot before and after each ALTER TABLE. Compared are

- our SQL with the model at once, before anything is committed, over both tiers and in the lake; with a key, lookups too;
- after a round that brings the lake the new columns, with rows and without any: the lake's columns as PyIceberg has
  them, names, types and field ids; every row and column that each reader finds, how many it counts, and what it finds by
  filters on columns that were added, renamed and made wider, with `"t$lake"`, and that with the model;
- the same when the server has joined files of several versions, and then all the metadata;
- at the end older snapshots, in the columns that the table had then.

Spark is slow, so it reads after ALTER TABLE only, and is asked fewer filters.
"""

import decimal
import math

import numpy as np
import pyarrow as pa
from pyiceberg import types as iceberg

import altered_tables
import lake_checks
import row_hash
from altered_tables import FIRST
from encodings_of_rows import objects_of, rows_of
from keyed_tables import ENCODINGS
from report import require, require_same
from tables import SYSTEM_COLUMNS, sql_type

# What readers ask of files with the narrower type of a column as if it were of that type, too: see README.md.
NARROW = {"DuckDB": (float,), "PyIceberg": (float, int, decimal.Decimal)}
# Near a REAL, and none; beyond INTEGER; and with more digits than `a_decimal` has at first.
NOT_REAL, NO_INTEGER, LONG_DECIMAL = 0.1, 2**40, decimal.Decimal("123456789012345.25")
HARD_TEXT = "naïve 'quoted' 漢字, \\"


def check_altered_tables(report, server, warehouse, readers, database):
    for model in altered_tables.altered_tables(warehouse.name):
        with report.group(warehouse.name, model.name):
            _AlteredCheck(report, server, warehouse, readers, database, model).run()


class _AlteredCheck:
    def __init__(self, report, server, warehouse, readers, database, model):
        self._report, self._server, self._warehouse, self._database = report, server, warehouse, database
        self._readers = readers
        self._duckdb, self._spark = readers[0], readers[-1]
        self._model = model
        self._relation = f"{database}.{model.name}"
        self._lake_relation = f'{database}."{model.name}$lake"'
        self._place = warehouse.table(database, model.name)
        self._ids = {}
        self._ids_used = set()
        # How many versions of the columns the lake has had, and must have after the next round.
        self._versions = 1
        self._snapshots = []
        self._lineage = {}

    def run(self):
        model = self._model
        self._server.execute(model.ddl(self._database))
        self._send(model.append(30))
        if model.properties["buckets"] > 1:
            # Before there is a lake: it begins with two versions.
            self._alter(model.add("early", pa.int32(), default=-1, place=FIRST), model.drop("a_date"))
        self._send(model.append(60))
        self._change_rows(5)
        self._tier()
        self._send(model.append(30))
        self._change_rows(3)
        self._tier()
        self._compare("as made:", ("a_smallint", "a_text"))

        before = model.schema
        self._alter(
            model.add("added", pa.int32(), default=7, place="id"), model.add("note", pa.string(), default=HARD_TEXT),
            model.add("priced", pa.decimal128(8, 3), default=decimal.Decimal("-0.125")),
            model.rename("a_text", "words"), model.rename("one", "both"), model.rename("two", "one"),
            model.rename("both", "two"), model.widen("a_tinyint", pa.int16()), model.widen("a_smallint", pa.int64()),
            model.widen("a_utinyint", pa.int32()), model.widen("written", pa.int64()),
            model.widen("a_real", pa.float64()), model.widen("a_decimal", pa.decimal128(30, 2)),
            model.move("some_bytes", FIRST), model.move("written", "words"))
        self._compare_at_once("altered:")
        self._compare_old_writer(before)
        self._send(model.append(40))
        self._send(model.append(20, without=("added", "note", "an_instant")))
        self._change_rows(6, added=41, words="x''y")
        self._tier()
        self._compare("altered:", ("a_smallint", "words", "added", "a_real", "a_decimal", "note"),
                      filtered_slowly=("a_smallint", "words", "added"))
        self._compare_limits()

        self._alter(model.drop("note"), model.add("note", pa.int64(), default=2**40), model.drop("two"),
                    model.add("two", pa.int64(), place="one"), model.add("added", pa.string(), if_not_exists=True),
                    model.rename("words", "text"), model.rename("other_text", "words"))
        self._compare_at_once("anew:")
        self._send(model.append(30))
        self._send(model.append(20, without=("note", "two")))
        self._change_rows(6, note=5, two=None)
        self._tier()
        self._compare("anew:", ("note", "two", "text", "words", "a_real"), filtered_slowly=("note",))

        self._send(model.append(20))
        self._tier()
        self._alter(
            model.rename("id", "code"), model.drop_not_null("written"), model.widen("an_integer", pa.int64()),
            model.widen("a_uinteger", pa.int64()), model.widen("a_decimal", pa.decimal128(38, 2)),
            model.drop("some_bytes"), model.add("late", pa.bool_(), place=FIRST), model.set_default("added", 8), model.move("one", "late"))
        self._compare_at_once("rowless:")
        self._tier(rows=0)
        self._compare("rowless:", ("an_integer", "code", "late", "written", "a_decimal"), filtered_slowly=("code",))

        # A default is nothing that the lake has a version for.
        self._alter(model.drop_default("note"), model.set_default("priced", decimal.Decimal("12345.678")), versions=0)
        self._await_joined()
        self._compare("joined:", ("a_smallint", "text", "note", "added", "a_uinteger", "two", "a_real", "a_decimal"),
                      filtered_slowly=("a_real", "text", "note"), is_exact=True)
        self._compare_metadata()

    def _send(self, request):
        self._server.send(self._database, self._model.name, request.rows, request.encoding, request.change)

    def _change_rows(self, count, **values):
        """With a key: upserts, updates and deletes of rows that are there, whichever version they are of."""
        if not self._model.is_keyed:
            return
        self._send(self._model.upsert(count))
        self._send(self._model.delete(count))
        if values:
            self._server.execute(self._model.update(self._relation, 2 * count, **values))
            self._server.execute(self._model.delete_statement(self._relation, count))

    def _alter(self, *actions, versions=1):
        self._versions += versions
        self._server.execute(f"ALTER TABLE {self._relation} {', '.join(actions)}")

    def _tier(self, rows=None):
        answer = self._server.tier(self._database, self._model.name)
        require(rows is None or answer["rows"] == rows, f"{rows} rows waited, the answer is {answer}")
        self._model.tier()

    def _compare_at_once(self, at):
        with self._case(f"{at} at once, our SQL") as case:
            self._compare_ours(case)
        if self._model.is_keyed:
            with self._case(f"{at} at once, lookups") as case:
                self._compare_lookups(case)

    def _compare_old_writer(self, before):
        """Who still writes the old types and knows nothing of new columns goes on; an old name is nobody's."""
        old_row = pa.Table.from_pylist([{"id": 0, "written": 0}], schema=before)
        with self._case("an old writer goes on") as case:
            try:
                self._server.send(self._database, self._model.name, old_row, "arrow")
            except RuntimeError as error:
                require("unknown_column" in str(error), f"old names are refused with {error}")
            else:
                require(False, "old names are taken")
            names = self._model.schema.names
            known = pa.schema([field for field in before if field.name in names])
            for _ in ENCODINGS:
                self._send(self._model.append(4, schema=known))
            self._compare_ours(case)

    def _compare(self, at, filtered, filtered_slowly=(), is_exact=False):
        """After a round. Some rows stay hot. Slow readers read if there is something that they filter by."""
        self._send(self._model.append(8))
        self._change_rows(1)
        of_lake = None
        with self._case(f"{at} our SQL = the model") as case:
            of_lake = self._compare_ours(case)
        with self._case(f"{at} the lake's columns") as case:
            self._compare_columns(case)
        with self._case(f"{at} our SQL filters") as case:
            self._compare_our_filters(case, filtered)
        for reader in self._readers:
            if reader.is_slow and not filtered_slowly:
                continue
            with self._case(f'{at} {reader.name} = our "$lake"') as case:
                self._compare_reader(case, reader, of_lake)
            with self._case(f"{at} {reader.name} filters") as case:
                self._compare_filters(case, reader, filtered_slowly if reader.is_slow else filtered, is_exact)
        with self._case(f"{at} totals by the manifests") as case:
            lake_checks.require_sound_entries(case, self._duckdb, self._place, len(self._model.tiered))
        metadata = self._place.metadata()
        if metadata.current_snapshot().schema_id == metadata.current_schema_id:
            # Else the newest columns came after it.
            self._snapshots.append((at, metadata.current_snapshot_id, self._lake_schema(), of_lake))
        if self._model.properties["format_version"] == 3:
            self._lineage |= lake_checks.lineage(self._duckdb, self._place)

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
        schema, name = self._model.schema, self._model.id_name
        keys = pa.table([list(self._model.rows)], schema=pa.schema([schema.field(name)]))
        answers = self._server.lookup(self._database, self._model.name, objects_of(keys))
        require(None not in answers, f"{answers.count(None)} of {len(answers)} keys are not found")
        require_same(case, row_hash.fingerprint(self._model.table(self._model.rows), schema),
                     row_hash.fingerprint(rows_of(answers, schema), schema), "the model", "found")

    def _compare_columns(self, case):
        """Names, types and order are the model's; what was there keeps its field id, what is new has an id of its own."""
        metadata = self._place.metadata()
        fields = metadata.schema().fields
        found = [(field.name, field.field_type, field.required) for field in fields]
        wanted = [(field.name, _iceberg_type(field.type), not field.nullable) for field in self._lake_schema()]
        require(found == wanted, f"the lake's columns are {found}\nthe table's are {wanted}")
        columns = [*self._model.columns, *(field.name for field in SYSTEM_COLUMNS)]
        for column, field in zip(columns, fields):
            # By the model's column itself, whatever it is called now.
            key = column if isinstance(column, str) else id(column)
            if key not in self._ids:
                require(field.field_id not in self._ids_used, f"{field} has the id of another column, or had it")
                self._ids[key] = field.field_id, column
            require(self._ids[key][0] == field.field_id, f"{field} had the id {self._ids[key][0]}")
        self._ids_used |= {field.field_id for schema in metadata.schemas for field in schema.fields}
        require(metadata.last_column_id == max(self._ids_used), f"the last id is {metadata.last_column_id}")
        require(all(field.initial_default is None for field in fields), f"old rows have values in {fields}")
        require(len({schema.schema_id for schema in metadata.schemas}) == len(metadata.schemas) == self._versions,
                f"{len(metadata.schemas)} versions of the columns are there, the table had {self._versions}")
        keys = [metadata.schema().find_field(number).name for number in metadata.schema().identifier_field_ids]
        require(keys == list(self._model.key_names), f"the identifier fields are {keys}")
        case.note = f"{len(fields)} columns, {len(metadata.schemas)} versions, ids up to {metadata.last_column_id}"

    def _compare_reader(self, case, reader, of_lake):
        require(of_lake is not None, "our own rows are not known")
        schema = self._lake_schema()
        theirs = reader.rows(self._place, schema.names)
        require_same(case, of_lake, row_hash.fingerprint(theirs, schema), "ours", reader.name)
        count = reader.count(self._place)
        require(count == len(self._model.tiered), f"{reader.name} counts {count} rows, not {len(self._model.tiered)}")

    def _compare_our_filters(self, case, columns):
        asked = 0
        for column, value, equal, below in self._filters(columns):
            literal = f"CAST({_text(value)} AS {sql_type(self._model.column(column).type)})"
            for relation, there in ((self._relation, self._model.rows), (self._lake_relation, self._model.tiered)):
                conditions = {f'"{column}" IS NULL': equal} if value is None else {
                    f'"{column}" = {literal}': equal, f'"{column}" < {literal}': below}
                for condition, holds in conditions.items():
                    found, wanted = self._server.count(f"{relation} WHERE {condition}"), _count(there, column, holds)
                    require(found == wanted, f"{found} rows of {relation} where {condition}, there are {wanted}")
                    asked += 1
        case.note = f"{asked} filters"

    def _compare_filters(self, case, reader, columns, is_exact):
        """Files of older versions have bounds of another type and under another name, or none. `is_exact`: no such file is
        left."""
        asked = 0
        narrow = () if is_exact else NARROW.get(reader.name, ())
        for column, value, equal, below in self._filters(columns, narrow):
            questions = [("=", reader.count_where, equal)]
            if value is not None and not isinstance(value, bool):
                questions.append(("<", reader.count_below, below))
            for name, count, holds in questions[-1:] if reader.is_slow else questions:
                found, wanted = count(self._place, column, value), _count(self._model.tiered, column, holds)
                require(found == wanted,
                        f"{reader.name} finds {found} rows where {column} {name} {value!r}, there are {wanted}")
                asked += 1
        case.note = f"{asked} filters"

    def _filters(self, columns, narrow=()):
        """Column, value, what it is to be equal to it and what to be below it. Values of the `narrow` kinds are such as
        the column's first type has, too."""
        for name in columns:
            column = self._model.column(name)
            cells = [row[name] for row in self._model.tiered.values()]
            plain = [cell for cell in cells
                     if _is_plain(cell, column.first_type if type(cell) in narrow else column.type)]
            for value in dict.fromkeys([*plain[:1], *plain[-1:]]):
                yield name, value, lambda cell, value=value: cell == value, \
                    lambda cell, value=value: cell is not None and cell < value
            yield name, None, lambda cell: cell is None, None

    def _compare_limits(self):
        """What README.md says of readers is still so, as long as there are files with the narrower types."""
        duckdb, pyiceberg, *_ = self._readers
        for reader in (duckdb, pyiceberg):
            with self._case(f"{reader.name} rounds, as we say") as case:
                found = reader.count_where(self._place, "a_real", NOT_REAL)
                wanted = _count(self._model.tiered, "a_real", lambda cell: cell == NOT_REAL)
                case.note = f"{found} rows where {wanted} are equal"
                require(found > wanted, f"{case.note}: README.md should no longer warn of it")
        with self._case("PyIceberg finds nulls, as we say") as case:
            found = pyiceberg.count_below(self._place, "a_smallint", NO_INTEGER)
            wanted = _count(self._model.tiered, "a_smallint", lambda cell: cell is not None and cell < NO_INTEGER)
            case.note = f"{found} rows where {wanted} are below"
            require(found > wanted, f"{case.note}: README.md should no longer warn of it")
        with self._case("PyIceberg refuses, as we say") as case:
            try:
                found = pyiceberg.count_below(self._place, "a_decimal", LONG_DECIMAL)
            except Exception as error:  # whatever a reader raises
                case.note = str(error).strip().splitlines()[0][:80]
            else:
                require(False, f"PyIceberg finds {found} rows: README.md should no longer warn of it")

    def _await_joined(self):
        """Small rounds until none of the files is left that are there now."""
        def add_round():
            self._send(self._model.append(6, without=("priced", "note")))
            self._change_rows(1)
            self._tier()

        with self._case("joins files of several versions") as case:
            lake_checks.require_joined(case, self._data_files(), self._data_files, add_round)

    def _data_files(self):
        entries = self._duckdb.live_entries(self._place.metadata())
        return {entry["file_path"] for entry in entries if entry["content"] == 0}

    def _compare_metadata(self):
        for at, snapshot_id, schema, of_lake in self._snapshots[:-1]:
            with self._case(f"our SQL back: {at.removesuffix(':')}") as case:
                ours = self._select(f"{self._relation} FOR VERSION AS OF {snapshot_id}", schema)
                require_same(case, of_lake, row_hash.fingerprint(ours, schema), "then", "now")
            for reader in self._readers:
                with self._case(f"{reader.name} back: {at.removesuffix(':')}") as case:
                    theirs = reader.rows(self._place, schema.names, snapshot_id)
                    require_same(case, of_lake, row_hash.fingerprint(theirs, schema), "then", "now")
        with self._case("metadata in Spark") as case:
            lake_checks.require_sound_in_spark(case, self._spark, self._duckdb, self._place)
        if self._model.properties["format_version"] == 3:
            with self._case("row ids in Spark and DuckDB") as case:
                lake_checks.require_sound_lineage(case, self._spark, self._duckdb, self._place, self._lineage)

    def _lake_schema(self):
        return pa.schema([*self._model.schema, *SYSTEM_COLUMNS])

    def _select(self, relation, schema):
        named = ", ".join(f'"{name}"' for name in schema.names)
        return self._server.query(f"SELECT {named} FROM {relation}")

    def _case(self, what):
        return self._report.case(self._warehouse.name, self._model.name, what)


def _count(rows, column, holds):
    return sum(holds(row[column]) for row in rows.values())


def _is_plain(value, data_type):
    """Whether it is of the type, and readers agree on what is equal to it."""
    if value is None or "\0" in str(value):
        return False
    if isinstance(value, float):
        with np.errstate(over="ignore"):
            is_of_type = not pa.types.is_float32(data_type) or float(np.float32(value)) == value
        return is_of_type and math.isfinite(value) and value != 0
    try:
        pa.scalar(value, data_type)
    except (pa.ArrowInvalid, OverflowError):
        return False
    return True


def _text(value):
    if isinstance(value, bool):
        return f"'{str(value).lower()}'"
    return "NULL" if value is None else "'" + str(value).replace("'", "''") + "'"


def _iceberg_type(data_type):
    if pa.types.is_decimal(data_type):
        return iceberg.DecimalType(data_type.precision, data_type.scale)
    kinds = {
        iceberg.IntegerType(): (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16()),
        iceberg.LongType(): (pa.int64(), pa.uint32()), iceberg.FloatType(): (pa.float32(),),
        iceberg.DoubleType(): (pa.float64(),), iceberg.BooleanType(): (pa.bool_(),),
        iceberg.StringType(): (pa.string(),), iceberg.BinaryType(): (pa.binary(),), iceberg.DateType(): (pa.date32(),),
        iceberg.TimestamptzType(): (pa.timestamp("us", "UTC"),),
    }
    return next(kind for kind, held in kinds.items() if data_type in held)
