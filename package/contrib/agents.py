"""Connect the Agents SDK (`pip install "threadledger[agents]"`) with a ledger: a session, and a model whose calls are recorded.

from threadledger.contrib.agents import Session, recorded_model

session = Session("customer-42", ledger)
agent = Agent(name="John", model=recorded_model(model, session))
result = await Runner.run(agent, "Where is my parcel?", session=session)
"""

from threadledger.adapters.contrib.agent_model import RecordedModel, recorded_model
from threadledger.adapters.contrib.agent_session import Session

__all__ = ["RecordedModel", "Session", "recorded_model"]
