"""The plan of charges, the ledger and the account of what is spent."""
