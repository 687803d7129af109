"""TLS between real processes' sockets: who is trusted, who is asked for a certificate, and what is refused."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mgmt.http import Address, ListenError, Peer, PeerRefused, PeerUnreachable, ServerThread, listening
from mgmt.http.credentials import ClientCredentials, CredentialError, checked_token, read_token
from mgmt.http.guarding import ServerCredentials
from mgmt.http.protocol import certified_of
from mgmt.http.tls import ClientTls, ServerTls, TlsError
from tests.mgmt.certificates import Authority

TOKEN = "a-token-of-an-array"


def app() -> Starlette:
    async def who(request: Request) -> JSONResponse:
        found = certified_of(request.scope)
        return JSONResponse(None if found is None else [found.name, found.role])

    return Starlette(routes=[Route("/who", who)])


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(directory: Path) -> Authority:
    return Authority(directory)


@pytest.fixture
def server(authority: Authority) -> Iterator[ServerThread]:
    files = authority.sign("server")
    tls = ServerTls(certificate=files.certificate, key=files.key, authority=authority.file)
    with ServerThread(app(), "https://127.0.0.1:0", tls=tls) as thread:
        yield thread


def test_a_client_that_trusts_the_authority_is_served(server: ServerThread, authority: Authority) -> None:
    assert str(server.address).startswith("https://127.0.0.1:")
    with Peer(server.address, credentials=ClientCredentials(tls=ClientTls(authority=authority.file))) as peer:
        assert peer.get("/who") is None


def test_a_server_of_another_authority_or_name_is_not_trusted(
    server: ServerThread, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    for trusted in (ClientTls(authority=other.file), ClientTls()):
        shown = ClientCredentials(tls=trusted)
        with (
            Peer(server.address, credentials=shown, retries=0) as peer,
            pytest.raises(PeerUnreachable, match="certificate verify failed"),
        ):
            peer.get("/who")
    files = authority.sign("elsewhere", address="192.0.2.1")
    tls = ServerTls(certificate=files.certificate, key=files.key)
    with ServerThread(app(), "https://127.0.0.1:0", tls=tls) as wrong:
        shown = ClientCredentials(tls=ClientTls(authority=authority.file))
        with Peer(wrong.address, credentials=shown, retries=0) as peer, pytest.raises(PeerUnreachable):
            peer.get("/who")


def test_a_client_certificate_says_who_it_is_and_its_role(server: ServerThread, authority: Authority) -> None:
    files = authority.sign("probe-east", role="probe")
    tls = ClientTls(authority=authority.file, certificate=files.certificate, key=files.key)
    with Peer(server.address, credentials=ClientCredentials(tls=tls)) as peer:
        assert peer.get("/who") == ["probe-east", "probe"]


def test_a_certificate_of_another_authority_is_refused_in_the_handshake(
    server: ServerThread, authority: Authority, tmp_path: Path
) -> None:
    files = Authority(tmp_path, "forger").sign("probe-east", role="admin")
    tls = ClientTls(authority=authority.file, certificate=files.certificate, key=files.key)
    with (
        Peer(server.address, credentials=ClientCredentials(tls=tls), retries=0) as peer,
        pytest.raises(PeerUnreachable),
    ):
        peer.get("/who")


def test_mutual_tls_serves_nobody_without_a_certificate(authority: Authority) -> None:
    files = authority.sign("server")
    tls = ServerTls(certificate=files.certificate, key=files.key, authority=authority.file, mutual=True)
    client = authority.sign("station")
    with ServerThread(app(), "https://127.0.0.1:0", tls=tls) as thread:
        with (
            Peer(
                thread.address,
                credentials=ClientCredentials(tls=ClientTls(authority=authority.file)),
                retries=0,
            ) as peer,
            pytest.raises(PeerUnreachable),
        ):
            peer.get("/who")
        shown = ClientTls(authority=authority.file, certificate=client.certificate, key=client.key)
        with Peer(thread.address, credentials=ClientCredentials(tls=shown)) as peer:
            assert peer.get("/who") == ["station", ""]


def test_old_protocols_and_plain_http_are_not_spoken(server: ServerThread, authority: Authority) -> None:
    context = ssl.create_default_context(cafile=str(authority.file))
    assert (
        ServerTls(certificate=authority.sign("server").certificate, key=authority.sign("server").key)
        .context()
        .minimum_version
        == ssl.TLSVersion.TLSv1_2
    )
    with httpx.Client(verify=context) as client, pytest.raises(httpx.HTTPError):
        client.get(f"http://{server.address.host_and_port}/who")


def test_a_server_and_its_scheme_fit_together(authority: Authority) -> None:
    files = authority.sign("server")
    tls = ServerTls(certificate=files.certificate, key=files.key)
    with pytest.raises(ListenError, match="write https://"), listening("http://127.0.0.1:0", tls=tls):
        pass
    with pytest.raises(ListenError, match="--tls-cert"), listening("https://127.0.0.1:0"):
        pass
    with pytest.raises(ListenError, match="--tls-cert"), listening("http://192.0.2.1:0"):
        pass


def test_files_that_cannot_be_used_are_said_in_one_line(authority: Authority, tmp_path: Path) -> None:
    files = authority.sign("server")
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no certificate")
    rubbish.chmod(0o600)
    loose = tmp_path / "loose.key"
    loose.write_bytes(files.key.read_bytes())
    loose.chmod(0o644)
    other = authority.sign("another")
    for make, text in (
        (lambda: ServerTls(certificate=tmp_path / "none", key=files.key).context(), "cannot read"),
        (lambda: ServerTls(certificate=rubbish, key=files.key).context(), "cannot use the certificate"),
        (lambda: ServerTls(certificate=files.certificate, key=rubbish).context(), "cannot use"),
        (lambda: ServerTls(certificate=files.certificate, key=other.key).context(), "cannot use"),
        (lambda: ServerTls(certificate=files.certificate, key=loose).context(), "others can read the key"),
        (
            lambda: ServerTls(certificate=files.certificate, key=files.key, mutual=True).context(),
            "--tls-ca",
        ),
        (lambda: ClientTls(authority=rubbish).context(), "cannot use the authority"),
        (lambda: ClientTls(certificate=files.certificate).context(), "both or neither"),
    ):
        with pytest.raises(TlsError, match=text) as refused:
            make()
        assert "\n" not in str(refused.value)


def test_a_bad_certificate_leaves_no_socket_behind(authority: Authority, tmp_path: Path) -> None:
    files = authority.sign("server")
    thread = ServerThread(
        app(), "https://127.0.0.1:0", tls=ServerTls(certificate=tmp_path / "none", key=files.key)
    )
    with pytest.raises(TlsError):
        thread.start()
    thread.stop()


def test_a_token_guards_an_array_and_a_certificate_is_the_other_way_in(authority: Authority) -> None:
    files, client = authority.sign("server"), authority.sign("station")
    asked = ServerCredentials(
        tls=ServerTls(certificate=files.certificate, key=files.key, authority=authority.file), token=TOKEN
    )
    trust = ClientTls(authority=authority.file)
    shown = ClientTls(authority=authority.file, certificate=client.certificate, key=client.key)
    with ServerThread(asked.guard(app()), "https://127.0.0.1:0", tls=asked.tls) as thread:
        for credentials in (ClientCredentials(tls=trust, token=TOKEN), ClientCredentials(tls=shown)):
            with Peer(thread.address, credentials=credentials) as peer:
                peer.get("/who")
        for wrong in (None, "another-token-of-some", TOKEN[:-1]):
            with Peer(thread.address, credentials=ClientCredentials(tls=trust, token=wrong)) as peer:
                with pytest.raises(PeerRefused) as refused:
                    peer.get("/who")
                assert (refused.value.code, refused.value.status) == ("NOT_AUTHENTICATED", 401)


def test_an_address_that_others_reach_asks_for_something(authority: Authority) -> None:
    files = authority.sign("server")
    far, near = Address("https", host="192.0.2.1", port=1), Address("http", host="127.0.0.1", port=1)
    one_way = ServerTls(certificate=files.certificate, key=files.key)
    both_ways = ServerTls(certificate=files.certificate, key=files.key, authority=authority.file, mutual=True)
    with pytest.raises(CredentialError, match="say whom to answer"):
        ServerCredentials(tls=one_way).check(far)
    for asked, address in (
        (ServerCredentials(tls=both_ways), far),
        (ServerCredentials(tls=one_way, token=TOKEN), far),
        (ServerCredentials(), near),
    ):
        asked.check(address)


def test_secrets_do_not_show_in_what_is_printed(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("too short")
    file.chmod(0o600)
    with pytest.raises(CredentialError, match="16 to 512") as refused:
        read_token(file)
    assert "too short" not in str(refused.value)
    file.chmod(0o644)
    with pytest.raises(CredentialError, match="others can read"):
        read_token(file)
    with pytest.raises(CredentialError, match="space") as refused:
        checked_token("a secret with spaces", "SANCREDIT_TOKEN")
    assert "secret with" not in str(refused.value)
    assert TOKEN not in repr(ServerCredentials(token=TOKEN)) + repr(ClientCredentials(token=TOKEN))
