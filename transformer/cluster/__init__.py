"""Several processes of one job: agreeing before any of them acts, and leaving together."""
