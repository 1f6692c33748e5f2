"""Provide what connects other SDKs with a ledger, one module for each; `threadledger.contrib` shows them to apps."""
