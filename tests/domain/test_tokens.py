"""An estimate for plans and budgets: within a fifth for dialogue, never nothing for something."""

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from threadledger.domain.conversation import parse_message
from threadledger.domain.memory import Memory
from threadledger.domain.memory.rule_1 import estimate_tokens


def test_nothing_costs_nothing():
    assert estimate_tokens("") == 0


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("Where is my parcel?", 5),
        ("Sorry, something went wrong.", 6),
        ('{"query": "parcel 42"}', 9),
        ("The quick brown fox jumps over the lazy dog.", 10),
        ("12345678", 3),
    ],
)
def test_the_estimate_is_near_what_o200k_base_counts(text, counted):
    assert abs(estimate_tokens(text) - counted) <= max(2, counted // 5)


@for_all(st.text(st.characters(exclude_categories=["Z", "Cc", "Cs"]), min_size=1))
def test_something_is_never_free(text):
    assert estimate_tokens(text) >= 1


@for_all(st.text(), st.text())
def test_two_texts_with_a_line_between_cost_what_they_cost_alone_and_the_line(one, other):
    together = estimate_tokens(f"{one}.\n.{other}")
    assert together == estimate_tokens(f"{one}.") + 1 + estimate_tokens(f".{other}")


@for_all(st.text(max_size=300))
def test_a_character_costs_at_most_one_token(text):
    assert estimate_tokens(text) <= len(text)


@pytest.mark.parametrize("text", ["x" * 10_000, "漢" * 10_000, "9" * 10_000, "é" * 10_000, "!" * 10_000, "_" * 10_000])
def test_long_runs_of_one_kind_cost_in_proportion(text):
    assert 10_000 / 10 <= estimate_tokens(text) <= 10_000


def test_more_text_costs_more():
    costs = [estimate_tokens("Where is my parcel? " * times) for times in range(1, 50)]
    assert costs == sorted(set(costs))


def test_an_image_inside_a_message_costs_what_its_data_does_whatever_its_detail():
    def image(data, detail):
        url = f"data:image/png;base64,{data}"
        content = [{"type": "image_url", "image_url": {"url": url, "detail": detail}}]
        return parse_message({"role": "user", "content": content})

    hello = parse_message({"role": "user", "content": "Hello."})
    heavy, light = image("A" * 600_000, "low"), image("AAAA", "low")
    assert len(Memory().with_messages([heavy, hello]).window(tokens=100).messages) == 1
    assert len(Memory().with_messages([light, hello]).window(tokens=100).messages) == 2
    assert len(Memory().with_messages([hello, heavy]).window(tokens=100).messages) == 1
