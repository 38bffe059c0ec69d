"""Joining and renewing against a scripted KubeEdge cloud over real TLS."""

import datetime
import stat
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from edgeappliance.edgehub.enrolment import Enrolment, check_node_name
from edgeappliance.edgehub.identity import Identity, IdentityFiles
from edgeappliance.kernel.clock import ManualClock, SystemClock
from edgeappliance.kernel.errors import OperatorError, TransientError
from tests.support.edge_identity import NODE, edge, enrolment_for
from tests.support.kubeedge_authority import Authority
from tests.support.kubeedge_cloud import KubeEdgeCloud, kubeedge_cloud
from tests.support.net import free_port


def node_certificate(identity: Identity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(identity.node_file.read_bytes())


async def test_join_leaves_a_private_certificate_for_this_node(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    identity = await enrolment_for(kubeedge, tmp_path / "id").join(kubeedge.token())
    assert identity.facts.common_name == f"system:node:{NODE}"
    assert identity.facts.organization == "system:nodes"
    assert kubeedge.enrolments == [(NODE, "token")]
    assert identity.ca_file.read_text() == kubeedge.authority.pem
    for path in (identity.ca_file, identity.node_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(identity.node_file.parent.stat().st_mode) == 0o700
    assert sorted(path.name for path in identity.node_file.parent.iterdir()) == ["ca.crt", "node.pem"]
    key = serialization.load_pem_private_key(identity.node_file.read_bytes(), password=None)
    assert key.public_key() == node_certificate(identity).public_key()


@pytest.mark.filterwarnings("ignore:Attribute's length")  # cryptography's word in the scripted cloud
async def test_a_node_name_of_the_greatest_length_joins_and_connects(tmp_path: Path) -> None:
    name = ".".join(["a" * 62] * 4)
    async with kubeedge_cloud(tmp_path) as cloud, edge(cloud, tmp_path / "id", node=name) as running:
        await running.connected()
        assert cloud.enrolments == [(name, "token")]


async def test_facts_agree_with_cryptography(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    identity = await enrolment_for(kubeedge, tmp_path / "id").join(kubeedge.token())
    certificate = node_certificate(identity)
    assert identity.facts.not_before == certificate.not_valid_before_utc.timestamp()
    assert identity.facts.not_after == certificate.not_valid_after_utc.timestamp()


async def test_expired_token_is_refused_before_any_connection(tmp_path: Path) -> None:
    authority = Authority()
    enrolment = Enrolment(
        files=IdentityFiles(tmp_path), host="127.0.0.1", port=free_port(), node=NODE, clock=SystemClock()
    )
    with pytest.raises(OperatorError, match="expired at") as caught:
        await enrolment.join(authority.token(expires_in=-60))
    assert "edgecore join" in caught.value.next_step


@pytest.mark.parametrize("text", ["", "abc", "a.b.c.d", "0" * 64 + ".x.y"])
async def test_what_is_no_token_is_named(tmp_path: Path, text: str) -> None:
    enrolment = Enrolment(files=IdentityFiles(tmp_path), host="127.0.0.1", port=1, node=NODE, clock=SystemClock())
    with pytest.raises(OperatorError, match="the join token is not one"):
        await enrolment.join(text)


async def test_token_of_another_cloud_is_refused_by_its_hash(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="is not the one of the join token") as caught:
        await enrolment_for(kubeedge, tmp_path / "id").join(Authority().token())
    assert "another cloud" in caught.value.next_step
    assert not (tmp_path / "id").exists()


async def test_forged_token_is_refused_by_the_cloud(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    forged = kubeedge.token()[:-4] + "AAAA"
    with pytest.raises(OperatorError, match="signature is invalid"):
        await enrolment_for(kubeedge, tmp_path / "id").join(forged)
    assert not (tmp_path / "id").exists()


async def test_unreachable_cloud_is_transient(tmp_path: Path) -> None:
    enrolment = Enrolment(
        files=IdentityFiles(tmp_path), host="127.0.0.1", port=free_port(), node=NODE, clock=SystemClock()
    )
    with pytest.raises(TransientError, match="cannot be reached"):
        await enrolment.join(Authority().token())


async def test_server_that_its_certificate_does_not_name(tmp_path: Path) -> None:
    async with kubeedge_cloud(tmp_path, address="192.0.2.7") as cloud:
        with pytest.raises(OperatorError, match="was not accepted") as caught:
            await enrolment_for(cloud, tmp_path / "id").join(cloud.token())
        assert "does not name '127.0.0.1'" in caught.value.next_step


@pytest.mark.parametrize("name", ["Edge-1", "edge_1", "-edge", "edge-", "a..b", "", "x" * 254])
def test_bad_node_names_are_refused(name: str) -> None:
    with pytest.raises(OperatorError, match="is no node name"):
        check_node_name(name)


async def test_renewal_shows_the_old_certificate_and_replaces_key_and_certificate(
    kubeedge: KubeEdgeCloud, tmp_path: Path
) -> None:
    enrolment = enrolment_for(kubeedge, tmp_path / "id")
    first = await enrolment.join(kubeedge.token())
    before = first.node_file.read_bytes()
    await enrolment.renew(first)
    assert kubeedge.enrolments == [(NODE, "token"), (NODE, "certificate")]
    assert first.node_file.read_bytes() != before


async def test_expired_certificate_that_the_cloud_does_not_renew_asks_for_a_token(tmp_path: Path) -> None:
    options = {"certificate_age": datetime.timedelta(days=400)}
    async with kubeedge_cloud(tmp_path, **options) as cloud:
        enrolment = enrolment_for(cloud, tmp_path / "id")
        identity = await enrolment.join(cloud.token())
        assert identity.facts.expired(time.time())
        with pytest.raises(OperatorError, match="does not renew this certificate") as caught:
            await enrolment.renew(identity)
        assert "edgecore join" in caught.value.next_step


async def test_a_clock_of_1970_joins_all_the_same(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    """The server's certificate is "not yet valid" for such a clock; the CA's hash is still compared."""
    clock = ManualClock(wall_ms=1000)
    identity = await enrolment_for(kubeedge, tmp_path / "id", clock=clock).join(kubeedge.token())
    assert identity.facts.common_name == f"system:node:{NODE}"
    with pytest.raises(OperatorError, match="is not the one of the join token"):
        await enrolment_for(kubeedge, tmp_path / "other", clock=clock).join(Authority().token())
