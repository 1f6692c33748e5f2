"""Diagnose problems and show how to fix them: `threadledger doctor`."""
