from __future__ import annotations

import socket

import pytest

from tests.conftest import NetworkForbidden


@pytest.mark.parametrize("address", [("192.0.2.1", 443), ("api.openai.com", 443)])
def test_a_connection_beyond_loopback_raises(address: tuple[str, int]) -> None:
    with socket.socket() as client, pytest.raises(NetworkForbidden):
        client.connect(address)


def test_a_connection_to_this_machine_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        accepted.close()
        assert client.getpeername() == server.getsockname()
