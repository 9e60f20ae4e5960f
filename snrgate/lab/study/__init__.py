"""The study: does the gate help, against what, and where not."""
