"""How programs stop on SIGINT and SIGTERM."""

import signal

import pytest

from tagger.terminal import signals


@pytest.fixture
def own_signals():
    """Restores the handlers, because child processes would inherit ignored signals."""
    previous = {n: signal.getsignal(n) for n in signals.STOP_SIGNALS}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_signal_is_recorded_unless_it_is_ignored(own_signals, ignored):
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with signals.StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
    assert bool(stop) == (not ignored)
    assert stop.signal == (0 if ignored else signal.SIGINT)


def test_handlers_are_restored():
    before = [signal.getsignal(number) for number in signals.STOP_SIGNALS]
    with signals.end_at_once():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert [signal.getsignal(number) for number in signals.STOP_SIGNALS] == before
