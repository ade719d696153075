//! Tests on a real Kubernetes (`make test-cluster`). They share one cluster, which the Makefile starts and ends, and run
//! one at a time.

#![expect(clippy::tests_outside_test_module, reason = "the whole crate is tests")]

mod bare;
