#!/usr/bin/env python3
"""A real S3 server on loopback: SeaweedFS in one process, with fixed credentials and conditional writes.

As a module: `with S3Server(directory) as s3:`. By itself, to try something by hand (it ends with Ctrl-C or SIGTERM):

    DIR/bin/python integration-tests/readers/s3_server.py /tmp/objects

It listens on 127.0.0.1 only and calls nobody. It is not a store to keep data in: the credentials are public, and it is
ended with SIGKILL, because a polite stop takes it many seconds and an answered PUT survives either.
"""

import json
import os
import pathlib
import signal
import sys
import time

import boto3
import botocore.config
import botocore.exceptions

from child_process import ChildProcess, free_ports

ACCESS_KEY_ID = "readers-check"
SECRET_ACCESS_KEY = "readers-check-secret"
REGION = "us-east-1"
BUCKET = "lake"
READY_SECONDS_MAX = 60
# A port that was free can be taken before the server binds it; the server then ends at once.
ATTEMPTS_MAX = 3


class S3Server:
    """Running from `with` to its end; `BUCKET` is there."""

    def __init__(self, directory):
        self._directory = pathlib.Path(directory).resolve()
        self._child = None
        self._grpc_ports = {}
        self.endpoint = None

    def __enter__(self):
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                self._start()
                self._await_ready()
                return self
            except BaseException:
                ended_alone = not self._child.running()
                self._end()
                if attempt == ATTEMPTS_MAX or not ended_alone:
                    raise

    def __exit__(self, *_):
        self._end()

    def environment(self):
        """What a client needs to find this server: the names that AWS's own tools read."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_REGION": REGION,
            "AWS_ALLOW_HTTP": "true",
        }

    def client(self):
        settings = botocore.config.Config(
            retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30,
            s3={"addressing_style": "path"}, proxies={})
        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name=REGION, aws_access_key_id=ACCESS_KEY_ID,
            aws_secret_access_key=SECRET_ACCESS_KEY, config=settings)

    def _start(self):
        for name in ("objects", "logs"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        identities = self._directory / "identities.json"
        identities.write_text(json.dumps({"identities": [{
            "name": "readers-check",
            "credentials": [{"accessKey": ACCESS_KEY_ID, "secretKey": SECRET_ACCESS_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]}))
        s3, master, volume, filer, *grpc = free_ports(8)
        self._grpc_ports = dict(zip(("s3", "master", "volume", "filer"), grpc))
        weed = pathlib.Path(sys.executable).with_name("weed")
        self.endpoint = f"http://127.0.0.1:{s3}"
        self._child = ChildProcess("the S3 server", [
            weed, f"-logdir={self._directory / 'logs'}", "-alsologtostderr=true", "server",
            f"-dir={self._directory / 'objects'}", "-filer", "-s3",
            "-ip=127.0.0.1", "-ip.bind=127.0.0.1",  # otherwise it takes the machine's outer address
            "-master.telemetry=false",  # otherwise it reports to its makers
            f"-s3.config={identities}",
            f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
            *(f"-{part}.port.grpc={port}" for part, port in self._grpc_ports.items()),
            "-s3.port.iceberg=0", "-s3.port.lance=0",  # catalogs that nobody here asks
            # Sockets that would otherwise stay behind in /tmp.
            f"-s3.localSocket={self._directory / 's3.socket'}",
            f"-filer.localSocket={self._directory / 'filer.socket'}",
            "-master.electionTimeout=1s",  # one master has nobody to wait for
            "-master.volumeSizeLimitMB=128", "-volume.max=0",
        ], self._directory / "server.log")

    def _end(self):
        self._child.kill()
        for part, port in self._grpc_ports.items():  # it puts these there whatever it is told
            pathlib.Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock").unlink(missing_ok=True)

    def _await_ready(self):
        """Ready is when an object was stored: the port answers seconds before there is a place for the first one."""
        client = self.client()
        deadline = time.monotonic() + READY_SECONDS_MAX
        while True:
            try:
                self._ensure_bucket(client)
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
                client.delete_object(Bucket=BUCKET, Key="ready")
                return
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
                if not self._child.running() or time.monotonic() > deadline:
                    raise self._child.failure(f"did not become ready: {error}") from error
            time.sleep(0.1)

    def _ensure_bucket(self, client):
        try:
            client.create_bucket(Bucket=BUCKET)
        except (client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            pass  # from the time before, or from the attempt before


def main(directory):
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: sys.exit(0))
    with S3Server(directory) as s3:
        for name, value in s3.environment().items():
            print(f"export {name}={value}")
        print(f"# warehouse: s3://{BUCKET}/warehouse", flush=True)
        while True:
            signal.pause()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {os.path.basename(sys.argv[0])} DIRECTORY")
    main(sys.argv[1])
