"""Connect other SDKs with a ledger; each module needs the extra of its name."""
