"""Closing a client at any moment."""

import threading
import time

from mutirao import Client

ROUNDS = 80
STEP_S = 0.0001


def test_a_client_can_be_closed_while_it_begins_to_wait(redis_server, capfd):
    """However soon after the begin of a wait a client is closed, closing ends, and leaves no noise behind: Ctrl-C does that."""
    with Client(redis_server.url, check=False) as other:
        id = other.submit("iris", [[1.0]]).id
    for at in range(ROUNDS):
        client = Client(redis_server.url, check=False)
        begun = client._waiting([client.job(id)])
        begun.__enter__()
        time.sleep(at * STEP_S)  # the moment is what is tested
        closing = threading.Thread(target=client.close, daemon=True)
        closing.start()
        closing.join(20)
        assert not closing.is_alive(), f"closed {at * STEP_S * 1000:.1f} ms after it began to wait"
    assert capfd.readouterr().err == ""
