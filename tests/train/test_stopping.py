"""Signals wait for the end of the step; the second one does not."""

import signal
import threading

import pytest

from lucida.training.stopping import stop_request


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_remembered_and_a_second_does_not_wait(number):
    before = signal.getsignal(signal.SIGINT)
    with stop_request() as stop:
        assert not stop
        signal.raise_signal(number)
        assert stop and stop.signal == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_signals_are_left_alone():
    seen = []

    def body():
        with stop_request() as stop:
            seen.append((bool(stop), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(False, signal.getsignal(signal.SIGINT))]
