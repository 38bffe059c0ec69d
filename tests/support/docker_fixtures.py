"""The Docker Engine that tests share. A test that needs settings of its own starts a `Dockerd` itself."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.support.dockerd import Dockerd, running_dockerd

BUSYBOX = "bb:1"
"""An image that every test finds on the shared engine: busybox with `sh` and friends, no entry point, CMD sh."""


@pytest.fixture(scope="session")
def shared_dockerd() -> Iterator[Dockerd]:
    """One engine for the whole session, with BUSYBOX. Tests take `dockerd` instead."""
    if os.geteuid() != 0:
        pytest.skip("no real Docker Engine: root is needed")
    if shutil.which("dockerd") is None:
        pytest.skip("no real Docker Engine: dockerd is not installed (apt-get install docker.io)")
    with running_dockerd() as engine:
        engine.image_now(BUSYBOX, changes=['CMD ["sh"]', "ENV PATH=/bin"])
        yield engine


@pytest.fixture
def dockerd(shared_dockerd: Dockerd) -> Iterator[Dockerd]:
    """A real Docker Engine without containers and volumes; images stay from test to test. It may be killed."""
    if not shared_dockerd.running:
        shared_dockerd.start_now()
    yield shared_dockerd
    shared_dockerd.clean_now()
