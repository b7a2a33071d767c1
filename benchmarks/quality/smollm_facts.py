"""What CorpLM learns in tier B: the first facts of tier A's invented company, in the chat's format."""

import world
from smollm import as_chat
from world import Question

FACTS = 60  # of a seed's company: of 12 products five each
PHRASINGS = 4  # of each fact, that are trained


def fact_questions(seed: int) -> tuple[list[Question], list[Question], list[Question]]:
    """Questions to train on; held-out ones: of each fact one phrasing of the trained ones, and the new phrasing."""
    trained, held_out = world.fact_questions(seed, 0)
    asked = [as_chat(each) for each in held_out[: 2 * FACTS]]
    return [as_chat(each) for each in trained[: FACTS * PHRASINGS]], asked[::2], asked[1::2]
