"""What the tests and the benchmark share: real servers, and what is built by hand."""
