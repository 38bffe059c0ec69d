"""docker-py on one kept connection. Imports docker: only `calls` imports this, on its own threads.

Its own transport keeps a connection for each of the last 25 URLs, so it seldom uses one twice, and does not close the
socket of a connection that fails.
"""

import socket
from pathlib import Path
from typing import Any

from docker import APIClient
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool

_SCHEME = "http+docker://"


class _Connection(UnixHTTPConnection):
    def connect(self) -> None:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        opened.settimeout(self.timeout)
        try:
            opened.connect(self.unix_socket)
        except OSError:
            opened.close()
            raise
        self.sock = opened


class _Pool(UnixHTTPConnectionPool):
    def _new_conn(self) -> Any:
        seconds: Any = self.timeout  # which docker-py sets to a number, whatever urllib3 says it is
        return _Connection(self.base_url, self.socket_path, seconds)


class _Adapter(UnixHTTPAdapter):
    def __init__(self, path: Path, timeout: int) -> None:
        super().__init__(f"http+unix://{path}", timeout, pool_connections=1, max_pool_size=1)
        self._pool = _Pool(_SCHEME, str(path), timeout, maxsize=1)

    def get_connection(self, url: bytes | str, proxies: Any = None) -> UnixHTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        super().close()
        self._pool.close()


def client(path: Path, *, version: str, timeout: int) -> APIClient:
    """A client that uses no proxy and no netrc of the user that runs us. timeout in seconds."""
    made = APIClient(base_url=f"unix://{path}", version=version, timeout=timeout)
    made.mount(_SCHEME, _Adapter(path, timeout))
    made.trust_env = False
    return made
