"""Reserve the highest cost of a run with its start; a run that does not fit a budget is recorded as refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..conversation import text_message
from ..conversation.messages import Usage
from ..failures import Cause, Failure
from ..ids import now
from ..journal.budgets import OverBudget, billionths, in_dollars, owner_of

if TYPE_CHECKING:
    from ..conversation import RunPlan
    from ..conversation.messages import Message
    from ..journal import Journal
    from .backend import BackendRequest


def started_within_budget(
    journal: Journal,
    plan: RunPlan,
    request: BackendRequest,
    ending: Sequence[Message],
    start: Callable[[RunPlan], str],
) -> tuple[str, Failure | None]:
    """Record the start of a run with a reservation of its highest cost; return its id, and why it is refused, if it is.

    A refused run reserves nothing, and its backend must not be called.
    """
    budgets, conversation = journal.budgets, journal.load(request.key)
    if budgets is None:
        return start(plan), None
    setting = budgets.limits.setting_for(owner_of(conversation) if conversation is not None else "")
    if not setting:
        return start(plan), None
    usage = Usage(_input_tokens(request, ending), _output_tokens(request, budgets.limits.output_tokens))
    cost = budgets.price(plan.backend, plan.model, usage, now())
    if cost is None:
        message = (
            f"no price of {plan.model!r} on {plan.backend} is known, which the budget {setting} needs: nothing was sent; "
            "install the prices with pip install 'threadledger[prices]', choose a model with a price, or unset the budget"
        )
        return start(plan), Failure("refused", code=Cause.OVER_BUDGET.value, message=message)
    highest = billionths(cost)
    try:
        return start(plan.replaced(cost_reserved=highest)), None
    except OverBudget as over:
        left = max(over.limit - over.used, 0)
        message = (
            f"this run may cost {in_dollars(highest)}, and of the budget {over.setting} of {in_dollars(over.limit)} only "
            f"{in_dollars(left)} is left: nothing was sent"
        )
    return start(plan), Failure("refused", code=Cause.OVER_BUDGET.value, message=message)


def _input_tokens(request: BackendRequest, ending: Sequence[Message]) -> int:
    """Return the approximate number of tokens of the view, the instructions and the tools."""
    profile = request.profile
    always = text_message("system", f"{profile.instructions}\n{profile.tools_json}")
    return request.memory.with_messages((always, *ending)).estimated_tokens()


def _output_tokens(request: BackendRequest, default: int) -> int:
    given = request.profile.settings.get("max_output_tokens")
    return given if isinstance(given, int) else default
