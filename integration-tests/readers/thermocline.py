"""The real `thermocline serve`, and the few requests that the check makes of it."""

import json
import os
import time

import pyarrow as pa
import requests

from child_process import ChildProcess, free_ports
from encodings_of_rows import encode

READY_SECONDS_MAX = 60
STOP_SECONDS_MAX = 30
# A debug build that tiers over S3 on a busy machine takes its time; hanging for ever is what this bounds.
REQUEST_SECONDS_MAX = 300
BUSY_SECONDS_MAX = 60
# Rows whose time is up go when the server next looks.
TRIM_SECONDS_MAX = 30
LOOKUP_KEYS_MAX = 10_000
ARROW_STREAM = "application/vnd.apache.arrow.stream"


class Thermocline:
    """Running from `with` to its end. `warehouse` is a URL; `settings` are environment variables for it."""

    def __init__(self, binary, directory, warehouse, settings=None):
        port = free_ports(1)[0]
        self._url = f"http://127.0.0.1:{port}"
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy and no .netrc between us and the loopback address
        self._command = [binary, "serve", "--data-dir", directory / "data", "--warehouse", warehouse,
                         "--listen", f"127.0.0.1:{port}"]
        self._log = directory / "thermocline.log"
        self._environment = _environment(settings or {})
        self._child = None

    def __enter__(self):
        self._start()
        return self

    def __exit__(self, *_):
        self._child.kill()

    def _start(self):
        self._child = ChildProcess("thermocline", self._command, self._log, self._environment)
        try:
            self._await_ready()
        except BaseException:
            self._child.kill()
            raise

    def stop(self):
        """As Ctrl-C or a service manager would end it. Its exit code; None if it had to be killed."""
        return self._child.stop(STOP_SECONDS_MAX)

    def restart(self):
        """Ends it and starts it again with what is on its disk."""
        code = self.stop()
        if code != 0:
            raise self.failure(f"was to stop and did not end well ({code})")
        self._start()

    def failure(self, what):
        return self._child.failure(what)

    def execute(self, statement):
        self._post("/v1/sql", statement.encode(), {"Content-Type": "text/plain"})

    def query(self, statement, database="public"):
        """The answer as an Arrow table."""
        response = self._post(
            f"/v1/sql?database={database}", statement.encode(), {"Content-Type": "text/plain", "Accept": ARROW_STREAM})
        with pa.ipc.open_stream(response.content) as stream:
            return stream.read_all()

    def count(self, relation):
        return self.query(f"SELECT count(*) AS n FROM {relation}")["n"][0].as_py()

    def load(self, database, table, part, writer):
        """Sends the rows of a part as an idempotent writer does. The offsets they got: (bucket, first, end)."""
        spans = []
        for sequence, start in enumerate(range(0, part.rows.num_rows, part.rows_per_request)):
            rows = part.rows.slice(start, part.rows_per_request)
            encoding = part.encodings[sequence % len(part.encodings)]
            answer = self.send(database, table, rows, encoding, headers={
                "Thermocline-Writer": writer, "Thermocline-Sequence": str(sequence)})
            spans += [(span["bucket"], span["first_offset"], span["end_offset"]) for span in answer["buckets"]]
        return spans

    def send(self, database, table, rows, encoding, change=None, headers=None):
        """Sends rows in one request; `change` says what is wanted of those that do not say it. The answer."""
        body, content_type = encode(rows, encoding)
        query = f"?change={change}" if change else ""
        path = f"/v1/tables/{database}/{table}/rows{query}"
        answer = self._post(path, body, {"Content-Type": content_type} | (headers or {})).json()
        if answer["rows"] != rows.num_rows or answer["duplicate"]:
            raise RuntimeError(f"{rows.num_rows} rows were sent to {table}, the answer is {answer}")
        return answer

    def post_rows(self, database, table, body, content_type):
        """Sends a body as it is. The answer."""
        return self._post(f"/v1/tables/{database}/{table}/rows", body, {"Content-Type": content_type}).json()

    def lookup(self, database, table, keys):
        """The newest rows of these keys, in their order, None where there is none; as JSON has them."""
        found = []
        for start in range(0, len(keys), LOOKUP_KEYS_MAX):
            body = json.dumps({"keys": keys[start:start + LOOKUP_KEYS_MAX]}).encode()
            answer = self._post(f"/v1/tables/{database}/{table}/lookup", body, {"Content-Type": "application/json"})
            found += answer.json()["rows"]
        return found

    def await_trimmed(self, database, table):
        """Waits until rows of a primary-key table have left the hot tier. How many offsets it let go."""
        deadline = time.monotonic() + TRIM_SECONDS_MAX
        while True:
            response = self._session.get(f"{self._url}/v1/tables/{database}/{table}", timeout=REQUEST_SECONDS_MAX)
            response.raise_for_status()
            gone = sum(bucket["log_start"] for bucket in response.json()["buckets"])
            if gone:
                return gone
            if time.monotonic() > deadline:
                raise RuntimeError(f"no row of {table} has left the hot tier after {TRIM_SECONDS_MAX} s")
            time.sleep(0.05)

    def tier(self, database, table):
        """Runs a round and waits for it: `{"snapshot_id", "rows", "files", "seconds"}`."""
        return self._post(f"/v1/tables/{database}/{table}/tier", b"", {}).json()

    def _post(self, path, body, headers):
        deadline = time.monotonic() + BUSY_SECONDS_MAX
        while True:
            response = self._session.post(self._url + path, data=body, headers=headers, timeout=(5, REQUEST_SECONDS_MAX))
            if response.status_code != 429 or time.monotonic() > deadline:
                break
            time.sleep(min(float(response.headers.get("Retry-After", "1")), 5))  # it asks for patience
        if response.status_code != 200:
            shown = body[:300].decode(errors="replace") if path.startswith("/v1/sql") else f"{len(body):,} bytes"
            raise RuntimeError(f"POST {path} answered {response.status_code}: {response.text[:2000]}\n    to: {shown}")
        return response

    def _await_ready(self):
        deadline = time.monotonic() + READY_SECONDS_MAX
        while self._child.running() and time.monotonic() < deadline:
            try:
                if self._session.get(self._url + "/ready", timeout=5).status_code == 200:
                    return
            except requests.RequestException:
                pass  # it does not listen yet
            time.sleep(0.05)
        raise self._child.failure("did not become ready")


def _environment(settings):
    """The environment of whoever runs the check, without what could turn the server elsewhere."""
    ours = {name: value for name, value in os.environ.items()
            if not name.startswith(("AWS_", "THERMOCLINE_")) and not name.lower().endswith("_proxy")}
    return ours | settings
