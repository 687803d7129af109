"""The Redfish face, read by somebody else's client (sushy) and by walking every link."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sushy

from mgmt.api.app import make_app
from mgmt.api.security.gate import Security
from mgmt.api.security.identity import Role
from mgmt.api.security.tokens import TokenFile
from mgmt.http import ServerThread
from tests.mgmt.station_stand_ins import LOCAL, REMOTE, Site, site
from tests.mgmt.test_api_metrics import FC_PORT, POOL, WWPN, fill

PEER = FC_PORT["peer_wwpn"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        fill(made)
        yield made


@pytest.fixture
def client(place: Site) -> Iterator[httpx.Client]:
    with (
        ServerThread(make_app(place.station), "http://127.0.0.1:0") as thread,
        httpx.Client(base_url=f"http://{thread.address.host_and_port}", timeout=60) as made,
    ):
        tcp = {"kind": "port_pair", "local_port": LOCAL, "remote_port": REMOTE}
        made.post("/api/v1/recommend", json={"target": tcp}).raise_for_status()
        fc = {"kind": "port_pair", "local_port": WWPN, "remote_port": PEER}
        made.post("/api/v1/pairs", json={"target": fc}).raise_for_status()
        yield made


def read(client: httpx.Client, path: str) -> dict[str, Any]:
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.text)
    assert answer.headers["odata-version"] == "4.0"
    found: dict[str, Any] = answer.json()
    return found


def links(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "@odata.id":
                yield inner
            else:
                yield from links(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from links(inner)


def test_every_link_leads_to_a_resource_that_says_where_and_what_it_is(client: httpx.Client) -> None:
    seen: dict[str, dict[str, Any]] = {}
    waiting = ["/redfish/v1/"]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        found = seen[path] = read(client, path)
        assert found["@odata.id"] == path and found["@odata.type"].startswith("#") and found["Name"]
        if "Members" in found:
            assert found["Members@odata.count"] == len(found["Members"])
        else:
            assert found["Id"] == ("RootService" if path == "/redfish/v1/" else path.rpartition("/")[2])
        waiting += links(found)
    kinds = {found["@odata.type"].partition(".")[0] for found in seen.values()}
    assert {
        "#Fabric",
        "#Endpoint",
        "#Connection",
        "#Storage",
        "#StorageController",
        "#Port",
        "#PortMetrics",
    } <= kinds


def test_sushy_reads_fabrics_and_endpoints(client: httpx.Client, place: Site) -> None:
    root = sushy.Sushy(str(client.base_url).rstrip("/"), auth=sushy.auth.BasicAuth("anybody", "anything"))
    assert root.product == "sancredit"
    collection = root.get_fabric_collection()
    fabrics = {fabric.identity: fabric for fabric in collection.get_members()}
    protocols = sushy.resources.constants.Protocol
    assert (fabrics["FC"].fabric_type, fabrics["IP"].fabric_type) == (protocols.FC, protocols.iSCSI)
    ports = {one.identity: one for one in fabrics["IP"].endpoints.get_members()}
    assert set(ports) == {LOCAL, REMOTE}
    (transport,) = ports[LOCAL].IP_transport_details
    assert (transport.port, transport.ipv4_address.address) == (3260, LOCAL)
    (entity,) = ports[LOCAL].connected_entities
    assert entity.entity_role is sushy.resources.fabric.constants.EntityRole.BOTH
    fc = {one.identity: one for one in fabrics["FC"].endpoints.get_members()}
    (name,) = fc[WWPN.replace(":", "-")].connected_entities[0].identifiers
    assert name.durable_name == WWPN.replace(":", "").upper()


def test_sushy_logs_in_with_a_token_as_its_password(place: Site, tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "tokens.json")
    _, text = tokens.create("monitor", Role.VIEWER, now=place.clock())
    with ServerThread(
        make_app(place.station, security=Security(tokens=tokens)), "http://127.0.0.1:0"
    ) as thread:
        base = f"http://{thread.address.host_and_port}"
        root = sushy.Sushy(base, auth=sushy.auth.BasicAuth("monitor", text))
        assert len(root.get_fabric_collection().get_members()) == 2
        with pytest.raises(sushy.exceptions.AccessError):
            sushy.Sushy(base, auth=sushy.auth.BasicAuth("monitor", "wrong")).get_fabric_collection()


def test_a_fibre_channel_port_has_the_standard_s_metrics(client: httpx.Client) -> None:
    where = f"/redfish/v1/Storage/M/Controllers/fc0/Ports/{WWPN.replace(':', '-')}"
    port = read(client, where)
    assert port["PortProtocol"] == "FC" and port["CurrentSpeedGbps"] == 8.5
    assert port["FibreChannel"]["AssociatedWorldWideNames"] == [WWPN]
    metrics = read(client, f"{where}/Metrics")
    assert metrics["FibreChannel"] == {
        "InvalidCRCs": 5,
        "RXBBCreditZero": 3,
        "TXBBCreditZero": 7,
        "TXBBCredits": 40,
        "TXBBCreditZeroDurationMilliseconds": 2500,
    }
    assert (metrics["TXBytes"], metrics["Networking"]["TXDiscards"]) == (2_048_000, 2)
    assert metrics["Oem"]["Sancredit"]["lost_credits"] == 1


def test_what_the_standard_lacks_is_under_oem(client: httpx.Client) -> None:
    controller = read(client, "/redfish/v1/Storage/M/Controllers/tcp0")
    assert controller["Oem"]["Sancredit"]["BufferPool"] == POOL
    connection = read(client, f"/redfish/v1/Fabrics/IP/Connections/{LOCAL}_{REMOTE}")
    found = connection["Oem"]["Sancredit"]
    assert found["Channel"]["rtt_ns"] == 280_000_000
    assert found["Reservation"] == {"recommended_bytes": 350_000, "reserved_bytes": 8192, "short": True}
    assert connection["Status"]["Health"] == "Warning"


def test_an_array_that_is_down_is_said_to_be(client: httpx.Client, place: Site) -> None:
    place.down("R")
    assert read(client, "/redfish/v1/Storage/R")["Status"]["State"] == "UnavailableOffline"


@pytest.mark.parametrize(
    "path",
    [
        "Nowhere",
        "Fabrics/XX",
        "Fabrics/FC/Endpoints/none",
        "Fabrics/IP/Connections/none",
        "Storage/none",
        "Storage/none/Controllers",
        "Storage/M/Controllers/none",
        "Storage/M/Controllers/none/Ports",
        "Storage/M/Controllers/tcp0/Ports/none",
        "Storage/M/Controllers/tcp0/Ports/none/Metrics",
        "Fabrics/%00",
        "Fabrics/" + "x" * 5000,
    ],
)
def test_what_is_not_there_is_an_error_of_the_standard_s_form(client: httpx.Client, path: str) -> None:
    answer = client.get(f"/redfish/v1/{path}")
    assert answer.status_code == 404
    assert answer.json()["error"]["@Message.ExtendedInfo"][0]["MessageId"].endswith("ResourceMissingAtURI")


def test_queries_that_are_not_supported_and_changes_are_refused(client: httpx.Client) -> None:
    assert client.get("/redfish/v1/Fabrics", params={"$expand": "."}).status_code == 501
    assert client.get("/redfish/v1/Fabrics", params={"other": "1"}).status_code == 200
    for method in ("POST", "PATCH", "DELETE"):
        answer = client.request(method, "/redfish/v1/Fabrics", json={})
        assert answer.status_code == 405, method


def test_a_resource_that_has_not_changed_is_not_sent_again(client: httpx.Client) -> None:
    answer = client.get("/redfish/v1/Fabrics")
    again = client.get("/redfish/v1/Fabrics", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_metadata_document_is_xml_with_the_service_container(client: httpx.Client) -> None:
    document = ElementTree.fromstring(client.get("/redfish/v1/$metadata").text)
    assert document.tag.endswith("Edmx")
    assert client.get("/redfish/v1/odata").json()["value"][0]["name"] == "Service"
