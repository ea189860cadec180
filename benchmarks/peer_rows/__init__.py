"""The rows of the parity table, by peer, and the cases in which a peer is wrong."""
