"""Spark with Iceberg, in one Java process for the whole check: it takes seconds to start, and as many for its first
query.

The jars are those that `setup` put beside the packages. Nothing is downloaded, and nothing listens but on loopback. The
Java process ends when the check's process does, however that ends: it watches its standard input.
"""

import datetime
import functools
import os
import pathlib
import sys
import tempfile

import pyarrow.parquet
import pyspark.sql
import pyspark.sql.functions as F

_JARS = pathlib.Path(sys.prefix) / "jars"
_ICEBERG_JARS = ("snowpark_connect_deps_iceberg/jars", ["iceberg-spark-runtime-3.5_2.12-*"])
_S3_JARS = ("bodo_iceberg_connector/jars/libs",
            ["hadoop-aws-*", "aws-java-sdk-core-*", "aws-java-sdk-s3-*", "aws-java-sdk-dynamodb-*", "joda-time-*"])
_SETTINGS = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "1g",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": "2",
    # How answers are handed over: as Parquet whose timestamps are what they are elsewhere, those of the year 1 too.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
}


class SparkSession:
    """Running from `with` to its end. Each warehouse is a Hadoop catalog of the warehouse's name."""

    def __init__(self, directory):
        """What Spark writes for itself goes to `directory`."""
        self._directory = pathlib.Path(directory)
        self._spark = None

    def __enter__(self):
        os.environ["PYSPARK_PYTHON"] = sys.executable
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
        logging = self._directory / "log4j2.properties"
        # Spark warns of much that is no concern of ours, before its own setting for that can be reached.
        logging.write_text("rootLogger.level = error\nrootLogger.appenderRef.console.ref = console\n"
                           "logger.repl.name = org.apache.spark.repl.Main\nlogger.repl.level = error\n"
                           "appender.console.type = Console\nappender.console.name = console\n"
                           "appender.console.target = SYSTEM_ERR\nappender.console.layout.type = PatternLayout\n"
                           "appender.console.layout.pattern = Spark: %p %c{1}: %m%n%ex\n")
        jars = [path for directory, names in (_ICEBERG_JARS, _S3_JARS) for name in names
                for path in _the_jars(_JARS / directory, name)]
        builder = pyspark.sql.SparkSession.builder.master("local[2]").appName("readers-check")
        for name, value in _SETTINGS.items():
            builder = builder.config(name, value)
        self._spark = (builder
                       .config("spark.jars", ",".join(map(str, jars)))
                       .config("spark.local.dir", self._directory)
                       .config("spark.sql.warehouse.dir", self._directory / "unused")
                       .config("spark.driver.extraJavaOptions", f"-Dlog4j2.configurationFile={logging}")
                       .getOrCreate())
        return self

    def __exit__(self, *_):
        self._spark.stop()

    def add_catalog(self, warehouse):
        catalog = f"spark.sql.catalog.{warehouse.name}"
        settings = {catalog: "org.apache.iceberg.spark.SparkCatalog", f"{catalog}.type": "hadoop",
                    f"{catalog}.warehouse": warehouse.url,
                    # Otherwise Spark answers for half a minute from the table as it was.
                    f"{catalog}.cache-enabled": "false"}
        if warehouse.s3:
            given = warehouse.s3.environment()
            hadoop = {
                "fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem", "fs.s3a.path.style.access": "true",
                "fs.s3a.endpoint": given["AWS_ENDPOINT_URL_S3"], "fs.s3a.endpoint.region": given["AWS_REGION"],
                "fs.s3a.access.key": given["AWS_ACCESS_KEY_ID"], "fs.s3a.secret.key": given["AWS_SECRET_ACCESS_KEY"],
                "fs.s3a.connection.ssl.enabled": "false",
            }
            settings |= {f"{catalog}.hadoop.{name}": value for name, value in hadoop.items()}
        for name, value in settings.items():
            self._spark.conf.set(name, value)

    def table(self, *names, snapshot_id=None):
        """A data frame of what a catalog, a database and a table are called, and maybe one of its metadata tables; or of
        one of the table's snapshots, in the columns of then, which the read option `snapshot-id` would not give."""
        name = ".".join(f"`{name}`" for name in names)
        if snapshot_id is None:
            return self._spark.read.table(name)
        return self._spark.sql(f"SELECT * FROM {name} VERSION AS OF {snapshot_id}")

    def counts(self, frames):
        """How many rows each has, of one query."""
        placed = [frame.select(F.lit(place).alias("place")) for place, frame in enumerate(frames)]
        found = functools.reduce(pyspark.sql.DataFrame.unionAll, placed).groupBy("place").count().collect()
        counts = {row["place"]: row["count"] for row in found}
        return [counts.get(place, 0) for place in range(len(frames))]

    def to_arrow(self, frame):
        with tempfile.TemporaryDirectory(dir=self._directory) as directory:
            path = f"{directory}/rows"
            frame.write.parquet(path)
            return pyarrow.parquet.read_table(path)


def where(frame, column, value):
    cells = F.col(f"`{column}`")
    if value is None:
        return frame.where(cells.isNull())
    if type(value) is datetime.date:
        # As text, because PySpark does not hand over the year 1. Spark makes a constant of it before it plans.
        return frame.where(cells == F.lit(value.isoformat()).cast("date"))
    return frame.where(cells == F.lit(value))


def below(frame, column, value):
    return frame.where(F.col(f"`{column}`") < F.lit(value))


def _the_jars(directory, name):
    found = list(directory.glob(f"{name}.jar"))
    if not found:
        raise RuntimeError(f"no {name}.jar is in {directory}: was setup run?")
    return found
