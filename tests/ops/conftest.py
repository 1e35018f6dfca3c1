"""What an operator takes in memory, by PyTorch's own count."""

from collections.abc import Callable

import pytest
from torch.profiler import ProfilerActivity, profile

PeakBytes = Callable[[Callable[[], object]], int]


@pytest.fixture
def peak_bytes() -> PeakBytes:
    """Bytes that exist at a time at most beside those from before, by a profile of allocations."""

    def measure(run: Callable[[], object]) -> int:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            run()
        events = profiled.profiler.kineto_results.events()
        changes = [event for event in events if event.name() == "[memory]"]
        assert changes
        now = peak = 0
        for event in sorted(changes, key=lambda event: event.start_ns()):
            now += event.nbytes()
            peak = max(peak, now)
        return peak

    return measure
