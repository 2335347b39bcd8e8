"""The embedded Ray: what it does to the process that it lies in."""

import signal

import pytest

from cluster.engines import embedded


def test_the_handler_of_sigterm_is_put_back_even_when_ray_does_not_start():
    def mine(number, frame): ...

    former = signal.signal(signal.SIGTERM, mine)
    try:
        with pytest.raises(ConnectionError), embedded._own_sigterm():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what ray.init does, with a handler of its own
            raise ConnectionError
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, former)
