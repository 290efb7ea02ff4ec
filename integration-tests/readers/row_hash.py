#!/usr/bin/env python3
"""A fingerprint of a table's rows that no engine has a part in: the same rows in any order, in any batches and from any
reader give the same numbers; one other cell, one row less or one row twice give others.

Every cell becomes a 64-bit word by what it means, not by how an engine likes to hold it: integers of all widths by value,
decimals by their unscaled number, times as microseconds, floats by their bits (one NaN, but 0.0 and -0.0 stay two), text
and bytes by their bytes, null as itself. The words of a row are mixed in the order of columns; the rows are added up.

What may stand for what is narrow: an engine that gives text for a number, or a timestamp with a zone for one without, is
an error here and not a cast. Run as a program, it shows on made-up rows that all this is so.
"""

import dataclasses
import hashlib
import sys
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_EXAMPLES_SHOWN = 3
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """`total` and `parity` are of all rows; `columns` of each column by itself, only to say where a difference is."""

    count: int
    total: int
    parity: int
    columns: dict
    table: pa.Table = dataclasses.field(repr=False, compare=False)
    row_words: np.ndarray = dataclasses.field(repr=False, compare=False)


def fingerprint(table, schema, exact_types=False):
    """Of `table`'s rows as rows of `schema`. With `exact_types` no type may differ from the schema's, not even in width."""
    if table.column_names != schema.names:
        raise ValueError(f"the columns are {table.column_names}, not {schema.names}")
    row_words = np.zeros(table.num_rows, np.uint64)
    columns = {}
    for field in schema:
        cells = _cell_words(table[field.name], field, exact_types)
        columns[field.name] = int(cells.sum(dtype=np.uint64))
        row_words = _mix(row_words * _ODD + cells)
    return Fingerprint(
        count=table.num_rows, total=int(row_words.sum(dtype=np.uint64)),
        parity=int(np.bitwise_xor.reduce(row_words, initial=np.uint64(0))),
        columns=columns, table=table, row_words=row_words)


def difference(left, right):
    """What tells two unequal fingerprints apart, in a few lines; None if they are equal."""
    if left == right:
        return None
    lines = [f"{left.count:,} rows and {right.count:,} rows"]
    columns = [name for name in left.columns if left.columns[name] != right.columns[name]]
    lines.append(f"columns that differ: {', '.join(columns) or 'none by itself, but which cells make a row'}")
    for side, these, others in (("left", left, right), ("right", right, left)):
        lines += [f"only {side}: {row}" for row in _rows_only_in(these, others)]
    return "\n".join(lines)


def _rows_only_in(these, others):
    """A few rows that one side has more often than the other."""
    words, first, counts = np.unique(these.row_words, return_index=True, return_counts=True)
    other_words, other_counts = np.unique(others.row_words, return_counts=True)
    there = dict(zip(other_words.tolist(), other_counts.tolist()))
    surplus = [count - there.get(word, 0) for word, count in zip(words.tolist(), counts.tolist())]
    indices = [place for place, more in enumerate(surplus) if more > 0]
    for place in indices[:_EXAMPLES_SHOWN]:
        yield f"{surplus[place]} × {these.table.slice(first[place], 1).to_pylist()[0]}"


def _cell_words(column, field, exact_types):
    kind = _kind(field.type)
    found = _kind(column.type)
    fits = found == kind or kind == "uuid" and found in ("text", "bytes")
    if not fits or exact_types and not _same_type(column.type, field.type):
        raise ValueError(f"column {field.name} is {column.type}, not {field.type}")
    array = column.combine_chunks()
    if kind == "uuid":
        array = _uuid_bytes(array)
    if isinstance(array, pa.ChunkedArray):  # how pyarrow combines no chunks at all
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    seed = _word_of_bytes(f"{field.name} {kind}".encode())
    words_of = _nanosecond_words if field.type in _NANOSECONDS else _VALUE_WORDS[kind.split()[0]]
    words = _mix(words_of(array) ^ seed)
    missing = array.is_null().to_numpy(zero_copy_only=False)
    # A word of its own kind, because every word that is near the seed is some number's.
    words[missing] = _word_of_bytes(f"{field.name} {kind} null".encode())
    return words


def _kind(data_type):
    """Types of one kind hold the same values. A decimal's scale belongs to its kind, because it is its meaning."""
    kinds = {
        "boolean": pa.types.is_boolean, "integer": pa.types.is_integer, "float32": pa.types.is_float32,
        "float64": pa.types.is_float64, "date": pa.types.is_date32, "time": pa.types.is_time, "text": _is_text,
        "bytes": _is_bytes,
    }
    if data_type == pa.uuid():
        return "uuid"
    for kind, matches in kinds.items():
        if matches(data_type):
            return kind
    if pa.types.is_decimal(data_type):
        return f"decimal {data_type.scale}"
    if pa.types.is_timestamp(data_type):
        return "timestamp local" if data_type.tz is None else "timestamp instant"
    raise ValueError(f"{data_type} is not a type of ours")


def _is_text(data_type):
    return pa.types.is_string(data_type) or pa.types.is_large_string(data_type) or pa.types.is_string_view(data_type)


def _is_bytes(data_type):
    return pa.types.is_binary(data_type) or pa.types.is_large_binary(data_type) \
        or pa.types.is_binary_view(data_type) or pa.types.is_fixed_size_binary(data_type)


def _same_type(found, declared):
    """Text and bytes may lie in memory in Arrow's three ways: that is not a difference that a program notices."""
    return found == declared or _is_text(found) and _is_text(declared) or _is_bytes(found) and _is_bytes(declared)


def _integer_words(array):
    return array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64)


def _boolean_words(array):
    return _integer_words(array.cast(pa.int8()))


def _float_words(array):
    values = array.fill_null(0).to_numpy(zero_copy_only=False)
    bits = values.view(np.uint32 if values.dtype == np.float32 else np.uint64).astype(np.uint64)
    return np.where(np.isnan(values), np.uint64(0x7FF8_0000_0000_0001), bits)


def _decimal_words(array):
    wide = array.cast(pa.decimal128(38, array.type.scale))
    halves = np.frombuffer(wide.buffers()[1] or b"", np.uint64).reshape(-1, 2)[wide.offset:wide.offset + len(wide)]
    return _mix(halves[:, 0]) ^ halves[:, 1]


def _date_words(array):
    return _integer_words(array.cast(pa.int32()))


def _timestamp_words(array):
    # A safe cast: nanoseconds that are no whole microseconds are an error.
    return _integer_words(array.cast(pa.timestamp("us", array.type.tz)).cast(pa.int64()))


def _time_words(array):
    return _integer_words(array.cast(pa.time64("us")).cast(pa.int64()))


def _nanosecond_words(array):
    return _integer_words(array.cast(pa.timestamp("ns", array.type.tz)).cast(pa.int64()))


def _uuid_bytes(array):
    """Readers give UUIDs as what they are, as their bytes, or as text."""
    if _is_text(array.type):
        return pa.array([None if text is None else uuid.UUID(text).bytes for text in array.to_pylist()], pa.binary())
    return array.storage if array.type == pa.uuid() else array


def _text_words(array):
    return _bytes_words(array.cast(pa.large_string()).cast(pa.large_binary()))


def _bytes_words(array):
    """Each value that occurs is hashed once, however many rows have it."""
    if pa.types.is_fixed_size_binary(array.type):
        array = array.cast(pa.binary())
    encoded = pc.dictionary_encode(array.cast(pa.large_binary()))
    words = np.array([_word_of_bytes(value) for value in encoded.dictionary.to_pylist()] or [0], np.uint64)
    return words[encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)]


_VALUE_WORDS = {
    "boolean": _boolean_words, "integer": _integer_words, "float32": _float_words, "float64": _float_words,
    "decimal": _decimal_words, "date": _date_words, "timestamp": _timestamp_words, "text": _text_words,
    "bytes": _bytes_words, "time": _time_words, "uuid": _bytes_words,
}
_NANOSECONDS = [pa.timestamp("ns"), pa.timestamp("ns", "UTC")]


def _word_of_bytes(value):
    return np.uint64(int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "little"))


def _mix(words):
    """Spreads every bit of a word over all of it (the finisher of splitmix64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def self_test():
    """That the fingerprint sees what it must see and nothing else. Returns how many cases it tried."""
    from tables import every_type

    rows = every_type(700, seed=7)
    schema = rows.schema
    of_rows = fingerprint(rows, schema)
    cases = 0

    def same(what, table, declared=schema, expected=of_rows):
        nonlocal cases
        cases += 1
        found = fingerprint(table, declared)
        assert found == expected, f"{what}: {difference(expected, found)}"

    def other(what, table):
        nonlocal cases
        cases += 1
        assert fingerprint(table, schema) != of_rows, f"{what} was not noticed"

    def refused(what, table, **options):
        nonlocal cases
        cases += 1
        try:
            fingerprint(table, schema, **options)
        except ValueError:
            return
        raise AssertionError(f"{what} was not refused")

    shuffled = np.random.default_rng(1).permutation(rows.num_rows)
    pieces = pa.concat_tables([rows.slice(0, 13), rows.slice(13, 200), rows.slice(213)])
    same("another order", rows.take(pa.array(shuffled)))
    same("other batches", pieces)
    wider = pa.schema([field.with_type(_as_another_reader(field.type)) for field in schema])
    same("as another reader holds it", rows.cast(wider))
    same("no rows", rows.slice(0, 0), expected=fingerprint(schema.empty_table(), schema))

    for place, field in enumerate(schema):
        for index in (0, 350, 699):
            cells = rows[field.name].to_pylist()
            # A null gets the value of another row, a value becomes null.
            cells[index] = None if cells[index] is not None else next(cell for cell in cells if cell is not None)
            other(f"a cell of {field.name}", rows.set_column(place, field.name, pa.array(cells, field.type)))
        distinct = [0, next(i for i in range(rows.num_rows) if _unlike(rows[field.name][i], rows[field.name][0]))]
        swapped = np.arange(rows.num_rows)
        swapped[distinct] = swapped[distinct[::-1]]
        cells = rows[field.name].take(pa.array(swapped))
        other(f"two cells of {field.name} swapped", rows.set_column(place, field, cells))
    other("a lost row", pa.concat_tables([rows.slice(0, 400), rows.slice(401)]))
    other("a doubled row", pa.concat_tables([rows, rows.slice(5, 1)]))
    other("a row twice more", pa.concat_tables([rows, rows.slice(5, 1), rows.slice(5, 1)]))
    other("one row in place of another", pa.concat_tables([rows.slice(1), rows.slice(1, 1)]))

    for name, left, right in [
        ("t_double", 0.0, -0.0), ("t_real", 0.0, -0.0), ("t_varchar", "", None), ("t_varchar", "a", "a\0"),
        ("t_bytea", b"", None), ("t_bigint", 0, None), ("t_bigint", 1, None), ("t_boolean", False, None),
        ("t_bigint", 2**53, 2**53 + 1),
    ]:
        field = pa.schema([schema.field(name)])
        cells = (pa.table([pa.array([cell], field[0].type)], schema=field) for cell in (left, right))
        left, right = (fingerprint(cell, field) for cell in cells)
        cases += 1
        assert left != right, f"{name}: two cells that differ were not told apart"
    field = pa.schema([schema.field("t_double")])
    nans = [pa.table([pa.array(np.array([bits], np.uint64).view(np.float64))], schema=field)
            for bits in (0x7FF8000000000000, 0xFFF8000000000123)]
    same("another NaN", nans[1], field, fingerprint(nans[0], field))

    def with_type(name, data_type):
        place = schema.get_field_index(name)
        return rows.set_column(place, name, pa.nulls(rows.num_rows, data_type))

    refused("a zone where none belongs", with_type("t_timestamp", pa.timestamp("us", "UTC")))
    refused("text for a number", with_type("t_integer", pa.string()))
    refused("another scale", with_type("t_decimal", pa.decimal128(18, 3)))
    refused("a column less", rows.drop_columns(["t_date"]))
    refused("a wider integer where types must be exact", with_type("t_smallint", pa.int32()), exact_types=True)
    return cases


def _as_another_reader(data_type):
    if pa.types.is_integer(data_type):
        return pa.int64()
    return {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}.get(data_type, data_type)


def _unlike(left, right):
    left, right = left.as_py(), right.as_py()
    return left != right and not (left != left and right != right)


if __name__ == "__main__":
    print(f"row_hash: {self_test()} cases hold")
    sys.exit(0)
