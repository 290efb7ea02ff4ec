"""What must hold of an Iceberg table's metadata whoever wrote it: deletes that fit their files, totals that add up, row
ids that are nobody else's.

What the manifests say is read by DuckDB's Avro reader and by Iceberg's own library in Spark; they must agree. The
server may write files anew meanwhile: what takes more than one look counts only if the table's version was one and the
same.
"""

import time

from report import require

# A run of files waits for so many rounds at most: the server joins eight alike, and looks for such every four versions.
ROUNDS_UNTIL_JOINED_MAX = 20
JOINED_SECONDS_MAX = 60
_DATA, _POSITION_DELETES = 0, 1
_DELETED = 2
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


def at_one_version(place, look):
    """Runs `look` on the table's metadata, again if the table has got a new version meanwhile."""
    while True:
        version = place.version()
        try:
            return look(place.metadata(version))
        except Exception:
            if place.version() == version:
                raise
        if place.version() == version:
            return None


def require_joined(case, before, files, add_round):
    """Adds rounds until none of the files `before` is left. Files are joined beside rounds: when those are enough, it is
    waited until the server has come to it."""
    require(before, "there are no files that could be joined")
    rounds, left, deadline = 0, before, time.monotonic() + JOINED_SECONDS_MAX
    while left and time.monotonic() < deadline:
        if rounds < ROUNDS_UNTIL_JOINED_MAX:
            add_round()
            rounds += 1
        else:
            time.sleep(0.1)
        left = before & files()
    case.note = f"{len(before)} files, after {rounds} rounds"
    require(not left, f"{len(left)} of {case.note} are left: {sorted(left)[:2]}")


def require_sound_entries(case, duckdb, place, rows):
    """The current snapshot's manifests: at most one live delete entry for each data file, and `rows` rows are left."""
    metadata = place.metadata()
    entries = duckdb.live_entries(metadata)
    data, deletes = _parted(entries)
    paths = {entry["file_path"] for entry in entries}
    by_path = {entry["file_path"]: entry for entry in data}
    require(len(by_path) == len(data), f"{len(data)} entries of data files have {len(by_path)} paths")
    hidden = {}
    for entry in deletes:
        of, count = entry["referenced_data_file"], entry["record_count"]
        require(of in by_path, f"deletes of {of}, which is no live data file: {entry}")
        require(of not in hidden, f"two live delete entries of {of}")
        require(0 < count <= by_path[of]["record_count"], f"{count} deletes of {by_path[of]}")
        hidden[of] = count
        wanted = "PUFFIN" if metadata.format_version == 3 else "PARQUET"
        require(entry["file_format"].upper() == wanted, f"deletes are {entry['file_format']}, not {wanted}: {entry}")
        if wanted == "PUFFIN":
            is_placed = entry["content_offset"] is not None and entry["content_size_in_bytes"]
            require(is_placed, f"a vector nowhere: {entry}")
    left = sum(entry["record_count"] for entry in data) - sum(hidden.values())
    require(left == rows, f"{left} rows are left by the manifests, {rows} by our SQL")
    snapshot = metadata.current_snapshot()
    if snapshot is not None:
        summary = snapshot.summary.additional_properties
        for name, counted in _TOTALS.items():
            require(summary.get(name) == str(counted(data, deletes)),
                    f"{name} is {summary.get(name)} in the summary, {counted(data, deletes)} in the manifests")
    case.note = f"{len(deletes)} entries for {len(data)} files in {len(paths)} objects"


def require_sound_manifests(duckdb, place):
    """The list says of each of the current snapshot's manifests what stands in it: counts, the least sequence number,
    the bounds of the one partition field. What was deleted earlier is not carried along. The manifests."""
    manifests = duckdb.manifests(place.metadata())
    for manifest in manifests:
        entries = duckdb.entries(manifest)
        for status, kind in enumerate(("existing", "added", "deleted")):
            own = [entry for entry in entries if entry["status"] == status]
            counts = len(own), sum(entry["data_file"]["record_count"] for entry in own)
            told = manifest[f"{kind}_files_count"], manifest[f"{kind}_rows_count"]
            require(counts == told, f"{kind} are {counts}, and by the list {told}: {manifest}")
        for entry in entries:
            is_own = entry["snapshot_id"] in (None, manifest["added_snapshot_id"])
            require(is_own == (entry["status"] != 0), f"an entry of another commit: {entry} in {manifest}")
        alive = [entry for entry in entries if entry["status"] != _DELETED]
        numbers = [entry["sequence_number"] or manifest["sequence_number"] for entry in alive]
        if numbers:
            require(min(numbers) == manifest["min_sequence_number"], f"the least number is {min(numbers)}: {manifest}")
        values = [value for entry in entries for value in entry["data_file"]["partition"].values()]
        (field,) = manifest["partitions"]
        bounds = [int.from_bytes(field[name], "little", signed=True) for name in ("lower_bound", "upper_bound")]
        require([min(values), max(values)] == bounds, f"partitions {sorted(values)} are within {bounds}: {manifest}")
    return manifests


def require_sound_in_spark(case, spark, duckdb, place):
    """Iceberg's own library reads the same of the metadata, and every snapshot's totals follow from its parent's."""
    at_one_version(place, lambda metadata: _require_sound_in_spark(case, spark, duckdb, place, metadata))


def _require_sound_in_spark(case, spark, duckdb, place, metadata):
    columns = ["content", "file_path", "file_format", "record_count", "file_size_in_bytes", "content_offset"]
    entries = duckdb.live_entries(metadata)
    ours, theirs = (sorted(tuple(map(str, (entry.get(name) for name in columns))) for entry in found)
                    for found in (entries, spark.metadata_rows(place, "files", columns)))
    require(ours == theirs, f"Spark's files are {theirs}\nDuckDB's are {ours}")
    data, deletes = _parted(entries)
    hiding = spark.metadata_rows(place, "delete_files", ["referenced_data_file", "record_count"])
    require(sorted((entry["referenced_data_file"], entry["record_count"]) for entry in hiding)
            == sorted((entry["referenced_data_file"], entry["record_count"]) for entry in deletes),
            f"Spark's delete files are {hiding}")
    hidden = spark.metadata_rows(place, "position_deletes", ["file_path", "pos"])
    places = [(row["file_path"], row["pos"]) for row in hidden]
    require(len(places) == len(set(places)) == sum(entry["record_count"] for entry in deletes),
            f"{len(places)} deleted positions, {len(set(places))} of them different, do not fit {hiding}")
    snapshots = {row["snapshot_id"]: row for row in spark.metadata_rows(
        place, "snapshots", ["snapshot_id", "parent_id", "operation", "summary", "committed_at"])}
    require(snapshots.keys() == {snapshot.snapshot_id for snapshot in metadata.snapshots}, f"{snapshots.keys()}")
    for snapshot in snapshots.values():
        _require_totals_follow(snapshot, snapshots.get(snapshot["parent_id"]))
    case.note = f"{len(snapshots)} snapshots, {len(data)} + {len(deletes)} files, {len(places)} positions"


def require_sound_lineage(case, spark, duckdb, place, before=None):
    """Format 3: every row has an id of its own and the number of the commit that wrote it, and keeps both. `before` is
    what `lineage` found some time ago."""
    at_one_version(place, lambda metadata: _require_sound_lineage(case, spark, duckdb, place, metadata, before or {}))


def lineage(reader, place):
    """Row id and number of each row, by its bucket and offset."""
    rows = reader.rows(place, ["__bucket", "__offset", *_LINEAGE]).to_pydict()
    return dict(zip(zip(rows["__bucket"], rows["__offset"]), zip(*(rows[name] for name in _LINEAGE))))


def _require_sound_lineage(case, spark, duckdb, place, metadata, before):
    found = lineage(spark, place)
    require(found == lineage(duckdb, place), "Spark's row ids and numbers are not DuckDB's")
    ids = [row_id for row_id, _ in found.values()]
    require(len(set(ids)) == len(ids), f"{len(ids)} rows have {len(set(ids))} row ids")
    for place_of_row, (row_id, number) in found.items():
        require(row_id is not None and 0 <= row_id < metadata.next_row_id,
                f"row {place_of_row} has the id {row_id}, the next one is {metadata.next_row_id}")
        require(number is not None and 0 < number <= metadata.last_sequence_number,
                f"row {place_of_row} has the number {number}, the last is {metadata.last_sequence_number}")
        was = before.get(place_of_row, (row_id, number))
        require(was == (row_id, number), f"row {place_of_row} has the id and number {(row_id, number)}, and had {was}")
    # Later offsets come with later commits.
    newest = {}
    for (bucket, offset), (_, number) in sorted(found.items()):
        require(number >= newest.get(bucket, 0), f"offset {offset} of bucket {bucket} is of commit {number}, too early")
        newest[bucket] = number
    kept = len(before.keys() & found.keys())
    case.note = f"{len(found):,} rows, ids below {metadata.next_row_id:,}, {kept} known from before"


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
