"""Playing episodes by the protocol of a suite, and videos of them."""
