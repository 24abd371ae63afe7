//! End-to-end, fault and snapshot tests; load and peer benchmarks.
