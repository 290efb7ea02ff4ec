"""The Iceberg tables as a stranger finds them: by their path alone, without asking the server.

A reader has a `name` and two methods, `rows` and `count_where`. Another one, such as Spark, is another class with these
two and one more line in `readers_of`.
"""

import dataclasses
import pathlib
import re
import urllib.parse

import duckdb
from pyiceberg.expressions import EqualTo, IsNull
from pyiceberg.table import StaticTable

from s3_server import S3Server

_METADATA_NAME = re.compile(r"v(\d+)\.metadata\.json")
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
        }

    def table(self, database, table):
        return LakeTable(self, f"{self.url}/{database}/{table}")


@dataclasses.dataclass(frozen=True)
class LakeTable:
    warehouse: Warehouse
    url: str

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

    def metadata_url(self):
        return f"{self.url}/metadata/v{self.version()}.metadata.json"

    def metadata(self):
        """As PyIceberg understands it."""
        return StaticTable.from_metadata(self.metadata_url(), self.warehouse.pyiceberg_properties()).metadata

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


def readers_of(warehouse):
    return [DuckDB(warehouse), PyIceberg(warehouse)]


class DuckDB:
    """Reads the table's directory, as a person would type it."""

    name = "DuckDB"

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

    def rows(self, table, columns):
        named = ", ".join(f'"{column}"' for column in columns)
        return self._connection.execute(f"SELECT {named} FROM iceberg_scan('{table.path}')").to_arrow_table()

    def count_where(self, table, column, value):
        condition = f'"{column}" IS NULL' if value is None else f'"{column}" = $1'
        return self._connection.execute(
            f"SELECT count(*) FROM iceberg_scan('{table.path}') WHERE {condition}", [] if value is None else [value],
        ).fetchone()[0]


class PyIceberg:
    """Reads the newest metadata file."""

    name = "PyIceberg"

    def __init__(self, warehouse):
        self._properties = warehouse.pyiceberg_properties()

    def rows(self, table, columns):
        scanned = self._table(table).scan(selected_fields=tuple(columns)).to_arrow()
        return scanned.select(columns)

    def count_where(self, table, column, value):
        condition = IsNull(column) if value is None else EqualTo(column, value)
        return self._table(table).scan(row_filter=condition, selected_fields=(column,)).to_arrow().num_rows

    def _table(self, table):
        return StaticTable.from_metadata(table.metadata_url(), self._properties)


def duckdb_connection():
    """In memory, installing nothing, with times in UTC."""
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _extension_path(name):
    package = __import__(f"duckdb_extension_{name}")
    return pathlib.Path(package.__file__).parent / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
