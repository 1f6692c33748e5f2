"""Connect the Agents SDK (`pip install "threadledger[agents]"`) with a ledger: a session, and a model whose calls are recorded.

from threadledger.contrib.agents import Session, recorded_model

session = Session("customer-42", ledger)
agent = Agent(name="John", model=recorded_model(model, session))
result = await Runner.run(agent, "Where is my parcel?", session=session)
"""

from threadledger.adapters.contrib.agents import RecordedModel, Session, recorded_model

__all__ = ["RecordedModel", "Session", "recorded_model"]
