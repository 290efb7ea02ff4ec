"""The Iceberg tables as a stranger finds them: by their path alone, without asking the server.

A reader has a `name` and four methods: `rows` of some columns as an Arrow table, of the newest snapshot or of an older
one; `count` as the engine itself counts, which may go by metadata; and `count_where` a column has a value and
`count_below` one, which may skip files. A slow one, whose every query takes about a second, `is_slow` and is asked less.
Another one is another class with these, and a word in `readers_of`.
"""

import dataclasses
import pathlib
import re
import urllib.parse

import duckdb
import polars
from pyiceberg.expressions import EqualTo, IsNull, LessThan
from pyiceberg.table import StaticTable

import spark_session
from s3_server import S3Server

_METADATA_NAME = re.compile(r"v(\d+)\.metadata\.json")
_ATTEMPTS_MAX = 5
_EXTENSIONS = ("avro", "httpfs", "iceberg")  # in this order: the last needs the first


@dataclasses.dataclass(frozen=True)
class Warehouse:
    """A local directory, or a prefix of a bucket on `s3`."""

    name: str
    url: str
    s3: S3Server | None = None

    def environment(self):
        return self.s3.environment() if self.s3 else {}

    def pyiceberg_properties(self):
        if not self.s3:
            return {}
        given = self.s3.environment()
        return {
            "s3.endpoint": given["AWS_ENDPOINT_URL_S3"], "s3.access-key-id": given["AWS_ACCESS_KEY_ID"],
            "s3.secret-access-key": given["AWS_SECRET_ACCESS_KEY"], "s3.region": given["AWS_REGION"],
            "s3.path-style-access": "true",
        }

    def table(self, database, table):
        return LakeTable(self, database, table)


@dataclasses.dataclass(frozen=True)
class LakeTable:
    warehouse: Warehouse
    database: str
    name: str

    @property
    def url(self):
        return f"{self.warehouse.url}/{self.database}/{self.name}"

    @property
    def path(self):
        """As people write it: a plain path for local directories."""
        return self.url.removeprefix("file://")

    def version(self):
        """The number of the newest metadata file. Looked up by listing, so that the hint file is not believed."""
        names = (_METADATA_NAME.fullmatch(name) for name in self._metadata_names())
        versions = [int(name[1]) for name in names if name]
        if not versions:
            raise RuntimeError(f"no metadata file is in {self.url}/metadata")
        return max(versions)

    def metadata_url(self, version=None):
        """Of the newest version, or of one."""
        return f"{self.url}/metadata/v{version or self.version()}.metadata.json"

    def metadata(self, version=None):
        """As PyIceberg understands it."""
        return self.static_table(version).metadata

    def static_table(self, version=None):
        """As PyIceberg's own."""
        return StaticTable.from_metadata(self.metadata_url(version), self.warehouse.pyiceberg_properties())

    def hint(self):
        """What `version-hint.text` says, by which readers of a bare directory go."""
        if not self.warehouse.s3:
            return pathlib.Path(self.path, "metadata", "version-hint.text").read_text().strip()
        bucket, prefix = self._bucket_and_prefix()
        found = self.warehouse.s3.client().get_object(Bucket=bucket, Key=f"{prefix}/metadata/version-hint.text")
        return found["Body"].read().decode().strip()

    def _metadata_names(self):
        if not self.warehouse.s3:
            return [path.name for path in pathlib.Path(self.path, "metadata").iterdir()]
        bucket, prefix = self._bucket_and_prefix()
        pages = self.warehouse.s3.client().get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=f"{prefix}/metadata/")
        return [entry["Key"].rpartition("/")[2] for page in pages for entry in page.get("Contents", [])]

    def _bucket_and_prefix(self):
        url = urllib.parse.urlsplit(self.url)
        return url.netloc, url.path.lstrip("/")


def readers_of(warehouse, session):
    """The quick ones, and Spark in its `session`, which is not."""
    return [DuckDB(warehouse), PyIceberg(warehouse), Polars(warehouse), Spark(warehouse, session)]


class DuckDB:
    """Reads the table's directory, as a person would type it."""

    name = "DuckDB"
    is_slow = False

    def __init__(self, warehouse):
        self._connection = duckdb_connection()
        for name in _EXTENSIONS:
            self._connection.execute(f"LOAD '{_extension_path(name)}'")
        if warehouse.s3:
            given = warehouse.s3.environment()
            self._connection.execute(f"""
                CREATE SECRET lake (TYPE s3, PROVIDER config, KEY_ID '{given["AWS_ACCESS_KEY_ID"]}',
                    SECRET '{given["AWS_SECRET_ACCESS_KEY"]}', REGION '{given["AWS_REGION"]}',
                    ENDPOINT '{urllib.parse.urlsplit(given["AWS_ENDPOINT_URL_S3"]).netloc}',
                    URL_STYLE 'path', USE_SSL false)""")

    def rows(self, table, columns, snapshot_id=None):
        named = ", ".join(f'"{column}"' for column in columns)
        at = "" if snapshot_id is None else f", snapshot_from_id = {snapshot_id}"
        return self._execute(f"SELECT {named} FROM iceberg_scan('{table.path}'{at})").to_arrow_table()

    def count(self, table):
        return self._execute(f"SELECT count(*) FROM iceberg_scan('{table.path}')").fetchone()[0]

    def count_where(self, table, column, value):
        condition = f'"{column}" IS NULL' if value is None else f'"{column}" = $1'
        arguments = [] if value is None else [value]
        statement = f"SELECT count(*) FROM iceberg_scan('{table.path}') WHERE {condition}"
        return self._execute(statement, arguments).fetchone()[0]

    def count_below(self, table, column, value):
        return self.count_in(table, f'"{column}" < $1', [value])

    def _execute(self, statement, arguments=()):
        """Asks again, as DuckDB says, if the version hint on S3 has changed while it was being read."""
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            try:
                return self._connection.execute(statement, list(arguments))
            except duckdb.HTTPException as error:
                if attempt == _ATTEMPTS_MAX or "version-hint.text" not in str(error) or "ETag" not in str(error):
                    raise

    def keep(self, name, rows):
        """Arrow rows as a table of DuckDB's own. In Arrow's it leaves filters to Arrow, whose NaN is another one."""
        self._connection.register("given", rows)
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM given")

    def count_in(self, relation, condition, arguments):
        """By any condition; `relation` is a table of the lake, or the name of a kept one."""
        source = f"iceberg_scan('{relation.path}')" if isinstance(relation, LakeTable) else relation
        return self._execute(f"SELECT count(*) FROM {source} WHERE {condition}", arguments).fetchone()[0]

    def live_entries(self, metadata):
        """The current snapshot's files, data and deletes, as its manifests have them: one dictionary for each."""
        entries = [self._connection.execute(
            "SELECT unnest(data_file) FROM read_avro($1) WHERE status <> 2", [manifest["manifest_path"]])
            .to_arrow_table().to_pylist() for manifest in self.manifests(metadata)]
        return [entry for of_manifest in entries for entry in of_manifest]

    def manifests(self, metadata):
        """The current snapshot's manifests, as their list has them."""
        snapshot = metadata.current_snapshot()
        if snapshot is None:
            return []
        return self._connection.execute("SELECT * FROM read_avro($1)", [snapshot.manifest_list]).to_arrow_table().to_pylist()

    def entries(self, manifest):
        """All that stands in one of them, also what is deleted."""
        return self._connection.execute("SELECT * FROM read_avro($1)", [manifest["manifest_path"]]).to_arrow_table().to_pylist()


class PyIceberg:
    """Reads the newest metadata file."""

    name = "PyIceberg"
    is_slow = False

    def __init__(self, warehouse):
        self._properties = warehouse.pyiceberg_properties()

    def rows(self, table, columns, snapshot_id=None):
        scanned = self._table(table).scan(selected_fields=tuple(columns), snapshot_id=snapshot_id).to_arrow()
        return scanned.select(columns)

    def count(self, table):
        return self._table(table).scan().count()

    def count_where(self, table, column, value):
        return self.count_if(table, IsNull(column) if value is None else EqualTo(column, value), column)

    def count_below(self, table, column, value):
        return self.count_if(table, LessThan(column, value), column)

    def count_if(self, table, condition, column):
        return self._table(table).scan(row_filter=condition, selected_fields=(column,)).to_arrow().num_rows

    def _table(self, table):
        return StaticTable.from_metadata(table.metadata_url(), self._properties)


class Polars:
    """Reads the newest metadata file, with its own reader of Parquet and of deletes."""

    name = "Polars"
    is_slow = False

    def __init__(self, warehouse):
        self._properties = warehouse.pyiceberg_properties()

    def rows(self, table, columns, snapshot_id=None):
        return self._frame(table, snapshot_id).select(columns).collect().to_arrow()

    def count(self, table):
        return self._frame(table).select(polars.len()).collect().item()

    def count_where(self, table, column, value):
        cells = polars.col(column)
        return self.count_if(table, cells.is_null() if value is None else cells == polars.lit(value))

    def count_below(self, table, column, value):
        return self.count_if(table, polars.col(column) < polars.lit(value))

    def count_if(self, table, condition):
        return self._frame(table).filter(condition).select(polars.len()).collect().item()

    def _frame(self, table, snapshot_id=None):
        return polars.scan_iceberg(
            table.metadata_url(), snapshot_id=snapshot_id, storage_options=self._properties or None)


class Spark:
    """Reads by the Hadoop catalog of the warehouse."""

    name = "Spark"
    is_slow = True

    def __init__(self, warehouse, session):
        self._session = session
        session.add_catalog(warehouse)

    def rows(self, table, columns, snapshot_id=None):
        return self._session.to_arrow(self._frame(table, snapshot_id).select(columns))

    def count(self, table):
        return self._frame(table).count()

    def count_where(self, table, column, value):
        return spark_session.where(self._frame(table), column, value).count()

    def count_below(self, table, column, value):
        return spark_session.below(self._frame(table), column, value).count()

    def counts_of(self, table, conditions):
        """By each of some conditions, in one go. Each is planned by itself."""
        return self._session.counts([self._frame(table).where(condition) for condition in conditions])

    def metadata_rows(self, table, name, columns):
        """Of one of the tables that Iceberg's own library makes of a table's metadata, such as `files`."""
        frame = self._session.table(table.warehouse.name, table.database, table.name, name)
        return [row.asDict(recursive=True) for row in frame.select(columns).collect()]

    def _frame(self, table, snapshot_id=None):
        return self._session.table(table.warehouse.name, table.database, table.name, snapshot_id=snapshot_id)


def duckdb_connection():
    """In memory, installing nothing, with times in UTC."""
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _extension_path(name):
    package = __import__(f"duckdb_extension_{name}")
    return pathlib.Path(package.__file__).parent / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
