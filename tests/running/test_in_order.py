"""Results in the order of their tasks, whoever ends first, and few of them at once."""

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from sdmw.running.context import working
from sdmw.running.in_order import InOrder
from sdmw.running.pool import Task


@settings(max_examples=20)
@given(pauses=st.lists(st.integers(0, 3), max_size=20), most=st.integers(1, 5), threads=st.integers(1, 4))
def test_results_come_in_order_and_few_wait(pauses, most, threads):
    under_way, taken, largest = set(), [], 0

    def work(number, pause):
        time.sleep(pause / 1000)
        return number

    def take(number):
        under_way.remove(number)
        taken.append(number)

    def tasks():
        nonlocal largest
        for number, pause in enumerate(pauses):
            under_way.add(number)
            largest = max(largest, len(under_way))
            yield Task(work, (number, pause), take)

    given_out = tasks()
    with working(lambda event: None, threads) as context:
        context.pool.run(InOrder(lambda: next(given_out, None), most).next_task)
    assert taken == list(range(len(pauses)))
    assert largest <= most
