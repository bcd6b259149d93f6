"""When and where trials run: configuration, plan, launch, ledger. `trials` knows how one runs."""
