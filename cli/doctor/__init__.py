"""`threadledger doctor`: diagnose problems and show how to fix them."""
