"""What the check says: one line per case, and what was found where something was not as it should be."""

import contextlib
import time
import traceback

import row_hash


def require(condition, what):
    if not condition:
        raise Mismatch(what)


def require_same(case, left, right, left_name, right_name):
    case.note = f"{right.count:,} rows × {len(right.columns)} columns"
    different = row_hash.difference(left, right)
    require(different is None, f"left is {left_name}, right is {right_name}\n{different}")


class Mismatch(Exception):
    pass


class Report:
    """One line per case, as soon as it is known; after a failed one, what was found."""

    def __init__(self):
        self._results = []

    @property
    def passed(self):
        return sum(passed for _, passed in self._results)

    @property
    def failed(self):
        return len(self._results) - self.passed

    def failed_in(self, warehouse):
        return any(not passed for name, passed in self._results if name == warehouse)

    @contextlib.contextmanager
    def case(self, warehouse, table, what):
        """Whatever goes wrong inside is this case's failure, and the next case has its turn."""
        case = Case()
        started = time.monotonic()
        error = None
        try:
            yield case
        except Exception as caught:
            error = caught
        self._tell(warehouse, table, what, time.monotonic() - started, case.note, error)

    @contextlib.contextmanager
    def group(self, warehouse, table):
        """Around cases that need each other: what breaks off the group fails it, and otherwise it is no case itself."""
        try:
            yield
        except Exception as error:
            self._tell(warehouse, table, "could not go on", 0, "", error)

    def _tell(self, warehouse, table, what, seconds, note, error):
        self._results.append((warehouse, error is None))
        result = "ok" if error is None else "FAILED"
        print(f"{result:6}  {warehouse:5}  {table:15}  {what:32}  {seconds:6.2f} s  {note}", flush=True)
        if error is not None:
            shown = str(error) if isinstance(error, Mismatch) else "".join(traceback.format_exception(error))
            print("".join(f"        {line}\n" for line in shown.rstrip().splitlines()), end="", flush=True)


class Case:
    note = ""
