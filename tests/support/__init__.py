"""Share real servers, and data built by hand, between tests and benchmark."""
