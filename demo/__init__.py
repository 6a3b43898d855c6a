"""`./dev demo`: two devices of one account, live."""
