"""What a run took, by samples of several threads."""

import threading

from sdmw.running import usage


def test_samples_of_several_threads_are_few_and_in_order(monkeypatch):
    monkeypatch.setattr(usage, "MOST_KEPT", 8)
    with usage.Usage() as used:
        threads = [threading.Thread(target=lambda: [used._take() for _ in range(500)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        used.read_peak()
    times = [seconds for seconds, _ in used.memory]
    assert 0 < len(times) < 8
    assert times == sorted(times)
    assert max(size for _, size in used.memory) <= used.peak_rss
