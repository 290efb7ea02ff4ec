"""A server that the check starts: its log in a file, its life never longer than the check's.

It is always ended by the process handle that started it. Whether it is ready is its owner's to ask.
"""

import contextlib
import ctypes
import signal
import socket
import subprocess
import sys

LOG_LINES_SHOWN = 40
# Waiting for the death of a process that was killed outright: the kernel only has to take it apart.
KILL_SECONDS_MAX = 30

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class ChildProcess:
    def __init__(self, name, command, log_path, environment=None):
        self.name = name
        self.log_path = log_path
        with open(log_path, "ab") as log:
            # A session of its own, so that Ctrl-C reaches only the check, which then ends its servers in order.
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=_die_with_parent)

    def running(self):
        return self._process.poll() is None

    def stop(self, seconds_max):
        """Asks it to end. Its exit code, or None if it did not end in time and had to be killed."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def kill(self):
        if self.running():
            self._process.kill()
        self._process.wait(KILL_SECONDS_MAX)

    def failure(self, what):
        """An error that says what went wrong and shows the end of the log."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        state = "is running" if self.running() else f"ended with {self._process.returncode}"
        shown = "\n".join(f"    {line}" for line in lines[-LOG_LINES_SHOWN:])
        return RuntimeError(f"{self.name} {what} (it {state}); the end of its log:\n{shown}")


def free_ports(count):
    """Ports of the loopback address that nobody has now. Held all at once while choosing, so that they differ."""
    with contextlib.ExitStack() as sockets:
        held = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]


def _die_with_parent():
    """If the check is killed outright, the kernel ends its servers too. Only Linux has this."""
    if _libc:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
