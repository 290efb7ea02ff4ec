"""What must hold of an Iceberg table's metadata whoever wrote it: deletes that fit their files, totals that add up, row
ids that are nobody else's.

What the manifests say is read by DuckDB's Avro reader and by Iceberg's own library in Spark; they must agree.
"""

import pyarrow.compute as pc

from report import require

_DATA, _POSITION_DELETES = 0, 1
_LINEAGE = ["_row_id", "_last_updated_sequence_number"]
# Name in a snapshot's summary: what it counts of entries, data and deletes.
_TOTALS = {
    "total-data-files": lambda data, deletes: len(data),
    "total-records": lambda data, deletes: sum(entry["record_count"] for entry in data),
    "total-delete-files": lambda data, deletes: len(deletes),
    "total-position-deletes": lambda data, deletes: sum(entry["record_count"] for entry in deletes),
    "total-equality-deletes": lambda data, deletes: 0,
    "total-files-size": lambda data, deletes: sum(map(_bytes, data + deletes)),
}


def require_sound_entries(case, duckdb, place, rows):
    """The current snapshot's manifests: at most one live delete entry for each data file, and `rows` rows are left."""
    metadata = place.metadata()
    entries = duckdb.live_entries(place)
    data, deletes = _parted(entries)
    paths = {entry["file_path"] for entry in entries}
    by_path = {entry["file_path"]: entry for entry in data}
    require(len(by_path) == len(data), f"{len(data)} entries of data files have {len(by_path)} paths")
    hidden = {}
    for entry in deletes:
        of, count = entry["referenced_data_file"], entry["record_count"]
        require(of in by_path, f"deletes of {of}, which is no live data file: {entry}")
        require(of not in hidden, f"two live delete entries of {of}")
        require(0 < count <= by_path[of]["record_count"], f"{count} deletes of {by_path[of]['record_count']} rows: {of}")
        hidden[of] = count
        wanted = "PUFFIN" if metadata.format_version == 3 else "PARQUET"
        require(entry["file_format"].upper() == wanted, f"deletes are {entry['file_format']}, not {wanted}: {entry}")
        if wanted == "PUFFIN":
            require(entry["content_offset"] is not None and entry["content_size_in_bytes"], f"a vector nowhere: {entry}")
    left = sum(entry["record_count"] for entry in data) - sum(hidden.values())
    require(left == rows, f"{left} rows are left by the manifests, {rows} by our SQL")
    snapshot = metadata.current_snapshot()
    if snapshot is not None:
        summary = snapshot.summary.additional_properties
        for name, counted in _TOTALS.items():
            require(summary.get(name) == str(counted(data, deletes)),
                    f"{name} is {summary.get(name)} in the summary, {counted(data, deletes)} in the manifests")
    case.note = f"{len(deletes)} entries for {len(data)} files in {len(paths)} objects"


def require_sound_in_spark(case, spark, duckdb, place):
    """Iceberg's own library reads the same of the metadata; and the totals of every snapshot follow from its parent's."""
    columns = ["content", "file_path", "file_format", "record_count", "file_size_in_bytes", "content_offset"]
    entries = duckdb.live_entries(place)
    ours, theirs = (sorted(tuple(map(str, (entry.get(name) for name in columns))) for entry in found)
                    for found in (entries, spark.metadata_rows(place, "files", columns)))
    require(ours == theirs, f"Spark's files are {theirs}\nDuckDB's are {ours}")
    data, deletes = _parted(entries)
    hiding = spark.metadata_rows(place, "delete_files", ["content", "file_path", "referenced_data_file", "record_count"])
    require(sorted((entry["referenced_data_file"], entry["record_count"]) for entry in hiding)
            == sorted((entry["referenced_data_file"], entry["record_count"]) for entry in deletes),
            f"Spark's delete files are {hiding}")
    places = [(row["file_path"], row["pos"]) for row in spark.metadata_rows(place, "position_deletes", ["file_path", "pos"])]
    require(len(places) == len(set(places)) == sum(entry["record_count"] for entry in deletes),
            f"{len(places)} deleted positions, {len(set(places))} of them different, do not fit {hiding}")
    snapshots = {row["snapshot_id"]: row for row in spark.metadata_rows(
        place, "snapshots", ["snapshot_id", "parent_id", "operation", "summary", "committed_at"])}
    metadata = place.metadata()
    require(snapshots.keys() == {snapshot.snapshot_id for snapshot in metadata.snapshots}, f"{snapshots.keys()}")
    for snapshot in snapshots.values():
        _require_totals_follow(snapshot, snapshots.get(snapshot["parent_id"]))
    case.note = f"{len(snapshots)} snapshots, {len(data)} + {len(deletes)} files, {len(places)} positions"


def require_sound_lineage(case, spark, duckdb, place):
    """Format 3: every row has an id of its own, and the number of the commit that wrote it."""
    columns = [*_LINEAGE, "__bucket", "__offset"]
    rows = spark.rows(place, columns).sort_by([("__bucket", "ascending"), ("__offset", "ascending")])
    theirs = duckdb.rows(place, columns).sort_by([("__bucket", "ascending"), ("__offset", "ascending")])
    require(rows.to_pylist() == theirs.cast(rows.schema).to_pylist(), "Spark's row ids and numbers are not DuckDB's")
    ids, numbers = (rows[name] for name in _LINEAGE)
    metadata = place.metadata()
    require(ids.null_count == numbers.null_count == 0, f"{ids.null_count} row ids and {numbers.null_count} numbers are null")
    require(len(pc.unique(ids)) == rows.num_rows, f"{rows.num_rows} rows have {len(pc.unique(ids))} row ids")
    if rows.num_rows:
        require(0 <= pc.min(ids).as_py() and pc.max(ids).as_py() < metadata.next_row_id,
                f"row ids are {pc.min_max(ids)}, the next one is {metadata.next_row_id}")
        require(0 < pc.min(numbers).as_py() and pc.max(numbers).as_py() <= metadata.last_sequence_number,
                f"sequence numbers are {pc.min_max(numbers)}, the last is {metadata.last_sequence_number}")
    # Later offsets come with later commits.
    for bucket in pc.unique(rows["__bucket"]).to_pylist():
        of_bucket = rows.filter(pc.equal(rows["__bucket"], bucket))[_LINEAGE[1]].to_pylist()
        require(of_bucket == sorted(of_bucket), f"bucket {bucket}: numbers do not ascend with offsets: {of_bucket}")
    case.note = f"{rows.num_rows:,} rows, ids below {metadata.next_row_id:,}"


def _require_totals_follow(snapshot, parent):
    """`total = parent's total + added − removed`, as Iceberg's own writers have it."""
    summary = snapshot["summary"]
    if parent is None and snapshot["parent_id"] is not None:
        return  # expired
    before = parent["summary"] if parent else {}
    for total, added, removed in [
        ("total-data-files", "added-data-files", "deleted-data-files"),
        ("total-records", "added-records", "deleted-records"),
        ("total-delete-files", "added-delete-files", "removed-delete-files"),
        ("total-position-deletes", "added-position-deletes", "removed-position-deletes"),
        ("total-files-size", "added-files-size", "removed-files-size"),
    ]:
        numbers = [int(values.get(name, 0)) for values, name in ((before, total), (summary, added), (summary, removed))]
        follows = numbers[0] + numbers[1] - numbers[2]
        require(int(summary[total]) == follows, f"{total} is {summary[total]}, not {follows} = {numbers} in {snapshot}")


def _parted(entries):
    kinds = {entry["content"] for entry in entries}
    require(kinds <= {_DATA, _POSITION_DELETES}, f"the kinds of entries are {kinds}")
    return tuple([entry for entry in entries if entry["content"] == kind] for kind in (_DATA, _POSITION_DELETES))


def _bytes(entry):
    """A vector is counted by its own bytes, not by those of the file it shares."""
    return entry.get("content_size_in_bytes") or entry["file_size_in_bytes"]
