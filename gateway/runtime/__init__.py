"""What requests look things up in: snapshots of compiled routes, replaced whole."""
