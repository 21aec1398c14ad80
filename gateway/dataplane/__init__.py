"""The request path: admission, choice of an arm, attempts, failover, evidence."""
